from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.checkpoint import list_checkpoints, load_checkpoint
from gato_lite.config import PRESETS, GatoConfig
from gato_lite.model import Gato, StreamTensors
from gato_lite.run import RunError
from gato_lite.sequence import Document, plain
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train import loop
from gato_lite.train.loop import Interrupted, Length, Progress, Trainer, TrainingStoppedError
from gato_lite.train.mixture import Mixture, Part
from gato_lite.train.settings import TrainConfig
from gato_lite.train.signals import Signals

PRESETS["loop-test"] = GatoConfig(n_layer=1, n_head=2, d_model=16, d_ff=32, d_encoder=8)
CONFIG = TrainConfig(
    preset="loop-test",
    context_length=16,
    tokens_per_step=64,
    optimiser="muon",
    learning_rate=2e-3,
    matrix_learning_rate=1e-2,
    warmup_steps=5,
    log_every=7,
)


@dataclass
class Echo:
    """Documents in which every other token repeats the one before."""

    name: str
    first: int
    n: int = 8

    def draw(self, generator: np.random.Generator, context_length: int, n: int) -> list[Document]:
        drawn = generator.integers(self.first, self.first + self.n, (n, context_length // 2))
        rows = np.repeat(drawn, 2, axis=1).astype(np.int32)
        return [Document(tokens=plain(ids), target=np.arange(len(ids)) % 2 == 1, labels=ids) for ids in rows]


def mixture(config: TrainConfig = CONFIG, **changes: Any) -> Mixture:
    sources = [Echo("text", 0), Echo("moves", 5120), Echo("moves", 5200)]
    return Mixture(
        sources,
        [1.0, 1.0, 0.5],
        Vocabulary.shipped(),
        tokens_per_step=config.tokens_per_step,
        context_length=config.context_length,
        seed=changes.get("seed", config.seed),
    )


def trainer(run: Path, length: Length | None = None, config: TrainConfig = CONFIG, **options: Any) -> Trainer:
    run.mkdir(parents=True, exist_ok=True)
    gato = Gato(config.model(Vocabulary.shipped().size), seed=config.seed)
    with patch.object(loop, "matmul_peak", lambda _device, precision: 1e9):  # measuring takes a quarter of a second
        return Trainer(gato, mixture(config), run, config, length or Length(steps=20), **options)


def test_a_model_that_acts_in_bfloat16_is_not_trained(tmp_path: Path) -> None:
    gato = Gato(CONFIG.model(Vocabulary.shipped().size))
    gato.transformer.multiply_in(torch.bfloat16)
    with pytest.raises(ValueError, match=r"must hold float32 weights, got torch\.bfloat16, in which steps"):
        Trainer(gato, mixture(), tmp_path, CONFIG, Length(steps=1))


def metrics(run: Path) -> list[dict[str, Any]]:
    """Lines of metrics, without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    clocked = {"elapsed_s", "cpu_s", "tokens_per_s", "target_tokens_per_s", "utilisation", "waited_s"}
    return [{key: value for key, value in line.items() if key not in clocked} for line in lines]


def assert_same_end(a: Path, b: Path) -> None:
    """Equal weights, optimiser state, counts and metrics, to the bit."""
    one, other = load_checkpoint(a), load_checkpoint(b)
    assert one.step == other.step
    for mine, theirs in ((one.model, other.model), (one.optimizer, other.optimizer)):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name]), name
    assert one.state["skipped"] == other.state["skipped"]
    assert metrics(a) == metrics(b)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("straight")
    trainer(run, Length(steps=100)).train()
    return run


def test_half_a_run_and_the_other_half(tmp_path: Path, uninterrupted: Path) -> None:
    first = trainer(tmp_path, Length(steps=100))
    first.train(until=0.5)
    assert first.step == 50
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 56, "loss": 1.0}) + "\n" + '{"step": 63, "lo')  # as a kill leaves it
    second = trainer(tmp_path, Length(steps=100))
    second.resume()
    second.train()
    assert_same_end(tmp_path, uninterrupted)


def test_stages_of_one_run_are_one_run(tmp_path: Path, uninterrupted: Path) -> None:
    made = trainer(tmp_path, Length(steps=100))
    for until in (0.13, 0.13, 0.6, 1.0):
        made.train(until)
    assert_same_end(tmp_path, uninterrupted)


def test_seeds_make_other_runs(tmp_path: Path, uninterrupted: Path) -> None:
    trainer(tmp_path, Length(steps=100), replace(CONFIG, seed=1)).train()
    weights = load_checkpoint(tmp_path).model
    assert not torch.equal(
        weights["embedding.tokens.weight"], load_checkpoint(uninterrupted).model["embedding.tokens.weight"]
    )


def test_losses_fall_and_are_told_by_task_and_modality(uninterrupted: Path) -> None:
    lines = metrics(uninterrupted)
    assert [line["step"] for line in lines] == [*range(7, 100, 7), 100]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[0].keys() == {"step", "progress", "loss", "loss_by_task", "loss_by_modality", "rate_factor", "skipped"}
    assert lines[0]["loss_by_task"].keys() == {"text", "moves"}
    assert lines[0]["loss_by_modality"].keys() == {"text", "discrete"}
    assert lines[0]["loss_by_task"]["text"] == lines[0]["loss_by_modality"]["text"]
    assert lines[0]["loss_by_task"]["moves"] == lines[0]["loss_by_modality"]["discrete"]  # two sources, one task
    assert lines[-1]["rate_factor"] == 0.0
    assert list(uninterrupted.glob("events.out.tfevents.*"))


def test_the_last_step_is_logged(tmp_path: Path) -> None:
    trainer(tmp_path, Length(steps=3)).train()
    assert [line["step"] for line in metrics(tmp_path)] == [3]


def test_a_run_of_minutes_ends_with_its_schedule(tmp_path: Path) -> None:
    seen: list[Progress] = []
    made = trainer(tmp_path, Length(minutes=1.2 / 60), replace(CONFIG, log_every=1), on_progress=seen.append)
    factors: list[float] = []
    step = made._optimiser.step
    made._optimiser.step = lambda factor: (factors.append(factor), step(factor))[1]  # type: ignore[method-assign]
    began = time.monotonic()
    made.train()
    assert 1.2 <= made.elapsed_s < 1.6
    assert time.monotonic() - began < 10
    assert factors[-1] < 0.02
    assert max(factors) > 0.7
    assert all(early >= late for early, late in itertools.pairwise(factors[6:]))
    assert seen[-1].done == 1.0
    assert [progress.step for progress in seen] == list(range(1, made.step + 1))


def test_minutes_go_on_where_they_were(tmp_path: Path) -> None:
    first = trainer(tmp_path, Length(minutes=0.6 / 60))
    first.train(until=0.5)
    second = trainer(tmp_path, Length(minutes=0.6 / 60))
    second.resume()
    assert second.elapsed_s == first.elapsed_s
    assert second.done >= 0.5


def test_cpu_minutes_count_work_and_not_waiting(tmp_path: Path) -> None:
    """A machine that is busy with something else takes longer, and trains as much."""
    made = trainer(tmp_path, Length(cpu_minutes=1.0 / 60), replace(CONFIG, log_every=1))
    update = made._update
    made._update = lambda part: (time.sleep(0.05), update(part))[1]  # type: ignore[method-assign]
    made.train(until=0.5)
    again = trainer(tmp_path, Length(cpu_minutes=1.0 / 60))
    again.resume()
    assert again.cpu_s == made.cpu_s
    again.train()
    assert 1.0 <= again.cpu_s < 1.5
    assert made.elapsed_s > made.cpu_s
    assert again.done == 1.0


def test_what_else_takes_minutes() -> None:
    assert Length(minutes=10.0).less(60.0, 120.0) == Length(minutes=9.0)
    assert Length(cpu_minutes=10.0).less(60.0, 120.0) == Length(cpu_minutes=8.0)
    assert Length(minutes=1.0).less(90.0, 180.0) == Length(minutes=0.1)
    assert Length(cpu_minutes=0.05).less(0.0, 0.0) == Length(cpu_minutes=0.05)
    assert Length(steps=10).less(60.0, 120.0) == Length(steps=10)


def poison(made: Trainer, steps: set[int]) -> None:
    """Makes the loss of some steps not finite."""
    loss = made.gato.loss

    def poisoned(stream: StreamTensors, **how: Any) -> Any:
        losses = loss(stream, **how)
        return replace(losses, mean=losses.mean * float("nan")) if made.step in steps else losses

    made.gato.loss = poisoned  # type: ignore[assignment, method-assign]


def test_a_loss_that_is_not_finite_skips_the_step(tmp_path: Path) -> None:
    made = trainer(tmp_path, Length(steps=12))
    poison(made, {3, 4, 9})
    before: dict[int, torch.Tensor] = {}
    update = made._update

    def watched(part: Part) -> Any:
        weight = made.gato.embedding.tokens.weight
        start = weight.detach().clone()
        losses = update(part)
        assert torch.equal(start, weight) == (losses is None)
        before[made.step] = start
        return losses

    made._update = watched  # type: ignore[method-assign]
    made.train()
    assert made.step == 12
    assert made.skipped == [3, 4, 9]
    assert all(torch.isfinite(tensor).all() for tensor in made.gato.state_dict().values())
    assert metrics(tmp_path)[-1]["skipped"] == 3
    again = trainer(tmp_path, Length(steps=12))
    again.resume()
    assert again.skipped == [3, 4, 9]


def test_a_gradient_that_is_not_finite_skips_the_step(tmp_path: Path) -> None:
    made = trainer(tmp_path, Length(steps=6))
    weight = made.gato.transformer.norm.weight
    weight.register_hook(lambda grad: grad * (math.inf if made.step == 2 else 1.0))
    made.train()
    assert made.skipped == [2]


def test_several_skipped_steps_in_a_row_stop_the_run(tmp_path: Path) -> None:
    made = trainer(tmp_path, Length(steps=50))
    poison(made, set(range(8, 50)))
    expected = (
        "5 steps in a row had a loss or gradient that was not finite, the last is step 12 (seed 0); the state before"
    )
    with pytest.raises(TrainingStoppedError, match=re.escape(expected)):
        made.train()
    assert list_checkpoints(tmp_path) == [13]
    assert load_checkpoint(tmp_path).state["skipped"] == [8, 9, 10, 11, 12]
    healthy = trainer(tmp_path, Length(steps=15))
    healthy.resume()
    healthy.train()
    assert healthy.step == 15


def test_a_step_is_saved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replacing a checkpoint by itself would leave a moment without it."""
    saved: list[int] = []
    save = loop.save_checkpoint
    monkeypatch.setattr(
        loop, "save_checkpoint", lambda run, step, **rest: (saved.append(step), save(run, step, **rest))
    )
    made = trainer(tmp_path, Length(steps=4), replace(CONFIG, checkpoint_every_s=0.0))
    made.train()
    made.train()
    again = trainer(tmp_path, Length(steps=4))
    again.resume()
    again.train()
    assert saved == [1, 2, 3, 4]
    assert list_checkpoints(tmp_path) == [3, 4]


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert not trainer(tmp_path).resume()


def test_a_checkpoint_of_another_optimiser_or_model(tmp_path: Path) -> None:
    trainer(tmp_path, Length(steps=2)).train()
    with pytest.raises(RunError, match="resume with the optimizer of the run"):
        trainer(tmp_path, config=replace(CONFIG, optimiser="adamw")).resume()
    PRESETS["loop-test-wide"] = replace(PRESETS["loop-test"], d_ff=64)
    with pytest.raises(RunError, match="weights do not fit the configuration"):
        trainer(tmp_path, config=replace(CONFIG, preset="loop-test-wide")).resume()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_step_in_hand(tmp_path: Path, number: int) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell has put the tests into the background
    made = trainer(tmp_path, Length(steps=10_000))
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), number))
    timer.start()
    with pytest.raises(Interrupted) as caught:
        made.train()
    timer.join()
    assert caught.value.code == 128 + number
    assert list_checkpoints(tmp_path) == [made.step]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_stops_at_once() -> None:
    with Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_training_outside_the_main_thread(tmp_path: Path) -> None:
    made = trainer(tmp_path, Length(steps=3))
    thread = threading.Thread(target=made.train)
    thread.start()
    thread.join(30)
    assert made.step == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "give one of steps, minutes and cpu_minutes, got none"),
        ({"steps": 1, "minutes": 1.0}, "give one of steps, minutes and cpu_minutes, got steps=1, minutes=1.0"),
        ({"minutes": 2.0, "cpu_minutes": 1.0}, "got minutes=2.0, cpu_minutes=1.0"),
        ({"cpu_minutes": 0.0}, "a run's length must be above 0 and at most 1,000,000,000,000, got cpu_minutes=0.0"),
        ({"steps": -1}, "a run's length must be above 0 and at most 1,000,000,000,000, got steps=-1"),
        ({"minutes": -0.5}, "a run's length must be above 0 and at most 1,000,000,000,000, got minutes=-0.5"),
    ],
)
def test_lengths_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Length(**arguments)


