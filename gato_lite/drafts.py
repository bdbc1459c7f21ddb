"""Guessing an action's tokens, so that one forward checks them all: fewer forwards for the same actions.

The guess is the slot's previous action. Its tokens are read together with what comes before them, and a token is drawn
after each of them as always. A guess stands as long as the drawn tokens are the guessed ones; the first that is not
takes its place, and what was read beyond it is forgotten. Because every token that is kept was drawn from the model's
own distribution after the tokens before it, actions are distributed as without guesses, and greedy ones are the same.

Source: Leviathan et al. 2023, "Fast inference from transformers via speculative decoding": their rule, for a guess that
is certain, accepts it with the probability that the model gives it and else draws from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

LEAST_SHARE: Final = 0.4
"""Share of guessed tokens that must have stood lately for guesses to pay, where slots share forwards."""
LEAST_SHARE_ALONE: Final = 0.15
"""The same of a single slot, whose forward waits for the weights and takes a few tokens more for little."""
TRY_EVERY: Final = 16
"""Actions after which a slot whose guesses do not pay tries one again."""
WEIGHT: Final = 0.1
"""Of the newest guess in the share."""


@dataclass
class Drafter:
    """The guesses of one slot."""

    least_share: float = LEAST_SHARE
    """Share of guessed tokens that must have stood lately."""
    previous: list[int] = field(default_factory=list)
    """Tokens of the last action."""
    share: float = 0.5
    """Running mean of the share of guessed tokens that stood."""
    n_quiet: int = 0
    """Actions since the last guess."""
    n_guessed: int = 0
    """Tokens guessed so far."""
    n_stood: int = 0
    """Of them, those that stood."""

    def guess(self, chosen: Sequence[int], room: int) -> list[int]:
        """Tokens that may follow `chosen`, at most `room`; never the last, which is not read with its action."""
        worth = self.share >= self.least_share or self.n_quiet >= TRY_EVERY
        return self.previous[len(chosen) : -1][:room] if worth else []

    def record(self, n_guessed: int, n_stood: int) -> None:
        """Learns how many of the guessed tokens stood."""
        self.share += WEIGHT * (n_stood / n_guessed - self.share)
        self.n_guessed += n_guessed
        self.n_stood += n_stood
        self.n_quiet = 0

    def finish(self, action: Sequence[int]) -> None:
        """Learns the whole action."""
        self.previous = list(action)
        self.n_quiet += 1
