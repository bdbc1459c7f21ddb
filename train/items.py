"""What an import goes through: one document at a time, before its pictures are read and its split is known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gato_lite.envs.dataset import Document
from gato_lite.envs.format import OnBad

PIECE: Final = 32_768
"""Characters after which a text is cut at the next paragraph."""
BAD_SHARE: Final = 0.01
"""Largest share of unreadable documents that is only counted."""


class Item(NamedTuple):
    """One document on its way in."""

    name: str
    """Where it comes from, for messages."""
    key: bytes
    """Hash of its content, which decides the split."""
    split: str | None
    """The split that the user asked for."""
    document: Document
    """The document; its pictures are files of any format, which are still to be decoded."""


@dataclass
class Reader:
    """Counts what is read, and keeps the reasons why some of it was left out."""

    on_bad: OnBad
    skipped: dict[str, str] = field(default_factory=dict)
    n_read: int = 0
    """Files, rows and members seen, readable or not."""
    n_test: int = 0
    """Documents that were held out."""
    columns: dict[str, bool] = field(default_factory=dict)
    """Columns that rows have, and whether any row's document is made of them."""

    def note_columns(self, names: Iterable[str], used: Iterable[str]) -> None:
        """Notes which columns there are, and which of them are used."""
        for name in names:
            self.columns.setdefault(name, False)
        self.columns.update(dict.fromkeys(used, True))

    def leave_out(self, name: str, error: Exception) -> None:
        """Notes what could not be read."""
        message = str(error).replace("\n", " ")
        self.skipped[name] = message if message.startswith(name) else f"{name}: {message}"

    def check(self) -> None:
        """Raises ValueError when too much could not be read."""
        if self.on_bad == "error" and len(self.skipped) > BAD_SHARE * self.n_read:
            first = "; ".join(list(self.skipped.values())[:3])
            raise ValueError(
                f"expected at most 1 % unreadable documents, got {len(self.skipped)} of {self.n_read}; "
                f"mend them, or leave them out with on_bad='skip' (--on-bad skip): {first}"
            )


def read_text(data: bytes) -> str:
    """A text file's content in UTF-8, or UTF-16 with a byte order mark, with line feeds alone.

    Raises:
        ValueError: another encoding, or no text.
    """
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"expected text in UTF-8, got byte 0x{data[error.start]:02x} at {error.start}") from error
    if "\0" in text:
        raise ValueError(f"expected text, got a NUL character at {text.index(chr(0))}")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")


def text_items(name: str, text: str, *, split: str | None = None, group: str | None = None) -> Iterator[Item]:
    """The pieces of a text as documents."""
    for piece in pieces(text):
        yield Item(name, content_hash(piece.encode()), split, Document(None, piece, group=group))


def pieces(text: str) -> Iterator[str]:
    """`text` cut at paragraphs into pieces of about `PIECE` characters, and where there is none, at `2 * PIECE`."""
    while len(text) > 2 * PIECE:
        cut = text.find("\n\n", PIECE, 2 * PIECE)
        end = cut if cut >= 0 else 2 * PIECE
        yield text[:end]
        text = text[end:].lstrip("\n")
    if text.strip():
        yield text


def content_hash(content: bytes) -> bytes:
    """What decides on which side of the split a content is."""
    return hashlib.sha256(content).digest()


def in_share(content: bytes, share: float) -> bool:
    """Whether a content's hash is among the smallest `share` of all hashes, which are held out."""
    return int.from_bytes(content[:8], "big") < share * 2**64
