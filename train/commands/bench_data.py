"""`gato-lite bench data`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from tyro.conf import arg

from gato_lite.train.console import bar, print_table, refuse_to_overwrite, to_json, write_whole

if TYPE_CHECKING:
    from gato_lite.train.bench.data import SourceSpeed, StartUp

EXAMPLE: Final = "gato-lite bench data --json speed.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure how fast data become training streams, by one thread, and how soon commands answer.

    About half a minute; nothing is left behind.
    """

    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write the figures there too."""
    overwrite: bool = False
    """Replace FILE."""


def run(options: Options) -> None:
    """Prints two tables."""
    import torch

    from gato_lite.train.bench.data import measure_sources, measure_start_up
    from gato_lite.train.bench.measure import this_machine

    refuse_to_overwrite([options.json], overwrite=options.overwrite)
    with bar("data", "sources") as show:
        sources = measure_sources(on_progress=show)
    with bar("start-up", "processes") as show:
        starts = measure_start_up(on_progress=show)
    machine = this_machine(torch.device("cpu"))
    print(f"{machine.processor}, one thread of {machine.cores} cores, Python {machine.python}\n")
    print_sources(sources)
    print()
    print_table(
        ["start-up", "seconds", "limit"],
        [[row.what, f"{row.seconds:.2f}", f"{row.limit_s:.1f}"] for row in starts],
        numbers=["seconds", "limit"],
    )
    if options.json is not None:
        found: list[SourceSpeed | StartUp] = [*sources, *starts]
        report = {"command": "gato-lite bench data", "machine": machine, "results": found}
        write_whole(options.json, to_json(report) + "\n")


def print_sources(sources: list[SourceSpeed]) -> None:
    """A row for each kind of source: rates of one pass from disk, of drawing alone, and where the time goes."""
    header = ["source", "documents/s", "tokens/s", "MB/s", "drawn tokens/s", "reading", "tokenising", "drawing"]
    rows = [
        [
            source.kind,
            f"{source.documents / source.seconds:,.0f}",
            f"{source.tokens / source.seconds:,.0f}",
            f"{source.megabytes / source.seconds:,.1f}",
            f"{source.tokens / source.draw_s:,.0f}",
            f"{source.read_s / source.seconds:.0%}",
            f"{source.tokenise_s / source.seconds:.0%}",
            f"{source.draw_s / source.seconds:.0%}",
        ]
        for source in sources
    ]
    print_table(header, rows, numbers=header[1:])
    print("documents/s, tokens/s and MB/s from Parquet on disk through one pass over the data; drawn: after the first")
