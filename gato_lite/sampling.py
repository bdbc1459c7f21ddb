"""Choosing the next token of each row among the ids that are legal for it.

At temperature 0 that is the likeliest id; among the bins of a continuous action, which lie on a line, it is the median
of their distribution: many bins beside one another are nearly as likely as the best, and which of them comes first is
chance. HalfCheetah and stick-pull are learnt or lost by it (docs/experiments.md).

What is chosen for a row need not depend on what is chosen beside it. A draw may take its number from a function of
whatever it is for (`chance`), and where two ids are so nearly equally likely that rounding, which the other rows of a
forward have a part in, could decide between them, the caller may be asked for the row's hidden state alone (`settle`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from gato_lite.model import Gato

Legal = tuple[int, int] | npt.NDArray[np.int32]
"""Ids that may come next: a range (start, stop), or the ids themselves."""
CLOSE: Final = 1e-5
"""Scores whose difference is this share of their size could change places by rounding; ten times what was seen."""


class Sampler:
    """The likeliest id or the median bin at temperature 0, else a seeded draw from the softmax at that temperature.

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

    def choose(
        self,
        gato: Gato,
        hidden: Float[Tensor, "n D"],
        legal: Sequence[Legal],
        chances: Sequence[float] | None = None,
        settle: Callable[[int], Float[Tensor, "one D"]] | None = None,
    ) -> npt.NDArray[np.int64]:
        """(n,) one legal id after each hidden state; rows that are given the same ids share one product.

        Args:
            gato: whose head scores the ids.
            hidden: (n, D).
            legal: ids of each row.
            chances: a number in [0, 1) for each row that its draw is made of; None takes the sampler's own.
            settle: gives a row's hidden state, (1, D), computed alone: asked where a greedy choice is so close that
                rounding could decide it.
        """
        chosen = np.empty(len(legal), np.int64)
        groups: dict[tuple[int, int] | int, list[int]] = {}
        for row, ids in enumerate(legal):
            groups.setdefault(ids if isinstance(ids, tuple) else id(ids), []).append(row)
        for rows in groups.values():
            ids = legal[rows[0]]
            index = slice(*ids) if isinstance(ids, tuple) else torch.from_numpy(ids.astype(np.int64)).to(hidden.device)
            logits = gato.logits(hidden if len(rows) == len(legal) else hidden[rows], index)
            if self.temperature > 0.0:
                places = self._draw(logits, None if chances is None else np.array([chances[row] for row in rows]))
            else:
                best = _median if _are_bins(ids, gato.vocabulary.bin_ids) else _likeliest
                places, is_close = (found.cpu().numpy() for found in best(logits))
                if settle is not None:
                    for place in np.flatnonzero(is_close):
                        places[place] = int(best(gato.logits(settle(rows[place]), index).cpu())[0])
            chosen[rows] = ids[0] + places if isinstance(ids, tuple) else ids[places]
        return chosen

    def _draw(self, logits: Float[Tensor, "n V"], chances: npt.NDArray[np.float64] | None) -> npt.NDArray[np.int64]:
        """(n,) column of each row."""
        logits = logits.cpu().double()  # so that no temperature is too small
        probability = ((logits - logits.max(-1, keepdim=True).values) / self.temperature).softmax(-1)
        if self.top_p < 1.0:
            ordered, order = probability.sort(-1, descending=True)
            beyond = ordered.cumsum(-1) - ordered >= self.top_p
            probability = probability.scatter(-1, order, ordered.masked_fill(beyond, 0.0))
        if chances is None:
            return torch.multinomial(probability, 1, generator=self._generator)[:, 0].numpy()
        until = probability.cumsum(-1)
        within = torch.from_numpy(chances)[:, None] * until[:, -1:]
        last = probability.shape[1] - 1 - (probability.flip(-1) > 0).int().argmax(-1)  # the last that is possible
        return torch.minimum(torch.searchsorted(until, within, right=True)[:, 0], last).numpy()


def chance(*of: object) -> float:
    """A number in [0, 1) that is a function of the words `of`; other words give one that has nothing to do with it."""
    digest = hashlib.blake2b(" ".join(map(str, of)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def _are_bins(ids: Legal, bins: range) -> bool:
    """Whether these are all bins of a continuous scalar; no other ids make a scale."""
    n = ids[1] - ids[0] if isinstance(ids, tuple) else len(ids)
    return n == len(bins) and ids[0] == bins.start


def _likeliest(logits: Float[Tensor, "n V"]) -> tuple[Int64[Tensor, " n"], Bool[Tensor, " n"]]:
    """The best column of each row, and whether another is too close to tell apart from it."""
    best = logits.topk(min(2, logits.shape[1]), -1).values
    return logits.argmax(-1), (best[:, 0] - best[:, -1] < _rounding(best[:, 0])) & (logits.shape[1] > 1)


def _median(logits: Float[Tensor, "n V"]) -> tuple[Int64[Tensor, " n"], Bool[Tensor, " n"]]:
    """The column of each row in which the chances so far reach a half, and whether it could be the one before or after.

    Where every score is off by e, one way on one side of it and the other way on the other, the chances so far are off
    by e/2 there.
    """
    beyond = logits.float().softmax(-1).cumsum(-1) - 0.5
    return (beyond < 0).sum(-1), beyond.abs().amin(-1) < _rounding(logits.amax(-1)) / 2


def _rounding(score: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """By how much rounding may change a score."""
    return CLOSE * (1.0 + score.abs())
