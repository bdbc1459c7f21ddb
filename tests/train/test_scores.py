from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from gato_lite.envs import task as task_module
from gato_lite.envs.catalogue import Task, find_tasks
from gato_lite.envs.format import Score
from gato_lite.envs.task import Measured
from gato_lite.train.rollout import Outcome
from gato_lite.train.scores import Scores, TaskScore, compare, score_task, summarise


def score(mean: float) -> Score:
    return Score(mean=mean, std=0.0, success=None, episodes=100, length=10.0)


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """CartPole from 20 to 500, FrozenLake from 0.1 to 0.7; Taxi without a scale."""
    known = {
        "classic/CartPole": Measured(random=score(20.0), expert=score(500.0)),
        "toy/FrozenLake": Measured(random=score(0.1), expert=score(0.7)),
    }
    monkeypatch.setattr(task_module, "references", lambda _path: known)


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
def test_a_score_knows_its_metric_and_guesses_where_it_was_not_written() -> None:
    (task,) = tasks("toy/FrozenLake")
    played = outcomes(task.name, [0.0, 1.0], [False, True])
    by_return, by_success = (score_task(replace(task, metric=metric), played, 0) for metric in ("return", "success"))
    assert by_return.mean == by_return.success
    assert (by_return.is_share, by_success.is_share) == (False, True)
    stored = msgspec.to_builtins(by_return)
    del stored["metric"]
    assert msgspec.convert(stored, TaskScore).is_share
    assert not msgspec.convert({**stored, "mean": 0.7}, TaskScore).is_share


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


def played(success: list[bool], failed: tuple[int, ...] = (), first: int = 10) -> Scores:
    """FrozenLake, from seed `first` on."""
    (task,) = tasks("toy/FrozenLake")
    found = [
        Outcome(
            task=task.name,
            seed=first + index,
            total_reward=float(reached),
            length=5,
            success=reached,
            failed="it broke" if index in failed else None,
        )
        for index, reached in enumerate(success)
    ]
    return summarise([task], found, first)


@pytest.mark.usefixtures("scale")
def test_suites_have_intervals_and_shares_of_tasks_above_the_expert() -> None:
    found = tasks("classic/CartPole", "toy/FrozenLake", "toy/Taxi")
    sides = [
        *outcomes("classic/CartPole", [480.0] * 20),
        *outcomes("toy/FrozenLake", [0.0] * 20, [index % 2 == 0 for index in range(20)]),
        *outcomes("toy/Taxi", [3.0]),
    ]
    scores = summarise(found, sides, 0)
    assert scores.overall is not None
    overall = scores.overall
    cart, lake = 460 / 480, 0.4 / 0.6
    assert (overall.n_tasks, overall.n_scored) == (3, 2)
    assert overall.mean == pytest.approx((cart + lake) / 2)
    assert overall.iqm == pytest.approx((cart + lake) / 2)
    assert (overall.above_50, overall.above_80, overall.above_90) == (1.0, 0.5, 0.5)
    low, high = overall.intervals["mean"]
    spread = 1.96 * np.sqrt(0.25 / 20) / 0.6 / 2  # of FrozenLake alone, as one of two tasks
    assert low == pytest.approx(overall.mean - spread, abs=0.03)
    assert high == pytest.approx(overall.mean + spread, abs=0.03)
    assert overall.intervals.keys() == {"mean", "median", "iqm", "above_50", "above_80", "above_90"}
    assert scores.suites["toy"].intervals["above_90"][1] <= 1.0
    unscored = summarise(tasks("toy/Taxi"), outcomes("toy/Taxi", [3.0]), 0).suites["toy"]
    assert (unscored.mean, unscored.iqm, unscored.above_50, unscored.intervals) == (None, None, None, {})


