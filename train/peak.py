"""How many floating-point operations the machine can do.

Needs no other package than torch, so that `doctor` can say what else is missing.
"""

from __future__ import annotations

import time
from typing import Final

import torch

from gato_lite.config import Precision

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
    product = a @ a  # untimed: the first brings in the library
    _finish(device)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        torch.mm(a, a, out=product)
        _finish(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
