"""Recording the catalogue's experts, so that the number of workers changes nothing and a kill costs little.

A recording is cut into blocks of 100 episodes, fewer where observations are large. Block k is one part; a part that is
whole is never made again: the same command goes on where a killed one stopped. A task that cannot be recorded does not
keep the others from being whole.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from gato_lite.envs.blocks import Block, GivenUpError, Made, find_made, package_versions
from gato_lite.envs.catalogue import Task, find_tasks
from gato_lite.envs.columns import is_array
from gato_lite.envs.dataset import Dataset, write_info
from gato_lite.envs.earlier import old_recording, prepare
from gato_lite.envs.episodes import BadEpisodeError
from gato_lite.envs.format import DatasetInfo, OnBad
from gato_lite.envs.seeds import block_seed
from gato_lite.envs.workers import record_blocks
from gato_lite.envs.writer import PART_BYTES, About, recorded
from gato_lite.lock import FolderLock
from gato_lite.spaces import AnySpace, Json, leaf_spaces, space_to_json

OnProgress = Callable[[int, int], None]

_TYPICAL_LENGTH: Final = 256
"""Timesteps of an episode by which the memory of a part is bounded."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A dataset that was recorded."""

    dataset: Dataset
    reasons: Mapping[str, int]
    """Failed episodes by reason."""
    examples: tuple[str, ...]
    """The first failures, in words, of those that failed now."""
    seconds: float
    """Time that its processes spent on it now, one after another; 0 where all was there already."""


class UnrecordedError(RuntimeError):
    """Some tasks could not be recorded; the datasets of the others are whole."""

    def __init__(self, errors: Mapping[str, Exception], recordings: Mapping[str, Recording]) -> None:
        n_all, texts = len(errors) + len(recordings), "; ".join(map(str, errors.values()))
        super().__init__(f"{len(errors)} of {n_all} tasks could not be recorded, the others are whole: {texts}")
        self.recordings = recordings
        """By task."""


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What holds for all tasks of one command."""

    workers: int | None
    seed: int
    on_bad: OnBad
    overwrite: bool
    time_limit_s: float | None


@dataclass(frozen=True)
class _Plan:
    """A task's recording."""

    task: Task
    out: Path
    blocks: Sequence[Block]


def record_task(
    task: str,
    episodes: int,
    out: str | Path,
    *,
    workers: int | None = None,
    seed: int = 0,
    on_bad: OnBad = "error",
    overwrite: bool = False,
    time_limit_s: float | None = None,
    progress: OnProgress | None = None,
) -> Dataset:
    """Record episodes of a task's expert (of random actions where it has none) in the folder `out`.

    The same arguments give the same bytes, whatever the number of workers; where they were recorded already, nothing is
    done. An episode in which the expert or the environment fails, raises or takes too long is left out and counted.

    Args:
        task: A name in the catalogue, or `gym:ID`.
        episodes: How many.
        out: Folder of the dataset.
        workers: Processes; None stays in this one, where an episode that hangs in C code is not ended.
        seed: First environment seed; a block of 100 episodes has 1,000 seeds.
        on_bad: Whether an episode with a bad value is an error, or left out and counted.
        overwrite: Whether another dataset in `out` may be replaced.
        time_limit_s: CPU time of one episode in seconds, 20 times that by the clock; None is the task's own.
        progress: Called with the episodes done and in all.

    Raises:
        BadEpisodeError: an episode has a bad value, and `on_bad` is "error".
        FileExistsError: `out` holds another recording.
        GivenUpError: the episodes fail one after another; what is whole is kept.
    """
    (found,) = find_tasks([task])
    options = _Options(workers=workers, seed=seed, on_bad=on_bad, overwrite=overwrite, time_limit_s=time_limit_s)
    return _record({found.name: (episodes, Path(out))}, options, progress)[found.name].dataset


def record_tasks(
    wanted: Mapping[str, int],
    out: str | Path,
    *,
    workers: int | None = None,
    seed: int = 0,
    on_bad: OnBad = "error",
    overwrite: bool = False,
    time_limit_s: float | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Recording]:
    """Record several tasks with one set of workers, each in a folder of its own within `out`.

    Args:
        wanted: Episodes of each task, by name.
        out: The folder that holds the datasets' folders: "babyai/GoToObj" is in `out`/babyai-GoToObj.
        workers: Processes; None stays in this one.
        seed: First environment seed.
        on_bad: Whether an episode with a bad value is an error, or left out and counted.
        overwrite: Whether other datasets may be replaced.
        time_limit_s: CPU time of one episode in seconds, 20 times that by the clock; None is each task's own.
        on_progress: Called with the episodes done and in all.

    Raises:
        UnrecordedError: some of several tasks could not be recorded; a lone task's error is as `record_task`'s.
    """
    options = _Options(workers=workers, seed=seed, on_bad=on_bad, overwrite=overwrite, time_limit_s=time_limit_s)
    return _record({name: (n, Path(out) / folder_name(name)) for name, n in wanted.items()}, options, on_progress)


def folder_name(task: str) -> str:
    """A task's name as the name of a folder."""
    return task.replace("/", "-").replace(":", "-")


def about_task(task: Task, seed: int, policy: str) -> About:
    """What a dataset of a task of the catalogue says of itself.

    Args:
        task: The task.
        seed: First environment seed.
        policy: What acted.
    """
    return About(
        task=task.name,
        spec=task.spec,
        instruction=task.instruction,
        metric=task.metric,
        generator={**package_versions(), "policy": policy},
        seed=seed,
    )


