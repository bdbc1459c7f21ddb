"""Optimisers and the learning-rate schedule.

`muon` orthogonalises the momentum of linear and convolution layers (Jordan et al. 2024, "Muon"), of the blocks and of
the encoders, and leaves tables, norms and biases to AdamW. Written out because torch's own iterates on each matrix by
itself, and always in bfloat16, which a CPU without bfloat16 matmuls emulates.

Source: Loshchilov & Hutter 2019 (AdamW, cosine); Reed et al. 2022, appendix C.1 (warm-up, then cosine).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gato_lite.model import Gato
from gato_lite.patches import LinearPatch

AT_ONCE: Final = 1 << 26
"""Numbers in the matrices that `orthogonalise` works on at once: 256 MiB."""
STEPS: Final = {torch.float32: (5,), torch.bfloat16: (2, 2, 1)}
"""Newton–Schulz steps, by what is multiplied: squares are formed anew after each of these many.

What rounding makes of an eigenvalue near zero may be below it, and grows twelvefold a step. In bfloat16 three steps
were seen to end at singular values over 10,000, and two at 1.2, as they should.
"""


class Muon(torch.optim.Optimizer):
    """Momentum whose every update is made an orthogonal matrix.

    Args:
        params: matrices; of more dimensions (convolutions), a matrix with a row for each output.
        lr: step length; an update's root mean square is `lr · 0.2`, about AdamW's.
        momentum: Nesterov momentum.
        weight_decay: decoupled, times `lr`.
        dtype: what matrices are multiplied in, one of `STEPS`.

    Source: Jordan et al. 2024; Liu et al. 2025, "Muon is scalable", section 2.2 (the factor 0.2·√max(shape)).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            directions = [self._direction(parameter, group["momentum"]).flatten(1) for parameter in trained]
            updates = orthogonalise(directions, self._dtype)
            for parameter, update in zip(trained, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-0.2 * max(update.shape) ** 0.5 * group["lr"])

    def _direction(self, parameter: nn.Parameter, decay: float) -> Tensor:
        """Nesterov momentum after this step's gradient."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(parameter.grad, 1 - decay)
        return parameter.grad.lerp(momentum, decay)


def orthogonalise(matrices: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The nearest (semi-)orthogonal matrix to each, roughly: singular values end near 1.

    Matrices of one shape are worked on together, each as its small square X·Xᵀ: every iterate is a polynomial in it
    times X, and so only the first and the last product run over the long side. That is 0.56 of the arithmetic of
    iterating on X itself for a feed-forward matrix of d by 4d, and 0.78 with the squares formed anew twice, as bfloat16
    wants it (`STEPS`). Against float64 the result in float32 is right to 2e-4, about the hundredth part of what the
    iteration itself leaves to be desired; in bfloat16 it is nearer to that than iterating on X in bfloat16 comes.

    Source: Jordan et al. 2024 (quintic Newton–Schulz iteration and its coefficients).
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, matrix in enumerate(matrices):
        by_shape.setdefault(tuple(sorted(matrix.shape)), []).append(index)
    made: dict[int, Tensor] = {}
    for (side, length), members in by_shape.items():
        at_once = max(1, AT_ONCE // (side * length))
        for batch in (members[first : first + at_once] for first in range(0, len(members), at_once)):
            scaled = [matrices[index] / (matrices[index].norm() + 1e-7) for index in batch]
            wide = torch.stack([_lying(matrix).to(dtype) for matrix in scaled])  # (n, side, length)
            for n_step in STEPS[dtype]:
                wide = _iterated(wide, n_step)
            made.update(zip(batch, wide.to(scaled[0].dtype), strict=True))
    return [made[index] if _lying(matrix) is matrix else made[index].T for index, matrix in enumerate(matrices)]


def _lying(matrix: Tensor) -> Tensor:
    """The matrix, or its transpose if it has more rows than columns."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _iterated(wide: Float[Tensor, "n side length"], n_step: int) -> Float[Tensor, "n side length"]:
    """Matrices of at most as many rows as columns, after some steps."""
    square = wide @ wide.mT  # (n, side, side)
    product = factor = _factor(square)
    for _ in range(n_step - 1):
        square = factor @ (square @ factor)
        factor = _factor(square)
        product = product @ factor
    return product @ wide


