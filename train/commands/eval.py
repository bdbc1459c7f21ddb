"""`gato-lite eval`."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from tyro.conf import Positional, arg

from gato_lite.config import ActingPrecision
from gato_lite.envs.seeds import EVALUATION_SEED
from gato_lite.shelf import GENERALIST
from gato_lite.train.console import (
    answer_only,
    bar,
    print_json,
    print_note,
    refuse_to_overwrite,
    to_json,
    write_whole,
)

if TYPE_CHECKING:
    from gato_lite.envs.catalogue import Task
    from gato_lite.envs.dataset import Dataset
    from gato_lite.train.document_scores import DocumentScore
    from gato_lite.train.scores import Scores

EXAMPLE: Final = "gato-lite eval runs/first --tasks classic/CartPole --episodes 20 --json scores.json --video films"

STDOUT: Final = Path("-")
DOCUMENTS: Final = ("vision/", "text/")
"""How the names of datasets of documents begin."""
LINE: Final = 120
"""Columns of a table where nobody watches."""
MOST_LISTED: Final = 20
"""Failed episodes that are told one by one; the JSON has all."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score a run's newest checkpoint on seeded episodes that are in no dataset.

    A normalised score is 0 for random actions and 1 for the task's expert; intervals are 95 % ones, by resampling the
    episodes of each task. An episode that its environment broke is in no score: it is listed, and the exit code is 1.
    """

    run: Positional[Annotated[Path, arg(metavar="RUN")]] = Path(GENERALIST)
    """Folder of the run; generalist comes with the package."""
    tasks: Annotated[tuple[str, ...], arg(metavar="TASK …", help_behavior_hint="")] = ()
    """Names or patterns such as 'babyai/*', gym:ID, 'vision/*' or 'text/*'; none means all that the run learnt and
    that are installed."""
    episodes: int = 100
    """Episodes of each task."""
    documents: int = 1000
    """Most held-out documents of each dataset of pictures or text, such as vision/emoji."""
    beams: int = 1
    """Of the search for the answer to a document; 1 takes the likeliest piece each time."""
    seed: int = EVALUATION_SEED
    """First environment seed."""
    workers: Annotated[int | None, arg(metavar="N")] = None
    """Processes; None is one for each core, at most 8."""
    prompt: bool = False
    """Also play each episode after a recorded one of its task, and compare."""
    prompts: Annotated[tuple[Path, ...], arg(metavar="DIR …", help_behavior_hint="")] = ()
    """Datasets, or folders of datasets, to prompt with; none means those of the run."""
    against: Annotated[Path | None, arg(metavar="RUN")] = None
    """Another run, to play the same episodes, or scores saved with --json."""
    precision: ActingPrecision = "float32"
    """What the model acts and writes in; bfloat16 is faster for wide models, on a processor that multiplies it, and its
    scores differ a little."""
    time_limit: Annotated[float, arg(metavar="SECONDS")] = 60.0
    """Longest time for one call of an environment; beyond it the episode has failed."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """File for the scores as JSON; - is standard output."""
    report: Annotated[Path | None, arg(metavar="FILE")] = None
    """File for a page with all of it, and films: report.html."""
    video: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder for a film of one episode of each task."""
    overwrite: bool = False
    """Replace the files and films that are there."""


def run(options: Options) -> None:
    """Plays the episodes and prints the scores, then films."""
    from gato_lite.envs.catalogue import find_tasks
    from gato_lite.run import read_run_config
    from gato_lite.train.scores import Scores, compare

    trained = [task.name for task in read_run_config(options.run).tasks]
    played_patterns = [name for name in options.tasks if not name.startswith(DOCUMENTS)]
    documents = _documents(options, beside=bool(played_patterns if options.tasks else trained))
    if not options.tasks:
        played_patterns = list(_known_tasks(options.run, trained, beside=bool(documents)))
    tasks = find_tasks(played_patterns)
    names = [task.name for task in tasks]
    _check_outputs(options, tasks)
    tell_unknown("the run", trained, names)
    prompts = _prompts(options, names)
    other = _other(options, names)

    nothing = Scores(tasks={}, suites={}, precision=options.precision)
    scores = _evaluate(options, options.run, names, prompts) if names else nothing
    played = [scores]
    if scores.prompted is not None:
        played.append(scores.prompted)
    if options.against is not None:
        if other is None:
            played.append(other := _evaluate(options, options.against, names))
        scores = msgspec.structs.replace(scores, against=compare(scores, other, str(options.run), str(options.against)))
    if documents:
        scores = msgspec.structs.replace(scores, documents=_answer(options, documents))
    _show(options, scores)
    _film(options, tasks, scores)
    tell_failures(played)


