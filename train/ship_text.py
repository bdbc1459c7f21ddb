"""The English text that ships with the package: six novels and some thousands of dictionary definitions.

Decisions:

- A novel is cut at its chapters, and whole chapters are held out, so that the score is on pages never seen.
- Hard line ends are joined: a paragraph is one line, an empty line lies between two paragraphs.
- A document of definitions holds up to a dozen entries of one topic, `word: definition` a line each. The split is by
  a hash of the definition with its numbers masked, so that twins ("a town in …, 1902") stay on one side.
- Only definitions of word senses that occur in WordNet's tagged corpora are taken, so that the words are common ones.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

from gato_lite.train.items import content_hash, in_share

Split = Literal["train", "test"]

TEST_SHARE: Final = 0.05
"""Share of the chapters and of the definitions that is held out."""
ENTRIES: Final = 12
"""Definitions in one document."""

_CHAPTER = re.compile(r"^\s*chapter\s+[0-9IVXLC]+\s*$", re.IGNORECASE)
_FURNITURE = re.compile(r"^\s*(volume\s+[IVX0-9]+|finis|the end|[*\s]+)\s*$", re.IGNORECASE)
_NOTE = re.compile(r"^\s*(a note on the text|\*vide a letter)", re.IGNORECASE)
_PARTS: Final = ("noun", "verb", "adj", "adv")


class Passage(NamedTuple):
    """One document of text, before it is written."""

    group: str
    """The work it comes from."""
    split: Split
    text: str


def read_novels(rdb: Path) -> Iterator[tuple[str, list[str]]]:
    """Each novel's title and lines, from the R package's `data/Rdata.rdb`.

    The file is a run of records: the size unpacked (4 bytes, big endian), then a zlib stream of one character vector.

    Raises:
        ValueError: a record is not a character vector.
    """
    rest = rdb.read_bytes()
    while rest:
        stream = zlib.decompressobj()
        lines = _character_vector(stream.decompress(rest[4:]), rdb)
        rest = stream.unused_data
        yield lines[0].strip().title().replace(" And ", " and "), lines


def _character_vector(data: bytes, where: Path) -> list[str]:
    """The strings of an R character vector in XDR serialisation, format 2 or 3."""
    (version,) = struct.unpack_from(">i", data, 2)
    at = 14 if version < 3 else 18 + int(struct.unpack_from(">i", data, 14)[0])
    flags, count = struct.unpack_from(">ii", data, at)
    if data[:2] != b"X\n" or flags & 0xFF != 16:
        raise ValueError(f"{where}: expected an R character vector (type 16), got type {flags & 0xFF}")
    at += 8
    strings = []
    for _ in range(count):
        bits, size = struct.unpack_from(">ii", data, at)
        at += 8
        encoding = "latin-1" if bits >> 12 & 4 else "utf-8"
        strings.append(data[at : at + max(size, 0)].decode(encoding))
        at += max(size, 0)
    return strings


def chapters(lines: list[str]) -> list[str]:
    """The chapters of a novel as running text, front matter, volume headings and editors' notes left out."""
    starts = [i for i, line in enumerate(lines) if _CHAPTER.match(line)]
    notes = (i for i, line in enumerate(lines) if i > starts[0] and _NOTE.match(line))
    ends = [*starts[1:], next(notes, len(lines))]
    return [_running_text(lines[start + 1 : end]) for start, end in zip(starts, ends, strict=True)]


def _running_text(lines: list[str]) -> str:
    """Paragraphs of hard-wrapped `lines`, each on a line of its own, with one empty line between."""
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip() and not _FURNITURE.match(line):
            blocks[-1].append(line.strip())
        elif blocks[-1]:
            blocks.append([])
    joined = (re.sub(r"\s+", " ", " ".join(block)).replace("_", "") for block in blocks if block)
    return "\n\n".join(joined)


def novel_passages(rdb: Path) -> list[Passage]:
    """A passage a chapter; of each novel, the chapters whose hashes come first are held out, at least one."""
    passages = []
    for title, lines in read_novels(rdb):
        texts = chapters(lines)
        order = sorted(range(len(texts)), key=lambda i: hashlib.sha256(f"{title}/{i + 1}".encode()).hexdigest())
        test = set(order[: max(1, round(TEST_SHARE * len(texts)))])
        passages += [Passage(title, "test" if i in test else "train", text) for i, text in enumerate(texts)]
    return passages


def definition_passages(wordnet: Path) -> list[Passage]:
    """Passages of up to `ENTRIES` definitions of one topic each, from WordNet's `data.*` and `index.*` files."""
    topics: dict[tuple[str, Split], list[str]] = {}
    for topic, word, gloss in _definitions(wordnet):
        masked = re.sub(r"[0-9]+", "0", gloss)
        split: Split = "test" if in_share(content_hash(masked.encode()), TEST_SHARE) else "train"
        topics.setdefault((topic, split), []).append(f"{word}: {gloss}")
    passages = []
    for (_, split), entries in sorted(topics.items()):
        entries.sort(key=lambda entry: hashlib.sha256(entry.encode()).hexdigest())
        starts = range(0, len(entries), ENTRIES)
        passages += [Passage("WordNet", split, "\n".join(entries[start : start + ENTRIES])) for start in starts]
    return passages


def _definitions(wordnet: Path) -> Iterator[tuple[str, str, str]]:
    """(topic, word, definition) of every tagged sense, each definition once."""
    seen: set[str] = set()
    for part in _PARTS:
        common = _tagged_offsets(wordnet / f"index.{part}")
        for line in (wordnet / f"data.{part}").read_text("utf-8").splitlines():
            if line.startswith("  ") or line[:8] not in common:
                continue
            head, gloss = line.split(" | ", 1)
            fields = head.split(" ")
            gloss = gloss.split('; "')[0].strip().rstrip(";")  # the examples after it are left out
            word = re.sub(r"\((a|p|ip)\)$", "", fields[4]).replace("_", " ")
            if gloss and gloss not in seen:
                seen.add(gloss)
                yield f"{part}.{fields[1]}", word, gloss


def _tagged_offsets(index: Path) -> set[str]:
    """Offsets of the synsets with a sense that occurs in the tagged corpora."""
    offsets: set[str] = set()
    for line in index.read_text("utf-8").splitlines():
        if line.startswith("  "):
            continue
        fields = line.split()
        pointers = int(fields[3])
        tagged = int(fields[5 + pointers])
        offsets.update(fields[6 + pointers : 6 + pointers + tagged])
    return offsets
