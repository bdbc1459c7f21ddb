"""Numbers and names as people read them, in a terminal, in Markdown and on a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gato_lite.train.scores import TaskScore

FOLDED: Final = 12
"""Tasks of a suite that are shown without being asked for."""


def number(value: float | None, digits: int = 2) -> str:
    """A number for people, with a true minus sign; a dash for None."""
    return "–" if value is None else f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """A share as a percentage; 100 % is said of all alone."""
    if value is None:
        return "–"
    if 0.995 <= value < 1.0:
        return f"{math.floor(1000 * value) / 10:.1f}\u202f%"
    return f"{100 * value:.0f}\u202f%"


def in_metric(score: TaskScore, value: float | None, digits: int = 2) -> str:
    """A value of the task's metric: a share as a percentage, a return as a number."""
    return percent(value) if score.is_share else number(value, digits)


def short(name: str) -> str:
    """A task's name without its suite."""
    return name.rpartition("/")[2]


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
