from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gato_lite.checkpoint import save_checkpoint
from gato_lite.envs import catalogue
from gato_lite.envs.catalogue import Task, find_tasks
from gato_lite.envs.format import Reference, Score
from gato_lite.envs.seeds import EVALUATION_SEED
from gato_lite.model import Gato
from gato_lite.run import RunConfig, task_format, write_run
from gato_lite.train.evaluate import bootstrap_interval, evaluate_run, score_task, summarise
from gato_lite.train.rollout import Outcome
from gato_lite.train.settings import TrainConfig


def score(mean: float) -> Score:
    return Score(mean=mean, std=0.0, success=None, episodes=100, length=10.0)


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """CartPole from 20 to 500, FrozenLake from 0.1 to 0.7; Taxi without a scale."""
    known = {
        "classic/CartPole": Reference(random=score(20.0), expert=score(500.0)),
        "toy/FrozenLake": Reference(random=score(0.1), expert=score(0.7)),
    }
    monkeypatch.setattr(catalogue, "references", lambda: known)


def tasks(*names: str) -> list[Task]:
    return find_tasks(list(names))


def outcomes(task: str, rewards: list[float], success: list[bool] | None = None) -> list[Outcome]:
    return [
        Outcome(task=task, seed=seed, total_reward=reward, length=5, success=None if success is None else success[seed])
        for seed, reward in enumerate(rewards)
    ]


@pytest.mark.usefixtures("scale")
def test_a_return_is_normalised_between_random_and_expert() -> None:
    (task,) = tasks("classic/CartPole")
    found = score_task(task, outcomes(task.name, [20.0, 500.0, 260.0, 260.0]), 7)
    assert found.mean == 260.0
    assert found.normalised == pytest.approx(0.5)
    assert found.std == pytest.approx(np.std([20.0, 500.0, 260.0, 260.0]))
    assert found.low is not None
    assert found.high is not None
    assert 0.0 <= found.low < 0.5 < found.high <= 1.0
    assert (found.success, found.episodes, found.seed, found.random, found.expert) == (None, 4, 7, 20.0, 500.0)


@pytest.mark.usefixtures("scale")
def test_success_is_what_counts_where_it_is_the_metric() -> None:
    (task,) = tasks("toy/FrozenLake")
    task = replace(task, metric="success")
    found = score_task(task, outcomes(task.name, [0.5, 9.0], [True, False]), 0)
    assert found.mean == found.success == 0.5
    assert found.normalised == pytest.approx((0.5 - 0.1) / 0.6)


@pytest.mark.usefixtures("scale")
def test_a_task_without_a_scale_is_not_normalised() -> None:
    (task,) = tasks("toy/Taxi")
    found = score_task(task, outcomes(task.name, [1.0]), 0)
    assert (found.normalised, found.low, found.high, found.random, found.expert) == (None, None, None, None, None)


@pytest.mark.usefixtures("scale")
def test_suites_are_means_of_their_tasks() -> None:
    found = tasks("classic/CartPole", "toy/FrozenLake", "toy/Taxi")
    played = [
        *outcomes("classic/CartPole", [500.0, 500.0]),
        *outcomes("toy/FrozenLake", [0.1, 0.1], [False, False]),
        *outcomes("toy/Taxi", [3.0]),
    ]
    scores = summarise(found, list(reversed(played)), 3)
    assert list(scores.tasks) == ["classic/CartPole", "toy/FrozenLake", "toy/Taxi"]
    assert scores.suites["classic"].mean == pytest.approx(1.0)
    assert scores.suites["toy"].n_tasks == 2
    assert scores.suites["toy"].mean == scores.tasks["toy/FrozenLake"].normalised
    assert scores.suites["toy"].success == 0.0
    written = msgspec.to_builtins(scores)
    assert written["tasks"]["classic/CartPole"].keys() >= {
        "mean", "std", "success", "normalised", "low", "high", "episodes", "seed"
    }  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(scores), type=type(scores)) == scores


