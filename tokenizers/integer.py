"""Integers ↔ digits: exact for every integer type, one token each where the range allows it.

A scalar that can take more values than there are discrete tokens is written in several base-1024 digits, the most
significant first. All arithmetic is on offsets from the lower bound in uint64, so a full int64 range wraps correctly.

Source: Reed et al. 2022, section 2.1 (integers below 1024).
Differs from the paper: larger ranges take more digits, because otherwise they could not be written at all.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Int32, UInt64


class Digits:
    """The digits of E scalars, scalar e having the values 0..last[e]."""

    def __init__(self, last: UInt64[np.ndarray, " E"], base: int) -> None:
        lasts = [int(value) for value in last]
        counts = [_n_digits(value, base) for value in lasts]
        self.base: Final = base
        self.n_tokens: Final = sum(counts)
        self.n_scalars: Final = len(lasts)
        self.element: Final = np.repeat(np.arange(len(lasts)), counts)
        """(T,) scalar of each token."""
        self.start: Final = np.cumsum([0, *counts])[:-1]
        """(E,) first token of each scalar."""
        powers = [base**power for count in counts for power in range(count - 1, -1, -1)]
        self.weight: Final = np.array(powers, np.uint64)
        """(T,) what one step of each digit is worth."""
        top = [lasts[e] // power % base for e, power in zip(self.element.tolist(), powers, strict=True)]
        self.top: Final = np.array(top, np.int32)
        """(T,) digits of the largest value."""
        self._is_single: Final = self.n_tokens == self.n_scalars

    def encode(self, offsets: UInt64[np.ndarray, "N E"]) -> Int32[np.ndarray, "N T"]:
        """The digits of values already known to be in range."""
        if self._is_single:
            return offsets.astype(np.int32)
        return (offsets[:, self.element] // self.weight % np.uint64(self.base)).astype(np.int32)  # (N, T)

    def decode(self, digits: Int32[np.ndarray, " T"]) -> UInt64[np.ndarray, " E"]:
        """The values that `digits` write.

        Raises:
            ValueError: the digits write a value beyond the range.
        """
        if self.n_tokens == 0:
            return np.zeros(0, np.uint64)
        worth = digits.astype(np.uint64) * self.weight
        most = self.top.astype(np.uint64) * self.weight
        # The leading digit apart from the rest: neither can overflow 64 bits, their sum could.
        rest = np.add.reduceat(worth, self.start) - worth[self.start]
        rest_most = np.add.reduceat(most, self.start) - most[self.start]
        lead, lead_most = digits[self.start], self.top[self.start]
        wrong = (digits < 0).any() | (digits >= self.base).any()
        wrong |= ((lead > lead_most) | ((lead == lead_most) & (rest > rest_most))).any()
        if wrong:
            raise ValueError(f"expected digits of at most {self.top.tolist()}, got {digits.tolist()}")
        return np.asarray(worth[self.start] + rest)

    def stop(self, prefix: Int32[np.ndarray, " K"]) -> int:
        """One more than the largest digit that may follow the digits `prefix` of the same value."""
        place = len(prefix)
        first = int(self.start[self.element[place]])
        is_tight = np.array_equal(prefix[first:], self.top[first:place])
        return int(self.top[place]) + 1 if is_tight else self.base

    @cached_property
    def stops(self) -> Int32[np.ndarray, " T"] | None:
        """`stop` of every digit where it never depends on the digits before, else None."""
        is_lead = np.zeros(self.n_tokens, bool)
        is_lead[self.start] = True
        return self.top + 1 if bool((is_lead | (self.top == self.base - 1)).all()) else None


def _n_digits(last: int, base: int) -> int:
    """Digits of the value `last`, at least one."""
    count = 1
    while last >= base**count:
        count += 1
    return count
