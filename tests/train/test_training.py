from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import gato_lite
from gato_lite.checkpoint import list_checkpoints, load_checkpoint
from gato_lite.config import PRESETS
from gato_lite.envs.catalogue import find_tasks
from gato_lite.envs.dataset import Dataset, Document, write_documents
from gato_lite.envs.seeds import EVALUATION_SEED
from gato_lite.model import Gato
from gato_lite.run import RunError, read_run_config
from gato_lite.shelf import GENERALIST
from gato_lite.tokenizers.text import train_text_model
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.datasets import open_data, sources_of, weighted_sources
from gato_lite.train.exchanges import ExchangeSource
from gato_lite.train.loop import Length, Progress
from gato_lite.train.mixture import Mixture
from gato_lite.train.pictures import encode_png
from gato_lite.train.recipes import tune
from gato_lite.train.rollout import jobs_of, play
from gato_lite.train.run_folder import formats_of, prepare_run
from gato_lite.train.settings import TrainConfig
from gato_lite.train.shelf import shipped_folder
from gato_lite.train.sources import ControlSource, TextSource
from gato_lite.train.training import train_run


@pytest.fixture
def config(tiny: str) -> TrainConfig:
    return TrainConfig(preset=tiny, context_length=64, tokens_per_step=1024, warmup_steps=20)


@pytest.fixture
def small(config: TrainConfig) -> TrainConfig:
    return replace(config, tokens_per_step=64, log_every=1)


def documents(out: Path, rows: list[Document]) -> Dataset:
    return write_documents(out, rows, name="mine")


def test_a_tiny_agent_learns_to_balance(config: TrainConfig, tmp_path: Path) -> None:
    """Thirty expert episodes and a hundred steps; a random policy holds the pole for about 22 steps."""
    (task,) = find_tasks(["classic/CartPole"])
    env = task.make()
    assert task.expert is not None
    expert = task.expert(env)
    gato_lite.record(
        env,
        lambda observation: expert.act(observation, None),
        episodes=30,
        out=tmp_path / "data",
        name=task.name,
        instruction=task.instruction,
        on_reset=expert.reset,
    )
    run = train_run(config, [(str(tmp_path / "data"), 1.0)], tmp_path / "run", length=Length(steps=100))
    outcomes = play(gato_lite.load(run), jobs_of([task], 8, EVALUATION_SEED), n_slot=8)
    assert task.random is not None
    assert np.mean([outcome.total_reward for outcome in outcomes]) > task.random.mean + 300


def walk(run: Path, env: gym.Env[Any, Any], episodes: int) -> float:
    policy = gato_lite.Policy(gato_lite.load(run), env.observation_space, env.action_space, task="corridor")
    reached = 0
    for seed in range(episodes):
        observation, info = env.reset(seed=EVALUATION_SEED + seed)
        policy.reset()
        ended = False
        while not ended:
            observation, _, terminated, truncated, info = env.step(policy.act(observation))
            ended = terminated or truncated
        reached += info["is_success"]
    return reached / episodes


def test_a_tiny_agent_learns_what_is_said_once(
    config: TrainConfig, corridor: Dataset, corridor_env: gym.Env[Any, Any], tmp_path: Path
) -> None:
    """The side to walk to is told at the start alone; half of all random walks end there."""
    run = train_run(config, [(str(corridor.path), 1.0)], tmp_path / "run", length=Length(steps=120))
    assert walk(run, corridor_env, 20) >= 0.9


