"""What episodes come to: a score for each task, for each suite and for all tasks, and two sets of scores side by side.

A score is normalised between random actions (0) and the task's expert (1). Intervals are 95 % ones by resampling
episodes within their task. Two sets of scores are compared episode by episode: both met the same environment seeds.

Source: Reed et al. 2022, section 4.1 (percentage of expert score); the rest in `gato_lite.train.statistics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from gato_lite.config import ActingPrecision
from gato_lite.envs.catalogue import Task, by_suite
from gato_lite.envs.format import Metric
from gato_lite.train.document_scores import DocumentScore
from gato_lite.train.rollout import Outcome
from gato_lite.train.statistics import (
    AGGREGATES,
    Floats,
    flipped_means,
    holm,
    interval,
    mean,
    p_value,
    resampled_means,
)


class TaskScore(msgspec.Struct, frozen=True, kw_only=True):
    """One task."""

    mean: float | None
    """Mean of the task's metric: return, or share of episodes with success; None where no episode was whole."""
    std: float | None
    """Standard deviation over episodes."""
    success: float | None
    """Share of episodes with success; None where the task knows none."""
    normalised: float | None
    """(mean − random) / (expert − random); None without both references."""
    low: float | None
    """Lower end of the 95 % bootstrap interval of `normalised`."""
    high: float | None
    """Upper end."""
    episodes: int
    """Whole episodes: what the numbers are means of."""
    seed: int
    """First environment seed."""
    random: float | None = None
    """Mean of a random policy."""
    expert: float | None = None
    """Mean of the expert."""
    length: float | None = 0.0
    """Mean timesteps of an episode."""
    failed: int = 0
    """Further episodes that their environment broke."""
    metric: Metric | None = None
    """What `mean` is of; None in scores that were written before it was."""

    @property
    def is_share(self) -> bool:
        """Whether the task's metric is a share of its episodes; where that is not said, a mean of successes is."""
        if self.metric is None:
            return self.success is not None and self.success == self.mean
        return self.metric == "success"

    @property
    def rank(self) -> float:
        """By what tasks are ordered: the normalised score, or else the mean."""
        return next((value for value in (self.normalised, self.mean) if value is not None), float("-inf"))


class FailedEpisode(msgspec.Struct, frozen=True, kw_only=True):
    """One that is in no mean."""

    task: str
    seed: int
    """Of the environment."""
    why: str


class SuiteScore(msgspec.Struct, frozen=True, kw_only=True):
    """Many tasks together: a suite, or all of them. What is None has no task with a normalised score."""

    mean: float | None
    """Mean of the normalised scores."""
    median: float | None
    """Median of the normalised scores."""
    success: float | None
    """Mean share of success, of the tasks that know it."""
    n_tasks: int
    n_scored: int = 0
    """Tasks with a normalised score, which the other numbers are of."""
    iqm: float | None = None
    """Interquartile mean of the normalised scores."""
    above_50: float | None = None
    """Share of tasks at 50 % of the expert or above it."""
    above_80: float | None = None
    above_90: float | None = None
    intervals: dict[str, tuple[float, float]] = {}
    """Ends of the 95 % stratified bootstrap interval of each of these, by its name."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What one agent has over another in the same episodes."""

    first: float
    """Score of the first agent over the pairs."""
    second: float
    """Score of the second."""
    difference: float
    """The first's minus the second's."""
    low: float
    """Lower end of its 95 % bootstrap interval."""
    high: float
    """Upper end."""
    p: float
    """Chance of a mean difference as large if the two did not differ, by drawing the signs of the pairs anew."""
    significant: bool
    """Whether p is small enough among all of its kind (Holm's rule, 5 %)."""
    pairs: int
    """Episodes that both played to their end."""
    normalised: bool
    """Whether scores are normalised; otherwise they are the task's own metric, and in no suite."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two agents in the same episodes."""

    first: str
    """What the first is."""
    second: str
    tasks: dict[str, Difference]
    suites: dict[str, Difference]
    """Means over the tasks of a suite that have a normalised score."""
    overall: Difference | None
    """Mean over all of them."""
    unpaired: list[str]
    """Tasks that are left out, because only one of the two has whole episodes of them."""


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """What `gato-lite eval --json` writes."""

    tasks: dict[str, TaskScore]
    suites: dict[str, SuiteScore]
    failed: list[FailedEpisode] = []
    """Episodes that their environment broke, by task and seed."""
    overall: SuiteScore | None = None
    """All tasks together."""
    prompted: Scores | None = None
    """The same episodes with a demonstration before each."""
    prompt_gain: Comparison | None = None
    """Prompted against unprompted."""
    against: Comparison | None = None
    """This run against another."""
    values: dict[str, list[float | None]] = {}
    """The task's metric in each episode, from its first seed on; None where the environment broke it."""
    documents: dict[str, DocumentScore] = {}
    """What was named, answered, translated and written, by "vision/NAME" and "text/NAME"."""
    precision: ActingPrecision = "float32"
    """What the model acted and wrote in."""

    @property
    def suite_rows(self) -> list[tuple[str, SuiteScore]]:
        """The suites with a normalised score, and of several "all"."""
        rows = [(name, suite) for name, suite in self.suites.items() if suite.n_scored]
        return rows if self.overall is None or len(rows) < 2 else [*rows, ("all", self.overall)]

    @property
    def scored_tasks(self) -> list[str]:
        """Tasks with a normalised score of known episodes."""
        return [name for name, score in self.tasks.items() if score.normalised is not None and self.values.get(name)]


