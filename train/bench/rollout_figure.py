"""A figure of what a step costs, by context and by slots.

`python -m gato_lite.train.bench.rollout_figure rollout.json acting.svg` draws what `gato-lite bench rollout --json
rollout.json` wrote; with `--figure FILE` that command draws it itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from gato_lite.train.bench.rollout import StepSpeed


def draw(speeds: Sequence[StepSpeed], path: Path) -> None:
    """Writes the figure, in the format of the file's ending.

    Args:
        speeds: of the first environment among them, in its encoding of most tokens a step.
        path: ends in .svg, .png or .pdf.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "gato_lite"  # the same figures, the same file
    import matplotlib.pyplot as plt

    what = speeds[0].what
    n_token = max(speed.tokens_per_step for speed in speeds if speed.what == what)
    shown = [speed for speed in speeds if speed.what == what and speed.tokens_per_step == n_token]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    panels: list[tuple[str, Callable[[StepSpeed], int], str, Callable[[StepSpeed], int]]] = [
        ("tokens of context", lambda speed: speed.context, "slot", lambda speed: speed.slots),
        ("slots", lambda speed: speed.slots, "token", lambda speed: speed.context),
    ]
    for axis, (along, place_of, name, line_of) in zip(axes, panels, strict=True):
        for value in sorted({line_of(speed) for speed in shown}):
            line = sorted((speed for speed in shown if line_of(speed) == value), key=place_of)
            if len(line) < 2:
                continue
            label = f"{value:,} {name}{'s' if value > 1 else ''}"
            axis.plot(*_points(line, place_of), marker="o", markersize=4, label=label)
        places = sorted({place_of(speed) for speed in shown})
        axis.set(xlabel=along, xscale="log", yscale="log")
        axis.set_xticks(places, [f"{place:,}" for place in places])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    ticks = (0.5, 1, 2, 5, 10)
    axes[0].set(ylabel="ms a step of one environment")
    axes[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    figure.suptitle(f"{what}, {n_token} tokens a step", fontsize=11)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _points(line: Sequence[StepSpeed], place_of: Callable[[StepSpeed], int]) -> tuple[list[int], list[float]]:
    return [place_of(speed) for speed in line], [speed.milliseconds / speed.slots for speed in line]


def main(source: str, target: str) -> None:
    """Draws a report of `bench rollout`."""
    results = json.loads(Path(source).read_text("utf-8"))["results"]
    rows = [row for row in results if "sustained" in row]  # of a model alone nothing is
    draw(msgspec.convert(rows, list[StepSpeed]), Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
