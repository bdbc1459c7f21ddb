"""Loss and gradient of one step, its stream divided over threads.

On a CPU a small model's operations are too short to be divided: with two threads inside every operation, each waits
for the other thousands of times a step, and for whatever else the machine does. Here each thread takes whole documents
through the whole model instead (docs/experiments.md has the measurements).

With gradient accumulation a thread takes several shards, one after another, so that the activations of a part of the
step are in memory at a time. With several ranks (gato_lite/train/ranks.py) each takes its own shards. The shards'
gradients are added in a fixed order, so that the same numbers of threads, parts and ranks give the same bits, and other
numbers the same gradient up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self

import torch
from torch import Tensor

from gato_lite.config import Precision
from gato_lite.model import Gato, Losses, StreamTensors, TargetGroup
from gato_lite.train.blocks import checkpointed, compiled, fixed_tokens, n_compiled
from gato_lite.train.memory import keep_freed_memory
from gato_lite.train.peak import matmul_dtype
from gato_lite.train.ranks import ALONE, Ranks
from gato_lite.transformer import RunBlock, run_block

SHARD_TOKENS: Final = 512
"""A shard of fewer tokens costs more than it saves."""


class Gradient:
    """Computes gradients of streams for one model.

    Args:
        gato: its parameters get their `grad`.
        tokens_per_step: size of the streams to come, over all ranks.
        accumulate: parts of a stream whose gradients are computed one after another.
        ranks: the processes that share a step.
        precision: what matrices are multiplied in.
        compiler: backend of `torch.compile` for the blocks, streams being filled up to one size; None leaves both as
            they are.
        checkpoint_activations: whether each block is computed again in the backward pass, for less memory.
    """

    def __init__(
        self,
        gato: Gato,
        tokens_per_step: int,
        *,
        accumulate: int = 1,
        ranks: Ranks = ALONE,
        precision: Precision = "auto",
        compiler: str | None = None,
        checkpoint_activations: bool = False,
    ) -> None:
        self.gato = gato
        self._dtype = matmul_dtype(gato.device, precision)
        self._ranks = ranks
        self._parameters = list(gato.parameters())
        self._threads = torch.get_num_threads()
        on_cpu = gato.device.type == "cpu"
        tokens = tokens_per_step // (accumulate * ranks.size)
        self._at_once = max(1, min(self._threads, tokens // SHARD_TOKENS)) if on_cpu else 1
        self.n_shard = self._at_once * accumulate
        """Shards that this rank's documents are to be divided into."""
        self._pool: ThreadPoolExecutor | None = None
        self._tokens = 1
        """Shards are filled up to a multiple of this."""
        self._run: RunBlock = run_block
        self.compiles = compiler is not None
        """Whether blocks are compiled."""
        self._n_compiled_before = n_compiled() if self.compiles else 0
        if compiler is not None:
            self._tokens = fixed_tokens(tokens_per_step, self.n_shard * ranks.size, gato.config.context_length)
            self._run = compiled(compiler, rows_multiple=self._tokens // 4)
        if checkpoint_activations:
            self._run = checkpointed(self._run)

    @property
    def n_compiled(self) -> int:
        """Graphs compiled so far; after the first steps it should not grow."""
        return n_compiled() - self._n_compiled_before if self.compiles else 0

    def __enter__(self) -> Self:
        if self.gato.device.type == "cpu":
            keep_freed_memory()
        if self._at_once > 1:
            each = self._threads // self._at_once
            self._pool = ThreadPoolExecutor(self._at_once, "gato-lite-shard", torch.set_num_threads, (each,))
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
            torch.set_num_threads(self._threads)

    def backward(self, shards: Sequence[StreamTensors], n_target: int | None = None) -> Losses:
        """Fills every parameter's `grad` with that of the mean loss over all target tokens of the step.

        Args:
            shards: of this rank.
            n_target: target tokens of all ranks' shards; None where there is one rank.

        Returns:
            The mean over all ranks, and the targets of this one.
        """
        n_target = sum(shard.n_target for shard in shards) if n_target is None else n_target
        total: list[Tensor | None] = [None] * len(self._parameters)
        mean = torch.zeros((), device=self.gato.device)
        groups: list[tuple[TargetGroup, Tensor]] = []
        run = map if self._pool is None else self._pool.map
        for first in range(0, len(shards), self._at_once):
            together = shards[first : first + self._at_once]
            shares = [shard.n_target / n_target for shard in together]
            for share, (losses, gradients) in zip(shares, run(self._shard, together, shares), strict=True):
                total = [_added(one, other) for one, other in zip(total, gradients, strict=True)]
                mean = mean + losses.mean.detach() * share
                groups += losses.groups
        if self._ranks.size > 1:
            mean = self._over_ranks(total, mean)
        for parameter, gradient in zip(self._parameters, total, strict=True):
            parameter.grad = gradient
        return Losses(mean=mean, groups=tuple(groups))

    def _over_ranks(self, total: list[Tensor | None], mean: Tensor) -> Tensor:
        """The mean of all ranks; `total` becomes their sum, None where no rank has a gradient."""
        used = torch.tensor([gradient is not None for gradient in total], dtype=mean.dtype, device=mean.device)
        parts = [
            (torch.zeros_like(parameter) if gradient is None else gradient).flatten()
            for parameter, gradient in zip(self._parameters, total, strict=True)
        ]
        flat = self._ranks.sum(torch.cat([*parts, used, mean[None]]))
        sizes = [parameter.numel() for parameter in self._parameters]
        *summed, used, mean = torch.split(flat, [*sizes, len(total), 1])
        anywhere = (used > 0).tolist()  # one wait for the device
        for index, (parameter, gradient) in enumerate(zip(self._parameters, summed, strict=True)):
            total[index] = gradient.view_as(parameter) if anywhere[index] else None
        return mean[0]

    def _shard(self, stream: StreamTensors, share: float) -> tuple[Losses, tuple[Tensor | None, ...]]:
        device = self.gato.device
        stream = stream if device.type == "cpu" else stream.to(device)
        stream = stream.filled_up(self._tokens)
        with torch.autocast(device.type, self._dtype, enabled=self._dtype is not torch.float32):
            losses = self.gato.loss(stream, run=self._run)
        return losses, torch.autograd.grad(losses.mean * share, self._parameters, allow_unused=True)


def _added(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The sum of two gradients, in the place of the first."""
    if one is None or other is None:
        return other if one is None else one
    return one.add_(other)
