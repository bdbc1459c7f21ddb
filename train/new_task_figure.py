"""The figure of `gato_lite.train.new_task`: success by demonstrations, and old tasks before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from gato_lite.envs.catalogue import suite_of
from gato_lite.train.new_task_scores import Cell, Found
from gato_lite.train.scores import TaskScore

LOOKS: Final = {
    "tuned": ("from the run's weights", "#1f5fa8", "o", "-"),
    "nothing": ("from nothing", "#b3541e", "s", "-"),
    "rehearsed": ("from the run's weights, old tasks mixed in", "#4b8b3b", "^", "--"),
}
"""Label, colour, marker and line of each way."""
BEFORE: Final = ("the run as it was", "#555555", "D")


def draw(found: Found, path: Path) -> None:
    """Writes the figure to `path`, whose ending says how."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    look: dict[Any, Any] = {
        "svg.hashsalt": "new_task",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
    }
    with mpl.rc_context({**look, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _curves(left, found)
        _old(right, found)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=130)


def _curves(axes: Any, found: Found) -> None:  # Any: matplotlib has no types
    """Scores by demonstrations, with the run as it was, random actions and the expert as levels."""
    for name, level, side in (
        ("random actions", found.random, "right"),
        ("expert", found.expert, "right"),
        ("the run as it was", found.before.mean, "left"),
    ):
        if level is not None:
            axes.axhline(level, color="#777777", linestyle="-." if side == "left" else ":", linewidth=1)
            place = {"left": 0.01, "right": 0.99}[side], level
            axes.annotate(
                name, place, xycoords=("axes fraction", "data"), ha=side, va="bottom", color="#555555", fontsize=8
            )
    for index, (way, (label, colour, marker, line)) in enumerate(LOOKS.items()):
        points = found.curves.get(way, [])
        if not points:
            continue
        x = np.array([point.demonstrations for point in points]) * 1.04 ** (index - 1)  # side by side
        mean = np.array([point.mean for point in points])
        ends = [mean - [point.low for point in points], np.array([point.high for point in points]) - mean]
        axes.errorbar(x, mean, np.maximum(ends, 0), label=label, color=colour, marker=marker, linestyle=line, capsize=3)
        for at, point in zip(x, points, strict=True):
            if len(point.seeds) > 1:
                axes.plot([at] * len(point.seeds), point.seeds, ".", color=colour, alpha=0.5, markersize=5)
    amounts = sorted({point.demonstrations for points in found.curves.values() for point in points})
    axes.set_xscale("log")
    axes.set_xticks(amounts, [f"{n:,}" for n in amounts])
    axes.minorticks_off()
    axes.set_xlabel("demonstrations")
    axes.set_ylabel("success" if found.metric == "success" else "return")
    if found.metric == "success":
        axes.set_ylim(-0.03, 1.08)
    axes.set_title(found.task, loc="left")
    if amounts:
        axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.12))


def _old(axes: Any, found: Found) -> None:  # Any: as above
    """Old tasks before and after, from the most demonstrations; those that were mixed in are marked."""
    most = _most(found.cells)
    played: dict[str, Mapping[str, TaskScore]] = {cell.way: cell.old for cell in most}
    names = sorted(played.get("before", {}), key=lambda name: (suite_of(name), name))
    for way, (label, colour, marker) in {"before": BEFORE, **{way: LOOKS[way][:3] for way in LOOKS}}.items():
        scores = played.get(way)
        if scores is not None:
            _row_of(axes, names, scores, label, colour, marker)
    told = [f"{name} *" if name in found.rehearsed else name for name in names]
    axes.set_yticks(range(len(names)), told)
    axes.invert_yaxis()
    axes.axvline(0, color="#777777", linestyle=":", linewidth=1)
    axes.axvline(1, color="#777777", linestyle=":", linewidth=1)
    axes.set_xlabel("score: 0 random, 1 expert (* mixed in)")
    after = max((cell.demonstrations for cell in most), default=0)
    axes.set_title(f"old tasks, after {after:,} demonstrations", loc="left")
    if most:
        axes.legend(frameon=False, fontsize=8, loc="lower left")


def _row_of(
    axes: Any,  # Any: as above
    names: Sequence[str],
    scores: Mapping[str, TaskScore],
    label: str,
    colour: str,
    marker: str,
) -> None:
    """One way's scores in the old tasks, those without a scale left out."""
    shift = {"D": -0.2, "o": 0.0, "^": 0.2}[marker]
    found = [(row, score) for row, name in enumerate(names) if (score := scores[name]).normalised is not None]
    rows = [row + shift for row, _ in found]
    mean = np.array([score.normalised for _, score in found], np.float64)
    low = np.array([score.low for _, score in found], np.float64)
    high = np.array([score.high for _, score in found], np.float64)
    ends = [np.maximum(mean - low, 0), np.maximum(high - mean, 0)]
    axes.errorbar(mean, rows, xerr=ends, fmt=marker, color=colour, label=label, markersize=4, linewidth=1)


def _most(cells: Sequence[Cell]) -> list[Cell]:
    """Of each way, the cell with the most demonstrations whose old tasks were played."""
    most: dict[str, Cell] = {}
    for cell in cells:
        if cell.old and (cell.way not in most or cell.demonstrations > most[cell.way].demonstrations):
            most[cell.way] = cell
    return list(most.values())
