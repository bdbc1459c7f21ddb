"""Many episodes of many tasks, with every slot busy until the last one: what evaluation and relabelling share.

One `Policy` acts in all slots. A slot whose episode ends takes the next (task, seed) from the queue at once, whatever
task that is; environments are kept and used again (`envs/stage.py`), in processes of their own where they are not to be
trusted (`envs/hosted.py`). Those that are quick are stepped together. The policy acts for the slots whose environments
have answered while others are still being stepped, which changes no outcome: what a slot does is a function of its
episode alone (`gato_lite/policy.py`).
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


class AnyStage(Protocol):
    """Where the environments are."""

    def ask(self, turns: Mapping[int, Turn]) -> None:
        """Asks for turns of slots all of whose answers have been heard."""

    def answers(self, *, wait_for_one: bool = True) -> dict[int, Answer]:
        """What has been answered; at least one of what was asked for if `wait_for_one`."""

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
    action: Any = None
    """The last one."""
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
    halves: bool = False,
    watch: Callable[[], Watcher] | None = None,
    on_episode: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Plays one episode for each (task, environment seed).

    What an environment does wrong costs its episode, whose outcome says so in `failed`; the others go on.

    Args:
        gato: who acts.
        jobs: tasks with the seeds of their environments.
        n_slot: environments that act together.
        temperature: 0 takes the likeliest actions, of continuous ones the medians.
        seed: of drawn actions.
        evaluation: whether environments are of the evaluation kind (levels that are never trained on).
        prompts: demonstrations of each task, one of which is read before every episode; None acts without.
        limit_s: longest time for one call of an environment, in seconds. The environments are then in processes of
            their own, which are started anew when one of them ends its own or exceeds the limit, and slow ones do not
            hold up others. None leaves them in this process, where an exception is all that is survived.
        halves: whether the model acts for half of the slots while the environments of the others are stepped, where
            that takes long: worth it where a core is idle; only with `limit_s`.
        watch: makes a watcher for each episode; only without `limit_s`, since it sees the environment itself.
        on_episode: called when one ends.

    Returns:
        Outcomes, in the order in which episodes ended. The order may differ from call to call, the outcomes do not.
    """
    tasks = {task.name: task for task, _ in jobs}
    assert watch is None or limit_s is None
    stage: AnyStage = Stage(tasks, evaluation)
    if limit_s is not None and tasks:
        stage = HostedStage(list(tasks), evaluation=evaluation, limit_s=limit_s, halves=halves)
    rollout = Rollout(gato, jobs, stage, prompts, watch, on_episode)
    with warnings.catch_warnings(), contextlib.closing(stage):
        warnings.filterwarnings("ignore", "no task that the model was trained on", UserWarning)
        rollout.run(n_slot, temperature, seed)
    return rollout.outcomes


