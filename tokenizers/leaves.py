"""Leaves that hold an array: integers, chunks and bins of continuous scalars, images.

Source: Reed et al. 2022, section 2.1 and appendix B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from gato_lite.config import CHUNK_WIDTH
from gato_lite.spaces import AnySpace
from gato_lite.tokenizers.continuous import Squash, decode_bins, encode_bins
from gato_lite.tokenizers.image import PatchGrid, Scaling
from gato_lite.tokenizers.integer import Digits
from gato_lite.tokenizers.leaf import Cursor, LegalIds, Values, checked, in_bounds, name_of, refuse, stack_arrays
from gato_lite.tokenizers.ragged import Block, plain
from gato_lite.tokenizers.vocabulary import Vocabulary

AFFINE_LIMIT: Final = 1e6
"""Bounds beyond it say "unbounded" in all but name, and an affine map would leave usual values no resolution."""


class IntegerLeaf:
    """Integers as base-1024 digits: Discrete, MultiDiscrete, MultiBinary and integer Boxes."""

    kind: Final = "integer"

    def __init__(self, path: str, space: AnySpace, vocabulary: Vocabulary) -> None:
        self.path: Final = path
        self.space: Final = space
        self._shape: Final = tuple(space.shape or ())
        self._ids: Final = vocabulary.discrete_ids
        self._low, self._high = integer_bounds(space)
        self._base: Final = _as_offsets(self._low)
        self._digits: Final = Digits(_as_offsets(self._high) - self._base, len(self._ids))
        self.n_tokens: Final[int | None] = self._digits.n_tokens

    def column(self, values: Sequence[Any]) -> npt.NDArray[Any]:
        return stack_arrays(self.path, self._shape, values)

    def encode(self, column: Values) -> Block:
        array = checked(self.path, self._shape, "iub", column)
        in_bounds(self.path, array, self._low, self._high)
        digits = self._digits.encode(_as_offsets(array) - self._base)
        return plain(digits + np.int32(self._ids.start))

    def decode(self, cursor: Cursor) -> Any:
        digits = cursor.take(self._digits.n_tokens, self._ids, self.path)
        try:
            offsets = self._digits.decode(digits)
        except ValueError as error:
            raise ValueError(f"{name_of(self.path)}: {error}") from error
        dtype = np.dtype(self.space.dtype)
        whole = offsets + self._base
        value = (whole if dtype == np.uint64 else whole.view(np.int64)).astype(dtype).reshape(self._shape)
        return value[()] if isinstance(self.space, spaces.Discrete) else value

    def legal(self, ids: Sequence[int], at: int) -> LegalIds | int:
        if len(ids) - at >= self._digits.n_tokens:
            return at + self._digits.n_tokens
        prefix = np.asarray(ids[at:], np.int32) - np.int32(self._ids.start)
        return np.arange(self._ids.start, self._ids.start + self._digits.stop(prefix), dtype=np.int32)

    def ranges(self) -> list[tuple[int, int]] | None:
        stops = self._digits.stops
        return None if stops is None else [(self._ids.start, self._ids.start + stop) for stop in stops.tolist()]


class _Continuous:
    """What chunks and bins share: scalars of a Box, squashed."""

    def __init__(self, path: str, space: spaces.Box, limit: float) -> None:
        self.path: Final = path
        self.space: Final[AnySpace] = space
        self._shape: Final = space.shape
        self._dtype: Final = np.dtype(space.dtype)
        self._low, self._high = space.low.reshape(-1), space.high.reshape(-1)
        if self._dtype.kind == "f":
            largest = float(np.finfo(self._dtype).max)  # type: ignore[type-var]  # a float, by its kind; what overflow in the last cast is clipped to
            low, high = np.maximum(self._low, -largest), np.minimum(self._high, largest)
        else:
            low, high = self._low.astype(np.float64), self._high.astype(np.float64)
            if np.abs(np.concatenate([low, high, [0]])).max() > 2**53:
                raise ValueError(
                    f"{name_of(path)}: expected integers within ±2**53 for chunks or bins, got bounds "
                    f"{self._low.min()}..{self._high.max()}; use the kind 'integer'"
                )
        self._clip: Final = (low.astype(np.float64), high.astype(np.float64))
        self._squash: Final = Squash(self._low.astype(np.float64), self._high.astype(np.float64), limit)

    def column(self, values: Sequence[Any]) -> npt.NDArray[Any]:
        return stack_arrays(self.path, self._shape, values)

    def _scalars(self, column: Values) -> npt.NDArray[Any]:
        """(N, E) values, NaN refused."""
        array = checked(self.path, self._shape, "fiub", column)
        if array.dtype.kind == "f":
            refuse(self.path, array, np.isnan(array), "a number")
        return array

    def _value(self, squashed: npt.NDArray[np.floating[Any]]) -> npt.NDArray[Any]:
        """The member of the space whose squashed scalars these are."""
        scalars = self._squash.inverse(squashed.reshape(1, -1))[0]
        if self._dtype.kind != "f":
            scalars = np.rint(scalars)
        return np.asarray(np.clip(scalars, *self._clip).astype(self._dtype).reshape(self._shape))


class ChunkLeaf(_Continuous):
    """Scalars of an observation, up to 32 in one token, embedded from their squashed values.

    Differs from the paper: GATO writes a token per scalar; a chunk makes an observation of 32 scalars one position,
    because on a CPU positions are what an episode costs.
    """

    kind: Final = "chunks"

    def __init__(self, path: str, space: spaces.Box, vocabulary: Vocabulary) -> None:
        super().__init__(path, space, AFFINE_LIMIT)
        self._id: Final = vocabulary.chunk
        self._n_scalars: Final = self._low.size
        self._n_chunks: Final = -(-self._n_scalars // CHUNK_WIDTH)
        self.n_tokens: Final[int | None] = self._n_chunks

    def encode(self, column: Values) -> Block:
        array = self._scalars(column)
        wide = np.zeros((len(array), self._n_chunks * CHUNK_WIDTH), np.float32)
        wide[:, : self._n_scalars] = self._squash.forward(array.astype(np.float64))
        counts = np.full(len(array), self._n_chunks, np.int64)
        return Block(
            ids=np.full(len(array) * self._n_chunks, self._id, np.int32),
            lengths=counts,
            chunks=wide.reshape(-1, CHUNK_WIDTH),  # (N C, 32)
            n_chunks=counts,
        )

    def decode(self, cursor: Cursor) -> npt.NDArray[Any]:
        return self._value(cursor.take_chunks(self._n_chunks, self.path).reshape(-1)[: self._n_scalars])

    def legal(self, ids: Sequence[int], at: int) -> LegalIds | int:
        raise NotImplementedError("chunks are never an action")

    def ranges(self) -> list[tuple[int, int]] | None:
        return None


class BinLeaf(_Continuous):
    """One of 1024 bins per scalar: every continuous action, and observations as in the paper."""

    kind: Final = "bins"

    def __init__(self, path: str, space: spaces.Box, vocabulary: Vocabulary, *, action: bool) -> None:
        # The paper's observations are mu-law encoded whatever their bounds: a limit of zero leaves nothing affine.
        super().__init__(path, space, np.inf if action else -1.0)
        self._is_action: Final = action
        self._ids: Final = vocabulary.bin_ids
        self.n_tokens: Final[int | None] = self._low.size

    def encode(self, column: Values) -> Block:
        array = self._scalars(column)
        if self._is_action:
            with np.errstate(over="ignore"):
                array = array.astype(self._dtype) if self._dtype.kind == "f" else array
            in_bounds(self.path, array, self._low, self._high)
        bins = encode_bins(self._squash.forward(array.astype(np.float64)), len(self._ids))
        return plain(bins + np.int32(self._ids.start))

    def decode(self, cursor: Cursor) -> npt.NDArray[Any]:
        bins = cursor.take(self._low.size, self._ids, self.path)
        return self._value(decode_bins(bins, len(self._ids)))

    def legal(self, ids: Sequence[int], at: int) -> LegalIds | int:
        if len(ids) - at >= self._low.size:
            return at + self._low.size
        return np.arange(self._ids.start, self._ids.stop, dtype=np.int32)

    def ranges(self) -> list[tuple[int, int]] | None:
        return [(self._ids.start, self._ids.stop)] * self._low.size


class ImageLeaf:
    """A uint8 picture or grid as patches whose pixels reach the model as they are."""

    kind: Final = "image"

    def __init__(
        self,
        path: str,
        space: spaces.Box,
        vocabulary: Vocabulary,
        *,
        patch_size: int,
        pixel_high: tuple[int, ...] | None,
    ) -> None:
        self.path: Final = path
        self.space: Final[AnySpace] = space
        self._shape: Final = space.shape
        height, width, channels = space.shape if len(space.shape) == 3 else (*space.shape, 1)
        if pixel_high is not None and len(pixel_high) != channels:
            raise ValueError(
                f"{name_of(path)}: expected pixel_high with {channels} channels as in {space.shape}, got {pixel_high}"
            )
        self._id: Final = vocabulary.patch
        self._grid: Final = PatchGrid(height, width, channels, patch_size)
        self._low: Final = space.low.reshape(-1)  # (E,)
        high = np.tile(np.array(pixel_high or (255,) * channels), height * width)
        self._high: Final = np.minimum(high, space.high.reshape(-1))  # (E,)
        self._is_bounded: Final = bool(self._low.any() or (self._high < np.iinfo(np.uint8).max).any())
        self._scaling: Final = None if pixel_high is None else Scaling(pixel_high, height * width)
        self.n_tokens: Final[int | None] = self._grid.n_patches

    def column(self, values: Sequence[Any]) -> npt.NDArray[Any]:
        return stack_arrays(self.path, self._shape, values)

    def encode(self, column: Values) -> Block:
        array = checked(self.path, self._shape, "iub", column)
        if array.dtype != np.uint8 or self._is_bounded:
            in_bounds(self.path, array, self._low, self._high)
        array = array.astype(np.uint8, copy=False)
        if self._scaling is not None:
            array = self._scaling.forward(array)
        images = array.reshape(len(array), *self._grid.shape)
        counts = np.full(len(array), self._grid.n_patches, np.int64)
        return Block(
            ids=np.full(len(array) * self._grid.n_patches, self._id, np.int32),
            lengths=counts,
            pixels=self._grid.split(images).reshape(-1),
            patch_shapes=np.tile(self._grid.shapes, (len(array), 1)),
            patch_intervals=np.tile(self._grid.intervals, (len(array), 1)),
            n_pixels=np.full(len(array), self._grid.n_pixels, np.int64),
            n_patches=counts,
        )

    def decode(self, cursor: Cursor) -> npt.NDArray[Any]:
        pixels = cursor.take_patches(self._grid, self.path)
        flat = self._grid.join(pixels[None])[0].reshape(-1)
        return (flat if self._scaling is None else self._scaling.inverse(flat)).reshape(self._shape)

    def legal(self, ids: Sequence[int], at: int) -> LegalIds | int:
        raise NotImplementedError("patches are never an action")

    def ranges(self) -> list[tuple[int, int]] | None:
        return None


def integer_bounds(space: AnySpace) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """(E,) smallest and largest value of each scalar of an integer space."""
    match space:
        case spaces.Discrete():
            first = np.array([int(space.start)])
            return first, np.array([int(space.start) + int(space.n) - 1])
        case spaces.MultiDiscrete():
            first = space.start.reshape(-1)
            return first, (first + (space.nvec.reshape(-1) - 1)).astype(first.dtype)
        case spaces.MultiBinary():
            size = int(np.prod(space.shape))
            return np.zeros(size, np.int8), np.ones(size, np.int8)
        case spaces.Box():
            return space.low.reshape(-1), space.high.reshape(-1)
    raise TypeError(f"expected a space of integers, got {space}")


def _as_offsets(values: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Integers modulo 2**64: differences of them are exact whatever their signs."""
    return values if values.dtype == np.uint64 else values.astype(np.int64).view(np.uint64)
