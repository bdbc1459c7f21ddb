"""The training loop: streams in, checkpoints and metrics out.

    RUN/metrics.jsonl          a line every `log_every` steps
    RUN/events.out.tfevents.*  the same for TensorBoard
    RUN/checkpoints/           whole or absent

A step's stream is a pure function of (seed, step) and the model draws nothing at random, so a resumed run continues
bit for bit on the same machine. A non-finite loss or gradient skips the step; several in a row stop the run.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

import numpy as np
import torch

from gato_lite.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint, set_aside_after
from gato_lite.model import MODALITIES, Gato, Losses, StreamTensors
from gato_lite.run import RunError, load_weights
from gato_lite.train.gradient import Gradient
from gato_lite.train.mixture import Mixture, Prefetch
from gato_lite.train.optimiser import Optimiser, schedule
from gato_lite.train.settings import TrainConfig
from gato_lite.train.utilisation import matmul_peak, step_flops

MAX_SKIPPED: Final = 5
"""Non-finite steps in a row after which a run stops."""


class TrainingStoppedError(RuntimeError):
    """Too many steps in a row had a loss or gradient that was not finite."""


@dataclass
class Length:
    """How long a run is: steps, or minutes of training; the learning rate ends when it does."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(f"give either steps or minutes, got steps={self.steps}, minutes={self.minutes}")
        given = self.steps if self.steps is not None else self.minutes
        if given is None or not math.isfinite(given) or given <= 0:
            raise ValueError(f"a run's length must be above 0, got steps={self.steps}, minutes={self.minutes}")

    def progress(self, step: int, elapsed_s: float) -> float:
        """Share of the run that is done, in [0, 1]."""
        done = step / max(self.steps, 1) if self.steps is not None else elapsed_s / 60 / max(self.minutes or 0.0, 1e-9)
        return min(done, 1.0)


@dataclass
class Progress:
    """Where a run stands; shown to whoever watches."""

    step: int
    elapsed_s: float
    done: float
    """Share of the run, in [0, 1]."""
    loss: float
    """Mean over the last logged steps, nats per target token."""
    tokens_per_s: float
    utilisation: float
    """Share of the matmul peak measured at the start."""


class Signals:
    """Turns SIGTERM and Ctrl-C into a flag, so that the step in hand ends and is saved."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._receive)
        except ValueError:  # not the main thread: whoever runs us handles signals
            self._previous = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt  # asked twice: stop at once
        self.received = number


class Interrupted(SystemExit):
    """The run was saved and ends because a signal asked for it; the exit code is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


@dataclass
class _Meter:
    """Sums between two lines of metrics."""

    sources: Sequence[str]
    """Name of each source of the mixture; several sources may be of one task."""
    sums: np.ndarray = field(init=False)  # (task, modality): nats and target tokens
    counts: np.ndarray = field(init=False)
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    waited_s: float = 0.0
    """Spent waiting for the loader."""

    def __post_init__(self) -> None:
        self.names = list(dict.fromkeys(self.sources))
        self._task = np.array([self.names.index(name) for name in self.sources])
        self.sums = np.zeros((len(self.names), len(MODALITIES)))
        self.counts = np.zeros((len(self.names), len(MODALITIES)))

    @classmethod
    def restored(cls, sources: Sequence[str], state: dict[str, Any]) -> _Meter:
        """The meter whose `state` a checkpoint has; empty if it was of other tasks."""
        meter = cls(sources)
        if state.get("names") == meter.names:
            meter.sums, meter.counts = np.array(state["sums"]), np.array(state["counts"])
            for key in ("tokens", "flops", "seconds", "waited_s"):
                setattr(meter, key, state[key])
        return meter

    def state(self) -> dict[str, Any]:
        """What has been summed up, as JSON."""
        rates = {key: getattr(self, key) for key in ("tokens", "flops", "seconds", "waited_s")}
        return {"names": self.names, "sums": self.sums.tolist(), "counts": self.counts.tolist(), **rates}

    def add(self, losses: Losses, tokens: int, flops: float, seconds: float) -> None:
        for group, nats in losses.groups:
            tasks = self._task[group.tasks.numpy()]
            self.sums[:, group.modality] += np.bincount(tasks, nats.float().cpu().numpy(), len(self.names))
            self.counts[:, group.modality] += np.bincount(tasks, minlength=len(self.names))
        self.tokens += tokens
        self.flops += flops
        self.seconds += seconds

    def line(self) -> dict[str, Any]:
        def mean(sums: Any, counts: Any) -> float:
            return round(float(sums.sum() / counts.sum()), 5)

        by_task, by_modality = self.counts.sum(1), self.counts.sum(0)
        return {
            "loss": mean(self.sums, self.counts),
            "loss_by_task": {n: mean(self.sums[i], self.counts[i]) for i, n in enumerate(self.names) if by_task[i]},
            "loss_by_modality": {
                n: mean(self.sums[:, i], self.counts[:, i]) for i, n in enumerate(MODALITIES) if by_modality[i]
            },
            "tokens_per_s": round(self.tokens / max(self.seconds, 1e-9), 1),
            "target_tokens_per_s": round(float(self.counts.sum()) / max(self.seconds, 1e-9), 1),
        }


