"""Recording the catalogue's experts in parallel, so that the number of workers changes nothing and a kill costs little.

A recording is cut into blocks of 100 episodes. Block k is one part, made by one process from environment seeds of its
own; an episode in which the expert fails gives way to the next seed of the block. A part that is whole is never made
again: the same command goes on where a killed one stopped.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from gato_lite.envs.catalogue import Task, find_tasks, references
from gato_lite.envs.dataset import Dataset, write_info
from gato_lite.envs.episodes import BadEpisodeError, EpisodeBuilder, Episodes, concatenate_episodes
from gato_lite.envs.experts import AnyEnv, ExpertFailedError, RandomExpert
from gato_lite.envs.folder import claim, next_first_part, part_number, sweep
from gato_lite.envs.format import BLOCK, INFO_FILE, DatasetError, DatasetInfo, Part, read_info, versions
from gato_lite.envs.parts import describe, part_name, read_metadata, read_table, write_episodes
from gato_lite.envs.play import play_episode
from gato_lite.envs.seeds import BLOCK_SEEDS, block_seed
from gato_lite.envs.writer import About, recorded
from gato_lite.lock import FolderLock
from gato_lite.spaces import space_to_json

OnBad = Literal["error", "skip"]
OnProgress = Callable[[int, int], None]

_PACKAGES: Final = ("gato_lite", "gymnasium", "minigrid", "numpy", "pyarrow")


@dataclass(frozen=True)
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
    first_part: int = 0
    """Number of the recording's first part; another where it replaces a dataset."""

    @property
    def identity(self) -> dict[str, Any]:
        """What all parts of one recording share; a part that differs is of another recording."""
        return {"task": self.task, "seed": self.seed, "on_bad": self.on_bad, "versions": _versions()}

    @property
    def path(self) -> Path:
        """The part's file."""
        return Path(self.out) / part_name(self.first_part + self.index)


class _Counts(msgspec.Struct, frozen=True):
    failed: int
    skipped: int


def record_task(
    task: str,
    episodes: int,
    out: str | Path,
    *,
    workers: int = 1,
    seed: int = 0,
    on_bad: OnBad = "error",
    overwrite: bool = False,
    progress: OnProgress | None = None,
) -> Dataset:
    """Record episodes of a task's expert (of random actions where it has none) in the folder `out`.

    The same arguments give the same bytes, whatever the number of workers; where they were recorded already, nothing is
    done.

    Args:
        task: A name in the catalogue, or `gym:ID`.
        episodes: How many.
        out: Folder of the dataset.
        workers: Processes; 1 stays in this one.
        seed: First environment seed; a block of 100 episodes has 1,000 seeds.
        on_bad: Whether an episode with a bad value is an error, or left out and counted.
        overwrite: Whether another dataset in `out` may be replaced.
        progress: Called with the episodes done and in all.

    Raises:
        FileExistsError: `out` holds another recording.
        RuntimeError: the expert fails too often, or a worker died; what is whole is kept.
    """
    (found,) = find_tasks([task])
    return _record({found.name: (episodes, Path(out))}, workers, seed, on_bad, overwrite, progress)[found.name]


