"""Measures the two ends of every task's scale: what random actions and the expert reach.

    python -m gato_lite.envs.reference                   # all tasks, about a minute
    python -m gato_lite.envs.reference 'sokoban/*'       # these alone; the others stay as they are

writes `scores.json` beside this file. A score where the expert does not beat random actions is no score: such a task is
refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from gato_lite.envs.catalogue import SCORES_FILE, TASKS, ScoresFile, Task, find_tasks, references
from gato_lite.envs.episodes import EpisodeBuilder
from gato_lite.envs.experts import AnyEnv, Expert, ExpertFailedError, RandomExpert
from gato_lite.envs.folder import replacing
from gato_lite.envs.format import Reference, Score, versions, write_json
from gato_lite.envs.play import play_episode
from gato_lite.envs.seeds import REFERENCE_SEED

EPISODES: Final = 200
"""Episodes of each policy."""
_COMMAND: Final = "python -m gato_lite.envs.reference"


def measure(task: Task, episodes: int = EPISODES) -> Reference:
    """Scores of random actions and of the task's expert over the same seeds.

    Raises:
        ValueError: the task has no expert, or its expert does not beat random actions.
    """
    if task.expert is None:
        raise ValueError(f"task '{task.name}' has no expert to measure")
    env = task.make()
    random = _score(task, env, RandomExpert(env, REFERENCE_SEED), episodes)
    expert = _score(task, env, task.expert(env), episodes)
    env.close()
    if expert.mean <= random.mean:
        raise ValueError(
            f"{task.name}: expected an expert better than random actions ({random.mean:g}), got {expert.mean:g}"
        )
    return Reference(random=random, expert=expert)


def _score(task: Task, env: AnyEnv, policy: Expert, episodes: int) -> Score:
    builder = EpisodeBuilder(env.observation_space, env.action_space)
    returns: list[float] = []
    lengths: list[int] = []
    successes: list[bool] = []
    for seed in range(REFERENCE_SEED, REFERENCE_SEED + episodes):
        try:
            played = play_episode(task, env, policy, builder, seed)
        except ExpertFailedError:
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


def measure_all(tasks: Sequence[Task], episodes: int = EPISODES, path: Path = SCORES_FILE) -> list[str]:
    """Measure `tasks`, write them into the scores file at `path`, and return the problems of those refused."""
    found = dict(references()) if path.is_file() else {}
    problems: list[str] = []
    for task in tasks:
        found.pop(task.name, None)
        try:
            found[task.name] = measure(task, episodes)
        except ValueError as error:
            problems.append(str(error))
            continue
        ends = (("random", found[task.name].random), ("expert", found[task.name].expert))
        print(f"{task.name:32}", *(f"{name} {score.mean:9.2f} ± {score.std:<7.2f}" for name, score in ends))
    scores = ScoresFile(
        command=_COMMAND,
        seed=REFERENCE_SEED,
        versions=versions("gymnasium", "minigrid", "numpy"),
        tasks={name: found[name] for name in TASKS if name in found},
    )
    with replacing(path) as temporary:
        temporary.write_bytes(write_json(scores))
    references.cache_clear()
    return problems


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog=_COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=["*"], metavar="TASK", help="names or patterns; none measures all")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="episodes of each policy, at least 100")
    options = parser.parse_args()
    if options.episodes < 100:
        parser.error(f"--episodes must be at least 100, got {options.episodes}")
    problems = measure_all(find_tasks(options.tasks), options.episodes)
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
