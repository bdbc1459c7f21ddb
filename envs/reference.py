"""Measures the two ends of every task's scale: what random actions and the expert reach.

    python -m gato_lite.envs.reference                        # all tasks whose packages are installed
    python -m gato_lite.envs.reference 'sokoban/*'            # these alone; the others stay as they are
    python -m gato_lite.envs.reference --missing --workers 2  # goes on where it was stopped
    python -m gato_lite.envs.reference 'dm/*' --episodes 10   # fewer, of tasks without an expert

writes `scores.json` beside this file after every task, and for tasks of your own `NAME.scores.json` beside their file
`NAME.py`. A score where the expert does not beat random actions is no score: where the 95 % interval of the difference
of their means reaches 0, the task is refused, which the file notes, and `eval` gives it no normalised score.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Final, NamedTuple, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from gato_lite.envs.catalogue import all_tasks, find_tasks
from gato_lite.envs.episodes import EpisodeBuilder
from gato_lite.envs.experts import AnyEnv, Expert, ExpertFailedError, RandomExpert
from gato_lite.envs.format import Score, versions, write_json
from gato_lite.envs.play import play_episode
from gato_lite.envs.seeds import REFERENCE_SEED
from gato_lite.envs.task import PACKAGES, Measured, ScoresFile, Task, read_scores, references
from gato_lite.whole import replacing

EPISODES: Final = 200
"""Episodes of each policy."""
LEAST: Final = 100
"""Fewest episodes of a scale; a lower end alone, which normalises nothing, may be the mean of two."""
_COMMAND: Final = "python -m gato_lite.envs.reference"


class RefusedError(ValueError):
    """A task's expert does not beat random actions, so its scores are no scale."""

    def __init__(self, message: str, measured: Measured) -> None:
        super().__init__(message)
        self.measured = measured


class Problem(NamedTuple):
    """Why a task has no scale."""

    message: str
    refused: Measured | None = None
    """What was measured and found to be none."""


class Unseen(gym.Wrapper[Any, Any, Any, Any]):  # Any: the environment's own observations and actions
    """An environment for random actions, which do not look: wrappers that change observations alone are left out."""

    def __init__(self, env: AnyEnv) -> None:
        while isinstance(env, gym.ObservationWrapper) and type(env).step is gym.ObservationWrapper.step:
            env = env.env
        super().__init__(env)
        self.observation_space = spaces.Discrete(1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Nothing, and the episode's information."""
        return 0, self.env.reset(seed=seed, options=options)[1]

    def step(self, action: Any) -> tuple[int, SupportsFloat, bool, bool, dict[str, Any]]:
        """Nothing, the reward, whether the episode ended or was cut, and the step's information."""
        return 0, *self.env.step(action)[1:]


def measure(task: Task, episodes: int = EPISODES) -> Measured:
    """Scores of random actions, and of the task's expert over the same seeds if it has one.

    Raises:
        RefusedError: the expert does not beat random actions.
        ExpertFailedError: it fails in a task whose score is a return.
    """
    env = task.make()
    try:
        unseen = Unseen(env)
        random = _score(task, unseen, RandomExpert(unseen, REFERENCE_SEED), episodes)
        expert = None if task.expert is None else _score(task, env, task.expert(env), episodes)
    finally:
        env.close()
    measured = Measured(random=random, expert=expert)
    if expert is not None:
        margin = 1.96 * float(np.sqrt((random.std**2 + expert.std**2) / episodes))
        if expert.mean - margin <= random.mean:
            raise RefusedError(
                f"{task.name}: expected an expert better than random actions ({random.mean:g}) by more than {margin:g},"
                f" half the 95 % interval of the difference; got {expert.mean:g}",
                measured,
            )
    return measured


def _score(task: Task, env: AnyEnv, policy: Expert, episodes: int) -> Score:
    builder = EpisodeBuilder(env.observation_space, env.action_space)
    returns: list[float] = []
    lengths: list[int] = []
    successes: list[bool] = []
    for seed in range(REFERENCE_SEED, REFERENCE_SEED + episodes):
        try:
            played = play_episode(task, env, policy, builder, seed)
        except ExpertFailedError as error:
            if task.metric == "return":
                raise ExpertFailedError(f"seed {seed}: {error}") from error
            played = None  # the steps it made count as a failure
        returns.append(0.0 if played is None else float(played.rewards.sum()))
        lengths.append(builder.n_timesteps)
        if played is None or played.success is not None:
            successes.append(played is not None and bool(played.success))
    values = np.array(successes if task.metric == "success" else returns, np.float64)
    return Score(
        mean=round(float(values.mean()), 6),
        std=round(float(values.std()), 6),
        success=float(np.mean(successes)) if len(successes) == episodes else None,
        episodes=episodes,
        length=float(np.mean(lengths)),
    )


def measure_all(
    tasks: Sequence[Task], episodes: int = EPISODES, path: Path | None = None, workers: int = 1
) -> list[str]:
    """Measure `tasks`, write each into its scores file when it is done, and return the problems of those refused.

    Args:
        tasks: Installed ones.
        episodes: Of each policy.
        path: One scores file for all; None is each task's own.
        workers: Processes; 1 stays in this one.
    """
    problems: list[str] = []
    for task, found in _measured(tasks, episodes, workers):
        file = task.scores_file if path is None else path
        if isinstance(found, Problem):
            problems.append(found.message)
            if found.refused is not None:  # else an older scale is as good as it was
                _write(file, task.name, found.refused, is_refused=True)
            continue
        _write(file, task.name, found)
        ends = (("random", found.random), ("expert", found.expert))
        shown = (f"{name} {score.mean:9.2f} ± {score.std:<7.2f}" for name, score in ends if score is not None)
        print(f"{task.name:32}", *shown, flush=True)
    return problems


def _measured(tasks: Sequence[Task], episodes: int, workers: int) -> Iterator[tuple[Task, Measured | Problem]]:
    """Each task with its scores, or with why it has none, in the order in which they are done."""
    if workers == 1:
        for task in tasks:
            yield task, _measure_or_say(task, episodes)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(_measure_by_name, task.name, episodes): task for task in tasks}
        for done in as_completed(waiting):
            try:
                yield waiting[done], done.result()
            except BrokenProcessPool:
                name = waiting[done].name
                yield waiting[done], Problem(f"{name}: expected whole episodes, but a process of the environments died")


