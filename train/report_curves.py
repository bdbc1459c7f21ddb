"""Learning curves as inline SVG: lines, axes with round numbers, and a little picture for each task.

Colours come from the page's style sheet, so that a curve follows the reader's light or dark theme; lines of one chart
differ in their dashes too, and are named at their ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

WIDTH: Final = 440
"""Of a chart in its own units; the page scales it."""
HEIGHT: Final = 220
SMALL: Final = (150, 46)
"""Width and height of a chart without axes."""
MAX_POINTS: Final = 160
"""Points of a line; longer ones are averaged down."""

Metrics = Sequence[Mapping[str, Any]]
"""Lines of `metrics.jsonl`. Any: JSON."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    style: str = ""
    """Class of the style sheet."""


def curve_section(metrics: Metrics) -> str:
    """All learning curves of a run: loss in total, by modality and by task, and scores during training if there."""
    if len(metrics) < 2:
        return ""
    x = np.array([line["elapsed_s"] for line in metrics], np.float64) / 60
    total = _series("loss", metrics, x, lambda line: line.get("loss"))
    charts = []
    if total is not None:
        smooth = Series("", total.x, _smooth(total.y))
        raw = Series("", total.x, total.y, "raw")
        charts.append(figure("Loss", "nats per target token", chart([raw, smooth])))
    for key, title, unit in (
        ("loss_by_modality", "Loss by kind of target", "nats per target token"),
        ("score_by_suite", "Score during training", "0 random, 1 expert"),
        ("solved_by_suite", "Levels solved in the model's own short episodes", "share, at temperature 0.5"),
    ):
        lines = _grouped(key, metrics, x)[:3]
        if lines:
            styled = [Series(s.name, s.x, _smooth(s.y) if "loss" in key else s.y, f"c{i}") for i, s in enumerate(lines)]
            charts.append(figure(title, unit, chart(styled)))
    small = [_small(series) for series in _grouped("loss_by_task", metrics, x)]
    parts = [f'<div class="charts">{"".join(charts)}</div>' if charts else ""]
    if small:
        parts.append("<h3>Loss of each source</h3>")
        parts.append(f'<div class="small">{"".join(small)}</div>')
    return "".join(parts)


def _series(name: str, metrics: Metrics, x: npt.NDArray[np.float64], value: Any) -> Series | None:  # Any: a function
    found = [(at, value(line)) for at, line in zip(x.tolist(), metrics, strict=True)]
    points = [(at, float(y)) for at, y in found if y is not None and math.isfinite(y)]
    if len(points) < 2:
        return None
    array = _thinned(np.array(points, np.float64))
    return Series(name, array[:, 0], array[:, 1])


def _grouped(key: str, metrics: Metrics, x: npt.NDArray[np.float64]) -> list[Series]:
    """A line for each name under `key`, in the order in which they first occur."""
    names = list(dict.fromkeys(name for line in metrics for name in line.get(key, {})))
    found = (_series(name, metrics, x, lambda line, name=name: line.get(key, {}).get(name)) for name in names)
    return [series for series in found if series is not None]


def _thinned(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """At most `MAX_POINTS` means of neighbouring points."""
    if len(points) <= MAX_POINTS:
        return points
    return np.array([part.mean(0) for part in np.array_split(points, MAX_POINTS)])


def _smooth(y: npt.NDArray[np.float64], weight: float = 0.75) -> npt.NDArray[np.float64]:
    """Exponential mean from the left."""
    smooth = y.copy()
    for index in range(1, len(y)):
        smooth[index] = weight * smooth[index - 1] + (1 - weight) * y[index]
    return smooth


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that span [low, high], about `count` of them."""
    span = high - low
    if not span > 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= count + 0.5)
    first = math.ceil(low / step - 1e-9)
    return [round(step * index, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def chart(lines: Sequence[Series]) -> str:
    """A chart over minutes of training, the loss from 0 up."""
    left, right, top, bottom = 34, 12, 10, 38
    named = any(line.name for line in lines)
    if named:
        right = 12 + round(6.6 * max(len(line.name) for line in lines))
    x_high = max(float(line.x.max()) for line in lines)
    y_high = max(float(line.y.max()) for line in lines) * 1.04 or 1.0
    y_low = min(0.0, *(float(line.y.min()) for line in lines))

    def px(x: float) -> float:
        return left + (WIDTH - left - right) * x / (x_high or 1.0)

    def py(y: float) -> float:
        return HEIGHT - bottom - (HEIGHT - top - bottom) * (y - y_low) / (y_high - y_low)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_told(lines))}">']
    for y in ticks(y_low, y_high):
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>')
        parts.append(f'<text x="{left - 7}" y="{py(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    base = HEIGHT - bottom + 17
    parts += [f'<text x="{px(x):.1f}" y="{base}" text-anchor="middle">{x:g}</text>' for x in ticks(0.0, x_high)]
    parts.append(f'<text x="{WIDTH - right}" y="{HEIGHT - 5}" text-anchor="end">minutes of training</text>')
    for line in lines:
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(line.x, line.y, strict=True))
        parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
    if named:
        ends = _apart([py(float(line.y[-1])) for line in lines], 14, HEIGHT - bottom)
        for line, y in zip(lines, ends, strict=True):
            style = line.style.replace("c", "t")
            x = px(float(line.x[-1])) + 6
            parts.append(f'<text class="label {style}" x="{x:.1f}" y="{y + 4:.1f}">{escape(line.name)}</text>')
    return "".join((*parts, "</svg>"))


def _apart(places: Sequence[float], distance: float, lowest: float) -> list[float]:
    """`places` moved so that labels do not overlap."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + distance)
    over = max(moved) - lowest
    return [place - over for place in moved] if over > 0 else moved


def _told(lines: Sequence[Series]) -> str:
    told = [f"{line.name or 'value'} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines]
    return "line chart over minutes of training: " + ", ".join(told[-3:])


def _small(line: Series) -> str:
    """A chart without axes; the number is the last value."""
    width, height = SMALL
    y = _smooth(line.y, 0.6)
    high = float(y.max()) * 1.05 or 1.0
    x = (line.x - line.x[0]) / max(float(np.ptp(line.x)), 1e-9) * width
    points = [f"{a:.1f},{height - 2 - (height - 6) * b / high:.1f}" for a, b in zip(x, y, strict=True)]
    told = escape(f"{line.name}: loss from {line.y[0]:.3g} to {line.y[-1]:.3g}")
    return small_chart(line.name, f"{y[-1]:.2f}", told, points)


def small_chart(name: str, number: str, told: str, points: Sequence[str]) -> str:
    """A line over its area in `SMALL` units.

    Args:
        name: above it; of "SUITE/TASK" the task is shown.
        number: beside the name.
        told: what it shows, in words, as HTML.
        points: "x,y" from left to right.
    """
    width, height = SMALL
    return (
        f'<figure class="chart"><figcaption><b title="{escape(name)}">{escape(name.rpartition("/")[2])}</b>'
        f"<span>{number}</span></figcaption>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{told}">'
        f'<polygon class="area" points="0,{height} {" ".join(points)} {width},{height}"/>'
        f'<polyline class="line" points="{" ".join(points)}"/></svg></figure>'
    )


def figure(title: str, unit: str, svg: str) -> str:
    """A chart under its title."""
    caption = f"{escape(title)} <span>· {escape(unit)}</span>"
    return f'<figure class="chart"><figcaption>{caption}</figcaption>{svg}</figure>'
