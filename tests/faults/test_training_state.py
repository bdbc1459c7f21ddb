"""Faults of training that need no process of their own: what is read, what is added up, what is saved."""

from __future__ import annotations

import ctypes
import itertools
import json
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gato_lite.checkpoint import list_checkpoints, load_checkpoint
from gato_lite.config import GatoConfig
from gato_lite.envs.dataset import Dataset, write_documents
from gato_lite.envs.dataset import Document as Stored
from gato_lite.envs.record import record_tasks
from gato_lite.model import Gato, StreamTensors
from gato_lite.sequence import Document, plain
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.datasets import make_mixture, weighted_sources
from gato_lite.train.inspect import inspect_path
from gato_lite.train.loop import Length, Progress, Trainer, TrainingStoppedError
from gato_lite.train.mixture import Mixture
from gato_lite.train.ranks import Ranks
from gato_lite.train.settings import TrainConfig
from gato_lite.train.sources import Source


class Tiny(TrainConfig):
    """Trains the smallest of models, without a preset that other tests would see."""

    def model(self, vocab_size: int) -> GatoConfig:
        shape = GatoConfig(n_layer=1, n_head=2, d_model=16, d_ff=32, d_encoder=8)
        return replace(shape, context_length=self.context_length, vocab_size=vocab_size)


CONFIG = Tiny(context_length=48, tokens_per_step=256, warmup_steps=5, log_every=1, optimiser="muon")


@pytest.fixture(autouse=True)
def _no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gato_lite.train.loop.matmul_peak", lambda _device, precision: 1e9)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Two episodes and six texts: a step reads more than there is."""
    folder = tmp_path_factory.mktemp("data")
    record_tasks({"classic/Acrobot": 2}, folder, workers=1)
    texts = [Stored(None, f"word {n} " * (3 + n), "test" if n == 0 else "train") for n in range(6)]
    data = [
        (Dataset.open(folder / "classic-Acrobot"), 1.0),
        (write_documents(folder / "text", texts, name="text"), 1.0),
    ]
    return [source for source, _ in weighted_sources(data, Vocabulary.shipped(), CONFIG)]


def mixture(sources: list[Source], config: TrainConfig = CONFIG) -> Mixture:
    return make_mixture([(source, 1.0) for source in sources], Vocabulary.shipped(), config)


def trainer(run: Path, sources: list[Source], steps: int, config: TrainConfig = CONFIG, **options: Any) -> Trainer:
    run.mkdir(parents=True, exist_ok=True)
    gato = Gato(config.model(Vocabulary.shipped().size), seed=config.seed)
    return Trainer(gato, mixture(sources, config), run, config, Length(steps=steps), **options)


CLOCKED = {"elapsed_s", "cpu_s", "tokens_per_s", "target_tokens_per_s", "utilisation", "waited_s"}


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKED} for line in lines]


def assert_same_end(a: Path, b: Path) -> None:
    """Equal weights, optimiser state, skipped steps and metrics, to the bit."""
    one, other = load_checkpoint(a), load_checkpoint(b)
    assert one.step == other.step
    for mine, theirs in ((one.model, other.model), (one.optimizer, other.optimizer)):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name]), name
    assert one.state["skipped"] == other.state["skipped"]
    assert metrics(a) == metrics(b)


def reading(made: Trainer) -> list[StreamTensors]:
    """What a trainer's steps are going to read, filled in as they do."""
    read: list[StreamTensors] = []
    update = made._update
    made._update = lambda part: (read.extend(part.shards), update(part))[1]  # type: ignore[method-assign]
    return read


def test_fifty_and_fifty_are_a_hundred(sources: list[Source], tmp_path: Path) -> None:
    straight = trainer(tmp_path / "straight", sources, 100)
    whole = reading(straight)
    straight.train()
    read = []
    for until in (0.5, 1.0):
        half = trainer(tmp_path / "halves", sources, 100)
        assert half.resume() == (until == 1.0)
        now = reading(half)
        half.train(until)
        read += now
    assert_same_end(tmp_path / "halves", tmp_path / "straight")
    assert len(read) == len(whole) == 100
    for one, other in zip(read, whole, strict=True):
        assert torch.equal(one.tokens.ids, other.tokens.ids)
        assert np.array_equal(one.offsets, other.offsets)


