"""Typed arrays for runs of tokens: the one currency between tokenizers, data and model.

A `Tokens` holds any number of consecutive tokens. There is no Python object per token: everything is a flat NumPy
array, and the content of patch and chunk tokens lies in side arrays in the order in which those tokens occur.

Source: Reed et al. 2022, section 2.1 (order and local index), 2.2 (patch positions).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from gato_lite.config import CHUNK_WIDTH

ACTION_LOCAL = 0
"""Local index that all action tokens share; observation tokens count up from 1, those of texts down from -1."""
TEXT_PLACES = 1 << 14
"""Places in a prompt that are told apart, and as many in an answer; tokens beyond share the last."""
PATCH_PLACES = 128
"""Row and column indices that the place of a patch is quantised to."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """T consecutive tokens, of which P are patches and C are chunks."""

    ids: npt.NDArray[np.int32]
    """(T,) vocabulary ids; patch and chunk tokens carry the `patch` and `chunk` special ids."""
    local: npt.NDArray[np.int16]
    """(T,) place within the observation counted from 1; `ACTION_LOCAL` for action, separator and `end` tokens; -1 - i
    for place i in a prompt, -1 - `TEXT_PLACES` - i for place i in an answer."""
    pixels: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """Pixels of all patches end to end, each (height, width, channels) in C order."""
    patch_shapes: npt.NDArray[np.int16] = field(default_factory=lambda: np.zeros((0, 3), np.int16))
    """(P, 3) height, width, channels of each patch."""
    patch_intervals: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    """(P, 4) first row, last row, first column, last column of each patch as a share of the image, in [0, 1]."""
    chunks: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, CHUNK_WIDTH), np.float32))
    """(C, 32) squashed values of each chunk, zero beyond its last scalar."""

    def __len__(self) -> int:
        return len(self.ids)


def concatenate(runs: Sequence[Tokens]) -> Tokens:
    """All `runs` end to end."""
    if len(runs) == 1:
        return runs[0]
    if not runs:
        return Tokens(ids=np.zeros(0, np.int32), local=np.zeros(0, np.int16))
    return Tokens(
        ids=np.concatenate([run.ids for run in runs]),
        local=np.concatenate([run.local for run in runs]),
        pixels=np.concatenate([run.pixels for run in runs]),
        patch_shapes=np.concatenate([run.patch_shapes for run in runs]),
        patch_intervals=np.concatenate([run.patch_intervals for run in runs]),
        chunks=np.concatenate([run.chunks for run in runs]),
    )


@dataclass(frozen=True, kw_only=True)
class Document:
    """What attention may see at once: an episode window, a captioned picture, a stretch of text."""

    tokens: Tokens
    target: npt.NDArray[np.bool_]
    """(T,) whether the loss counts the prediction of this token; never true of the first."""
    labels: npt.NDArray[np.int32]
    """(T,) id that the loss asks for where `target`: the token's own, or an expert's better action."""
    origin: str = ""
    """Folder of the dataset that it was made of."""
    rows: tuple[int, ...] = ()
    """Rows of that dataset, counted over all of its parts: an episode, and the one that a prompt is from."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Whole documents end to end, with no padding: what one step reads."""

    tokens: Tokens
    target: npt.NDArray[np.bool_]
    """(T,) whether the loss counts the prediction of this token."""
    labels: npt.NDArray[np.int32]
    """(T,) id that the loss asks for where `target`."""
    offsets: npt.NDArray[np.int64]
    """(N+1,) first token of each document, then T."""
    tasks: npt.NDArray[np.int32]
    """(N,) data source of each document."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(N,) tokens in each document."""
        return np.diff(self.offsets)


def lay_out(documents: Sequence[Document], sources: Sequence[int] = ()) -> Stream:
    """The stream of `documents`, shortest first: equal lengths lie side by side and share an attention call.

    Args:
        documents: N of them.
        sources: of each the index of its data source, for the loss of each; none makes all of them 0.

    Raises:
        ValueError: there are sources, but not one for each document.
    """
    if len(sources) not in (0, len(documents)):
        raise ValueError(f"expected a source for each of {len(documents)} documents, got {len(sources)}")
    counted = np.array([len(document.tokens) for document in documents], np.int64)
    order = counted.argsort(kind="stable")
    ordered = [documents[index] for index in order.tolist()]
    lengths = counted[order]
    return Stream(
        tokens=concatenate([document.tokens for document in ordered]),
        target=np.concatenate([document.target for document in ordered]) if ordered else np.zeros(0, np.bool_),
        labels=np.concatenate([document.labels for document in ordered]) if ordered else np.zeros(0, np.int32),
        offsets=offsets_of(lengths),
        tasks=np.array(sources, np.int32)[order] if len(sources) else np.zeros(len(order), np.int32),
    )