def summarise(tasks: Sequence[Task], outcomes: Iterable[Outcome], seed: int) -> Scores:
    """Scores of played episodes.

    Args:
        tasks: in the order in which they are to be listed.
        outcomes: in any order.
        seed: first environment seed.
    """
    by_task: dict[str, list[Outcome]] = {task.name: [] for task in tasks}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.seed):
        by_task[outcome.task].append(outcome)
    scores = {task.name: score_task(task, by_task[task.name], seed) for task in tasks}
    values = {task.name: [_metric(task, outcome) for outcome in by_task[task.name]] for task in tasks}
    failed = [
        FailedEpisode(task=task.name, seed=outcome.seed, why=outcome.failed)
        for task in tasks
        for outcome in by_task[task.name]
        if outcome.failed is not None
    ]
    return Scores(
        tasks=scores,
        suites={suite: score_suite(names, scores, values) for suite, names in by_suite(scores).items()},
        failed=failed,
        overall=score_suite(list(scores), scores, values),
        values=values,
    )


def _metric(task: Task, outcome: Outcome) -> float | None:
    if outcome.failed is not None:
        return None
    if task.metric == "success":
        return None if outcome.success is None else float(outcome.success)
    return outcome.total_reward


def score_task(task: Task, outcomes: Sequence[Outcome], seed: int) -> TaskScore:
    """The score of one task from its episodes, of those that are whole."""
    whole = [outcome for outcome in outcomes if outcome.failed is None]
    successes = [float(outcome.success) for outcome in whole if outcome.success is not None]
    values = _known([_metric(task, outcome) for outcome in outcomes])
    random = None if task.random is None else task.random.mean
    expert = None if task.expert_score is None else task.expert_score.mean
    normalised = low = high = None
    if random is not None and expert is not None and expert > random and len(values):
        normalised = float((values.mean() - random) / (expert - random))
        low, high = ((end - random) / (expert - random) for end in interval(resampled_means(task.name, values)))
    return TaskScore(
        mean=float(values.mean()) if len(values) else None,
        std=float(values.std()) if len(values) else None,
        success=float(np.mean(successes)) if successes else None,
        normalised=normalised,
        low=low,
        high=high,
        episodes=len(whole),
        seed=seed,
        random=random,
        expert=expert,
        length=float(np.mean([outcome.length for outcome in whole])) if whole else None,
        failed=len(outcomes) - len(whole),
        metric=task.metric,
    )


