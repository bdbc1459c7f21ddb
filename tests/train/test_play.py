"""`gato-lite play` with a run of fresh weights in the place of the published one."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import pytest

from gato_lite import shelf
from gato_lite.checkpoint import save_checkpoint
from gato_lite.config import GatoConfig, TokenSpec
from gato_lite.envs.seeds import EVALUATION_SEED
from gato_lite.envs.task import MODULES
from gato_lite.model import Gato
from gato_lite.run import RunConfig, task_format, write_run
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.cli import main
from gato_lite.train.evaluate import evaluate_run

LAKE = "toy/FrozenLakeNotSlippery"


@pytest.fixture(autouse=True)
def generalist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published run that knows two tasks, one of which is not installed."""
    vocabulary = Vocabulary.shipped()
    shape = {"n_layer": 1, "n_head": 1, "d_model": 8, "d_ff": 8, "d_encoder": 8, "context_length": 64}
    gato = Gato(GatoConfig(**shape, vocab_size=vocabulary.size), vocabulary)
    lake = task_format(LAKE, gym.spaces.Discrete(16), gym.spaces.Discrete(4), TokenSpec(), None)
    run = tmp_path / "published" / "generalist"
    training = {"data": [["data/lake", 1.0]], "published": "generalist"}  # the data did not come with it
    level = task_format("babyai/GoToObj", gym.spaces.Discrete(16), gym.spaces.Discrete(4), TokenSpec(), None)
    monkeypatch.setitem(MODULES, "babyai", ("no_such_module",))
    config = RunConfig(model=gato.config, tasks=(lake, level), vocabulary=vocabulary.fingerprint, training=training)
    write_run(run, config, vocabulary)
    save_checkpoint(run, 1, model=gato.state_dict(), optimizer={}, state={})
    monkeypatch.setattr(shelf, "RUNS", run.parent)
    monkeypatch.chdir(tmp_path)
    return run


def told(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main(["play", *map(str, args)])
    return code, *capsys.readouterr()


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    code, out, err = told(capsys, *args)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    return err.removeprefix("gato-lite: error: ").rstrip("\n")


def test_a_line_for_each_episode_and_a_mean(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, LAKE, "--episodes", 2)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["task", "seed", "return", "steps", "success"]
    assert [line[:2] for line in lines[1:3]] == [[LAKE, "1000000000"], [LAKE, "1000000001"]]
    assert lines[4] == ["task", "episodes", "mean", "random", "expert", "normalised", "95", "%"]
    assert lines[5][:2] == [LAKE, "2"]
    assert lines[5][4:8] == ["1", "%", "100", "%"]  # random and expert of envs/scores.json


def test_the_scores_are_those_of_eval(capsys: pytest.CaptureFixture[str], generalist: Path) -> None:
    names = [LAKE, "gym:CartPole-v1"]
    code, out, err = told(capsys, *names, "--episodes", 3, "--json")
    assert code == 0
    assert err == "gato-lite: generalist was not trained on gym:CartPole-v1; read those scores as such\n"
    found = json.loads(out)
    assert (found["run"], found["video"], found["failed"]) == ("generalist", None, [])
    assert [(episode["task"], episode["seed"]) for episode in found["episodes"]] == [
        (name, EVALUATION_SEED + index) for name in names for index in range(3)
    ]
    scores = evaluate_run(generalist, names, episodes=3, workers=1)
    for name, score in scores.tasks.items():
        assert (found["tasks"][name]["mean"], found["tasks"][name]["length"]) == (score.mean, score.length)
    returns = [episode["return"] for episode in found["episodes"] if episode["task"] == "gym:CartPole-v1"]
    assert returns == scores.values["gym:CartPole-v1"]


def test_the_first_episode_is_filmed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [LAKE, "--episodes", 2, "--seed", EVALUATION_SEED + 5]
    unseen = json.loads(told(capsys, *words, "--json")[1])
    code, out, err = told(capsys, *words, "--json", "--video", "films/lake.mp4")
    assert (code, err) == (0, f"films/lake.mp4: {LAKE}, seed {EVALUATION_SEED + 5}\n")
    assert json.loads(out)["episodes"] == unseen["episodes"]
    film = tmp_path / "films" / "lake.mp4"
    assert film.read_bytes()[4:8] == b"ftyp"
    before = film.stat().st_mtime_ns
    message = refused(capsys, *words, "--video", "films/lake.mp4")
    assert message == "films/lake.mp4: already there; pass --overwrite to replace it, or name another"
    assert film.stat().st_mtime_ns == before
    assert told(capsys, *words, "--video", "films/lake.mp4", "--overwrite")[0] == 0


def test_a_pattern_and_drawn_actions(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["toy/FrozenLake*", "--episodes", 1, "--temperature", 2, "--json"]
    first, second = (json.loads(told(capsys, *words)[1]) for _ in range(2))
    assert list(first["tasks"]) == ["toy/FrozenLake", LAKE, "toy/FrozenLake8x8"]
    assert first == second


def test_training_seeds_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = told(capsys, LAKE, "--episodes", 1, "--seed", 3)
    assert (code, err) == (
        0,
        "gato-lite: training data may have seeds below 1000000000; read these scores as such\n",
    )


def test_what_is_wrong_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert refused(capsys, "toy/FrozenLak").startswith("Unknown task 'toy/FrozenLak'. Did you mean toy/FrozenLake, ")
    assert refused(capsys).startswith("expected at least one task to play")
    assert refused(capsys, LAKE, "--episodes", 0).startswith("expected at least one episode and a seed of 0 or above")
    assert refused(capsys, LAKE, "--temperature", -1) == "expected a --temperature of 0 or above, got -1.0"
    assert refused(capsys, LAKE, "--video", "film.gif").startswith("expected a file such as film.mp4 for --video")
    assert refused(capsys, LAKE, "--run", "nowhere").startswith("'nowhere' holds no run: expected the file nowhere/")
    with monkeypatch.context() as patch:
        patch.setattr(shelf, "RUNS", tmp_path / "empty")
        assert refused(capsys, LAKE).startswith("this installation came without the weights of 'generalist', expected")
    assert refused(capsys, "babyai/GoToObj").endswith("not installed: pip install 'gato_lite[babyai]'")


def test_the_name_stands_for_the_run_in_every_command(
    capsys: pytest.CaptureFixture[str], generalist: Path, tmp_path: Path
) -> None:
    code, out, err = (main(["eval", "--episodes", "1", "--workers", "1", "--json", "-"]), *capsys.readouterr())
    assert (code, err) == (0, "left out, since not installed: 1 of babyai: pip install 'gato_lite[babyai]'\n")
    assert json.loads(out)["tasks"].keys() == {LAKE}
    assert main(["eval", "generalist", "--episodes", "1", "--prompt"]) == 2
    assert (
        "expected them in data/lake, found none of toy/FrozenLakeNotSlippery; give their datasets"
        in capsys.readouterr().err
    )
    assert main(["prompt", "generalist", "She was", "--max-tokens", "2"]) == 0
    assert main(["inspect", "generalist"]) == 0
    capsys.readouterr()
    assert main(["verify", "generalist"]) == 0
    assert capsys.readouterr().out.startswith(f"{generalist}: a whole run; checked config.json")
    weights = generalist / "checkpoints" / "step_1" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-9] ^= 1
    weights.write_bytes(data)
    assert main(["verify", "generalist"]) == 1
    assert f"{weights}: expected SHA-256" in capsys.readouterr().out
    assert f"{weights}: expected SHA-256" in refused(capsys, LAKE)
