"""`gato-lite demo`: record, train, ask the experts, evaluate, caption, write, report; one model, one command.

    OUT/data/TASK            experts' episodes, as `gato-lite record` writes them
    OUT/data/round-N/TASK    the model's own episodes, labelled by the experts
    OUT/run                  the run; its report.html is the page
    OUT/scores.json          as `gato-lite eval --json` writes them
    OUT/language.json        captions and text beside their baselines, and what the time went to

The minutes are those of the whole command. Recording takes what it takes; evaluation and the page are given a share of
the time; training gets the rest, and its schedule ends when that does.
"""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.console import bar, share_bar, write_whole
from gato_lite.train.cores import usable_cores
from gato_lite.train.evaluate import evaluate_run
from gato_lite.train.films import film_tasks
from gato_lite.train.inspect import TokenStream, control_stream, document_streams
from gato_lite.train.language import CaptionScore, TextScore, score_captions, score_text
from gato_lite.train.loop import Length, Progress, Trainer
from gato_lite.train.recipes import find_recipe
from gato_lite.train.relabel import relabel
from gato_lite.train.report import write_report
from gato_lite.train.report_data import collect_report
from gato_lite.train.summary import summary_table
from gato_lite.train.training import make_mixture, open_data, prepare_run, weighted_sources

EVALUATION_SHARE: Final = 0.13
"""Share of the minutes kept for evaluation and the page."""
ROUNDS: Final = (0.25, 0.45, 0.65)
"""Shares of the training after which the experts are asked about the model's own episodes."""
EPISODES: Final = 100
"""Evaluation episodes of each task; fewer in a demo of less than ten minutes, but at least 5."""


@dataclass(frozen=True)
class Part:
    """One task of the demo."""

    episodes: int
    """Expert episodes to record in a demo of ten minutes."""
    weight: float
    """Share of the training tokens."""
    asked: int = 0
    """Episodes of the model's own in each round, where docs/experiments.md found that they pay."""


TASKS: Final[dict[str, Part]] = {
    "classic/CartPole": Part(100, 0.25, 12),
    "classic/Acrobot": Part(200, 0.15, 12),
    "classic/MountainCar": Part(200, 0.25, 16),
    "classic/MountainCarContinuous": Part(200, 0.1, 8),
    "classic/Pendulum": Part(300, 1.2, 60),
    "toy/FrozenLake": Part(300, 0.1),
    "toy/FrozenLakeNotSlippery": Part(100, 0.05),
    "toy/FrozenLake8x8": Part(300, 0.1),
    "toy/Taxi": Part(2000, 0.25),
    "toy/CliffWalking": Part(100, 0.05),
    "babyai/GoToRedBallGrey": Part(1000, 0.2),
    "babyai/GoToRedBall": Part(1000, 0.2),
    "babyai/GoToObj": Part(1000, 0.2),
    "babyai/GoToLocal": Part(3000, 0.6),
    "babyai/OpenDoor": Part(1500, 0.4),
    "babyai/OpenRedDoor": Part(500, 0.1),
    "babyai/PickupLoc": Part(4000, 0.9),
    "babyai/PutNextLocal": Part(6000, 1.3),
    "babyai/UnlockLocal": Part(1500, 0.6, 200),
    "babyai/GoToDoor": Part(1500, 0.45),
    "sokoban/Sokoban7x7": Part(16000, 2.4),
}
"""What the demo learns to control."""
LANGUAGE: Final[dict[str, float]] = {"emoji": 5.0, "text": 0.6}
"""Shipped data and its share of the training tokens."""


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


class LanguageScores(msgspec.Struct, frozen=True, kw_only=True):
    """OUT/language.json: what the model names and writes, and what the time went to."""

    captions: CaptionScore
    text: TextScore
    seconds: dict[str, float]
    """By stage."""


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
        with clock.stage("recording"):
            datasets = _record(out / "data", minutes, workers)
        with FolderLock(out / "run"), clock.stage("training"):
            run = _train(out, datasets, clock, workers)
        _evaluate_and_report(out, run, clock, workers)


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
        known = {"data", "run", "scores.json", "language.json"}
        if found - known or not any((out / "data").glob("*/part-*.parquet")):
            raise FileExistsError(
                f"'{out}' holds something that is not a demo; delete it yourself or use another --out"
            )
        with FolderLock(out / "run"):  # nobody trains it
            for entry in [out / name for name in found]:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _record(data: Path, minutes: float, workers: int) -> dict[str, Path]:
    from gato_lite.envs.record import record_tasks

    wanted = {name: max(20, round(part.episodes * _scale(minutes))) for name, part in TASKS.items()}
    with bar("Recording the experts", "episodes") as show:
        recordings = record_tasks(wanted, data, workers=workers, on_progress=show)
    return {name: recording.dataset.path for name, recording in recordings.items()}


