"""Continuous scalars ↔ [-1, 1] ↔ bins, in float64 throughout.

A dimension with finite bounds maps affinely onto [-1, 1]; any other goes through the mu-law, which is linear near
zero and logarithmic far away. Decoding gives the centre of a bin.

Source: Reed et al. 2022, section 2.1 and appendix B: μ = 100, M = 256, 1024 uniform bins.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, Float64, Int, Int32

MU: Final = 100.0
"""μ of the mu-law."""
M: Final = 256.0
"""Magnitude that the mu-law maps to 1."""
LARGEST: Final = float(np.finfo(np.float32).max)
"""Largest magnitude told apart from infinity."""


def mu_law(x: Float[np.ndarray, "*S"]) -> Float64[np.ndarray, "*S"]:
    """sgn(x) · log(|x|μ + 1) / log(Mμ + 1): [-256, 256] onto [-1, 1], beyond it slowly on; ±inf as ±`LARGEST`."""
    x = np.asarray(x, np.float64)
    return np.asarray(np.sign(x) * np.log1p(np.minimum(np.abs(x), LARGEST) * MU) / np.log1p(M * MU))


def inverse_mu_law(y: Float[np.ndarray, "*S"]) -> Float64[np.ndarray, "*S"]:
    """The x whose `mu_law` is y."""
    y = np.asarray(y, np.float64)
    return np.asarray(np.sign(y) * np.expm1(np.abs(y) * np.log1p(M * MU)) / MU)


def encode_bins(y: Float[np.ndarray, "*S"], n_bins: int = 1024) -> Int32[np.ndarray, "*S"]:
    """The bin of each y, of `n_bins` equal ones over [-1, 1], both ends included; what lies beyond is clipped.

    Raises:
        ValueError: a y is NaN, which has no bin.
    """
    bins = np.floor((np.asarray(y, np.float64) + 1.0) * (n_bins / 2))
    if np.isnan(bins).any():
        raise ValueError(f"expected numbers to put into bins, got NaN at {int(np.argmax(np.isnan(bins)))}")
    return np.clip(bins, 0, n_bins - 1).astype(np.int32)


def decode_bins(bins: Int[np.ndarray, "*S"], n_bins: int = 1024) -> Float64[np.ndarray, "*S"]:
    """The centre of each bin, strictly inside (-1, 1)."""
    return (np.asarray(bins, np.float64) + 0.5) * (2 / n_bins) - 1.0


class Squash:
    """The map of one leaf's E scalars onto [-1, 1] and back."""

    def __init__(self, low: Float[np.ndarray, " E"], high: Float[np.ndarray, " E"], limit: float = np.inf) -> None:
        """Affine between bounds that are finite and at most `limit`, the mu-law elsewhere."""
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        widest = np.maximum(np.abs(low), np.abs(high))
        self.affine: Final = np.isfinite(widest) & (widest <= limit)
        # Halved before they are added: the sum of two bounds can exceed the largest float64.
        low, high = np.where(self.affine, low, -1.0), np.where(self.affine, high, 1.0)
        self._middle: Final = low / 2 + high / 2
        self._half: Final = high / 2 - low / 2
        self._all_affine: Final = bool(self.affine.all())
        self._any_affine: Final = bool(self.affine.any())

    def forward(self, x: Float[np.ndarray, "N E"]) -> Float64[np.ndarray, "N E"]:
        """Squashed values: bounds at -1 and 1, finite values beyond them beyond, ±inf of an affine scalar at ±1."""
        x = np.asarray(x, np.float64)
        if not self._any_affine:
            return mu_law(x)
        half = np.where(self._half > 0, self._half, 1.0)
        scaled = np.where(np.isinf(x), np.sign(x), (x - self._middle) / half)
        return scaled if self._all_affine else np.where(self.affine, scaled, mu_law(x))

    def inverse(self, y: Float[np.ndarray, "N E"]) -> Float64[np.ndarray, "N E"]:
        """The values that `forward` squashes to y."""
        y = np.asarray(y, np.float64)
        if not self._any_affine:
            return inverse_mu_law(y)
        scaled = y * self._half + self._middle
        return scaled if self._all_affine else np.where(self.affine, scaled, inverse_mu_law(y))