def _documents(options: Options, *, beside: bool) -> dict[str, Dataset]:
    """The run's datasets of documents that are to be scored; `beside` says that there are tasks to play too."""
    from gato_lite.train.abilities import documents_of_run

    patterns = [name for name in options.tasks if name.startswith(DOCUMENTS)]
    return documents_of_run(options.run, patterns, beside=beside) if patterns or not options.tasks else {}


def _answer(options: Options, documents: Mapping[str, Dataset]) -> dict[str, DocumentScore]:
    """Scores of the newest checkpoint on held-out documents."""
    from gato_lite.run import load
    from gato_lite.train.abilities import score_documents

    gato = load(options.run, precision=options.precision)
    scores = {}
    for name, dataset in documents.items():
        with bar(f"answering {name}", "documents") as show:
            scores[name] = score_documents(gato, dataset, n=options.documents, beams=options.beams, on_progress=show)
    return scores


def _evaluate(options: Options, run: Path, names: Sequence[str], prompts: Mapping[str, Path] | None = None) -> Scores:
    from gato_lite.train.cores import usable_cores
    from gato_lite.train.evaluate import evaluate_run

    with answer_only(), bar(f"evaluating {run}", "episodes") as show:
        return evaluate_run(
            run,
            names,
            episodes=options.episodes,
            seed=options.seed,
            limit_s=options.time_limit,
            workers=options.workers if options.workers is not None else min(usable_cores(), 8),
            prompts=prompts,
            precision=options.precision,
            on_progress=show,
        )


def _prompts(options: Options, names: Sequence[str]) -> dict[str, Path] | None:
    """The dataset of each task, if prompts are asked for."""
    if not options.prompt and not options.prompts:
        return None
    from gato_lite.train.prompts import prompt_folders

    return prompt_folders(options.run, names, options.prompts)


def _other(options: Options, names: Sequence[str]) -> Scores | None:
    """Scores to compare with; None if there are none yet, because a run has to be evaluated or nothing was asked."""
    if options.against is None:
        return None
    if options.against.is_file():
        from gato_lite.train.saved_scores import read_scores, require_shared

        scores = read_scores(options.against)
        require_shared(scores, str(options.against), names, options.seed, options.episodes)
        if scores.precision != options.precision:
            print_note(f"{options.against}: acted in {scores.precision}, this evaluation in {options.precision}")
        return scores
    from gato_lite.run import read_run_config

    trained = [task.name for task in read_run_config(options.against).tasks]
    tell_unknown(str(options.against), trained, names)
    return None


def tell_unknown(what: str, trained: Sequence[str], names: Sequence[str]) -> None:
    """Notes which of the tasks `what` was not trained on: their formats are found by their spaces."""
    unknown = [name for name in names if name not in trained]
    if unknown:
        print_note(f"gato-lite: {what} was not trained on {', '.join(unknown)}; read those scores as such")


def _show(options: Options, scores: Scores) -> None:
    """The answer: JSON, or tables."""
    if options.json == STDOUT:
        print_json(scores)
        return
    if options.json is not None:
        write_whole(options.json, to_json(scores) + "\n")
    from rich.console import Console

    from gato_lite.train.score_tables import score_tables

    watched = sys.stdout.isatty()
    Console(width=None if watched else LINE).print(score_tables(scores, fold=watched))


def tell_failures(played: Sequence[Scores]) -> None:
    """Lists the episodes that have no score.

    Raises:
        RuntimeError: there are any, so that the exit code says so too.
    """
    failed = [episode for scores in played for episode in scores.failed]
    for episode in failed[:MOST_LISTED]:
        print_note(f"failed: {episode.task}, seed {episode.seed}: {episode.why}")
    if len(failed) > MOST_LISTED:
        print_note(f"and {len(failed) - MOST_LISTED} more")
    if failed:
        n_all = len(failed) + sum(score.episodes for scores in played for score in scores.tasks.values())
        raise RuntimeError(
            f"{len(failed)} of {n_all} episodes failed in their environments; the scores are of the others "
            'and the JSON lists each under "failed"; mend the environment, or name other --tasks'
        )


