"""The parts of a report that show films and tokens, each a function from values to HTML, and what other parts share."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gato_lite.train.token_rows import TokenRow, TokenStream, patch_png
from gato_lite.train.wording import number, percent, short

if TYPE_CHECKING:
    from gato_lite.train.scores import Scores, TaskScore

FILM_BUDGET: Final = 10_000_000
"""Bytes of all films in a page; the rest of it stays below 15 MB with them."""
LEGEND: Final = {
    "text": "text piece",
    "patch": "image patch",
    "chunk": "up to 32 scalars",
    "discrete": "discrete value",
    "bin": "bin of a scalar",
    "end": "end, separator",
}
"""Kinds of tokens in words."""


def data_uri(kind: str, data: bytes) -> str:
    """`data` inside the page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def versus(rows: Sequence[tuple[str, float, str, bool]]) -> str:
    """Name, value, its text, whether it is the model's: as bars on one scale."""
    longest = max([1e-9, *(value for _, value, _, _ in rows)])
    cells = "".join(
        f'<span class="{"own" if own else ""}">{escape(name)}</span>'
        f'<div class="rail"><i style="width:{100 * max(value, 0) / longest:.1f}%"></i></div><b>{text}</b>'
        for name, value, text, own in rows
    )
    return f'<div class="versus">{cells}</div>'


# -- films


def film_section(films: Mapping[str, Path], scores: Scores) -> str:
    """A film of each task, playable in the page; those beyond the page's budget are named."""
    left = FILM_BUDGET
    figures = []
    for name, path in films.items():
        data = path.read_bytes()
        left -= len(data)
        shown = f'<div class="lost">left out to keep the page small:<br>{escape(path.name)}</div>'
        if left >= 0:
            shown = (
                f'<video controls loop muted playsinline preload="metadata" aria-label="{escape(name)}"'
                f' src="{data_uri("video/mp4", data)}"></video>'
            )
        figures.append(
            f'<figure class="film">{shown}<figcaption><b>{escape(short(name))}</b>'
            f"<span>{_in_short(name, scores.tasks.get(name))}</span></figcaption></figure>"
        )
    return f'<div class="films">{"".join(figures)}</div>'


def _in_short(name: str, score: TaskScore | None) -> str:
    suite = escape(name.rpartition("/")[0])
    if score is None:
        return suite
    result = f"{percent(score.success)} solved" if score.success is not None else f"mean return {number(score.mean, 0)}"
    return f"{suite} · {result}" if suite else result


# -- tokens


def stream_section(streams: Sequence[TokenStream]) -> str:
    """Each stream as boxes, token by token, grouped by what they are a part of."""
    kinds = "".join(f'<li class="k-{kind}"><i></i>{words}</li>' for kind, words in LEGEND.items())
    legend = f'<ul class="legend">{kinds}<li>◆ ringed: the loss asks for it</li></ul>'
    parts = [legend]
    for stream in streams:
        groups = "".join(
            f'<div class="leaf"><span>{escape(name)}</span><div class="tokens">{"".join(map(_token, rows))}</div></div>'
            for name, rows in groupby(stream.rows, key=lambda row: row.leaf)
        )
        more = stream.n_tokens - len(stream.rows)
        told = f"{stream.about} · {stream.n_tokens} tokens" + (f", {more} not shown" if more else "")
        parts.append(
            f'<h3>{escape(stream.name)}</h3><p class="told">{escape(told)}</p><div class="stream">{groups}</div>'
        )
    return "".join(parts)


def _token(row: TokenRow) -> str:
    title = f"position {row.position}, id {row.id}: {row.description}"
    if row.local:
        title += f", place {row.local} in the {row.leaf.split('/')[0]}"
    if row.values:
        title += "; " + " ".join(f"{value:.3g}" for value in row.values)
    body = f"<b>{escape(_label(row))}</b>"
    if row.patch is not None:
        size = "×".join(map(str, row.patch.shape))
        body = f'<img src="{data_uri("image/png", patch_png(row.patch))}" alt="patch {size}">'
    elif row.kind == "chunk":
        few = " ".join(number(value) for value in row.values) if len(row.values) <= 6 else ""
        body = f"<b>{len(row.values)} scalars</b>{_value_bars(row.values)}" + (f"<small>{few}</small>" if few else "")
    target = " target" if row.is_target else ""
    return f'<div class="token k-{row.kind}{target}" title="{escape(title)}">{body}<small>{row.id}</small></div>'


def _label(row: TokenRow) -> str:
    if row.kind == "text":
        piece = row.description.removeprefix("text '").removesuffix("'")
        return piece.replace("▁", "␣").replace("\n", "⏎")
    if row.kind == "bin" and row.values:
        return f"{row.description} → {row.values[0]:.2f}".replace("-", "−")
    return row.description


def _value_bars(values: Sequence[float]) -> str:
    """Values in [-1, 1] as bars around a middle line."""
    step, half = (9, 17) if len(values) <= 12 else (4, 17)
    bars = "".join(
        f'<rect x="{index * step + 1}" y="{half - max(value, 0) * (half - 1):.1f}" width="{step - 2}"'
        f' height="{max(abs(value) * (half - 1), 0.6):.1f}" rx="1"/>'
        for index, value in enumerate(values)
    )
    width, height = len(values) * step + 1, 2 * half
    line = f'<line x1="0" x2="{width}" y1="{half}" y2="{half}"/>'
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg {size} aria-hidden="true">{bars}{line}</svg>'
