"""What a prompt may ask for at most, checked before anything of its size is made.

A prompt is never cut: one that the context cannot hold is refused. What is cut is the past of a text that grows longer
than the context while it is written (`gato_lite/writing.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gato_lite.exchange import Exchange, lay_out_exchanges
from gato_lite.model import Gato
from gato_lite.sequence import Tokens

MOST_TOKENS: Final = 16_384
"""Pieces that one answer may have."""
MOST_BEAMS: Final = 64
"""Answers to one prompt that may be in progress."""
CACHE_TOKENS: Final = 65_536
"""Tokens that the rows of prompts that are answered together may hold; more prompts are answered in turn. A prompt
takes a row, or one for each beam."""


def check_max_tokens(max_tokens: int) -> None:
    """Raises a ValueError unless an answer may have so many pieces."""
    if not 1 <= max_tokens <= MOST_TOKENS:
        raise ValueError(f"max_tokens must be in 1..{MOST_TOKENS}, got {max_tokens}")


def check_beams(beams: int) -> None:
    """Raises a ValueError unless so many answers to one prompt may be in progress."""
    if not 1 <= beams <= MOST_BEAMS:
        raise ValueError(f"beams must be in 1..{MOST_BEAMS}, got {beams}")


def prompt_within(gato: Gato, turns: Sequence[Exchange]) -> Tokens:
    """The tokens of a prompt, or of one with its answer, as the last turn is.

    Raises:
        ValueError: it is more than the context holds, with one token of the answer at least.
    """
    _check_size(gato, turns)
    tokens, _ = lay_out_exchanges(turns, gato.vocabulary, gato.config.patch_size)
    answer = turns[-1].text
    if len(tokens) + (not answer) > gato.config.context_length:
        what = f"the prompt with the answer {answer[:40]!r}" if answer else "the prompt"
        raise ValueError(
            f"{what} is {len(tokens)} tokens, but the context holds {gato.config.context_length} with the answer; "
            "shorten the text or shrink the picture"
        )
    return tokens


def _check_size(gato: Gato, turns: Sequence[Exchange]) -> None:
    """Refuses a prompt that is too large to be tokenised: the context could not hold what it would become."""
    length, side = gato.config.context_length, gato.config.patch_size
    longest = max(map(len, gato.vocabulary.text.piece_bytes))
    n_character = sum(len(turn.prompt) + len(turn.text) for turn in turns)
    if n_character > length * longest:
        raise ValueError(
            f"the prompt has {n_character:,} characters, but the context holds {length} tokens of at most {longest}; "
            "shorten the text"
        )
    for turn in turns:
        if turn.image is not None and turn.image.ndim == 3:
            height, width, _ = turn.image.shape
            n_patch = -(-height // side) * -(-width // side)
            if n_patch > length:
                raise ValueError(
                    f"a picture of {height} × {width} pixels is {n_patch:,} tokens, but the context holds {length}; "
                    "shrink the picture"
                )