def _train(out: Path, recorded: dict[str, Path], clock: Clock, workers: int) -> Path:
    run, config, vocabulary = out / "run", find_recipe("demo"), Vocabulary.shipped()
    data = [(Dataset.open(path), TASKS[name].weight) for name, path in recorded.items()]
    data += [(open_data(name), weight) for name, weight in LANGUAGE.items()]
    gato = prepare_run(
        config, [dataset for dataset, _ in data], run, training={"recipe": "demo", "minutes": clock.minutes}
    )
    weighted = weighted_sources(data, vocabulary, config)
    with share_bar("Training") as show:

        def report(progress: Progress) -> None:
            show(progress.done, f"loss {progress.loss:.3f}, {progress.tokens_per_s:,.0f} tokens/s")

        mixture = make_mixture(weighted, vocabulary, config)
        trainer = Trainer(gato, mixture, run, config, _length(clock, 0.0), on_progress=report)
        asked = {name: round(part.asked * _scale(clock.minutes)) for name, part in TASKS.items() if part.asked}
        for number, until in enumerate(ROUNDS):
            trainer.train(until)
            if clock.left_s < 2 * EVALUATION_SHARE * clock.minutes * 60:
                break  # a slow machine: what is left is for training and evaluation
            with clock.stage("asking the experts"):
                made, solved = relabel(run, asked, out / "data" / f"round-{number}", seed=number, workers=workers)
                new = [(Dataset.open(path), TASKS[name].weight / len(ROUNDS)) for name, path in made.items()]
                weighted += weighted_sources(new, vocabulary, config)
                trainer.mixture = make_mixture(weighted, vocabulary, config)
            trainer.note("solved_by_suite", _by_suite(solved))
            trainer.length = _length(clock, trainer.elapsed_s)  # asking took some of the time
        trainer.train()
    return run


def _by_suite(shares: Mapping[str, float]) -> dict[str, float]:
    """Means over the tasks of each suite."""
    suites: dict[str, list[float]] = {}
    for name, share in shares.items():
        suites.setdefault(name.split("/")[0], []).append(share)
    return {suite: sum(values) / len(values) for suite, values in suites.items()}


def _length(clock: Clock, trained_s: float) -> Length:
    """How long training is in all, if it ends when evaluation has to begin."""
    left = clock.left_s - EVALUATION_SHARE * clock.minutes * 60
    return Length(minutes=(trained_s + max(left, 1.0)) / 60)


def _scale(minutes: float) -> float:
    """Factor on all numbers of episodes, which are meant for ten minutes."""
    return min(max(minutes / 10.0, 0.02), 4.0)


def _evaluate_and_report(out: Path, run: Path, clock: Clock, workers: int) -> None:
    episodes = max(5, round(EPISODES * min(_scale(clock.minutes), 1.0)))
    with clock.stage("evaluation"), bar("Evaluating", "episodes") as show:
        scores = evaluate_run(run, episodes=episodes, workers=workers, on_progress=show)
    with clock.stage("films and words"), bar("Filming", "films") as show:
        films, captions, text = _films_and_words(run, workers, show)
    language = LanguageScores(captions=captions, text=text, seconds=clock.spent)
    for name, found in (("scores.json", scores), ("language.json", language)):
        write_whole(out / name, msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
    data = collect_report(
        run,
        load(run),
        scores,
        command=f"gato-lite demo --out {out} --minutes {clock.minutes:g}",
        captions=captions,
        text=text,
        films=films,
        streams=_streams(run, out / "data"),
        seconds=clock.spent,
        total_minutes=(time.monotonic() - clock.start) / 60,
        credits=open_data("emoji").info.attribution or "",
    )
    page = write_report(run / "report.html", data)
    rich.print(summary_table(data, page))


def _films_and_words(
    run: Path, workers: int, show: Callable[[int, int], None]
) -> tuple[dict[str, Path], CaptionScore, TextScore]:
    """Films in other processes, while this one names the held-out pictures and writes."""
    names = list(TASKS)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _one_thread) as pool:
        filming = {pool.submit(_film, run, name): name for name in names}
        gato = load(run)
        emoji, text = (open_data(name) for name in LANGUAGE)
        captions = score_captions(gato, emoji.read_documents("train"), emoji.read_documents("test"))
        train_text, test_text = ([d.text for d in text.read_documents(split)] for split in ("train", "test"))
        written = score_text(gato, train_text, test_text)
        made = {}
        for done, future in enumerate(as_completed(filming)):
            made[filming[future]] = future.result()
            show(done + 1, len(names))
    return {name: made[name] for name in names}, captions, written


def _one_thread() -> None:
    torch.set_num_threads(1)


def _film(run: Path, name: str) -> Path:
    return film_tasks(load(run), find_tasks([name]), run / "films")[name]


def _streams(run: Path, data: Path) -> list[TokenStream]:
    """A timestep of three different tasks, and a captioned picture, to be drawn token by token."""
    gato = load(run)
    vocabulary = gato.vocabulary
    chosen = ("classic/CartPole", "babyai/GoToLocal", "classic/Pendulum")
    streams = [control_stream(Dataset.open(data / folder_name(name)), vocabulary) for name in chosen]
    picture = open_data("emoji").read_documents("test")[:1]
    return [*streams, *document_streams(picture, vocabulary, name="emoji", patch_size=gato.config.patch_size)]
