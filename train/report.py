"""`report.html`: everything about a run on one page, in one file that works offline.

    write_report(run / "report.html", ReportData(scores=scores, captions=…, text=…, films=…, …))

Scores against random and expert, a film of each agent, pictures with the model's captions, text that it continued,
learning curves, timesteps token by token, and how all of it was made. Whatever a run does not have is left out. The
page loads nothing from anywhere: styles, pictures and films are inside it.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gato_lite.envs.format import versions
from gato_lite.train.inspect import TokenStream
from gato_lite.train.report_curves import curve_section
from gato_lite.train.report_sections import (
    film_section,
    number,
    percent,
    picture_section,
    score_section,
    stream_section,
    text_section,
)

if TYPE_CHECKING:
    from gato_lite.train.evaluate import Scores
    from gato_lite.train.language import CaptionScore, TextScore

MAX_PAGE_BYTES: Final = 15_000_000
"""Largest page."""

_PACKAGES: Final = ("gato_lite", "torch", "numpy", "gymnasium", "minigrid")
_POLICY: Final = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that a report shows."""

    run: str
    """The run's folder, as a user would type it."""
    command: str
    """What was typed to make it."""
    scores: Scores
    """Per task and suite."""
    n_parameters: int
    """Trained scalars."""
    training_minutes: float
    """Of training alone."""
    total_minutes: float | None = None
    """From the start of the command; None where it is not known."""
    captions: CaptionScore | None = None
    text: TextScore | None = None
    films: Mapping[str, Path] = field(default_factory=dict)
    """The .mp4 of each task, in the order shown."""
    streams: Sequence[TokenStream] = ()
    """Timesteps and documents to draw token by token."""
    metrics: Sequence[Mapping[str, Any]] = ()  # Any: JSON
    """Lines of `metrics.jsonl`."""
    config: Mapping[str, object] = field(default_factory=dict)
    """How it was trained."""
    seeds: Mapping[str, object] = field(default_factory=dict)
    """What each seed was for."""
    versions: Mapping[str, str] = field(default_factory=lambda: versions(*_PACKAGES))
    """Of the packages that matter."""
    machine: str = field(default_factory=lambda: machine())
    credits: str = ""
    """Who made the pictures that are shown, as their licence asks it to be said."""

    @property
    def mean_normalised(self) -> float | None:
        """Mean over tasks of (score − random) / (expert − random)."""
        known = [score.normalised for score in self.scores.tasks.values() if score.normalised is not None]
        return sum(known) / len(known) if known else None

    @property
    def babyai_success(self) -> float | None:
        """Mean share of solved levels over the BabyAI tasks."""
        suite = self.scores.suites.get("babyai")
        return None if suite is None else suite.success


