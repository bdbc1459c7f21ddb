"""How many floating-point operations a step needs.

Convention: 6 per parameter of the blocks and token, the encoders for the tokens that pass them, what follows the last
block's attention and the head only for the gathered rows, and causal attention within documents; forward and backward
together. Work that is not done does not count.
"""

from __future__ import annotations

import numpy as np

from gato_lite.glance import D_CELL, D_KEY, D_VALUE
from gato_lite.model import Gato, StreamTensors


def step_flops(gato: Gato, stream: StreamTensors) -> float:
    """Floating-point operations of one training step on `stream`."""
    config = gato.config
    lengths = np.diff(stream.offsets).astype(np.float64)
    n_skipped = len(stream.positions) - stream.n_target  # tokens that end at the last block's attention
    after_attention = config.d_model * (config.d_model + 2 * config.d_ff + 2)  # its matrices and two norms
    blocks = 6.0 * (gato.n_block_parameters * len(stream.positions) - after_attention * n_skipped)
    attention = 6.0 * config.n_layer * config.d_model * float((lengths * (lengths + 1)).sum())
    n_class = [sum(map(len, ids)) for ids in gato.vocabulary.class_ranges]
    head = sum(6.0 * config.d_model * n_class[group.modality] * len(group.rows) for group in stream.targets)
    encoders = (
        6.0
        * config.d_encoder
        * (
            sum((group.pixels[0].numel() + config.d_model) * len(group.rows) for group in stream.tokens.patch_groups)
            + (32 + config.d_model) * len(stream.tokens.chunks)
        )
    )
    return blocks + attention + head + encoders + _glance_flops(gato, stream)


def _glance_flops(gato: Gato, stream: StreamTensors) -> float:
    """Of looking at grids with what was last said: keys, values and scores of every cell, queries and the way out."""
    config = gato.config
    if gato.embedding.glance is None:
        return 0.0
    width = config.n_grid_head * (D_KEY + D_VALUE)
    return sum(
        6.0 * len(group.rows) * width * (group.pixels.shape[1] * group.pixels.shape[2] * (D_CELL + 1) + config.d_model)
        for group in stream.tokens.patch_groups
        if max(group.pixels.shape[1:3]) <= gato.embedding.grid_size
    )
