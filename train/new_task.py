"""What a run helps with a task that it never saw, by demonstrations, and what learning it costs of the tasks before.

    python -m gato_lite.train.new_task mine/Maze --out runs/maze --seeds 2

records 10, 100 and 1,000 demonstrations and trains as many steps on each, three ways: `tuned` from a run's weights,
`rehearsed` the same with a few episodes of old tasks mixed in, and `nothing` from fresh weights of that preset, at the
higher rates that those learn best with. All of them, and the run as it was, play the same unseen levels of the task;
in the first seed those of the first two ways play old tasks too. A seed has its own demonstrations and batches. All is
kept in the folder: the same command goes on where it stopped, and takes more `--demonstrations` and `--seeds` later.

    OUT/curve.json   every score, the curves, and the settings
    OUT/curve.svg    both as a figure

Source: Reed et al. 2022, section 5.5 (figures 9 and 10: learning held-out tasks from few demonstrations).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import msgspec
import tyro
from tyro.conf import Positional, arg

from gato_lite.envs.catalogue import Task, find_tasks
from gato_lite.envs.format import versions
from gato_lite.envs.recording import record_task, record_tasks
from gato_lite.envs.task import PACKAGES
from gato_lite.run import load
from gato_lite.shelf import GENERALIST
from gato_lite.train.console import bar, print_note, print_table, share_bar, to_json, write_whole
from gato_lite.train.evaluate import evaluate_run
from gato_lite.train.loop import Length
from gato_lite.train.new_task_scores import Cell, Found, Point, Way, point
from gato_lite.train.recipes import find_recipe
from gato_lite.train.scores import TaskScore
from gato_lite.train.settings import NEVER_S, TrainConfig
from gato_lite.train.training import of_shape, train_run

WAYS: Final[tuple[Way, ...]] = ("tuned", "nothing", "rehearsed")
"""In the order in which they are trained."""
OLD: Final = tuple(
    """
    classic/MountainCar toy/Taxi toy/CliffWalking babyai/GoToLocal babyai/OpenDoor babyai/PickupLoc sokoban/Sokoban7x7
    """.split()
)
"""Tasks whose episodes are short, so that playing them again and again is cheap."""
REHEARSED: Final = ("toy/Taxi", "babyai/GoToLocal", "sokoban/Sokoban7x7")
"""Some of them; the others tell what rehearsal does for tasks that are not rehearsed."""
SEED_STEP: Final = 1_000_000
"""Environment seeds from the demonstrations of one seed to those of the next."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Learn a new task from more and more demonstrations, from a run's weights and from nothing."""

    task: Positional[Annotated[str, arg(metavar="TASK")]]
    """Name of the task; it has an expert."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for all of it; the same command goes on in it."""
    init: Annotated[Path, arg(metavar="RUN")] = Path(GENERALIST)
    """Run to begin with; generalist comes with the package."""
    demonstrations: tuple[int, ...] = (10, 100, 1000)
    """How many to learn from."""
    ways: tuple[Way, ...] = WAYS
    """How: tuned from the run's weights, rehearsed with old tasks mixed in, nothing of the run."""
    steps: int = 200
    """Training steps, whatever the demonstrations."""
    rate: Annotated[float, arg(metavar="FACTOR")] = 1.0
    """Learning rates of tuned and rehearsed, as multiples of recipe tune's; 3 is about what fresh weights get."""
    seeds: int = 1
    """How often all of it is done, each time with other demonstrations, weights and batches."""
    episodes: int = 100
    """Unseen episodes of the task that each of the models plays."""
    old: Annotated[tuple[str, ...], arg(metavar="TASK …")] = OLD
    """Old tasks to play before and after."""
    old_episodes: int = 20
    """Episodes of each."""
    rehearse: Annotated[tuple[str, ...], arg(metavar="TASK …")] = REHEARSED
    """Old tasks of which some demonstrations are mixed in."""
    rehearse_episodes: int = 20
    """Demonstrations of each."""
    rehearse_share: float = 0.25
    """Their share of the training tokens, all together."""

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "episodes", "old_episodes", "rehearse_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {name}={getattr(self, name)}")
        if not self.ways or "before" in self.ways:
            raise ValueError(f"ways must be some of {', '.join(WAYS)}, got {self.ways}")
        if not self.demonstrations or min(self.demonstrations) < 1:
            raise ValueError(f"demonstrations must be numbers of at least 1, got {self.demonstrations}")
        if not 0 < self.rate < math.inf:
            raise ValueError(f"rate must be a positive number, got rate={self.rate}")
        if not 0 < self.rehearse_share < 1:
            raise ValueError(f"rehearse_share must be in (0, 1), got {self.rehearse_share}")


