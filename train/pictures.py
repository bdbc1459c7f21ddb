"""Picture files → RGB arrays, with every kind of pixel defined.

Decisions:

- What cannot be trusted is checked before a pixel is decoded: the file's format and its number of pixels.
- The EXIF orientation is applied. Transparent pixels lie on white. Of a moving picture the first frame counts.
- Grey of 16 bits is scaled to 8 (65535 → 255), not clipped. Palette, grey, CMYK, YCbCr and Lab become RGB.
- `fit` is the one way to a model's picture size, whether pictures are imported or prompt a run, so that a prompt looks
  like what the model was trained on. It pads to a square with white, or keeps the aspect within the square's area.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from gato_lite.envs.format import PictureFit

FORMATS: Final = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
"""File formats that are read, as Pillow names them."""
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")
"""File names that are taken for pictures."""
MAX_PIXELS: Final = 64_000_000
"""Pixels of the largest picture that is decoded; a small file can claim billions."""
MAX_BYTES: Final = 256 * 2**20
"""Bytes of the largest file that is read; a member of an archive can claim any number."""
WHITE: Final = 255
CELL: Final = 16
"""Pixels of which sides are multiples where the aspect is kept: the patch size of every preset."""
STRETCH: Final = 2.0
"""How much a wrong aspect counts against sides that are shorter than the budget allows, both as logarithms."""


def decode_picture(
    source: bytes | str | Path, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in a file, or in a file's bytes, as RGB: the one place where pixels are given a meaning.

    | in the file | becomes |
    |---|---|
    | RGB | itself |
    | grey, 1 bit, palette | its colours |
    | alpha, or a transparent palette entry or colour | the picture on white |
    | 16-bit grey | scaled to 8 bits, 65535 → 255; 16-bit RGB the same |
    | 32-bit integer grey | the same, if it is within 0..65535, else an error |
    | CMYK, YCbCr, Lab | converted without a profile |
    | floating point | an error |
    | an EXIF orientation | turned upright |
    | several frames | the first |
    | more than `max_pixels` pixels or 256 MiB, or a format not in `FORMATS` | an error, before a pixel is decoded |

    Args:
        source: a path, or the bytes of the file.
        name: how errors speak of it; None takes the path.
        max_pixels: most pixels that are decoded.

    Raises:
        ValueError: no picture, a broken or a too large one, or pixels that have no defined brightness.
    """
    if name is None:
        name = "picture" if isinstance(source, bytes) else str(source)
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{name}: expected a picture of at most {MAX_BYTES >> 20} MiB, got {size:,} bytes")
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of size and odd metadata; size is judged below
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                _check_size(picture, name, max_pixels)
                return _to_rgb(picture, name)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: expected at most {max_pixels:,} pixels: {error}") from error
    except (OSError, SyntaxError, EOFError, IndexError, TypeError, ValueError, struct.error, zlib.error) as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise ValueError(f"{name}: expected a whole picture ({', '.join(FORMATS)}): {error}") from error


def encode_png(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """`pixels` as a small PNG file; `decode_picture` gives back exactly `pixels`."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


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
    longer than the longest row of cells becomes that row.

    Source: Lee et al. 2023, "Pix2Struct", section 3.1 (as many patches as fit the budget, at the picture's own aspect).
    Differs from the paper, which scales by the budget and rounds rows and columns down: that is off by up to 41 % in
    64² and 12 % in 224².
    """
    height, width = pixels.shape[:2]
    cell = min(CELL, side)
    short, long = _grid(max(height, width) / min(height, width), side * side // cell**2)
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


def fit(pixels: UInt8[np.ndarray, "H W 3"], how: PictureFit) -> UInt8[np.ndarray, "H2 W2 3"]:
    """`pixels` at the size, and in the way, of a dataset's or a run's other pictures."""
    return (keep_aspect if how.keep_aspect else square)(pixels, how.side)


def _check_size(picture: Image.Image, name: str, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise ValueError(f"{name}: expected at most {max_pixels:,} pixels, got {width} × {height}; make it smaller")


def _to_rgb(picture: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """All pixel modes to RGB, on white, upright."""
    picture.seek(0)
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):  # 16-bit grey; Pillow would clip it at 255
        values = np.asarray(upright).astype(np.int64)
        if values.size and not (values.min() >= 0 and values.max() <= 65535):
            raise ValueError(f"{name}: expected grey values in 0..65535, got {values.min()}..{values.max()}")
        grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)  # (H, W, 3)
    if upright.mode == "F":
        raise ValueError(f"{name}: expected pixels of 8 or 16 bits, got floating point; save it as PNG")
    if upright.has_transparency_data:
        canvas = Image.new("RGBA", upright.size, (WHITE, WHITE, WHITE, 255))
        upright = Image.alpha_composite(canvas, upright.convert("RGBA"))
    return np.array(upright.convert("RGB"))
