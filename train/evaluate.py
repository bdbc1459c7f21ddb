"""Scores of a run: many seeded episodes per task, normalised between a random policy and the expert.

Evaluation seeds begin at `EVALUATION_SEED`; nothing is recorded there. Work is split over processes, each with its own
copy of the weights and its own slots. The same seed gives the same numbers for the same number of workers.

An episode that its environment broke has no score: it is left out of the means, counted beside them and listed.

Source: Reed et al. 2022, section 4.1 (percentage of expert score); Agarwal et al. 2021 (bootstrap intervals).
"""

from __future__ import annotations

import multiprocessing
import queue as queues
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from gato_lite.envs.catalogue import Task, find_tasks
from gato_lite.envs.seeds import EVALUATION_SEED, VALIDATION_SEED
from gato_lite.model import Gato
from gato_lite.run import load, read_run_config
from gato_lite.train.console import print_note
from gato_lite.train.rollout import Outcome, deal, jobs_of, play

SLOTS: Final = 32
"""Environments that act together in one process."""


class TaskScore(msgspec.Struct, frozen=True, kw_only=True):
    """One task."""

    mean: float | None
    """Mean of the task's metric: return, or share of episodes with success; None where no episode was whole."""
    std: float | None
    """Standard deviation over episodes."""
    success: float | None
    """Share of episodes with success; None where the task knows none."""
    normalised: float | None
    """(mean − random) / (expert − random); None without both references."""
    low: float | None
    """Lower end of the 95 % bootstrap interval of `normalised`."""
    high: float | None
    """Upper end."""
    episodes: int
    """Whole episodes: what the numbers are means of."""
    seed: int
    """First environment seed."""
    random: float | None = None
    """Mean of a random policy."""
    expert: float | None = None
    """Mean of the expert."""
    length: float | None = 0.0
    """Mean timesteps of an episode."""
    failed: int = 0
    """Further episodes that their environment broke."""


class FailedEpisode(msgspec.Struct, frozen=True, kw_only=True):
    """One that is in no mean."""

    task: str
    seed: int
    """Of the environment."""
    why: str


class SuiteScore(msgspec.Struct, frozen=True, kw_only=True):
    """The tasks of one suite together."""

    mean: float | None
    """Mean of the normalised scores."""
    median: float | None
    """Median of the normalised scores."""
    success: float | None
    """Mean share of success, of the tasks that know it."""
    n_tasks: int


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """What `gato-lite eval --json` writes."""

    tasks: dict[str, TaskScore]
    suites: dict[str, SuiteScore]
    failed: list[FailedEpisode] = []
    """Episodes that their environment broke, by task and seed."""


