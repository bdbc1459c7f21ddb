"""All tasks by name: those of the suites, each listed in the file of its suite, and the user's own.

To add one, write its environment and expert in a file of its suite and an entry in the file's `TASKS`; then measure its
scale with `python -m gato_lite.envs.reference NAME`. Packages are imported when an environment is made.
"""

from __future__ import annotations

import fnmatch
import importlib.util
from collections.abc import Iterable
from typing import Final

from gato_lite.envs import atari, babyai, box2d, classic, deepmind, metaworld, mujoco, pixels, sokoban
from gato_lite.envs.own import VARIABLE, own_tasks
from gato_lite.envs.task import MODULES, Extra, Task, by_suite, reported_success, suite_of
from gato_lite.names import unknown_name

__all__ = [
    "ANY_GYMNASIUM",
    "OWN",
    "TASKS",
    "Task",
    "all_tasks",
    "by_suite",
    "find_tasks",
    "reported_success",
    "suite_of",
]

SUITES: Final = (classic, box2d, mujoco, babyai, metaworld, sokoban, pixels, atari, deepmind)
"""The files that list tasks."""
TASKS: Final[dict[str, Task]] = {task.name: task for suite in SUITES for task in suite.TASKS}
"""All of ours by name."""
OWN: Final = f"tasks of your own are known where {VARIABLE} names their file"
"""What to say of a task that is of none of our suites."""
ANY_GYMNASIUM: Final = "gym:"
"""Prefix of the name of a task that is any registered Gymnasium environment."""
_ELSEWHERE: Final[dict[str, tuple[Extra, str]]] = {
    "ALE/": ("atari", "Atari games are tasks of their own, such as atari/Pong"),
    "MiniGrid-": ("babyai", "MiniGrid is no task by itself"),
    "BabyAI-": ("babyai", "BabyAI's levels are tasks of their own, such as babyai/GoToObj"),
    "Meta-World/": ("robotics", "Meta-World's are tasks of their own, such as metaworld/reach"),
    "dm_control/": ("deepmind", "they are tasks, such as dm/cartpole-balance"),
}
"""What to say of environments that another package registers, and its extra, by how their names begin."""


def all_tasks() -> dict[str, Task]:
    """Our tasks and the user's own, by name.

    Raises:
        ValueError: the user's cannot be loaded, or one has the name of one of ours.
    """
    own = own_tasks()
    if taken := sorted(own.keys() & TASKS.keys()):
        raise ValueError(f"{VARIABLE}: expected names that are not in the catalogue, found {', '.join(taken)}")
    return {**TASKS, **own}


def find_tasks(patterns: Iterable[str]) -> list[Task]:
    """The tasks that match any of `patterns` (names, or "babyai/*"), each once, in the order of the patterns.

    `gym:ID` is any registered Gymnasium environment, without an expert; `gym:MODULE:ID` imports the module that
    registers it first.

    Raises:
        ValueError: a pattern matches nothing; the message lists the closest names.
    """
    known = all_tasks()
    found: dict[str, Task] = {}
    for pattern in patterns:
        if pattern.startswith(ANY_GYMNASIUM):
            matches = [_any_gymnasium(pattern)]
        else:
            matches = [task for name, task in known.items() if fnmatch.fnmatchcase(name, pattern)]
        if not matches:
            own = "" if suite_of(pattern) in {"gym", *by_suite(known)} else f"; {OWN}"
            raise ValueError(unknown_name("task", pattern, known) + own)
        found.update({task.name: task for task in matches})
    return list(found.values())


def _any_gymnasium(name: str) -> Task:
    import gymnasium as gym

    environment = name.removeprefix(ANY_GYMNASIUM)
    module, _, identifier = environment.rpartition(":")
    if not module and identifier not in gym.registry:
        raise ValueError(unknown_name("Gymnasium environment", identifier, gym.registry) + _elsewhere(identifier))
    return Task(name=name, make_env=classic.gymnasium_task(environment))


def _elsewhere(identifier: str) -> str:
    """How an environment that another package registers is called, and what installs the package."""
    for prefix, (extra, what) in _ELSEWHERE.items():
        if identifier.startswith(prefix):
            module = MODULES[extra][-1]
            install = "" if importlib.util.find_spec(module) else f"pip install 'gato_lite[{extra}]', and "
            return f"; {what}; {install}the environment itself is called {ANY_GYMNASIUM}{module}:{identifier}"
    return ""
