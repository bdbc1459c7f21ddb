import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.exchange import picture_tokens
from gato_lite.fitting import CELL, PictureFit, fit, keep_aspect, resize, square
from gato_lite.tokenizers.vocabulary import Vocabulary


def test_resize_keeps_a_flat_colour_and_the_same_size():
    pixels = np.full((10, 6, 3), 77, np.uint8)
    assert resize(pixels, 10, 6) is pixels
    assert resize(pixels, 3, 4).tolist() == np.full((3, 4, 3), 77).tolist()


@pytest.mark.parametrize("height, width", [(8, 4), (4, 8), (1, 60), (60, 1), (5, 5)])
def test_square_pads_with_white_and_keeps_the_proportions(height, width):
    inside = (square(np.zeros((height, width, 3), np.uint8), 16)[:, :, 0] == 0).sum()
    longest = max(height, width)
    assert square(np.zeros((height, width, 3), np.uint8), 16).shape == (16, 16, 3)
    assert inside == max(1, round(16 * height / longest)) * max(1, round(16 * width / longest))


SIDES = st.integers(1, 400)


def kept(height, width, side):
    return keep_aspect(np.zeros((height, width, 3), np.uint8), side).shape[:2]


@given(SIDES, SIDES, st.integers(1, 300))
def test_an_aspect_is_kept_within_the_budget(height, width, side):
    rows, columns = kept(height, width, side)
    cell = min(CELL, side)
    assert rows * columns <= side**2
    assert (rows % cell, columns % cell) == (0, 0)
    assert min(rows, columns) >= cell
    assert (columns, rows) == kept(width, height, side)


@given(SIDES, SIDES, st.integers(1, 160), st.integers(4, 48))
def test_an_aspect_is_kept_within_the_budget_of_tokens(height, width, side, patch):
    pixels = keep_aspect(np.zeros((height, width, 3), np.uint8), side)
    n_patch = len(picture_tokens(pixels, Vocabulary.shipped(), patch))
    edge = 0 if min(CELL, side) % patch == 0 else sum(pixels.shape[:2]) / patch + 1
    assert n_patch <= (side / patch) ** 2 + edge


@pytest.mark.parametrize("side, off", [(64, 1.19), (128, 1.11), (224, 1.07)])
def test_an_aspect_is_off_by_no_more_than_is_promised(side, off):
    for width in range(100, 401):
        rows, columns = kept(100, width, side)
        assert 1 / off <= columns / rows / (width / 100) <= off
        assert rows * columns >= 0.5 * side**2


@pytest.mark.parametrize(
    "height, width, side, expected",
    [
        (900, 1600, 64, (48, 80)),
        (64, 64, 64, (64, 64)),
        (500, 500, 40, (32, 32)),
        (10, 20, 64, (32, 64)),
        (60_000, 2, 64, (256, 16)),
        (2, 60_000, 224, (16, 3136)),
        (1, 1, 1, (1, 1)),
        (30, 10, 8, (8, 8)),
    ],
)
def test_sizes_of_pictures_that_keep_their_aspect(height, width, side, expected):
    assert kept(height, width, side) == expected


def test_nothing_is_padded_or_cut_off():
    halves = np.repeat(np.array([[[250, 0, 0], [0, 0, 250]]], np.uint8), 40, axis=1).repeat(30, axis=0)  # (30, 80, 3)
    pixels = keep_aspect(halves, 64)
    middle = pixels.shape[1] // 2
    assert (pixels[:, : middle - 4] == [250, 0, 0]).all()
    assert (pixels[:, middle + 4 :] == [0, 0, 250]).all()


def test_pictures_are_fitted_as_they_are_said_to_be():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 80, 3), np.uint8)
    assert (fit(pixels, PictureFit(side=64)) == square(pixels, 64)).all()
    assert (fit(pixels, PictureFit(side=64, keep_aspect=True)) == keep_aspect(pixels, 64)).all()


@given(SIDES, SIDES, st.integers(1, 160), st.booleans())
def test_what_was_fitted_stays_as_it_is(height, width, side, keep):
    how = PictureFit(side=side, keep_aspect=keep)
    once = fit(np.zeros((height, width, 3), np.uint8), how)
    assert fit(once, how) is once


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_pictures_of_other_channels_become_rgb_on_white(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, channels), np.uint8)
    pixels[0, 0, -1], pixels[0, 1, -1] = 0, 255
    fitted = fit(pixels, PictureFit(side=16))
    assert fitted.shape == (16, 16, 3)
    assert fitted[0, 1].tolist() == (pixels[0, 1].tolist() if channels == 4 else [pixels[0, 1, 0]] * 3)[:3]
    assert fitted[0, 0].tolist() == ([0, 0, 0] if channels == 1 else [255, 255, 255])


def test_pictures_that_are_not_fitted():
    with pytest.raises(ValueError, match=r"a picture must be uint8 \(H, W, 1 to 4\), got uint8 \(4, 4\)"):
        fit(np.zeros((4, 4), np.uint8), PictureFit(side=16))
    large = np.broadcast_to(np.uint8(7), (20_000, 20_000, 3))
    with pytest.raises(ValueError, match="a picture must have at most 64,000,000 pixels, got 20000 × 20000; make it"):
        fit(large, PictureFit(side=16))