def test_one_run_of_everything(small: TrainConfig, corridor: Dataset, tmp_path: Path) -> None:
    seen: list[Progress] = []
    small = replace(small, tokens_per_step=600)
    data = [(str(corridor.path), 1.0), ("emoji", 0.5), ("text", 0.5)]
    run = train_run(small, data, tmp_path / "run", length=Length(steps=3), on_progress=seen.append)
    assert [progress.step for progress in seen] == [1, 2, 3]
    stored = read_run_config(run)
    assert stored.training["data"] == [list(entry) for entry in data]
    assert stored.training["steps"] == 3
    assert stored.training["learning_rate"] == small.learning_rate
    assert [known.name for known in stored.tasks] == ["corridor"]
    assert stored.tasks[0].spec == corridor.info.spec
    assert stored.tasks[0].instruction == "Follow the sign."
    gato = gato_lite.load(run)
    assert isinstance(gato_lite.generate(gato, "Once", max_tokens=3), str)


def test_resuming_is_as_never_having_stopped(small: TrainConfig, corridor: Dataset, tmp_path: Path) -> None:
    text = documents(tmp_path / "text", [Document(None, "words and words " * 20)])
    data = [(str(corridor.path), 1.0), (str(text.path), 1.0)]
    straight = train_run(small, data, tmp_path / "a", length=Length(steps=6))
    stopped = tmp_path / "b"

    class Stop(Exception):  # noqa: N818 - no error
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 4:
            raise Stop

    with pytest.raises(Stop):
        train_run(replace(small, checkpoint_every_s=0.0), data, stopped, length=Length(steps=6), on_progress=stop)
    assert list_checkpoints(stopped)[-1] == 3
    train_run(small, data, stopped, length=Length(steps=6), resume=True)
    a, b = load_checkpoint(straight), load_checkpoint(stopped)
    for name, tensor in {**a.model, **a.optimizer}.items():
        assert torch.equal(tensor, {**b.model, **b.optimizer}[name]), name


def test_resuming_a_run_that_began_before_some_options(small: TrainConfig, corridor: Dataset, tmp_path: Path) -> None:
    data = [(str(corridor.path), 1.0)]
    run = train_run(small, data, tmp_path / "run", length=Length(steps=1))
    file = run / "config.json"
    config = json.loads(file.read_text("utf-8"))
    for name in ("precision", "piece_noise"):
        del config["training"][name]
    file.write_text(json.dumps(config), "utf-8")
    with pytest.raises(RunError, match=r"began the run: piece_noise was 0\.0, got 0\.1"):
        train_run(replace(small, piece_noise=0.1), data, run, length=Length(steps=2), resume=True)
    train_run(small, data, run, length=Length(steps=2), resume=True)
    assert list_checkpoints(run)[-1] == 2


def test_resuming_another_model(small: TrainConfig, corridor: Dataset, tmp_path: Path) -> None:
    data = [(str(corridor.path), 1.0)]
    train_run(small, data, tmp_path / "run", length=Length(steps=1))
    with pytest.raises(
        RunError, match="--resume needs the recipe, options and data that began the run: context_length was 64, got 65"
    ):
        train_run(replace(small, context_length=65), data, tmp_path / "run", length=Length(steps=1), resume=True)
    assert read_run_config(tmp_path / "run").model.context_length == 64


