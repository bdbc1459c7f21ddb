from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gato_lite.checkpoint import save_checkpoint
from gato_lite.envs.catalogue import find_tasks
from gato_lite.envs.dataset import Dataset
from gato_lite.envs.record import record_tasks
from gato_lite.envs.seeds import EVALUATION_SEED
from gato_lite.model import Gato
from gato_lite.policy import Policy
from gato_lite.run import RunConfig, load, read_run_config, task_format, write_run
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.evaluate import evaluate_run
from gato_lite.train.prompts import prompt_folders, read_prompts
from gato_lite.train.rollout import jobs_of, play
from gato_lite.train.settings import TrainConfig

TASKS = ("toy/FrozenLake", "toy/FrozenLakeNotSlippery")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    record_tasks(dict.fromkeys(TASKS, 5), folder, workers=1)
    return folder


@pytest.fixture
def run(tiny: str, tmp_path: Path, data: Path) -> Path:
    gato = Gato(TrainConfig(preset=tiny, context_length=48).model(6148))
    formats = []
    for task in find_tasks(TASKS):
        env = task.make()
        formats.append(task_format(task.name, env.observation_space, env.action_space, task.spec, task.instruction))
    config = RunConfig(
        model=gato.config,
        tasks=tuple(formats),
        vocabulary=gato.vocabulary.fingerprint,
        training={"data": [["emoji", 1.0], [str(data / "toy-FrozenLake"), 1.0]]},
    )
    write_run(tmp_path / "run", config, gato.vocabulary)
    save_checkpoint(tmp_path / "run", 1, model=gato.state_dict(), optimizer={}, state={})
    return tmp_path / "run"


def test_demonstrations_are_the_ends_of_episodes(data: Path, vocabulary: Vocabulary) -> None:
    folders = {name: data / name.replace("/", "-") for name in TASKS}
    prompts = read_prompts(folders, vocabulary, 4)
    for name, folder in folders.items():
        episodes = Dataset.open(folder).read_part(0)
        assert episodes.success is not None
        chosen = np.flatnonzero(episodes.success)
        assert 2 <= len(chosen) == len(prompts[name])
        observations, actions = np.asarray(episodes.observations[""]), np.asarray(episodes.actions[""])
        for index, shown in zip(chosen, prompts[name], strict=True):
            stop, length = int(episodes.lengths[: index + 1].sum()), min(int(episodes.lengths[index]), 4)
            assert [int(action) for _, action in shown] == actions[stop - length : stop].tolist()
            ends = stop + int(index)  # each episode before has an observation more
            assert [int(seen) for seen, _ in shown] == observations[ends - length : ends].tolist()


def test_every_episode_is_prompted_by_its_seed(data: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gato = load(run)
    prompts = read_prompts(prompt_folders(run, TASKS, [data]), gato.vocabulary, 12)
    jobs = jobs_of(find_tasks(TASKS), 3, 5)
    windows: list[list[int]] = []
    assign = Policy.assign

    def noting(policy: Policy, slot: int, *words: Any) -> None:
        assign(policy, slot, *words)
        windows.append(policy.window(slot).ids.tolist())

    monkeypatch.setattr(Policy, "assign", noting)
    play(gato, jobs, n_slot=2, prompts=prompts)
    expected, without = [], []
    for task, seed in jobs:
        env = task.make()
        shown = prompts[task.name][seed % len(prompts[task.name])]
        for before, prompt in ((expected, [shown]), (without, [])):
            policy = Policy(gato, env.observation_space, env.action_space, task=task.name, prompt=prompt)
            before.append(policy.window().ids.tolist())
    assert windows == expected
    assert len({str(window) for window in windows}) > 2
    windows.clear()
    play(gato, jobs, n_slot=6)
    assert windows == without, "no prompt is read before an episode unless it is asked for"


def test_data_are_those_of_the_run_or_those_given(data: Path, run: Path) -> None:
    assert prompt_folders(run, TASKS[:1]) == {TASKS[0]: data / "toy-FrozenLake"}
    assert prompt_folders(run, TASKS, [data]) == {name: data / name.replace("/", "-") for name in TASKS}
    message = f"found none of {TASKS[1]}; give their datasets with --prompts, or name other --tasks"
    with pytest.raises(ValueError, match=re.escape(message)):
        prompt_folders(run, TASKS)
    with pytest.raises(FileNotFoundError, match="expected a folder, found nothing"):
        prompt_folders(run, TASKS, [data / "elsewhere" / "x"])


def test_what_is_missing_is_named_without_all_that_is_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And how to make it; a run may have been trained on hundreds of datasets that are gone."""
    trained = [(f"data/{index}", 1.0) for index in range(181)]
    config = msgspec.structs.replace(read_run_config(run), training={"data": trained})
    monkeypatch.setattr("gato_lite.train.prompts.read_run_config", lambda _run: config)
    message = (
        "prompts need recorded episodes of every task, expected them in data/0, data/1, data/2 and 178 more, found "
        "none of classic/CartPole; give their datasets with --prompts, or name other --tasks; "
        "`gato-lite record classic/CartPole --out data` makes one, for --prompts data"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        prompt_folders(run, ["classic/CartPole"])


def test_a_run_is_evaluated_prompted_and_unprompted(data: Path, run: Path) -> None:
    """On the same seeds, with the same numbers for any number of processes."""
    folders = prompt_folders(run, TASKS, [data])
    seen: list[tuple[int, int]] = []
    alone = evaluate_run(run, episodes=4, workers=1, prompts=folders, on_progress=lambda *now: seen.append(now))
    assert seen == [(done, 16) for done in range(1, 17)]
    assert alone.prompted is not None
    assert alone.prompt_gain is not None
    assert alone.prompted.tasks.keys() == alone.tasks.keys() == set(TASKS)
    assert all(score.seed == EVALUATION_SEED for score in alone.prompted.tasks.values())
    for name, gain in alone.prompt_gain.tasks.items():
        first, second = alone.prompted.tasks[name].normalised, alone.tasks[name].normalised
        assert (gain.first, gain.second) == (pytest.approx(first), pytest.approx(second))
        assert gain.pairs == 4
    assert evaluate_run(run, episodes=4, workers=3, prompts=folders) == alone
    unprompted = evaluate_run(run, episodes=4, workers=1)
    assert (unprompted.tasks, unprompted.prompted) == (alone.tasks, None)