def summary(options: Options, task: Task, cells: Sequence[Cell]) -> Found:
    """Curves of all cells that are there."""
    curves: dict[str, list[Point]] = {}
    for way in WAYS:
        amounts = sorted({cell.demonstrations for cell in cells if cell.way == way})
        alike = [[cell for cell in cells if (cell.way, cell.demonstrations) == (way, n)] for n in amounts]
        curves[way] = [point(some) for some in alike]
    return Found(
        task=task.name,
        metric=task.metric,
        settings=_settings(options),
        versions=versions("gato_lite", *PACKAGES),
        random=None if task.random is None else task.random.mean,
        expert=None if task.expert_score is None else task.expert_score.mean,
        rehearsed=[old.name for old in find_tasks(options.rehearse)],
        before=point([cell for cell in cells if cell.way == "before"]),
        curves=curves,
        cells=list(cells),
    )


def learn(options: Options) -> Found:
    """Records, trains and plays; writes the JSON after every model, the figure at the end.

    Raises:
        ValueError: the task has no expert, or the folder holds other settings.
    """
    from gato_lite.train.new_task_figure import draw

    (task,) = find_tasks([options.task])
    if task.expert is None:
        raise ValueError(f"{task.name}: expected a task with an expert to learn from, found none")
    _keep_settings(options)
    cells: list[Cell] = []
    for way, n, seed in _plan(options):
        cells.append(_cell(options, task, way, n, seed))
        found = summary(options, task, cells)
        write_whole(options.out / "curve.json", to_json(found))
    draw(found, options.out / "curve.svg")
    return found


def _plan(options: Options) -> Iterator[tuple[Way, int, int]]:
    """Ways, demonstrations and seeds, so that what is done is of use wherever it stops."""
    yield "before", 0, 0
    for seed in range(options.seeds):
        for n in options.demonstrations:
            for way in options.ways:
                yield way, n, seed


def _settings(options: Options) -> dict[str, object]:
    """What all cells of a folder have in common."""
    free = ("out", "demonstrations", "ways", "seeds")
    found = {name: value for name, value in asdict(options).items() if name not in free}
    return dict(msgspec.json.decode(msgspec.json.encode({**found, "init": str(options.init)})))


def _keep_settings(options: Options) -> None:
    """Writes the settings, or raises a ValueError where the folder has others."""
    path, settings = options.out / "settings.json", _settings(options)
    stored = msgspec.json.decode(path.read_bytes()) if path.exists() else settings
    changed = [
        f"{name} was {stored.get(name)}, got {settings[name]}"
        for name in settings
        if stored.get(name) != settings[name]
    ]
    if changed:
        raise ValueError(f"{path}: expected the options that the folder began with: {'; '.join(changed)}")
    write_whole(path, to_json(settings))


