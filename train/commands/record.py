"""`gato-lite record`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from tyro.conf import Positional, arg

from gato_lite.train.console import bar, print_note, print_table

if TYPE_CHECKING:
    from gato_lite.envs.recording import Recording

EXAMPLE: Final = """\
gato-lite record classic/CartPole 'toy/*' --episodes 100 --out data
gato-lite data info data"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Record experts' episodes: a dataset for each task, in a folder of its own within DIR.

    The same seed gives the same files, whatever the number of workers. What a killed command has recorded is kept: the
    same command goes on from there.
    """

    tasks: Positional[Annotated[tuple[str, ...], arg(metavar="TASK …")]]
    """Names or patterns such as 'babyai/*'; gym:ID records random actions of any Gymnasium environment,
    gym:MODULE:ID of one that a module registers, such as gym:ale_py:ALE/Pong-v5."""
    episodes: int = 100
    """Episodes of each task."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for the datasets."""
    workers: Annotated[int | None, arg(metavar="N")] = None
    """Processes; None is one for each core."""
    seed: int = 0
    """First environment seed."""
    on_bad: Literal["error", "skip"] = "error"
    """Whether an episode with a bad value, such as NaN, is an error, or left out and counted."""
    time_limit: Annotated[float | None, arg(metavar="SECONDS")] = None
    """CPU time of one episode, which counts as failed beyond it, or beyond 20 times as long by the clock; None is each
    task's own."""
    overwrite: bool = False
    """Replace the datasets that are there."""


def run(options: Options) -> int:
    """Records, with one progress bar for all tasks and a table at the end."""
    from gato_lite.envs.catalogue import find_tasks
    from gato_lite.envs.record import record_tasks
    from gato_lite.envs.recording import UnrecordedError
    from gato_lite.train.cores import usable_cores

    if not options.tasks:
        raise ValueError("expected at least one task to record; `gato-lite tasks` lists them")
    if options.episodes < 1:
        raise ValueError(f"expected at least one episode of each task, got --episodes {options.episodes}")
    wanted = {task.name: options.episodes for task in find_tasks(options.tasks)}
    with bar("recording", "episodes") as show:
        show(0, options.episodes * len(wanted))
        try:
            recordings = record_tasks(
                wanted,
                options.out,
                workers=usable_cores() if options.workers is None else options.workers,
                seed=options.seed,
                on_bad=options.on_bad,
                overwrite=options.overwrite,
                time_limit_s=options.time_limit,
                on_progress=show,
            )
        except UnrecordedError as error:
            _print_recordings(error.recordings.values())
            raise
        except KeyboardInterrupt:
            print_note(f"gato-lite: interrupted; {options.out} keeps what is whole, the same command goes on there")
            return 130
    _print_recordings(recordings.values())
    return 0


def _print_recordings(recordings: Collection[Recording]) -> None:
    """A row for each dataset, and the first failures in words."""
    from gato_lite.envs.blocks import in_words

    numbers = ("episodes", "failed", "bad", "timesteps", "bytes/timestep", "seconds")
    rows = []
    for recording in recordings:
        info = recording.dataset.info
        size = sum(part.size for part in info.parts)
        counts = (f"{n:,}" for n in (info.n_rows, info.n_failed, info.n_skipped, info.n_timesteps))
        rows.append(
            [str(recording.dataset.path), *counts, f"{size / info.n_timesteps:.1f}", f"{recording.seconds:.1f}"]
        )
    if rows:
        print_table(("dataset", *numbers), rows, numbers=numbers)
    for recording in recordings:
        if recording.reasons:
            examples = "".join(f"; such as {example}" for example in recording.examples)
            print_note(f"{recording.dataset.info.task}: {in_words(recording.reasons)} failed{examples}")
