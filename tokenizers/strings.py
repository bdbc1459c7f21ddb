"""Leaves that hold text, and which pieces are legal while an agent writes one.

An observation's text needs no terminator before a leaf whose tokens are not pieces: the change of range ends it. Before
another text, within a Sequence, OneOf or Graph, and in every action, the `end` special follows it.

Source: Reed et al. 2022, section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from gato_lite.sequence import ranges
from gato_lite.spaces import AnySpace
from gato_lite.tokenizers.leaf import Cursor, LegalIds, Values, name_of
from gato_lite.tokenizers.ragged import Block
from gato_lite.tokenizers.text import LoneSurrogateError
from gato_lite.tokenizers.vocabulary import Vocabulary

REMEMBERED: Final = 4096
"""Strings whose pieces a leaf keeps: a mission stays the same for a whole episode."""


def require_text(space: AnySpace, text: str, path: str) -> None:
    """Raises a ValueError unless `text` is in the space; all strings are in one that is no `Text`."""
    if not isinstance(space, spaces.Text):
        return
    if not space.min_length <= len(text) <= space.max_length:
        expected = f"{space.min_length} to {space.max_length} characters"
        raise ValueError(f"{name_of(path)}: expected {expected}, got {len(text)} in {text!r:.80}")
    if not space.character_set.issuperset(text):
        strange = min(set(text) - space.character_set)
        raise ValueError(f"{name_of(path)}: expected characters of its space, got {strange!r} in {text!r:.80}")


class TextLeaf:
    """A string; every one round-trips."""

    kind: Final = "text"

    def __init__(self, path: str, space: AnySpace, vocabulary: Vocabulary, *, action: bool, has_end: bool) -> None:
        self.path: Final = path
        self.space: Final = space
        self.n_tokens: Final[int | None] = None
        self._vocabulary: Final = vocabulary
        self._is_action: Final = action
        self._has_end: Final = has_end
        self._known: dict[str, npt.NDArray[np.int32]] = {}

    def column(self, values: Sequence[object]) -> list[str]:
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"{name_of(self.path)}: expected a string, got {type(value).__name__} {value!r}")
        return [str(value) for value in values]

    def encode(self, column: Values) -> Block:
        if len(column) == 1:
            (run,) = map(self._pieces, column)
            return Block(ids=run.copy(), lengths=np.array([len(run)], np.int64))
        index: dict[str, int] = {}
        rows = np.array([index.setdefault(text, len(index)) for text in column], np.int64)  # (N,) distinct string
        runs = [self._pieces(text) for text in index]
        sizes = np.array([len(run) for run in runs], np.int64)
        if not runs:
            return Block(ids=np.zeros(0, np.int32), lengths=rows)
        lengths, starts = sizes[rows], (np.cumsum(sizes) - sizes)[rows]
        return Block(ids=np.concatenate(runs)[ranges(starts, starts + lengths)], lengths=lengths)

    def decode(self, cursor: Cursor) -> str:
        text = self._vocabulary.text.decode(cursor.take_pieces())
        if self._has_end:
            end = self._vocabulary.end
            cursor.take(1, range(end, end + 1), self.path)
        return text

    def legal(self, ids: Sequence[int], at: int) -> LegalIds | int:
        end = self._vocabulary.end
        for place in range(at, len(ids)):
            if ids[place] == end:
                return place + 1
        return self._writer.legal(ids[at:])

    def ranges(self) -> list[tuple[int, int]] | None:
        return None

    def _pieces(self, text: str) -> npt.NDArray[np.int32]:
        """The tokens of `text`, remembered."""
        run = self._known.get(text)
        if run is None:
            if not isinstance(text, str):
                raise ValueError(f"{name_of(self.path)}: expected a string, got {type(text).__name__} {text!r}")
            if self._is_action:
                require_text(self.space, text, self.path)
            try:
                run = self._vocabulary.text.encode(text)
            except LoneSurrogateError as error:
                raise LoneSurrogateError(f"{name_of(self.path)}: {error}") from error
            if self._has_end:
                run = np.append(run, np.int32(self._vocabulary.end))
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[text] = run
        return run

    @cached_property
    def _writer(self) -> Writer:
        return Writer(self.space, self._vocabulary)


class Writer:
    """Which tokens keep a text on the way to a member of its space."""

    def __init__(self, space: AnySpace, vocabulary: Vocabulary) -> None:
        self._end: Final = vocabulary.end
        self._piece_bytes: Final = vocabulary.text.piece_bytes
        bounded = isinstance(space, spaces.Text)
        self.shortest: Final = space.min_length if isinstance(space, spaces.Text) else 0
        self.longest: Final = space.max_length if isinstance(space, spaces.Text) else None
        self._charset: Final = space.character_set if isinstance(space, spaces.Text) else None
        byte_ids = set(vocabulary.text.byte_ids.values())
        whole = [
            i
            for i, piece in enumerate(vocabulary.text.piece_bytes)
            if i not in byte_ids
            and i != vocabulary.text.unknown
            and (self._charset is None or self._charset.issuperset(piece.decode()))
        ]
        self._whole: Final = np.array(whole, np.int32)
        """Pieces made of characters of the space."""
        self._sizes: Final = np.array([len(self._piece_bytes[i].decode()) for i in whole], np.int64)
        self._next_bytes: Final = self._continuations(vocabulary) if bounded else {}

    def legal(self, ids: Sequence[int]) -> LegalIds:
        """Ids that may follow the pieces `ids`."""
        if self._charset is None:  # free text: bytes that are not UTF-8 become U+FFFD, a character like any other
            return np.append(np.arange(len(self._piece_bytes), dtype=np.int32), np.int32(self._end))
        written = b"".join(self._piece_bytes[i] for i in ids)
        text = written.decode("utf-8", "ignore")
        partial = written[len(text.encode()) :]
        if partial:  # in the midst of a character
            return self._next_bytes[partial]
        room = (self.longest or 0) - len(text)
        parts = [self._whole[self._sizes <= room]]
        if room:
            parts.append(self._next_bytes[b""])
        if len(text) >= self.shortest:
            parts.append(np.array([self._end], np.int32))
        return np.sort(np.concatenate(parts))

    def _continuations(self, vocabulary: Vocabulary) -> dict[bytes, LegalIds]:
        """The byte pieces that may follow each beginning of a character's UTF-8 spelling."""
        found: dict[bytes, set[int]] = {b"": set()}
        for character in self._charset or ():
            for i, byte in enumerate(spelled := character.encode("utf-8", "ignore")):  # a surrogate has no spelling
                found.setdefault(spelled[:i], set()).add(vocabulary.text.byte_ids[byte])
        return {start: np.array(sorted(ids), np.int32) for start, ids in found.items()}
