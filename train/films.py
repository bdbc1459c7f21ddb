"""Films of a model at work: one of each task, or one of a single episode."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import gymnasium as gym

from gato_lite.envs.catalogue import Task
from gato_lite.envs.film import Film, FilmError, record_film
from gato_lite.envs.seeds import EVALUATION_SEED
from gato_lite.envs.stage import told
from gato_lite.model import Gato
from gato_lite.policy import Policy
from gato_lite.train.console import PROGRAM, print_note
from gato_lite.train.rollout import Outcome

STEPS_PER_SECOND: Final = 6.0
"""Of tasks that move cell by cell, so that every step can be seen."""
FASTEST_CELLS: Final = 10.0
"""Frames a second that such tasks ask for at most; simulators ask for more."""
EPISODE_SECONDS: Final = 60.0
"""Of the film of an episode, which is cut there."""
EPISODE_BYTES: Final = 2_000_000
"""Size that the picture's quality is lowered for in the film of an episode."""


class UndrawnError(FilmError):
    """An environment raised something when it was made, drawn or played for a film."""


class _Remembering(gym.Wrapper[Any, Any, Any, Any]):  # Any: of whatever task it is
    """Keeps how the episode goes, and the last `info`, which may say which actions are allowed.

    What the environment raises becomes an UndrawnError that names the task.
    """

    info: dict[str, Any]
    total_reward: float
    length: int

    def __init__(self, task: Task) -> None:
        with _named(task.name, "make", but=(ImportError, ValueError)):  # not installed, not known
            env = task.make(True, "rgb_array")
        super().__init__(env)
        self._name = task.name

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.total_reward, self.length = 0.0, 0
        with _named(self._name, "reset"):
            observation, self.info = self.env.reset(seed=seed, options=options)
        return observation, self.info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.length += 1
        with _named(self._name, f"step {self.length}"):
            observation, reward, terminated, truncated, self.info = self.env.step(action)
        self.total_reward += float(reward)
        return observation, reward, terminated, truncated, self.info

    def render(self) -> Any:
        with _named(self._name, "render"):
            return self.env.render()


@contextlib.contextmanager
def _named(task: str, call: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Tells which environment raised and in what; errors `but` these tell it themselves."""
    try:
        yield
    except but:
        raise
    except Exception as error:
        raise UndrawnError(f"{task} cannot be filmed: {call} raised {told(error)}; leave out the film") from error


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
        The film of each task by its name. A task that cannot be filmed is left out, with a note.

    Raises:
        ImportError: the `video` extra is not installed.
    """
    films = {}
    for index, task in enumerate(tasks):
        try:
            films[task.name] = _film(gato, task, folder / film_name(task.name), seed)[0].path
        except UndrawnError as error:
            print_note(f"{PROGRAM}: {error}")
        if on_film is not None:
            on_film(index + 1, len(tasks))
    return films


def film_episode(gato: Gato, task: Task, path: Path, *, seed: int, temperature: float = 0.0) -> Outcome:
    """Plays one episode and films it.

    Args:
        gato: who acts.
        task: what to play.
        path: the .mp4 file to write; it is replaced. A film is at most `EPISODE_SECONDS` long; the episode goes on.
        seed: of the episode's environment, and of drawn actions.
        temperature: 0 takes the likeliest actions, of continuous ones the median.

    Raises:
        ImportError: the `video` extra is not installed.
        UndrawnError: the environment cannot be drawn, or raised something.
        FilmError: the encoder failed.
    """
    how = {"min_seconds": 0.0, "max_seconds": EPISODE_SECONDS, "max_bytes": EPISODE_BYTES, "to_the_end": True}
    _, env = _film(gato, task, path, seed, temperature, **how)
    return Outcome(
        task=task.name,
        seed=seed,
        total_reward=env.total_reward,
        length=env.length,
        success=task.is_success(env.total_reward, env.info),
    )


def _film(
    gato: Gato,
    task: Task,
    path: Path,
    seed: int,
    temperature: float = 0.0,
    **how: Any,  # Any: options of record_film
) -> tuple[Film, _Remembering]:
    """A film, and the environment after its last episode."""
    if "DISPLAY" not in os.environ:  # pygame and MuJoCo look for a screen, and MuJoCo does not draw without
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("MUJOCO_GL", "egl")
    env = _Remembering(task)
    try:
        name = task.name if any(known.name == task.name for known in gato.formats) else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "no task that the model was trained on", UserWarning)
            spaces = env.observation_space, env.action_space
            policy = Policy(gato, *spaces, task=name, temperature=temperature, seed=seed)
        film = record_film(
            env,
            partial(_act, policy, env),
            path,
            seed=seed,
            on_reset=partial(policy.assign, 0, *spaces, name, (), seed),  # the draws that `play` makes
            metric=task.metric,
            caption=task.instruction,
            fps=_fps(task, env),
            **how,
        )
    finally:
        env.close()
    return film, env


def _fps(task: Task, env: _Remembering) -> float | None:
    """Frames a second where the environment's own are too many to follow; None takes those."""
    slow = float(env.metadata.get("render_fps") or 0.0) <= FASTEST_CELLS
    return STEPS_PER_SECOND if task.metric == "success" and slow else None
