"""Held-out documents on the page: what was asked, what the model answered, what is right, and how that compares."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

from gato_lite.envs.format import Ability
from gato_lite.train.document_scores import Answer, DocumentScore, is_right
from gato_lite.train.report_sections import data_uri, versus
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
    if is_share(score):
        about += " Of the answers below a third at least are right and a third wrong, where there are so many."
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
    """Some answers: where answers are right or wrong, of wrong ones more than their share if they are few."""
    pictures = [_picture(answer) for answer in score.examples if answer.image is not None]
    show = _continued if score.ability == "text" else _answered
    texts = [show(answer) for answer in score.examples if answer.image is None]
    return (f'<div class="pictures">{"".join(pictures)}</div>' if pictures else "") + "".join(texts)


def _picture(answer: Answer) -> str:
    """One picture with what the model says of it, a sign for right or wrong, and a note."""
    assert answer.image is not None
    right = is_right(answer.answer, answer.truth)
    said = escape(answer.answer.strip()) or "<em>nothing</em>"
    meant = "" if right else f'<span class="truth">is: {escape(answer.truth)}</span>'
    note = " · ".join(part for part in (answer.prompt, answer.group) if part)
    small = f'<span class="style">{escape(note)}</span>' if note else ""
    verdict, sign = ("right", "✓") if right else ("wrong", "✗")
    mark = f'<span class="mark" aria-hidden="true">{sign}</span><span class="hidden">{verdict}: </span>'
    source = data_uri("image/png", answer.image)
    return (
        f'<figure class="picture {verdict}"><img src="{source}" alt="{escape(answer.truth)}"><figcaption>'
        f'<span class="line">{mark}<span class="said">{said}</span></span>{meant}{small}</figcaption></figure>'
    )


def _answered(answer: Answer) -> str:
    own, truth = escape(answer.answer), escape(answer.truth)
    return _passage(answer.prompt, ("the model answers", own), ("what is right", truth))


def _continued(answer: Answer) -> str:
    """A prompt that ends inside a word hands its last part on, so that both ends of the word can be read."""
    prompt, words = answer.prompt, answer.prompt.split()
    begun = "" if not words or answer.truth[:1].isspace() or prompt[-1:].isspace() else words[-1]
    handed = f"<i>{escape(begun)}</i>" if begun else ""
    own, truth = (f"{handed}{escape(text if begun else text.lstrip())} …" for text in (answer.answer, answer.truth))
    head = prompt.removesuffix(begun).strip()
    return _passage(head, ("the model goes on", own), ("the text goes on", truth))


def _passage(prompt: str, own: tuple[str, str], real: tuple[str, str]) -> str:
    """A prompt, and two texts after it with their headings, as HTML."""
    columns = (("own", *own), ("real", *real))
    two = "".join(f'<div class="{kind}"><h4>{what}</h4>{text}</div>' for kind, what, text in columns)
    return f'<article class="passage"><div class="prompt">{escape(prompt)}</div><div class="two">{two}</div></article>'


def abilities(documents: Mapping[str, DocumentScore]) -> list[str]:
    """What a model with these scores does, each once."""
    return list(dict.fromkeys(DOES[score.ability] for score in documents.values()))
