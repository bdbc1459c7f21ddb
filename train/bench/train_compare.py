"""What single decisions are worth: the same loss and gradient computed in two or more ways, in turns.

Before anything is timed, every variant's loss and gradient are compared with the first one's.

The padded variant is the same weights on the same documents, one a row of a B×T batch filled up at its right end: all
B·T positions go through every layer, attention is one causal SDPA call over the rows, and the head gives every position
the scores of the whole vocabulary. `context` pads to 256 tokens, `longest` to the longest document of the batch. Its
loss still looks at the target rows and their range alone, which is cheaper than what padded trainers do, so that the
numbers can be held to ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from gato_lite.attention import BACKENDS, Backend
from gato_lite.config import Precision
from gato_lite.model import FILLED_UP, Gato, StreamTensors
from gato_lite.train.bench.measure import Timing, take_turns
from gato_lite.train.bench.train import training_step
from gato_lite.train.blocks import checkpointed, compiled
from gato_lite.train.gradient import Gradient
from gato_lite.train.peak import matmul_peak
from gato_lite.transformer import run_block

Loss = Callable[[], Tensor]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One way of computing a loss and its gradient, beside the first of its group."""

    what: str
    """The decision."""
    variant: str
    timing: Timing
    error: float
    """Largest difference of a gradient from the first variant's, relative to that parameter's largest."""


def gradients(gato: Gato, loss: Loss) -> list[Tensor]:
    """The loss and every parameter's gradient; on a GPU in bfloat16, on a CPU in float32 whatever it trains in."""
    device = gato.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        mean = loss()
    found = torch.autograd.grad(mean, list(gato.parameters()), allow_unused=True, materialize_grads=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return [mean.detach(), *found]


def compare(what: str, gato: Gato, losses: Mapping[str, Loss], *, rounds: int = 5) -> list[Comparison]:
    """Times of the losses with their gradients, in turns.

    Raises:
        RuntimeError: a variant computes something else than the first.
    """
    tolerance = 0.3 if gato.device.type == "cuda" else 1e-3  # in bfloat16, eight layers round 0.08 apart
    first, *_ = made = [gradients(gato, loss) for loss in losses.values()]
    errors = [_difference(first, other) for other in made]
    for name, error in zip(losses, errors, strict=True):
        if not error < tolerance:
            raise RuntimeError(f"{what}, '{name}': its gradient differs by {error:.1e}, more than {tolerance:.0e}")
    timings = take_turns({n: lambda loss=loss: gradients(gato, loss) for n, loss in losses.items()}, rounds=rounds)  # type: ignore[misc]
    return [
        Comparison(what=what, variant=name, timing=timings[name], error=error)
        for name, error in zip(losses, errors, strict=True)
    ]


def _difference(expected: list[Tensor], got: list[Tensor]) -> float:
    """Largest difference, relative to each tensor's largest value."""
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in zip(expected, got, strict=True))


def attention_losses(gato: Gato, stream: StreamTensors) -> dict[str, Loss]:
    """A loss for each attention backend that has a gradient on this device."""
    names = BACKENDS if gato.device.type == "cuda" else ("sdpa", "dense")

    def with_backend(backend: Backend) -> Loss:
        return lambda: gato.loss(stream, backend).mean

    return {name: with_backend(name) for name in names}  # type: ignore[arg-type]


def block_losses(gato: Gato, stream: StreamTensors, compiler: str) -> dict[str, Loss]:
    """Blocks as they stand, compiled, and computed again in the backward pass."""
    filled = stream.filled_up(FILLED_UP)
    fast = compiled(compiler, rows_multiple=FILLED_UP)
    return {
        "as they stand": lambda: gato.loss(stream).mean,
        "compiled": lambda: gato.loss(filled, run=fast).mean,
        "computed again": lambda: gato.loss(stream, run=checkpointed(run_block)).mean,
    }


def head_losses(gato: Gato, stream: StreamTensors) -> dict[str, Loss]:
    """Logits of the whole vocabulary for every position, and of the target rows alone within their range."""
    return {
        "every position": lambda: _loss_of_logits(gato, gato.logits(gato(stream)), stream, None),
        "target rows": lambda: gato.loss(stream).mean,
    }


def padding_losses(gato: Gato, stream: StreamTensors) -> dict[str, Loss]:
    """The stream's documents padded to the context, padded to the longest, and ours."""
    longest = int(np.diff(stream.offsets).max())
    return {
        "padded to the context": lambda: padded_loss(gato, stream, gato.config.context_length),
        "padded to the longest": lambda: padded_loss(gato, stream, longest),
        "flat stream": lambda: gato.loss(stream).mean,
    }


def padded_loss(gato: Gato, stream: StreamTensors, length: int) -> Tensor:
    """The loss of a stream whose documents are rows of `length` tokens; see the module for what is computed."""
    n_row = len(stream.offsets) - 1
    device = gato.device
    row = torch.from_numpy(np.repeat(np.arange(n_row), np.diff(stream.offsets))).to(device)
    places = row * length + stream.positions  # (T,)
    x = gato.embedding(stream.tokens)
    spread = x.new_zeros(n_row * length, x.shape[1]).index_copy(0, places, x)  # (B·length, D)

    def over_rows(_layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (part.view(n_row, length, *part.shape[1:]).transpose(1, 2) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        return mixed.transpose(1, 2).flatten(0, 1)  # (B·length, H, K)

    hidden = gato.transformer(spread, torch.arange(length, device=device).repeat(n_row), over_rows)
    return _loss_of_logits(gato, gato.logits(hidden), stream, places)


def _loss_of_logits(gato: Gato, logits: Tensor, stream: StreamTensors, places: Tensor | None) -> Tensor:
    """Mean loss from scores of the whole vocabulary at every position."""
    sums = []
    for group in stream.targets:
        rows = group.rows if places is None else places[group.rows]
        within = gato.of_classes(logits.index_select(0, rows).T, group.modality).T
        sums.append(F.cross_entropy(within.float(), group.classes, reduction="sum"))
    return torch.stack(sums).sum() / stream.n_target


class Threads(msgspec.Struct, frozen=True, kw_only=True):
    """What a second thread adds to a step, and to large matmuls in the same rounds."""

    step_gain: float
    """Median over rounds."""
    matmul_gain: float
    gain_share: float
    """Median of the step's gain over the matmul's."""
    rounds: int


def measure_threads(
    gato: Gato,
    one: tuple[StreamTensors, ...],
    two: tuple[StreamTensors, ...],
    rounds: int = 4,
    precision: Precision = "auto",
) -> Threads:
    """One thread beside two, on one stream and the same documents dealt to two shards. Leaves torch with one thread."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    peaks: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for n, shards in ((1, one), (2, two)):
            torch.set_num_threads(n)
            peak = matmul_peak(gato.device, 0.2, precision)
            n_token = sum(len(shard.positions) for shard in shards)
            with Gradient(gato, n_token, precision=precision) as gradient:
                step = training_step(gato, shards, gradient)
                step()  # threads have taken their memory, as all but a run's first steps find it
                start = time.perf_counter()
                step()
                taken = time.perf_counter() - start
            seconds[n].append(taken)
            peaks[n].append(peak)
    torch.set_num_threads(1)
    steps = np.array(seconds[1]) / np.array(seconds[2])
    matmuls = np.array(peaks[2]) / np.array(peaks[1])
    return Threads(
        step_gain=float(np.median(steps)),
        matmul_gain=float(np.median(matmuls)),
        gain_share=float(np.median(steps / matmuls)),
        rounds=rounds,
    )
