"""`gato-lite play`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from tyro.conf import Positional, arg

from gato_lite.envs.seeds import EVALUATION_SEED
from gato_lite.shelf import GENERALIST
from gato_lite.train.console import answer_only, bar, print_json, print_note, print_table, refuse_to_overwrite

if TYPE_CHECKING:
    from gato_lite.envs.catalogue import Task
    from gato_lite.train.rollout import Outcome
    from gato_lite.train.scores import Scores, TaskScore

EXAMPLE: Final = """\
gato-lite play babyai/PutNextLocal --video film.mp4
gato-lite play 'classic/*' --run runs/first --episodes 20"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Play tasks with a run's newest checkpoint: how each episode went, and the mean beside random actions and expert.

    A normalised score is 0 for random actions and 1 for the task's expert, with a 95 % interval. `gato-lite eval`
    plays many episodes in several processes.
    """

    tasks: Positional[Annotated[tuple[str, ...], arg(metavar="TASK …")]]
    """Names or patterns such as 'babyai/*', or gym:ID."""
    run: Annotated[Path, arg(metavar="RUN")] = Path(GENERALIST)
    """Folder of the run; generalist comes with the package."""
    episodes: int = 5
    """Episodes of each task."""
    seed: int = EVALUATION_SEED
    """First environment seed."""
    temperature: float = 0.0
    """0 takes the likeliest actions, of continuous ones the medians; above 0 actions are drawn."""
    video: Annotated[Path | None, arg(metavar="FILE")] = None
    """File for a film of the first episode: film.mp4."""
    json: bool = False
    """Write JSON."""
    overwrite: bool = False
    """Replace the film that is there."""


def run(options: Options) -> None:
    """Plays the episodes, the first before a camera, and prints how they went."""
    from gato_lite.envs.catalogue import find_tasks
    from gato_lite.run import load
    from gato_lite.train.commands.eval import tell_failures, tell_unknown
    from gato_lite.train.players import SLOTS, TIME_LIMIT_S
    from gato_lite.train.rollout import jobs_of, play
    from gato_lite.train.scores import summarise

    tasks = find_tasks(options.tasks)
    _check(options, tasks)
    gato = load(options.run)
    tell_unknown(str(options.run), [known.name for known in gato.formats], [task.name for task in tasks])
    jobs = jobs_of(tasks, options.episodes, options.seed)
    outcomes: list[Outcome] = []
    with answer_only(), bar("playing", "episodes") as show:

        def book(outcome: Outcome) -> None:
            outcomes.append(outcome)
            show(len(outcomes), len(jobs))

        show(0, len(jobs))
        if options.video is not None:
            from gato_lite.train.films import film_episode

            task, seed = jobs[0]
            book(film_episode(gato, task, options.video, seed=seed, temperature=options.temperature))
        play(
            gato,
            jobs[len(outcomes) :],
            n_slot=SLOTS,
            temperature=options.temperature,
            seed=options.seed,
            limit_s=TIME_LIMIT_S,
            on_episode=book,
        )
    order = {job: place for place, job in enumerate((task.name, seed) for task in tasks for seed in _seeds(options))}
    outcomes.sort(key=lambda outcome: order[outcome.task, outcome.seed])
    scores = summarise(tasks, outcomes, options.seed)
    _show(options, outcomes, scores)
    if options.video is not None:
        print_note(f"{options.video}: {jobs[0][0].name}, seed {jobs[0][1]}")
    tell_failures([scores])


def _seeds(options: Options) -> range:
    return range(options.seed, options.seed + options.episodes)


def _check(options: Options, tasks: Sequence[Task]) -> None:
    """Checks all that can be known to be wrong before the weights are read."""
    if not tasks:
        raise ValueError("expected at least one task to play; `gato-lite tasks` lists them")
    if options.episodes < 1 or options.seed < 0:
        raise ValueError(
            f"expected at least one episode and a seed of 0 or above, got --episodes {options.episodes} "
            f"--seed {options.seed}"
        )
    if not 0.0 <= options.temperature < float("inf"):
        raise ValueError(f"expected a --temperature of 0 or above, got {options.temperature}")
    for task in tasks:
        task.require()
    if options.video is not None:
        from gato_lite.envs.film import ffmpeg

        if options.video.suffix != ".mp4":
            raise ValueError(f"expected a file such as film.mp4 for --video, got {options.video}")
        refuse_to_overwrite([options.video], overwrite=options.overwrite)
        ffmpeg()
    if options.seed < EVALUATION_SEED:
        print_note(f"gato-lite: training data may have seeds below {EVALUATION_SEED}; read these scores as such")


def _show(options: Options, outcomes: Sequence[Outcome], scores: Scores) -> None:
    """JSON, or a row for each episode and then one for each task."""
    if options.json:
        print_json(
            {
                "run": str(options.run),
                "temperature": options.temperature,
                "video": None if options.video is None else str(options.video),
                "episodes": [_episode(outcome) for outcome in outcomes],
                "tasks": scores.tasks,
                "failed": scores.failed,
            }
        )
        return
    rows = [_row(outcome) for outcome in outcomes]
    print_table(("task", "seed", "return", "steps", "success"), rows, numbers=("seed", "return", "steps"))
    print()
    means = [_mean_row(name, score) for name, score in scores.tasks.items()]
    numbers = ("episodes", "mean", "random", "expert", "normalised")
    print_table(("task", *numbers, "95 %"), means, numbers=numbers)


def _episode(outcome: Outcome) -> dict[str, str | float | bool | None]:
    return {
        "task": outcome.task,
        "seed": outcome.seed,
        "return": outcome.total_reward,
        "steps": outcome.length,
        "success": outcome.success,
        "failed": outcome.failed,
    }


def _row(outcome: Outcome) -> tuple[str, ...]:
    if outcome.failed is not None:
        return outcome.task, str(outcome.seed), "–", str(outcome.length), "failed"
    success = "" if outcome.success is None else "yes" if outcome.success else "no"
    return outcome.task, str(outcome.seed), f"{outcome.total_reward:,.2f}", str(outcome.length), success


def _mean_row(name: str, score: TaskScore) -> tuple[str, ...]:
    """The task's metric: its mean return, or the share of its episodes that succeeded."""
    from gato_lite.train.wording import in_metric, number

    shown = [in_metric(score, value) for value in (score.mean, score.random, score.expert)]
    interval = "" if score.low is None else f"{number(score.low)}–{number(score.high)}"
    return name, str(score.episodes), *shown, number(score.normalised), interval
