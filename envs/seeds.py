"""Which environment seeds are for what, so that nothing is evaluated on an episode that was trained on."""

from __future__ import annotations

from typing import Final

TRAINING_SEED: Final = 0
"""First seed for recording."""
RELABEL_SEED: Final = 700_000_000
"""First seed of episodes that an agent plays while its expert says what it would have done; recordings stay below."""
REFERENCE_SEED: Final = 900_000_000
"""First seed for measuring random policies and experts."""
VALIDATION_SEED: Final = 1_500_000_000
"""First seed for looking at a model while it trains."""
EVALUATION_SEED: Final = 1_000_000_000
"""First seed for evaluating a trained agent."""
BLOCK_SEEDS: Final = 1_000
"""Seeds that one block of a recording may try."""


def block_seed(seed: int, block: int) -> int:
    """First environment seed of a block of the recording that starts at `seed`.

    Raises:
        ValueError: the block would reach the seeds that are for something else.
    """
    first = seed + block * BLOCK_SEEDS
    if seed < TRAINING_SEED or first + BLOCK_SEEDS > RELABEL_SEED:
        raise ValueError(
            f"seeds of a recording must be in {TRAINING_SEED}..{RELABEL_SEED - 1}, got seed={seed},"
            f" whose block {block} reaches {first + BLOCK_SEEDS - 1}"
        )
    return first
