"""The summary and the figure of a soak, also of one that still runs."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from soak_process import Watch

from gato_lite import __version__
from gato_lite.envs.format import versions

NAMES = {"trainer": "trains all the time", "actor": "evaluates and acts all the time", "soak": "the soak itself"}
WARM_UP_S = 600.0
"""Left out of what memory grew by: allocators and caches fill."""


def report(out: Path) -> str:
    """Writes `summary.json` and `memory.png` into a soak's folder; returns the summary."""
    cycles = _lines(out / "cycles.jsonl")
    samples = _lines(out / "memory.jsonl")
    about = json.loads((out / "about.json").read_text("utf-8"))
    summary = {
        "command": f"python tests/faults/soak.py --hours {about['hours']:g} --seed {about['seed']}",
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "threads_each": 1},
        "versions": {"python": platform.python_version(), **versions("gato_lite", "torch", "numpy", "pyarrow")},
        "finished": "ended" in about,
        "hours": round(max((sample["t"] for sample in samples), default=0.0) / 3600, 3),
        "cycles": len(cycles),
        **_totals(cycles),
        "memory": {name: _memory(samples, name) for name in NAMES},
        "disk_mb": {"first": cycles[0]["disk_mb"], "last": cycles[-1]["disk_mb"]} if cycles else {},
        "long": about.get("long", cycles[-1]["long"] if cycles else {}),
    }
    text = json.dumps(summary, indent=1)
    (out / "summary.json").write_text(text + "\n", "utf-8")
    _plot(samples, cycles, out / "memory.png")
    return text


def _lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON objects."""
    lines = file.read_text("utf-8").splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _totals(cycles: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over the cycles; of lists and peaks the largest and the mean."""
    counts: Counter[str] = Counter()
    kills: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    peaks: dict[str, float] = {}
    lost: dict[str, list[int]] = {}
    for cycle in cycles:
        known = {"cycle", "t", "seconds", "disk_mb"}
        counts.update({key: value for key, value in cycle.items() if isinstance(value, int) and key not in known})
        kills.update(cycle["kills"])
        ends.update(cycle["ends"])
        for name, steps in cycle["steps_lost"].items():
            lost.setdefault(name, []).extend(steps)
        for name, peak in cycle["peak_mb"].items():
            peaks[name] = max(peaks.get(name, 0.0), peak)
    return {
        "kills": {"all": sum(kills.values()), **dict(sorted(kills.items()))},
        "counts": dict(sorted(counts.items())),
        "steps_since_last_checkpoint": {
            name: {"kills": len(steps), "mean": round(float(np.mean(steps)), 1), "most": max(steps)}
            for name, steps in lost.items()
            if steps
        },
        "ends": dict(sorted(ends.items())),
        "largest_peak_mb": peaks,
        "problems": [f"cycle {cycle['cycle']}: {problem}" for cycle in cycles for problem in cycle["problems"]],
    }


def _series(samples: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Seconds, and anonymous memory in MB with what is swapped out: what a leak would add to."""
    mine = [sample for sample in samples if sample["name"] == name]
    return np.array([s["t"] for s in mine]), np.array([s["anonymous"] + s.get("swapped", 0.0) for s in mine])


def _memory(samples: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Mean memory in quarters after the warm-up, and the slope of a straight line through them."""
    seconds, mb = _series(samples, name)
    mb, seconds = mb[seconds > WARM_UP_S], seconds[seconds > WARM_UP_S]
    if len(mb) < 8:
        return {"samples": len(mb)}
    slope, _ = np.polyfit(seconds / 3600, mb, 1)
    return {
        "samples": len(mb),
        "mb_by_quarter": [round(float(part.mean()), 1) for part in np.array_split(mb, 4)],
        "smallest_mb": round(float(mb.min()), 1),
        "largest_mb": round(float(mb.max()), 1),
        "mb_per_hour": round(float(slope), 2),
    }


def _plot(samples: list[dict[str, Any]], cycles: list[dict[str, Any]], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 4.5), sharex=True, height_ratios=(3, 1))
    for name, label in NAMES.items():
        seconds, mb = _series(samples, name)
        top.plot(seconds / 60, mb, label=label, linewidth=1)
    top.set_ylabel("memory, MB")
    top.set_ylim(bottom=0)
    top.legend(fontsize=8, loc="best")
    kills = np.cumsum([sum(cycle["kills"].values()) for cycle in cycles])
    ends = [(cycle["t"] + cycle["seconds"]) / 60 for cycle in cycles]
    bottom.plot(ends, kills, linewidth=1, color="black")
    bottom.set_ylabel("kills")
    bottom.set_xlabel("minutes")
    bottom.set_title(f"anonymous memory, sampled every {Watch.EVERY_S:.0f} s; gato_lite {__version__}", fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    plt.close(figure)
