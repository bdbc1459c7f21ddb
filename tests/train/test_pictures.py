import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gato_lite.train.pictures import decode_picture, encode_png


def file_bytes(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, depth, color, rows):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_png_round_trips():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    assert (decode_picture(encode_png(pixels)) == pixels).all()


def test_a_path_is_read_like_bytes(tmp_path):
    pixels = np.full((2, 3, 3), 9, np.uint8)
    (tmp_path / "a.png").write_bytes(encode_png(pixels))
    assert (decode_picture(tmp_path / "a.png") == pixels).all()
    assert (decode_picture(str(tmp_path / "a.png")) == pixels).all()


def test_transparent_pixels_lie_on_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 255, 128
    grey = np.array([[[10, 0], [10, 255]]], np.uint8)
    assert decode_picture(file_bytes(Image.fromarray(rgba)))[0, :, 0].tolist() == [255, 0, 127]
    assert decode_picture(file_bytes(Image.fromarray(grey)))[0, :, 1].tolist() == [255, 10]


def test_a_palette_becomes_its_colours_and_its_transparent_entry_white():
    picture = Image.new("P", (2, 1))
    picture.putpalette([1, 2, 3, 4, 5, 6])
    picture.putdata([0, 1])
    assert decode_picture(file_bytes(picture)).tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert decode_picture(file_bytes(picture, transparency=1)).tolist() == [[[1, 2, 3], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "LAB"])
def test_other_modes_become_rgb(mode):
    picture = Image.new("RGB", (4, 4), "white").convert("RGB" if mode == "LAB" else mode)
    if mode == "LAB":
        picture = Image.new("LAB", (4, 4), (255, 128, 128))
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "LAB": "TIFF"}.get(mode, "PNG")
    pixels = decode_picture(file_bytes(picture, kind))
    assert pixels.shape == (4, 4, 3)
    assert pixels.dtype == np.uint8
    assert pixels.min() >= 250


def test_grey_of_16_bits_is_scaled_and_not_clipped():
    grey = np.array([[0, 257, 32768, 65535]], np.uint16)
    assert decode_picture(file_bytes(Image.fromarray(grey)))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_rgb_of_16_bits_becomes_8():
    rows = b"\0" + struct.pack(">6H", 0, 32768, 65535, 65535, 0, 257)
    assert decode_picture(png(2, 1, 16, 2, rows)).tolist() == [[[0, 128, 255], [255, 0, 1]]]


def test_the_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = decode_picture(file_bytes(Image.new("RGB", (6, 2)), "JPEG", exif=exif))
    assert turned.shape == (6, 2, 3)


def test_the_first_frame_of_a_moving_picture_counts():
    frames = [Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
    data = file_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_picture(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("side", [9_000, 40_000])
def test_a_small_file_that_claims_many_pixels_is_refused_before_it_is_decoded(side):
    with pytest.raises(ValueError, match=r"picture: expected at most 64,000,000 pixels"):
        decode_picture(png(side, side, 1, 0, b""))


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\x80\x04K\x01.", b"%!PS-Adobe"])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(
        ValueError, match=r"picture: expected a whole picture \(PNG, JPEG, GIF, WEBP, BMP, TIFF\)"
    ) as raised:
        decode_picture(data)
    assert " object at 0x" not in str(raised.value)


def test_every_truncation_of_a_picture_is_refused(tmp_path):
    data = encode_png(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    for end in range(0, len(data) - 16, 7):
        (tmp_path / "cut.png").write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"cut.png: "):
            decode_picture(tmp_path / "cut.png")


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match=r"expected pixels of 8 or 16 bits, got floating point; save it as PNG"):
        decode_picture(file_bytes(Image.new("F", (2, 2)), "TIFF"))
