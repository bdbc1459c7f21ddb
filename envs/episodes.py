"""Episodes in memory: typed columns, and the builder that makes them from a running environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, SupportsFloat

import numpy as np
from jaxtyping import Bool, Float32, Int64

from gato_lite.envs.columns import BadValue, Column, Role, column_name, stack
from gato_lite.spaces import AnySpace, leaf_keys, leaf_spaces, require_leaf


class BadEpisodeError(ValueError):
    """An episode that may not enter a dataset; the message names episode, key and step."""


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """E episodes end to end, S timesteps in all.

    An episode of T timesteps has T actions and rewards and T + 1 observations: the last is where it ended.
    """

    observations: Mapping[str, Column]
    """By leaf path: an array (S + E, *shape), or a list of S + E values for text and leaves that vary in size."""
    actions: Mapping[str, Column]
    """By leaf path: an array (S, *shape), or a list of S values."""
    rewards: Float32[np.ndarray, " S"]
    """Reward of each timestep."""
    terminated: Bool[np.ndarray, " E"]
    """Whether the episode ended in a terminal state."""
    truncated: Bool[np.ndarray, " E"]
    """Whether the episode was cut, by a time limit for one."""
    lengths: Int64[np.ndarray, " E"]
    """Timesteps T of each episode."""
    seeds: Int64[np.ndarray, " E"]
    """Environment seed of each episode."""
    success: Bool[np.ndarray, " E"] | None = None
    """Whether the episode reached its goal; None where the task knows no goal."""
    labels: Mapping[str, Column] | None = None
    """Like `actions`: what an expert would have done at each timestep; None where the actions are the expert's own."""

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def n_bytes(self) -> int:
        """Bytes of the arrays, and of the strings a rough count."""
        columns = [*self.observations.values(), *self.actions.values(), *(self.labels or {}).values()]
        return sum(c.nbytes if isinstance(c, np.ndarray) else 64 * len(c) for c in columns)


def concatenate_episodes(runs: Sequence[Episodes]) -> Episodes:
    """All `runs` end to end; they are of one task."""
    if not runs:
        raise ValueError("runs must hold at least one Episodes, got none")
    success = [run.success for run in runs if run.success is not None]
    labels = [run.labels for run in runs if run.labels is not None]
    return Episodes(
        observations={path: _join([run.observations[path] for run in runs]) for path in runs[0].observations},
        actions={path: _join([run.actions[path] for run in runs]) for path in runs[0].actions},
        rewards=np.concatenate([run.rewards for run in runs]),
        terminated=np.concatenate([run.terminated for run in runs]),
        truncated=np.concatenate([run.truncated for run in runs]),
        lengths=np.concatenate([run.lengths for run in runs]),
        seeds=np.concatenate([run.seeds for run in runs]),
        success=np.concatenate(success) if len(success) == len(runs) else None,
        labels={path: _join([run[path] for run in labels]) for path in labels[0]} if len(labels) == len(runs) else None,
    )


def _join(columns: Sequence[Column]) -> Column:
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return [value for column in columns for value in column]


class _Side:
    """The values of one role (observations or actions) of the running episode, leaf by leaf."""

    def __init__(self, space: AnySpace, role: Role) -> None:
        require_leaf(space, f"{'action' if role == 'label' else role} space")
        self.role = role
        self.space = space
        self.leaves = leaf_spaces(space)
        self.getters = {path: _getter(keys) for path, keys in leaf_keys(space).items()}
        self.values: dict[str, list[Any]] = {}
        self.clear()

    def clear(self) -> None:
        self.values = {path: [] for path in self.leaves}

    def append(self, value: Any) -> None:
        for path, getter in self.getters.items():
            try:
                leaf = getter(value)
            except (KeyError, IndexError, TypeError) as error:
                step, name = len(self.values[path]), column_name(self.role, path)
                raise BadEpisodeError(f"{name}, step {step}: expected a member of {self.space}") from error
            # An environment may write its next observation into the same array.
            self.values[path].append(leaf.copy() if isinstance(leaf, np.ndarray) else leaf)

    def stacked(self) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        for path, space in self.leaves.items():
            try:
                columns[path] = stack(space, self.values[path], self.role)
            except BadValue as error:
                raise BadEpisodeError(f"{column_name(self.role, path)}, step {error.step}: {error}") from error
        return columns


