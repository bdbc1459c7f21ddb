"""Writing episodes into a new dataset, one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gato_lite.config import TokenSpec
from gato_lite.envs.dataset import Dataset, write_info
from gato_lite.envs.episodes import Episodes, concatenate_episodes
from gato_lite.envs.folder import claim, sweep
from gato_lite.envs.format import BLOCK, DatasetInfo, Metric, Part, Reference
from gato_lite.envs.parts import part_name, write_episodes
from gato_lite.lock import FolderLock
from gato_lite.spaces import AnySpace, Json, lone_surrogate, require_leaf, space_to_json

PART_BYTES: Final = 64 * 2**20
"""A part is written when its arrays reach this size, however few episodes it has."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a dataset of episodes says of itself, beside its spaces."""

    task: str
    """Name of the task."""
    spec: TokenSpec = field(default_factory=TokenSpec)
    """How observations become tokens."""
    instruction: str | None = None
    """What to do, in words."""
    metric: Metric = "return"
    """What a score is the mean of."""
    generator: Mapping[str, str] = field(default_factory=dict)
    """Versions of packages, and what acted."""
    seed: int | None = None
    """First environment seed."""
    licence: str | None = None
    """SPDX name or words."""
    attribution: str | None = None
    """Who made the values."""

    def __post_init__(self) -> None:
        for name in ("task", "instruction", "licence", "attribution"):
            if (place := lone_surrogate(getattr(self, name) or "")) is not None:
                raise ValueError(f"{name} must be text that UTF-8 can write, got a lone surrogate at {place}")


def recorded(
    about: About,
    stored_spaces: tuple[Json, Json],
    parts: Sequence[Part],
    *,
    n_failed: int = 0,
    n_skipped: int = 0,
    reference: Reference | None = None,
) -> DatasetInfo:
    """What `dataset.json` says of episodes.

    Args:
        about: What the dataset says of itself.
        stored_spaces: Observation and action space as JSON.
        parts: Its files.
        n_failed: Episodes left out because the expert failed.
        n_skipped: Episodes left out because of a bad value.
        reference: The two ends of the task's scale.
    """
    return DatasetInfo(
        kind="control",
        task=about.task,
        observation_space=stored_spaces[0],
        action_space=stored_spaces[1],
        spec=about.spec,
        instruction=about.instruction,
        metric=about.metric,
        generator=dict(about.generator),
        seed=about.seed,
        n_rows=sum(part.rows for part in parts),
        n_timesteps=sum(part.timesteps for part in parts),
        n_failed=n_failed,
        n_skipped=n_skipped,
        reference=reference,
        licence=about.licence,
        attribution=about.attribution,
        parts=tuple(parts),
    )


class DatasetWriter:
    """Gathers episodes into parts of a new dataset; the folder counts as one only after `finish`.

    A dataset that is replaced stays whole until then. Leaving the `with` block by an error removes what was written.

    Raises:
        ValueError: a space has no leaf.
        FileExistsError: `out` holds something, and `overwrite` is off or it is no dataset.
        BlockingIOError: another process writes into `out`.
    """

    def __init__(
        self,
        out: str | Path,
        observation_space: AnySpace,
        action_space: AnySpace,
        about: About,
        *,
        overwrite: bool = False,
    ) -> None:
        require_leaf(observation_space, "observation space")
        require_leaf(action_space, "action space")
        self.out = Path(out)
        self.observation_space, self.action_space, self.about = observation_space, action_space, about
        self.n_episodes = 0
        self._stored_spaces = space_to_json(observation_space), space_to_json(action_space)
        self._waiting: list[Episodes] = []
        self._parts: list[Part] = []
        self._lock = FolderLock(self.out)
        self._lock.__enter__()
        try:
            self._first_part = claim(self.out, overwrite=overwrite)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abandon()

    def add(self, episodes: Episodes) -> None:
        """Add checked episodes, such as `EpisodeBuilder.finish` returns."""
        self._waiting.append(episodes)
        self.n_episodes += len(episodes)
        waiting = sum(len(run) for run in self._waiting)
        if waiting >= BLOCK or sum(run.n_bytes for run in self._waiting) >= PART_BYTES:
            self._flush()

    def finish(self, *, n_skipped: int = 0, reference: Reference | None = None) -> Dataset:
        """Write what is left and `dataset.json`.

        Args:
            n_skipped: Episodes left out because of a bad value.
            reference: The two ends of the task's scale.

        Raises:
            ValueError: no episode was added.
        """
        if not self.n_episodes:
            self.abandon()
            raise ValueError(f"{self.out}: expected at least one episode to write, got none ({n_skipped} left out)")
        self._flush()
        info = recorded(self.about, self._stored_spaces, self._parts, n_skipped=n_skipped, reference=reference)
        dataset = write_info(self.out, info)
        self._lock.__exit__(None, None, None)
        return dataset

    def abandon(self) -> None:
        """Remove what was written, but not a dataset that was to be replaced, and give the folder back."""
        sweep(self.out)
        self._lock.__exit__(None, None, None)

    def _flush(self) -> None:
        if self._waiting:
            path = self.out / part_name(self._first_part + len(self._parts))
            episodes = concatenate_episodes(self._waiting)
            self._parts.append(write_episodes(path, episodes, self.observation_space, self.action_space))
            self._waiting = []