@given(st.integers(1, 1000), st.integers(0, 2000), st.floats(0, 1e5))
def test_progress_is_a_share(steps: int, step: int, elapsed: float) -> None:
    assert 0.0 <= Length(steps=steps).progress(step, elapsed, elapsed) <= 1.0
    assert 0.0 <= Length(minutes=steps / 10).progress(step, elapsed, 0.0) <= 1.0
    assert 0.0 <= Length(cpu_minutes=steps / 10).progress(step, 0.0, elapsed) <= 1.0
    assert Length(steps=steps).progress(max(steps, 1), 0.0, 0.0) == 1.0


def test_a_run_stopped_before_its_first_step_saves_its_fresh_weights(tmp_path: Path) -> None:
    made = trainer(tmp_path, Length(steps=1))
    made.train(until=0.0)
    assert list_checkpoints(tmp_path) == [0]


def test_events_can_be_read(uninterrupted: Path) -> None:
    script = textwrap.dedent(
        f"""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        events = EventAccumulator({str(uninterrupted)!r})
        events.Reload()
        print(sorted(events.Tags()["scalars"]))
        """
    )
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    for tag in ("loss_by_modality/text", "loss_by_task/moves", "training/loss", "training/utilisation"):
        assert repr(tag) in found.stdout


def test_evaluations_take_at_most_their_share_over_all_calls(tmp_path: Path) -> None:
    """The second comes when the first has taken a twentieth of the time, however often `train` is called."""
    took: list[float] = []

    def evaluate(_gato: Gato) -> dict[str, float]:
        took.append(time.perf_counter())
        time.sleep(0.3)
        return {"suite": 0.5}

    config = replace(CONFIG, evaluate_every_s=0.0)
    run = trainer(tmp_path / "run", Length(steps=20), config, evaluate=evaluate)
    for until in (0.25, 0.5, 1.0):
        run.train(until)
    assert len(took) == 1, "twenty steps are done before six seconds are over"
    assert run._next_evaluation > 0.3 / loop.EVALUATION_SHARE
    scored = [line for line in metrics(tmp_path / "run") if "score_by_suite" in line]
    assert [line["score_by_suite"] for line in scored] == [{"suite": 0.5}]


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.usefixtures("compilable")
def test_a_run_whose_blocks_are_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, by a compiler that needs none: metrics count the graphs, and the losses are the same."""
    lines = []
    for compiler in (None, "aot_eager"):
        monkeypatch.setattr(loop, "default_compiler", lambda _device, compiler=compiler: compiler)
        run = tmp_path / str(compiler)
        trainer(run, Length(steps=21)).train()
        lines.append([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])
    assert len(lines[0]) == len(lines[1]) == 3
    for before, after in zip(*lines, strict=True):
        assert "compiled" not in before
        assert 2 <= after["compiled"] <= 3  # one layer: before and after attention, of one or two numbers of targets
        assert after["loss"] == pytest.approx(before["loss"], abs=1e-3)
