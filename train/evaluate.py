"""Scores of a run: many seeded episodes per task, normalised between a random policy and the expert.

Evaluation seeds begin at `EVALUATION_SEED`; nothing is recorded there. Work is split over processes, each with its own
copy of the weights and its own slots. The same seed gives the same numbers, however many processes share the work.

An episode that its environment broke has no score: it is left out of the means, counted beside them and listed.

Source: Reed et al. 2022, section 4.1 (percentage of expert score); Agarwal et al. 2021 (bootstrap intervals).
"""

from __future__ import annotations

import multiprocessing
import queue as queues
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from gato_lite.envs.catalogue import Task, find_tasks
from gato_lite.envs.seeds import EVALUATION_SEED, VALIDATION_SEED
from gato_lite.model import Gato
from gato_lite.run import load, read_run_config
from gato_lite.train.console import print_note
from gato_lite.train.prompts import read_prompts
from gato_lite.train.rollout import Outcome, deal, jobs_of, play
from gato_lite.train.scores import Scores, compare, summarise

SLOTS: Final = 32
"""Environments that act together in one process."""


def evaluate_run(
    run: Path,
    tasks: Sequence[str] | None = None,
    *,
    episodes: int = 100,
    seed: int = EVALUATION_SEED,
    workers: int = 2,
    video: Path | None = None,
    prompts: Mapping[str, Path] | None = None,
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
        prompts: dataset of each task; the same episodes are then played once more, with a demonstration before each.
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
    plan = [None] if prompts is None else [None, prompts]
    jobs = jobs_of(found, episodes, seed)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, len(plan) * len(jobs))

    scores, *others = (summarise(found, _outcomes(run, jobs, workers, shown, count), seed) for shown in plan)
    for prompted in others:
        gain = compare(prompted, scores, "prompted", "unprompted")
        scores = msgspec.structs.replace(scores, prompted=prompted, prompt_gain=gain)
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
    jobs: Sequence[tuple[Task, int]],
    workers: int,
    prompts: Mapping[str, Path] | None,
    on_episode: Callable[[], None],
) -> list[Outcome]:
    if workers == 1:
        return _play(load(run), jobs, prompts, lambda _: on_episode())
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()  # Any: a queue of outcomes, errors and None at a worker's end
    shares = deal([(task.name, job_seed) for task, job_seed in jobs], workers)
    processes = [context.Process(target=_worker, args=(run, share, prompts, results), daemon=True) for share in shares]
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
                on_episode()
    finally:
        for process in processes:
            process.terminate()
    return outcomes


def _worker(run: Path, share: Sequence[tuple[str, int]], prompts: Mapping[str, Path] | None, results: Any) -> None:
    torch.set_num_threads(1)
    try:
        by_name = {task.name: task for task in find_tasks(sorted({name for name, _ in share}))}
        _play(load(run), [(by_name[name], seed) for name, seed in share], prompts, results.put)
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
        results.put(f"{type(error).__name__}: {error}")
    results.put(None)


def _play(
    gato: Gato,
    jobs: Sequence[tuple[Task, int]],
    prompts: Mapping[str, Path] | None,
    on_episode: Callable[[Outcome], None],
) -> list[Outcome]:
    """Plays the jobs; a prompt may fill half the context, and a timestep has two tokens or more."""
    shown = None if prompts is None else read_prompts(prompts, gato.vocabulary, gato.config.context_length // 4)
    return play(gato, jobs, n_slot=SLOTS, prompts=shown, on_episode=on_episode)
