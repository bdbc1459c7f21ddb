"""Images ↔ patches: square patches in raster order, pixels as they are.

Patches at the right and lower edge hold only the pixels that exist, so nothing is padded and the way back is exact.

Source: Reed et al. 2022, section 2.1 (16×16 patches in raster order) and appendix C.3 (position intervals).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import UInt8

_LARGEST_SIDE: Final = np.iinfo(np.int16).max
"""What `Tokens.patch_shapes` can hold."""


class PatchGrid:
    """How images of one size are cut into patches."""

    def __init__(self, height: int, width: int, channels: int, patch_size: int) -> None:
        """Plans the patches.

        Raises:
            ValueError: a patch has a side that int16 cannot hold.
        """
        if min(patch_size, max(height, width)) > _LARGEST_SIDE:
            raise ValueError(
                f"patch_size must be at most {_LARGEST_SIDE} for pictures of {height} × {width}, got {patch_size}"
            )
        rows = [(r, min(r + patch_size, height)) for r in range(0, height, patch_size)]
        columns = [(c, min(c + patch_size, width)) for c in range(0, width, patch_size)]
        cells = [(r, s, c, d) for r, s in rows for c, d in columns]
        self.shape: Final = (height, width, channels)
        self.n_patches: Final = len(cells)
        self.n_pixels: Final = height * width * channels
        self.shapes: Final = np.array([(s - r, d - c, channels) for r, s, c, d in cells], np.int16).reshape(-1, 3)
        """(P, 3) height, width, channels of each patch."""
        ends = np.array(cells, np.float64).reshape(-1, 4) / [height, height, width, width]
        self.intervals: Final = ends.astype(np.float32)
        """(P, 4) first row, last row, first column, last column of each patch as a share of the image."""
        index = np.arange(self.n_pixels, dtype=np.int64).reshape(self.shape)  # (H, W, C)
        order = [index[r:s, c:d].reshape(-1) for r, s, c, d in cells]
        self._order: Final = np.concatenate(order) if order else index.reshape(-1)
        self._inverse: Final = np.argsort(self._order)
        self._is_whole: Final = self.n_patches == 1

    def split(self, images: UInt8[np.ndarray, "N H W C"]) -> UInt8[np.ndarray, "N L"]:
        """The pixels of every image patch by patch, each patch (height, width, channels) in C order."""
        flat = images.reshape(len(images), self.n_pixels)  # (N, L)
        return flat.copy() if self._is_whole else flat.take(self._order, 1)  # faster than an index

    def join(self, pixels: UInt8[np.ndarray, "N L"]) -> UInt8[np.ndarray, "N H W C"]:
        """The images that `split` cut."""
        flat = pixels.copy() if self._is_whole else pixels.take(self._inverse, 1)
        return flat.reshape(len(pixels), *self.shape)  # (N, H, W, C)


class Scaling:
    """Channels of small range stretched over 0..255 through a table for each; exact both ways.

    Differs from the paper: GATO has no symbolic grids; one drawn in the values 0..10 would be black to a network that
    reads pixels.
    """

    def __init__(self, pixel_high: tuple[int, ...], n_pixels: int) -> None:
        values = np.arange(256)
        # Rounded to nearest: steps of at least one, so no two values meet.
        forward = [np.minimum((values * 510 + high) // (2 * high), 255) for high in pixel_high]
        inverse = [(values * high * 2 + 255) // 510 for high in pixel_high]
        self._forward: Final = np.concatenate(forward).astype(np.uint8)
        self._inverse: Final = np.concatenate(inverse).astype(np.uint8)
        self._channel: Final = np.tile(np.arange(len(pixel_high)) * 256, n_pixels)  # (E,) where each table starts

    def forward(self, array: UInt8[np.ndarray, "*N E"]) -> UInt8[np.ndarray, "*N E"]:
        """Raw values, none above its channel's largest, as pixels."""
        return np.asarray(self._forward[array + self._channel])

    def inverse(self, array: UInt8[np.ndarray, "*N E"]) -> UInt8[np.ndarray, "*N E"]:
        """The raw values that `forward` turned into these pixels."""
        return np.asarray(self._inverse[array + self._channel])
