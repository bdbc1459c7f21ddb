"""What `gato_lite.train.new_task` finds: a score for each model, and the curves that they come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from gato_lite.train.scores import TaskScore
from gato_lite.train.statistics import interval, resampled_means

Way = Literal["before", "tuned", "rehearsed", "nothing"]
"""How a model came to be; `before` is the run as it was."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One model: how it was made and what it reaches."""

    way: Way
    demonstrations: int
    seed: int
    score: TaskScore
    """In the new task."""
    values: list[float | None]
    """The task's metric in each episode; None where the environment broke it."""
    old: dict[str, TaskScore] = {}
    """In the old tasks; empty where they were not played."""
    cpu_minutes: float | None = None
    """Of the training, all threads together; None where there was none."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """All seeds of one way and one number of demonstrations."""

    demonstrations: int
    mean: float
    """Of the task's metric, over the seeds."""
    low: float
    """Lower end of the 95 % bootstrap interval over the episodes of these models."""
    high: float
    seeds: list[float]
    """Mean of each."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What `curve.json` holds."""

    task: str
    metric: str
    settings: dict[str, object]
    """The options that all cells share."""
    versions: dict[str, str]
    random: float | None
    """Score of random actions in the task, if it was measured."""
    expert: float | None
    rehearsed: list[str]
    """Old tasks that were mixed in."""
    before: Point
    """The run as it was."""
    curves: dict[str, list[Point]]
    """By way."""
    cells: list[Cell]


def point(cells: Sequence[Cell]) -> Point:
    """The score of models that differ in their seed alone, with an interval: episodes are drawn anew within a model."""
    known = [np.array([value for value in cell.values if value is not None], np.float64) for cell in cells]
    draws = [
        resampled_means(f"{cell.way} {cell.demonstrations} {cell.seed}", values)
        for cell, values in zip(cells, known, strict=True)
    ]
    low, high = interval(np.asarray(np.mean(draws, axis=0)))
    means = [float(values.mean()) for values in known]
    return Point(demonstrations=cells[0].demonstrations, mean=float(np.mean(means)), low=low, high=high, seeds=means)
