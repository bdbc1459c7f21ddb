"""A report in short, for the end of `gato-lite demo` in a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from gato_lite.train.report_data import ReportData
from gato_lite.train.report_documents import abilities
from gato_lite.train.score_tables import document_table, task_table
from gato_lite.train.wording import number


def summary_table(data: ReportData, report: Path | None = None) -> RenderableType:
    """Scores of each task, those of documents beside their baselines, and what to try next.

    Args:
        data: of the report.
        report: the page, to be opened; None where there is none.
    """
    parts: list[RenderableType] = []
    if data.scores.tasks:
        parts.append(task_table(data.scores))
    if data.scores.documents:
        parts.append(document_table(data.scores.documents))
    parts.append(_next(data, report))
    return Group(*parts)


def _next(data: ReportData, report: Path | None) -> Text:
    words = f"{data.n_parameters / 1e6:.2f} M parameters, {number(data.training_minutes, 1)} minutes of training"
    if data.total_minutes is not None:
        words += f", {number(data.total_minutes, 1)} in all"
    text = Text(f"{words}.\n")
    if report is not None:
        text.append("Open ").append(str(report), style="bold").append(
            " in a browser: it shows all of this, with films.\n"
        )
    text.append("\nTry next:\n")
    writes = "writes" in abilities(data.scores.documents)
    commands = [(f'gato-lite prompt {data.run} "The old house"', "let it write")] if writes else []
    commands += [
        (f"gato-lite inspect {data.run}", "see what it reads, token by token"),
        (f"gato-lite eval {data.run} --episodes 200 --video films", "measure it more closely, and film it"),
        ("gato-lite demo --minutes 60 --out runs/hour", "give it an hour"),
    ]
    width = max(len(command) for command, _ in commands)
    for command, what in commands:
        text.append(f"  {command.ljust(width)}", style="bold cyan").append(f"   {what}\n", style="dim")
    return text
