"""Scores as tables in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gato_lite.envs.catalogue import by_suite
from gato_lite.train.document_scores import DocumentScore
from gato_lite.train.scores import Comparison, Difference, Scores, SuiteScore, TaskScore
from gato_lite.train.wording import FOLDED, in_metric, number, percent, short

WIDTH: Final = 10
"""Cells of a bar."""
WEAKEST: Final = 5
"""Tasks that are shown of a folded suite."""


def score_tables(scores: Scores, *, fold: bool) -> RenderableType:
    """Tasks, suites, prompted against unprompted, and this run against another: whatever there is.

    Args:
        scores: to show.
        fold: whether of a long suite only the weakest tasks are shown.
    """
    parts: list[RenderableType] = [task_table(scores, fold=fold)] if scores.tasks else []
    if scores.suite_rows:
        parts.append(suite_table(scores))
    parts += [
        comparison_table(found, fold=fold)
        for found in (scores.prompt_gain, scores.against)
        if found is not None and found.tasks
    ]
    if scores.documents:
        parts.append(document_table(scores.documents))
    return Group(*parts)


def document_table(documents: Mapping[str, DocumentScore]) -> Table:
    """A row for each dataset of documents: its metric, what is to be beaten; below it one for each of its groups."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("documents", no_wrap=True, min_width=18)
    table.add_column("metric")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("95 %", justify="right", style="dim", no_wrap=True)
    table.add_column("n", justify="right")
    table.add_column("beside", style="dim")
    for name, score in documents.items():
        groups = {group: found for group, found in score.groups.items() if "/" not in group}
        of_groups = {f"{what} {group}" for what in score.more for group in groups}
        beside = {what: value for what, value in score.more.items() if what not in of_groups} | score.baselines
        interval = "" if score.low is None else f"{number(score.low)}–{number(score.high)}"
        row = (score.metric, Text(number(score.mean), style="bold"), interval, f"{score.n:,}", _listed(beside))
        table.add_row(name, *row)
        for group, (mean, n) in groups.items():
            others = {what: score.more[f"{what} {group}"] for what in score.more if f"{what} {group}" in score.more}
            table.add_row(Text(f"  {group}", style="dim"), "", number(mean), "", f"{n:,}", _listed(others))
    return table


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{what} {number(value)}" for what, value in values.items())


