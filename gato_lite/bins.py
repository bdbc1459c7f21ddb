"""What is known of bins before any training: they lie on a line.

Two means, both measured on Meta-World (docs/experiments.md): the vectors of bins begin as smooth functions of their
place, so that near bins are alike from the first step; and an action in bin k teaches the bins around it a little, too.

Differs from the paper, which draws bins like words and asks for the very bin.
Source: Imani & White 2018, "Improving regression performance with distributional losses" (the smoothed histogram).
"""

from __future__ import annotations

import functools
import math
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

SPREAD: Final = 4.0
"""Standard deviation of a target, in bins."""
N_WAVE: Final = 32
"""Waves that a smooth table is made of; the shortest is 32 bins long, of 1024."""


def smooth_table(n_bin: int, width: int, std: float, generator: torch.Generator | None) -> Float[Tensor, "B D"]:
    """Vectors of bins that change slowly from each to the next: random mixtures of sines and cosines.

    Args:
        n_bin: B.
        width: D.
        std: of all numbers together.
        generator: draws the mixtures.
    """
    place = (torch.arange(n_bin) + 0.5) / n_bin  # (B,)
    frequency = torch.arange(1, N_WAVE + 1)
    angle = math.pi * place[:, None] * frequency
    waves = torch.cat([angle.cos(), angle.sin()], 1) / frequency.float().sqrt().repeat(2)  # (B, 2 N_WAVE)
    table = waves @ torch.randn(2 * N_WAVE, width, generator=generator)
    return table * (std / table.std())


def smoothed(classes: Tensor, n_bin: int) -> Float[Tensor, "R B"]:
    """A distribution around each bin: a Gaussian of `SPREAD`, cut off at both ends."""
    return _kernel(n_bin, classes.device)[classes]


@functools.cache
def _kernel(n_bin: int, device: torch.device) -> Float[Tensor, "B B"]:
    """The distribution around every bin: 4 MiB for 1024."""
    place = torch.arange(n_bin, dtype=torch.float32, device=device)
    return (-0.5 * ((place[:, None] - place) / SPREAD) ** 2).softmax(-1)