def _measure_by_name(name: str, episodes: int) -> Measured | Problem:
    return _measure_or_say(all_tasks()[name], episodes)


def _measure_or_say(task: Task, episodes: int) -> Measured | Problem:
    try:
        return measure(task, episodes)
    except RefusedError as error:
        return Problem(str(error), error.measured)
    except Exception as error:  # noqa: BLE001 - environments fail in every way; the other tasks are still measured
        return Problem(f"{task.name}: expected whole episodes, found {type(error).__name__}: {error}")


def _write(path: Path, name: str, found: Measured, *, is_refused: bool = False) -> None:
    """Puts one task's scores into the file at `path`, as its scale or as what was refused."""
    old = read_scores(path)
    tasks, refused = ({}, {}) if old is None else (dict(old.tasks), dict(old.refused))
    for part in (tasks, refused):
        part.pop(name, None)
    (refused if is_refused else tasks)[name] = found
    order = {key: place for place, key in enumerate(all_tasks())}
    scores = ScoresFile(
        command=_COMMAND,
        seed=REFERENCE_SEED,
        versions={**({} if old is None else old.versions), **versions(*PACKAGES)},
        tasks={key: tasks[key] for key in sorted(tasks, key=lambda key: order.get(key, len(order)))},
        refused={key: refused[key] for key in sorted(refused)},
    )
    with replacing(path) as temporary:
        temporary.write_bytes(write_json(scores))
    references.cache_clear()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog=_COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=["*"], metavar="TASK", help="names or patterns; none measures all")
    parser.add_argument(
        "--episodes", type=int, default=EPISODES, help="episodes of each policy: at least 100, or 2 without an expert"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, each of which measures a task at a time")
    parser.add_argument("--missing", action="store_true", help="leave out tasks measured over as many, or over 100")
    options = parser.parse_args()
    tasks = find_tasks(options.tasks)
    least = LEAST if any(task.expert for task in tasks) else 2
    if options.episodes < least:
        parser.error(f"--episodes must be at least {least}, got {options.episodes}")
    if options.missing:
        enough = min(options.episodes, LEAST)
        tasks = [task for task in tasks if task.random is None or task.random.episodes < enough]
    if unscored := [task.name for task in tasks if task.name not in all_tasks()]:
        parser.error(f"expected tasks of the catalogue or of your own, got {', '.join(unscored)}")
    problems = [f"{task.name}: not installed: {task.install}" for task in tasks if not task.installed]
    problems += measure_all([task for task in tasks if task.installed], options.episodes, workers=options.workers)
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
