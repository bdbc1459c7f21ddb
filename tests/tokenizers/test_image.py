from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.tokenizers.image import PatchGrid, Scaling


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.integers(1, 4),
    patch_size=st.sampled_from([1, 3, 16]),
)
def test_every_size_round_trips(height: int, width: int, channels: int, patch_size: int) -> None:
    grid = PatchGrid(height, width, channels, patch_size)
    images = np.random.default_rng(0).integers(256, size=(3, height, width, channels), dtype=np.uint8)
    pixels = grid.split(images)
    assert pixels.dtype == np.uint8
    assert np.array_equal(grid.join(pixels), images)
    assert grid.n_patches == -(-height // patch_size) * -(-width // patch_size)
    assert grid.shapes.astype(int).prod(axis=1).sum() == grid.n_pixels == pixels.shape[1]


def test_raster_order_and_smaller_patches_at_the_edge() -> None:
    grid = PatchGrid(20, 40, 3, 16)
    assert grid.shapes.tolist() == [[16, 16, 3], [16, 16, 3], [16, 8, 3], [4, 16, 3], [4, 16, 3], [4, 8, 3]]
    image = np.random.default_rng(0).integers(256, size=(1, 20, 40, 3), dtype=np.uint8)
    pixels = grid.split(image)[0]
    assert np.array_equal(pixels[: 16 * 16 * 3].reshape(16, 16, 3), image[0, :16, :16])
    assert np.array_equal(pixels[-4 * 8 * 3 :].reshape(4, 8, 3), image[0, 16:, 32:])


def test_intervals_are_shares_of_the_image() -> None:
    grid = PatchGrid(20, 40, 1, 16)
    assert grid.intervals.dtype == np.float32
    np.testing.assert_allclose(grid.intervals[0], [0, 0.8, 0, 0.4])
    np.testing.assert_allclose(grid.intervals[-1], [0.8, 1, 0.8, 1])


@pytest.mark.parametrize("size, patches", [(80, 25), (64, 16), (7, 1)])
def test_the_papers_atari_frame(size: int, patches: int) -> None:
    assert PatchGrid(size, size, 3, 16).n_patches == patches


@pytest.mark.parametrize("shape", [(7, 7, 3), (20, 20, 3)])
def test_pixels_are_copies(shape: tuple[int, int, int]) -> None:
    """An environment may draw its next observation into the same array."""
    grid, images = PatchGrid(*shape, 16), np.ones((1, *shape), np.uint8)
    pixels = grid.split(images)
    joined = grid.join(pixels)
    assert not np.shares_memory(pixels, images)
    assert not np.shares_memory(joined, pixels)


def test_channels_are_stretched_each_by_its_own_range() -> None:
    scaling = Scaling((10, 5, 255), n_pixels=2)
    values = np.array([[10, 5, 255, 5, 1, 7], [0, 0, 0, 1, 2, 3]], np.uint8)
    pixels = scaling.forward(values)
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [[255, 255, 255, 128, 51, 7], [0, 0, 0, 26, 102, 3]]
    assert np.array_equal(scaling.inverse(pixels), values)