class Trainer:
    """One run in training.

    Args:
        gato: its weights are trained in place.
        mixture: where streams come from; may be replaced between calls of `train`.
        run: folder, with `config.json` already written.
        config: how to train.
        length: how long the whole run is.
        on_progress: called after every logged step.
        evaluate: gives the score of each suite; called every `config.evaluate_every_s` seconds.
    """

    def __init__(
        self,
        gato: Gato,
        mixture: Mixture,
        run: Path,
        config: TrainConfig,
        length: Length,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        evaluate: Callable[[Gato], dict[str, float]] | None = None,
    ) -> None:
        self._evaluate = evaluate
        self.gato = gato
        self.mixture = mixture
        self.run = run
        self.config = config
        self.length = length
        self.step = 0
        self.elapsed_s = 0.0
        """Seconds of training and of evaluating in between; set-up is left out."""
        self.skipped: list[int] = []
        """Steps that were skipped because a loss or gradient was not finite."""
        self._on_progress = on_progress
        self._optimiser = Optimiser(
            gato,
            name=config.optimiser,
            learning_rate=config.learning_rate,
            matrix_learning_rate=config.matrix_learning_rate,
            weight_decay=config.weight_decay,
        )
        self._gradient = Gradient(gato, config.tokens_per_step)
        self._peak = matmul_peak(gato.device)
        self._in_a_row = 0
        self._meter_state: dict[str, Any] = {}
        self._saved: tuple[int, int] | None = None

    def resume(self, step: int | None = None) -> bool:
        """Takes up a checkpoint, if there is one.

        Args:
            step: which; None takes the newest. Checkpoints after it are set aside.

        Raises:
            ValueError: it is damaged; the message says how to go on from an older one.
            RunError: it does not fit this model.
        """
        if not list_checkpoints(self.run):
            _drop_lines_after(self.run / "metrics.jsonl", 0)  # killed before the first checkpoint
            return False
        checkpoint = load_checkpoint(self.run, step=step)
        load_weights(self.gato, checkpoint)
        try:
            self._optimiser.load(checkpoint.optimizer)
        except ValueError as error:
            raise RunError(f"{checkpoint.path}: {error}") from error
        self.step = checkpoint.step
        try:
            self.elapsed_s = float(checkpoint.state["elapsed_s"])
            self.skipped = [int(step) for step in checkpoint.state["skipped"]]
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{checkpoint.path / 'state.json'}: not the state of a training run: {error!r}") from error
        self._meter_state = checkpoint.state.get("meter", {})
        self._saved = (self.step, len(self.skipped))
        set_aside_after(self.run, self.step)
        _drop_lines_after(self.run / "metrics.jsonl", self.step)
        return True

    def save(self) -> None:
        """Writes a checkpoint of now, unless there is one."""
        now = (self.step, len(self.skipped))
        if self._saved == now:
            return
        save_checkpoint(
            self.run,
            self.step,
            model=self.gato.state_dict(),
            optimizer=self._optimiser.tensors(),
            state={
                "elapsed_s": self.elapsed_s,
                "skipped": self.skipped,
                "seed": self.config.seed,
                "vocabulary": self.gato.vocabulary.fingerprint,
                "meter": self._meter_state,
            },
        )
        self._saved = now

    @property
    def done(self) -> float:
        """Share of the run, in [0, 1]."""
        return self.length.progress(self.step, self.elapsed_s)

    def train(self, until: float = 1.0) -> None:
        """Trains until that share of the run is done, and saves.

        Raises:
            TrainingStoppedError: several steps in a row were not finite; the last good state is saved.
            Interrupted: SIGTERM or Ctrl-C came; the run is saved.
        """
        from torch.utils.tensorboard import SummaryWriter

        self.gato.train()
        last_saved = last_evaluated = time.monotonic()
        sources = [source.name for source in self.mixture.sources]
        meter = _Meter.restored(sources, self._meter_state)
        writer = SummaryWriter(str(self.run), purge_step=self.step + 1)
        try:
            n_shard = self._gradient.n_shard
            with Signals() as signals, self._gradient, Prefetch(self.mixture, self.step, n_shard=n_shard) as streams:
                while self.done < until and not signals.received:
                    start = time.perf_counter()
                    waited = streams.waited_s
                    shards = next(streams)
                    losses = self._update(shards)
                    self.step += 1
                    seconds = time.perf_counter() - start
                    self.elapsed_s += seconds
                    meter.waited_s += streams.waited_s - waited
                    if losses is not None:
                        tokens = sum(len(shard.positions) for shard in shards)
                        flops = sum(step_flops(self.gato, shard) for shard in shards)
                        meter.add(losses, tokens, flops, seconds)
                    if meter.tokens and (self.step % self.config.log_every == 0 or self.done >= 1.0):
                        self._log(meter, writer)
                        meter = _Meter(sources)
                    self._meter_state = meter.state()
                    if time.monotonic() - last_saved > self.config.checkpoint_every_s:
                        self.save()
                        last_saved = time.monotonic()
                    if self._evaluate and time.monotonic() - last_evaluated > self.config.evaluate_every_s:
                        self._score(self._evaluate)
                        last_evaluated = time.monotonic()
                self.save()
        finally:
            writer.close()
        if signals.received:
            raise Interrupted(signals.received)

    def note(self, key: str, values: dict[str, float]) -> None:
        """Writes a line of something else than losses to the metrics, and to TensorBoard."""
        from torch.utils.tensorboard import SummaryWriter

        line = {"step": self.step, "elapsed_s": round(self.elapsed_s, 3), "progress": round(self.done, 5)}
        _append(self.run / "metrics.jsonl", {**line, key: {name: round(value, 5) for name, value in values.items()}})
        with SummaryWriter(str(self.run)) as writer:
            for name, value in values.items():
                writer.add_scalar(f"{key}/{name}", value, self.step)

    def _score(self, evaluate: Callable[[Gato], dict[str, float]]) -> None:
        start = time.perf_counter()
        self.gato.eval()
        self.note("score_by_suite", evaluate(self.gato))
        self.gato.train()
        self.elapsed_s += time.perf_counter() - start

    def _update(self, shards: Sequence[StreamTensors]) -> Losses | None:
        """One optimiser step; None if it was skipped."""
        losses = self._gradient.backward(shards)
        norm = torch.nn.utils.clip_grad_norm_(self.gato.parameters(), self.config.gradient_clip, foreach=True)
        if not torch.isfinite(losses.mean) or not torch.isfinite(norm):
            self._optimiser.clear()
            self._skip()
            return None
        self._in_a_row = 0
        self._optimiser.step(schedule(self.done, self.step, self.config.warmup_steps))
        return losses

    def _skip(self) -> None:
        self.skipped.append(self.step)
        self._in_a_row += 1
        where = {"step": self.step, "elapsed_s": round(self.elapsed_s, 3), "progress": round(self.done, 5)}
        _append(self.run / "metrics.jsonl", {**where, "skipped_step": self.step, "seed": self.config.seed})
        if self._in_a_row >= MAX_SKIPPED:
            self.save()
            raise TrainingStoppedError(
                f"{MAX_SKIPPED} steps in a row had a loss or gradient that was not finite, the last is step "
                f"{self.step} (seed {self.config.seed}); the state before them is saved; lower learning_rate or look "
                "at that batch"
            )

    def _log(self, meter: _Meter, writer: Any) -> None:
        utilisation = meter.flops / max(meter.seconds, 1e-9) / self._peak
        line = {
            "step": self.step,
            "elapsed_s": round(self.elapsed_s, 3),
            "progress": round(self.done, 5),
            **meter.line(),
            "utilisation": round(utilisation, 4),
            "rate_factor": round(schedule(self.done, self.step, self.config.warmup_steps), 5),
            "waited_s": round(meter.waited_s, 5),
            "skipped": len(self.skipped),
        }
        _append(self.run / "metrics.jsonl", line)
        for key, value in line.items():
            if isinstance(value, dict):
                for name, part in value.items():
                    writer.add_scalar(f"{key}/{name}", part, self.step)
            elif key not in ("step", "skipped"):
                writer.add_scalar(f"training/{key}", value, self.step)
        if self._on_progress is not None:
            self._on_progress(
                Progress(self.step, self.elapsed_s, self.done, line["loss"], line["tokens_per_s"], utilisation)
            )


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _drop_lines_after(path: Path, step: int) -> None:
    """Forgets metrics of steps that will be taken again."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            break  # half a line: the run was killed while writing it
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    partial.replace(path)
