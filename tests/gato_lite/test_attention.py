from __future__ import annotations

import inspect
import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gato_lite.attention import BACKENDS, attend, equal_runs

LENGTHS = [1, 1, 3, 3, 3, 7, 2, 16]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def offsets_of(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def drawn(n_token: int, seed: int = 0, **options: object) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(n_token, 3, 8, generator=generator).to(**options) for _ in range(3))  # type: ignore[call-overload]
    return q, k, v


def by_hand(query: Tensor, key: Tensor, value: Tensor, offsets: np.ndarray) -> Tensor:
    """Softmax over each token's own past, token by token, in float64."""
    out = torch.zeros_like(value, dtype=torch.float64)
    for start, stop in itertools.pairwise(offsets):
        for row in range(start, stop):
            past = slice(start, row + 1)
            scores = torch.einsum("hk,shk->hs", query[row].double(), key[past].double()) / math.sqrt(query.shape[-1])
            out[row] = torch.einsum("hs,shk->hk", scores.softmax(-1), value[past].double())
    return out


def gradients(backend: str, lengths: list[int]) -> list[Tensor]:
    offsets = offsets_of(lengths)
    inputs = [part.requires_grad_() for part in drawn(int(offsets[-1]))]
    out = attend(*inputs, offsets, backend)  # type: ignore[arg-type]
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (out * weights).sum().backward()
    return [part.grad for part in inputs if part.grad is not None]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("backend", ["auto", "sdpa", "dense", "flex"])
@pytest.mark.parametrize("lengths", [LENGTHS, [5], [1], [4, 4, 4]])
def test_backends_are_the_formula(backend: str, lengths: list[int]) -> None:
    offsets = offsets_of(lengths)
    qkv = drawn(int(offsets[-1]))
    out = attend(*qkv, offsets, backend)  # type: ignore[arg-type]
    assert out.shape == qkv[0].shape
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), by_hand(*qkv, offsets), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("lengths", [LENGTHS, [5], [4, 4, 4]])
def test_backends_have_the_same_gradients(lengths: list[int]) -> None:
    sdpa, dense = gradients("sdpa", lengths), gradients("dense", lengths)
    assert len(sdpa) == 3
    for a, b in zip(sdpa, dense, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["sdpa", "dense"])
@pytest.mark.parametrize("n_key_head", [1, 2, 3])
def test_heads_of_queries_may_share_keys(backend: str, n_key_head: int) -> None:
    offsets = offsets_of(LENGTHS)
    n_token = int(offsets[-1])
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(n_token, 6, 8, generator=generator)
    k, v = (torch.randn(n_token, n_key_head, 8, generator=generator) for _ in range(2))
    spread = [head * n_key_head // 6 for head in range(6)]
    expected = by_hand(q, k[:, spread], v[:, spread], offsets)
    torch.testing.assert_close(attend(q, k, v, offsets, backend).double(), expected, atol=1e-6, rtol=1e-5)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_sdpa_equals_dense_for_any_lengths(lengths: list[int]) -> None:
    offsets = offsets_of(lengths)
    qkv = drawn(int(offsets[-1]))
    if not offsets[-1]:
        assert attend(*qkv, offsets, "sdpa").shape == (0, 3, 8)
        return
    torch.testing.assert_close(attend(*qkv, offsets, "sdpa"), attend(*qkv, offsets, "dense"), atol=1e-6, rtol=1e-5)


@given(st.lists(st.integers(0, 4), max_size=12))
def test_equal_runs_cover_every_token_once(lengths: list[int]) -> None:
    runs = equal_runs(offsets_of(lengths))
    rebuilt = [length for _, count, length in runs for _ in range(count)]
    assert rebuilt == [length for length in lengths if length]
    starts = [start for start, _, _ in runs]
    assert starts == [sum(c * n for _, c, n in runs[:index]) for index in range(len(runs))]


def test_equal_documents_share_one_call() -> None:
    assert equal_runs(offsets_of([2, 2, 2, 5, 5])) == [(0, 3, 2), (6, 2, 5)]


@pytest.mark.parametrize("backend", ["sdpa", "dense"])
def test_no_document_moves_another(backend: str) -> None:
    offsets = offsets_of(LENGTHS)
    query, key, value = drawn(int(offsets[-1]))
    before = attend(query, key, value, offsets, backend)  # type: ignore[arg-type]
    moved = slice(int(offsets[3]), int(offsets[4]))
    for part in (query, key, value):
        part[moved] += 100.0
    after = attend(query, key, value, offsets, backend)  # type: ignore[arg-type]
    others = torch.ones(len(before), dtype=torch.bool)
    others[moved] = False
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[moved], after[moved])