def score_suite(
    names: Sequence[str], scores: Mapping[str, TaskScore], values: Mapping[str, Sequence[float | None]]
) -> SuiteScore:
    """The tasks of these names together."""
    successes = [score.success for name in names if (score := scores[name]).success is not None]
    scored = [name for name in names if scores[name].normalised is not None]
    found: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    if scored:
        points = np.array([scores[name].normalised for name in scored])  # (M,)
        draws = resampled_scores(scored, scores, values)
        for kind, aggregate in AGGREGATES.items():
            found[kind] = float(aggregate(points))
            intervals[kind] = interval(aggregate(draws))
    return SuiteScore(
        mean=found.get("mean"),
        median=found.get("median"),
        success=float(np.mean(successes)) if successes else None,
        n_tasks=len(names),
        n_scored=len(scored),
        iqm=found.get("iqm"),
        above_50=found.get("above_50"),
        above_80=found.get("above_80"),
        above_90=found.get("above_90"),
        intervals=intervals,
    )


def resampled_scores(
    names: Sequence[str], scores: Mapping[str, TaskScore], values: Mapping[str, Sequence[float | None]]
) -> Floats:
    """(B, M) normalised scores of the tasks of these names, each from episodes of its own drawn anew."""
    draws = [_scaled(resampled_means(name, _known(values[name])), scores[name]) for name in names]
    return np.stack(draws, axis=1)


def _known(values: Sequence[float | None]) -> Floats:
    return np.array([value for value in values if value is not None], np.float64)


def _scaled(values: Floats, score: TaskScore) -> Floats:
    """Values of a task's metric, normalised."""
    assert score.random is not None
    assert score.expert is not None
    return np.asarray((values - score.random) / (score.expert - score.random))


# -- two agents side by side


def compare(first: Scores, second: Scores, first_name: str, second_name: str) -> Comparison:
    """What the first has over the second in the episodes that both played.

    Args:
        first: scores with their values.
        second: likewise; scores are normalised on the first's scale.
        first_name: what the first is, for people.
        second_name: likewise.
    """
    pairs = {name: _pairs(first, second, name) for name in first.tasks if name in second.tasks}
    pairs = {name: found for name, found in pairs.items() if len(found)}
    scaled = {name: found for name, found in pairs.items() if first.tasks[name].normalised is not None}
    scaled = {name: _scaled(found, first.tasks[name]) for name, found in scaled.items()}
    suites = {suite: {name: scaled[name] for name in names} for suite, names in by_suite(scaled).items()}
    tasks = {
        name: _difference({name: scaled.get(name, found)}, normalised=name in scaled) for name, found in pairs.items()
    }
    return Comparison(
        first=first_name,
        second=second_name,
        tasks=_tested(tasks),
        suites=_tested({suite: _difference(found, normalised=True) for suite, found in suites.items()}),
        overall=_tested({"": _difference(scaled, normalised=True)})[""] if scaled else None,
        unpaired=sorted((first.tasks.keys() | second.tasks.keys()) - pairs.keys()),
    )


def _pairs(first: Scores, second: Scores, name: str) -> Floats:
    """(N, 2) values of the episodes of a task that both played to their end, by seed."""
    both = [
        {scores.tasks[name].seed + index: value for index, value in enumerate(scores.values.get(name, []))}
        for scores in (first, second)
    ]
    shared = [(both[0][seed], both[1][seed]) for seed in sorted(both[0].keys() & both[1].keys())]
    return np.array([pair for pair in shared if None not in pair], np.float64).reshape(-1, 2)


def _difference(pairs: Mapping[str, Floats], *, normalised: bool) -> Difference:
    """Mean difference over tasks, from (N, 2) values of each."""
    apart = {name: np.asarray(found[:, 0] - found[:, 1]) for name, found in pairs.items()}
    means = np.array([found.mean(0) for found in pairs.values()])  # (M, 2)
    observed = float(mean([found.mean() for found in apart.values()]))
    draws = np.stack([resampled_means(name, found) for name, found in apart.items()], axis=1)
    null = np.stack([flipped_means(name, found) for name, found in apart.items()], axis=1)
    low, high = interval(mean(draws))
    return Difference(
        first=float(mean(means[:, 0])),
        second=float(mean(means[:, 1])),
        difference=observed,
        low=low,
        high=high,
        p=p_value(observed, mean(null)),
        significant=False,
        pairs=sum(map(len, pairs.values())),
        normalised=normalised,
    )


def _tested(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """The same, with those marked that are significant among them."""
    verdicts = holm([found.p for found in differences.values()])
    return {
        name: msgspec.structs.replace(found, significant=verdict)
        for (name, found), verdict in zip(differences.items(), verdicts, strict=True)
    }
