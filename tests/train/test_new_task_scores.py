from __future__ import annotations

import pytest

from gato_lite.train.new_task_scores import Cell, point
from gato_lite.train.scores import TaskScore


def cell(seed: int, values: list[float | None]) -> Cell:
    score = TaskScore(mean=0, std=0, success=None, normalised=None, low=None, high=None, episodes=2, seed=0)
    return Cell(way="tuned", demonstrations=10, seed=seed, score=score, values=values)


def test_seeds_count_alike_and_broken_episodes_do_not() -> None:
    found = point([cell(0, [1.0] * 9 + [0.0, None]), cell(1, [0.0] * 100)])
    assert found.seeds == [0.9, 0.0]
    assert found.mean == pytest.approx(0.45)
    assert found.low < 0.45 < found.high <= 0.5
    assert point([cell(0, [1.0, 1.0])]).low == 1.0
