"""Pictures of any size → such as a run was trained on.

`fit` is the one way to a model's picture size, whether pictures are imported or prompt a run, so that a prompt looks
like what the model was trained on. It pads to a square with white, or keeps the aspect within the square's area. What
it has fitted it leaves as it is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import numpy as np
import numpy.typing as npt
from jaxtyping import UInt8
from PIL import Image

Picture = npt.NDArray[np.uint8]
"""(H, W, C) pixels."""
MAX_PIXELS: Final = 64_000_000
"""Pixels of the largest picture that is decoded or fitted; a small file can claim billions."""
WHITE: Final = 255
CELL: Final = 16
"""Pixels of which sides are multiples where the aspect is kept: the patch size of every preset."""
STRETCH: Final = 2.0
"""How much a wrong aspect counts against sides that are shorter than the budget allows, both as logarithms."""
N_PROBE: Final = 256
"""Aspects that are tried to find out whether a grid is that of any."""


class PictureFit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To what size pictures are fitted, and in which way."""

    side: Annotated[int, msgspec.Meta(ge=1)]
    """Pixels of the side of a square; its area is the most pixels that a picture has."""
    keep_aspect: bool = False
    """Whether pictures keep their proportions; else they are padded with white to the square."""

    def leaves(self, height: int, width: int) -> bool:
        """Whether a picture of that size stays as large as it is."""
        if not self.keep_aspect:
            return height == width == self.side
        cell = min(CELL, self.side)
        short, long = sorted((height, width))
        return short % cell == long % cell == 0 and _is_grid(short // cell, long // cell, self.side**2 // cell**2)


def check_picture(picture: Picture) -> None:
    """Raises a ValueError unless it is one: uint8 (H, W, C) of grey, grey and alpha, RGB, or RGB and alpha."""
    if picture.ndim != 3 or picture.dtype != np.uint8 or not 1 <= picture.shape[2] <= 4 or not picture.size:
        raise ValueError(f"a picture must be uint8 (H, W, 1 to 4), got {picture.dtype} {picture.shape}")


def fit(picture: Picture, how: PictureFit) -> Picture:
    """A picture at the size, and in the way, of a dataset's or a run's other pictures, as RGB on white.

    Raises:
        ValueError: it is no picture, or has more than `MAX_PIXELS`.
    """
    check_picture(picture)
    height, width, channels = picture.shape
    if height * width > MAX_PIXELS:
        raise ValueError(f"a picture must have at most {MAX_PIXELS:,} pixels, got {height} × {width}; make it smaller")
    pixels = picture if channels == 3 else on_white(Image.fromarray(picture[:, :, 0] if channels == 1 else picture))
    if how.leaves(height, width):
        return pixels
    return (keep_aspect if how.keep_aspect else square)(pixels, how.side)


def fit_one_of(picture: Picture, fits: Sequence[PictureFit]) -> Picture:
    """A picture as the first of `fits` has it, of which there is at least one; as another where that leaves its size.

    Raises:
        ValueError: as `fit`.
    """
    check_picture(picture)
    height, width = picture.shape[:2]
    return fit(picture, next((how for how in fits if how.leaves(height, width)), fits[0]))


def on_white(picture: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """The colours of a picture, what is transparent in it on white."""
    if picture.has_transparency_data:
        canvas = Image.new("RGBA", picture.size, (WHITE, WHITE, WHITE, 255))
        picture = Image.alpha_composite(canvas, picture.convert("RGBA"))
    return np.array(picture.convert("RGB"))


def resize(pixels: UInt8[np.ndarray, "H W 3"], height: int, width: int) -> UInt8[np.ndarray, "H2 W2 3"]:
    """`pixels` at another size, antialiased."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def square(pixels: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "S S 3"]:
    """`pixels` in the middle of a white square of `side` pixels, as large as fits."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if height != width:  # shrink first: padding a 60,000 × 2 picture to a square takes gigabytes
        small = max(1, round(height * side / longest)), max(1, round(width * side / longest))
        pixels = resize(pixels, *small)
        canvas = np.full((side, side, 3), WHITE, np.uint8)
        top, left = (side - small[0]) // 2, (side - small[1]) // 2
        canvas[top : top + small[0], left : left + small[1]] = pixels
        return canvas
    return resize(pixels, side, side)


def keep_aspect(pixels: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "H2 W2 3"]:
    """`pixels` at about their own aspect within the area of a square of `side` pixels; nothing is padded or cut off.

    Always: both sides are multiples of u = min(16, `side`), at least u, and their product is at most `side`². So a
    model whose patch size p divides u reads at most (`side`/p)² patches, all of them whole. Of any other p it reads
    fewer than (`side`/p)² + (H2 + W2)/p + 1, because the last patch of a row or column may lie in part beyond the edge.
    A square stays one, and a picture turned on its side gives the result turned.

    The aspect cannot always be met. Of the grids of u×u cells within the budget the one is taken that is best in two
    things at once: an aspect near the picture's, which counts twice, and sides near those that the whole budget would
    give. For pictures of up to 4:1 the aspect is off by at most 19 % in 64², 11 % in 128² and 7 % in 224². A picture
    longer than the longest row of cells becomes that row. A picture of a size that this gives to pictures of some
    aspect stays as it is, so that nothing is fitted twice.

    Source: Lee et al. 2023, "Pix2Struct", section 3.1 (as many patches as fit the budget, at the picture's own aspect).
    Differs from the paper, which scales by the budget and rounds rows and columns down: that is off by up to 41 % in
    64² and 12 % in 224².
    """
    if PictureFit(side=side, keep_aspect=True).leaves(*pixels.shape[:2]):
        return pixels
    height, width = pixels.shape[:2]
    cell = min(CELL, side)
    short, long = sorted((height, width))
    short, long = _grid(long / short, side * side // cell**2)
    rows, columns = (short, long) if height <= width else (long, short)
    return resize(pixels, rows * cell, columns * cell)


def _grid(aspect: float, n_cell: int) -> tuple[int, int]:
    """Short and long side, in cells, of the grid of at most `n_cell` cells for an aspect (long/short) of at least 1."""

    def cost(grid: tuple[int, int]) -> float:
        short, long = grid
        return math.hypot(STRETCH * math.log(long / short / aspect), math.log(n_cell / (short * long)) / 2)

    shorts = range(1, math.isqrt(n_cell) + 1)
    near = ((short, math.floor(short * aspect) + more) for short in shorts for more in (0, 1))
    return min(((short, min(long, n_cell // short)) for short, long in near), key=cost)


@functools.lru_cache(maxsize=1024)
def _is_grid(short: int, long: int, n_cell: int) -> bool:
    """Whether `_grid` gives this grid for any aspect; those of its neighbours are as far as such an aspect can be."""
    if short * long > n_cell:
        return False
    aspects = np.linspace(max(1.0, (long - 1) / short), (long + 1) / short, N_PROBE)
    return any(_grid(aspect, n_cell) == (short, long) for aspect in aspects.tolist())
