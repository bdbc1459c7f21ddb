"""`gato-lite data import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from tyro.conf import Positional, arg

from gato_lite.train.console import one_line, print_note

EXAMPLE: Final = """\
mkdir poems && printf 'The fog comes\\non little cat feet.\\n' > poems/fog.txt
gato-lite data import poems --out data/poems
gato-lite train quick --data data/poems --out runs/poems --minutes 1"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make a dataset of text files, of captioned pictures, of rows of either, or of a Minari dataset.

    Pictures need captions.csv or captions.jsonl beside them, with `file` and `text` for each, or a NAME.txt beside each
    NAME.png. A column `prompt` makes them questions and answers; rows of `prompt` and `text` need no picture, nor do
    those of `messages` or of a `translation`.
    """

    source: Positional[Annotated[str, arg(metavar="SOURCE")]]
    """A folder, a .tar or .zip of one, a .parquet, .jsonl or .csv file, a text file, or minari:NAME."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder of the new dataset."""
    name: Annotated[str | None, arg(metavar="NAME")] = None
    """What the collection, or the task of episodes, is called; None takes the folder's name, or Minari's task."""
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
    """Who made it, kept with the data; None takes Minari's authors of episodes."""
    ability: Literal["text", "caption", "class", "question", "translation", "dialogue"] | None = None
    """What the documents teach, which is how they are scored; None takes what most of them look like."""
    on_bad: Literal["error", "skip"] = "error"
    """Whether more than one unreadable file in a hundred is an error, or left out and counted."""
    overwrite: bool = False
    """Replace the dataset that is in DIR."""


def run(options: Options) -> None:
    """Imports, and says what was left out."""
    from gato_lite.train.folders import import_source
    from gato_lite.train.rows import COLUMNS

    imported = import_source(
        options.source,
        options.out,
        name=options.name,
        size=options.size,
        keep_aspect=options.keep_aspect,
        test_share=options.test_share,
        licence=options.licence,
        attribution=options.attribution,
        ability=options.ability,
        on_bad=options.on_bad,
        overwrite=options.overwrite,
    )
    for note in imported.notes:
        print_note(one_line(note))
    for reason in imported.skipped:
        print_note(f"left out: {reason}")
    if imported.unused:
        understood = ", ".join(dict.fromkeys(name for names in COLUMNS.values() for name in names))
        print_note(one_line(f"not used: {_some(imported.unused)}; columns that are understood: {understood}"))
    info = imported.dataset.info
    if info.kind == "control":
        print(f"{options.out}: {info.n_rows:,} episodes, {info.n_skipped} left out")
        return
    held_out = f"{imported.n_test:,} of them held out to score on" if imported.n_test else "none of them held out"
    n_left_out = len(imported.skipped)
    print(f"{options.out}: {info.n_rows:,} documents, {held_out} (ability: {info.ability}), {n_left_out} left out")


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
