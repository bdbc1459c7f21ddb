"""Causal attention within the documents of a flat stream.

`attend` is the only entry of training; acting, whose tokens read a cache, calls `attend_rows`. The backends of `attend`
compute the same function, and tests hold them to each other:

- `sdpa`    one call for each run of equally long documents; really skips what lies across documents (CPU default)
- `dense`   one call with a boolean T×T mask; the reference, quadratic in the stream
- `varlen`  flash attention over the ragged stream (CUDA default)
- `flex`    a compiled block mask (CUDA; on CPU it has no backward)

Source: Vaswani et al. 2017, section 3.2.1; Reed et al. 2022, section 2.3 (no leakage between sequences); Ainslie et al.
2023, "GQA" (heads of queries that share keys and values).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from gato_lite.names import unknown_name

Backend = Literal["auto", "sdpa", "dense", "varlen", "flex"]
Offsets = Int64[np.ndarray, " N1"]


def attend(
    query: Float[Tensor, "T H K"],
    key: Float[Tensor, "T G K"],
    value: Float[Tensor, "T G K"],
    offsets: Offsets,
    backend: Backend = "auto",
    cuts: Int32[Tensor, " N1"] | None = None,
) -> Float[Tensor, "T H K"]:
    """Causal attention in which no token sees another document.

    Args:
        query: (T, H, K), positions already applied.
        key: (T, G, K); G divides H, and each head is shared by H / G neighbouring heads of queries.
        value: (T, G, K).
        offsets: (N+1,) first token of each of the N documents, then T; on the host.
        backend: implementation; `auto` takes `varlen` for half precision on CUDA, else `sdpa`.
        cuts: the offsets where the queries are, for `varlen`; None copies them there, in every call.

    Raises:
        ValueError: unknown backend.
    """
    if backend == "auto":
        backend = "varlen" if query.is_cuda and query.dtype is not torch.float32 else "sdpa"
    if backend not in BACKENDS:
        raise ValueError(unknown_name("attention backend", backend, BACKENDS))
    if key.shape[1] != query.shape[1]:
        n_shared = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(n_shared, 1) for part in (key, value))  # (T, H, K)
    if backend == "varlen":
        return _varlen(query, key, value, offsets, cuts)
    return BACKENDS[backend](query, key, value, offsets)


def attend_rows(
    query: Float[Tensor, "B H N K"],
    key: Float[Tensor, "B G S K"],
    value: Float[Tensor, "B G S K"],
    mask: Tensor | None,
) -> Float[Tensor, "BN H K"]:
    """What n tokens of each of B rows read from the S tokens that the row holds.

    Args:
        query: (B, H, n, K).
        key: (B, G, S, K); G divides H.
        value: (B, G, S, K).
        mask: (n, S) or (B, 1, n, S), 0 or -inf; None if every token may see all.
    """
    n_row, n_head, n_query, d_head = query.shape
    n_shared = n_head // key.shape[1]
    if n_shared > 1:  # heads that share keys are read as further tokens
        query = query.reshape(n_row, key.shape[1], n_shared * n_query, d_head)
        if mask is not None:
            mask = mask.repeat(*[1] * (mask.ndim - 2), n_shared, 1)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return mixed.reshape(n_row, n_head, n_query, d_head).transpose(1, 2).reshape(-1, n_head, d_head)  # (B n, H, K)


def attend_last(
    query: Float[Tensor, "T H K"], key: Float[Tensor, "T G K"], value: Float[Tensor, "T G K"], offsets: Offsets
) -> Float[Tensor, "N H K"]:
    """What the last token of each of the N documents reads, as `attend` has it; arguments as there."""
    _, n_head, d_head = query.shape
    outputs = []
    for first, count, length in equal_runs(offsets):
        part = slice(first, first + count * length)
        k, v = (side[part].view(count, length, -1, d_head).transpose(1, 2) for side in (key, value))  # (n, G, t, K)
        q = query[part].view(count, length, n_head, d_head)[:, -1].reshape(count, k.shape[1], -1, d_head)
        mixed = F.scaled_dot_product_attention(q, k, v)  # heads that share keys are read as further tokens
        outputs.append(mixed.reshape(count, n_head, d_head))
    return torch.cat(outputs) if outputs else query[:0]


def equal_runs(offsets: npt.NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(first token, documents, length) of each maximal run of consecutive documents of one length."""
    lengths = np.diff(offsets)
    if not len(lengths):
        return []
    starts = np.concatenate([[0], np.flatnonzero(np.diff(lengths)) + 1])
    counts = np.diff(np.append(starts, len(lengths)))
    return [
        (int(offsets[start]), int(count), int(lengths[start]))
        for start, count in zip(starts, counts, strict=True)
        if lengths[start]
    ]


