"""How many floating-point operations a step needs, and how many the machine can do.

Convention: 6 per parameter of the blocks and token, the encoders for the tokens that pass them, what follows the last
block's attention and the head only for the gathered rows, and causal attention within documents; forward and backward
together. Work that is not done does not count.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import torch

from gato_lite.glance import D_CELL, D_KEY, D_VALUE
from gato_lite.model import Gato, StreamTensors
from gato_lite.train.settings import Precision

DATASHEET_TFLOPS: Final = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
}
"""Dense bfloat16 TFLOP/s by what a GPU's name contains, the first that fits. Source: NVIDIA's datasheets."""


def matmul_dtype(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """What training multiplies matrices in on that device; weights and sums are float32 either way.

    A GPU from compute capability 8.0 on (A100) and a processor with AVX-512 BF16 or AMX multiply bfloat16 several times
    as fast as float32; older GPUs and other x86 processors emulate it.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        able = torch.cpu.get_capabilities()
        fast = able.get("avx512_bf16", False) or able.get("amx_bf16", False)
    return torch.bfloat16 if fast else torch.float32


def matmul_peak(device: torch.device, seconds: float = 0.25, precision: Precision = "auto") -> float:
    """Matmul FLOP/s that this process reaches now, with the threads it has; best of several runs."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, dtype=matmul_dtype(device, precision), device=device)
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def device_name(device: torch.device) -> str:
    """What the maker calls a GPU; `cpu` for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def datasheet_peak(named: str, dtype: torch.dtype) -> float | None:
    """FLOP/s of dense bfloat16 matmuls that the maker states for the GPU of that name; None if it is not known.

    No matmul quite reaches it; public figures of model-FLOPs utilisation are shares of it.
    """
    if dtype is not torch.bfloat16:
        return None
    return next((1e12 * peak for name, peak in DATASHEET_TFLOPS.items() if name in named), None)


def step_flops(gato: Gato, stream: StreamTensors) -> float:
    """Floating-point operations of one training step on `stream`."""
    config = gato.config
    lengths = np.diff(stream.offsets).astype(np.float64)
    n_skipped = len(stream.positions) - stream.n_target  # tokens that end at the last block's attention
    after_attention = config.d_model * (config.d_model + 2 * config.d_ff + 2)  # its matrices and two norms
    blocks = 6.0 * (gato.n_block_parameters * len(stream.positions) - after_attention * n_skipped)
    attention = 6.0 * config.n_layer * config.d_model * float((lengths * (lengths + 1)).sum())
    head = sum(6.0 * config.d_model * _classes(gato, group.modality) * len(group.rows) for group in stream.targets)
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


def _classes(gato: Gato, modality: int) -> int:
    vocabulary = gato.vocabulary
    return (len(vocabulary.text_ids) + 1, len(vocabulary.bin_ids), len(vocabulary.discrete_ids))[modality]
