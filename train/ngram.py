"""A byte 5-gram model: what text costs that is predicted from its last four bytes alone.

Interpolated Witten–Bell smoothing: an order's counts are mixed with the order below by how many different bytes were
seen after a context. Counts are sorted arrays, a context and its byte one 64-bit number, so that 30 MB take seconds.

Source: Witten and Bell 1991, "The zero-frequency problem", method C; Chen and Goodman 1999, section 2.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

ORDER: Final = 5
"""Bytes of a gram: four of context and the one that follows."""

Keys = npt.NDArray[np.uint64]


def bits_per_byte_ngram(train: Sequence[str], test: Sequence[str]) -> float:
    """Bits per UTF-8 byte of `test` under a byte 5-gram model of `train`; every text begins after line feeds.

    Raises:
        ValueError: there is no byte of held-out text.
    """
    known, asked = _bytes(train), _bytes(test)
    if len(asked) <= ORDER - 1 or not any(test):
        raise ValueError("expected at least one byte of held-out text, got none")
    probability = np.full(len(asked), 1 / 256)
    for order in range(1, ORDER + 1):
        grams, counts = np.unique(_grams(known, order), return_counts=True)
        contexts, first = np.unique(grams >> np.uint64(8), return_index=True)
        n_different = np.diff(np.append(first, len(grams)))
        n_seen = np.add.reduceat(counts, first) if len(first) else np.zeros(0, np.int64)
        wanted = _grams(asked, order)
        count = _look_up(grams, counts, wanted)
        seen = _look_up(contexts, n_seen, wanted >> np.uint64(8))
        different = _look_up(contexts, n_different, wanted >> np.uint64(8))
        total = np.maximum(seen + different, 1)
        probability = np.where(seen > 0, (count + different * probability) / total, probability)
    return float(-np.log2(probability[_counted(test)]).sum() / sum(len(text.encode()) for text in test))


def _bytes(texts: Sequence[str]) -> npt.NDArray[np.uint8]:
    """All texts, four line feeds before each."""
    return np.frombuffer(b"".join(b"\n" * (ORDER - 1) + text.encode() for text in texts), np.uint8)


def _counted(texts: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which bytes of `_bytes` are of a text."""
    return np.concatenate([np.arange(ORDER - 1 + len(text.encode())) >= ORDER - 1 for text in texts])


def _grams(data: npt.NDArray[np.uint8], order: int) -> Keys:
    """The last `order` bytes at each place as one number; zeros stand before the first."""
    keys = np.zeros(len(data), np.uint64)
    for back in range(order - 1, -1, -1):
        keys <<= np.uint64(8)
        keys[back:] |= data[: len(data) - back]
    return keys


def _look_up(keys: Keys, values: npt.NDArray[np.int64], wanted: Keys) -> npt.NDArray[np.int64]:
    """The value of each wanted key, 0 where it is not there; `keys` are sorted."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    place = np.minimum(keys.searchsorted(wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
