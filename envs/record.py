"""Recording episodes of any environment: by any policy, by hand, or (in `recording`) by the catalogue's experts.

import gymnasium as gym, gato_lite
env = gym.make("CartPole-v1")
gato_lite.record(env, lambda observation: int(observation[2] > 0), episodes=100, out="my-data", seed=0)

env = RecordEpisodes(gym.make("CartPole-v1"), "my-other-data")     # step it as you like
...
env.close()                                                        # now the dataset is whole
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gymnasium as gym

from gato_lite.config import TokenSpec
from gato_lite.envs.catalogue import ANY_GYMNASIUM, reported_success
from gato_lite.envs.dataset import Dataset
from gato_lite.envs.episodes import BadEpisodeError, EpisodeBuilder
from gato_lite.envs.experts import AnyEnv
from gato_lite.envs.format import OnBad, versions
from gato_lite.envs.recording import record_task, record_tasks
from gato_lite.envs.seeds import BLOCK_SEEDS, block_seed
from gato_lite.envs.writer import About, DatasetWriter

__all__ = ["RecordEpisodes", "record", "record_task", "record_tasks"]

_UNKNOWN_SEED: Final = -1


class RecordEpisodes(gym.Wrapper[Any, Any, Any, Any]):  # Any: whatever the environment observes and takes
    """Writes every episode of `env` into a new dataset, which `close` makes whole.

    An episode that is reset or closed before it ended is kept as a truncated one.

    Args:
        env: The environment.
        out: Folder of the new dataset.
        name: Name of the task; None takes `gym:ID` of a registered environment, or its class name.
        instruction: What to do, in words.
        spec: How observations become tokens; None leaves it to the space.
        on_bad: Whether an episode with a bad value is an error, or left out and counted.
        overwrite: Whether a dataset in `out` may be replaced; it stays until the new one is whole.
        licence: SPDX name or words.
        attribution: Who made the episodes.
    """

    def __init__(
        self,
        env: AnyEnv,
        out: str | Path,
        *,
        name: str | None = None,
        instruction: str | None = None,
        spec: TokenSpec | None = None,
        on_bad: OnBad = "error",
        overwrite: bool = False,
        seed: int | None = None,
        licence: str | None = None,
        attribution: str | None = None,
    ) -> None:
        super().__init__(env)
        about = About(
            task=task_name(env) if name is None else name,
            spec=TokenSpec() if spec is None else spec,
            instruction=instruction,
            generator=versions("gato_lite", "gymnasium"),
            seed=seed,
            licence=licence,
            attribution=attribution,
        )
        self.dataset: Dataset | None = None
        self.n_skipped = 0
        self._open = True
        self._on_bad = on_bad
        self._writer = DatasetWriter(out, env.observation_space, env.action_space, about, overwrite=overwrite)
        self._builder = EpisodeBuilder(env.observation_space, env.action_space)
        self._lost = False
        """Whether the running episode had a bad value and is not gathered any more."""
        self._success: bool | None = None
        self._seed = _UNKNOWN_SEED

    @property
    def n_episodes(self) -> int:
        """Episodes that will be in the dataset."""
        return self._writer.n_episodes

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self.cut()
        observation, info = self.env.reset(seed=seed, options=options)
        self._seed = _UNKNOWN_SEED if seed is None else seed
        self._success = None
        self._lost = False
        try:
            self._builder.start(observation, self._seed)
        except BadEpisodeError as error:
            self._refuse(error)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment and note what happened.

        Raises:
            BadEpisodeError: a value has another form than its space, or the episode has ended and a value of it is bad;
                unless `on_bad` is "skip". The episode is left out, the next reset begins another.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        if not self._lost:
            try:
                self._builder.step(action, observation, reward)
            except BadEpisodeError as error:
                self._refuse(error)
        self._success = reported_success(info)
        if terminated or truncated:
            self._end(terminated=bool(terminated), truncated=bool(truncated))
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Make the dataset whole and close the environment; nothing is left of a dataset without an episode.

        Raises:
            BadEpisodeError: the unfinished episode has a bad value; the others are in the dataset nevertheless.
        """
        try:
            if self._open:
                try:
                    self.cut()
                except BadEpisodeError:
                    self.n_skipped += 1
                    self._finish_or_abandon()
                    raise
                self._finish_or_abandon()
        finally:
            super().close()

    def cut(self) -> None:
        """End the running episode, if there is one, as truncated."""
        self._end(terminated=False, truncated=True)

    def finish(self) -> Dataset:
        """Make the dataset whole; the environment stays open."""
        self._open = False
        self.dataset = self._writer.finish(n_skipped=self.n_skipped)
        return self.dataset

    def abandon(self) -> None:
        """Remove what was written; the environment stays open."""
        self._open = False
        self._writer.abandon()

    def _finish_or_abandon(self) -> None:
        if self.n_episodes:
            self.finish()
        else:
            self.abandon()

    def _end(self, *, terminated: bool, truncated: bool) -> None:
        if self._lost or not self._builder.n_timesteps:
            return
        try:
            self._writer.add(self._builder.finish(terminated=terminated, truncated=truncated, success=self._success))
        except BadEpisodeError as error:
            self._refuse(error)
        finally:
            self._builder.clear()

    def _refuse(self, error: BadEpisodeError) -> None:
        """Leaves the running episode out, or says what is wrong with it."""
        self._builder.clear()
        self._lost = True
        if self._on_bad == "error":
            seed = "" if self._seed == _UNKNOWN_SEED else f" (seed {self._seed})"
            place = f"{self._writer.out}: episode {self.n_episodes}{seed}"
            raise BadEpisodeError(f'{place}: {error}; on_bad="skip" leaves such episodes out') from error
        self.n_skipped += 1


