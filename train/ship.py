"""Rebuilds what ships in `gato_lite/data` from packages unpacked in a folder.

    python -m gato_lite.train.ship SOURCE [--out DIR]

SOURCE holds one unpacked package a folder:

    janeaustenr/             the R package, Debian's r-cran-janeaustenr (the folder with `data/Rdata.rdb`)
    wordnet/                 Debian's wordnet-base (the folder with `data.noun`)
    emoji-datasource-google/, emoji-datasource-twitter/, emojibase-data/      the npm packages, 16.0.0, 16.0.0, 17.0.0

The same packages give the same bytes. Nobody needs this to use gato_lite: its results are in the repository.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import gato_lite
from gato_lite.tokenizers.text import train_text_model
from gato_lite.train.ship_text import Passage, definition_passages, novel_passages

DATA = Path(gato_lite.__file__).parent / "data"
_COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
_VERBS = ("go to the", "go to a", "pick up the", "pick up a", "open the", "open a")
_PLACES = ("in front of you", "behind you", "on your left", "on your right")


def model_texts(passages: list[Passage], labels: list[str]) -> Iterator[str]:
    """What the text model learns its pieces from: training passages, and the words of pictures and tasks many times."""
    yield from (passage.text for passage in passages if passage.split == "train")
    yield from labels * 10
    things = [" ".join(pair) for pair in itertools.product(_COLORS, ("ball", "box", "door", "key"))]
    missions = [f"{verb} {thing}" for verb in _VERBS for thing in things]
    missions += [f"put the {a} next to the {b}" for a in things[::2] for b in things[1::2]]
    missions += [f"pick up the {thing} {place}" for thing in things for place in _PLACES]
    yield from missions * 4


def emoji_labels(emojibase: Path) -> list[str]:
    """The English names of all emoji except flags and single letters."""
    entries = json.loads((emojibase / "en" / "compact.json").read_text("utf-8"))
    labels = [entry["label"] for entry in entries]
    return [label for label in labels if not label.startswith(("flag:", "regional indicator"))]


def main() -> None:
    """Reads the command line and rebuilds everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder with one unpacked package a folder")
    parser.add_argument("--out", type=Path, default=DATA, help="folder to write to, the package's own by default")
    arguments = parser.parse_args()
    source, out = arguments.source, arguments.out
    out.mkdir(parents=True, exist_ok=True)
    passages = novel_passages(source / "janeaustenr" / "data" / "Rdata.rdb")
    passages += definition_passages(source / "wordnet")
    train_text_model(model_texts(passages, emoji_labels(source / "emojibase-data")), out=out / "text.model")


if __name__ == "__main__":
    main()