@pytest.mark.parametrize("backend", ["sdpa", "dense"])
def test_no_token_sees_a_later_one(backend: str) -> None:
    offsets = offsets_of([9])
    query, key, value = drawn(9)
    before = attend(query, key, value, offsets, backend)  # type: ignore[arg-type]
    for part in (query, key, value):
        part[5:] = -3.0
    after = attend(query, key, value, offsets, backend)  # type: ignore[arg-type]
    assert torch.equal(before[:5], after[:5])


def test_attention_on_a_cpu_is_computed_in_float32() -> None:
    """Whatever comes in, and under autocast: what is rounded is what comes out, not the scores."""
    offsets = offsets_of([5, 9])
    q, k, v = (part.bfloat16() for part in drawn(14))
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(q, k, v, offsets, "sdpa")
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, attend(q.float(), k.float(), v.float(), offsets, "sdpa").bfloat16())


def test_an_unknown_backend_is_named() -> None:
    expected = "Unknown attention backend 'sdpaa'. Did you mean sdpa? Known: dense, flex, sdpa, varlen"
    with pytest.raises(ValueError, match=re.escape(expected)):
        inspect.unwrap(attend)(*drawn(2), offsets_of([2]), "sdpaa")  # without the tests' check of its types
    assert sorted(BACKENDS) == ["dense", "flex", "sdpa", "varlen"]


@needs_cuda
@pytest.mark.parametrize("backend", ["auto", "varlen", "sdpa", "dense"])
@pytest.mark.filterwarnings("ignore")
def test_cuda_backends_are_the_formula(backend: str) -> None:
    offsets = offsets_of([*LENGTHS, 200])
    n_token = int(offsets[-1])
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(n_token, 3, 64, generator=generator).bfloat16() for _ in range(3))
    expected = by_hand(q, k, v, offsets)
    inputs = [part.cuda().requires_grad_() for part in (q, k, v)]
    cuts = torch.from_numpy(offsets.astype(np.int32)).cuda()
    out = attend(*inputs, offsets, backend, cuts)  # type: ignore[arg-type]
    assert backend not in {"auto", "varlen"} or torch.equal(out, attend(*inputs, offsets, backend))  # type: ignore[arg-type]
    torch.testing.assert_close(out.cpu().double(), expected, atol=0.03, rtol=0.03)
    out.float().square().sum().backward()
    reference = [part.double().requires_grad_() for part in (q, k, v)]
    by_hand_out = attend(*reference, offsets, "dense")
    by_hand_out.square().sum().backward()
    for part, exact in zip(inputs, reference, strict=True):
        assert part.grad is not None
        assert exact.grad is not None
        torch.testing.assert_close(part.grad.cpu().double(), exact.grad, atol=0.1, rtol=0.1)


@needs_cuda
@pytest.mark.filterwarnings("ignore")
def test_cuda_flex_is_the_formula() -> None:
    offsets = offsets_of([3, 60, 65])
    qkv = [torch.randn(128, 2, 64, device="cuda") for _ in range(3)]
    expected = by_hand(*(part.cpu() for part in qkv), offsets)
    out = attend(*qkv, offsets, "flex")
    torch.testing.assert_close(out.cpu().double(), expected, atol=1e-2, rtol=1e-2)
