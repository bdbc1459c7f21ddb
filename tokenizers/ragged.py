"""N values as runs of tokens of different lengths, laid end to end: merging and regrouping them without a loop.

Every leaf of a space yields one `Block` for a column of values. `interleave` puts the leaves' blocks side by side, so
that each row has its tokens of the first leaf, then of the second; `regroup` joins rows, as the elements of a
sequence make up one value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from gato_lite.config import CHUNK_WIDTH
from gato_lite.sequence import Tokens, offsets_of, ranges

Item = TypeVar("Item", bound=np.generic)

NO_PIXELS: Final = np.zeros(0, np.uint8)
NO_SHAPES: Final = np.zeros((0, 3), np.int16)
NO_INTERVALS: Final = np.zeros((0, 4), np.float32)
NO_CHUNKS: Final = np.zeros((0, CHUNK_WIDTH), np.float32)


@dataclass(frozen=True, kw_only=True)
class Block:
    """N rows of tokens end to end, with the content of their patches and chunks."""

    ids: npt.NDArray[np.int32]
    """(T,) vocabulary ids."""
    lengths: npt.NDArray[np.int64]
    """(N,) tokens of each row."""
    pixels: npt.NDArray[np.uint8] = field(default_factory=lambda: NO_PIXELS)
    """Pixels of all patches end to end."""
    patch_shapes: npt.NDArray[np.int16] = field(default_factory=lambda: NO_SHAPES)
    """(P, 3) as in `Tokens`."""
    patch_intervals: npt.NDArray[np.float32] = field(default_factory=lambda: NO_INTERVALS)
    """(P, 4) as in `Tokens`."""
    chunks: npt.NDArray[np.float32] = field(default_factory=lambda: NO_CHUNKS)
    """(C, 32) as in `Tokens`."""
    n_pixels: npt.NDArray[np.int64] | None = None
    """(N,) pixels of each row; None where there are none."""
    n_patches: npt.NDArray[np.int64] | None = None
    """(N,) patches of each row."""
    n_chunks: npt.NDArray[np.int64] | None = None
    """(N,) chunks of each row."""

    def tokens(self, local: npt.NDArray[np.int16]) -> Tokens:
        """All rows as one run of tokens with these local indices."""
        return Tokens(
            ids=self.ids,
            local=local,
            pixels=self.pixels,
            patch_shapes=self.patch_shapes,
            patch_intervals=self.patch_intervals,
            chunks=self.chunks,
        )


def plain(ids: npt.NDArray[np.int32]) -> Block:
    """Rows of equal length without patches or chunks, from ids of shape (N, n)."""
    return Block(ids=ids.reshape(-1), lengths=np.full(len(ids), ids.shape[1], np.int64))


def interleave(blocks: Sequence[Block]) -> Block:
    """Row n of the result is row n of each of `blocks`, one after the other. All have the same number of rows."""
    if len(blocks) == 1:
        return blocks[0]
    lengths = [block.lengths for block in blocks]
    chunked = [block for block in blocks if block.n_chunks is not None]
    pictured = [block for block in blocks if block.n_pixels is not None]
    chunk_counts = [block.n_chunks for block in chunked if block.n_chunks is not None]
    pixel_counts = [block.n_pixels for block in pictured if block.n_pixels is not None]
    patch_counts = [block.n_patches for block in pictured if block.n_patches is not None]
    return Block(
        ids=merge([block.ids for block in blocks], lengths),
        lengths=total(lengths),
        pixels=merge([block.pixels for block in pictured], pixel_counts) if pictured else NO_PIXELS,
        patch_shapes=merge([block.patch_shapes for block in pictured], patch_counts) if pictured else NO_SHAPES,
        patch_intervals=merge([block.patch_intervals for block in pictured], patch_counts)
        if pictured
        else NO_INTERVALS,
        chunks=merge([block.chunks for block in chunked], chunk_counts) if chunked else NO_CHUNKS,
        n_pixels=total(pixel_counts) if pictured else None,
        n_patches=total(patch_counts) if pictured else None,
        n_chunks=total(chunk_counts) if chunked else None,
    )


def total(counts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """The sum of counts over blocks, row by row."""
    return counts[0] if len(counts) == 1 else np.asarray(np.sum(counts, axis=0))


def merge(parts: Sequence[npt.NDArray[Item]], counts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[Item]:
    """The items of `parts` row by row: counts[k][n] items of parts[k] belong to row n."""
    filled = [k for k, part in enumerate(parts) if len(part)]
    if filled and len(counts[0]) == 1:
        return np.concatenate(parts)
    if len(filled) <= 1:
        return parts[filled[0]] if filled else parts[0]
    parts, counts = [parts[k] for k in filled], [counts[k] for k in filled]
    if all((count == count[0]).all() for count in counts):
        rows, rest = len(counts[0]), parts[0].shape[1:]
        wide = np.concatenate([part.reshape(rows, -1, *rest) for part in parts], axis=1)
        return wide.reshape(-1, *rest)
    out = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    sums = total(counts)
    place = np.cumsum(sums) - sums  # where the next part's items of each row go
    for part, count in zip(parts, counts, strict=True):
        out[ranges(place, place + count)] = part
        place = place + count
    return out


def regroup(block: Block, sizes: npt.NDArray[np.int64]) -> Block:
    """Joins rows: the first sizes[0] of them become row 0, and so on."""

    def joined(counts: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64] | None:
        if counts is None:
            return None
        return np.asarray(np.diff(offsets_of(counts)[offsets_of(sizes)]))

    lengths = joined(block.lengths)
    assert lengths is not None
    return replace(
        block,
        lengths=lengths,
        n_pixels=joined(block.n_pixels),
        n_patches=joined(block.n_patches),
        n_chunks=joined(block.n_chunks),
    )


def spread(block: Block, rows: npt.NDArray[np.int64], n_rows: int) -> Block:
    """Puts the rows of `block` at the ascending places `rows` of `n_rows`, the others empty."""

    def placed(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        out = np.zeros(n_rows, np.int64)
        out[rows] = counts
        return out

    return replace(
        block,
        lengths=placed(block.lengths),
        n_pixels=None if block.n_pixels is None else placed(block.n_pixels),
        n_patches=None if block.n_patches is None else placed(block.n_patches),
        n_chunks=None if block.n_chunks is None else placed(block.n_chunks),
    )