def task_table(scores: Scores, *, fold: bool = False) -> Table:
    """A row for each suite and each of its tasks: a bar between random and expert, the score, the task's own metric."""
    caption = "0 is a random policy, 1 the expert"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("task", no_wrap=True, min_width=18)
    table.add_column("0".ljust(WIDTH - 1) + "1", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("95 %", justify="right", style="dim", no_wrap=True)
    table.add_column("result", justify="right")
    table.add_column("expert", justify="right", style="dim", no_wrap=True)
    groups = by_suite(scores.tasks)
    for suite, names in groups.items():
        table.add_row(*_suite_row(suite, len(names), scores.suites.get(suite)))
        shown, rest = _folded(names, {name: scores.tasks[name].rank for name in names}, fold=fold)
        for name in shown:
            table.add_row(*_task_row(name, scores.tasks[name]))
        if rest:
            best = min(scores.tasks[name].rank for name in rest)
            table.add_row(Text(f"  and {len(rest)} more", style="dim"), "", Text(f"≥ {number(best)}", style="dim"))
        table.add_section()
    if len(groups) > 1:
        table.add_row(*_suite_row("all", len(scores.tasks), scores.overall))
    return table


def _suite_row(name: str, n_task: int, suite: SuiteScore | None) -> tuple[str | Text, ...]:
    value = None if suite is None else suite.mean
    low, high = (None, None) if suite is None else suite.intervals.get("mean", (None, None))
    return (
        Text.assemble((name, "bold"), (f" {n_task}", "dim")),
        Text("" if value is None else _bar(value), style="cyan"),
        Text(number(value), style="bold"),
        "" if low is None else f"{number(low)}–{number(high)}",
        "" if suite is None or suite.success is None else percent(suite.success),
    )


def _folded(names: Sequence[str], keys: Mapping[str, float], *, fold: bool) -> tuple[list[str], list[str]]:
    """Those that are shown and those that are not: of many tasks the weakest alone are shown, weakest first."""
    if not fold or len(names) <= FOLDED:
        return list(names), []
    ranked = sorted(names, key=lambda name: keys[name])
    return ranked[:WEAKEST], ranked[WEAKEST:]


def _task_row(name: str, score: TaskScore) -> tuple[str | Text, ...]:
    value = score.normalised
    digits = 0 if max(abs(score.mean or 0.0), abs(score.expert or 0.0)) >= 100 else 1
    result = in_metric(score, score.mean, digits)
    if score.std is not None and not score.is_share:
        result += f" ± {number(score.std, digits)}"
    return (
        f"  {short(name)}",
        Text("" if value is None else _bar(value), style="green" if (value or 0.0) >= 0.5 else "yellow"),
        Text(number(value), style="bold"),
        "" if score.low is None else f"{number(score.low)}–{number(score.high)}",
        result + (f", {score.failed} failed" * bool(score.failed)),
        in_metric(score, score.expert, digits),
    )


def _bar(share: float) -> str:
    """A share of `WIDTH` cells, to an eighth of a cell."""
    eighths = round(min(max(share, 0.0), 1.0) * WIDTH * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def suite_table(scores: Scores) -> Table:
    """Mean, median and interquartile mean of each suite, and how many tasks reach 50, 80 and 90 % of the expert."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    caption = "tasks at 50, 80 and 90 % of the expert or above; IQM: interquartile mean"
    table.caption, table.caption_justify = caption, "left"
    table.add_column("suite", no_wrap=True)
    for name in ("tasks", "mean", "median", "IQM", "50 %", "80 %", "90 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, suite in scores.suite_rows:
        counts = (_count(suite, share) for share in (suite.above_50, suite.above_80, suite.above_90))
        kinds = (_interval(suite, kind) for kind in ("mean", "median", "iqm"))
        style = "bold" if name == "all" else ""
        table.add_row(name, str(suite.n_scored), *kinds, *counts, style=style)
    return table


def _count(suite: SuiteScore, share: float | None) -> str:
    return number(None) if share is None else str(round(share * suite.n_scored))


def _interval(suite: SuiteScore, kind: str) -> Text:
    """A value with its interval under it."""
    text = Text(number(getattr(suite, kind)))
    if kind in suite.intervals:
        low, high = suite.intervals[kind]
        text.append(f"\n{number(low)}–{number(high)}", style="dim")
    return text


def comparison_table(comparison: Comparison, *, fold: bool = False) -> Table:
    """The first agent's score, the second's, and their paired difference: for each task, each suite and all."""
    caption = "* significant: a test by drawing signs, Holm's rule at 5 % over all tasks or suites"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("task", no_wrap=True, min_width=18)
    for name in (comparison.first, comparison.second):
        table.add_column(name, justify="right", overflow="fold")
    for name in ("difference", "95 %", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    groups = by_suite(comparison.tasks)
    for suite, names in groups.items():
        if suite in comparison.suites:
            table.add_row(*_difference_row(suite, comparison.suites[suite]), style="bold")
        keys = {name: -abs(comparison.tasks[name].difference) for name in names}
        shown, rest = _folded(names, keys, fold=fold)
        for name in shown:
            table.add_row(*_difference_row(f"  {short(name)}", comparison.tasks[name]))
        if rest:
            most = max(abs(comparison.tasks[name].difference) for name in rest)
            table.add_row(Text(f"  and {len(rest)} more", style="dim"), "", "", Text(f"≤ {number(most)} ", style="dim"))
        table.add_section()
    if comparison.overall is not None and len(comparison.suites) > 1:
        table.add_row(*_difference_row("all", comparison.overall), style="bold")
    return table


def _difference_row(name: str, found: Difference) -> tuple[str | Text, ...]:
    digits = 2 if found.normalised else 1
    sign = "+" if round(found.difference, digits) > 0 else ""
    style = "" if not found.significant else "green" if found.difference > 0 else "red"
    return (
        name,
        number(found.first, digits),
        number(found.second, digits),
        Text(f"{sign}{number(found.difference, digits)}{'*' if found.significant else ' '}", style=style),
        f"{number(found.low, digits)} – {number(found.high, digits)}",
        "<0.001" if found.p < 0.001 else number(found.p, 3),
    )
