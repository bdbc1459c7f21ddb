"""`gato-lite demo`: record, train, ask the experts, evaluate, caption, write, report; one model, one command.

    OUT/data/TASK            experts' episodes, as `gato-lite record` writes them
    OUT/run                  the run; its report.html is the page, its asked/ what the experts were asked about
    OUT/scores.json          as `gato-lite eval --json` writes them

The minutes are those of the whole command. Recording takes what it takes; evaluation and the page are given a share of
the time; training gets the rest, and its schedule ends when that does.
"""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec
import rich
import torch

from gato_lite.envs.catalogue import find_tasks
from gato_lite.envs.dataset import Dataset
from gato_lite.envs.recording import folder_name
from gato_lite.lock import FolderLock
from gato_lite.run import load
from gato_lite.train.abilities import documents_of_run, score_documents
from gato_lite.train.asking import Rounds
from gato_lite.train.console import bar, share_bar, to_json, write_whole
from gato_lite.train.cores import usable_cores
from gato_lite.train.datasets import open_data
from gato_lite.train.document_scores import DocumentScore
from gato_lite.train.evaluate import evaluate_run
from gato_lite.train.films import film_tasks
from gato_lite.train.inspect import control_stream, document_streams
from gato_lite.train.loop import Length
from gato_lite.train.plans import Plan, find_plan, record_plan
from gato_lite.train.recipes import find_recipe
from gato_lite.train.report import write_report
from gato_lite.train.report_data import collect_report
from gato_lite.train.settings import NEVER_S
from gato_lite.train.summary import summary_table
from gato_lite.train.token_rows import TokenStream
from gato_lite.train.training import begin

EVALUATION_SHARE: Final = 0.13
"""Share of the minutes kept for evaluation and the page."""
EPISODES: Final = 100
"""Evaluation episodes of each task; fewer in a demo of less than ten minutes, but at least 5."""
NAME: Final = 24
"""Pieces of the longest name of a picture: a model that has learnt little would write on and on."""


@dataclass
class Clock:
    """What the demo's time went to."""

    minutes: float
    start: float = field(default_factory=time.monotonic)
    spent: dict[str, float] = field(default_factory=dict)
    """Seconds by stage."""

    @property
    def left_s(self) -> float:
        """Seconds until the demo is due."""
        return self.minutes * 60 - (time.monotonic() - self.start)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the block towards a stage, but for the stages inside it, which count for themselves."""
        began, before = time.monotonic(), sum(self.spent.values())
        try:
            yield
        finally:
            inside = sum(self.spent.values()) - before
            self.spent[name] = self.spent.get(name, 0.0) + time.monotonic() - began - inside


def run_demo(out: Path, *, minutes: float = 10.0, overwrite: bool = False) -> None:
    """The whole of gato_lite in one command.

    Args:
        out: folder for everything.
        minutes: from the start of the command to the report.
        overwrite: replace what is in `out`.

    Raises:
        FileExistsError: `out` is taken and `overwrite` is off.
    """
    clock = Clock(minutes)
    workers = min(usable_cores(), 8)
    with FolderLock(out):
        _claim(out, overwrite=overwrite)
        plan = find_plan("demo")
        with clock.stage("training"):
            run = _train(out, plan, clock, workers)
        _evaluate_and_report(out, run, plan, clock, workers)


def _claim(out: Path, *, overwrite: bool) -> None:
    """Checks the extras, and that `out` is free or a demo's."""
    for package in ("minigrid", "imageio_ffmpeg", "pygame"):
        try:
            __import__(package)
        except ImportError as error:
            raise ImportError(f"the demo needs the package {package}: pip install 'gato_lite[demo]'") from error
    found = {entry.name for entry in out.iterdir()} - {FolderLock.NAME}
    if found:
        if not overwrite:
            raise FileExistsError(f"'{out}' is not empty; replace it with --overwrite, or use another --out")
        known = {"data", "run", "scores.json", "language.json"}  # the last of older demos
        if found - known or not any((out / "data").glob("*/part-*.parquet")):
            raise FileExistsError(
                f"'{out}' holds something that is not a demo; delete it yourself or use another --out"
            )
        with FolderLock(out / "run"):  # nobody trains it
            for entry in [out / name for name in found]:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _train(out: Path, plan: Plan, clock: Clock, workers: int) -> Path:
    run, scale = out / "run", _scale(clock.minutes)
    with clock.stage("recording"), bar("Recording the experts", "episodes") as show:
        recorded = record_plan(plan, out / "data", scale=scale, workers=workers, on_progress=show)
    with FolderLock(run), share_bar("Training") as share:
        config = replace(find_recipe("demo"), evaluate_every_s=NEVER_S)
        data = [*recorded, *plan.documents.items()]
        length = Length(minutes=clock.minutes)
        trainer, weighted = begin(config, data, run, length=length, on_progress=lambda now: now.show(share))
        rounds = Rounds(trainer, weighted, plan.parts(), plan.rounds, scale=scale, workers=workers)
        rounds.train(lambda: _length(clock, trainer.elapsed_s))
    clock.spent["asking the experts"] = rounds.seconds
    return run


