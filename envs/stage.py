"""Environments in slots, stepped together: what one of them does wrong costs its episode and no other.

An environment that raises, or returns something that is no step, is dropped, and its slot's answer says why. Those that
go well are kept and used again. `gato_lite.envs.hosted` puts a stage into a process of its own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from gato_lite.envs.catalogue import Task
from gato_lite.envs.experts import AnyEnv
from gato_lite.spaces import AnySpace

CALLS: Final = ("make", "reset", "step")
"""What is called of an environment, as `on_call` numbers it."""


_WHATEVER: Final = (Exception, SystemExit)
"""What an environment may raise; a person's Ctrl-C is not its own."""


@dataclass(frozen=True, kw_only=True)
class Begin:
    """Begin an episode."""

    task: str
    seed: int
    drop: bool = False
    """Whether the slot's environment so far is not to be used again."""


@dataclass(slots=True)
class Step:
    """Take an action."""

    action: Any


@dataclass(slots=True)
class Replay:
    """Begin an episode that was lost, and take its actions again."""

    begin: Begin
    actions: list[Any]
    """Those taken so far and a new one."""
    total_reward: float
    """Of those taken so far."""


Turn = Begin | Step | Replay


@dataclass(slots=True)
class Seen:
    """What an environment answered."""

    observation: Any
    action_mask: Any = None
    """`info["action_mask"]`, where there is one."""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    success: bool | None = None
    """Whether the goal is reached, were this the episode's end; None where the task knows none."""
    spaces: tuple[AnySpace, AnySpace] | None = None
    """Of observations and actions, at an episode's beginning."""


@dataclass(frozen=True, kw_only=True)
class Broken:
    """An environment that an episode cannot go on in."""

    why: str


Answer = Seen | Broken


@dataclass
class _Running:
    """One slot's episode."""

    task: Task
    env: AnyEnv
    total_reward: float = 0.0
    length: int = 0


@dataclass
class Stage:
    """The environments of some slots, in this process."""

    tasks: Mapping[str, Task]
    """By name."""
    evaluation: bool
    """Whether environments are of the evaluation kind."""
    on_call: Callable[[int, int], None] = lambda _slot, _call: None
    """Hears slot and call (a place in `CALLS`) before an environment is entered."""
    _asked: dict[int, Turn] = field(default_factory=dict)
    _running: dict[int, _Running] = field(default_factory=dict)
    _idle: dict[str, list[AnyEnv]] = field(default_factory=dict)
    _dropped: list[AnyEnv] = field(default_factory=list)
    """Kept, so that no other environment gets the id of one that somebody may know it by."""

    def take(self, turns: Mapping[int, Turn]) -> dict[int, Answer]:
        """Each slot's turn, and what its environment answers."""
        return {slot: self._take(slot, turn) for slot, turn in turns.items()}

    def ask(self, turns: Mapping[int, Turn]) -> None:
        """Notes turns, which are taken when their answers are wanted."""
        self._asked |= turns

    def answers(self, *, wait_for_one: bool = True) -> dict[int, Answer]:  # noqa: ARG002 - as the hosted stage's
        """What the environments answer to all that was asked."""
        turns, self._asked = self._asked, {}
        return self.take(turns)

    @property
    def n_running(self) -> int:
        """Slots whose episodes have begun."""
        return len(self._running)

    def env(self, slot: int) -> AnyEnv:
        """The environment of a slot whose episode has begun."""
        return self._running[slot].env

    def close(self) -> None:
        """Closes every environment; what one of them raises then spoils nothing that was played."""
        open_envs = [running.env for running in self._running.values()]
        for env in [*open_envs, *(env for kept in self._idle.values() for env in kept), *self._dropped]:
            with contextlib.suppress(*_WHATEVER):
                env.close()

    def _take(self, slot: int, turn: Turn) -> Answer:
        match turn:
            case Begin():
                return self._begin(slot, turn)
            case Step():
                return self._step(slot, turn.action)
        answer = self._begin(slot, turn.begin)
        for place, action in enumerate(turn.actions):
            if isinstance(answer, Broken):
                return answer
            is_last = place == len(turn.actions) - 1
            ended = answer.terminated or answer.truncated
            if ended or (is_last and self._running[slot].total_reward != turn.total_reward):
                return Broken(
                    why=f"another environment took their process down, and its first {place} steps went otherwise when "
                    "they were taken again: it is not a function of its seed and its actions"
                )
            answer = self._step(slot, action)
        return answer

    def _begin(self, slot: int, turn: Begin) -> Answer:
        before = self._running.pop(slot, None)
        if before is not None and turn.drop:
            self._dropped.append(before.env)
        elif before is not None:
            self._idle.setdefault(before.task.name, []).append(before.env)
        task = self.tasks[turn.task]
        kept = self._idle.get(task.name)
        try:
            if kept:
                env = kept.pop()
            else:
                self.on_call(slot, 0)
                env = task.make(self.evaluation)
        except _WHATEVER as error:
            return Broken(why=f"make raised {told(error)}")
        self._running[slot] = _Running(task, env)
        try:
            self.on_call(slot, 1)
            observation, info = env.reset(seed=turn.seed)
            spaces = env.observation_space, env.action_space
            return Seen(observation=observation, action_mask=info.get("action_mask"), spaces=spaces)
        except _WHATEVER as error:
            return self._drop(slot, f"reset raised {told(error)}")

    def _step(self, slot: int, action: Any) -> Answer:
        running = self._running[slot]
        running.length += 1
        try:
            self.on_call(slot, 2)
            observation, reward, terminated, truncated, info = running.env.step(action)
            reward = float(reward)
            if not math.isfinite(reward):
                return self._drop(slot, f"step {running.length} gave the reward {reward}, expected a finite number")
            ends: dict[str, Any] = {"terminated": terminated, "truncated": truncated}  # Any: whatever it gave
            for name, end in ends.items():
                if not isinstance(end, (bool, np.bool_)):
                    return self._drop(slot, f"step {running.length} gave {name}={end!r:.80}, expected a bool")
            running.total_reward += reward
            return Seen(
                observation=observation,
                action_mask=info.get("action_mask"),
                reward=reward,
                terminated=bool(terminated),
                truncated=bool(truncated),
                success=running.task.is_success(running.total_reward, info),
            )
        except _WHATEVER as error:
            return self._drop(slot, f"step {running.length} raised {told(error)}")

    def _drop(self, slot: int, why: str) -> Broken:
        self._dropped.append(self._running.pop(slot).env)
        return Broken(why=why)


def told(error: BaseException) -> str:
    """An error in one line of bounded length."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}{'…' if len(words) > 200 else ''}" if words else type(error).__name__
