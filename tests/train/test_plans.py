from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from gato_lite.envs.catalogue import TASKS
from gato_lite.train.plans import LEAST, PLANS, Part, Plan, find_plan, record_plan
from gato_lite.train.recipes import RECIPES
from gato_lite.train.shelf import SHIPPED


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_plan_asks_for_what_there_is(name: str) -> None:
    plan = find_plan(name)
    assert name in RECIPES
    assert plan.parts()
    for task, part in plan.parts().items():
        assert TASKS[task].expert is not None
        assert part.episodes >= 1
        assert part.weight > 0
    assert set(plan.documents) <= set(SHIPPED)
    assert list(plan.rounds) == sorted(plan.rounds)


def test_the_generalist_learns_every_task_that_has_an_expert() -> None:
    assert set(find_plan("generalist").parts()) == {name for name, task in TASKS.items() if task.expert is not None}


def test_the_last_layer_that_names_a_task_counts() -> None:
    plan = Plan(tasks=[{"toy/Taxi": Part(1, 1.0), "toy/*": Part(2, 1.0)}, {"toy/Taxi": Part(3, 1.0)}])
    assert {name: part.episodes for name, part in plan.parts().items()} == {
        **{name: 2 for name in TASKS if name.startswith("toy/")},
        "toy/Taxi": 3,
    }


def test_a_plan_is_recorded(tmp_path: Path) -> None:
    plan = Plan(
        tasks=[{"toy/CliffWalking": Part(100, 0.5), "toy/FrozenLakeNotSlippery": Part(50, 2.0)}], documents={"text": 3}
    )
    seen: list[tuple[int, int]] = []
    made = record_plan(plan, tmp_path, scale=0.4, on_progress=lambda *now: seen.append(now))
    assert [(Path(name).name, weight) for name, weight in made] == [
        ("toy-CliffWalking", 0.5),
        ("toy-FrozenLakeNotSlippery", 2.0),
    ]
    assert seen[-1] == (40 + LEAST, 40 + LEAST)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("part-*")}
    assert record_plan(plan, tmp_path, scale=0.4) == made
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("part-*")} == stamps, "not recorded again"


@pytest.mark.skipif(importlib.util.find_spec("metaworld") is not None, reason="Meta-World is installed")
def test_packages_that_a_plan_needs(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=re.escape("pip install 'gato_lite[robotics]'")):
        record_plan(find_plan("metaworld"), tmp_path)