def evaluate_run(
    run: Path,
    tasks: Sequence[str] | None = None,
    *,
    episodes: int = 100,
    seed: int = EVALUATION_SEED,
    workers: int = 2,
    video: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Scores of a run's newest checkpoint.

    Args:
        run: its folder.
        tasks: names or patterns; None takes the tasks it was trained on.
        episodes: episodes of each task.
        seed: first environment seed.
        workers: processes; 1 stays in this one.
        video: folder for a film of one more episode of each task.
        on_progress: called with episodes done and in all.

    Raises:
        ValueError: unknown tasks, or a seed that data may have been recorded with.
    """
    if seed < EVALUATION_SEED:
        raise ValueError(
            f"evaluation seeds begin at {EVALUATION_SEED}, so that no training data has them; got seed={seed}"
        )
    if episodes < 1 or workers < 1:
        raise ValueError(f"episodes and workers must be at least 1, got episodes={episodes}, workers={workers}")
    names = [known.name for known in read_run_config(run).tasks] if tasks is None else list(tasks)
    found = find_tasks(names)
    outcomes = _outcomes(run, found, episodes, seed, workers, on_progress)
    scores = summarise(found, outcomes, seed)
    if video is not None:
        from gato_lite.train.films import film_tasks

        film_tasks(load(run), found, video, seed=seed)
    return scores


def evaluator(tasks: Sequence[Task], episodes: int = 8) -> Callable[[Gato], dict[str, float]]:
    """A quick look at a model in training: the mean normalised score of each suite.

    Args:
        tasks: of the catalogue; those without references are left out.
        episodes: of each task, on seeds that neither data nor a final evaluation has.
    """
    scored = [task for task in tasks if task.random is not None and task.expert_score is not None]

    def evaluate(gato: Gato) -> dict[str, float]:
        outcomes = play(gato, jobs_of(scored, episodes, VALIDATION_SEED), n_slot=SLOTS)
        scores = summarise(scored, outcomes, VALIDATION_SEED)
        for episode in scores.failed:
            print_note(f"failed while evaluating: {episode.task}, seed {episode.seed}: {episode.why}")
        suites = scores.suites
        return {name: suite.mean for name, suite in suites.items() if suite.mean is not None}

    return evaluate


def _outcomes(
    run: Path,
    tasks: Sequence[Task],
    episodes: int,
    seed: int,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> list[Outcome]:
    jobs = jobs_of(tasks, episodes, seed)
    done = 0

    def count(_outcome: Outcome) -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, len(jobs))

    if workers == 1:
        return play(load(run), jobs, n_slot=SLOTS, on_episode=count)
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()  # Any: a queue of outcomes, errors and None at a worker's end
    shares = deal([(task.name, job_seed) for task, job_seed in jobs], workers)
    processes = [context.Process(target=_worker, args=(run, share, results), daemon=True) for share in shares]
    for process in processes:
        process.start()
    outcomes: list[Outcome] = []
    running = len(processes)
    try:
        while running:
            try:
                item = results.get(timeout=5.0)
            except queues.Empty:
                if not all(process.is_alive() or process.exitcode == 0 for process in processes):
                    raise RuntimeError("an evaluation worker died; run again with fewer workers") from None
                continue
            if item is None:
                running -= 1
            elif isinstance(item, str):
                raise RuntimeError(item)
            else:
                outcomes.append(item)
                count(item)
    finally:
        for process in processes:
            process.terminate()
    return outcomes


def _worker(run: Path, share: Sequence[tuple[str, int]], results: Any) -> None:
    torch.set_num_threads(1)
    try:
        by_name = {task.name: task for task in find_tasks(sorted({name for name, _ in share}))}
        play(load(run), [(by_name[name], seed) for name, seed in share], n_slot=SLOTS, on_episode=results.put)
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
        results.put(f"{type(error).__name__}: {error}")
    results.put(None)


def summarise(tasks: Sequence[Task], outcomes: Sequence[Outcome], seed: int) -> Scores:
    """Scores of played episodes."""
    by_task: dict[str, list[Outcome]] = {task.name: [] for task in tasks}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.seed):
        by_task[outcome.task].append(outcome)
    scores = {task.name: score_task(task, by_task[task.name], seed) for task in tasks}
    suites: dict[str, list[TaskScore]] = {}
    for task in tasks:
        suites.setdefault(task.suite, []).append(scores[task.name])
    failed = [
        FailedEpisode(task=task.name, seed=outcome.seed, why=outcome.failed)
        for task in tasks
        for outcome in by_task[task.name]
        if outcome.failed is not None
    ]
    return Scores(tasks=scores, suites={name: _suite(members) for name, members in suites.items()}, failed=failed)


def score_task(task: Task, outcomes: Sequence[Outcome], seed: int) -> TaskScore:
    """The score of one task from its episodes, of those that are whole."""
    whole = [outcome for outcome in outcomes if outcome.failed is None]
    successes = [float(outcome.success) for outcome in whole if outcome.success is not None]
    values = np.array(successes if task.metric == "success" else [outcome.total_reward for outcome in whole])
    random = None if task.random is None else task.random.mean
    expert = None if task.expert_score is None else task.expert_score.mean
    normalised = low = high = None
    if random is not None and expert is not None and expert > random and len(values):
        normalised = float((values.mean() - random) / (expert - random))
        low, high = ((end - random) / (expert - random) for end in bootstrap_interval(values))
    return TaskScore(
        mean=float(values.mean()) if len(values) else None,
        std=float(values.std()) if len(values) else None,
        success=float(np.mean(successes)) if successes else None,
        normalised=normalised,
        low=low,
        high=high,
        episodes=len(whole),
        seed=seed,
        random=random,
        expert=expert,
        length=float(np.mean([outcome.length for outcome in whole])) if whole else None,
        failed=len(outcomes) - len(whole),
    )


def bootstrap_interval(values: npt.NDArray[np.float64], n_draw: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean by resampling episodes, with a fixed generator."""
    generator = np.random.default_rng(0)
    means = values[generator.integers(len(values), size=(n_draw, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _suite(scores: Sequence[TaskScore]) -> SuiteScore:
    normalised = [score.normalised for score in scores if score.normalised is not None]
    successes = [score.success for score in scores if score.success is not None]
    return SuiteScore(
        mean=float(np.mean(normalised)) if normalised else None,
        median=float(np.median(normalised)) if normalised else None,
        success=float(np.mean(successes)) if successes else None,
        n_tasks=len(scores),
    )
