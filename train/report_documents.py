"""Held-out documents on the page: what was asked, what the model answered, what is right, and how that compares."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

from gato_lite.envs.format import Ability
from gato_lite.train.document_scores import Answer, DocumentScore
from gato_lite.train.report_sections import answered_picture, versus
from gato_lite.train.wording import number, percent

DOES: Final[dict[Ability, str]] = {
    "caption": "names pictures",
    "class": "sorts pictures",
    "question": "answers questions",
    "translation": "translates",
    "dialogue": "talks",
    "text": "writes",
}
"""What a model with an ability does."""
LESS_IS_BETTER: Final = ("bits per byte",)
_METRIC: Final[dict[str, str]] = {
    "bits per byte": "Less is better.",
    "chrF": "Of 100; how much the letters of both translations have in common.",
}


def document_section(name: str, score: DocumentScore) -> tuple[str, str]:
    """(about, HTML) of one dataset's held-out documents."""
    about = f"{score.n:,} held-out documents of {name}: {score.metric} {shown(score, score.mean)}"
    if score.low is not None and score.high is not None:
        about += f" ({shown(score, score.low)} to {shown(score, score.high)})"
    about += ", beside what needs no understanding. " + _METRIC.get(score.metric, "")
    bars = f'<div class="beside wide">{versus(rivals(score))}</div>'
    return about.strip(), bars + _groups(score) + answers(score)


def rivals(score: DocumentScore, most: int | None = None) -> list[tuple[str, float, str, bool]]:
    """The model and the best of its baselines, as `versus` takes them; `most` of these, or all."""
    best = sorted(score.baselines.items(), key=lambda item: item[1], reverse=score.metric not in LESS_IS_BETTER)[:most]
    rows = [("model", score.mean, shown(score, score.mean), True)]
    return rows + [(what, value, shown(score, value), False) for what, value in best]


def is_share(score: DocumentScore) -> bool:
    """Whether the metric is a share of the documents."""
    return score.metric not in _METRIC


def shown(score: DocumentScore, value: float) -> str:
    """A value of the score's metric."""
    return percent(value) if is_share(score) else number(value)


def _groups(score: DocumentScore) -> str:
    """The score of each group, and further metrics."""
    cells = {f"{name} ({n:,})": shown(score, value) for name, (value, n) in score.groups.items() if "/" not in name}
    cells |= {name: number(value) for name, value in score.more.items()}
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{value}</td></tr>" for name, value in cells.items())
    signatures = "".join(f'<p class="about">{escape(f"{name}: {told}")}</p>' for name, told in score.signatures.items())
    return (f'<table class="groups">{rows}</table>' if rows else "") + signatures


def answers(score: DocumentScore) -> str:
    """Some answers, right and wrong, evenly spread over the held-out documents."""
    pictures = [_picture(answer) for answer in score.examples if answer.image is not None]
    texts = [_text(answer) for answer in score.examples if answer.image is None]
    return (f'<div class="pictures">{"".join(pictures)}</div>' if pictures else "") + "".join(texts)


def _picture(answer: Answer) -> str:
    assert answer.image is not None
    note = " · ".join(part for part in (answer.prompt, answer.group) if part)
    return answered_picture(answer.image, answer.answer, answer.truth, note or None)


def _text(answer: Answer) -> str:
    columns = (("own", "the model answers", answer.answer), ("real", "what is right", answer.truth))
    two = "".join(f'<div class="{kind}"><h4>{what}</h4>{escape(text)}</div>' for kind, what, text in columns)
    prompt = f'<div class="prompt">{escape(answer.prompt)}</div>'
    return f'<article class="passage">{prompt}<div class="two">{two}</div></article>'


def abilities(documents: Mapping[str, DocumentScore]) -> list[str]:
    """What a model with these scores does, each once."""
    return list(dict.fromkeys(DOES[score.ability] for score in documents.values()))
