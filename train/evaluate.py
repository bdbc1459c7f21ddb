"""Scores of a run: many seeded episodes per task, normalised between a random policy and the expert.

Evaluation seeds begin at `EVALUATION_SEED`; nothing is recorded there. Work is split over processes, each with its own
copy of the weights and its own slots. The same seed gives the same numbers, however many processes share the work; in
bfloat16 nearly the same.

An episode that its environment broke has no score: it is left out of the means, counted beside them and listed.

Source: Reed et al. 2022, section 4.1 (percentage of expert score); Agarwal et al. 2021 (bootstrap intervals).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from gato_lite.config import ActingPrecision
from gato_lite.envs.catalogue import Task, by_suite, find_tasks
from gato_lite.envs.seeds import EVALUATION_SEED, VALIDATION_SEED
from gato_lite.model import Gato
from gato_lite.run import read_run_config
from gato_lite.train.console import print_note
from gato_lite.train.players import SLOTS, TIME_LIMIT_S, play_in_processes
from gato_lite.train.rollout import jobs_of, play
from gato_lite.train.scores import Scores, compare, summarise


def evaluate_run(
    run: Path,
    tasks: Sequence[str] | None = None,
    *,
    episodes: int = 100,
    seed: int = EVALUATION_SEED,
    workers: int = 2,
    limit_s: float = TIME_LIMIT_S,
    prompts: Mapping[str, Path] | None = None,
    precision: ActingPrecision = "float32",
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Scores of a run's newest checkpoint.

    Args:
        run: its folder.
        tasks: names or patterns; None takes the tasks it was trained on.
        episodes: episodes of each task.
        seed: first environment seed.
        workers: processes that act; 1 stays in this one.
        limit_s: longest time for one call of an environment, in seconds; beyond it the episode has failed.
        prompts: dataset of each task; the same episodes are then played once more, with a demonstration before each.
        precision: what the model acts in, see `gato_lite.load`.
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
    if not 0 < limit_s < float("inf"):
        raise ValueError(f"limit_s, the time limit of an environment's calls, must be above 0 seconds, got {limit_s}")
    names = [known.name for known in read_run_config(run).tasks] if tasks is None else list(tasks)
    found = find_tasks(names)
    plan = [None] if prompts is None else [None, prompts]
    jobs = jobs_of(found, episodes, seed)
    n_before = 0

    def play_all(shown: Mapping[str, Path] | None) -> Scores:
        nonlocal n_before
        before, n_all = n_before, len(plan) * len(jobs)
        show = None if on_progress is None else (lambda done, _: on_progress(before + done, n_all))
        outcomes = play_in_processes(
            run, jobs, workers=workers, limit_s=limit_s, prompts=shown, precision=precision, on_progress=show
        )
        n_before += len(jobs)
        return msgspec.structs.replace(summarise(found, outcomes, seed), precision=precision)

    scores, *others = map(play_all, plan)
    for prompted in others:
        gain = compare(prompted, scores, "prompted", "unprompted")
        scores = msgspec.structs.replace(scores, prompted=prompted, prompt_gain=gain)
    return scores


def evaluator(tasks: Sequence[Task], episodes: int = 8, n_of_suite: int = 10) -> Callable[[Gato], dict[str, float]]:
    """A quick look at a model in training: the mean normalised score of each suite.

    Args:
        tasks: of the catalogue; those without references are left out.
        episodes: of each task, on seeds that neither data nor a final evaluation has.
        n_of_suite: most tasks of a suite that are played, taken at equal distances.
    """
    known = {task.name: task for task in tasks if task.reference is not None}
    scored = [known[name] for suite in by_suite(known).values() for name in suite[:: -(-len(suite) // n_of_suite)]]

    def evaluate(gato: Gato) -> dict[str, float]:
        outcomes = play(gato, jobs_of(scored, episodes, VALIDATION_SEED), n_slot=SLOTS, limit_s=TIME_LIMIT_S)
        scores = summarise(scored, outcomes, VALIDATION_SEED)
        for episode in scores.failed:
            print_note(f"failed while evaluating: {episode.task}, seed {episode.seed}: {episode.why}")
        suites = scores.suites
        return {name: suite.mean for name, suite in suites.items() if suite.mean is not None}

    return evaluate