def record_tasks(
    wanted: Mapping[str, int],
    out: str | Path,
    *,
    workers: int = 1,
    seed: int = 0,
    on_bad: OnBad = "error",
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> dict[str, Path]:
    """Record several tasks with one set of workers, each in a folder of its own within `out`.

    Args:
        wanted: Episodes of each task, by name.
        out: The folder that holds the datasets' folders.
        workers: Processes; 1 stays in this one.
        seed: First environment seed.
        on_bad: Whether an episode with a bad value is an error, or left out and counted.
        overwrite: Whether other datasets may be replaced.
        on_progress: Called with the episodes done and in all.

    Returns:
        The folder of each task's dataset: "babyai/GoToObj" is in `out`/babyai-GoToObj.
    """
    plans = {name: (episodes, Path(out) / folder_name(name)) for name, episodes in wanted.items()}
    return {name: found.path for name, found in _record(plans, workers, seed, on_bad, overwrite, on_progress).items()}


def folder_name(task: str) -> str:
    """A task's name as the name of a folder."""
    return task.replace("/", "-").replace(":", "-")


def _record(
    plans: Mapping[str, tuple[int, Path]],
    workers: int,
    seed: int,
    on_bad: OnBad,
    overwrite: bool,
    progress: OnProgress | None,
) -> dict[str, Dataset]:
    if workers < 1 or any(episodes < 1 for episodes, _ in plans.values()):
        raise ValueError(f"workers and episodes must be at least 1, got workers={workers}, {dict(plans)}")
    tasks = {task.name: task for task in find_tasks(list(plans))}
    with contextlib.ExitStack() as locks:
        blocks: list[Block] = []
        for name, (episodes, out) in plans.items():
            tasks[name].make().close()  # a missing extra is told before anything is touched
            block_seed(seed, (episodes - 1) // BLOCK)
            mine = [
                Block(name, str(out), index, min(BLOCK, episodes - first), seed, on_bad)
                for index, first in enumerate(range(0, episodes, BLOCK))
            ]
            locks.enter_context(FolderLock(out))
            blocks += _prepare(out, mine, overwrite=overwrite)
        results = dict(_run(blocks, workers, progress))
        datasets = {}
        for name, (_, out) in plans.items():
            datasets[name] = _complete(
                tasks[name], out, seed, [results[block] for block in blocks if block.task == name]
            )
        return datasets


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
        claim(out, overwrite=overwrite, is_wanted=lambda file: _identity(file) == wanted.get(file.name, 0))
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


def _complete(task: Task, out: Path, seed: int, results: Sequence[tuple[Part, _Counts]]) -> Dataset:
    env = task.make()
    info = recorded(
        about_task(task, seed, "random actions" if task.expert is None else "expert"),
        (space_to_json(env.observation_space), space_to_json(env.action_space)),
        [part for part, _ in results],
        n_failed=sum(counts.failed for _, counts in results),
        n_skipped=sum(counts.skipped for _, counts in results),
        reference=references().get(task.name),
    )
    env.close()
    if (out / INFO_FILE).is_file() and read_info(out) == info:
        return Dataset.open(out)
    return write_info(out, info)


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
        generator={**_versions(), "policy": policy},
        seed=seed,
    )


def _run(
    blocks: Sequence[Block], workers: int, progress: OnProgress | None
) -> Iterator[tuple[Block, tuple[Part, _Counts]]]:
    total, done = sum(block.episodes for block in blocks), 0
    made = [(block, result) for block in blocks if (result := _made(block)) is not None]
    left = sorted(set(blocks) - {block for block, _ in made}, key=blocks.index)
    new = _run_in_turn(left) if workers == 1 or len(left) < 2 else _run_in_processes(left, workers)
    for block, result in itertools.chain(made, new):
        yield block, result
        done += block.episodes
        if progress is not None:
            progress(done, total)


def _run_in_turn(blocks: Sequence[Block]) -> Iterator[tuple[Block, tuple[Part, _Counts]]]:
    for block in blocks:
        yield block, record_block(block)


def _run_in_processes(blocks: Sequence[Block], workers: int) -> Iterator[tuple[Block, tuple[Part, _Counts]]]:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(blocks)), context, initializer=_begin_worker)
    try:
        waiting = {pool.submit(record_block, block): block for block in blocks}
        for finished in as_completed(waiting):
            yield waiting[finished], finished.result()
    except BrokenProcessPool as error:
        raise RuntimeError("a recording worker died; what is whole is kept: the same command goes on there") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which lets running blocks end
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # a worker whose parent was killed would wait for work for ever

    threading.Thread(target=follow, daemon=True).start()


def _made(block: Block) -> tuple[Part, _Counts] | None:
    """The part of a block that was recorded whole before."""
    found = read_metadata(block.path)
    if found is None or (found.get("identity"), found.get("episodes")) != (block.identity, block.episodes):
        return None
    try:
        read_table(block.path)  # its page checksums are verified
    except DatasetError:
        return None
    part = describe(block.path, rows=block.episodes, timesteps=found["timesteps"])
    return part, msgspec.convert(found["counts"], _Counts)


def record_block(block: Block) -> tuple[Part, _Counts]:
    """Make one part."""
    task, env = _environment(block.task)
    episodes, counts = _record_episodes(task, env, block)
    metadata = {
        "identity": block.identity,
        "episodes": block.episodes,
        "timesteps": int(episodes.lengths.sum()),
        "counts": msgspec.to_builtins(counts),
    }
    return write_episodes(block.path, episodes, env.observation_space, env.action_space, metadata), counts


def _record_episodes(task: Task, env: AnyEnv, block: Block) -> tuple[Episodes, _Counts]:
    first = block_seed(block.seed, block.index)
    expert = RandomExpert(env, first) if task.expert is None else task.expert(env)
    builder = EpisodeBuilder(env.observation_space, env.action_space)
    kept: list[Episodes] = []
    failed, skipped, reason = 0, 0, ""
    for seed in range(first, first + BLOCK_SEEDS):
        try:
            episode = play_episode(task, env, expert, builder, seed)
            if task.must_succeed and episode.success is not None and not episode.success.all():
                raise ExpertFailedError("the expert did not succeed")
            kept.append(episode)
        except ExpertFailedError as error:
            failed, reason = failed + 1, str(error)
        except BadEpisodeError as error:
            if block.on_bad == "error":
                raise BadEpisodeError(f"{task.name}, seed {seed}: {error}") from error
            skipped, reason = skipped + 1, str(error)
        if len(kept) == block.episodes:
            return concatenate_episodes(kept), _Counts(failed, skipped)
    raise RuntimeError(
        f"{task.name}: expected {block.episodes} episodes from {BLOCK_SEEDS} seeds from {first}, got {len(kept)}:"
        f" {failed} failed, {skipped} had bad values; the last: {reason}"
    )


@functools.cache
def _environment(name: str) -> tuple[Task, AnyEnv]:
    """A task and an environment that this process keeps for all blocks of it."""
    (task,) = find_tasks([name])
    return task, task.make()


@functools.cache
def _versions() -> dict[str, str]:
    return versions(*_PACKAGES)
