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
from collections.abc import Iterable, Iterator
from pathlib import Path

import gato_lite
from gato_lite.envs.dataset import Dataset, Document, write_documents
from gato_lite.tokenizers.text import TextTokenizer, train_text_model
from gato_lite.train.baselines import (
    bits_per_byte_unigram,
    bits_per_byte_xz,
    caption_scores,
    nearest_neighbour_captions,
)
from gato_lite.train.ship_emoji import emoji_documents, emoji_labels, read_concepts
from gato_lite.train.ship_text import Passage, definition_passages, novel_passages

DATA = Path(gato_lite.__file__).parent / "data"
TEXT_ATTRIBUTION = (
    "Novels: Jane Austen, in the public domain, as collected in janeaustenr by Julia Silge. "
    "Definitions: WordNet 3.0, Copyright 2006 by Princeton University. All rights reserved."
)
EMOJI_ATTRIBUTION = (
    "noto: Noto Emoji, Copyright Google LLC. twemoji: Twemoji, Copyright Twitter, Inc and other contributors. "
    "Names: Unicode CLDR through emojibase-data by Miles Johnson. "
    "Pictures were scaled to 32 × 32 pixels and laid on white; names were put in lower case."
)
_COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
_VERBS = ("go to the", "go to a", "pick up the", "pick up a", "open the", "open a")
_PLACES = ("in front of you", "behind you", "on your left", "on your right")


def model_texts(passages: list[Passage], labels: Iterable[str]) -> Iterator[str]:
    """What the text model learns its pieces from: training passages, and the words of pictures and tasks many times."""
    yield from (passage.text for passage in passages if passage.split == "train")
    named = [label for label in labels if not label.startswith(("flag:", "regional indicator"))]
    yield from named * 10
    things = [" ".join(pair) for pair in itertools.product(_COLORS, ("ball", "box", "door", "key"))]
    missions = [f"{verb} {thing}" for verb in _VERBS for thing in things]
    missions += [f"put the {a} next to the {b}" for a in things[::2] for b in things[1::2]]
    missions += [f"pick up the {thing} {place}" for thing in things for place in _PLACES]
    yield from missions * 4


def text_baselines(dataset: Dataset, tokenizer: TextTokenizer) -> dict[str, float]:
    """Bits per byte of the held-out text, for all of it and for the novels and the definitions alone."""
    rows = dataset.read_documents()
    parts = {
        "": rows,
        "novels_": [row for row in rows if row.group != "WordNet"],
        "definitions_": [row for row in rows if row.group == "WordNet"],
    }
    measured: dict[str, float] = {}
    for name, chosen in parts.items():
        train, test = ([row.text for row in chosen if row.split == split] for split in ("train", "test"))
        measured[f"{name}unigram_bits_per_byte"] = round(bits_per_byte_unigram(train, test, tokenizer), 4)
        measured[f"{name}xz_bits_per_byte"] = round(bits_per_byte_xz(train, test), 4)
    return measured


def emoji_baselines(dataset: Dataset) -> dict[str, dict[str, float]]:
    """Scores of naming a held-out picture as its nearest neighbour, among all and among the other style's pictures."""
    train, test = dataset.read_documents("train"), dataset.read_documents("test")
    measured = {}
    for name, other_groups in (("nearest_neighbour", False), ("nearest_neighbour_other_style", True)):
        captions = nearest_neighbour_captions(train, test, other_groups=other_groups)
        scores = caption_scores(captions, [row.text for row in test])
        measured[name] = {"exact": round(scores.exact, 4), "token_f1": round(scores.token_f1, 4), "n": scores.n}
    return measured


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
    labels = emoji_labels(source / "emojibase-data").values()
    tokenizer = TextTokenizer(train_text_model(model_texts(passages, labels), out=out / "text.model"))
    text = write_documents(
        out / "text",
        (Document(None, passage.text, passage.split, passage.group) for passage in passages),
        name="text",
        licence="Public domain (novels); WordNet-3.0 (definitions); see LICENSES.md",
        attribution=TEXT_ATTRIBUTION,
        overwrite=True,
    )
    emoji = write_documents(
        out / "emoji",
        emoji_documents(read_concepts(source)),
        name="emoji",
        licence="Apache-2.0 (noto); CC-BY-4.0 (twemoji); Unicode-3.0 (names); see LICENSES.md",
        attribution=EMOJI_ATTRIBUTION,
        overwrite=True,
    )
    measured = {"text": text_baselines(text, tokenizer), "emoji": emoji_baselines(emoji)}
    (out / "baselines.json").write_text(json.dumps(measured, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
