"""One part of a recording: a block of episodes that one process makes, from environment seeds of its own.

An episode is a function of its seed alone; one in which the expert fails gives way to the next seed of the block. So a
block has the same bytes whoever makes it, however often, and a part that is whole is never made again.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from gato_lite.envs.catalogue import Task, find_tasks
from gato_lite.envs.dataset import DatasetError
from gato_lite.envs.episodes import BadEpisodeError, EpisodeBuilder, Episodes, concatenate_episodes
from gato_lite.envs.experts import AnyEnv, Expert, ExpertFailedError, RandomExpert, TimeLimitError
from gato_lite.envs.format import OnBad, Part, versions
from gato_lite.envs.parts import describe, part_name, read_metadata, read_table, write_episodes
from gato_lite.envs.play import play_episode
from gato_lite.envs.seeds import BLOCK_SEEDS, block_seed
from gato_lite.envs.task import PACKAGES
from gato_lite.spaces import Json, space_to_json

TIME_LIMIT: Final = "time limit"
"""Reason of an episode that took too long."""
WORKER_DIED: Final = "worker died"
"""Reason of an episode that ended the process it was played in, twice."""
_GIVE_UP_AFTER: Final = 100
"""Seeds without a single episode after which a block is given up."""


class GivenUpError(RuntimeError):
    """A task that cannot be recorded: its episodes fail one after another, or its environment cannot be made."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """What one process records at a time."""

    task: str
    out: str
    """Folder of the dataset."""
    index: int
    """Number of the block in the recording."""
    episodes: int
    seed: int
    """First environment seed of the whole recording."""
    on_bad: OnBad
    time_limit_s: float
    """CPU time that one episode may take, in seconds (`experts.time_limit`)."""
    first_part: int = 0
    """Number of the recording's first part; another where it replaces a dataset."""

    @property
    def identity(self) -> dict[str, Any]:
        """What all parts of one recording share; a part that differs is of another recording."""
        (task,) = find_tasks([self.task])
        kept = {} if task.least_return is None else {"least_return": task.least_return}
        return {"task": self.task, "seed": self.seed, "on_bad": self.on_bad, "versions": package_versions(), **kept}

    @property
    def path(self) -> Path:
        """The part's file."""
        return Path(self.out) / part_name(self.first_part + self.index)


class Counts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Episodes of a block that were left out."""

    failed: int
    skipped: int
    """For a bad value."""
    reasons: dict[str, int] = {}
    """The failed ones by reason."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A block that is a part on disk."""

    part: Part
    counts: Counts
    spaces: tuple[Json, Json] | None = None
    """Observation and action space as JSON; None where the part was there already."""
    examples: Mapping[str, str] = field(default_factory=dict)
    """The first failure of each reason, in words."""
    seconds: float = 0.0
    """What making it took; 0 where it was there already."""


def find_made(block: Block) -> Made | None:
    """The part of a block that was recorded whole before; its page checksums are verified."""
    found = read_metadata(block.path)
    if found is None or (found.get("identity"), found.get("episodes")) != (block.identity, block.episodes):
        return None
    try:
        read_table(block.path)
    except DatasetError:
        return None
    part = describe(block.path, rows=block.episodes, timesteps=found["timesteps"])
    return Made(part=part, counts=msgspec.convert(found["counts"], Counts))