def record(
    env: AnyEnv,
    policy: Callable[[Any], Any],
    *,
    episodes: int,
    out: str | Path,
    seed: int = 0,
    name: str | None = None,
    instruction: str | None = None,
    spec: TokenSpec | None = None,
    on_reset: Callable[[], object] | None = None,
    max_steps: int | None = None,
    on_bad: OnBad = "error",
    overwrite: bool = False,
    licence: str | None = None,
    attribution: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Record `policy` in `env` as a new dataset; `env` stays open.

    Args:
        env: Any Gymnasium environment.
        policy: From an observation to an action.
        episodes: How many.
        out: Folder of the new dataset.
        seed: Environment seed of the first episode; later ones count up from it, and stay below 700,000,000.
        name: Name of the task, as `RecordEpisodes` takes it, and so are the next two.
        instruction: What to do, in words.
        spec: How observations become tokens.
        on_reset: Called after each reset, such as a policy's own `reset`.
        max_steps: Cut episodes after so many steps; None leaves it to the environment.
        on_bad: Whether an episode with a bad value is an error, or left out and counted.
        overwrite: Whether a dataset in `out` may be replaced; it stays until the new one is whole.
        licence: SPDX name or words.
        attribution: Who made the episodes.
        on_progress: Called with the episodes done and in all.

    Raises:
        BadEpisodeError: a value is not finite or not in its space; the message names episode, key and step.
        FileExistsError: `out` holds something, and `overwrite` is off or it is no dataset.
        ValueError: a count is below 1, or seeds would be those that are for something else.
    """
    _check_counts(episodes, max_steps)
    block_seed(seed, (episodes + max(10, episodes)) // BLOCK_SEEDS)  # as many as are kept and may be left out
    about = {"name": name, "instruction": instruction, "licence": licence, "attribution": attribution}
    recorded = RecordEpisodes(env, out, spec=spec, on_bad=on_bad, overwrite=overwrite, seed=seed, **about)
    try:
        seeds = itertools.count(seed)
        while recorded.n_episodes < episodes:
            if recorded.n_skipped > max(10, episodes):
                raise ValueError(f"{out}: {recorded.n_skipped} episodes have bad values, more than are asked for")
            _play(recorded, policy, next(seeds), on_reset, max_steps)
            if on_progress is not None:
                on_progress(recorded.n_episodes, episodes)
        return recorded.finish()
    except BaseException:
        recorded.abandon()
        raise


def _check_counts(episodes: int, max_steps: int | None) -> None:
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got episodes={episodes}")
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps must be at least 1 or None, got max_steps={max_steps}")


def _play(
    env: RecordEpisodes,
    policy: Callable[[Any], Any],
    seed: int,
    on_reset: Callable[[], object] | None,
    max_steps: int | None,
) -> None:
    observation, _ = env.reset(seed=seed)
    if on_reset is not None:
        on_reset()
    steps, ended = 0, False
    while not ended and steps != max_steps:
        observation, _, terminated, truncated, _ = env.step(policy(observation))
        steps, ended = steps + 1, terminated or truncated
    env.cut()


def task_name(env: AnyEnv) -> str:
    """`gym:ID` where `gymnasium.make(ID)` makes `env`, otherwise the name of its class."""
    if env.spec is None or env.spec.additional_wrappers:
        return type(env.unwrapped).__name__
    plain = gym.spec(env.spec.id)
    given = {name: value for name, value in env.spec.kwargs.items() if name != "render_mode"}
    same = given == {name: value for name, value in plain.kwargs.items() if name != "render_mode"}
    if not same or env.spec.max_episode_steps != plain.max_episode_steps:
        return type(env.unwrapped).__name__
    return ANY_GYMNASIUM + env.spec.id
