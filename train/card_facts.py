"""What the model card of a run says of it: read from the run, its recordings and its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gato_lite.checkpoint import load_checkpoint
from gato_lite.envs.catalogue import suite_of
from gato_lite.envs.dataset import Dataset
from gato_lite.envs.task import PACKAGES
from gato_lite.model import Gato
from gato_lite.run import load, read_run_config
from gato_lite.train.asking import FOLDER as ASKED_FOLDER
from gato_lite.train.asking import read_asked
from gato_lite.train.datasets import open_data
from gato_lite.train.scores import Scores


@dataclass
class SuiteData:
    """What the run learnt from in one suite."""

    tasks: int = 0
    episodes: int = 0
    timesteps: int = 0
    asked: int = 0
    """Episodes of the model's own, about which the experts were asked."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the card says, but for the published files."""

    name: str
    command: str
    """That trained it."""
    machine: str
    gato: Gato
    training: Mapping[str, Any]  # Any: as RunConfig.training
    step: int
    minutes: float
    """Of training."""
    cpu_minutes: float | None
    """The same in CPU time; None for a run that did not count it."""
    asking_minutes: float
    """Of acting and asking the experts."""
    asking_cpu_minutes: float | None
    """The same in CPU time; None where a round did not count it."""
    rounds: tuple[int, ...]
    """Steps after which they were asked."""
    suites: Mapping[str, SuiteData]
    documents: Sequence[Dataset]
    versions: Mapping[str, str]
    """Of the packages that the episodes were recorded with."""
    scores: Scores | None


def collect_facts(run: Path, *, name: str, command: str, machine: str, scores: Scores | None) -> Facts:
    """Reads what the card of a run says.

    Args:
        run: folder of the run, which is where it was trained.
        name: under which it is published.
        command: that trained it.
        machine: that it was trained on.
        scores: of `gato-lite eval`; None where it was not scored.

    Raises:
        FileNotFoundError: a recording is not where the run's configuration names it.
        RunError, ValueError: the run or a recording is damaged.
    """
    training = read_run_config(run).training
    checkpoint = load_checkpoint(run, with_optimizer=False)
    suites: dict[str, SuiteData] = {}
    documents, versions = [], dict[str, str]()
    for folder, _ in training.get("data", []):
        try:
            dataset = open_data(folder)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}; the card counts what the run was trained on: call this where it was trained"
            ) from error
        if dataset.info.kind == "documents":
            documents.append(dataset)
            continue
        suite = suites.setdefault(suite_of(dataset.info.task), SuiteData())
        suite.tasks += 1
        suite.episodes += dataset.info.n_rows
        suite.timesteps += dataset.info.n_timesteps
        versions |= {key: value for key, value in dataset.info.generator.items() if key in PACKAGES}
    asked = [read_asked(path) for path in (run / ASKED_FOLDER).glob("step_*/asked.json")]
    for path in (run / ASKED_FOLDER).glob("step_*/*/dataset.json"):
        info = Dataset.open(path.parent).info
        suites.setdefault(suite_of(info.task), SuiteData()).asked += info.n_rows
    return Facts(
        name=name,
        command=command,
        machine=machine,
        gato=load(run),
        training=training,
        step=checkpoint.step,
        minutes=float(checkpoint.state.get("elapsed_s", 0.0)) / 60,
        cpu_minutes=float(checkpoint.state["cpu_s"]) / 60 if "cpu_s" in checkpoint.state else None,
        asking_minutes=sum(found.seconds for found in asked) / 60,
        asking_cpu_minutes=None
        if any(found.cpu_seconds is None for found in asked)
        else sum(found.cpu_seconds or 0.0 for found in asked) / 60,
        rounds=tuple(sorted(found.step for found in asked)),
        suites=suites,
        documents=documents,
        versions=versions,
        scores=scores,
    )
