"""The training benchmark: what it times is the same work, and the gathered head is surely faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gato_lite.config import PRESETS, GatoConfig
from gato_lite.model import Gato, StreamTensors, stream_tensors
from gato_lite.sequence import Document, lay_out, plain
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.bench import train, train_compare
from gato_lite.train.bench.measure import take_turns
from gato_lite.train.bench.train_data import mixture_of, record_workloads
from gato_lite.train.bench.train_memory import activation_bytes, measure_memory
from gato_lite.train.commands.bench_train import print_comparisons, print_speeds, print_threads_and_memory
from gato_lite.train.datasets import open_data
from gato_lite.train.gradient import Gradient

CPU = torch.device("cpu")
TINY = GatoConfig(
    n_layer=2,
    n_head=2,
    d_model=32,
    d_ff=64,
    d_encoder=16,
    context_length=256,
    n_text_local=64,
    token_shift=True,
    head_norm=True,
)
Losses = Callable[[Gato, StreamTensors], dict[str, train_compare.Loss]]


@pytest.fixture
def gato() -> Gato:
    return train.fresh_gato(TINY, CPU)


def stream_of(*lengths: int) -> StreamTensors:
    """Documents in which every fourth token is an action."""
    vocabulary = Vocabulary.shipped()
    generator = np.random.default_rng(0)
    made = []
    for length in lengths:
        ids = generator.integers(0, vocabulary.bin_ids.stop, length).astype(np.int32)
        target = np.arange(length) % 4 == 3
        ids[target] = generator.integers(vocabulary.discrete_ids.start, vocabulary.discrete_ids.stop, target.sum())
        made.append(Document(tokens=plain(ids), target=target, labels=ids))
    return stream_tensors(lay_out(made), vocabulary, None)


@pytest.mark.parametrize(
    "losses", [train_compare.attention_losses, train_compare.head_losses, train_compare.padding_losses]
)
def test_ways_are_the_same(gato: Gato, losses: Losses, capsys: pytest.CaptureFixture[str]) -> None:
    made = losses(gato, stream_of(5, 9, 9, 17))
    compared = train_compare.compare("the decision", gato, made, rounds=1)
    assert [row.variant for row in compared] == list(made)
    assert compared[0].error == 0.0
    assert max(row.error for row in compared) < 1e-4
    print_comparisons(compared)
    assert "the decision" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.usefixtures("compilable")
def test_ways_of_running_blocks_are_the_same(gato: Gato) -> None:
    made = train_compare.block_losses(gato, stream_of(5, 9, 9, 17), "aot_eager")
    compared = train_compare.compare("blocks", gato, made, rounds=1)
    assert [row.variant for row in compared] == ["as they stand", "compiled", "computed again"]
    assert max(row.error for row in compared) < 1e-4


def test_a_gpu_gets_larger_streams() -> None:
    gpu = torch.device("cuda")
    for name, tokens in train.TOKENS_ON_CUDA.items():
        config = train.training_of(name, gpu)
        assert (config.tokens_per_step, config.context_length) == (tokens, 1024)
        assert config.checkpoints_activations == (name == "gato-1.18b")
        assert train.config_of(name, gpu) == GatoConfig.preset(name)
    assert train.training_of(train.SMALL_NAME, gpu).tokens_per_step == 65_536
    assert train.training_of("gato-79m", CPU).tokens_per_step == 4096


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")
def test_a_preset_is_measured_on_cuda() -> None:
    """Compiled for the first stream, and for no other."""
    workloads = {"text": [open_data("text")]}
    (speed,) = train.measure_speeds(["lite-1m"], workloads, torch.device("cuda"), rounds=2)
    assert 2 <= speed.compiled <= 3  # of text nearly all rows are targets: filled up, they are as many as the tokens
    assert speed.recompiled <= 1  # another quarter of the rows
    assert 0 < speed.peak_share < 1


def test_a_way_that_is_another_is_found(gato: Gato) -> None:
    losses = {"right": lambda: gato.loss(stream_of(8)).mean, "wrong": lambda: 1.01 * gato.loss(stream_of(8)).mean}
    with pytest.raises(RuntimeError, match=r"a loss, 'wrong': its gradient differs by 1\.0e-02, more than 1e-03"):
        train_compare.compare("a loss", gato, losses, rounds=1)


def test_a_padded_batch_has_the_streams_loss(gato: Gato) -> None:
    stream = stream_of(4, 11, 30)
    expected = gato.loss(stream).mean
    for length in (30, 64):
        torch.testing.assert_close(train_compare.padded_loss(gato, stream, length), expected)


def test_gathering_rows_before_the_head_pays() -> None:
    """About three times as fast here: a small model, one position in four predicts one of a sixth of the ids."""
    gato = train.fresh_gato(replace(TINY, d_model=64), CPU)
    losses = train_compare.head_losses(gato, stream_of(*[128] * 8))
    timings = take_turns(
        {name: lambda loss=loss: train_compare.gradients(gato, loss) for name, loss in losses.items()},  # type: ignore[misc]
        rounds=5,
    )
    assert timings["target rows"].ratio > 1.15


def test_a_timed_step_leaves_the_weights(gato: Gato) -> None:
    before = {name: tensor.clone() for name, tensor in gato.state_dict().items()}
    stream = stream_of(12, 20)
    with Gradient(gato, 1, precision="float32") as gradient:
        step = train.training_step(gato, [stream], gradient)
        assert step() == step() == pytest.approx(float(gato.loss(stream).mean.detach()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in gato.state_dict().items())


def test_threads_are_given_back(gato: Gato) -> None:
    threads = torch.get_num_threads()
    whole, half = stream_of(*[256] * 6), stream_of(*[256] * 3)
    try:
        found = train_compare.measure_threads(gato, (whole,), (half, half), rounds=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert found.step_gain > 0
    assert found.matmul_gain > 0


def test_workloads_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    monkeypatch.setattr(train, "SMALL", TINY)
    monkeypatch.setattr(train, "matmul_peak", lambda _device, _seconds, _precision: 1e12)
    workloads = record_workloads(tmp_path, lambda _done, _total: None)
    assert {"text", "mixed"} <= set(workloads) <= {"control", "babyai", "text", "mixed"}
    speeds = train.measure_speeds(["tiny"], workloads, CPU, rounds=1)
    assert [(speed.model, speed.workload) for speed in speeds] == [
        *(("tiny", workload) for workload in workloads),
        (train.SMALL_NAME, "control"),
    ]
    for speed in speeds:
        assert speed.tokens >= 4096
        assert 0 < speed.peak_share < 1
        assert (speed.datasheet_share, speed.compiled, speed.recompiled) == (None, 0, 0)
        assert (speed.timesteps_per_s is None) == (speed.workload in {"text", "mixed"})
    print_speeds(speeds)
    assert "tokens/s" in capsys.readouterr().out
    shares = mixture_of(workloads["mixed"], Vocabulary.shipped())
    assert len(shares.sources) == len(workloads["mixed"])


@pytest.mark.parametrize("n_kv_head", [None, 1])
def test_activations_on_paper_are_those_that_are_kept(n_kv_head: int | None) -> None:
    gato = Gato(replace(TINY, d_model=64, d_ff=256, n_layer=3, n_kv_head=n_kv_head))
    stream = stream_of(*[64] * 8)
    own = {weight.untyped_storage().data_ptr() for weight in gato.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = gato.loss(stream)
    assert loss.mean.requires_grad
    assert activation_bytes(gato, stream) == pytest.approx(sum(kept.values()), rel=0.15)


def test_memory_is_that_of_a_fresh_process(gato: Gato, capsys: pytest.CaptureFixture[str]) -> None:
    stream = stream_of(64, 64)
    found = measure_memory("lite-1m", "made up", stream, CPU)
    if found is None:
        pytest.skip("this system does not tell")
    assert found.parameters == 16 * Gato(train.config_of("lite-1m", CPU)).n_parameters
    assert found.peak > found.parameters / 2
    assert activation_bytes(gato, stream_of(64, 64, 64, 64)) == 2 * activation_bytes(gato, stream)
    deep = Gato(replace(TINY, n_layer=12))
    assert activation_bytes(deep, stream, checkpointed=True) < 0.3 * activation_bytes(deep, stream)
    print_threads_and_memory(None, [found])
    assert "activations on paper" in capsys.readouterr().out
