from __future__ import annotations

import numpy as np
import pytest
import torch

from gato_lite.config import GatoConfig
from gato_lite.model import Gato, stream_tensors
from gato_lite.sequence import Document, lay_out, plain
from gato_lite.train.peak import datasheet_peak, matmul_dtype, matmul_peak
from gato_lite.train.utilisation import step_flops

CONFIG = GatoConfig(n_layer=2, n_head=2, d_model=32, d_ff=64, d_encoder=16, context_length=64)


def flops(*lengths: int, targets: bool = True) -> float:
    gato = Gato(CONFIG)
    made = []
    for length in lengths:
        target = np.arange(length) == length - 1 if targets else np.zeros(length, np.bool_)
        ids = np.full(length, 5120, np.int32)
        made.append(Document(tokens=plain(ids), target=target, labels=ids))
    return step_flops(gato, stream_tensors(lay_out(made), gato.vocabulary, None))


def test_operations_of_a_step() -> None:
    """Six for each parameter of the blocks and token, the head and what precedes it for its rows, attention within."""
    n_block = 2 * (4 * 32 * 32 + 2 * 32 * 64 + 2 * 32) + 32
    n_last = 32 * 32 + 2 * 32 * 64 + 2 * 32  # the last block's after attention, and the last norm
    head = 6 * 32 * 1024
    attention = 6 * 2 * 32 * 10 * 11
    assert flops(10) == 6 * ((n_block - n_last) * 10 + n_last) + head + attention
    assert flops(10, 10) == pytest.approx(2 * flops(10))
    assert flops(20, targets=False) - 2 * flops(10, targets=False) == 6 * 2 * 32 * (20 * 21 - 2 * 10 * 11)


def test_the_peak_of_this_machine() -> None:
    assert 1e8 < matmul_peak(torch.device("cpu"), seconds=0.01) < 1e15


@pytest.mark.parametrize(
    "able, expected",
    [
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "avx2": True}, torch.float32),
        ({"neon": True}, torch.float32),
    ],
)
def test_matrices_are_multiplied_in_what_is_fast(
    able: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert matmul_dtype(torch.device("cpu")) == expected
    assert matmul_dtype(torch.device("cpu"), "float32") == torch.float32
    assert matmul_dtype(torch.device("cpu"), "bfloat16") == torch.bfloat16


@pytest.mark.parametrize(
    "capability, expected", [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_gpus_that_emulate_bfloat16_take_float32(
    capability: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert matmul_dtype(torch.device("cuda")) == expected
    assert matmul_dtype(torch.device("cuda"), "bfloat16") == torch.bfloat16


@pytest.mark.parametrize(
    "name, expected",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("cpu", None),
    ],
)
def test_peaks_that_the_maker_states(name: str, expected: float | None) -> None:
    assert datasheet_peak(name, torch.bfloat16) == expected
    assert datasheet_peak(name, torch.float32) is None
