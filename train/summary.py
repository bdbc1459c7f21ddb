"""A report in short, for the end of `gato-lite demo` in a terminal."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gato_lite.train.report_data import ReportData
from gato_lite.train.score_tables import task_table
from gato_lite.train.wording import number, percent


def summary_table(data: ReportData, report: Path | None = None) -> RenderableType:
    """Scores of each task, the language scores beside their baselines, and what to try next.

    Args:
        data: of the report.
        report: the page, to be opened; None where there is none.
    """
    parts: list[RenderableType] = []
    if data.scores.tasks:
        parts.append(task_table(data.scores))
    if data.captions is not None or data.text is not None:
        parts.append(_language(data))
    parts.append(_next(data, report))
    return Group(*parts)


def _language(data: ReportData) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("beyond acting")
    table.add_column("model", justify="right", style="bold")
    table.add_column("to beat", style="dim")
    if data.babyai_success is not None:
        table.add_row("BabyAI levels solved", percent(data.babyai_success), "")
    if data.captions is not None:
        rival = f"{percent(data.captions.baseline_exact)} by the most similar picture"
        table.add_row("held-out pictures named to the letter", percent(data.captions.exact), rival)
    if data.text is not None:
        rivals = f"{number(data.text.xz)} by xz, {number(data.text.unigram)} by piece frequencies"
        table.add_row("bits per byte of held-out text, less is better", number(data.text.bits_per_byte), rivals)
    return table


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
    commands = [(f'gato-lite prompt {data.run} "The old house"', "let it write")] if data.text is not None else []
    commands += [
        (f"gato-lite inspect {data.run}", "see what it reads, token by token"),
        (f"gato-lite eval {data.run} --episodes 200 --video films", "measure it more closely, and film it"),
        ("gato-lite demo --minutes 60 --out runs/hour", "give it an hour"),
    ]
    width = max(len(command) for command, _ in commands)
    for command, what in commands:
        text.append(f"  {command.ljust(width)}", style="bold cyan").append(f"   {what}\n", style="dim")
    return text
