"""The emoji pictures that ship with the package: two drawing styles, each thing with one short English name.

Decisions:

- A concept is kept when its picture can be named by looking at it. Left out: flags (their names are knowledge of
  countries), symbols, arrows and buttons with letters, clock faces, families, skin tones, and the man, woman and
  facing-right twins of a person, which differ from the person by a few pixels.
- For a fifth of the concepts one of the two pictures is hidden and becomes a test picture: the model has seen the
  thing, but never in that style. Half of the hidden pictures are of one style, half of the other.
- Concepts whose pictures are nearly equal in either style (locked and unlocked) share one fate: all of them are hidden
  in the same style, or none. So no test picture has a twin of its own style among the training pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import UInt8

from gato_lite.envs.dataset import Document
from gato_lite.fitting import square
from gato_lite.train.items import content_hash
from gato_lite.train.pictures import decode_picture, encode_png

STYLES: Final = {"noto": "google", "twemoji": "twitter"}
"""Name of each drawing style, and of its package `emoji-datasource-…`."""
SIDE: Final = 32
"""Height and width of a picture in pixels."""
TEST_SHARE: Final = 0.2
"""Share of the concepts that have one style hidden."""
TWINS: Final = 0.06
"""Root mean square difference of channels, in [0, 1], below which two pictures of one style are twins."""

_LEFT_OUT: Final = {"Symbols", "Flags", "Component"}
_MAN, _WOMAN, _MALE, _FEMALE, _RIGHT = "1F468-200D", "1F469-200D", "200D-2642", "200D-2640", "200D-27A1"


class Concept(NamedTuple):
    """One thing, drawn in every style."""

    name: str
    pictures: dict[str, UInt8[np.ndarray, "32 32 3"]]
    """Picture in each style."""


def emoji_labels(emojibase: Path) -> dict[str, str]:
    """English name of each emoji by its code points in hexadecimal, without the presentation selector."""
    entries = json.loads((emojibase / "en" / "compact.json").read_text("utf-8"))
    return {_plain(entry["hexcode"]): entry["label"] for entry in entries}


def read_concepts(source: Path) -> list[Concept]:
    """The kept concepts in the order of the packages, which both packages share."""
    labels = emoji_labels(source / "emojibase-data")
    folders = {style: source / f"emoji-datasource-{name}" for style, name in STYLES.items()}
    entries = json.loads((folders["noto"] / "emoji.json").read_text("utf-8"))
    concepts = []
    for entry in entries:
        label = labels[_plain(entry["unified"])]
        if not _is_kept(entry["category"], entry["unified"], label):
            continue
        files = {style: folders[style] / "img" / name / "64" / entry["image"] for style, name in STYLES.items()}
        if all(file.is_file() for file in files.values()):
            pictures = {style: square(decode_picture(file), SIDE) for style, file in files.items()}
            concepts.append(Concept(_caption(label), pictures))
    return concepts


def emoji_documents(concepts: list[Concept]) -> list[Document]:
    """A document a picture: its name, its style as the group, and the split."""
    hidden = hidden_styles([concept.name for concept in concepts], [concept.pictures for concept in concepts])
    return [
        Document(encode_png(pixels), concept.name, "test" if hidden.get(i) == style else "train", style)
        for i, concept in enumerate(concepts)
        for style, pixels in concept.pictures.items()
    ]


def hidden_styles(names: Sequence[str], drawn: Sequence[Mapping[str, UInt8[np.ndarray, "32 32 3"]]]) -> dict[int, str]:
    """The style that is hidden, by index, for a fifth of the things.

    Args:
        names: Of each thing; the order of their hashes decides.
        drawn: For each thing its picture in each style, all in the same order.
    """
    groups = sorted(twins(drawn), key=lambda group: content_hash(names[group[0]].encode()))
    hidden: dict[int, str] = {}
    styles = list(drawn[0]) if drawn else []
    for i, group in enumerate(groups):
        if len(hidden) >= round(TEST_SHARE * len(names)):
            break
        hidden.update(dict.fromkeys(group, styles[i % len(styles)]))
    return hidden


def twins(drawn: Sequence[Mapping[str, UInt8[np.ndarray, "32 32 3"]]]) -> list[list[int]]:
    """Groups of things, by index, that are linked by nearly equal pictures in any style; most groups hold one.

    Args:
        drawn: for each thing its picture in each style.
    """
    leader = list(range(len(drawn)))
    for style in drawn[0] if drawn else ():
        pixels = np.stack([pictures[style] for pictures in drawn]).reshape(len(drawn), -1) / 255
        squares = (pixels**2).sum(1)
        distances = (squares[:, None] + squares[None] - 2 * pixels @ pixels.T) / pixels.shape[1]  # (N, N)
        for i, j in np.argwhere(np.triu(distances < TWINS**2, k=1)).tolist():
            old, new = leader[j], leader[i]
            leader = [new if of == old else of for of in leader]
    groups: dict[int, list[int]] = {}
    for i, of in enumerate(leader):
        groups.setdefault(of, []).append(i)
    return list(groups.values())


def _is_kept(category: str, code: str, label: str) -> bool:
    gendered = code.startswith((_MAN, _WOMAN)) or _MALE in code or _FEMALE in code
    clock = label.endswith(("o’clock", "-thirty"))
    return not (category in _LEFT_OUT or gendered or clock or _RIGHT in code or label.startswith("family"))


def _caption(label: str) -> str:
    return label.lower().replace("’", "'").replace(":", "")


def _plain(code: str) -> str:
    return code.replace("-FE0F", "")