def _getter(keys: tuple[str | int, ...]) -> Callable[[Any], Any]:
    if not keys:
        return lambda value: value
    if len(keys) == 1:
        return itemgetter(keys[0])

    def get(value: Any) -> Any:
        for key in keys:
            value = value[key]
        return value

    return get


class EpisodeBuilder:
    """Gathers one episode after another from an environment's steps.

    Example:
        >>> from gymnasium import spaces
        >>> builder = EpisodeBuilder(spaces.Discrete(4), spaces.Discrete(2))
        >>> builder.start(0, seed=7)
        >>> builder.step(1, 3, reward=1.0)
        >>> builder.finish(terminated=True, truncated=False).lengths
        array([1])
    """

    def __init__(self, observation_space: AnySpace, action_space: AnySpace) -> None:
        self._observations = _Side(observation_space, "observation")
        self._actions = _Side(action_space, "action")
        self._labels = _Side(action_space, "label")
        self._labelled = 0
        self._rewards: list[float] = []
        self._seed = -1
        self._started = False

    @property
    def n_timesteps(self) -> int:
        """Timesteps gathered since `start`."""
        return len(self._rewards)

    def clear(self) -> None:
        """Forget the running episode."""
        self._observations.clear()
        self._actions.clear()
        self._labels.clear()
        self._labelled = 0
        self._rewards = []
        self._started = False

    def start(self, observation: Any, seed: int) -> None:
        """Begin an episode at `observation`; what was gathered of an unfinished one is dropped."""
        self.clear()
        if not -1 <= seed < 2**63:
            raise ValueError(f"seed must be in 0..2**63 - 1, or -1 where it is not known, got seed={seed}")
        self._seed = seed
        self._started = True
        self._observations.append(observation)

    def label(self, action: Any) -> None:
        """Add what an expert would do now; called for every timestep, before its `step`, or for none."""
        self._labels.append(action)
        self._labelled += 1

    def step(self, action: Any, observation: Any, reward: SupportsFloat) -> None:
        """Add the action taken, and the observation and reward it led to.

        Raises:
            BadEpisodeError: a value has another form than its space, or the reward is no number.
        """
        if not self._started:
            raise RuntimeError("step was called before start: an episode begins with env.reset()")
        self._actions.append(action)
        self._observations.append(observation)
        try:
            self._rewards.append(float(reward))
        except (TypeError, ValueError) as error:
            step = len(self._rewards)
            raise BadEpisodeError(f"reward, step {step}: expected a finite number, got {reward!r}") from error

    def finish(self, *, terminated: bool, truncated: bool, success: bool | None = None) -> Episodes:
        """The episode, checked.

        Raises:
            BadEpisodeError: it is empty, or a value of it is bad; the message names key and step.
        """
        self._started = False
        if not self._rewards:
            raise BadEpisodeError("the episode is empty: expected at least one step")
        with np.errstate(over="ignore"):
            rewards = np.array(self._rewards, np.float32)
        finite = np.isfinite(rewards)
        if not finite.all():
            step = int(finite.argmin())
            raise BadEpisodeError(f"reward, step {step}: expected a finite number, got {self._rewards[step]}")
        if self._labelled not in (0, len(self._rewards)):
            steps = len(self._rewards)
            raise BadEpisodeError(f"label: expected one for each of {steps} steps or none, got {self._labelled}")
        return Episodes(
            observations=self._observations.stacked(),
            actions=self._actions.stacked(),
            rewards=rewards,
            terminated=np.array([terminated]),
            truncated=np.array([truncated]),
            lengths=np.array([len(self._rewards)], np.int64),
            seeds=np.array([self._seed], np.int64),
            success=None if success is None else np.array([success]),
            labels=self._labels.stacked() if self._labelled else None,
        )