class Studio:
    """A task's environment, which a process keeps from one block of the task to the next, and a block's expert."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self._env: AnyEnv | None = None
        self._expert: Expert | None = None

    @property
    def env(self) -> AnyEnv:
        """The environment of the task that was set."""
        assert self._env is not None, "no task is set"
        return self._env

    def set(self, task: Task) -> None:
        """Begin a block of `task` with a new expert.

        Raises:
            GivenUpError: its environment or its expert cannot be made.
        """
        try:
            if self._env is None or self.task is None or self.task.name != task.name:
                self.close()
                self._env = task.make()
            self.task = task
            self._expert = None if task.expert is None else task.expert(self._env)
        except Exception as error:
            raise GivenUpError(f"{task.name}: cannot be made: {type(error).__name__}: {error}") from error
        self._builder = EpisodeBuilder(self._env.observation_space, self._env.action_space)

    def renew(self) -> None:
        """Another environment and expert for the same task, where an exception has left them in an unknown state."""
        assert self.task is not None
        self.close()
        self.set(self.task)

    def play(self, seed: int, limit_s: float) -> Episodes:
        """The episode of `seed`; of random actions where the task has no expert."""
        assert self.task is not None
        expert = RandomExpert(self.env, seed) if self._expert is None else self._expert
        return play_episode(self.task, self.env, expert, self._builder, seed, limit_s)

    def close(self) -> None:
        """Close the environment, whatever state it is in."""
        env, self._env, self._expert = self._env, None, None
        if env is not None:
            with contextlib.suppress(Exception):
                env.close()


def record_block(
    block: Block,
    studio: Studio,
    lost: Mapping[int, str] | None = None,
    notice: Callable[[int, int], object] = lambda _seed, _kept: None,
) -> Made:
    """Make one part.

    Args:
        block: What to record.
        studio: The process's environment.
        lost: Seeds that hung or ended a process, with the reason: they count as failed and are not played again.
        notice: Called before each episode with its seed and the number of episodes kept.

    Raises:
        BadEpisodeError: a value is bad, and the block does not skip such episodes.
        GivenUpError: the task cannot be recorded.
    """
    start = time.perf_counter()
    (task,) = find_tasks([block.task])
    studio.set(task)
    attempts = _Attempts(task, block)
    episodes = attempts.play(studio, lost or {}, notice)
    metadata = {
        "identity": block.identity,
        "episodes": block.episodes,
        "timesteps": int(episodes.lengths.sum()),
        "counts": msgspec.to_builtins(attempts.counts),
    }
    spaces = studio.env.observation_space, studio.env.action_space
    part = write_episodes(block.path, episodes, *spaces, metadata)
    return Made(
        part=part,
        counts=attempts.counts,
        spaces=(space_to_json(spaces[0]), space_to_json(spaces[1])),
        examples=attempts.examples,
        seconds=time.perf_counter() - start,
    )


class _Attempts:
    """The episodes of a block, seed after seed, and why some are left out."""

    def __init__(self, task: Task, block: Block) -> None:
        self.task, self.block = task, block
        self.kept: list[Episodes] = []
        self.skipped = 0
        self.reasons: collections.Counter[str] = collections.Counter()
        self.examples: dict[str, str] = {}
        self.last = ""
        """The last failure in words."""

    @property
    def counts(self) -> Counts:
        """What was left out."""
        return Counts(self.reasons.total(), self.skipped, dict(sorted(self.reasons.items())))

    def play(self, studio: Studio, lost: Mapping[int, str], notice: Callable[[int, int], object]) -> Episodes:
        """As many episodes as the block has."""
        first = block_seed(self.block.seed, self.block.index)
        for seed in range(first, first + BLOCK_SEEDS):
            if seed in lost:
                self._fail(seed, lost[seed], lost[seed])
            else:
                notice(seed, len(self.kept))
                self._try(studio, seed)
            if len(self.kept) == self.block.episodes:
                return concatenate_episodes(self.kept)
            if not self.kept and seed + 1 - first == _GIVE_UP_AFTER:
                break
        reasons = f" ({in_words(self.counts.reasons)})" * bool(self.reasons)
        raise GivenUpError(
            f"{self.task.name}: expected {self.block.episodes} episodes from {seed + 1 - first} seeds from {first},"
            f" got {len(self.kept)}: {self.counts.failed} failed{reasons}, {self.skipped} had bad values;"
            f" the last: {self.last}"
        )

    def _try(self, studio: Studio, seed: int) -> None:
        try:
            episode = studio.play(seed, self.block.time_limit_s)
        except BadEpisodeError as error:
            if self.block.on_bad == "error":
                raise BadEpisodeError(f"{self.task.name}, seed {seed}: {error}") from error
            self.skipped += 1
            self.last = str(error)
        except TimeLimitError as error:
            self._fail(seed, TIME_LIMIT, str(error))
            studio.renew()
        except ExpertFailedError as error:
            self._fail(seed, "expert failed", str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001  (environments and experts are anyone's)
            self._fail(seed, type(error).__name__, f"{type(error).__name__}: {error}")
            studio.renew()
        else:
            success = None if episode.success is None else bool(episode.success.all())
            total_reward = float(episode.rewards.sum())
            if self.task.is_demonstration(total_reward, success):
                self.kept.append(episode)
            elif success is False:
                self._fail(seed, "not successful", "the expert did not succeed")
            else:
                self._fail(
                    seed, "low return", f"the expert's return is {total_reward:g}, below {self.task.least_return:g}"
                )

    def _fail(self, seed: int, reason: str, text: str) -> None:
        self.reasons[reason] += 1
        self.last = text
        self.examples.setdefault(reason, f"seed {seed}: {text}")


def in_words(reasons: Mapping[str, int]) -> str:
    """How often episodes failed, by reason."""
    return ", ".join(f"{n} {reason}" for reason, n in reasons.items())


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of what a recording depends on."""
    return versions("gato_lite", *PACKAGES, "pyarrow")
