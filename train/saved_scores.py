"""Scores in a file: read back, and held to what they are to be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from gato_lite.train.scores import Scores


def require_shared(other: Scores, name: str, tasks: Sequence[str], seed: int, episodes: int) -> None:
    """Checks before long work that its scores can be compared with others.

    Args:
        other: scores that exist.
        name: what they are, for people.
        tasks: to be evaluated.
        seed: first environment seed of the evaluation.
        episodes: of each task.

    Raises:
        ValueError: no episode would be in both.
    """
    starts = {known: score.seed for known, score in other.tasks.items()}
    planned = range(seed, seed + episodes)
    if not any(
        set(planned) & set(range(starts[task], starts[task] + len(other.values.get(task, []))))
        for task in tasks
        if task in starts
    ):
        found = ", ".join(f"{known} from seed {start}" for known, start in list(starts.items())[:3]) or "nothing"
        raise ValueError(
            f"{name}: expected episodes of the same tasks and seeds to compare with, from seed {seed}, found {found}"
            f"{', …' if len(starts) > 3 else ''}; evaluate both with the same --tasks and --seed"
        )


def read_scores(path: Path) -> Scores:
    """Scores that `gato-lite eval --json` or `gato-lite demo` wrote, with the values of their episodes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else, or scores without values.
    """
    try:
        scores = msgspec.json.decode(path.read_bytes(), type=Scores)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected scores as `gato-lite eval --json` writes them: {error}") from error
    if not any(scores.values.values()):
        raise ValueError(
            f'{path}: expected the values of single episodes under "values", found none; evaluate that run again'
        )
    return scores
