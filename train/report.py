"""`report.html`: everything about a run on one page, in one file that works offline.

    write_report(run / "report.html", ReportData(scores=scores, films=…, …))

Scores against random and expert, a film of each agent, pictures with the model's captions, text that it continued,
learning curves, timesteps token by token, and how all of it was made. Whatever a run does not have is left out. The
page loads nothing from anywhere: styles, pictures and films are inside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gato_lite.train.report_curves import curve_section
from gato_lite.train.report_data import ReportData, mean
from gato_lite.train.report_documents import DOES, abilities, document_section, is_share, rivals, shown
from gato_lite.train.report_scores import comparison_section, published_section, score_section
from gato_lite.train.report_sections import film_section, stream_section, versus
from gato_lite.train.wording import number, percent
from gato_lite.whole import replacing

if TYPE_CHECKING:
    from gato_lite.train.scores import Scores, SuiteScore

MAX_PAGE_BYTES: Final = 15_000_000
"""Largest page."""

_POLICY: Final = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


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
            f"the report would be {len(page) / 1e6:.1f} MB, expected at most {MAX_PAGE_BYTES / 1e6:.0f}; pass fewer "
            "pictures, texts or streams (films are kept below 14 MB by themselves)"
        )
    with replacing(path) as temporary:
        temporary.write_bytes(page)
    return path


@dataclass(frozen=True)
class Section:
    """One part of the page; left out where it has no content."""

    key: str
    """What a link to it is called."""
    title: str
    about: str
    """A line or two for people who see it for the first time."""
    content: str
    """HTML."""

    def html(self) -> str:
        """The section's HTML."""
        heading = f'<h2>{escape(self.title)}</h2><p class="about">{escape(self.about)}</p>'
        return f'<section id="{self.key}">{heading}{self.content}</section>'


