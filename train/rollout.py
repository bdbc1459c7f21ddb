"""Many episodes of many tasks, with every slot busy until the last one: what evaluation and relabelling share.

One `Policy` acts in all slots. A slot whose episode ends takes the next (task, seed) from the queue at once, whatever
task that is; environments are kept and used again (`envs/stage.py`), in a process of their own where they are not to be
trusted (`envs/hosted.py`).
"""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gato_lite.envs.catalogue import Task
from gato_lite.envs.experts import AnyEnv
from gato_lite.envs.hosted import HostedStage
from gato_lite.envs.stage import Answer, Begin, Broken, Seen, Stage, Step, Turn
from gato_lite.inputs import ObservationError
from gato_lite.model import Gato
from gato_lite.policy import Policy
from gato_lite.spaces import AnySpace
from gato_lite.train.prompts import Prompts

LONGEST: Final = 100_000
"""Steps after which an episode that has no end is given up."""


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
        """The episode ended; not called when its environment broke."""


class _Stage(Protocol):
    """Where the environments are."""

    def take(self, turns: Mapping[int, Turn]) -> dict[int, Answer]:
        """Each slot's turn, and what its environment answers."""

    def close(self) -> None:
        """Ends all environments."""


@dataclass
class _Place:
    """What happens in one slot."""

    task: Task
    seed: int
    spaces: tuple[AnySpace, AnySpace]
    observation: Any
    action_mask: Any
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
    limit_s: float | None = None,
    watch: Callable[[], Watcher] | None = None,
    on_episode: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Plays one episode for each (task, environment seed).

    What an environment does wrong costs its episode, whose outcome says so in `failed`; the others go on.

    Args:
        gato: who acts.
        jobs: tasks with the seeds of their environments.
        n_slot: environments that act together.
        temperature: 0 takes the likeliest actions.
        seed: of drawn actions.
        evaluation: whether environments are of the evaluation kind (levels that are never trained on).
        prompts: demonstrations of each task, one of which is read before every episode; None acts without.
        limit_s: longest time for one call of an environment, in seconds. The environments are then in a process of
            their own, which is started anew when one of them ends it or exceeds the limit. None leaves them in this
            process, where an exception is all that is survived.
        watch: makes a watcher for each episode; only without `limit_s`, since it sees the environment itself.
        on_episode: called when one ends.

    Returns:
        Outcomes, in the order in which episodes ended.
    """
    tasks = {task.name: task for task, _ in jobs}
    assert watch is None or limit_s is None
    stage: _Stage = Stage(tasks, evaluation)
    if limit_s is not None and tasks:
        stage = HostedStage(list(tasks), evaluation=evaluation, limit_s=limit_s)
    rollout = _Rollout(gato, jobs, stage, prompts, watch, on_episode)
    with warnings.catch_warnings(), contextlib.closing(stage):
        warnings.filterwarnings("ignore", "no task that the model was trained on", UserWarning)
        rollout.run(n_slot, temperature, seed)
    return rollout.outcomes


class _Rollout:
    """What one call of `play` keeps."""

    def __init__(
        self,
        gato: Gato,
        jobs: Sequence[tuple[Task, int]],
        stage: _Stage,
        prompts: Prompts | None,
        watch: Callable[[], Watcher] | None,
        on_episode: Callable[[Outcome], None] | None,
    ) -> None:
        self.outcomes: list[Outcome] = []
        self._gato = gato
        self._queue = deque(jobs)
        self._stage = stage
        self._prompts = prompts
        self._watch = watch
        self._on_episode = on_episode
        self._places: dict[int, _Place] = {}
        """By slot; one without a place sits out, because no job is left for it."""

    def run(self, n_slot: int, temperature: float, seed: int) -> None:
        """Plays all jobs."""
        slots = range(min(n_slot, len(self._queue)))
        self._fill(slots)
        if not self._places:
            return
        idle = next(iter(self._places.values()))
        first = [self._places.get(slot, idle) for slot in slots]
        policy = Policy(
            self._gato,
            [place.spaces[0] for place in first],
            [place.spaces[1] for place in first],
            task=[self._known(place.task) for place in first],
            temperature=temperature,
            seed=seed,
        )
        if self._prompts is not None:
            for slot in self._places:
                self._assign(policy, slot)
        while self._places:
            places = [self._places.get(slot) for slot in slots]
            try:
                actions = policy.act(
                    [None if place is None else place.observation for place in places],
                    [None if place is None else place.action_mask for place in places],
                )
            except ObservationError as error:
                self._fail(error.slot, error.why)
                freed, drop = [error.slot], True
            else:
                freed, drop = self._step(actions), False
            for slot in self._fill(freed, drop=drop):
                self._assign(policy, slot)

    def _assign(self, policy: Policy, slot: int) -> None:
        place = self._places[slot]
        own = () if self._prompts is None else self._prompts[place.task.name]
        policy.assign(slot, *place.spaces, self._known(place.task), [own[place.seed % len(own)]] if own else ())

    def _known(self, task: Task) -> str | None:
        """The task's name, if the model was trained on it: otherwise its format is found by its spaces."""
        return task.name if any(known.name == task.name for known in self._gato.formats) else None

    def _fill(self, slots: Iterable[int], *, drop: bool = False) -> list[int]:
        """Begins an episode in each slot, as long as there are jobs; those in which one began."""
        begun: list[int] = []
        free = list(slots)
        while free and self._queue:
            jobs = {slot: self._queue.popleft() for slot in free[: len(self._queue)]}
            turns = {slot: Begin(task=task.name, seed=seed, drop=drop) for slot, (task, seed) in jobs.items()}
            free = []
            for slot, answer in self._stage.take(turns).items():
                task, seed = jobs[slot]
                if isinstance(answer, Seen) and answer.observation is not None:
                    self._begin(slot, task, seed, answer)
                    begun.append(slot)
                else:
                    why = answer.why if isinstance(answer, Broken) else "reset showed None in place of an observation"
                    failed = Outcome(task=task.name, seed=seed, total_reward=0.0, length=0, success=None, failed=why)
                    self._book(failed)
                    free.append(slot)
        return begun

    def _begin(self, slot: int, task: Task, seed: int, answer: Seen) -> None:
        assert answer.spaces is not None
        watcher = None if self._watch is None else self._watch()
        if watcher is not None:
            assert isinstance(self._stage, Stage)
            watcher.begin(task, self._stage.env(slot), answer.observation, seed)
        self._places[slot] = _Place(
            task=task,
            seed=seed,
            spaces=answer.spaces,
            observation=answer.observation,
            action_mask=answer.action_mask,
            watcher=watcher,
        )

    def _step(self, actions: Sequence[Any]) -> list[int]:
        """One step of every environment; the slots whose episodes ended."""
        for place in self._places.values():
            if place.watcher is not None:
                place.watcher.look(place.observation)
        turns = {slot: Step(action=actions[slot]) for slot in sorted(self._places)}
        freed = []
        for slot, answer in self._stage.take(turns).items():
            if isinstance(answer, Broken):
                self._fail(slot, answer.why)
            elif not self._advance(slot, actions[slot], answer):
                continue
            freed.append(slot)
        return freed

    def _advance(self, slot: int, action: Any, answer: Seen) -> bool:
        """What a step led to; whether the episode is over."""
        place = self._places[slot]
        place.observation, place.action_mask = answer.observation, answer.action_mask
        place.total_reward += answer.reward
        place.length += 1
        truncated = answer.truncated
        if place.watcher is not None:
            place.watcher.step(action, answer.observation, answer.reward)
            truncated = truncated or (place.watcher.finished and not answer.terminated)
        if answer.terminated or truncated:
            outcome = self._end(slot, answer.success, None)
            if place.watcher is not None:
                place.watcher.end(terminated=answer.terminated, truncated=truncated, outcome=outcome)
            return True
        if answer.observation is None:
            self._fail(slot, f"step {place.length} showed None in place of an observation")
        elif place.length >= LONGEST:
            self._fail(slot, f"did not end within {LONGEST:,} steps")
        return slot not in self._places

    def _fail(self, slot: int, why: str) -> None:
        self._end(slot, None, why)

    def _end(self, slot: int, success: bool | None, failed: str | None) -> Outcome:
        place = self._places.pop(slot)
        outcome = Outcome(
            task=place.task.name,
            seed=place.seed,
            total_reward=place.total_reward,
            length=place.length,
            success=success,
            failed=failed,
        )
        self._book(outcome)
        return outcome

    def _book(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if self._on_episode is not None:
            self._on_episode(outcome)


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
