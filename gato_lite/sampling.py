"""Choosing the next token of each row among the ids that are legal for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from gato_lite.model import Gato

Legal = tuple[int, int] | npt.NDArray[np.int32]
"""Ids that may come next: a range (start, stop), or the ids themselves."""


class Sampler:
    """Greedy at temperature 0, else a seeded draw from the softmax at that temperature.

    Args:
        temperature: 0 or above.
        seed: of all draws.
        top_p: draws come from the fewest ids whose probabilities sum to it.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, temperature: float = 0.0, seed: int = 0, top_p: float = 1.0) -> None:
        if not 0.0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be 0 (greedy) or a positive number, got {temperature}")
        if not 0 <= seed < 1 << 63:
            raise ValueError(f"seed must be in 0..2**63 - 1, got {seed}")
        if not 0.0 < top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {top_p}")
        self.temperature = temperature
        self.top_p = top_p
        self._generator = torch.Generator().manual_seed(seed)

    def choose(self, gato: Gato, hidden: Float[Tensor, "n D"], legal: Sequence[Legal]) -> npt.NDArray[np.int64]:
        """(n,) one legal id after each hidden state; rows that are given the same ids share one product."""
        chosen = np.empty(len(legal), np.int64)
        groups: dict[tuple[int, int] | int, list[int]] = {}
        for row, ids in enumerate(legal):
            groups.setdefault(ids if isinstance(ids, tuple) else id(ids), []).append(row)
        for rows in groups.values():
            ids = legal[rows[0]]
            picked = hidden if len(rows) == len(legal) else hidden[rows]
            if isinstance(ids, tuple):
                chosen[rows] = ids[0] + self._draw(gato.logits(picked, slice(*ids)))
            else:
                index = torch.from_numpy(ids.astype(np.int64)).to(hidden.device)
                chosen[rows] = ids[self._draw(gato.logits(picked, index))]
        return chosen

    def _draw(self, logits: Float[Tensor, "n V"]) -> npt.NDArray[np.int64]:
        """(n,) column of each row."""
        if self.temperature == 0.0:
            return logits.argmax(-1).cpu().numpy()
        logits = logits.cpu().double()  # so that no temperature is too small
        probability = ((logits - logits.max(-1, keepdim=True).values) / self.temperature).softmax(-1)
        if self.top_p < 1.0:
            ordered, order = probability.sort(-1, descending=True)
            beyond = ordered.cumsum(-1) - ordered >= self.top_p
            probability = probability.scatter(-1, order, ordered.masked_fill(beyond, 0.0))
        return torch.multinomial(probability, 1, generator=self._generator)[:, 0].numpy()
