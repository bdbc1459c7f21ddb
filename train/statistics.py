"""Statistics of scores: means over tasks that resist outliers, intervals by resampling, tests of paired differences.

A task is a stratum: episodes are resampled within it, never across tasks, and each task draws from a generator of its
own, made of its name. So nothing here depends on the order of the tasks, nor on which others were evaluated.

M is the number of tasks, N a task's episodes, and B the number of resamplings.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", sections 4.1
(stratified bootstrap) and 4.3 (interquartile mean); Reed et al. 2022, figure 5 (tasks above a share of the expert);
Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

N_DRAW: Final = 2000
"""Resamplings behind an interval."""
N_FLIP: Final = 20_000
"""Draws of signs behind a p-value; the smallest is then 5e-5, enough for Holm's rule over a thousand tasks."""
LEVEL: Final = 0.05
"""Chance of an interval without the true value, and of calling anything different that is not."""


def interquartile_mean(values: npt.ArrayLike) -> Floats:
    """Mean of the middle half along the last axis: a quarter of the values is cut off at each end.

    Of fewer than four values nothing is cut, as in scipy's `trim_mean(values, 0.25)`, which the authors use.

    Args:
        values: (..., M).

    Returns:
        (...), an array without axes for one row of values.
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=-1)
    cut = ordered.shape[-1] // 4
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(-1))


def mean(values: npt.ArrayLike) -> Floats:
    """Mean along the last axis, the same to the last bit in any order of the values."""
    return np.asarray(np.sort(np.asarray(values, np.float64), axis=-1).mean(-1))


def median(values: npt.ArrayLike) -> Floats:
    """Median along the last axis."""
    return np.asarray(np.median(np.asarray(values, np.float64), axis=-1))


def share_above(threshold: float) -> Callable[[npt.ArrayLike], Floats]:
    """The share of values that reach `threshold`, along the last axis."""
    return lambda values: np.asarray((np.asarray(values, np.float64) >= threshold - 1e-9).mean(-1))


AGGREGATES: Final[dict[str, Callable[[npt.ArrayLike], Floats]]] = {
    "mean": mean,
    "median": median,
    "iqm": interquartile_mean,
    "above_50": share_above(0.5),
    "above_80": share_above(0.8),
    "above_90": share_above(0.9),
}
"""What the scores of many tasks come to, by name: a function of (..., M)."""


def resampled_means(stratum: str, values: Floats, n_draw: int = N_DRAW) -> Floats:
    """(B,) means of the values drawn anew with replacement.

    Args:
        stratum: name of the task, which seeds the draws.
        values: (N,) one for each episode, at least one.
        n_draw: B.
    """
    chosen = _generator(stratum, "bootstrap").integers(len(values), size=(n_draw, len(values)))
    return np.asarray(values[chosen].mean(1))


def interval(draws: Floats) -> tuple[float, float]:
    """Ends of the 95 % percentile interval of (B,) resampled values."""
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def flipped_means(stratum: str, differences: Floats, n_draw: int = N_FLIP) -> Floats:
    """(B,) means of paired differences whose signs were drawn anew: what they would be if nothing differed.

    Args:
        stratum: name of the task, which seeds the draws.
        differences: (N,) one for each pair, at least one.
        n_draw: B.
    """
    signs = _generator(stratum, "signs").integers(0, 2, size=(n_draw, len(differences)), dtype=np.int8)
    return np.asarray(((2 * signs - 1).astype(np.float32) @ differences) / len(differences))


def p_value(observed: float, null: Floats) -> float:
    """Share of (B,) means under the null hypothesis that are as far from 0 as `observed`, itself counted as one."""
    slack = 1e-9 * max(abs(observed), 1.0)
    return float((1 + np.count_nonzero(np.abs(null) >= abs(observed) - slack)) / (1 + len(null)))


def holm(p_values: Sequence[float]) -> list[bool]:
    """Which of many hypotheses to reject, with a chance of at most 5 % of rejecting any that is true."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        if p_values[index] > LEVEL / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def _generator(stratum: str, use: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{use}\n{stratum}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))