def _sdpa(query: Tensor, key: Tensor, value: Tensor, offsets: npt.NDArray[np.int64]) -> Tensor:
    """On a CPU in float32 whatever comes in: there torch's backward pass takes seven times as long in bfloat16."""
    _, n_head, d_head = query.shape
    runs = equal_runs(offsets)
    sizes = [count * length for _, count, length in runs]
    outputs = []
    whole = (part if part.is_cuda else part.float() for part in (query, key, value))
    parts = (torch.split(part, sizes) for part in whole)
    with torch.autocast("cpu", enabled=False):
        for (_, count, length), *qkv in zip(runs, *parts, strict=True):
            q, k, v = (part.view(count, length, n_head, d_head).transpose(1, 2) for part in qkv)  # (n, H, t, K)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            outputs.append(mixed.transpose(1, 2).reshape(count * length, n_head, d_head))
    return torch.cat(outputs).to(query.dtype) if outputs else torch.zeros_like(query)  # (T, H, K)


def _dense(query: Tensor, key: Tensor, value: Tensor, offsets: npt.NDArray[np.int64]) -> Tensor:
    document = torch.from_numpy(np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))).to(query.device)
    index = torch.arange(len(document), device=query.device)
    mask = (document[:, None] == document) & (index[:, None] >= index)  # (T, T)
    q, k, v = (part.transpose(0, 1)[None] for part in (query, key, value))  # (1, H, T, K)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1)  # (T, H, K)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, offsets: npt.NDArray[np.int64], cuts: Tensor | None = None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if cuts is None:
        cuts = torch.from_numpy(offsets.astype(np.int32)).to(query.device, non_blocking=True)
    longest = int(np.diff(offsets).max(initial=0))  # of numbers on the host: nothing waits for the device
    return varlen_attn(query, key, value, cuts, cuts, longest, longest, **_causal())  # type: ignore[return-value]


@functools.cache
def _causal() -> dict[str, Any]:  # Any: another argument in each version
    """How `varlen_attn` is told that no token sees a later one; torch 2.11 spells it is_causal."""
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    windowed = "window_size" in inspect.signature(varlen_attn).parameters
    return {"window_size": (-1, 0)} if windowed else {"is_causal": True}


def _flex(query: Tensor, key: Tensor, value: Tensor, offsets: npt.NDArray[np.int64]) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    document = torch.from_numpy(np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))).to(query.device)
    length = len(document)
    mask = create_block_mask(
        lambda _batch, _head, row, column: (document[row] == document[column]) & (row >= column),
        None,
        None,
        length,
        length,
        device=query.device.type,
    )
    q, k, v = (part.transpose(0, 1)[None] for part in (query, key, value))  # (1, H, T, K)
    run = torch.compile(flex_attention) if query.is_cuda else flex_attention
    return run(q, k, v, block_mask=mask)[0].transpose(0, 1)


BACKENDS: Final[dict[str, Callable[[Tensor, Tensor, Tensor, npt.NDArray[np.int64]], Tensor]]] = {
    "sdpa": _sdpa,
    "dense": _dense,
    "varlen": _varlen,
    "flex": _flex,
}
"""Interchangeable implementations of `attend`."""