def _cell(options: Options, task: Task, way: Way, n: int, seed: int) -> Cell:
    """One model's scores: those in the folder, or new ones."""
    name = f"{way}-{n}-seed_{seed}"
    path = options.out / "cells" / f"{name}.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Cell)
    print_note(f"{task.name}: {name}")
    run, cpu_minutes = options.init, None
    if way != "before":
        run = options.out / "runs" / name
        cpu_minutes = _train(options, run, way, n, seed)
    played = _play(run, [task], options.episodes)
    old: Mapping[str, TaskScore] = {}
    if seed == 0 and way != "nothing" and options.old:
        old = _play(run, find_tasks(options.old), options.old_episodes)[0]
    cell = Cell(
        way=way,
        demonstrations=n,
        seed=seed,
        score=played[0][task.name],
        values=played[1][task.name],
        old=dict(old),
        cpu_minutes=cpu_minutes,
    )
    write_whole(path, to_json(cell))
    return cell


def _train(options: Options, run: Path, way: Way, n: int, seed: int) -> float:
    """Trains one model; the CPU minutes that it took."""
    data = [(str(_demonstrations(options, n, seed)), 1.0)]
    if way == "rehearsed":
        each = options.rehearse_share / (1 - options.rehearse_share) / len(options.rehearse)
        data += [(str(folder), each) for folder in _old_demonstrations(options)]
    config = replace(find_recipe("tune"), seed=seed, evaluate_every_s=NEVER_S, checkpoint_every_s=NEVER_S)
    rates = config.learning_rate * options.rate, config.matrix_learning_rate * options.rate
    if way == "nothing":
        fresh = TrainConfig()
        config = of_shape(config, load(options.init))
        rates = fresh.learning_rate, fresh.matrix_learning_rate
    config = replace(config, learning_rate=rates[0], matrix_learning_rate=rates[1])
    begun = time.process_time()
    with share_bar(f"training {run.name}") as show:
        train_run(
            config,
            data,
            run,
            length=Length(steps=options.steps),
            init=None if way == "nothing" else options.init,
            overwrite=True,
            on_progress=lambda now: now.show(show),
        )
    return (time.process_time() - begun) / 60


def _demonstrations(options: Options, n: int, seed: int) -> Path:
    """The folder with so many episodes of the new task's expert."""
    out = options.out / "demonstrations" / f"{n}-seed_{seed}"
    with bar(f"recording {options.task}", "episodes") as show:
        record_task(options.task, n, out, seed=seed * SEED_STEP, progress=show)
    return out


def _old_demonstrations(options: Options) -> list[Path]:
    """The folders with episodes of old tasks' experts."""
    wanted = {task.name: options.rehearse_episodes for task in find_tasks(options.rehearse)}
    with bar("recording old tasks", "episodes") as show:
        recorded = record_tasks(wanted, options.out / "old", on_progress=show)
    return [recording.dataset.path for recording in recorded.values()]


def _play(
    run: Path, tasks: Sequence[Task], episodes: int
) -> tuple[dict[str, TaskScore], dict[str, list[float | None]]]:
    """Scores and values of a run's newest checkpoint, by task."""
    with bar(f"playing {run.name}", "episodes") as show:
        scores = evaluate_run(run, [task.name for task in tasks], episodes=episodes, workers=1, on_progress=show)
    return scores.tasks, scores.values


def main(options: Options) -> None:
    """Does it all and prints the curves."""
    import matplotlib as mpl  # noqa: F401 - an extra: that it is missing is told before the training

    found = learn(options)
    header = ["demonstrations", *options.ways]
    by_way = {way: {point.demonstrations: point for point in found.curves[way]} for way in options.ways}
    rows = [["none", _told(found.before), *[""] * (len(options.ways) - 1)]]
    rows += [[f"{n:,}", *(_told(by_way[way][n]) for way in options.ways)] for n in sorted(options.demonstrations)]
    print_table(header, rows, numbers=header)
    print(f"{options.out / 'curve.json'} and curve.svg")


def _told(found: Point) -> str:
    return f"{found.mean:.2f} ({found.low:.2f}–{found.high:.2f})"


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"new_task: error: {error}")
