"""Typed arrays for runs of tokens: the one currency between tokenizers, data and model.

A `Tokens` holds any number of consecutive tokens. There is no Python object per token: everything is a flat NumPy
array, and the content of patch and chunk tokens lies in side arrays in the order in which those tokens occur.

Source: Reed et al. 2022, section 2.1 (order and local index), 2.2 (patch positions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gato_lite.config import CHUNK_WIDTH

ACTION_LOCAL = 0
"""Local index that all action tokens share; observation tokens count from 1."""




@dataclass(frozen=True, kw_only=True)
class Tokens:
    """T consecutive tokens, of which P are patches and C are chunks."""

    ids: npt.NDArray[np.int32]
    """(T,) vocabulary ids; patch and chunk tokens carry the `patch` and `chunk` special ids."""
    local: npt.NDArray[np.int16]
    """(T,) place within the observation counted from 1; `ACTION_LOCAL` for action, separator and free text tokens."""
    pixels: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """Pixels of all patches end to end, each (height, width, channels) in C order."""
    patch_shapes: npt.NDArray[np.int16] = field(default_factory=lambda: np.zeros((0, 3), np.int16))
    """(P, 3) height, width, channels of each patch."""
    patch_intervals: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    """(P, 4) first row, last row, first column, last column of each patch as a share of the image, in [0, 1]."""
    chunks: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, CHUNK_WIDTH), np.float32))
    """(C, 32) squashed values of each chunk, zero beyond its last scalar."""

    def __len__(self) -> int:
        return len(self.ids)


def concatenate(runs: Sequence[Tokens]) -> Tokens:
    """All `runs` end to end."""
    if len(runs) == 1:
        return runs[0]
    if not runs:
        return Tokens(ids=np.zeros(0, np.int32), local=np.zeros(0, np.int16))
    return Tokens(
        ids=np.concatenate([run.ids for run in runs]),
        local=np.concatenate([run.local for run in runs]),
        pixels=np.concatenate([run.pixels for run in runs]),
        patch_shapes=np.concatenate([run.patch_shapes for run in runs]),
        patch_intervals=np.concatenate([run.patch_intervals for run in runs]),
        chunks=np.concatenate([run.chunks for run in runs]),
    )
