"""Which environment seeds are for what, so that nothing is evaluated on an episode that was trained on."""

from __future__ import annotations

from typing import Final

TRAINING_SEED: Final = 0
"""First seed for recording."""
REFERENCE_SEED: Final = 900_000_000
"""First seed for measuring random policies and experts; recordings stay below it."""
EVALUATION_SEED: Final = 1_000_000_000
"""First seed for evaluating a trained agent."""
BLOCK_SEEDS: Final = 1_000
"""Seeds that one block of a recording may try."""


def block_seed(seed: int, block: int) -> int:
    """First environment seed of a block of the recording that starts at `seed`.

    Raises:
        ValueError: the block would reach the seeds that scores are measured on.
    """
    first = seed + block * BLOCK_SEEDS
    if seed < TRAINING_SEED or first + BLOCK_SEEDS > REFERENCE_SEED:
        raise ValueError(
            f"seeds of a recording must be in {TRAINING_SEED}..{REFERENCE_SEED - 1}, got seed={seed},"
            f" whose block {block} reaches {first + BLOCK_SEEDS - 1}"
        )
    return first
