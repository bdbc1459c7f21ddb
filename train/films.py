"""A film of a model in each task."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import gymnasium as gym

from gato_lite.envs.catalogue import Task
from gato_lite.envs.film import record_film
from gato_lite.envs.seeds import EVALUATION_SEED
from gato_lite.model import Gato
from gato_lite.policy import Policy

STEPS_PER_SECOND: Final = 6.0
"""Of tasks that move cell by cell, so that every step can be seen."""


class _Remembering(gym.Wrapper[Any, Any, Any, Any]):  # Any: of whatever task it is
    """Keeps the last `info`, which may say which actions are allowed."""

    info: dict[str, Any]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, self.info = self.env.reset(seed=seed, options=options)
        return observation, self.info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, self.info = self.env.step(action)
        return observation, reward, terminated, truncated, self.info


def _act(policy: Policy, env: _Remembering, observation: Any) -> Any:  # Any: of whatever task it is
    return policy.act(observation, env.info.get("action_mask"))


def film_name(task: str) -> str:
    """File name of a task's film."""
    return task.replace("/", "-").replace(":", "-") + ".mp4"


def film_tasks(
    gato: Gato,
    tasks: Sequence[Task],
    folder: Path,
    *,
    seed: int = EVALUATION_SEED,
    on_film: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Films the model in each task, acting as in evaluation.

    Args:
        gato: who acts.
        tasks: what to film.
        folder: where TASK.mp4 is written, "/" in a name as "-"; films that are there are replaced.
        seed: of the first episode of each film.
        on_film: called with films done and in all.

    Returns:
        The film of each task by its name.

    Raises:
        ImportError: the `video` extra is not installed.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # Gymnasium draws with pygame, which may look for a screen
    known = {task.name for task in gato.formats}
    films = {}
    for index, task in enumerate(tasks):
        env = _Remembering(task.make(True, "rgb_array"))
        try:
            name = task.name if task.name in known else None
            policy = Policy(gato, env.observation_space, env.action_space, task=name)
            films[task.name] = record_film(
                env,
                partial(_act, policy, env),
                folder / film_name(task.name),
                seed=seed,
                on_reset=policy.reset,
                metric=task.metric,
                caption=task.instruction,
                fps=STEPS_PER_SECOND if task.metric == "success" else None,
            ).path
        finally:
            env.close()
        if on_film is not None:
            on_film(index + 1, len(tasks))
    return films