def _length(clock: Clock, trained_s: float) -> Length:
    """How long training is in all, if it ends when evaluation has to begin."""
    left = clock.left_s - EVALUATION_SHARE * clock.minutes * 60
    return Length(minutes=(trained_s + max(left, 1.0)) / 60)


def _scale(minutes: float) -> float:
    """Factor on all numbers of episodes, which are meant for ten minutes."""
    return min(max(minutes / 10.0, 0.02), 4.0)


def _evaluate_and_report(out: Path, run: Path, plan: Plan, clock: Clock, workers: int) -> None:
    episodes = max(5, round(EPISODES * min(_scale(clock.minutes), 1.0)))
    with clock.stage("evaluation"), bar("Evaluating", "episodes") as show:
        scores = evaluate_run(run, episodes=episodes, workers=workers, on_progress=show)
    with clock.stage("films and words"), bar("Filming", "films") as show:
        films, documents = _films_and_words(run, list(plan.parts()), workers, show)
    scores = msgspec.structs.replace(scores, documents=documents)
    write_whole(out / "scores.json", to_json(scores) + "\n")
    data = collect_report(
        run,
        load(run),
        scores,
        command=f"gato-lite demo --out {out} --minutes {clock.minutes:g}",
        films=films,
        streams=_streams(run, out / "data"),
        seconds=clock.spent,
        total_minutes=(time.monotonic() - clock.start) / 60,
        credits=open_data("emoji").info.attribution or "",
    )
    page = write_report(run / "report.html", data)
    rich.print(summary_table(data, page))


def _films_and_words(
    run: Path, names: Sequence[str], workers: int, show: Callable[[int, int], None]
) -> tuple[dict[str, Path], dict[str, DocumentScore]]:
    """Films in other processes, while this one names the held-out pictures and writes."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _one_thread) as pool:
        filming = [pool.submit(_film, run, name) for name in names]
        gato = load(run)
        documents = {
            name: score_documents(gato, dataset, max_tokens=NAME) for name, dataset in documents_of_run(run).items()
        }
        made: dict[str, Path] = {}
        for done, future in enumerate(as_completed(filming)):
            made |= future.result()
            show(done + 1, len(names))
    return {name: made[name] for name in names if name in made}, documents


def _one_thread() -> None:
    torch.set_num_threads(1)


def _film(run: Path, name: str) -> dict[str, Path]:
    return film_tasks(load(run), find_tasks([name]), run / "films")


def _streams(run: Path, data: Path) -> list[TokenStream]:
    """A timestep of three different tasks, and a captioned picture, to be drawn token by token."""
    gato = load(run)
    vocabulary = gato.vocabulary
    chosen = ("classic/CartPole", "babyai/GoToLocal", "classic/Pendulum")
    streams = [control_stream(Dataset.open(data / folder_name(name)), vocabulary) for name in chosen]
    picture = open_data("emoji").read_documents("test")[:1]
    return [*streams, *document_streams(picture, vocabulary, name="emoji", patch_size=gato.config.patch_size)]
