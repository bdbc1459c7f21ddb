"""What answering held-out documents comes to, as it is written to JSON and shown."""

from __future__ import annotations

import msgspec

from gato_lite.envs.format import Ability


def is_right(answer: str, truth: str) -> bool:
    """Whether they are the same to the letter, apart from case and spaces at the ends."""
    return answer.strip().lower() == truth.strip().lower()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One held-out document, answered."""

    image: bytes | None
    """PNG, if a picture was asked about."""
    prompt: str
    answer: str
    """What the model wrote."""
    truth: str
    group: str | None


class DocumentScore(msgspec.Struct, frozen=True, kw_only=True):
    """What a model does with the held-out documents of one dataset."""

    ability: Ability
    metric: str
    """What `mean` is."""
    mean: float
    low: float | None = None
    """Lower end of the 95 % bootstrap interval over documents; None for scores of a whole corpus."""
    high: float | None = None
    n: int
    """Documents."""
    beams: int = 1
    """Of the search that wrote the answers; 1 is greedy."""
    baselines: dict[str, float] = {}
    """The same metric of what needs no understanding."""
    more: dict[str, float] = {}
    """Other metrics."""
    groups: dict[str, tuple[float, int]] = {}
    """Metric and documents of each group and each part of a group's name."""
    signatures: dict[str, str] = {}
    """How sacrebleu computed its metrics."""
    examples: list[Answer] = []
