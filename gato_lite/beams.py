"""Beam search: the likeliest of many answers, where taking the likeliest piece each time does not find it.

Of all continuations of what is kept of a prompt, the likeliest `beams` stay. One that ends is finished; the finished
one with the best score is the answer, once nothing that is kept can beat it.

Decisions:
- a score is the sum of log-probabilities over the length penalty ((5 + n) / 6)^α of the n pieces that they are of,
  `end` included
- what can no longer win is dropped at once: a sum only falls, so its score can rise to what it would be at the longest
- a prompt is read once; what parts from a kept answer takes a copy of its row
- with one beam this is the greedy answer

Source: Wu et al. 2016, "Google's Neural Machine Translation System", section 7. Differs from the paper: no coverage
penalty, because there is no attention from answer to sentence to take it from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from gato_lite.model import Gato
from gato_lite.writing import Writer, last_piece

ALPHA: Final = 0.6
"""Of the length penalty: that of Vaswani et al. 2017, section 6.1, at four beams; Wu et al. found 0.6 to 0.7 best."""


@dataclass(frozen=True)
class _Partial:
    """The beginning of an answer."""

    row: int
    """Of the writer; it has read all pieces but the last."""
    ids: tuple[int, ...] = ()
    nats: float = 0.0
    """Log-probability of the pieces."""


@dataclass
class _Best:
    """The best finished answer of a prompt so far."""

    score: float = -np.inf
    text: str = ""


@torch.inference_mode()
def search(
    gato: Gato,
    writer: Writer,
    hidden: Float[Tensor, "P D"],
    beams: int,
    max_tokens: int,
    *,
    stop: Sequence[str] = (),
) -> list[str]:
    """The best answer found to each of P prompts.

    Args:
        gato: the model.
        writer: of P × beams rows, of which row p × beams has read prompt p.
        hidden: state after each prompt's last token.
        beams: most answers of a prompt in progress.
        max_tokens: most pieces of an answer; one that is cut there is finished.
        stop: texts before whose first occurrence an answer ends; the piece that completes it counts.
    """
    vocabulary = gato.vocabulary
    live = {prompt: [_Partial(prompt * beams)] for prompt in range(len(hidden))}
    best = [_Best() for _ in live]
    for n in range(1, max_tokens + 1):
        going: dict[int, list[_Partial]] = {}
        for prompt, grown in _likeliest(gato, hidden, live, beams, writer.legal).items():
            found, kept = best[prompt], []
            for partial in grown:
                ended = partial.ids[-1] == vocabulary.end
                ids = partial.ids[:-1] if ended else partial.ids
                text = vocabulary.text.decode(np.array(ids, np.int32)) if stop or ended or n == max_tokens else ""
                cut = min((place for place in map(text.find, stop) if place >= 0), default=None)
                if not ended and cut is None and n < max_tokens:
                    kept.append(partial)
                elif partial.nats / penalty(n) > found.score:
                    found.score, found.text = partial.nats / penalty(n), text[:cut]
            winning = [partial for partial in kept if partial.nats / penalty(max_tokens) > found.score]
            if winning:
                going[prompt] = _seated(writer, winning, range(prompt * beams, (prompt + 1) * beams))
        if not going:
            break
        live = going
        partials = [partial for own in live.values() for partial in own]
        hidden = writer.read([partial.row for partial in partials], [last_piece(partial.ids) for partial in partials])
    return [found.text for found in best]


def penalty(n: int) -> float:
    """What the log-probability of an answer of n pieces is divided by."""
    return math.pow((5 + n) / 6, ALPHA)


def _likeliest(
    gato: Gato,
    hidden: Float[Tensor, "R D"],
    live: dict[int, list[_Partial]],
    beams: int,
    legal: npt.NDArray[np.int32],
) -> dict[int, list[_Partial]]:
    """Each prompt's answers with one piece more, likeliest first, by prompt; rows are those of their pasts."""
    logits = gato.logits(hidden, torch.from_numpy(legal.astype(np.int64)).to(hidden.device)).float()
    top, columns = logits.topk(min(beams, len(legal)), -1)  # (R, k): no past gives more than that
    nats = (top - logits.logsumexp(-1, keepdim=True)).double().cpu().numpy()
    pieces = legal[columns.cpu().numpy()]
    grown = {}
    start = 0
    for prompt, own in live.items():
        rows = slice(start, start + len(own))
        sums = nats[rows] + np.array([partial.nats for partial in own])[:, None]
        order = np.argsort(-sums, axis=None, kind="stable")[:beams]
        grown[prompt] = [
            _Partial(own[past].row, (*own[past].ids, int(pieces[rows][past, rank])), float(sums[past, rank]))
            for past, rank in zip(*np.unravel_index(order, sums.shape), strict=True)
        ]
        start = rows.stop
    return grown


def _seated(writer: Writer, partials: Sequence[_Partial], rows: range) -> list[_Partial]:
    """Gives each a row of its own, in ascending order: the first of those with one past keeps its row."""
    free = sorted(set(rows) - {partial.row for partial in partials})
    taken: dict[int, _Partial] = {}
    copied = []
    for partial in partials:
        if partial.row in taken:
            copied.append(partial)
        else:
            taken[partial.row] = partial
    targets = free[: len(copied)]
    writer.copy([partial.row for partial in copied], targets)
    taken |= {row: replace(partial, row=row) for row, partial in zip(targets, copied, strict=True)}
    return [taken[row] for row in sorted(taken)]
