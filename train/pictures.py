"""Picture files → RGB arrays, with every kind of pixel defined.

Decisions:

- What cannot be trusted is checked before a pixel is decoded: the file's format and its number of pixels.
- The EXIF orientation is applied. Transparent pixels lie on white. Of a moving picture the first frame counts.
- Grey of 16 bits is scaled to 8 (65535 → 255), not clipped. Palette, grey, CMYK, YCbCr and Lab become RGB.
- Their size stays what it is: `gato_lite.fitting` is the one way to a model's.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from gato_lite.fitting import MAX_PIXELS, on_white

FORMATS: Final = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
"""File formats that are read, as Pillow names them."""
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")
"""File names that are taken for pictures."""
MAX_BYTES: Final = 256 * 2**20
"""Bytes of the largest file that is read; a member of an archive can claim any number."""


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
    except UnidentifiedImageError as error:  # its message shows the bytes' object, not the file
        raise ValueError(f"{name}: expected a whole picture ({', '.join(FORMATS)}), found none of these") from error
    except (OSError, SyntaxError, EOFError, IndexError, TypeError, ValueError, struct.error, zlib.error) as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise ValueError(f"{name}: expected a whole picture ({', '.join(FORMATS)}): {error}") from error


def encode_png(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """`pixels` as a small PNG file; `decode_picture` gives back exactly `pixels`."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


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
    return on_white(upright)