def _check_outputs(options: Options, tasks: Sequence[Task]) -> None:
    """Checks what the work would fail at only after an hour."""
    from gato_lite.limits import check_beams

    check_beams(options.beams)
    files = [file for file in (options.json, options.report) if file is not None and file != STDOUT]
    if options.video is not None or options.report is not None:
        from gato_lite.envs.film import ffmpeg
        from gato_lite.train.films import film_name

        ffmpeg()
    if options.video is not None:
        files += [options.video / film_name(task.name) for task in tasks]
    refuse_to_overwrite(files, overwrite=options.overwrite)
    for task in tasks:
        task.require()


def _film(options: Options, tasks: Sequence[Task], scores: Scores) -> None:
    """Films into the folder that was asked for, and the page with them."""
    if options.video is None and options.report is None:
        return
    from gato_lite.run import load
    from gato_lite.train.films import film_tasks
    from gato_lite.train.report import write_report
    from gato_lite.train.report_data import collect_report
    from gato_lite.train.report_scores import films_worth_showing

    gato = load(options.run, precision=options.precision)
    shown = films_worth_showing(scores)
    wanted = [task for task in tasks if options.video is not None or task.name in shown]
    with tempfile.TemporaryDirectory() as scratch:
        with answer_only(), bar("filming", "films") as show:
            show(0, len(wanted))
            films = film_tasks(gato, wanted, options.video or Path(scratch), seed=options.seed, on_film=show)
        if options.video is not None:
            print_note(f"{options.video}: {len(films)} film{'s' * (len(films) != 1)}")
        if options.report is not None:
            films = {name: path for name, path in films.items() if name in shown}
            page = collect_report(options.run, gato, scores, command=_command(options), films=films)
            options.report.parent.mkdir(parents=True, exist_ok=True)
            print_note(f"{write_report(options.report, page)}: open it in a browser")


def _command(options: Options) -> str:
    """What makes the same scores again."""
    words = ["gato-lite", "eval", str(options.run), *(["--tasks", *options.tasks] if options.tasks else [])]
    words += ["--episodes", str(options.episodes), "--documents", str(options.documents), "--seed", str(options.seed)]
    words += ["--precision", options.precision] * (options.precision != "float32")
    words += ["--beams", str(options.beams)] * (options.beams > 1)
    words += ["--prompt"] * options.prompt + (["--prompts", *map(str, options.prompts)] if options.prompts else [])
    words += [] if options.against is None else ["--against", str(options.against)]
    return shlex.join([*words, "--report", str(options.report)])


def _known_tasks(run: Path, trained: Sequence[str], *, beside: bool) -> Sequence[str]:
    """Those of the run's tasks that can be made anew; says which cannot. `beside` says that there are documents too."""
    from gato_lite.envs.catalogue import OWN, find_tasks
    from gato_lite.envs.task import imported_module

    known, unknown, importing = [], [], []
    missing: list[Task] = []
    for name in trained:
        if imported_module(name) is not None:  # a file may not choose what is imported; the user may
            importing.append(name)
            continue
        try:
            (task,) = find_tasks([name])
        except ValueError:
            unknown.append(name)
            continue
        if task.installed:
            known.append(name)
        else:
            missing.append(task)
    if importing:
        print_note(
            f"left out, since making them imports a module: {', '.join(importing)}; name with --tasks what to play"
        )
    if missing:
        suites = ", ".join(dict.fromkeys(task.suite for task in missing))
        extras = ",".join(dict.fromkeys(str(task.extra) for task in missing))
        told = f"not installed: {len(missing)} of {suites}: pip install 'gato_lite[{extras}]'"
        if not known and not beside:
            raise ImportError(f"{run}: {told}")
        print_note(f"left out, since {told}")
    if not known and not beside:
        own = [*unknown, *importing]
        what = f"only tasks of your own ({', '.join(own)})" if own else "no environment"
        known_where = f"; {OWN}" if unknown else ""
        raise ValueError(
            f"{run}: trained on {what}{known_where}; name what to play with --tasks, such as gym:CartPole-v1"
        )
    if unknown:
        print_note(
            f"left out, since they are not in the catalogue: {', '.join(unknown)}; {OWN}, and gato_lite.Policy plays "
            "any"
        )
    return known
