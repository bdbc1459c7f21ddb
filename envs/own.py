"""Tasks of the user's own: every `Task` in the Python files that the environment variable `GATO_LITE_TASKS` names.

    GATO_LITE_TASKS=my_tasks.py gato-lite record mine/Tilt --episodes 50 --out data

Files (or names of modules that Python finds) are separated as in PATH. Every command and every process that it starts
inherits the variable, so a task is known by its name wherever one of ours is. Nothing else is ever loaded: names in
datasets and runs that others made point to no file.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Final

from gato_lite.envs.task import SCORES_FILE, Task

VARIABLE: Final = "GATO_LITE_TASKS"


def own_tasks() -> dict[str, Task]:
    """The user's tasks by name; empty where the variable is not set.

    Raises:
        ValueError: a file is missing, fails, or holds no task; or two tasks have one name.
    """
    return _tasks_in(os.environ.get(VARIABLE, ""))


@functools.cache
def _tasks_in(value: str) -> dict[str, Task]:
    found: dict[str, Task] = {}
    for place in filter(None, value.split(os.pathsep)):
        module = _load(place)
        scores = Path(module.__file__ or place).with_suffix(".scores.json")
        tasks = {id(task): task for task in vars(module).values() if isinstance(task, Task)}
        if not tasks:
            raise ValueError(f"{VARIABLE}: expected a gato_lite.Task among the names of {place}, found none")
        for task in tasks.values():
            if task.name in found:
                raise ValueError(f"{VARIABLE}: expected every name once, found task '{task.name}' again in {place}")
            found[task.name] = task if task.scores_file != SCORES_FILE else replace(task, scores_file=scores)
    return found


def _load(place: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place).absolute()
        if not path.is_file():
            raise FileNotFoundError("no such file")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # pickle and dataclasses look a class's module up there
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(
            f"{VARIABLE}: expected {place} to be a Python file or module with tasks, found"
            f" {type(error).__name__}: {error}"
        ) from error
    return module
