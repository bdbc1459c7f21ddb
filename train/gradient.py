"""Loss and gradient of one step, its stream divided over threads.

On a CPU a small model's operations are too short to be divided: with two threads inside every operation, each waits
for the other thousands of times a step, and for whatever else the machine does. Here each thread takes whole documents
through the whole model instead (docs/experiments.md has the measurements).

The shards' gradients are added in a fixed order, so that the same number of threads gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self

import torch
from torch import Tensor

from gato_lite.model import Gato, Losses, StreamTensors

SHARD_TOKENS: Final = 512
"""A shard of fewer tokens costs more than it saves."""


class Gradient:
    """Computes gradients of streams for one model.

    Args:
        gato: its parameters get their `grad`.
        tokens_per_step: size of the streams to come.
    """

    def __init__(self, gato: Gato, tokens_per_step: int) -> None:
        self.gato = gato
        self._parameters = list(gato.parameters())
        self._threads = torch.get_num_threads()
        on_cpu = gato.device.type == "cpu"
        self.n_shard = max(1, min(self._threads, tokens_per_step // SHARD_TOKENS)) if on_cpu else 1
        """Shards that a stream is to be divided into."""
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.n_shard > 1:
            each = self._threads // self.n_shard
            self._pool = ThreadPoolExecutor(self.n_shard, "gato-lite-shard", torch.set_num_threads, (each,))
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
            torch.set_num_threads(self._threads)

    def backward(self, shards: Sequence[StreamTensors]) -> Losses:
        """Fills every parameter's `grad` with that of the mean loss over all target tokens of the shards."""
        n_target = sum(shard.n_target for shard in shards)
        shares = [shard.n_target / n_target for shard in shards]
        run = map if self._pool is None else self._pool.map
        made = list(run(self._shard, shards, shares))
        for parameter, *parts in zip(self._parameters, *(gradients for _, gradients in made), strict=True):
            found = [part for part in parts if part is not None]
            parameter.grad = found[0] if found else None
            for part in found[1:]:
                found[0].add_(part)
        mean = torch.stack(
            [losses.mean.detach() * share for (losses, _), share in zip(made, shares, strict=True)]
        ).sum()
        return Losses(mean=mean, groups=tuple(group for losses, _ in made for group in losses.groups))

    def _shard(self, stream: StreamTensors, share: float) -> tuple[Losses, tuple[Tensor | None, ...]]:
        device = self.gato.device
        stream = stream if device.type == "cpu" else stream.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = self.gato.loss(stream)
        return losses, torch.autograd.grad(losses.mean * share, self._parameters, allow_unused=True)
