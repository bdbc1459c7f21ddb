from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato_lite.checkpoint import save_checkpoint
from gato_lite.envs import writer
from gato_lite.envs.catalogue import find_tasks
from gato_lite.envs.dataset import Dataset, check
from gato_lite.envs.episodes import Episodes
from gato_lite.envs.experts import ExpertFailedError
from gato_lite.envs.seeds import EVALUATION_SEED, REFERENCE_SEED, RELABEL_SEED
from gato_lite.model import Gato
from gato_lite.run import RunConfig, write_run
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train import relabel as module
from gato_lite.train.relabel import Labeller, relabel
from gato_lite.train.rollout import jobs_of, play
from gato_lite.train.settings import TrainConfig
from gato_lite.train.sources import ControlSource


@pytest.fixture
def run(tiny: str, tmp_path: Path) -> Path:
    """A run of fresh weights: its actions are bad, which is what experts are asked about."""
    gato = Gato(TrainConfig(preset=tiny, context_length=48).model(6148))
    write_run(tmp_path / "run", RunConfig(model=gato.config, vocabulary=gato.vocabulary.fingerprint), gato.vocabulary)
    save_checkpoint(tmp_path / "run", 1, model=gato.state_dict(), optimizer={}, state={})
    return tmp_path / "run"


def test_datasets_of_taken_and_labelled_actions(run: Path, tmp_path: Path, vocabulary: Vocabulary) -> None:
    wanted = {"classic/CartPole": 3, "toy/CliffWalking": 2}
    told: list[tuple[int, int]] = []
    made, solved = relabel(
        run, wanted, tmp_path / "asked", seed=2, workers=2, on_progress=lambda *now: told.append(now)
    )
    assert told[-1] == (5, 5)
    assert told == sorted(told)
    assert all(0.0 <= share <= 1.0 for share in solved.values())
    assert made.keys() == wanted.keys()
    for name, path in made.items():
        assert check(path) == []
        dataset = Dataset.open(path)
        (task,) = find_tasks([name])
        assert dataset.info.task == name
        assert dataset.info.instruction == task.instruction
        assert dataset.info.n_rows == wanted[name]
        episodes = dataset.read_part(0)
        first = RELABEL_SEED + 2_000_000
        assert episodes.seeds.tolist() == list(range(first, first + wanted[name]))
        assert first + 999_999 < REFERENCE_SEED < EVALUATION_SEED
        assert episodes.labels is not None
        taken, asked = np.asarray(episodes.actions[""]), np.asarray(episodes.labels[""])
        assert len(asked) == len(taken) == episodes.lengths.sum()
        assert (taken != asked).any()
        source = ControlSource(dataset, vocabulary)
        document = source.draw(np.random.default_rng(0), 60, 1)[0]
        assert (document.labels != document.tokens.ids).sum() <= document.target.sum()


def test_labels_are_the_experts_word_on_each_state(run: Path, tiny: str) -> None:
    (task,) = find_tasks(["classic/CartPole"])
    assert task.expert is not None
    kept: dict[str, list[Episodes]] = {}
    gato = Gato(TrainConfig(preset=tiny, context_length=48).model(6148)).eval()
    play(gato, jobs_of([task], 2, 5), temperature=1.0, evaluation=False, watch=lambda: Labeller(kept))
    for episode in kept[task.name]:
        env = task.make()
        expert = task.expert(env)
        observation, _ = env.reset(seed=int(episode.seeds[0]))
        expert.reset()
        previous = None
        assert episode.labels is not None
        for step, (taken, asked) in enumerate(zip(episode.actions[""], episode.labels[""], strict=True)):
            assert np.array_equal(observation, episode.observations[""][step])
            assert expert.act(observation, previous) == asked
            observation, _, terminated, truncated, _ = env.step(int(taken))
            previous = int(taken)
        assert terminated == episode.terminated[0]
        assert truncated == episode.truncated[0]


class Lost:
    """An expert that knows nothing after some steps, or thinks about it for ever."""

    def __init__(self, after: int, *, hangs: bool = False) -> None:
        self.left = after
        self.hangs = hangs

    def reset(self) -> None:
        pass

    def act(self, observation: Any, previous: Any) -> int:
        self.left -= 1
        while self.left < 0 and self.hangs:
            pass
        if self.left < 0:
            raise ExpertFailedError("lost")
        return 1


@pytest.mark.parametrize("after, hangs", [(0, False), (3, False), (3, True), (1000, False)])
def test_an_episode_is_kept_up_to_where_the_expert_is_lost(tiny: str, after: int, hangs: bool) -> None:
    (task,) = find_tasks(["classic/CartPole"])
    task = replace(task, expert=lambda _env: Lost(after, hangs=hangs), time_limit_s=0.1)
    kept: dict[str, list[Episodes]] = {}
    gato = Gato(TrainConfig(preset=tiny, context_length=48).model(6148)).eval()
    (outcome,) = play(gato, jobs_of([task], 1, 5), temperature=1.0, evaluation=False, watch=lambda: Labeller(kept))
    assert outcome.length == after + 1 if after < 1000 else outcome.length > 3
    if not after:
        assert kept == {}
        return
    (episode,) = kept[task.name]
    assert episode.lengths.tolist() == [min(after, outcome.length)]
    assert episode.labels is not None
    assert len(episode.labels[""]) == episode.lengths[0]
    assert len(episode.observations[""]) == episode.lengths[0] + 1
    assert episode.truncated[0] == (after == 3)
    assert episode.terminated[0] == (after == 1000)


def test_blocks_of_relabelled_episodes(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: str) -> None:
    (task,) = find_tasks(["classic/CartPole"])
    kept: dict[str, list[Episodes]] = {}
    gato = Gato(TrainConfig(preset=tiny, context_length=48).model(6148)).eval()
    play(gato, jobs_of([task], 5, 5), temperature=1.0, evaluation=False, watch=lambda: Labeller(kept))
    monkeypatch.setattr(writer, "BLOCK", 2)
    module._write(tmp_path / "out", task, kept[task.name])
    dataset = Dataset.open(tmp_path / "out")
    assert [part.rows for part in dataset.info.parts] == [2, 2, 1]
    assert check(tmp_path / "out") == []
