"""The training loop: streams in, checkpoints and metrics out.

    RUN/metrics.jsonl   a line every `log_every` steps, and one for each step that was skipped
    RUN/checkpoints/    whole or absent

A step's stream is a pure function of (seed, step) and the model draws nothing at random, so a resumed run continues
bit for bit on the same CPU. A non-finite loss or gradient skips the step; several in a row stop the run. A disk
that refuses a checkpoint is asked again; memory that runs out ends the run. What is saved is whole in every case.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from gato_lite.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint, set_aside_after
from gato_lite.model import Gato, Losses
from gato_lite.run import RunError, load_weights
from gato_lite.train.blocks import default_compiler
from gato_lite.train.console import PROGRAM, print_note
from gato_lite.train.gradient import Gradient
from gato_lite.train.loader import Prefetch
from gato_lite.train.metrics import Journal, Meter, drop_lines_after, tags_of
from gato_lite.train.mixture import Mixture, Part
from gato_lite.train.optimiser import Optimiser, schedule
from gato_lite.train.peak import matmul_dtype, matmul_peak
from gato_lite.train.progress import Length, Progress
from gato_lite.train.ranks import ALONE, Ranks
from gato_lite.train.settings import TrainConfig
from gato_lite.train.signals import Interrupted, Signals
from gato_lite.train.stops import TrainingStoppedError, disk_refused, is_out_of_memory, not_finite, out_of_memory
from gato_lite.train.transfer import Transfer
from gato_lite.train.utilisation import step_flops

__all__ = ["Interrupted", "Length", "Progress", "Trainer", "TrainingStoppedError"]

MAX_SKIPPED: Final = 5
"""Non-finite steps in a row after which a run stops."""
MAX_REFUSED: Final = 3
"""Checkpoints in a row that the disk refused after which a run stops."""
EVALUATION_SHARE: Final = 0.05
"""Most of the time that evaluations in between may take, after the first."""
RETRY_S: Final = 2.0
"""Seconds before the last checkpoint of a run is tried again."""


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
        ranks: the processes that train together; the first writes.

    Raises:
        ValueError: the model was made to act in bfloat16.
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
        ranks: Ranks = ALONE,
    ) -> None:
        self._evaluate = evaluate
        self.ranks = ranks
        self.gato = gato
        if gato.transformer.dtype is not torch.float32:
            raise ValueError(
                f"a model that trains must hold float32 weights, got {gato.transformer.dtype}, in which steps are "
                'rounded away; load it with precision="float32"'
            )
        self.mixture = mixture
        self.run = run
        self.config = config
        self.length = length
        self.step = 0
        self.elapsed_s = 0.0
        """Seconds of training and of evaluating in between; set-up is left out."""
        self.cpu_s = 0.0
        """CPU time of this process meanwhile, all its threads together, in seconds."""
        self.skipped: list[int] = []
        """Steps that were skipped because a loss or gradient was not finite."""
        self._on_progress = on_progress
        self._optimiser = Optimiser(
            gato,
            name=config.optimiser,
            learning_rate=config.learning_rate,
            matrix_learning_rate=config.matrix_learning_rate,
            weight_decay=config.weight_decay,
            dtype=matmul_dtype(gato.device, config.precision),
        )
        self._gradient = Gradient(
            gato,
            config.tokens_per_step,
            accumulate=config.accumulate,
            ranks=ranks,
            precision=config.precision,
            compiler=default_compiler(gato.device) if config.compile else None,
            checkpoint_activations=config.checkpoints_activations,
        )
        self._transfer = Transfer(gato.device)
        self._peak = matmul_peak(gato.device, precision=config.precision) * ranks.size
        self._in_a_row = 0
        self._refused = 0
        self._meter_state: dict[str, Any] = {}
        self._saved: tuple[int, int] | None = None
        self._next_evaluation = config.evaluate_every_s

    def resume(self, step: int | None = None) -> bool:
        """Takes up a checkpoint, if there is one.

        Args:
            step: which; None takes the newest. Checkpoints after it are set aside.

        Raises:
            ValueError: it is damaged; the message says how to go on from an older one.
            RunError: it does not fit this model.
        """
        if not list_checkpoints(self.run):
            self._forget_after(0)  # killed before the first checkpoint
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
            self.cpu_s = float(checkpoint.state.get("cpu_s", self.elapsed_s))  # older runs did not count it
            self.skipped = [int(step) for step in checkpoint.state["skipped"]]
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{checkpoint.path / 'state.json'}: not the state of a training run: {error!r}") from error
        self._meter_state = checkpoint.state.get("meter", {})
        self._saved = (self.step, len(self.skipped))
        self._next_evaluation = self.elapsed_s + self.config.evaluate_every_s
        self._forget_after(self.step)
        return True

    def _forget_after(self, step: int) -> None:
        """Puts what is known of later steps, which will be taken again, out of the way."""
        if self.ranks.is_first:
            set_aside_after(self.run, step)
            drop_lines_after(self.run, step)

    def save(self) -> None:
        """Writes a checkpoint of now, unless there is one."""
        now = (self.step, len(self.skipped))
        if self._saved == now or not self.ranks.is_first:
            return
        save_checkpoint(
            self.run,
            self.step,
            model=self.gato.state_dict(),
            optimizer=self._optimiser.tensors(),
            state={
                "elapsed_s": self.elapsed_s,
                "cpu_s": self.cpu_s,
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
        return self.length.progress(self.step, self.elapsed_s, self.cpu_s)

    def train(self, until: float = 1.0) -> None:
        """Trains until that share of the run is done, and saves.

        Raises:
            TrainingStoppedError: several steps in a row were not finite, memory ran out, or the disk refused several
                checkpoints in a row; the last good state is whole.
            Interrupted: SIGTERM or Ctrl-C came; the run is saved.
        """
        self.gato.train()
        last_saved = time.monotonic()
        meter = Meter.restored([source.name for source in self.mixture.sources], self._meter_state)
        journal = Journal(self.run, self.step, silent=not self.ranks.is_first)
        with Signals() as signals, self._gradient, Prefetch(self._part, self.step) as parts:
            while not self._ends(until, signals):
                meter = self._step(parts, meter, journal)
                if time.monotonic() - last_saved > self.config.checkpoint_every_s:
                    self._try_to_save()
                    last_saved = time.monotonic()
                if self._evaluate and self.elapsed_s > self._next_evaluation:
                    start = self.elapsed_s
                    self._score(self._evaluate, journal, signals)
                    took = self.elapsed_s - start
                    self._next_evaluation = self.elapsed_s + max(self.config.evaluate_every_s, took / EVALUATION_SHARE)
            while not self._try_to_save():
                time.sleep(RETRY_S)
        if signals.received:
            raise Interrupted(signals.received)

    def note(self, key: str, values: dict[str, float]) -> None:
        """Writes a line of something else than losses to the metrics, and to TensorBoard."""
        self._note(Journal(self.run, self.step, silent=not self.ranks.is_first), key, values)

    def _note(self, journal: Journal, key: str, values: dict[str, float]) -> None:
        rounded = {name: round(value, 5) for name, value in values.items()}
        journal.write({**self._where, key: rounded}, {f"{key}/{name}": value for name, value in values.items()})

    @property
    def _where(self) -> dict[str, float]:
        """What every line of metrics begins with."""
        times = {"elapsed_s": round(self.elapsed_s, 3), "cpu_s": round(self.cpu_s, 3)}
        return {"step": self.step, **times, "progress": round(self.done, 5)}

    def _part(self, step: int) -> Part:
        return self._transfer.send(self.mixture.part(step, self._gradient.n_shard, self.ranks))

    def _ends(self, until: float, signals: Signals) -> bool:
        """Whether the steps end here, on all ranks alike: by the first one's clocks, or by a signal to any."""
        clocks = [self.elapsed_s, self.cpu_s] if self.ranks.is_first else [0.0, 0.0]
        self.elapsed_s, self.cpu_s, number = self.ranks.largest([*clocks, float(signals.received or 0)])
        if number and signals.received is None:
            signals.received = int(number)
        return self.done >= until or bool(number)

    def _step(self, parts: Prefetch[Part], meter: Meter, journal: Journal) -> Meter:
        """One step, logged where it is time to; the meter that goes on."""
        start, cpu_start = time.perf_counter(), time.process_time()
        waited = parts.waited_s
        part = self._read(parts)
        try:
            losses = self._update(part)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            accumulate = self.config.accumulate
            raise out_of_memory(self.run, self.step, part.n_tokens // accumulate, accumulate) from error
        self.step += 1
        seconds = time.perf_counter() - start
        self.elapsed_s += seconds
        self.cpu_s += time.process_time() - cpu_start
        meter.waited_s += parts.waited_s - waited
        if losses is None:
            self._skip(part.step, journal)
        else:
            flops = sum(step_flops(self.gato, shard) for shard in part.shards)
            meter.add(losses, part.n_tokens, flops, seconds, self.ranks)
        if meter.tokens and (self.step % self.config.log_every == 0 or self.done >= 1.0):
            self._log(meter, journal)
            meter = Meter(meter.sources)
        self._meter_state = meter.state()
        return meter

    def _read(self, parts: Prefetch[Part]) -> Part:
        """The next step's part; where there is none to be had, what was trained so far is saved."""
        try:
            return self._transfer.receive(next(parts))
        except Exception:
            self._try_to_save()
            raise

    def _try_to_save(self) -> bool:
        """Saves, unless the disk refuses; the run stops when it has refused several times in a row."""
        try:
            self.save()
        except (OSError, MemoryError) as error:
            self._refused += 1
            tensors = [*self.gato.state_dict().values(), *self._optimiser.tensors().values()]
            told = disk_refused(self.run, self.step, error, tensors)
            if self._refused >= MAX_REFUSED:
                told = f"{told}; that was the last of {MAX_REFUSED} tries: make room, then go on with --resume"
                raise TrainingStoppedError(told) from error
            print_note(f"{PROGRAM}: {told}; trying again")
            return False
        self._refused = 0
        return True

    def _score(self, evaluate: Callable[[Gato], dict[str, float]], journal: Journal, signals: Signals) -> None:
        """Scores the model on the first rank, while the others wait; a signal ends it without a score."""
        if not self.ranks.is_first:
            return
        start, cpu_start = time.perf_counter(), time.process_time()
        self.gato.eval()
        scores: dict[str, float] | None = None
        with signals.at_once():
            if signals.received:  # in the step before
                raise Interrupted(signals.received)
            scores = evaluate(self.gato)
        if scores is not None:
            self._note(journal, "score_by_suite", scores)
        self.gato.train()
        self.elapsed_s += time.perf_counter() - start
        self.cpu_s += time.process_time() - cpu_start

    def _update(self, part: Part) -> Losses | None:
        """One optimiser step; None if its loss or gradient is not finite, and then nothing has changed.

        What the host has to know of a step it reads in one go, before the optimiser: the only time that it waits for
        the device. While that works on the update, the next step is on its way.
        """
        losses = self._gradient.backward(part.shards, part.n_target)
        norm = torch.nn.utils.clip_grad_norm_(self.gato.parameters(), self.config.gradient_clip, foreach=True)
        losses, norm = losses.on_host(norm)
        if not torch.isfinite(losses.mean) or not torch.isfinite(norm):
            self._optimiser.clear()
            return None
        self._optimiser.step(schedule(self.done, self.step, self.config.warmup_steps))
        self._in_a_row = 0
        return losses

    def _skip(self, step: int, journal: Journal) -> None:
        """Writes down what a step that was skipped had read; too many in a row stop the run."""
        self.skipped.append(step)
        self._in_a_row += 1
        rows = self.mixture.rows(step)
        journal.write({**self._where, "skipped_step": step, "seed": self.config.seed, "rows": rows}, {})
        if self._in_a_row >= MAX_SKIPPED:
            self._try_to_save()
            raise not_finite(self.run, step, MAX_SKIPPED, self.config.seed, rows)

    def _log(self, meter: Meter, journal: Journal) -> None:
        utilisation = meter.flops / max(meter.seconds, 1e-9) / self._peak
        line: dict[str, Any] = {  # Any: JSON
            **self._where,
            **meter.line(),
            "utilisation": round(utilisation, 4),
            "rate_factor": round(schedule(self.done, self.step, self.config.warmup_steps), 5),
            "waited_s": round(meter.waited_s, 5),
            "skipped": len(self.skipped),
            **({"compiled": self._gradient.n_compiled} if self._gradient.compiles else {}),
        }
        journal.write(line, tags_of(line))
        if self._on_progress is not None:
            self._on_progress(
                Progress(self.step, self.elapsed_s, self.done, line["loss"], line["tokens_per_s"], utilisation)
            )

    def show_asked(self, n_asked: int, n_episode: int) -> None:
        """Tells whoever watches that experts are asked meanwhile, and how far they are."""
        if self._on_progress is not None:
            nan = float("nan")
            self._on_progress(Progress(self.step, self.elapsed_s, self.done, nan, nan, nan, (n_asked, n_episode)))