def test_a_run_goes_on_from_any_step_and_from_its_end(sources: list[Source], tmp_path: Path) -> None:
    """Steps draw at random with replacement, so that data have no epochs; the ends there are, are these."""
    straight = tmp_path / "straight"
    trainer(straight, sources, 8).train()
    for stop in range(9):
        run = tmp_path / f"stop-{stop}"
        trainer(run, sources, 8).train(stop / 8)
        assert list_checkpoints(run) == [stop]
        again = trainer(run, sources, 8)
        assert again.resume()
        assert again.step == stop
        again.train()
        assert_same_end(run, straight)
    before = {path: path.read_bytes() for path in straight.rglob("step_8/*")}
    finished = trainer(straight, sources, 8)
    read = reading(finished)
    finished.resume()
    finished.train()
    assert read == []
    assert {path: path.read_bytes() for path in straight.rglob("step_8/*")} == before
    assert len(metrics(straight)) == 8


def documents(stream: StreamTensors) -> list[bytes]:
    ids, local = stream.tokens.ids.numpy(), stream.tokens.local.numpy()
    places = itertools.pairwise(stream.offsets.tolist())
    return [ids[start:stop].tobytes() + local[start:stop].tobytes() for start, stop in places]


@pytest.mark.parametrize("n_rank", [1, 2, 3, 64])
@pytest.mark.parametrize("n_shard", [1, 2, 5])
def test_ranks_and_parts_share_the_documents_of_a_step(sources: list[Source], n_rank: int, n_shard: int) -> None:
    """Also where there are more ranks than documents."""
    made = mixture(sources)
    for step in range(6):
        parts = [made.part(step, n_shard, Ranks(rank=rank, size=n_rank)) for rank in range(n_rank)]
        shared = [document for part in parts for shard in part.shards for document in documents(shard)]
        assert sorted(shared) == sorted(documents(made.stream(step)))
        assert {part.n_target for part in parts} == {made.stream(step).n_target}
        assert sum(shard.n_target for part in parts for shard in part.shards) == made.stream(step).n_target


def test_parts_one_after_another_are_the_same_steps(sources: list[Source], tmp_path: Path) -> None:
    config = replace(CONFIG, precision="float32")
    trainer(tmp_path / "whole", sources, 10, config).train()
    whole = load_checkpoint(tmp_path / "whole").model
    losses = [line["loss"] for line in metrics(tmp_path / "whole")]
    for accumulate in (2, 3):
        run = tmp_path / str(accumulate)
        trainer(run, sources, 10, replace(config, accumulate=accumulate)).train()
        assert [line["loss"] for line in metrics(run)] == pytest.approx(losses, abs=2e-4)
        for name, tensor in load_checkpoint(run).model.items():
            torch.testing.assert_close(tensor, whole[name], atol=2e-4, rtol=0)


def test_a_gradient_that_is_not_finite(sources: list[Source], tmp_path: Path) -> None:
    """Real infinities in the gradient of steps 3, 4 and 9."""
    made = trainer(tmp_path, sources, 12)
    weight = made.gato.transformer.norm.weight
    weight.register_hook(lambda grad: grad * (math.inf if made.step in {3, 4, 9} else 1.0))
    made.train()
    assert made.skipped == [3, 4, 9]
    assert all(torch.isfinite(tensor).all() for tensor in made.gato.state_dict().values())
    told = [line for line in metrics(tmp_path) if "skipped_step" in line]
    assert [line["skipped_step"] for line in told] == [3, 4, 9]
    assert [line["rows"] for line in told] == [made.mixture.rows(step) for step in (3, 4, 9)]
    for origin, rows in told[0]["rows"].items():
        assert rows
        for row in rows:
            (stream,) = inspect_path(origin, row=row)
            assert stream.n_targets > 0


def test_rows_are_those_that_were_read(sources: list[Source]) -> None:
    """Each text says its own number; row 0 is held out."""
    made = mixture(sources)
    vocabulary = Vocabulary.shipped()
    seen = set()
    for step in range(20):
        for document in made._documents(step)[0]:
            if document.origin.endswith("text"):
                words = vocabulary.text.decode(document.tokens.ids[document.tokens.ids != vocabulary.end])
                assert set(re.findall(r"word (\d)", words)) <= {str(*document.rows)}
            assert {*document.rows} <= set(made.rows(step)[document.origin])
            seen |= {(Path(document.origin).name, row) for row in document.rows}
    texts = {("text", row) for row in range(1, 6)}
    assert seen == {*texts, ("classic-Acrobot", 0), ("classic-Acrobot", 1)}