class Rollout:
    """What one call of `play` keeps.

    Args:
        gato: who acts.
        jobs: tasks with the seeds of their environments.
        stage: where the environments are; the caller closes it.
        prompts: as for `play`, and so the others.
        watch: likewise.
        on_episode: likewise.
    """

    def __init__(
        self,
        gato: Gato,
        jobs: Sequence[tuple[Task, int]],
        stage: AnyStage,
        prompts: Prompts | None = None,
        watch: Callable[[], Watcher] | None = None,
        on_episode: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.outcomes: list[Outcome] = []
        self._gato = gato
        self._queue = deque(jobs)
        self._stage = stage
        self._prompts = prompts
        self._watch = watch
        self._on_episode = on_episode
        self._jobs: dict[int, tuple[Task, int]] = {}
        """By slot, of episodes that are about to begin."""
        self._turns: dict[int, Turn] = {}
        """By slot, what its environment is to be asked next."""
        self._n_asked = 0
        """Environments that have not answered."""
        self._places: dict[int, _Place] = {}
        """By slot; one without a place sits out, because its episode has not begun or no job is left for it."""
        self._begun: list[int] = []
        """Slots whose episode the policy has to be told of."""
        self._ready: set[int] = set()
        """Slots that are to be acted for."""

    def run(self, n_slot: int, temperature: float, seed: int) -> None:
        """Plays all jobs."""
        n_slot = min(n_slot, len(self._queue))
        policy: Policy | None = None
        for slot in range(n_slot):
            self._next(slot)
        while self._turns or self._n_asked or self._ready:
            turns, self._turns = self._turns, {}
            self._n_asked += len(turns)
            self._stage.ask(turns)
            for slot, answer in self._stage.answers(wait_for_one=not self._ready).items():
                self._n_asked -= 1
                self._hear(slot, answer)
            if self._turns or not self._ready:  # episodes are to begin before those that go on are acted for
                continue
            if policy is None:
                first = self._places[min(self._ready)]
                policy = Policy(
                    self._gato,
                    [first.spaces[0]] * n_slot,  # each slot's own follow
                    [first.spaces[1]] * n_slot,
                    task=self._known(first.task),
                    temperature=temperature,
                    seed=seed,
                )
            for slot in self._begun:
                self._assign(policy, slot)
            self._begun = []
            self._act(policy)

    def _act(self, policy: Policy) -> None:
        """Acts for the slots that are ready."""
        places = [self._places[slot] if slot in self._ready else None for slot in range(policy.n_slot)]
        try:
            actions = policy.act(
                [None if place is None else place.observation for place in places],
                [None if place is None else place.action_mask for place in places],
            )
        except ObservationError as error:
            self._ready.discard(error.slot)
            self._end(error.slot, None, error.why)
            self._next(error.slot, drop=True)
            return
        for slot in sorted(self._ready):
            place = self._places[slot]
            place.action = actions[slot]
            if place.watcher is not None:
                place.watcher.look(place.observation)
            self._turns[slot] = Step(action=place.action)
        self._ready.clear()

    def _assign(self, policy: Policy, slot: int) -> None:
        place = self._places[slot]
        own = () if self._prompts is None else self._prompts[place.task.name]
        prompt = [own[place.seed % len(own)]] if own else ()
        policy.assign(slot, *place.spaces, self._known(place.task), prompt, place.seed)

    def _known(self, task: Task) -> str | None:
        """The task's name, if the model was trained on it: otherwise its format is found by its spaces."""
        return task.name if any(known.name == task.name for known in self._gato.formats) else None

    def _next(self, slot: int, *, drop: bool = False) -> None:
        """The slot's next episode, if a job is left.

        Args:
            slot: which has none now.
            drop: whether its environment so far is not to be used again.
        """
        if self._queue:
            task, seed = self._jobs[slot] = self._queue.popleft()
            self._turns[slot] = Begin(task=task.name, seed=seed, drop=drop)

    def _hear(self, slot: int, answer: Answer) -> None:
        """What an environment answered."""
        if slot in self._jobs:
            is_on = self._begin(slot, *self._jobs.pop(slot), answer)
        elif isinstance(answer, Broken):
            self._end(slot, None, answer.why)
            is_on = False
        else:
            is_on = self._advance(slot, answer)
        if is_on:
            self._ready.add(slot)
        else:
            self._next(slot)

    def _begin(self, slot: int, task: Task, seed: int, answer: Answer) -> bool:
        """The beginning of an episode; whether there is one."""
        if isinstance(answer, Broken) or answer.observation is None:
            why = answer.why if isinstance(answer, Broken) else "reset showed None in place of an observation"
            self._book(Outcome(task=task.name, seed=seed, total_reward=0.0, length=0, success=None, failed=why))
            return False
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
        self._begun.append(slot)
        return True

    def _advance(self, slot: int, answer: Seen) -> bool:
        """What a step led to; whether the episode goes on."""
        place = self._places[slot]
        place.observation, place.action_mask = answer.observation, answer.action_mask
        place.total_reward += answer.reward
        place.length += 1
        truncated = answer.truncated
        if place.watcher is not None:
            place.watcher.step(place.action, answer.observation, answer.reward)
            truncated = truncated or (place.watcher.finished and not answer.terminated)
        if answer.terminated or truncated:
            outcome = self._end(slot, answer.success, None)
            if place.watcher is not None:
                place.watcher.end(terminated=answer.terminated, truncated=truncated, outcome=outcome)
        elif answer.observation is None:
            self._end(slot, None, f"step {place.length} showed None in place of an observation")
        elif place.length >= LONGEST:
            self._end(slot, None, f"did not end within {LONGEST:,} steps")
        return slot in self._places

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