def test_a_run_that_is_there_is_kept(small: TrainConfig, corridor: Dataset, tmp_path: Path) -> None:
    data = [(str(corridor.path), 1.0)]
    out = train_run(small, data, tmp_path / "run", length=Length(steps=1))
    before = load_checkpoint(out).model
    expected = f"'{out}' is not empty; go on with --resume, replace it with --overwrite, or use another --out"
    with pytest.raises(FileExistsError, match=re.escape(expected)):
        train_run(small, data, out, length=Length(steps=1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_checkpoint(out).model.items())
    train_run(replace(small, seed=5), data, out, length=Length(steps=2), overwrite=True)
    assert list_checkpoints(out) == [2]


def test_what_is_no_run_is_never_overwritten(small: TrainConfig, corridor: Dataset, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear", encoding="utf-8")
    for options in ({"overwrite": True}, {"resume": True, "overwrite": True}):
        with pytest.raises(FileExistsError, match="holds 'letters.txt', which no run writes"):
            train_run(small, [(str(corridor.path), 1.0)], tmp_path, length=Length(steps=1), **options)  # type: ignore[arg-type]
    assert (tmp_path / "letters.txt").read_text(encoding="utf-8") == "dear"


def test_what_a_kill_left_half_written_goes_with_the_run(small: TrainConfig, corridor: Dataset, tmp_path: Path) -> None:
    data, out = [(str(corridor.path), 1.0)], tmp_path / "run"
    train_run(small, data, out, length=Length(steps=1))
    for name in (".config.json.12.tmp", ".metrics.jsonl.partial"):
        (out / name).write_text("{")
    train_run(small, data, out, length=Length(steps=1), overwrite=True)
    assert not [path.name for path in out.iterdir() if path.name.endswith((".tmp", ".partial"))]
    (out / ".mine.tmp").write_text("dear")
    with pytest.raises(FileExistsError, match="holds '.mine.tmp', which no run writes"):
        train_run(small, data, out, length=Length(steps=1), overwrite=True)


def test_data_inside_the_run_is_never_overwritten(small: TrainConfig, corridor: Dataset, tmp_path: Path) -> None:
    out = train_run(small, [(str(corridor.path), 1.0)], tmp_path / "run", length=Length(steps=1))
    inside = out / "data"
    shutil.copytree(corridor.path, inside)
    with pytest.raises(FileExistsError, match="holds 'data', which no run writes and --overwrite does not delete"):
        train_run(small, [(str(inside), 1.0)], out, length=Length(steps=1), overwrite=True)
    assert (inside / "dataset.json").is_file()


def test_overwriting_keeps_a_folder_that_only_looks_like_a_run(
    small: TrainConfig, corridor: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FileExistsError, match="holds something that is not a run"):
        train_run(small, [(str(corridor.path), 1.0)], tmp_path, length=Length(steps=1), overwrite=True)
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == "{}"


def test_nothing_is_touched_when_the_data_is_wrong(small: TrainConfig, corridor: Dataset, tmp_path: Path) -> None:
    out = train_run(small, [(str(corridor.path), 1.0)], tmp_path / "run", length=Length(steps=1))
    before = sorted(path.name for path in out.rglob("*"))
    bad: list[tuple[str, float, type[Exception], str]] = [
        ("emojy", 1.0, FileNotFoundError, "Unknown dataset 'emojy'. Did you mean emoji?"),
        (str(tmp_path), 1.0, ValueError, "expected a dataset"),
        (str(corridor.path), 0.0, ValueError, "weights must be positive"),
    ]
    for name, weight, error, message in bad:
        with pytest.raises(error, match=re.escape(message)):
            train_run(small, [(name, weight)], out, length=Length(steps=1), overwrite=True)
    with pytest.raises(ValueError, match="nothing to train on: give at least one dataset"):
        train_run(small, [], out, length=Length(steps=1), overwrite=True)
    assert sorted(path.name for path in out.rglob("*")) == before


def test_data_that_teach_what_others_are_scored_on_are_refused(small: TrainConfig, tmp_path: Path) -> None:
    write_documents(tmp_path / "wordnet", [Document(None, "able: having the means")], name="wordnet")
    data = [("text", 1.0), (str(tmp_path / "wordnet"), 1.0)]
    expected = "'text' and 'wordnet' share documents and hold out different ones, .* leave one of them out, such as by"
    with pytest.raises(ValueError, match=expected):
        train_run(small, data, tmp_path / "run", length=Length(steps=1))
    assert not (tmp_path / "run" / "config.json").exists()
    (tmp_path / "linked").symlink_to(shipped_folder("text"))
    with pytest.raises(ValueError, match=expected):
        train_run(small, [(str(tmp_path / "linked"), 1.0), data[1]], tmp_path / "run", length=Length(steps=1))
    own = write_documents(tmp_path / "text", [Document(None, "one's own")], name="text")
    train_run(small, [(str(own.path), 1.0), data[1]], tmp_path / "run", length=Length(steps=1))


def test_a_resumed_run_says_how_long_it_is(small: TrainConfig, corridor: Dataset, tmp_path: Path) -> None:
    data = [(str(corridor.path), 1.0)]
    run = train_run(small, data, tmp_path / "run", length=Length(steps=1))
    train_run(small, data, run, length=Length(minutes=0.01), resume=True)
    training = read_run_config(run).training
    assert (training["steps"], training["minutes"], training["cpu_minutes"]) == (None, 0.01, None)


def test_resuming_nothing_begins_a_run(small: TrainConfig, corridor: Dataset, tmp_path: Path) -> None:
    out = train_run(small, [(str(corridor.path), 1.0)], tmp_path / "new", length=Length(steps=1), resume=True)
    assert list_checkpoints(out) == [1]


def test_sources_of_a_dataset(config: TrainConfig, corridor: Dataset, vocabulary: Vocabulary, tmp_path: Path) -> None:
    png = encode_png(np.zeros((8, 8, 3), np.uint8))
    both = documents(tmp_path / "both", [Document(png, "a"), Document(None, "words"), Document(png, "b", "test")])
    assert [type(source) for source in sources_of(corridor, vocabulary, config)] == [ControlSource]
    found = sources_of(both, vocabulary, config)
    assert [type(source) for source in found] == [ExchangeSource, TextSource]
    assert [source.name for source in found] == ["mine", "mine/text"]
    assert len(found[0]._pictures) == 1  # type: ignore[attr-defined]  # the held-out one is not among them
    assert [weight for _, weight in weighted_sources([(both, 3.0), (corridor, 1.0)], vocabulary, config)] == [
        1.5,
        1.5,
        1.0,
    ]
    held_out = documents(tmp_path / "held", [Document(None, "words", "test")])
    with pytest.raises(ValueError, match="has no document in its train split"):
        sources_of(held_out, vocabulary, config)


def test_formats_of_datasets(corridor: Dataset, tmp_path: Path) -> None:
    formats = formats_of([corridor, documents(tmp_path / "d", [Document(None, "words")]), corridor])
    assert [known.name for known in formats] == ["corridor"]
    assert formats[0].fits(corridor.observation_space, corridor.action_space)


def test_a_fresh_run_is_prepared(small: TrainConfig, corridor: Dataset, tmp_path: Path) -> None:
    gato = prepare_run(small, [corridor], tmp_path / "run", training={"recipe": "mine"})
    assert isinstance(gato, Gato)
    stored = read_run_config(tmp_path / "run")
    assert stored.training["recipe"] == "mine"
    assert stored.model == gato.config
    assert gato.formats == stored.tasks


def test_shipped_data_is_opened_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corridor: Dataset) -> None:
    assert open_data("emoji").info.kind == "documents"
    shutil.copytree(corridor.path, tmp_path / "emoji")
    monkeypatch.chdir(tmp_path)
    assert open_data("emoji").info.kind == "control"  # a folder of that name comes first


def test_a_mixture_is_of_the_recipes_settings(config: TrainConfig, corridor: Dataset, vocabulary: Vocabulary) -> None:
    from gato_lite.train.datasets import make_mixture

    made: Mixture = make_mixture(weighted_sources([(corridor, 1.0)], vocabulary, config), vocabulary, config)
    assert (made.tokens_per_step, made.context_length, made.seed) == (1024, 64, 0)


def test_training_with_text_pieces_of_ones_own(small: TrainConfig, tmp_path: Path) -> None:
    model = tmp_path / "own.model"
    model.write_bytes(train_text_model(["la casa rossa e la casa blu"] * 9, n_pieces=290))
    documents(tmp_path / "data", [Document(None, "la casa rossa"), Document(None, "la casa blu")])
    data = [(str(tmp_path / "data"), 1.0)]
    run = train_run(small, data, tmp_path / "run", length=Length(steps=2), text_model=model)
    gato = gato_lite.load(run)
    assert gato.vocabulary.text.n_pieces == 290
    assert gato.vocabulary.text.model_bytes == model.read_bytes()
    model.unlink()  # the run has its own copy
    train_run(small, data, run, length=Length(steps=3), text_model=model, resume=True)
    with pytest.raises(ValueError, match="text_model: the weights of"):
        train_run(small, data, tmp_path / "b", length=Length(steps=1), init=run, text_model=model)
    with pytest.raises(FileNotFoundError, match="expected a text model, found no file; make one with data text-model"):
        train_run(small, data, tmp_path / "c", length=Length(steps=1), text_model=model)
    model.write_bytes(b"not a model")
    with pytest.raises(ValueError, match="own.model: expected a SentencePiece model"):
        train_run(small, data, tmp_path / "c", length=Length(steps=1), text_model=model)


def test_a_run_begun_with_an_older_one_has_its_shape(
    small: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose texts have no places, and so on, which the preset has by now."""
    documents(tmp_path / "data", [Document(None, "words and words " * 20)])
    data = [(str(tmp_path / "data"), 1.0)]
    with monkeypatch.context() as before:
        without = replace(PRESETS[small.preset], n_text_local=0, token_shift=False, head_norm=False, n_kv_head=1)
        before.setitem(PRESETS, small.preset, without)
        old = train_run(small, data, tmp_path / "old", length=Length(steps=1))
    kept = replace(small, learning_rate=1e-30, matrix_learning_rate=1e-30, weight_decay=0.0)
    new = train_run(kept, data, tmp_path / "new", length=Length(steps=1), init=old)
    assert read_run_config(new).model == read_run_config(old).model
    before_it, after = gato_lite.load(old).state_dict(), gato_lite.load(new).state_dict()
    assert all(torch.allclose(after[name], weights) for name, weights in before_it.items())
    train_run(kept, data, new, length=Length(steps=2), init=old, resume=True)
    shape = gato_lite.load(new).config
    assert not any((shape.n_text_local, shape.token_shift, shape.head_norm))
    assert shape.n_kv_head == 1


def test_the_published_run_is_begun_with(tmp_path: Path) -> None:
    documents(tmp_path / "data", [Document(None, "words and words " * 20)])
    config = replace(tune(), tokens_per_step=64)
    run = train_run(
        config, [(str(tmp_path / "data"), 1.0)], tmp_path / "run", length=Length(steps=1), init=Path(GENERALIST)
    )
    assert gato_lite.load(run).config == gato_lite.load(GENERALIST).config


def test_a_run_of_no_presets_shape_cannot_be_begun_with(
    small: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents(tmp_path / "data", [Document(None, "words and words " * 20)])
    data = [(str(tmp_path / "data"), 1.0)]
    with monkeypatch.context() as before:
        before.setitem(PRESETS, small.preset, replace(PRESETS[small.preset], d_ff=64))
        old = train_run(small, data, tmp_path / "old", length=Length(steps=1))
    with pytest.raises(RunError, match="expected a run whose model has the shape of a preset to begin with"):
        train_run(small, data, tmp_path / "new", length=Length(steps=1), init=old)


def test_no_colour_changes_where_questions_are_asked(
    small: TrainConfig, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    shown = encode_png(np.full((16, 16, 3), (200, 30, 90), np.uint8))
    for ability, kept in (("question", True), ("caption", False)):
        rows = [Document(shown, "red", prompt="what color is it?" if kept else "")]
        dataset = write_documents(tmp_path / ability, rows, name=ability, ability=ability)  # type: ignore[arg-type]
        (source,) = sources_of(dataset, vocabulary, replace(small, augment="recoloured"))
        (drawn,) = source.draw(np.random.default_rng(0), 64, 1)
        centre = drawn.tokens.pixels.reshape(16, 16, 3)[8, 8]
        assert ((centre == (200, 30, 90)).all()) == kept
