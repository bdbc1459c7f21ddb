"""Training in rounds, after each of which the experts are asked about the states that the model itself reaches.

    RUN/asked/step_N/TASK        the model's own episodes after step N, labelled by the expert
    RUN/asked/step_N/asked.json  how long that took, and how many of the episodes succeeded

A run that is resumed takes the rounds up to its checkpoint as they are, and asks again for later ones.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from gato_lite.envs.dataset import Dataset
from gato_lite.envs.task import by_suite
from gato_lite.run import RunError
from gato_lite.train.console import to_json, write_whole
from gato_lite.train.datasets import make_mixture, weighted_sources
from gato_lite.train.loop import Length, Trainer
from gato_lite.train.plans import Part
from gato_lite.train.relabel import relabel
from gato_lite.train.sources import Source

FOLDER: Final = "asked"
"""Of all rounds, in the run's folder."""
LARGEST_SHARE: Final = 1 / 3
"""Of a run's minutes, that asking may have taken for there to be another round: a slow machine has to train too."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """`asked.json` of one round."""

    step: int
    """Training steps before it."""
    seconds: float
    """That it took."""
    cpu_seconds: float | None = None
    """CPU time of all its processes; None in rounds that did not count it."""
    solved: dict[str, float]
    """Share of the episodes with success, of tasks that know it."""


def read_asked(file: Path) -> Asked:
    """`asked.json` of a round.

    Raises:
        RunError: it is damaged, or not there.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=Asked)
    except (OSError, msgspec.MsgspecError) as error:
        raise RunError(f"{file}: expected a round as training writes it, found damage: {error}") from error


class Rounds:
    """Trains a run in rounds.

    Args:
        trainer: of the run, resumed or new, with the mixture of `weighted`.
        weighted: the sources it begins with.
        parts: the tasks with experts to be asked, and others.
        until: shares of the training after which they are asked.
        scale: factor on the numbers of episodes that are asked about.
        workers: processes that act.
    """

    def __init__(
        self,
        trainer: Trainer,
        weighted: list[tuple[Source, float]],
        parts: Mapping[str, Part],
        until: tuple[float, ...],
        *,
        scale: float = 1.0,
        workers: int = 1,
    ) -> None:
        self.trainer = trainer
        self.seconds = 0.0
        """That asking has taken."""
        self.cpu_seconds = 0.0
        """CPU time that it has taken, of all its processes."""
        self._weighted = list(weighted)
        self._parts = parts
        self._asked = {name: max(1, round(part.asked * scale)) for name, part in parts.items() if part.asked}
        self._until = until if self._asked else ()
        self._workers = workers
        self._folder = trainer.run / FOLDER
        self._n_done = 0
        self._take_up()

    def train(self, length: Callable[[], Length]) -> None:
        """Trains to the end, asking on the way.

        Args:
            length: of the whole training, asking left out; called again after each round.
        """
        self.trainer.length = length()
        asked_at: int | None = None
        for until in self._until[self._n_done :]:
            self.trainer.train(until)
            if self._is_slow():
                break
            if self.trainer.step == asked_at:  # of so few steps that nothing was learnt since
                continue
            self._ask()
            asked_at = self.trainer.step
            self.trainer.length = length()
        self.trainer.train()

    def _is_slow(self) -> bool:
        """Whether asking leaves a run of so many minutes too little of them."""
        trainer = self.trainer
        if trainer.length.steps is not None:
            return False
        in_cpu = trainer.length.cpu_minutes is not None
        asking, training = (self.cpu_seconds, trainer.cpu_s) if in_cpu else (self.seconds, trainer.elapsed_s)
        return asking > LARGEST_SHARE * (asking + training)

    def _ask(self) -> None:
        """One round: the model's episodes with the experts' labels join the mixture."""
        ranks, step = self.trainer.ranks, self.trainer.step
        folder = self._folder / f"step_{step}"
        if ranks.is_first:
            start, cpu_start = time.monotonic(), _cpu_seconds()
            partial = self._folder / f".step_{step}.partial"
            for old in (partial, folder):
                shutil.rmtree(old, ignore_errors=True)
            _, solved = relabel(
                self.trainer.run,
                self._asked,
                partial,
                seed=self._n_done,
                workers=self._workers,
                on_progress=self.trainer.show_asked,
            )
            took = {"seconds": time.monotonic() - start, "cpu_seconds": _cpu_seconds() - cpu_start}
            asked = Asked(step=step, solved=solved, **{key: round(value, 3) for key, value in took.items()})
            write_whole(partial / "asked.json", to_json(asked))
            partial.rename(folder)
            self.trainer.note("solved_by_suite", _by_suite(solved))
        ranks.wait()
        self._join(folder)

    def _take_up(self) -> None:
        """The rounds that are there up to the trainer's step join the mixture."""
        found = {int(folder.name.removeprefix("step_")): folder for folder in self._folder.glob("step_*")}
        for step, folder in sorted(found.items()):
            if step <= self.trainer.step and self._n_done < len(self._until):
                self._join(folder)

    def _join(self, folder: Path) -> None:
        asked = read_asked(folder / "asked.json")
        self.seconds += asked.seconds
        self.cpu_seconds += asked.seconds if asked.cpu_seconds is None else asked.cpu_seconds
        self._n_done += 1
        datasets = [Dataset.open(path.parent) for path in sorted(folder.glob("*/dataset.json"))]
        new = [(dataset, self._parts[dataset.info.task].weight / len(self._until)) for dataset in datasets]
        trainer = self.trainer
        self._weighted += weighted_sources(new, trainer.gato.vocabulary, trainer.config)
        trainer.mixture = make_mixture(self._weighted, trainer.gato.vocabulary, trainer.config)


def _cpu_seconds() -> float:
    """CPU time of this process and of those that it has started and that have ended."""
    return sum(os.times()[:4])


def _by_suite(shares: Mapping[str, float]) -> dict[str, float]:
    """Means over the tasks of each suite."""
    return {suite: sum(shares[name] for name in names) / len(names) for suite, names in by_suite(shares).items()}
