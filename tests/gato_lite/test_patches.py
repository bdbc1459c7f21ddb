from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gato_lite.config import GatoConfig
from gato_lite.patches import N_ORIENTATION, GradientPatch, oriented_gradients


def slope(across: float, down: float, channels: int = 3, side: int = 16) -> Tensor:
    """(1, c, side, side) pixels that rise by `across` a column and `down` a row."""
    place = torch.arange(side) - (side - 1) / 2
    return (across * place[None, :] + down * place[:, None]).expand(1, channels, side, side)


@pytest.mark.parametrize("across, down, orientation", [(0.1, 0.0, 0), (0.07, 0.07, 2), (0.0, 0.1, 4), (-0.07, 0.07, 6)])
def test_each_orientation_has_a_place(across: float, down: float, orientation: int) -> None:
    middle = oriented_gradients(slope(across, down))[0, :, 1, 1]
    assert middle[orientation] > 0.25
    others = torch.arange(N_ORIENTATION) != orientation
    torch.testing.assert_close(middle[others], torch.zeros(N_ORIENTATION - 1), atol=1e-5, rtol=0.0)


def test_an_orientation_between_two_is_divided() -> None:
    angle = torch.tensor(torch.pi / 16)
    middle = oriented_gradients(slope(0.1 * float(angle.cos()), 0.1 * float(angle.sin())))[0, :, 1, 1]
    torch.testing.assert_close(middle[0], middle[1])
    assert middle[2:].abs().max() < 1e-5


def test_opposite_directions_are_one() -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(oriented_gradients(-pixels), oriented_gradients(pixels))


def test_contrast_does_not_count_but_faint_noise_stays_faint() -> None:
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = oriented_gradients(pixels)
    assert whole.shape == (1, N_ORIENTATION, 8, 8)
    torch.testing.assert_close(oriented_gradients(pixels * 0.5), whole, rtol=0.1, atol=0.0)
    assert oriented_gradients(pixels * 0.002).max() < 0.1 * whole.max()
    assert oriented_gradients(torch.ones(1, 3, 32, 32)).abs().max() == 0.0


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_the_channel_of_the_longest_gradient_counts(channel: int) -> None:
    """Grey would not show where red passes into as bright a green."""
    faint, strong = slope(0.0, 0.01), slope(0.1, 0.0)
    pixels = faint.clone()
    pixels[:, channel] = strong[:, channel]
    torch.testing.assert_close(oriented_gradients(pixels), oriented_gradients(strong))


def test_a_larger_patch_is_shrunk_and_a_small_one_is_not() -> None:
    encoder = GradientPatch(GatoConfig.preset("lite-1m", patch_encoder="hog", patch_size=64))
    small = torch.randint(256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    twice = small.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(encoder(twice), encoder(small))
    assert encoder(small[:, :20, :7]).shape == (2, 128)
