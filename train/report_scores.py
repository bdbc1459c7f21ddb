"""The parts of a report that show scores: tasks, suites, the threshold curve, two agents, what others published."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np

from gato_lite.envs.catalogue import by_suite
from gato_lite.train.published import GATO_SOURCE, JAT_SOURCE, PUBLISHED, Published, plain_name, shared_tasks
from gato_lite.train.report_curves import SMALL, figure, small_chart, ticks
from gato_lite.train.report_sections import versus
from gato_lite.train.scores import Comparison, Difference, Scores, SuiteScore, TaskScore, resampled_scores
from gato_lite.train.statistics import interquartile_mean, interval, share_above
from gato_lite.train.wording import FOLDED, in_metric, number, percent, short

THRESHOLDS: Final = np.linspace(0.0, 1.0, 101)
"""Shares of the expert's score at which tasks are counted."""


def score_section(scores: Scores) -> str:
    """Suites, the threshold curve, and a bar for each task: its score between random and expert, with its interval."""
    ends = [end for score in scores.tasks.values() for end in (score.low, score.high, score.normalised)]
    known = [end for end in ends if end is not None]
    low, high = max(min([-0.04, *known]), -0.6), min(max([1.06, *known]), 1.6)
    axis = _axis([(0, "random"), (1, "expert")], low, high)
    head = '<th>Score</th><th class="raw">Result</th><th class="ends">Random</th><th class="ends">Expert</th>'
    parts = [_suite_table(scores), _thresholds(scores)]
    for suite, names in by_suite(scores.tasks).items():
        rows = "".join(_score_row(name, scores.tasks[name], low, high) for name in names)
        parts.append(_folded(suite, _told(scores.suites.get(suite)), len(names), _table(axis, head, rows)))
    return "".join(parts)


def _folded(suite: str, told: str, n_task: int, table: str, *, closed: bool = False) -> str:
    """A suite that opens and closes; long ones begin closed."""
    state = "" if closed or n_task > FOLDED else " open"
    count = f"{n_task} task{'s' * (n_task != 1)}"
    about = " · ".join(part for part in (count, told) if part)
    return (
        f'<details class="suite"{state}><summary><b>{escape(suite)}</b><span>{about}</span></summary>{table}</details>'
    )


