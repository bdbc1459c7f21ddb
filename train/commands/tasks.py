"""`gato-lite tasks`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from tyro.conf import Positional, arg

from gato_lite.train.console import answer_only, print_json, print_table

if TYPE_CHECKING:
    from gato_lite.envs.catalogue import Task

EXAMPLE: Final = "gato-lite tasks --suite babyai"


@dataclass(frozen=True, kw_only=True)
class Options:
    """List the tasks: what is seen, how good a random policy and the expert are, what is still to be installed.

    Any other Gymnasium environment is a task too, by the name gym:ID. GATO_LITE_TASKS names Python files with tasks of
    your own.
    """

    patterns: Positional[Annotated[tuple[str, ...], arg(metavar="TASK …", help_behavior_hint="")]] = ()
    """Names or patterns such as 'classic/*'; none lists all."""
    suite: Annotated[str | None, arg(metavar="NAME")] = None
    """Only this suite's."""
    json: bool = False
    """Write JSON."""


def run(options: Options) -> None:
    """Prints the catalogue."""
    from gato_lite.envs.catalogue import all_tasks, find_tasks
    from gato_lite.names import unknown_name

    known = all_tasks()
    suites = {task.suite for task in known.values()}
    if options.suite is not None and options.suite not in suites:
        raise ValueError(unknown_name("suite", options.suite, suites))
    with answer_only():
        chosen = find_tasks(list(options.patterns)) if options.patterns else list(known.values())
        rows = [_row(task) for task in chosen if options.suite in {None, task.suite}]
    if options.json:
        print_json(rows)
        return
    refused = {
        task.name for task in chosen if task.expert_score is None and task.expert is not None and task.is_refused
    }
    print_table(
        ["task", "modality", "expert", "random", "expert's score", "to install"],
        [
            [
                row["name"],
                row["modality"],
                "yes" if row["has_expert"] else "no",
                _number(row["random"]),
                "refused" if row["name"] in refused else _number(row["expert"]),
                "" if row["installed"] else row["install"],
            ]
            for row in rows
        ],
        numbers=["random", "expert's score"],
    )


def _row(task: Task) -> dict[str, Any]:  # Any: JSON
    return {
        "name": task.name,
        "suite": task.suite,
        "modality": task.modality,
        "has_expert": task.expert is not None,
        "installed": task.installed,
        "install": task.install,
        "random": None if task.random is None else task.random.mean,
        "expert": None if task.expert_score is None else task.expert_score.mean,
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