@pytest.mark.usefixtures("scale")
def test_the_order_of_tasks_and_episodes_makes_no_difference() -> None:
    generator = np.random.default_rng(0)
    found = tasks("classic/CartPole", "toy/FrozenLake")
    sides = [
        *outcomes("classic/CartPole", generator.uniform(20, 500, 30).tolist()),
        *outcomes("toy/FrozenLake", [0.0] * 30, (generator.random(30) < 0.4).tolist()),
    ]
    one, other = summarise(found, sides, 0), summarise(found[::-1], sides[::-1], 0)
    assert one.overall == other.overall
    assert one.suites == other.suites
    assert one.tasks == other.tasks
    alone = summarise(found[:1], sides[:30], 0)
    assert alone.tasks["classic/CartPole"] == one.tasks["classic/CartPole"]


@pytest.mark.usefixtures("scale")
def test_two_agents_are_compared_episode_by_episode() -> None:
    """Both solve half of the levels; what counts is that the first solves those of the second and two more."""
    hard = [index % 2 == 0 for index in range(40)]
    better = [reached or index in (1, 3) for index, reached in enumerate(hard)]
    found = compare(played(better), played(hard), "A", "B")
    lake = found.tasks["toy/FrozenLake"]
    assert lake.difference == pytest.approx(2 / 40 / 0.6)
    assert lake.difference == pytest.approx(lake.first - lake.second)
    assert lake.pairs == 40
    unpaired = 1.96 * np.sqrt(2 * 0.25 / 40) / 0.6
    assert lake.high - lake.low < 0.7 * unpaired, "pairs leave out what the levels themselves differ by"
    assert lake.p == pytest.approx(0.5, abs=0.02)  # two pairs differ: both signs, by chance
    assert not lake.significant
    assert found.suites.keys() == {"toy"}
    assert found.suites["toy"] == lake
    assert found.overall == lake
    back = compare(played(hard), played(better), "B", "A").tasks["toy/FrozenLake"]
    assert back.difference == -lake.difference
    assert back.p == lake.p


@pytest.mark.usefixtures("scale")
def test_a_clear_difference_is_significant_and_none_is_not() -> None:
    never, always = played([False] * 20), played([True] * 20)
    found = compare(always, never, "A", "B")
    assert found.overall is not None
    assert found.overall.significant
    assert found.tasks["toy/FrozenLake"].significant
    same = compare(always, always, "A", "A").tasks["toy/FrozenLake"]
    assert (same.difference, same.low, same.high, same.p, same.significant) == (0.0, 0.0, 0.0, 1.0, False)


@pytest.mark.usefixtures("scale")
def test_only_episodes_that_both_played_are_compared() -> None:
    one = played([True, False, True, True], failed=(0,))
    other = played([False, False, False], failed=(1,))
    found = compare(one, other, "A", "B")
    assert found.tasks["toy/FrozenLake"].pairs == 1
    assert found.tasks["toy/FrozenLake"].difference == pytest.approx(1 / 0.6)
    later = compare(one, played([True, True, True, True, False], first=12), "A", "B").tasks["toy/FrozenLake"]
    assert (later.pairs, later.difference) == (2, 0.0), "seeds 12 and 13, whatever their places"
    taxi = summarise(tasks("toy/Taxi"), outcomes("toy/Taxi", [3.0]), 10)
    nothing = compare(one, taxi, "A", "B")
    assert (nothing.tasks, nothing.overall, nothing.unpaired) == ({}, None, ["toy/FrozenLake", "toy/Taxi"])


@pytest.mark.usefixtures("scale")
def test_tasks_without_a_scale_are_compared_in_their_own_metric() -> None:
    one, other = (
        summarise(
            tasks("toy/FrozenLake", "toy/Taxi"),
            [*outcomes("toy/Taxi", [reward, 1.0]), *outcomes("toy/FrozenLake", [0.0], [reward > 2])],
            0,
        )
        for reward in (5.0, 2.0)
    )
    found = compare(one, other, "A", "B")
    assert found.tasks["toy/Taxi"].difference == 1.5
    assert not found.tasks["toy/Taxi"].normalised
    assert found.suites["toy"].difference == found.tasks["toy/FrozenLake"].difference
    only = compare(one, summarise(tasks("toy/Taxi"), outcomes("toy/Taxi", [2.0, 1.0]), 0), "A", "B")
    assert only.unpaired == ["toy/FrozenLake"]
    assert (only.suites, only.overall) == ({}, None)