def read_metrics(run: Path | str) -> list[dict[str, Any]]:  # Any: JSON
    """The lines of a run's `metrics.jsonl`; a last line that was cut is left out."""
    path = Path(run) / "metrics.jsonl"
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def machine() -> str:
    """This machine in a few words."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        name = named[0] if named else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {name}, {platform.system()}"


def write_report(path: Path | str, data: ReportData) -> Path:
    """Writes the page.

    Args:
        path: of the .html file; it is replaced.
        data: what to show.

    Returns:
        `path`.

    Raises:
        ValueError: the page would be larger than 15 MB; the message says what is.
    """
    path = Path(path)
    page = make_page(data).encode()
    if len(page) > MAX_PAGE_BYTES:
        raise ValueError(
            f"the report would be {len(page) / 1e6:.1f} MB, at most {MAX_PAGE_BYTES / 1e6:.0f} fit; pass fewer pictures, "
            f"texts or streams (films are kept below 14 MB by themselves)"
        )
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(page)
    partial.replace(path)
    return path


def make_page(data: ReportData) -> str:
    """The page's HTML."""
    sections = [section for section in _sections(data) if section[3]]
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{escape(title)}</h2><p class="about">{about}</p>{content}</section>'
        for key, title, about, content in sections
    )
    folder = Path(__file__).parent
    style, script = ((folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>gato_lite: {escape(data.run)}</title><style>{style}</style></head><body>"
        f'<header><div class="name">gato_lite</div>{_headline(data, links)}</header>'
        f"<main>{body}</main>{_footer(data)}<script>{script}</script></body></html>\n"
    )


def _sections(data: ReportData) -> list[tuple[str, str, str, str]]:
    """Key, title, a line about it, and content of each section."""
    scores, captions, text = data.scores, data.captions, data.text
    episodes = sorted({score.episodes for score in scores.tasks.values()})
    counts = f"{episodes[0]}" + (f" to {episodes[-1]}" if len(episodes) > 1 else "") if episodes else "0"
    found = [
        (
            "films",
            "Watch it act",
            "The first evaluation episodes of each task, neither chosen nor tried twice. Words under a picture are what "
            "the agent was told.",
            film_section(data.films, scores) if data.films else "",
        ),
        (
            "scores",
            "Scores",
            f"{counts} episodes of each task on seeds that no training data has. 0 is a random policy, 1 the expert that "
            "recorded the data; black lines are 95 % bootstrap intervals.",
            score_section(scores) if scores.tasks else "",
        ),
    ]
    if captions is not None:
        told = (
            f"{captions.n} held-out pictures: each shows a known thing in a style in which it was never seen. The model "
            f"names {percent(captions.exact)} to the letter, the most similar training picture {percent(captions.baseline_exact)}."
        )
        found.append(("pictures", "Pictures it names", told, picture_section(captions)))
    if text is not None:
        told = (
            f"Held-out text costs the model {number(text.bits_per_byte)} bits per byte; piece frequencies "
            f"{number(text.unigram)}, xz after reading the training text {number(text.xz)}. Less is better."
        )
        found.append(("text", "Text it continues", told, text_section(text)))
    found += [
        ("curves", "How it learned", "Of one run, one model, all tasks at once.", curve_section(data.metrics)),
        (
            "tokens",
            "What it reads",
            "One timestep or document of each, token by token: all the model ever sees, as one flat stream of ids. The "
            "number in a box is its id.",
            stream_section(data.streams) if data.streams else "",
        ),
        ("made", "How it was made", "Everything needed to make this page again.", _facts(data)),
    ]
    return found


# -- headline


def _headline(data: ReportData, links: str) -> str:
    n_task = len(data.scores.tasks)
    does = [f"plays {n_task} tasks"] if n_task else []
    does += ["names pictures"] if data.captions is not None else []
    does += ["writes"] if data.text is not None else []
    title = "One set of weights " + (", ".join(does[:-1]) + " and " + does[-1] if len(does) > 1 else "".join(does))
    lead = (
        f"A Transformer of {_millions(data.n_parameters)} parameters, trained for {number(data.training_minutes, 1)} minutes "
        f"on {escape(data.machine)}. All that follows is what it did with episodes, pictures and texts that it never saw."
    )
    cards = "".join(_cards(data))
    return f'<h1>{escape(title)}</h1><p class="lead">{lead}</p><nav>{links}</nav><div class="cards">{cards}</div>'


def _cards(data: ReportData) -> list[str]:
    cards = []
    n_task = len(data.scores.tasks)
    if data.mean_normalised is not None:
        mean = data.mean_normalised
        rows = [("model", mean, number(mean), True), ("expert", 1.0, "1.00", False), ("random", 0.0, "0.00", False)]
        cards.append(_card("Mean score between random and expert", number(mean), f"{n_task} tasks", _versus(rows)))
    if data.babyai_success is not None:
        levels = {name: score for name, score in data.scores.tasks.items() if name.startswith("babyai/")}
        random = _mean([score.random for score in levels.values()])
        expert = _mean([score.expert for score in levels.values()])
        rows = [("model", data.babyai_success, percent(data.babyai_success), True)]
        rows += [(n, v, percent(v), False) for n, v in (("expert", expert), ("random", random)) if v is not None]
        cards.append(_card("BabyAI levels solved", percent(data.babyai_success), f"{len(levels)} kinds", _versus(rows)))
    if data.captions is not None:
        exact, baseline = data.captions.exact, data.captions.baseline_exact
        rows = [("model", exact, percent(exact), True), ("most similar", baseline, percent(baseline), False)]
        cards.append(_card("Pictures named to the letter", percent(exact), f"of {data.captions.n}", _versus(rows)))
    if data.text is not None:
        text = data.text
        rows = [("model", text.bits_per_byte, number(text.bits_per_byte), True)]
        rows += [(n, v, number(v), False) for n, v in (("xz", text.xz), ("unigram", text.unigram))]
        cards.append(_card("Held-out text", number(text.bits_per_byte), "bits per byte", _versus(rows)))
    total = "" if data.total_minutes is None else f"{number(data.total_minutes, 1)} minutes in all, recording to this page"
    cards.append(_card("Training", number(data.training_minutes, 1), "minutes", escape(total)))
    cards.append(_card("Parameters", _millions(data.n_parameters), "", "one network, one set of weights"))
    return cards


def _card(label: str, figure: str, unit: str, beside: str) -> str:
    small = f"<small>{escape(unit)}</small>" if unit else ""
    return (
        f'<div class="card"><div class="label">{escape(label)}</div><div class="figure">{figure}{small}</div>'
        f'<div class="beside">{beside}</div></div>'
    )


def _versus(rows: Sequence[tuple[str, float, str, bool]]) -> str:
    """Name, value, its text, whether it is the model's: as bars on one scale."""
    longest = max([1e-9, *(value for _, value, _, _ in rows)])
    cells = "".join(
        f'<span class="{"own" if own else ""}">{escape(name)}</span>'
        f'<div class="rail"><i style="width:{100 * max(value, 0) / longest:.1f}%"></i></div><b>{text}</b>'
        for name, value, text, own in rows
    )
    return f'<div class="versus">{cells}</div>'


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f}\u202fM" if count < 10_000_000 else f"{count / 1e6:,.0f}\u202fM"


# -- provenance


def _facts(data: ReportData) -> str:
    machine_rows = {"machine": data.machine, **data.versions}
    tables = "".join(
        f"<div><h3>{title}</h3><table>{_fact_rows(rows)}</table></div>"
        for title, rows in (("Training", data.config), ("Seeds", data.seeds), ("Machine and versions", machine_rows))
        if rows
    )
    return f'<pre>{escape(data.command)}</pre><div class="facts">{tables}</div>'


def _fact_rows(rows: Mapping[str, object]) -> str:
    return "".join(f"<tr><td>{escape(name)}</td><td>{escape(_told(value))}</td></tr>" for name, value in rows.items())


def _told(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_told, value))
    return "–" if value is None else str(value)


def _footer(data: ReportData) -> str:
    return (
        f"<footer>Made by gato_lite {escape(data.versions.get('gato_lite', ''))} from <code>{escape(data.run)}</code>. "
        f"{escape(data.credits)}</footer>"
    )
