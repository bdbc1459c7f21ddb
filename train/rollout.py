"""Many episodes of many tasks, with every slot busy until the last one: what evaluation and relabelling share.

One `Policy` acts in all slots. A slot whose episode ends takes the next (task, seed) from the queue at once, whatever
task that is; environments are kept and used again.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym

from gato_lite.envs.catalogue import Task
from gato_lite.model import Gato
from gato_lite.policy import Policy
from gato_lite.train.prompts import Prompts

AnyEnv = gym.Env[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one episode went."""

    task: str
    seed: int
    total_reward: float
    """Sum of rewards."""
    length: int
    """Timesteps."""
    success: bool | None
    """Whether the goal was reached; None where the task knows none."""
    failed: str | None = None
    """What the environment did that no episode can go on from; None where the episode is whole."""


class Watcher(Protocol):
    """Sees everything that happens in one slot's episode."""

    finished: bool
    """Whether it has seen enough; the episode is then cut."""

    def begin(self, task: Task, env: AnyEnv, observation: Any, seed: int) -> None:
        """The episode began."""

    def look(self, observation: Any) -> None:
        """The environment is about to be stepped from `observation`."""

    def step(self, action: Any, observation: Any, reward: float) -> None:
        """`action` was taken and led to `observation`."""

    def end(self, *, terminated: bool, truncated: bool, outcome: Outcome) -> None:
        """The episode ended."""


@dataclass
class _Place:
    """What happens in one slot."""

    task: Task
    env: AnyEnv
    seed: int
    observation: Any
    info: dict[str, Any]
    watcher: Watcher | None
    total_reward: float = 0.0
    length: int = 0


def play(
    gato: Gato,
    jobs: Sequence[tuple[Task, int]],
    *,
    n_slot: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    evaluation: bool = True,
    prompts: Prompts | None = None,
    watch: Callable[[], Watcher] | None = None,
    on_episode: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Plays one episode for each (task, environment seed).

    Args:
        gato: who acts.
        jobs: tasks with the seeds of their environments.
        n_slot: environments that act together.
        temperature: 0 takes the likeliest actions.
        seed: of drawn actions.
        evaluation: whether environments are of the evaluation kind (levels that are never trained on).
        prompts: demonstrations of each task, one of which is read before every episode; None acts without.
        watch: makes a watcher for each episode.
        on_episode: called when one ends.

    Returns:
        Outcomes, in the order in which episodes ended.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no task that the model was trained on", UserWarning)
        return _play(gato, jobs, n_slot, temperature, seed, evaluation, prompts, watch, on_episode)


def _play(
    gato: Gato,
    jobs: Sequence[tuple[Task, int]],
    n_slot: int,
    temperature: float,
    seed: int,
    evaluation: bool,
    prompts: Prompts | None,
    watch: Callable[[], Watcher] | None,
    on_episode: Callable[[Outcome], None] | None,
) -> list[Outcome]:
    queue = deque(jobs)
    idle: dict[str, list[AnyEnv]] = {}
    outcomes: list[Outcome] = []
    places: list[_Place | None] = [None] * min(n_slot, len(queue))
    if not places:
        return outcomes
    first = [_begin(queue.popleft(), idle, evaluation, watch) for _ in places]
    places = list(first)
    policy = Policy(
        gato,
        [place.env.observation_space for place in first],
        [place.env.action_space for place in first],
        task=[_known(gato, place.task) for place in first],
        temperature=temperature,
        seed=seed,
    )
    if prompts is not None:
        for slot, begun in enumerate(first):
            _assign(policy, slot, begun, prompts)
    while any(place is not None for place in places):
        actions = policy.act(
            [None if place is None else place.observation for place in places],
            [None if place is None else place.info.get("action_mask") for place in places],
        )
        for slot, place in enumerate(places):
            if place is None:
                continue
            outcome = _step(place, actions[slot])
            if outcome is None:
                continue
            outcomes.append(outcome)
            if on_episode is not None:
                on_episode(outcome)
            idle.setdefault(place.task.name, []).append(place.env)
            if not queue:
                places[slot] = None
                continue
            new = _begin(queue.popleft(), idle, evaluation, watch)
            _assign(policy, slot, new, prompts)
            places[slot] = new
    for environments in idle.values():
        for env in environments:
            env.close()
    return outcomes


def _assign(policy: Policy, slot: int, place: _Place, prompts: Prompts | None) -> None:
    shown = [] if prompts is None else [prompts[place.task.name][place.seed % len(prompts[place.task.name])]]
    known = _known(policy.gato, place.task)
    policy.assign(slot, place.env.observation_space, place.env.action_space, known, shown)


def _known(gato: Gato, task: Task) -> str | None:
    """The task's name, if the model was trained on it: otherwise its format is found by its spaces."""
    return task.name if any(known.name == task.name for known in gato.formats) else None


def _begin(
    job: tuple[Task, int], idle: dict[str, list[AnyEnv]], evaluation: bool, watch: Callable[[], Watcher] | None
) -> _Place:
    task, seed = job
    kept = idle.get(task.name)
    env = kept.pop() if kept else task.make(evaluation)
    observation, info = env.reset(seed=seed)
    watcher = None if watch is None else watch()
    if watcher is not None:
        watcher.begin(task, env, observation, seed)
    return _Place(task=task, env=env, seed=seed, observation=observation, info=info, watcher=watcher)


def _step(place: _Place, action: Any) -> Outcome | None:
    """One step of one environment; the outcome if its episode ended."""
    if place.watcher is not None:
        place.watcher.look(place.observation)
    observation, reward, terminated, truncated, info = place.env.step(action)
    place.observation, place.info = observation, info
    place.total_reward += float(reward)
    place.length += 1
    if place.watcher is not None:
        place.watcher.step(action, observation, float(reward))
        truncated = truncated or (place.watcher.finished and not terminated)
    if not (terminated or truncated):
        return None
    outcome = Outcome(
        task=place.task.name,
        seed=place.seed,
        total_reward=place.total_reward,
        length=place.length,
        success=place.task.is_success(place.total_reward, info),
    )
    if place.watcher is not None:
        place.watcher.end(terminated=bool(terminated), truncated=bool(truncated), outcome=outcome)
    return outcome


def deal(jobs: Sequence[tuple[str, int]], n_share: int) -> list[list[tuple[str, int]]]:
    """Shares of (task name, seed) jobs in which every task is spread evenly, for processes that work side by side."""
    shares: list[list[tuple[str, int]]] = [[] for _ in range(n_share)]
    next_share: dict[str, int] = {}
    for name, seed in jobs:
        index = next_share.setdefault(name, len(next_share) % n_share)
        shares[index].append((name, seed))
        next_share[name] = (index + 1) % n_share
    return shares


def jobs_of(tasks: Iterable[Task], episodes: int, seed: int) -> list[tuple[Task, int]]:
    """The first `episodes` seeds from `seed` for each task, tasks in turn so that slots stay varied."""
    listed = list(tasks)
    return [(task, seed + index) for index in range(episodes) for task in listed]
