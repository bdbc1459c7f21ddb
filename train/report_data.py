"""What a report shows, and gathering it from a run's folder."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gato_lite.envs.format import versions
from gato_lite.run import read_run_config
from gato_lite.train.cores import processor_name, usable_cores
from gato_lite.train.metrics import read_metrics
from gato_lite.train.token_rows import TokenStream

if TYPE_CHECKING:
    from gato_lite.model import Gato
    from gato_lite.train.scores import Scores

_PACKAGES: Final = ("gato_lite", "torch", "numpy", "gymnasium", "minigrid")


def machine() -> str:
    """This machine in a few words."""
    return f"{usable_cores()} cores, {processor_name()}, {platform.system()}"


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that a report shows."""

    run: str
    """The run's folder, as a user would type it."""
    command: str
    """What was typed to make it."""
    scores: Scores
    """Per task, suite and dataset of documents."""
    n_parameters: int
    """Trained scalars."""
    training_minutes: float
    """Of training alone."""
    total_minutes: float | None = None
    """From the start of the command; None where it is not known."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What the time went to, by stage."""
    films: Mapping[str, Path] = field(default_factory=dict)
    """The .mp4 of each task, in the order shown."""
    streams: Sequence[TokenStream] = ()
    """Timesteps and documents to draw token by token."""
    metrics: Sequence[Mapping[str, Any]] = ()  # Any: JSON
    """Lines of `metrics.jsonl`."""
    config: Mapping[str, object] = field(default_factory=dict)
    """How it was trained."""
    seeds: Mapping[str, object] = field(default_factory=dict)
    """What each seed was for."""
    versions: Mapping[str, str] = field(default_factory=lambda: versions(*_PACKAGES))
    """Of the packages that matter."""
    machine: str = field(default_factory=machine)
    credits: str = ""
    """Who made the pictures that are shown, as their licence asks it to be said."""

    @property
    def mean_normalised(self) -> float | None:
        """Mean over tasks of (score − random) / (expert − random)."""
        return mean([score.normalised for score in self.scores.tasks.values()])

    @property
    def babyai_success(self) -> float | None:
        """Mean share of solved levels over the BabyAI tasks."""
        suite = self.scores.suites.get("babyai")
        return None if suite is None else suite.success


def collect_report(
    run: Path,
    gato: Gato,
    scores: Scores,
    *,
    command: str,
    films: Mapping[str, Path] | None = None,
    streams: Sequence[TokenStream] = (),
    seconds: Mapping[str, float] | None = None,
    total_minutes: float | None = None,
    credits: str = "",  # noqa: A002 - what they are called
) -> ReportData:
    """A run's report, with what its folder knows filled in: metrics, configuration, seeds.

    Args:
        run: the folder.
        gato: its model.
        scores: of the model.
        command: what was typed to make it.
        films: the .mp4 of each task.
        streams: what to draw token by token.
        seconds: what the time went to, by stage.
        total_minutes: from the start of the command.
        credits: who made the pictures.
    """
    metrics = read_metrics(run)
    training = dict(read_run_config(run).training)
    seed = training.pop("seed", None)
    model = {name: value for name, value in asdict(gato.config).items() if name not in training}
    steps = {"steps taken": metrics[-1]["step"], "tokens a second": metrics[-1].get("tokens_per_s")} if metrics else {}
    first = sorted({score.seed for score in scores.tasks.values()})
    return ReportData(
        run=str(run),
        command=command,
        scores=scores,
        n_parameters=gato.n_parameters,
        training_minutes=metrics[-1]["elapsed_s"] / 60 if metrics else 0.0,
        total_minutes=total_minutes,
        seconds=seconds or {},
        films=films or {},
        streams=streams,
        metrics=metrics,
        config={**steps, **training, **model},
        seeds={"weights and batches": seed, "evaluation, first": first[0] if first else None},
        credits=credits,
    )


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