def make_page(data: ReportData) -> str:
    """The page's HTML."""
    sections = [section for section in _sections(data) if section.content]
    links = "".join(f'<a href="#{section.key}">{escape(section.title)}</a>' for section in sections)
    folder = Path(__file__).parent
    style, script = ((folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>gato_lite: {escape(data.run)}</title><style>{style}</style></head><body>"
        f'<header><div class="name">gato_lite</div>{_headline(data, links)}</header>'
        f"<main>{''.join(section.html() for section in sections)}</main>"
        f"{_footer(data)}<script>{script}</script></body></html>\n"
    )


def _sections(data: ReportData) -> list[Section]:
    found = []
    if data.films:
        about = (
            "The first evaluation episodes of each task, neither chosen nor tried twice. "
            "Words above a picture are what the agent was told."
        )
        if data.scores.tasks.keys() - data.films.keys():
            about += " Of a suite of many tasks: the weakest, the middle one and the strongest."
        found.append(Section("films", "Watch it act", about, film_section(data.films, data.scores)))
    if data.scores.tasks:
        found.append(Section("scores", "Scores", _about_scores(data), score_section(data.scores)))
    found += _side_by_side(data.scores)
    for name, score in data.scores.documents.items():
        told, content = document_section(name, score)
        does = DOES[score.ability]
        found.append(Section(name.replace("/", "-"), f"{does[0].upper()}{does[1:]}: {name}", told, content))
    curves = curve_section(data.metrics)
    found.append(Section("curves", "How it learned", "One run, one model, everything at once.", curves))
    if data.streams:
        about = (
            "One timestep or document of each, token by token: all that the model ever sees, as one flat stream. "
            "The number in a box is the token's id."
        )
        found.append(Section("tokens", "What it reads", about, stream_section(data.streams)))
    found.append(Section("made", "How it was made", "Everything needed to make this page again.", _facts(data)))
    return found


def _side_by_side(scores: Scores) -> list[Section]:
    """The same episodes with prompts, those of another run, and what others published."""
    found = []
    pairs = "Both played the same episodes; lines are 95\u202f% intervals of the paired difference. "
    test = "Significant is what a test by drawing signs finds among all tasks (Holm's rule, 5\u202f%)."
    if scores.prompt_gain is not None:
        about = "A recorded episode of the task before each of the model's own. " + pairs + test
        found.append(Section("prompts", "Prompted against unprompted", about, comparison_section(scores.prompt_gain)))
    if scores.against is not None:
        title = f"{scores.against.first} against {scores.against.second}"
        found.append(Section("against", title, pairs + test, comparison_section(scores.against)))
    about = "Published scores of the same tasks, with what differs: read them as an order of magnitude."
    found.append(Section("published", "Beside other generalists", about, published_section(scores)))
    return found


def _about_scores(data: ReportData) -> str:
    episodes = sorted({score.episodes for score in data.scores.tasks.values()})
    counts = f"{episodes[0]}" + (f" to {episodes[-1]}" if len(episodes) > 1 else "")
    return (
        f"{counts} episodes of each task on seeds that no training data has. 0 is a random policy, 1 the expert; "
        "lines over bars, and small numbers, are 95\u202f% intervals by resampling episodes within each task."
    )


# -- headline


def _headline(data: ReportData, links: str) -> str:
    n_task = len(data.scores.tasks)
    does = [f"plays {n_task} tasks"] if n_task else []
    does += abilities(data.scores.documents)
    title = "One set of weights " + (", ".join(does[:-1]) + " and " + does[-1] if len(does) > 1 else "".join(does))
    where = f" on {data.machine}" if data.total_minutes is not None else ""  # trained and evaluated by one command
    trained = f", trained for {number(data.training_minutes, 1)} minutes{where}" if data.training_minutes else ""
    lead = (
        f"A Transformer of {_millions(data.n_parameters)} parameters{trained}. "
        "All that follows is what it did with episodes, pictures and texts that it never saw."
    )
    cards = "".join(_cards(data))
    return (
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p><nav>{links}</nav><div class="cards">{cards}</div>'
    )


def _cards(data: ReportData) -> list[str]:
    cards = []
    n_task = len(data.scores.tasks)
    if data.mean_normalised is not None:
        score = data.mean_normalised
        rows = [("model", score, number(score), True), ("expert", 1.0, "1.00", False), ("random", 0.0, "0.00", False)]
        unit = f"{n_task} tasks"
        overall = data.scores.overall
        if overall is not None and "mean" in overall.intervals:
            low, high = overall.intervals["mean"]
            unit = f"{number(low)} – {number(high)}, {n_task} tasks"
        cards.append(_card("Mean score between random and expert", number(score), unit, versus(rows)))
    cards += _expert_card(data.scores.overall)
    if data.babyai_success is not None:
        levels = {name: score for name, score in data.scores.tasks.items() if name.startswith("babyai/")}
        random = mean([score.random for score in levels.values()])
        expert = mean([score.expert for score in levels.values()])
        rows = [("model", data.babyai_success, percent(data.babyai_success), True)]
        rows += [(n, v, percent(v), False) for n, v in (("expert", expert), ("random", random)) if v is not None]
        cards.append(_card("BabyAI levels solved", percent(data.babyai_success), f"{len(levels)} kinds", versus(rows)))
    for name, found in data.scores.documents.items():
        unit = f"of {found.n:,}" if is_share(found) else ""
        label = f"{name.partition('/')[2]}: {found.metric}"
        cards.append(_card(label, shown(found, found.mean), unit, versus(rivals(found, most=2))))
    total = (
        "" if data.total_minutes is None else f"{number(data.total_minutes, 1)} minutes in all, recording to this page"
    )
    if data.training_minutes:
        cards.append(_card("Training", number(data.training_minutes, 1), "minutes", escape(total)))
    cards.append(_card("Parameters", _millions(data.n_parameters), "", "one network, one set of weights"))
    return cards


def _expert_card(overall: SuiteScore | None) -> list[str]:
    if overall is None or overall.above_50 is None or overall.above_80 is None or overall.above_90 is None:
        return []
    shares = (("80 %", overall.above_80), ("90 %", overall.above_90))
    counts = [(name, share, str(round(share * overall.n_scored)), False) for name, share in shares]
    half = round(overall.above_50 * overall.n_scored)
    rows = [("50 %", overall.above_50, str(half), True), *counts]
    return [_card("Tasks above half the expert's score", str(half), f"of {overall.n_scored}", versus(rows))]


def _card(label: str, figure: str, unit: str, beside: str) -> str:
    small = f"<small>{escape(unit)}</small>" if unit else ""
    return (
        f'<div class="card"><div class="label">{escape(label)}</div><div class="figure">{figure}{small}</div>'
        f'<div class="beside">{beside}</div></div>'
    )


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
    return f'<pre>{escape(data.command)}</pre>{_stages(data.seconds)}<div class="facts">{tables}</div>'


def _stages(seconds: Mapping[str, float]) -> str:
    """What the time went to, as one bar in as many parts."""
    total = sum(seconds.values())
    if total <= 0:
        return ""
    parts = "".join(
        f'<div style="--share:{max(value / total, 0.004):.4f}"><i></i><span>{escape(name)}'
        f"<br> <b>{number(value, 0)} s</b></span></div>"
        for name, value in seconds.items()
    )
    return f'<div class="stages">{parts}</div>'


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
