"""Guessing an action's tokens, so that one forward checks them all: fewer forwards for the same actions.

The guess is the slot's previous action. Its tokens are read together with what comes before them, and a token is drawn
after each of them as always. A guess stands as long as the drawn tokens are the guessed ones; the first that is not
takes its place, and what was read beyond it is forgotten. What was drawn beyond it is the next guess: after nearly the
right tokens it is often the right one, and draws of one place are made of one number. Because every token that is kept
was drawn from the model's own distribution after the tokens before it, actions are distributed as without guesses, and
greedy ones are the same (in bfloat16 but for what rounding decides).

Source: Leviathan et al. 2023, "Fast inference from transformers via speculative decoding": their rule, for a guess that
is certain, accepts it with the probability that the model gives it and else draws from the others. Santilli et al.
2023, "Accelerating transformer inference for translation via parallel decoding", section 3 (Jacobi decoding).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

WORTH: Final = 0.1
"""Chance to stand, with all before it, from which on guessing a token costs less than it saves."""
LEAST_CHANCE: Final = 0.7
"""Chance to stand from which on a slot guesses that shares forwards: where its guess fails, others wait for it."""
LEAST_CHANCE_ALONE: Final = WORTH
"""The same of a single slot, whose forward waits for the weights and takes a few tokens more for little."""
TRY_EVERY: Final = 16
"""Actions after which a slot whose guesses do not pay tries one again, of a whole action."""
WEIGHT: Final = 0.03
"""Of the newest token in the chance."""


@dataclass
class Drafter:
    """The guesses of one slot."""

    least_chance: float = LEAST_CHANCE
    """Chance below which it does not guess."""
    previous: list[int] = field(default_factory=list)
    """Tokens of the last action, or for those to come what was drawn after a guess that did not stand."""
    chance: float = 0.8
    """That a guessed token stands where those before it do: a running mean."""
    n_quiet: int = 0
    """Actions since the last guess."""
    n_guessed: int = 0
    """Tokens guessed so far."""
    n_stood: int = 0
    """Of them, those that stood."""

    def guess(self, chosen: Sequence[int], room: int) -> list[int]:
        """Tokens that may follow `chosen`, at most `room`; never the last, which is not read with its action."""
        if self.chance >= self.least_chance:
            room = min(room, max(1, int(math.log(WORTH, min(self.chance, 0.99)))))  # chance ** n is WORTH
        elif self.n_quiet < TRY_EVERY:
            return []
        return self.previous[len(chosen) : -1][:room]

    def record(self, n_guessed: int, n_stood: int) -> None:
        """Learns how many of the guessed tokens stood, the first ones."""
        self.chance = 1.0 - (1.0 - self.chance) * (1.0 - WEIGHT) ** n_stood
        if n_stood < n_guessed:
            self.chance *= 1.0 - WEIGHT
        self.n_guessed += n_guessed
        self.n_stood += n_stood
        self.n_quiet = 0

    def expect(self, first: int, drawn: Sequence[int]) -> None:
        """Guesses `drawn` next for the tokens of this action from place `first` on."""
        self.previous[first : first + len(drawn)] = drawn

    def finish(self, action: Sequence[int]) -> None:
        """Learns the whole action."""
        self.previous = list(action)
        self.n_quiet += 1