def _record(
    wanted: Mapping[str, tuple[int, Path]], options: _Options, progress: OnProgress | None
) -> dict[str, Recording]:
    if options.workers is not None and options.workers < 1:
        raise ValueError(f"workers must be at least 1 or None, got workers={options.workers}")
    if options.time_limit_s is not None and not options.time_limit_s > 0:
        raise ValueError(f"time_limit_s must be above 0 or None, got time_limit_s={options.time_limit_s}")
    if any(episodes < 1 for episodes, _ in wanted.values()):
        raise ValueError(f"episodes must be at least 1, got {dict(wanted)}")
    tasks = find_tasks(list(wanted))
    with contextlib.ExitStack() as locks:
        plans: dict[str, _Plan] = {}
        for task in tasks:
            episodes, out = wanted[task.name]
            blocks = _blocks(task, episodes, out, options)
            locks.enter_context(FolderLock(out))
            plans[task.name] = _Plan(task, out, prepare(out, blocks, overwrite=options.overwrite))
        recordings, errors = _carry_out(plans, options.workers, progress or (lambda _done, _total: None))
    if errors and len(plans) == 1:
        raise next(iter(errors.values()))
    recordings = {name: recordings[name] for name in wanted if name in recordings}
    if errors:
        raise UnrecordedError(errors, recordings)
    return recordings


def _blocks(task: Task, episodes: int, out: Path, options: _Options) -> list[Block]:
    """What is to be recorded of a task, once it is clear that its environment is there."""
    size = task.part_episodes
    if task.extra is None:
        env = task.make()
        size = min(size, max(1, PART_BYTES // (_TYPICAL_LENGTH * _n_bytes(env.observation_space))))
        env.close()
    else:
        task.require()  # making all environments of a suite takes minutes: workers do it
    block_seed(options.seed, (episodes - 1) // size)
    limit_s = task.time_limit_s if options.time_limit_s is None else options.time_limit_s
    return [
        Block(
            task=task.name,
            out=str(out),
            index=index,
            episodes=min(size, episodes - first),
            seed=options.seed,
            on_bad=options.on_bad,
            time_limit_s=limit_s,
        )
        for index, first in enumerate(range(0, episodes, size))
    ]


def _n_bytes(space: AnySpace) -> int:
    """Bytes of one value's arrays, at least 1."""
    arrays = [leaf for leaf in leaf_spaces(space).values() if is_array(leaf)]
    return 1 + sum(int(np.prod(leaf.shape or ())) * np.dtype(leaf.dtype).itemsize for leaf in arrays)


def _carry_out(
    plans: Mapping[str, _Plan], workers: int | None, progress: OnProgress
) -> tuple[dict[str, Recording], dict[str, Exception]]:
    """Records what is missing and makes each dataset whole with its last part; errors are by task."""
    blocks = [block for plan in plans.values() for block in plan.blocks]
    parts = {block: made for plan in plans.values() for block, made in _parts_there(plan).items()}
    total, done = sum(block.episodes for block in blocks), sum(block.episodes for block in parts)
    recordings: dict[str, Recording] = {}
    errors: dict[str, Exception] = {}

    def complete(name: str) -> None:
        if all(block in parts for block in plans[name].blocks):
            recordings[name] = _complete(plans[name], [parts[block] for block in plans[name].blocks])

    for name in plans:
        complete(name)
    progress(done, total)
    missing = [block for block in blocks if block not in parts]
    with contextlib.closing(record_blocks(missing, workers, lambda kept: progress(done + kept, total))) as outcomes:
        for block, outcome in outcomes:
            if isinstance(outcome, GivenUpError | BadEpisodeError):
                errors.setdefault(block.task, outcome)
                continue
            parts[block] = outcome
            done += block.episodes
            progress(done, total)
            complete(block.task)
    return recordings, errors


def _parts_there(plan: _Plan) -> dict[Block, Made]:
    """The blocks that are parts already: whole, and where a dataset lists the part, as it says."""
    old = old_recording(plan.out)
    listed = {} if old is None else {part.file: part for part in old.parts}
    found = ((block, find_made(block)) for block in plan.blocks)
    return {
        block: made for block, made in found if made is not None and listed.get(made.part.file, made.part) == made.part
    }


def _complete(plan: _Plan, made: Sequence[Made]) -> Recording:
    old = old_recording(plan.out)
    info = recorded(
        about_task(plan.task, plan.blocks[0].seed, "random actions" if plan.task.expert is None else "expert"),
        _stored_spaces(plan, made, old),
        [block.part for block in made],
        n_failed=sum(block.counts.failed for block in made),
        n_skipped=sum(block.counts.skipped for block in made),
        reference=plan.task.reference,
    )
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for block in made:
        reasons.update(block.counts.reasons)
        examples = {**block.examples, **examples}
    return Recording(
        dataset=Dataset.open(plan.out) if info == old else write_info(plan.out, info),
        reasons=dict(reasons),
        examples=tuple(examples.values()),
        seconds=sum(block.seconds for block in made),
    )


def _stored_spaces(plan: _Plan, made: Sequence[Made], old: DatasetInfo | None) -> tuple[Json, Json]:
    """The task's spaces as JSON: what a process that recorded now has seen, what a dataset of the same parts says."""
    for block in made:
        if block.spaces is not None:
            return block.spaces
    listed = old is not None and old.parts == tuple(block.part for block in made)
    if old is not None and listed and old.observation_space is not None and old.action_space is not None:
        return old.observation_space, old.action_space
    env = plan.task.make()
    stored = space_to_json(env.observation_space), space_to_json(env.action_space)
    env.close()
    return stored
