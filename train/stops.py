"""Why a run has to stop, in words: which step, what was needed and found, what is safe, and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from gato_lite.checkpoint import FOLDER, list_checkpoints

OUT_OF_MEMORY: Final = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "std::bad_alloc",
    "could not create a primitive",  # oneDNN, of a product in bfloat16 whose code or scratch memory it cannot have
    "could not create a memory",
    "could not execute a primitive",
)
"""What errors without a type of their own say when there is no memory."""


class TrainingStoppedError(RuntimeError):
    """The run cannot go on as it is; what was saved before is whole."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out, on the host or on a device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    )


def out_of_memory(run: Path, step: int, n_tokens: int, accumulate: int) -> TrainingStoppedError:
    """What to say when a step of `n_tokens` tokens at once did not fit."""
    return TrainingStoppedError(
        f"step {step} ran out of memory with {n_tokens:,} tokens at once (--accumulate {accumulate}); {_safe(run)}; "
        f"the same command with --resume --accumulate {2 * accumulate} goes on with {n_tokens // 2:,} at once and the "
        "same result, a smaller --preset needs less for its weights"
    )


def disk_refused(run: Path, step: int, error: Exception, tensors: Iterable[Tensor]) -> str:
    """What to say when the checkpoint of a step could not be written."""
    n_needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    try:
        free = f"{shutil.disk_usage(run).free:,} are free"
    except OSError as problem:
        free = f"what is free cannot be told ({problem})"
    return (
        f"{run / FOLDER}: the checkpoint of step {step} could not be written ({error}): it needs about {n_needed:,} "
        f"bytes, {free}; {_safe(run)}"
    )


def not_finite(run: Path, step: int, in_a_row: int, seed: int, rows: dict[str, list[int]]) -> TrainingStoppedError:
    """What to say when too many steps in a row had a loss or gradient that was not finite."""
    origin, first = next(((origin, found[0]) for origin, found in rows.items() if found), ("DATASET", 0))
    return TrainingStoppedError(
        f"{in_a_row} steps in a row had a loss or gradient that was not finite, the last is step {step} (seed {seed}); "
        f"the state before them is saved; lower learning_rate, or look at what those steps read: "
        f"{run / 'metrics.jsonl'} lists it, `gato-lite inspect {origin} --row {first}` shows it"
    )


def _safe(run: Path) -> str:
    """What is there to go on from."""
    steps = list_checkpoints(run)
    return f"the checkpoint of step {steps[-1]} is whole" if steps else "there is no earlier checkpoint"
