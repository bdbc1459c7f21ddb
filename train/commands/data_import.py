"""`gato-lite data import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from tyro.conf import Positional, arg

from gato_lite.train.console import print_note

EXAMPLE: Final = """\
mkdir poems && printf 'The fog comes\\non little cat feet.\\n' > poems/fog.txt
gato-lite data import poems --out data/poems
gato-lite train quick --data data/poems --out runs/poems --minutes 1"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make a dataset of text files, of captioned pictures, of rows of either, or of a Minari dataset.

    Pictures need captions.csv or captions.jsonl beside them, with `file` and `text` for each, or a NAME.txt beside each
    NAME.png.
    """

    source: Positional[Annotated[str, arg(metavar="SOURCE")]]
    """A folder, a .tar or .zip of one, a .parquet file, a text file, or minari:NAME."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder of the new dataset."""
    name: Annotated[str | None, arg(metavar="NAME")] = None
    """What the collection is called; None takes the folder's name."""
    size: int = 64
    """Side in pixels of the square that pictures are fitted into."""
    keep_aspect: bool = False
    """Keep the proportions of pictures, with at most as many pixels as that square has, in place of a white margin;
    --size is at least 32 then."""
    test_share: float = 0.05
    """Share of the documents that is held out: never trained on, at least one of two."""
    licence: Annotated[str | None, arg(metavar="WORDS")] = None
    """SPDX name or words, kept with the data."""
    attribution: Annotated[str | None, arg(metavar="WORDS")] = None
    """Who made the documents, kept with the data."""
    on_bad: Literal["error", "skip"] = "error"
    """Whether more than one unreadable file in a hundred is an error, or left out and counted."""
    overwrite: bool = False
    """Replace the dataset that is in DIR."""


def run(options: Options) -> None:
    """Imports, and says what was left out."""
    from gato_lite.train.folders import import_source

    imported = import_source(
        options.source,
        options.out,
        name=options.name,
        size=options.size,
        keep_aspect=options.keep_aspect,
        test_share=options.test_share,
        licence=options.licence,
        attribution=options.attribution,
        on_bad=options.on_bad,
        overwrite=options.overwrite,
    )
    for reason in imported.skipped:
        print_note(f"left out: {reason}")
    info = imported.dataset.info
    if info.kind == "control":
        print(f"{options.out}: {info.n_rows:,} episodes, {info.n_skipped} left out")
        return
    held_out = f"{imported.n_test:,} of them held out to score on" if imported.n_test else "none of them held out"
    print(f"{options.out}: {info.n_rows:,} documents, {held_out}, {len(imported.skipped)} left out")
