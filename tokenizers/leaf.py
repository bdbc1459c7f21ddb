"""What all leaves share: the protocol, reading tokens back, and checks whose errors name leaf, expected and got.

A leaf is an array or a string of a space, or a space whose values vary in size; Dict and Tuple are only the paths that
lead to leaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from gato_lite.sequence import Tokens
from gato_lite.spaces import AnySpace
from gato_lite.tokenizers.image import PatchGrid
from gato_lite.tokenizers.ragged import Block
from gato_lite.tokenizers.vocabulary import Vocabulary

Values = Any
"""A column: an array (N, *shape) or a list of N values. Any: as varied as the spaces are."""
LegalIds = npt.NDArray[np.int32]


class Leaf(Protocol):
    """What every leaf can do."""

    @property
    def path(self) -> str:
        """Keys that lead to the leaf, joined by "/"; "" for a bare space."""

    @property
    def kind(self) -> str:
        """What its values become: "text", "image", "chunks", "bins", "integer", "sequence", "oneof" or "graph"."""

    @property
    def space(self) -> AnySpace:
        """Its space."""

    @property
    def n_tokens(self) -> int | None:
        """Tokens of a value, None where it varies."""

    def column(self, values: Sequence[Any]) -> Values:
        """Checks the form of single values and stacks them."""

    def encode(self, column: Values) -> Block:
        """The tokens of a column's values."""

    def decode(self, cursor: Cursor) -> Any:
        """Reads one value, a member of the space, off the cursor."""

    def legal(self, ids: Sequence[int], at: int) -> LegalIds | int:
        """Ids that may follow `ids`, of which those from `at` on are this leaf's; past them all, where it ends."""

    def ranges(self) -> list[tuple[int, int]] | None:
        """Legal (start, stop) of each token where none depends on the ones before, else None."""


def name_of(path: str) -> str:
    """How an error speaks of the leaf at `path`."""
    return f"leaf '{path}'" if path else "the value"


class Cursor:
    """Reads values off a run of tokens, front to back."""

    def __init__(self, tokens: Tokens, vocabulary: Vocabulary) -> None:
        self.tokens: Final = tokens
        self.vocabulary: Final = vocabulary
        self.at = 0
        self._pixel = self._patch = self._chunk = 0

    def left(self) -> int:
        """Tokens not yet read."""
        return len(self.tokens) - self.at

    def take(self, count: int, ids: range, path: str) -> npt.NDArray[np.int32]:
        """The next `count` tokens as places in `ids`."""
        if self.left() < count:
            raise ValueError(f"{name_of(path)}: expected {count} more tokens, got {self.left()}")
        taken = self.tokens.ids[self.at : self.at + count]
        wrong = np.flatnonzero((taken < ids.start) | (taken >= ids.stop))
        if len(wrong):
            describe = self.vocabulary.describe
            expected = describe(ids.start) + (f" to {describe(ids.stop - 1)}" if len(ids) > 1 else "")
            got = f"{describe(int(taken[wrong[0]]))} at token {self.at + int(wrong[0])}"
            raise ValueError(f"{name_of(path)}: expected {expected}, got {got}")
        self.at += count
        return taken - np.int32(ids.start)

    def take_pieces(self) -> npt.NDArray[np.int32]:
        """All text pieces that follow without a break."""
        rest = self.tokens.ids[self.at :]
        other = np.flatnonzero(rest >= self.vocabulary.text_ids.stop)
        count = int(other[0]) if len(other) else len(rest)
        self.at += count
        return rest[:count]

    def take_patches(self, grid: PatchGrid, path: str) -> npt.NDArray[np.uint8]:
        """(L,) pixels of the next image, patch by patch."""
        patch = self.vocabulary.patch
        self.take(grid.n_patches, range(patch, patch + 1), path)
        shapes = self.tokens.patch_shapes[self._patch : self._patch + grid.n_patches]
        if not np.array_equal(shapes, grid.shapes):
            expected, got = grid.shapes.tolist(), shapes.tolist()
            raise ValueError(f"{name_of(path)}: expected patches of (height, width, channels) {expected}, got {got}")
        pixels = self.tokens.pixels[self._pixel : self._pixel + grid.n_pixels]
        self._patch += grid.n_patches
        self._pixel += grid.n_pixels
        return pixels

    def take_chunks(self, count: int, path: str) -> npt.NDArray[np.float32]:
        """(count, 32) squashed values of the next chunks."""
        chunk = self.vocabulary.chunk
        self.take(count, range(chunk, chunk + 1), path)
        self._chunk += count
        return self.tokens.chunks[self._chunk - count : self._chunk]


# -- arrays: what all leaves that hold one share


def stack_arrays(path: str, shape: tuple[int, ...], values: Sequence[Any]) -> npt.NDArray[Any]:
    """Single values of one shape as a column (N, *shape)."""
    arrays = [np.asarray(value) for value in values]
    for array in arrays:
        if array.shape != shape:
            raise ValueError(f"{name_of(path)}: expected shape {shape}, got {array.shape}")
    return np.stack(arrays) if arrays else np.zeros((0, *shape), np.int64)


def checked(path: str, shape: tuple[int, ...], kinds: str, column: Values) -> npt.NDArray[Any]:
    """`column` as an array (N, E) whose dtype is of one of `kinds` (NumPy's letters) and whose shape fits."""
    array = np.asarray(column)
    if array.shape[1:] != shape or not array.ndim:
        raise ValueError(f"{name_of(path)}: expected values of shape {shape}, got an array of shape {array.shape}")
    if array.dtype.kind not in kinds:
        expected = "integers" if "f" not in kinds else "numbers"
        raise ValueError(f"{name_of(path)}: expected {expected}, got dtype {array.dtype}")
    return array.reshape(len(array), math.prod(shape))  # (N, E)


def refuse(path: str, array: npt.NDArray[Any], wrong: npt.NDArray[np.bool_], expected: str) -> None:
    """Raises a ValueError that names the first scalar of `array`, (N, E), at which `wrong` is true, if any."""
    if wrong.any():
        row, scalar = map(int, np.argwhere(wrong)[0])
        scalar_place = f" at scalar {scalar}" if array.shape[1] > 1 else ""
        row_place = f" in value {row}" if len(array) > 1 else ""
        raise ValueError(f"{name_of(path)}: expected {expected}, got {array[row, scalar]}{scalar_place}{row_place}")


def in_bounds(path: str, array: npt.NDArray[Any], low: npt.NDArray[Any], high: npt.NDArray[Any]) -> None:
    """Raises a ValueError that names the first scalar of `array`, (N, E), outside its bounds."""
    wrong = (array < low) | (array > high)
    if wrong.any():
        scalar = int(np.argwhere(wrong)[0][1])
        refuse(path, array, wrong, f"a value in {low[scalar]}..{high[scalar]}")