def patch_places(intervals: npt.NDArray[np.float32], generator: np.random.Generator | None) -> npt.NDArray[np.int64]:
    """Row and column index in [0, 128) of each patch.

    Args:
        intervals: (P, 4) first row, last row, first column, last column as shares of the image.
        generator: draws the place uniformly from the quantised interval, as in training; None takes its middle.

    Returns:
        (P, 2) row and column indices.

    Source: Reed et al. 2022, appendix C.3.
    """
    low = np.floor(intervals[:, [0, 2]] * PATCH_PLACES).astype(np.int64)
    high = np.ceil(intervals[:, [1, 3]] * PATCH_PLACES).astype(np.int64)  # exclusive
    high = np.maximum(high, low + 1)
    drawn = (low + high - 1) // 2 if generator is None else generator.integers(low, high)
    return np.clip(drawn, 0, PATCH_PLACES - 1)


def select(tokens: Tokens, keep: npt.NDArray[np.bool_], *, patch_id: int, chunk_id: int) -> Tokens:
    """The tokens where `keep`, with their own patches and chunks.

    Args:
        tokens: T tokens.
        keep: (T,).
        patch_id: the vocabulary's patch token.
        chunk_id: the vocabulary's chunk token.
    """
    if keep.all():
        return tokens
    dropped = tokens.ids[~keep]
    kept = replace(tokens, ids=tokens.ids[keep], local=tokens.local[keep])
    if (dropped == chunk_id).any():
        kept = replace(kept, chunks=tokens.chunks[keep[tokens.ids == chunk_id]])
    if (dropped == patch_id).any():
        patches = keep[tokens.ids == patch_id]  # (P,)
        sizes = tokens.patch_shapes.astype(np.int64).prod(1)
        kept = replace(
            kept,
            pixels=tokens.pixels[np.repeat(patches, sizes)],
            patch_shapes=tokens.patch_shapes[patches],
            patch_intervals=tokens.patch_intervals[patches],
        )
    return kept


def ranges(starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """All integers of the half-open ranges [starts[n], stops[n]), end to end."""
    lengths = stops - starts
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths))


def within_rows(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """0, 1, 2, … within each row of these `lengths`, end to end."""
    return ranges(np.zeros_like(lengths), lengths)


def offsets_of(lengths: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """(N+1,) where each of N rows of these lengths begins, then where the last ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def split(tokens: Tokens, lengths: npt.NDArray[np.int64], *, patch_id: int, chunk_id: int) -> list[Tokens]:
    """Consecutive runs of `lengths` tokens, each with its own patches and chunks.

    Args:
        tokens: T tokens.
        lengths: (N,) with sum T.
        patch_id: the vocabulary's patch token.
        chunk_id: the vocabulary's chunk token.
    """
    if len(lengths) == 1:
        return [tokens]
    ends = offsets_of(lengths)
    patch_ends = np.flatnonzero(tokens.ids == patch_id).searchsorted(ends)
    chunk_ends = np.flatnonzero(tokens.ids == chunk_id).searchsorted(ends)
    pixel_ends = offsets_of(tokens.patch_shapes.astype(np.int64).prod(1))[patch_ends]
    bounds = np.stack([ends, patch_ends, chunk_ends, pixel_ends], 1).tolist()  # plain numbers slice faster
    return [
        Tokens(
            ids=tokens.ids[first:last],
            local=tokens.local[first:last],
            pixels=tokens.pixels[pixel:last_pixel],
            patch_shapes=tokens.patch_shapes[patch:last_patch],
            patch_intervals=tokens.patch_intervals[patch:last_patch],
            chunks=tokens.chunks[chunk:last_chunk],
        )
        for (first, patch, chunk, pixel), (last, last_patch, last_chunk, last_pixel) in itertools.pairwise(bounds)
    ]


def plain(ids: Sequence[int] | npt.NDArray[np.int32]) -> Tokens:
    """Actions, separators, `end` and instructions: ids without a place.

    Raises:
        ValueError: an id is beyond int32, and would become another.
    """
    wide = ids if isinstance(ids, np.ndarray) and ids.dtype == np.int32 else np.asarray(ids, np.int64)
    array = wide.astype(np.int32, copy=False)
    if (wrong := array != wide).any():
        raise ValueError(f"token ids must be in 0..{np.iinfo(np.int32).max}, got {wide[wrong][0]}")
    return Tokens(ids=array, local=np.full(len(array), ACTION_LOCAL, np.int16))


def prompt_tokens(ids: npt.NDArray[np.int32]) -> Tokens:
    """What is said to the model: pieces with their places in it."""
    return Tokens(ids=ids, local=-1 - _places(len(ids), 0))


def answer_tokens(ids: npt.NDArray[np.int32], start: int = 0) -> Tokens:
    """What the model says: pieces with their places in it, the first of them at `start`."""
    return Tokens(ids=ids, local=-1 - TEXT_PLACES - _places(len(ids), start))


def place_numbers(local: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """Local indices as people count: from 1 in an observation, a prompt or an answer; 0 for tokens without a place."""
    return np.where(local < 0, (-1 - local) % TEXT_PLACES + 1, local)


def _places(n: int, start: int) -> npt.NDArray[np.int16]:
    return np.minimum(np.arange(start, start + n), TEXT_PLACES - 1).astype(np.int16)
