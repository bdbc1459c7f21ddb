"""`gato-lite demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from tyro.conf import arg

from gato_lite.train.console import print_note

EXAMPLE: Final = "gato-lite demo --out runs/demo --minutes 10"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Record, train, evaluate, caption and write with one model, and make a page that shows it.

    The run is left in OUT/run, its page in OUT/run/report.html, its scores in OUT/scores.json.
    """

    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/demo")
    """Folder for data, run, scores and report."""
    minutes: float = 10.0
    """Minutes for everything, from this command to the report."""
    overwrite: bool = False
    """Replace the demo that is in DIR."""


def run(options: Options) -> int:
    """Runs the demo; the exit code of a signal that stopped its training."""
    from gato_lite.train.demo import run_demo
    from gato_lite.train.loop import Interrupted

    if not options.minutes > 0:
        raise ValueError(f"expected a positive number of minutes, got --minutes {options.minutes}")
    try:
        run_demo(options.out, minutes=options.minutes, overwrite=options.overwrite)
    except Interrupted as end:
        print_note(f"gato-lite: stopped; the model so far is saved in {options.out / 'run'}")
        return int(str(end.code))
    return 0
