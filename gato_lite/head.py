"""Cross-entropy of gathered rows: the loss and its gradient together, some rows at a time.

All rows' scores together are the largest thing that a step could write down, several times over: 63 MB for 2,000 words
of 8,192 pieces. So rows are taken in groups whose scores stay in a processor's cache, and what the backward pass needs
is computed while they are there: the gradient is `softmax − target`, times whatever the loss is multiplied with later.

Source: the arithmetic is that of `F.cross_entropy`; the order is that of Hsu et al. 2024, "Liger Kernel", section 3.2.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gato_lite.bins import smoothed

SCORES_AT_ONCE: Final = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Scores that are computed together, by the kind of device."""

TINY: Final = 1e-37
"""Smallest chance of a right class that is told from zero: no loss is said to be above 85 nats."""


def cross_entropy(
    states: Float[Tensor, "R D"], table: Float[Tensor, "V D"], classes: Int64[Tensor, " N"], *, smooth: bool = False
) -> tuple[Float[Tensor, ""], Float[Tensor, " N"]]:
    """The loss of each row's class among the rows of a table.

    Products are in autocast's type where it is on; everything else is in float32 or what the table is in.

    Args:
        states: what is multiplied with the table.
        table: a vector for each class.
        classes: the right one of each row, in [0, V); rows of `states` beyond them fill up and count for nothing.
        smooth: whether the classes around it are right too, a little (`gato_lite.bins.smoothed`).

    Returns:
        The sum in nats, which can be differentiated once, and each row's loss of its very class, which cannot.
    """
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else table.dtype
    learnt = torch.is_grad_enabled() and (states.requires_grad or table.requires_grad)
    found: tuple[Tensor, Tensor] = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        states, table, classes, smooth, dtype, learnt
    )
    return found


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # Any: torch names no type for it
        states: Tensor,
        table: Tensor,
        classes: Tensor,
        smooth: bool,
        dtype: torch.dtype,
        learnt: bool,
    ) -> tuple[Tensor, Tensor]:
        vectors = table.to(dtype)  # (V, D)
        same = dtype is table.dtype
        at_once = max(64, SCORES_AT_ONCE.get(states.device.type, 1 << 21) // len(table) // 64 * 64)
        room = torch.empty(min(at_once, len(states)), len(table), dtype=table.dtype, device=table.device)
        products = room if same else torch.empty_like(room, dtype=dtype)
        summed = torch.zeros((), dtype=table.dtype, device=table.device)
        losses: list[Tensor] = []
        of_states = states.new_empty((len(states) if learnt else 0, states.shape[1]), dtype=dtype)
        of_table = torch.zeros_like(table if learnt else table[:0])
        for start in range(0, len(states), at_once):
            some = states[start : start + at_once].to(dtype)
            right = classes[start : start + at_once, None]
            n = len(right)  # rows that are asked about; what follows them fills up
            product = torch.mm(some, vectors.T, out=products[: len(some)])  # (r, V)
            scores = product if same else room[: len(some)].copy_(product)
            if smooth:
                target = smoothed(right[:, 0], len(table)).to(table.dtype)  # (n, V)
                highest, expected = scores[:n].amax(1), (target * scores[:n]).sum()
            chances = torch.softmax(scores, 1, out=scores)  # in the place of the scores
            found = -chances[:n].gather(1, right).clamp_(min=TINY).log_()  # (n, 1)
            losses.append(found[:, 0])
            if smooth:
                norm = highest - chances[:n].amax(1).log()  # log of the sum of exp(scores)
                summed += norm.sum() - expected
                chances[:n] -= target
            else:
                summed += found.sum()
                chances[:n].scatter_add_(1, right, torch.full_like(found, -1.0))
            if learnt:
                chances[n:] = 0.0
                slope = chances if same else product.copy_(chances)  # (r, V)
                torch.mm(slope, vectors, out=of_states[start : start + at_once])
                of_table += slope.T @ some
        if learnt:
            ctx.save_for_backward(of_states.to(states.dtype), of_table)
        each = torch.cat(losses)
        ctx.mark_non_differentiable(each)
        return summed, each

    @staticmethod
    def backward(ctx: Any, of_sum: Tensor, _of_losses: Tensor) -> tuple[Tensor | None, ...]:
        of_states, of_table = ctx.saved_tensors
        return of_states * of_sum, of_table * of_sum, None, None, None, None
