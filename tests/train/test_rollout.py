from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gato_lite.envs.catalogue import Task, find_tasks
from gato_lite.model import Gato
from gato_lite.run import task_format
from gato_lite.train.rollout import Outcome, deal, jobs_of, play
from gato_lite.train.settings import TrainConfig


@pytest.fixture
def gato(tiny: str) -> Gato:
    return Gato(TrainConfig(preset=tiny, context_length=48).model(6148)).eval()


def tasks(*names: str) -> list[Task]:
    return find_tasks(list(names) or ["classic/CartPole", "toy/FrozenLake", "toy/Taxi"])


def test_every_job_is_played_once(gato: Gato) -> None:
    jobs = jobs_of(tasks(), 5, 100)
    ended: list[Outcome] = []
    outcomes = play(gato, jobs, n_slot=4, temperature=1.0, on_episode=ended.append)
    assert ended == outcomes
    assert sorted((outcome.task, outcome.seed) for outcome in outcomes) == sorted((t.name, s) for t, s in jobs)
    for outcome in outcomes:
        assert outcome.length >= 1
        if outcome.task == "classic/CartPole":
            assert outcome.total_reward == outcome.length
        if outcome.task == "toy/FrozenLake":
            assert outcome.success == (outcome.total_reward > 0)


@pytest.mark.parametrize("n_slot", [1, 3, 16])
def test_greedy_outcomes_do_not_depend_on_the_slots(gato: Gato, n_slot: int) -> None:
    jobs = jobs_of(tasks("classic/CartPole", "toy/FrozenLake"), 4, 7)
    expected = [play(gato, [job], n_slot=1)[0] for job in jobs]
    outcomes = {(outcome.task, outcome.seed): outcome for outcome in play(gato, jobs, n_slot=n_slot)}
    assert [outcomes[task.name, seed] for task, seed in jobs] == expected


def test_drawn_actions_repeat_with_their_seed(gato: Gato) -> None:
    jobs = jobs_of(tasks("classic/CartPole"), 6, 0)
    first, again, other = (play(gato, jobs, n_slot=3, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("n_slot", [2, 16])
def test_drawn_outcomes_do_not_depend_on_the_slots(gato: Gato, n_slot: int) -> None:
    jobs = jobs_of(tasks("classic/CartPole", "classic/Pendulum"), 3, 7)
    expected = [play(gato, [job], temperature=1.0, seed=4)[0] for job in jobs]
    outcomes = {(o.task, o.seed): o for o in play(gato, jobs, n_slot=n_slot, temperature=1.0, seed=4)}
    assert [outcomes[task.name, seed] for task, seed in jobs] == expected


def test_no_jobs(gato: Gato) -> None:
    assert play(gato, []) == []


def test_watchers_see_every_step(gato: Gato) -> None:
    seen: list[Watching] = []

    class Watching:
        finished = False

        def __init__(self) -> None:
            self.events: list[str] = []
            self.outcome: Outcome | None = None
            seen.append(self)

        def begin(self, task: Task, env: Any, observation: Any, seed: int) -> None:
            self.observation = observation
            self.events.append("begin")

        def look(self, observation: Any) -> None:
            assert np.array_equal(observation, self.observation)
            self.events.append("look")

        def step(self, action: Any, observation: Any, reward: float) -> None:
            assert action in (0, 1)
            self.observation = observation
            self.events.append("step")

        def end(self, *, terminated: bool, truncated: bool, outcome: Outcome) -> None:
            assert terminated or truncated
            self.outcome = outcome
            self.events.append("end")

    play(gato, jobs_of(tasks("classic/CartPole"), 3, 0), n_slot=2, watch=Watching)
    assert len(seen) == 3
    for watching in seen:
        assert watching.outcome is not None
        assert watching.events == ["begin", *["look", "step"] * watching.outcome.length, "end"]


def test_a_task_is_spoken_of_as_it_was_trained(gato: Gato, monkeypatch: pytest.MonkeyPatch) -> None:
    from gato_lite.train import rollout

    windows: list[list[int]] = []
    assign = rollout.Policy.assign

    def watched_assign(self: Any, slot: int, *arguments: Any) -> None:
        assign(self, slot, *arguments)
        windows.append(self.window(slot).ids.tolist())

    monkeypatch.setattr(rollout.Policy, "assign", watched_assign)
    found = tasks("toy/FrozenLake", "toy/FrozenLakeNotSlippery")
    env = found[0].make()
    gato.formats = tuple(
        task_format(task.name, env.observation_space, env.action_space, task.spec, f"Do {task.name}") for task in found
    )
    play(gato, jobs_of(found, 3, 0), n_slot=2)
    expected = [gato.vocabulary.text.encode(f"Do {task.name}").tolist() for task in found] * 3
    assert sorted(windows) == sorted(expected)


def test_shares_are_even_in_every_task() -> None:
    jobs = [(name, seed) for seed in range(6) for name in ("a", "b", "c", "d")]
    shares = deal(jobs, 2)
    assert sorted(shares[0] + shares[1]) == sorted(jobs)
    for name in "abcd":
        assert [sum(job[0] == name for job in share) for share in shares] == [3, 3]
    leftover = deal([(name, 0) for name in "abcdef"], 3)
    assert [len(share) for share in leftover] == [2, 2, 2]
    assert deal([("a", 1)], 3) == [[("a", 1)], [], []]
