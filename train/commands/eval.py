"""`gato-lite eval`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from tyro.conf import Positional, arg

from gato_lite.envs.seeds import EVALUATION_SEED
from gato_lite.train.console import (
    answer_only,
    bar,
    print_json,
    print_note,
    print_table,
    refuse_to_overwrite,
    to_json,
    write_whole,
)

if TYPE_CHECKING:
    from gato_lite.envs.catalogue import Task
    from gato_lite.train.scores import Scores

EXAMPLE: Final = "gato-lite eval runs/first --tasks classic/CartPole --episodes 20 --json scores.json --video films"

STDOUT: Final = Path("-")
MOST_LISTED: Final = 20
"""Failed episodes that are told one by one; the JSON has all."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score a run's newest checkpoint on seeded episodes that are in no dataset.

    A normalised score is 0 for random actions and 1 for the task's expert; its interval is a 95 % bootstrap one. An
    episode that its environment broke is in no score: it is listed, and the exit code is 1.
    """

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Folder of the run."""
    tasks: Annotated[tuple[str, ...], arg(metavar="TASK …", help_behavior_hint="")] = ()
    """Names or patterns such as 'babyai/*', or gym:ID; none means those that the run was trained on."""
    episodes: int = 100
    """Episodes of each task."""
    seed: int = EVALUATION_SEED
    """First environment seed."""
    workers: Annotated[int | None, arg(metavar="N")] = None
    """Processes; None is one for each core, at most 8."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """File for the scores as JSON; - is standard output."""
    video: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder for a film of one episode of each task."""
    overwrite: bool = False
    """Replace FILE and the films in DIR."""


def run(options: Options) -> None:
    """Plays the episodes and prints the scores, then films."""
    from gato_lite.envs.catalogue import find_tasks
    from gato_lite.run import read_run_config, run_folder

    options = replace(options, run=run_folder(options.run))
    trained = [task.name for task in read_run_config(options.run).tasks]
    tasks = find_tasks(options.tasks or _known_tasks(options.run, trained))
    _check_outputs(options, tasks)
    unknown = [task.name for task in tasks if task.name not in trained]
    if unknown:
        print_note(f"gato-lite: the run was not trained on {', '.join(unknown)}; read those scores as such")
    from gato_lite.train.cores import usable_cores
    from gato_lite.train.evaluate import evaluate_run

    with answer_only(), bar("evaluating", "episodes") as show:
        scores = evaluate_run(
            options.run,
            [task.name for task in tasks],
            episodes=options.episodes,
            seed=options.seed,
            workers=options.workers if options.workers is not None else min(usable_cores(), 8),
            on_progress=show,
        )
    if options.json == STDOUT:
        print_json(scores)
    else:
        if options.json is not None:
            write_whole(options.json, to_json(scores) + "\n")
        _print_scores(scores)
    if options.video is not None:
        _film(options.run, tasks, options.video, options.seed)
    _tell_failures(scores)


def _tell_failures(scores: Scores) -> None:
    """Lists the episodes that have no score.

    Raises:
        RuntimeError: there are any, so that the exit code says so too.
    """
    for episode in scores.failed[:MOST_LISTED]:
        print_note(f"failed: {episode.task}, seed {episode.seed}: {episode.why}")
    if len(scores.failed) > MOST_LISTED:
        print_note(f"and {len(scores.failed) - MOST_LISTED} more")
    if scores.failed:
        n_all = len(scores.failed) + sum(score.episodes for score in scores.tasks.values())
        raise RuntimeError(
            f"{len(scores.failed)} of {n_all} episodes failed in their environments; the scores are of the others "
            'and the JSON lists each under "failed"; mend the environment, or name other --tasks'
        )


def _check_outputs(options: Options, tasks: Sequence[Task]) -> None:
    """Checks what the work would fail at only after an hour."""
    files = [] if options.json is None or options.json == STDOUT else [options.json]
    if options.video is not None:
        from gato_lite.envs.film import ffmpeg
        from gato_lite.train.films import film_name

        ffmpeg()
        files += [options.video / film_name(task.name) for task in tasks]
    refuse_to_overwrite(files, overwrite=options.overwrite)
    for task in tasks:
        if not task.installed:
            raise ImportError(f"task '{task.name}' needs packages that are not installed: {task.install}")


def _film(run: Path, tasks: Sequence[Task], folder: Path, seed: int) -> None:
    from gato_lite.run import load
    from gato_lite.train.films import film_tasks

    with answer_only(), bar("filming", "films") as show:
        show(0, len(tasks))
        films = film_tasks(load(run), tasks, folder, seed=seed, on_film=show)
    print_note(f"{folder}: {len(films)} film{'s' * (len(films) != 1)}")


def _known_tasks(run: Path, trained: Sequence[str]) -> Sequence[str]:
    """Those of the run's tasks that can be made anew; says which cannot."""
    from gato_lite.envs.catalogue import find_tasks

    known, unknown = [], []
    for name in trained:
        try:
            find_tasks([name])
        except ValueError:
            unknown.append(name)
        else:
            known.append(name)
    if not known:
        what = f"only tasks of your own ({', '.join(unknown)})" if unknown else "no environment"
        raise ValueError(f"{run}: trained on {what}; name what to play with --tasks, such as gym:CartPole-v1")
    if unknown:
        print_note(f"left out, since they are not in the catalogue: {', '.join(unknown)}; gato_lite.Policy plays them")
    return known


def _print_scores(scores: Scores) -> None:
    rows = [
        [
            name,
            "" if score.mean is None or score.std is None else f"{score.mean:.2f} ± {score.std:.2f}",
            _number(score.normalised),
            "" if score.low is None or score.high is None else f"{score.low:.2f} – {score.high:.2f}",
            _number(score.success),
            _number(score.random),
            _number(score.expert),
            str(score.episodes),
            str(score.failed or ""),
        ]
        for name, score in scores.tasks.items()
    ]
    header = ["task", "score", "normalised", "95 %", "success", "random", "expert", "episodes", "failed"]
    print_table(header, rows, numbers=header[1:])
    suites = [
        [name, str(suite.n_tasks), _number(suite.mean), _number(suite.median), _number(suite.success)]
        for name, suite in scores.suites.items()
    ]
    header = ["suite", "tasks", "mean", "median", "success"]
    print()
    print_table(header, suites, numbers=header[1:])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
