"""Recording the catalogue's experts, so that the number of workers changes nothing and a kill costs little.

A recording is cut into blocks of 100 episodes, fewer where observations are large. Block k is one part; a part that is
whole is never made again: the same command goes on where a killed one stopped. A task that cannot be recorded does not
keep the others from being whole.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from gato_lite.envs.blocks import Block, GivenUpError, Made, find_made, package_versions
from gato_lite.envs.catalogue import Task, find_tasks
from gato_lite.envs.columns import is_array
from gato_lite.envs.dataset import Dataset, write_info
from gato_lite.envs.episodes import BadEpisodeError
from gato_lite.envs.folder import claim, next_first_part, part_number, sweep
from gato_lite.envs.format import INFO_FILE, DatasetError, DatasetInfo, OnBad, read_info
from gato_lite.envs.parts import read_metadata
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
            plans[task.name] = _Plan(task, out, _prepare(out, blocks, overwrite=options.overwrite))
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
    old = _old_recording(plan.out)
    listed = {} if old is None else {part.file: part for part in old.parts}
    found = ((block, find_made(block)) for block in plan.blocks)
    return {
        block: made for block, made in found if made is not None and listed.get(made.part.file, made.part) == made.part
    }


def _complete(plan: _Plan, made: Sequence[Made]) -> Recording:
    old = _old_recording(plan.out)
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


def _prepare(out: Path, blocks: Sequence[Block], *, overwrite: bool) -> list[Block]:
    """The blocks with the numbers of their parts, once `out` holds nothing else but a dataset that they replace.

    Raises:
        FileExistsError: it does, or nothing shows that a damaged part in it is of this recording.
    """
    old = _old_recording(out)
    first = 0 if old is None else part_number(old.parts[0].file)
    mine = [replace(block, first_part=first) for block in blocks]
    if not _is_resumable(out, old, mine, overwrite=overwrite):
        first = 0 if old is None else next_first_part(old)
        mine = [replace(block, first_part=first) for block in blocks]
        wanted = {block.path.name: block.identity for block in mine}
        claim(
            out,
            overwrite=overwrite,
            is_wanted=lambda file: _identity(file) == wanted.get(file.name, 0),
            differences=lambda: _differences(out, old, mine),
        )
    wanted_names = {block.path.name for block in mine}
    sweep(out, is_wanted=lambda file: file.name in wanted_names)
    return mine


def _old_recording(out: Path) -> DatasetInfo | None:
    """What the dataset in `out` says of itself; None where there is none that is whole."""
    try:
        info = read_info(out)
    except DatasetError:
        return None
    return info if info.parts else None


def _identity(file: Path) -> Any:  # Any: JSON
    """Of which recording a part is; None of a damaged file."""
    return (read_metadata(file) or {}).get("identity")


def _is_resumable(out: Path, old: DatasetInfo | None, blocks: Sequence[Block], *, overwrite: bool) -> bool:
    """Whether what lies in `out` is of this recording, or nothing.

    Raises:
        FileExistsError: nothing shows that a damaged part in it is, and `overwrite` is off.
    """
    wanted = {block.path.name: block.identity for block in blocks}
    listed = set() if old is None else {part.file for part in old.parts}
    parts = {
        file.name: read_metadata(file) for file in out.glob("part-*.parquet") if old is None or file.name in listed
    }
    resumable = all(
        name in wanted and (metadata is None or metadata.get("identity") == wanted[name])
        for name, metadata in parts.items()  # None is a damaged part, which is made again
    )
    if (out / INFO_FILE).is_file():
        rows = [] if old is None else [part.rows for part in old.parts]
        return resumable and rows == [block.episodes for block in blocks]
    if not parts:
        return not any(file for file in out.iterdir() if file.name != FolderLock.NAME and file.suffix != ".tmp")
    if resumable and all(metadata is None for metadata in parts.values()):
        if not overwrite:
            raise FileExistsError(
                f"{out / min(parts)}: expected a part of this recording, found damage or another file;"
                " name another folder, or pass overwrite=True (--overwrite) to replace it"
            )
        return False
    return resumable


def _differences(out: Path, old: DatasetInfo | None, blocks: Sequence[Block]) -> str:
    """How the recording in `out` is not the one of `blocks`, as the end of a sentence."""
    files = sorted(out.glob("part-*.parquet")) if old is None else [out / part.file for part in old.parts]
    identities = [found for file in files if isinstance(found := _identity(file), dict)]
    if not identities:
        return "" if old is None else ", which is no recording of a task of the catalogue"
    asked = blocks[0].identity
    there, asked = _by_name(next((found for found in identities if found != asked), asked)), _by_name(asked)
    if there.get("least_return") is None and "least_return" in asked:
        there["least_return"] = "none (it was recorded before the task had one, and may hold episodes below it)"
    names, wanted = [file.name for file in files], [block.path.name for block in blocks]
    if old is not None:
        there["episodes"], asked["episodes"] = old.n_rows, sum(block.episodes for block in blocks)
    if old is None and not set(names) <= set(wanted):
        there["parts"], asked["parts"] = f"{names[0]} to {names[-1]}", f"{wanted[0]} to {wanted[-1]}"
    elif old is not None and there["episodes"] == asked["episodes"]:
        there["episodes of a part"], asked["episodes of a part"] = old.parts[0].rows, blocks[0].episodes
    differing = [name for name in {**asked, **there} if there.get(name) != asked.get(name)]
    listed = [f"{name}: there {there.get(name, 'none')}, asked for {asked.get(name, 'none')}" for name in differing]
    return f", which is not what is asked for ({'; '.join(listed)})" if listed else ""


def _by_name(identity: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON
    """What all parts of a recording share, with each package's version by its own name."""
    versions = identity.get("versions")
    rest = {name: value for name, value in identity.items() if name != "versions"}
    return {**rest, **(versions if isinstance(versions, dict) else {})}
