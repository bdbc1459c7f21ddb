"""`gato-lite record`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from tyro.conf import Positional, arg

from gato_lite.train.console import bar, print_note

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
    """Names or patterns such as 'babyai/*'; gym:ID records random actions of any Gymnasium environment."""
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
    overwrite: bool = False
    """Replace the datasets that are there."""


def run(options: Options) -> int:
    """Records, with one progress bar for all tasks."""
    from gato_lite.envs.catalogue import find_tasks
    from gato_lite.envs.dataset import Dataset
    from gato_lite.envs.record import record_tasks
    from gato_lite.train.cores import usable_cores

    if not options.tasks:
        raise ValueError("expected at least one task to record; `gato-lite tasks` lists them")
    if options.episodes < 1:
        raise ValueError(f"expected at least one episode of each task, got --episodes {options.episodes}")
    wanted = {task.name: options.episodes for task in find_tasks(options.tasks)}
    with bar("recording", "episodes") as show:
        show(0, options.episodes * len(wanted))
        try:
            folders = record_tasks(
                wanted,
                options.out,
                workers=usable_cores() if options.workers is None else options.workers,
                seed=options.seed,
                on_bad=options.on_bad,
                overwrite=options.overwrite,
                on_progress=show,
            )
        except KeyboardInterrupt:
            print_note(f"gato-lite: interrupted; {options.out} keeps what is whole, the same command goes on there")
            return 130
    for folder in folders.values():
        info = Dataset.open(folder).info
        left_out = f", {info.n_failed} failed and {info.n_skipped} bad left out" * bool(info.n_failed + info.n_skipped)
        print(f"{folder}: {info.n_rows:,} episodes, {info.n_timesteps:,} timesteps{left_out}")
    return 0
