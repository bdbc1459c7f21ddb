"""All tasks by name: those of the suites, each listed in the file of its suite, and the user's own.

To add one, write its environment and expert in a file of its suite and an entry in the file's `TASKS`; then measure its
scale with `python -m gato_lite.envs.reference NAME`. Packages are imported when an environment is made.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Final

from gato_lite.envs import atari, babyai, box2d, classic, deepmind, metaworld, mujoco, pixels, sokoban
from gato_lite.envs.own import VARIABLE, own_tasks
from gato_lite.envs.task import Task, by_suite, reported_success, suite_of
from gato_lite.names import unknown_name

__all__ = ["ANY_GYMNASIUM", "TASKS", "Task", "all_tasks", "by_suite", "find_tasks", "reported_success", "suite_of"]

SUITES: Final = (classic, box2d, mujoco, babyai, metaworld, sokoban, pixels, atari, deepmind)
"""The files that list tasks."""
TASKS: Final[dict[str, Task]] = {task.name: task for suite in SUITES for task in suite.TASKS}
"""All of ours by name."""
ANY_GYMNASIUM: Final = "gym:"
"""Prefix of the name of a task that is any registered Gymnasium environment."""
_ELSEWHERE: Final = {
    "ALE/": "; Atari games are tasks of their own, such as atari/Pong: pip install 'gato_lite[atari]'",
    "MiniGrid-": "; MiniGrid needs pip install 'gato_lite[babyai]', and is called gym:minigrid:MiniGrid-Empty-5x5-v0",
    "BabyAI-": "; BabyAI's levels are tasks of their own, such as babyai/GoToObj: pip install 'gato_lite[babyai]'",
    "Meta-World/": "; Meta-World's are tasks of their own, such as metaworld/reach: pip install 'gato_lite[robotics]'",
    "dm_control/": "; they are tasks, such as dm/cartpole-balance: pip install 'gato_lite[deepmind]'",
}
"""What to say of environments that another package registers, by how their names begin."""


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

    `gym:ID` is any registered Gymnasium environment, without an expert.

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
            raise ValueError(unknown_name("task", pattern, known))
        found.update({task.name: task for task in matches})
    return list(found.values())


def _any_gymnasium(name: str) -> Task:
    import gymnasium as gym

    environment = name.removeprefix(ANY_GYMNASIUM)
    module, _, identifier = environment.rpartition(":")
    if not module and identifier not in gym.registry:
        needed = next((hint for prefix, hint in _ELSEWHERE.items() if identifier.startswith(prefix)), "")
        raise ValueError(unknown_name("Gymnasium environment", identifier, gym.registry) + needed)
    return Task(name=name, make_env=classic.gymnasium_task(environment))
