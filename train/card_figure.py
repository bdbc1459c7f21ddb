"""The figure of a model card: how many tasks reach how much of the expert.

`python -m gato_lite.train.card_figure eval.json docs/generalist.svg` draws what `gato-lite eval RUN --json eval.json`
wrote; `python -m gato_lite.train.ship_run` draws it beside the card.

Source: Reed et al. 2022, figure 5.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gato_lite.envs.catalogue import by_suite
from gato_lite.train.published import PUBLISHED, plain_name, shared_tasks
from gato_lite.train.report_scores import THRESHOLDS, interval_above, shares_above
from gato_lite.train.saved_scores import read_scores
from gato_lite.train.scores import Scores


def draw(scores: Scores, path: Path) -> None:
    """Writes the figure, in the format of the file's ending.

    Args:
        scores: of a run, with the values of its episodes.
        path: ends in .svg, .png or .pdf.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: no task has a normalised score.
    """
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "gato_lite"  # the same figures, the same file
    import matplotlib.pyplot as plt

    scored = scores.scored_tasks
    if not scored:
        raise ValueError("expected scores with a normalised task to draw, got none; score tasks that have an expert")
    normalised = {name: scores.tasks[name].normalised for name in scored}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")

    low, high = zip(*interval_above(scored, scores), strict=True)
    axes[0].fill_between(100 * THRESHOLDS, low, high, alpha=0.25, linewidth=0)
    axes[0].plot(100 * THRESHOLDS, shares_above(list(normalised.values())), label=f"all tasks, {len(scored)}", lw=2)
    shared = {
        name: published.jat[plain_name(name)]
        for suite, published in PUBLISHED.items()
        for name in shared_tasks(suite, published, scores)
    }
    if shared:
        both = f"the {len(shared)} tasks that both were scored on"
        axes[0].plot(100 * THRESHOLDS, shares_above([normalised.get(name) for name in shared]), "C1", label=both)
        axes[0].plot(100 * THRESHOLDS, shares_above(list(shared.values())), "C1--", label="the same, JAT (193 M)")
    for suite, names in by_suite(scored).items():
        own = shares_above([normalised[name] for name in names])
        axes[1].step(100 * THRESHOLDS, own, where="post", label=f"{suite}, {len(names)}")
    for axis in axes:
        axis.set(xlabel="at least so many % of the expert's score", xlim=(0, 100), ylim=(0, 1.03))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8, loc="lower left")
    axes[0].set_ylabel("share of tasks")
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def main(source: str, target: str) -> None:
    """Draws the scores in a file."""
    draw(read_scores(Path(source)), Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