@pytest.mark.usefixtures("scale")
def test_a_failed_episode_is_in_no_mean_and_is_listed() -> None:
    found = tasks("classic/CartPole", "toy/FrozenLake")
    broken = [
        Outcome(task=name, seed=seed, total_reward=90.0, length=3, success=None, failed="step raised KeyError: 'x'")
        for name, seed in (("classic/CartPole", 9), ("toy/FrozenLake", 4))
    ]
    scores = summarise(found, [*broken, *outcomes("classic/CartPole", [20.0, 500.0])], 3)
    assert scores.tasks["classic/CartPole"] == msgspec.structs.replace(
        score_task(found[0], outcomes("classic/CartPole", [20.0, 500.0]), 3), failed=1
    )
    lake = scores.tasks["toy/FrozenLake"]
    assert (lake.mean, lake.std, lake.length, lake.normalised, lake.episodes, lake.failed) == (*[None] * 4, 0, 1)
    assert scores.suites["toy"].mean is None
    assert [(episode.task, episode.seed, episode.why) for episode in scores.failed] == [
        ("classic/CartPole", 9, "step raised KeyError: 'x'"),
        ("toy/FrozenLake", 4, "step raised KeyError: 'x'"),
    ]
    assert msgspec.json.decode(msgspec.json.encode(scores), type=type(scores)) == scores


def test_the_bootstrap_interval_holds_the_mean() -> None:
    """About 1.96 standard errors on each side."""
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.02)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.02)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(np.ones(3)) == (1.0, 1.0)


@pytest.fixture
def run(tiny: str, tmp_path: Path) -> Path:
    gato = Gato(TrainConfig(preset=tiny, context_length=48).model(6148))
    formats = []
    for task in tasks("classic/CartPole", "toy/FrozenLake"):
        env = task.make()
        formats.append(task_format(task.name, env.observation_space, env.action_space, task.spec, task.instruction))
    config = RunConfig(model=gato.config, tasks=tuple(formats), vocabulary=gato.vocabulary.fingerprint)
    write_run(tmp_path / "run", config, gato.vocabulary)
    save_checkpoint(tmp_path / "run", 1, model=gato.state_dict(), optimizer={}, state={})
    return tmp_path / "run"


def test_a_run_is_evaluated_on_its_tasks(run: Path) -> None:
    progress: list[tuple[int, int]] = []
    alone = evaluate_run(run, episodes=3, workers=1, on_progress=lambda done, total: progress.append((done, total)))
    assert progress == [(done, 6) for done in range(1, 7)]
    assert list(alone.tasks) == ["classic/CartPole", "toy/FrozenLake"]
    assert all(found.episodes == 3 and found.seed == EVALUATION_SEED for found in alone.tasks.values())
    assert evaluate_run(run, ["toy/FrozenLak?"], episodes=3, workers=1).tasks == {
        "toy/FrozenLake": alone.tasks["toy/FrozenLake"]
    }
    together = evaluate_run(run, episodes=3, workers=2)
    assert together == alone  # greedy: how the work is dealt out does not matter


def test_a_worker_that_fails_is_told_of(run: Path) -> None:
    (weights,) = run.glob("checkpoints/step_*/model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    try:
        with pytest.raises(RuntimeError, match="model.safetensors"):
            evaluate_run(run, episodes=1, workers=2)
    finally:
        weights.write_bytes(whole)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": 5}, f"evaluation seeds begin at {EVALUATION_SEED}, so that no training data has them; got seed=5"),
        ({"episodes": 0}, "episodes and workers must be at least 1, got episodes=0, workers=2"),
        ({"workers": 0}, "episodes and workers must be at least 1, got episodes=100, workers=0"),
        ({"tasks": ["classic/CartPol"]}, "Unknown task 'classic/CartPol'. Did you mean classic/CartPole"),
    ],
)
def test_arguments_that_cannot_be(run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate_run(run, **options)
