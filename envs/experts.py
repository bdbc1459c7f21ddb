"""What an expert is, and the parts that experts of all suites share."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, Protocol, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces

AnyEnv: TypeAlias = gym.Env[Any, Any]  # Any: observations and actions of whatever task it is

WALL_PER_CPU: Final = 20.0
"""Times the limit of CPU time that what waits for something may take by the clock: a busy machine is not as slow."""


class ExpertFailedError(RuntimeError):
    """An expert has no action to offer, or took too long: the episode is no demonstration."""


class TimeLimitError(ExpertFailedError):
    """An episode took too long."""


class Expert(Protocol):
    """Knows what to do in one environment, also in a state that it would not have reached itself."""

    def reset(self) -> None:
        """Begin an episode; called after the environment's own reset."""

    def act(self, observation: Any, previous_action: Any) -> Any:
        """The action for the state the environment is in.

        Args:
            observation: What the environment returned last.
            previous_action: What was actually done before it, whoever chose it; None at the start.

        Raises:
            ExpertFailedError: the expert is lost.
        """


class Rule:
    """An expert that looks at the observation alone."""

    def __init__(self, rule: Callable[[Any], Any]) -> None:
        self.rule = rule

    def reset(self) -> None:
        """A rule keeps nothing."""

    def act(self, observation: Any, previous_action: Any) -> Any:  # noqa: ARG002  (the protocol's signature)
        """What the rule says for `observation`."""
        return self.rule(observation)


class Clipped:
    """An expert whose actions are brought into the bounds of a Box before anyone sees them.

    What is played, stored and handed back as the previous action is then the same: a member of the action space.
    """

    def __init__(self, expert: Expert, space: spaces.Box) -> None:
        self.expert, self.space = expert, space

    def reset(self) -> None:
        """Begin an episode."""
        self.expert.reset()

    def act(self, observation: Any, previous_action: Any) -> Any:
        """The expert's action, clipped, in the space's dtype."""
        action = np.asarray(self.expert.act(observation, previous_action), self.space.dtype)
        return np.clip(action, self.space.low, self.space.high)


class RandomExpert:
    """Draws actions from the action space, with a seed: the lower end of every task's scale."""

    def __init__(self, env: AnyEnv, seed: int) -> None:
        self.space = env.action_space
        self.space.seed(seed)

    def reset(self) -> None:
        """The draws go on from one episode to the next."""

    def act(self, observation: Any, previous_action: Any) -> Any:  # noqa: ARG002  (the protocol's signature)
        """A random action."""
        return self.space.sample()


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeLimitError` in the block after `seconds` of CPU time, even where it hangs in a loop of its own.

    The CPU time is that of all threads of the process, which how busy the machine is changes little. What waits
    without using any is stopped after `WALL_PER_CPU` times as long by the clock. Works by signals, which only the main
    thread of a POSIX process gets; elsewhere the block runs unlimited.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        waited = f", {seconds * WALL_PER_CPU:g} s by the clock" * (number == signal.SIGALRM)
        raise TimeLimitError(f"the episode took longer than its limit of {seconds:g} s of CPU time{waited}")

    before = [(number, signal.signal(number, stop)) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * WALL_PER_CPU)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before:
            signal.signal(number, handler)


def value_iteration(env: AnyEnv, discount: float = 0.999) -> Expert:
    """The optimal policy of an environment that shows its transitions as `env.unwrapped.P` (Gymnasium's toy text)."""
    transitions: dict[int, dict[int, list[tuple[float, int, float, bool]]]] = env.get_wrapper_attr("P")
    n_states, n_actions = len(transitions), len(transitions[0])
    n_outcomes = max(len(outcomes) for actions in transitions.values() for outcomes in actions.values())
    probability = np.zeros((n_states, n_actions, n_outcomes))
    reward, follows = np.zeros_like(probability), np.zeros_like(probability)
    successor = np.zeros(probability.shape, np.int64)
    for state, actions in transitions.items():
        for action, outcomes in actions.items():
            for k, (chance, after, gain, ends) in enumerate(outcomes):
                index = state, action, k
                probability[index], successor[index], reward[index], follows[index] = chance, after, gain, not ends
    values = np.zeros(n_states)
    for _ in range(20_000):
        worth = (probability * (reward + discount * follows * values[successor])).sum(axis=2)  # (states, actions)
        better = worth.max(axis=1)
        converged = np.abs(better - values).max() < 1e-10
        values = better
        if converged:
            break
    # Rounding breaks ties between equally good actions differently from run to run of the iteration: the first wins.
    best = np.argmax(worth.round(8), axis=1)
    return Rule(lambda observation: best[int(observation)])