def _table(axis: str, head: str, rows: str, style: str = "") -> str:
    columns = "".join(f'<col class="{name}">' for name in ("task", "bar", "few", "many", "few", "few"))
    first = f'<th>Task</th><th class="bar">{axis}</th>'
    return (
        f'<table class="scores {style}"><colgroup>{columns}</colgroup><thead><tr>{first}{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _axis(labels: Sequence[tuple[float, str]], low: float, high: float) -> str:
    marks = (f'<span style="left:{_place(value, low, high):.2f}%">{label}</span>' for value, label in labels)
    return f'<div class="axis">{"".join(marks)}</div>'


def _told(score: SuiteScore | None) -> str:
    if score is None or score.mean is None:
        return ""
    told = f"mean {number(score.mean)}"
    return told if score.success is None else f"{told} · success {percent(score.success)}"


def _score_row(name: str, score: TaskScore, low: float, high: float) -> str:
    result, random, expert = (in_metric(score, value, 1) for value in (score.mean, score.random, score.expert))
    result += "" if score.is_share else f" ± {number(score.std, 1)}"
    told = f"random {random}, expert {expert}, {score.episodes} episodes"
    if score.failed:
        told += f", {score.failed} more failed"
        result += f" ({score.failed} failed)"
    ends = "" if score.low is None or score.high is None else f"95 % {number(score.low)} to {number(score.high)}; "
    bar = _bar(score.normalised, score.low, score.high, low, high, lines=(0, 1))
    return (
        f'<tr title="{escape(ends + told)}"><td>{escape(short(name))}</td><td class="bar">{bar}</td>'
        f'<td><b>{number(score.normalised)}</b></td><td class="raw">{result}</td><td class="ends dim">{random}</td>'
        f'<td class="ends dim">{expert}</td></tr>'
    )


def _place(value: float, low: float, high: float) -> float:
    """Where `value` lies between `low` and `high`, in percent."""
    return 100 * min(max((value - low) / (high - low), 0.0), 1.0)


def _bar(
    value: float | None,
    first: float | None,
    last: float | None,
    low: float,
    high: float,
    *,
    lines: Sequence[float],
) -> str:
    """A bar from 0 to `value` on a track from `low` to `high`, with the interval [first, last] over it."""

    def span(start: float, stop: float) -> str:
        begin, end = sorted((_place(start, low, high), _place(stop, low, high)))
        return f"left:{begin:.2f}%;width:{end - begin:.2f}%"

    marks = [] if value is None else [f'<i class="fill" style="{span(0, value)}"></i>']
    styles = {0: "at", 1: "at one"}
    marks += [f'<i class="{styles[int(line)]}" style="left:{_place(line, low, high):.2f}%"></i>' for line in lines]
    if first is not None and last is not None:
        marks.append(f'<i class="range" style="{span(first, last)}"></i>')
    return f'<div class="track">{"".join(marks)}</div>'


# -- suites


def _suite_table(scores: Scores) -> str:
    """Mean, median, interquartile mean and shares of tasks above the expert, of each suite and of all tasks."""
    if not scores.suite_rows:
        return ""
    body = "".join(
        f'<tr class="{"all" if name == "all" else ""}"><td>{escape(name)}</td><td>{score.n_scored}</td>'
        + "".join(f"<td>{_with_interval(score, kind)}</td>" for kind in ("mean", "median", "iqm"))
        + "".join(f"<td>{_with_interval(score, kind)}</td>" for kind in ("above_50", "above_80", "above_90"))
        + "</tr>"
        for name, score in scores.suite_rows
    )
    return (
        '<div class="wide"><table class="sums"><thead><tr><th>Suite</th><th>Tasks</th><th>Mean</th><th>Median</th>'
        '<th><abbr title="interquartile mean: of the middle half of the tasks">IQM</abbr></th>'
        "<th>≥ 50 %</th><th>≥ 80 %</th><th>≥ 90 % of expert</th></tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _with_interval(score: SuiteScore, kind: str) -> str:
    value: float | None = getattr(score, kind)
    if value is None:
        return number(None)
    if kind.startswith("above"):
        return f"{round(value * score.n_scored)}<small>{percent(value)}</small>"
    low, high = score.intervals.get(kind, (None, None))
    return f"{number(value)}<small>{number(low)} – {number(high)}</small>"


# -- the threshold curve


def shares_above(normalised: Sequence[float | None]) -> list[float]:
    """Share of these scores at or above each of `THRESHOLDS` (Reed et al. 2022, figure 5)."""
    points = np.array(normalised, np.float64)
    return [float(share_above(threshold)(points)) for threshold in THRESHOLDS]


def interval_above(names: Sequence[str], scores: Scores) -> list[tuple[float, float]]:
    """95 % interval of the share of tasks at or above each of `THRESHOLDS`."""
    draws = resampled_scores(names, scores.tasks, scores.values)  # (B, M)
    return [interval(share_above(threshold)(draws)) for threshold in THRESHOLDS]


def _thresholds(scores: Scores) -> str:
    scored = scores.scored_tasks
    if not scored:
        return ""
    line = shares_above([scores.tasks[name].normalised for name in scored])
    figures = [figure("All tasks", f"{len(scored)}", _curve(line, interval_above(scored, scores), len(scored)))]
    suites = by_suite(scored)
    small = [
        _small_curve(suite, shares_above([scores.tasks[name].normalised for name in names]), len(names))
        for suite, names in (suites.items() if len(suites) > 1 else ())
    ]
    about = (
        "The share of tasks that reach each percentage of the expert's score; the shade is the 95 % interval. "
        "GATO's figure 5 is this curve: 450 of its 604 tasks reached 50 %."
    )
    return (
        f'<h3>Tasks above a percentage of the expert</h3><p class="told">{about}</p>'
        f'<div class="thresholds">{"".join(figures)}<div class="small">{"".join(small)}</div></div>'
    )


def _curve(line: Sequence[float], band: Sequence[tuple[float, float]], n_task: int) -> str:
    """The curve over 0 to 100 % of the expert, with the shares at 50, 80 and 90 % written at it."""
    width, height, left, right, top, bottom = 640, 300, 46, 22, 14, 44

    def px(x: float) -> float:
        return left + (width - left - right) * x

    def py(y: float) -> float:
        return height - bottom - (height - top - bottom) * y

    told = ", ".join(f"{line[at]:.0%} of the tasks reach {at} %" for at in (50, 80, 90))
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{told}">']
    for y in ticks(0.0, 1.0):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{py(y) + 4:.1f}" text-anchor="end">{100 * y:.0f} %</text>')
    parts += [
        f'<text x="{px(x):.1f}" y="{height - bottom + 18}" text-anchor="middle">{100 * x:.0f} %</text>'
        for x in ticks(0.0, 1.0, 5)
    ]
    parts.append(f'<text x="{width - right}" y="{height - 6}" text-anchor="end">of the expert\'s score</text>')
    upper = [f"{px(x):.1f},{py(high):.1f}" for x, (_, high) in zip(THRESHOLDS, band, strict=True)]
    lower = [f"{px(x):.1f},{py(low):.1f}" for x, (low, _) in zip(THRESHOLDS, band, strict=True)]
    parts.append(f'<polygon class="area" points="{" ".join((*upper, *lower[::-1]))}"/>')
    path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(THRESHOLDS, line, strict=True))
    parts.append(f'<polyline class="line" points="{path}"/>')
    for at in (50, 80, 90):
        x, y = px(at / 100), py(line[at])
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        above = y - 11 if y > top + 24 else y + 21
        label = f"{round(line[at] * n_task)} of {n_task}" if at == 50 else str(round(line[at] * n_task))
        parts.append(f'<text class="label" x="{x:.1f}" y="{above:.1f}" text-anchor="middle">{label}</text>')
    return "".join((*parts, "</svg>"))


def _small_curve(suite: str, line: Sequence[float], n_task: int) -> str:
    width, height = SMALL
    points = [f"{width * x:.1f},{height - 2 - (height - 6) * y:.1f}" for x, y in zip(THRESHOLDS, line, strict=True)]
    told = escape(f"{suite}: {line[50]:.0%} of the tasks reach 50 %, {line[90]:.0%} reach 90 %")
    return small_chart(suite, f"{round(line[50] * n_task)}/{n_task}", told, points)


# -- two agents side by side


def comparison_section(comparison: Comparison) -> str:
    """A bar for each task and suite: the first agent's score minus the second's, with its interval."""
    if not comparison.tasks:
        return ""
    scaled = {name: found for name, found in comparison.tasks.items() if found.normalised}
    reach = max([0.1, *(abs(end) for found in scaled.values() for end in (found.low, found.high))])
    reach = min(reach, 1.2)
    names = f'<th>Difference</th><th class="raw">p</th><th>{escape(comparison.first)}</th>'
    head = f"{names}<th>{escape(comparison.second)}</th>"
    axis = _axis([(0, "no difference")], -reach, reach)
    suites = dict(comparison.suites)
    if comparison.overall is not None and len(suites) > 1:
        suites["all"] = comparison.overall
    parts = [_verdict(comparison)]
    if suites:
        parts.append(_table(axis, head, "".join(_difference_row(*row, reach) for row in suites.items()), "pairs"))
    for suite, members in by_suite(comparison.tasks).items():
        rows = "".join(_difference_row(name, comparison.tasks[name], reach) for name in members)
        changed = sum(comparison.tasks[name].significant for name in members)
        table = _table(axis, head, rows, "pairs")
        parts.append(_folded(suite, f"{changed} significant", len(members), table, closed=not changed))
    if comparison.unpaired:
        parts.append(f'<p class="told">Not in both: {escape(", ".join(comparison.unpaired))}.</p>')
    return "".join(parts)


def _verdict(comparison: Comparison) -> str:
    told = []
    for what, found in (("Tasks", comparison.tasks), ("Suites", comparison.suites)):
        for word, sign in (("better", 1), ("worse", -1)):
            names = [short(name) for name, one in found.items() if one.significant and one.difference * sign > 0]
            if names:
                told.append(f"{what} in which {comparison.first} is significantly {word}: {', '.join(names)}.")
    return f"<p>{escape(' '.join(told)) or 'Nothing differs significantly.'}</p>"


def _difference_row(name: str, found: Difference, reach: float) -> str:
    digits = 2 if found.normalised else 1
    mark, word = ("", "")
    if found.significant:
        mark, word = ("▲", "significantly better") if found.difference > 0 else ("▼", "significantly worse")
    sign = f'<span class="verdict" title="{word}">{mark}<span class="hidden"> {word}</span></span>' if mark else ""
    told = f"95 % {number(found.low, digits)} to {number(found.high, digits)}; {found.pairs} pairs of episodes"
    bar = _bar(found.difference, found.low, found.high, -reach, reach, lines=(0,)) if found.normalised else ""
    plus = "+" if round(found.difference, digits) > 0 else ""
    return (
        f'<tr title="{told}"><td>{escape(short(name))}</td><td class="bar">{bar}</td>'
        f"<td><b>{sign}{plus}{number(found.difference, digits)}</b></td>"
        f'<td class="raw p">{"&lt; 0.001" if found.p < 0.001 else number(found.p, 3)}</td>'
        f'<td class="ends">{number(found.first, digits)}</td><td class="ends">{number(found.second, digits)}</td></tr>'
    )


# -- beside what others published


def published_section(scores: Scores) -> str:
    """JAT and GATO on the suites that were evaluated, task for task, with what differs."""
    parts = []
    for suite, published in PUBLISHED.items():
        if names := shared_tasks(suite, published, scores):
            parts.append(_beside(suite, published, names, scores))
    sources = f"{JAT_SOURCE}; {GATO_SOURCE}."
    return f'{"".join(parts)}<p class="told">Sources: {escape(sources)}</p>' if parts else ""


def _beside(suite: str, published: Published, names: Sequence[str], scores: Scores) -> str:
    own = [scores.tasks[name].normalised or 0.0 for name in names]
    theirs = [published.jat[plain_name(name)] for name in names]
    ours, jat = float(np.mean(own)), float(np.mean(theirs))
    bars = versus([("this model", ours, number(ours), True), ("JAT, 193 M", jat, number(jat), False)])
    rows = "".join(
        f"<tr><td>{escape(short(name))}</td><td>{number(a)}</td><td>{number(b)}</td></tr>"
        for name, a, b in zip(names, own, theirs, strict=True)
    )
    whole = sum(published.jat.values()) / len(published.jat)
    told = (
        f"Over all {len(published.jat)} of its tasks JAT's mean is {number(whole)} and its interquartile mean over "
        f"episodes {number(published.jat_iqm)}; this model's over the episodes of these {len(names)} is "
        f"{number(_pooled_iqm(names, scores))}."
    )
    gato = f" GATO (1.18 billion parameters): {published.gato}." if published.gato else ""
    return (
        f"<h3>{escape(suite)}: the {len(names)} tasks that both were scored on</h3>"
        f'<div class="card beside">{bars}</div><p class="about">{escape(told + gato)} '
        f"What differs: {escape(published.differs)}. JAT's levels and seeds are its own.</p>"
        f'<details><summary>Task by task</summary><table class="sums"><thead><tr><th>Task</th><th>This model</th>'
        f"<th>JAT</th></tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _pooled_iqm(names: Sequence[str], scores: Scores) -> float | None:
    """Interquartile mean over all episodes of these tasks, as JAT computes it."""
    found: list[float] = []
    for name in names:
        score = scores.tasks[name]
        if score.random is not None and score.expert is not None:
            values = (value for value in scores.values.get(name, []) if value is not None)
            found += [(value - score.random) / (score.expert - score.random) for value in values]
    return float(interquartile_mean(found)) if found else None


def films_worth_showing(scores: Scores) -> list[str]:
    """All tasks of a short suite; of a long one the weakest, the middle one and the strongest."""
    chosen: list[str] = []
    for names in by_suite(scores.tasks).values():
        ranked = sorted(names, key=lambda name: scores.tasks[name].rank)
        few = {ranked[0], ranked[len(ranked) // 2], ranked[-1]}
        chosen += [name for name in names if len(names) <= FOLDED or name in few]
    return chosen