@dataclass
class Lines:
    """Documents read from a file each time they are drawn; the disk fails at some of the times."""

    path: Path
    fails: set[int] = field(default_factory=set)
    name: str = "lines"
    n: int = 0

    def draw(self, generator: np.random.Generator, context_length: int, n: int) -> list[Document]:
        self.n += 1
        # The first page of a process's memory belongs to nobody: the system answers with a real EIO.
        with (Path("/proc/self/mem") if self.n in self.fails else self.path).open("rb") as file:
            data = np.frombuffer(file.read(1000), np.uint8)
        chosen = generator.integers(0, len(data) - context_length, n)
        rows = [data[start : start + context_length].astype(np.int32) for start in chosen]
        return [Document(tokens=plain(ids), target=np.arange(len(ids)) > 0, labels=ids) for ids in rows]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines"
    path.write_bytes(np.random.default_rng(0).integers(0, 200, 1000, dtype=np.uint8).tobytes())
    return path


def test_a_disk_that_fails_once_is_read_again(lines: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path / "whole", [Lines(lines)], 12).train()
    trainer(tmp_path / "failed", [Lines(lines, fails={4, 7})], 12).train()
    assert_same_end(tmp_path / "failed", tmp_path / "whole")
    assert capfd.readouterr().err.count("is started again") == 2


def test_a_disk_that_fails_for_good(lines: Path, tmp_path: Path) -> None:
    made = trainer(tmp_path / "run", [Lines(lines, fails=set(range(6, 100)))], 12)
    with pytest.raises(OSError, match="Input/output error, as source 'lines' drew for step 4"):
        made.train()
    assert list_checkpoints(tmp_path / "run") == [4]
    trainer(tmp_path / "whole", [Lines(lines)], 12).train()
    again = trainer(tmp_path / "run", [Lines(lines)], 12)
    again.resume()
    again.train()
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def kill_loader(progress: Progress) -> None:
    if progress.step % 4 == 0:
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "gato-lite-loader"]
        killed = ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
        )
        assert killed == 1


@dataclass
class Slow:
    """A source that takes its time, so that its thread is not all the while in a lock, where nothing ends it."""

    source: Source
    name: str = "slow"

    def draw(self, generator: np.random.Generator, context_length: int, n: int) -> list[Document]:
        for _ in range(20):
            time.sleep(0.001)
        return self.source.draw(generator, context_length, n)


def test_a_loader_that_is_killed_is_started_again(
    lines: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    slow: list[Source] = [Slow(Lines(lines))]
    trainer(tmp_path / "whole", slow, 12).train()
    trainer(tmp_path / "killed", slow, 12, on_progress=kill_loader).train()
    assert_same_end(tmp_path / "killed", tmp_path / "whole")
    assert "is started again" in capfd.readouterr().err


def fails_at(made: Trainer, step: int, error: Callable[[], Exception]) -> None:
    """The model's loss of one step raises, as an allocation in it would."""
    loss = made.gato.loss

    def failing(stream: StreamTensors, **how: Any) -> Any:
        if made.step == step:
            raise error()
        return loss(stream, **how)

    made.gato.loss = failing  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        lambda: MemoryError("Unable to allocate 64.0 GiB for an array"),
    ],
)
def test_a_device_without_memory(error: Callable[[], Exception], sources: list[Source], tmp_path: Path) -> None:
    """The same path as the host's, which `test_training.py` runs short for real; no device is to be had here."""
    made = trainer(tmp_path, sources, 12, replace(CONFIG, checkpoint_every_s=0.0, accumulate=2))
    fails_at(made, 5, error)
    expected = re.compile(
        r"step 5 ran out of memory with 1\d\d tokens at once \(--accumulate 2\); the checkpoint of step 5 is whole; "
        r"the same command with --resume --accumulate 4 goes on with \d\d at once and the same result"
    )
    with pytest.raises(TrainingStoppedError, match=expected):
        made.train()
    assert list_checkpoints(tmp_path) == [4, 5]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_4", "step_5"]


def test_another_error_is_not_taken_for_memory(sources: list[Source], tmp_path: Path) -> None:
    made = trainer(tmp_path, sources, 12)
    fails_at(made, 5, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        made.train()