def _factor(square: Float[Tensor, "n side side"]) -> Float[Tensor, "n side side"]:
    """What a step multiplies matrices of these squares with, a·I + b·S + c·S²; it commutes with the square."""
    a, b, c = 3.4445, -4.7750, 2.0315
    factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor


class Optimiser:
    """AdamW for everything, or Muon for the weights of linear and convolution layers and AdamW for the rest.

    Both follow one schedule.

    Args:
        gato: whose weights are trained.
        name: `adamw` or `muon`.
        learning_rate: peak of AdamW.
        matrix_learning_rate: peak of Muon.
        weight_decay: of linear and convolution layers; tables, norms and biases have none.
        dtype: what Muon multiplies matrices in, one of `STEPS`.
    """

    def __init__(
        self,
        gato: Gato,
        *,
        name: Literal["adamw", "muon"],
        learning_rate: float,
        matrix_learning_rate: float,
        weight_decay: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        layers = (nn.Linear, nn.Conv2d, LinearPatch)
        chosen = {id(module.weight) for module in gato.modules() if isinstance(module, layers)}
        matrices = [parameter for parameter in gato.parameters() if id(parameter) in chosen]
        rest = [p for p in gato.parameters() if id(p) not in chosen]
        groups: list[dict[str, Any]] = [{"params": rest, "weight_decay": 0.0}]
        if name == "adamw":
            groups.append({"params": matrices, "weight_decay": weight_decay})
        adamw = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True)
        self._optimisers: list[torch.optim.Optimizer] = [adamw]
        if name == "muon":
            self._optimisers.append(Muon(matrices, lr=matrix_learning_rate, weight_decay=weight_decay, dtype=dtype))
        self._peaks = [learning_rate, matrix_learning_rate][: len(self._optimisers)]
        self._names = {id(parameter): key for key, parameter in gato.named_parameters()}

    def step(self, factor: float) -> None:
        """One update at `factor` times the peak learning rates; gradients are cleared."""
        for optimiser, peak in zip(self._optimisers, self._peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def clear(self) -> None:
        """Drops the gradients, of a step that is skipped."""
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """State by "parameter name:entry"; what a checkpoint stores."""
        return {
            f"{self._names[id(parameter)]}:{entry}": value
            for optimiser in self._optimisers
            for parameter, state in optimiser.state.items()
            for entry, value in state.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what `tensors` gave.

        Raises:
            ValueError: the state is of another model or optimiser.
        """
        by_name: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, entry = key.rpartition(":")
            by_name.setdefault(name, {})[entry] = value
        known = set(self._names.values())
        if tensors and set(by_name) - known:
            raise ValueError(
                f"the optimizer state has parameters that this model lacks: {sorted(set(by_name) - known)}"
            )
        for optimiser in self._optimisers:
            expected = {"momentum"} if isinstance(optimiser, Muon) else {"step", "exp_avg", "exp_avg_sq"}
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    entries = by_name.get(self._names[id(parameter)])
                    if entries is None:
                        continue
                    if set(entries) != expected:
                        raise ValueError(
                            f"optimizer state of {self._names[id(parameter)]}: expected {sorted(expected)}, "
                            f"got {sorted(entries)}; resume with the optimizer of the run"
                        )
                    optimiser.state[parameter] = {entry: value.to(parameter.device) for entry, value in entries.items()}


def schedule(progress: float, step: int, warmup_steps: int) -> float:
    """Learning-rate factor: linear over `warmup_steps`, then a cosine to zero.

    Args:
        progress: share of the run that is done, in [0, 1], by steps or by time.
        step: steps done.
        warmup_steps: length of the rise.
    """
    rise = min(1.0, (step + 1) / max(warmup_steps, 1))
    return rise * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
