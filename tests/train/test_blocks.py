"""Blocks that are compiled, or computed again, are the blocks; and streams of any documents are compiled for once."""

from __future__ import annotations

import importlib.util
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from gato_lite.config import GatoConfig, Precision
from gato_lite.model import Gato, StreamTensors, stream_tensors
from gato_lite.sequence import Document, lay_out, plain
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.bench.train import fresh_gato
from gato_lite.train.blocks import default_compiler, fixed_tokens, n_compiled
from gato_lite.train.gradient import Gradient
from gato_lite.train.mixture import Mixture

quiet = pytest.mark.filterwarnings("ignore")  # the compiler's own
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CONTEXT = 64
TOKENS = 300
CONFIG = GatoConfig(
    n_layer=3, n_head=2, d_model=32, d_ff=64, d_encoder=16, context_length=CONTEXT, token_shift=True, head_norm=True
)


def drawn(seed: int, tenths: int = 7) -> StreamTensors:
    """Documents of any length up to the context, the last of which reaches `TOKENS`; of each, tenths are targets."""
    generator = np.random.default_rng(seed)
    vocabulary = Vocabulary.shipped()
    documents: list[Document] = []
    while sum(len(document.tokens) for document in documents) < TOKENS:
        length = int(generator.integers(2, CONTEXT + 1))
        ids = generator.integers(0, vocabulary.bin_ids.stop, length).astype(np.int32)
        target = np.arange(length) >= max(1, length - length * tenths // 10)
        documents.append(Document(tokens=plain(ids), target=target, labels=ids))
    return stream_tensors(lay_out(documents), vocabulary, None)


def results(gato: Gato, gradient: Gradient, stream: StreamTensors) -> list[torch.Tensor]:
    with gradient:
        losses = gradient.backward([stream])
    gradients = [parameter.grad.clone() for parameter in gato.parameters() if parameter.grad is not None]
    return [losses.mean, *(nats for _, nats in losses.groups), *gradients]


@quiet
@pytest.mark.usefixtures("compilable")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("again", [False, True])
def test_many_streams_are_compiled_for_once(precision: Precision, again: bool) -> None:
    """Two parts of a block, and the second for the target rows of the last: three graphs for any number of layers."""
    gato = fresh_gato(CONFIG, torch.device("cpu"))
    plain_one = Gradient(gato, TOKENS, precision=precision)
    compiling = Gradient(gato, TOKENS, precision=precision, compiler="aot_eager", checkpoint_activations=again)
    sizes = set()
    for seed in range(6):
        stream = drawn(seed)
        sizes.add((len(stream.positions), len(stream.offsets), stream.n_target))
        expected, found = (results(gato, gradient, stream) for gradient in (plain_one, compiling))
        assert len(found) == len(expected) > 15
        for one, other in zip(expected, found, strict=True):
            scale = float(one.abs().max())
            torch.testing.assert_close(
                other, one, atol=1e-5 * scale if precision == "float32" else 1e-2 * scale, rtol=0
            )
        assert compiling.n_compiled == 3
    assert len(sizes) == 6
    assert plain_one.n_compiled == 0
    results(gato, compiling, drawn(0, tenths=2))  # fewer targets, of a block of their own
    assert compiling.n_compiled == 4
    results(gato, compiling, drawn(1, tenths=2))
    assert compiling.n_compiled == 4


@quiet
@pytest.mark.usefixtures("compilable")
def test_models_of_many_sizes_are_compiled_in_one_process() -> None:
    """Each is compiled for as often as torch allows, which would be an error for the second."""
    for tokens in (TOKENS, 2 * TOKENS):
        gradient = Gradient(fresh_gato(CONFIG, torch.device("cpu")), tokens, precision="float32", compiler="aot_eager")
        with torch._dynamo.config.patch(recompile_limit=2):
            results(gradient.gato, gradient, drawn(0))
        assert gradient.n_compiled == 3


@pytest.mark.slow
@quiet
@pytest.mark.usefixtures("compilable")
def test_inductor_compiles_the_blocks_once() -> None:
    """The compiler that a GPU gets, here for the CPU."""
    gato = fresh_gato(CONFIG, torch.device("cpu"))
    compiling = Gradient(gato, TOKENS, precision="float32", compiler="inductor", checkpoint_activations=True)
    for seed in range(3):
        expected, found = (
            results(gato, g, drawn(seed)) for g in (Gradient(gato, TOKENS, precision="float32"), compiling)
        )
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(other, one, atol=1e-5 * float(one.abs().max()), rtol=0)
    assert compiling.n_compiled == 3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_computing_blocks_again_changes_no_bit(precision: Precision) -> None:
    gato = fresh_gato(CONFIG, torch.device("cpu"))
    kept, again = (Gradient(gato, TOKENS, precision=precision, checkpoint_activations=c) for c in (False, True))
    for one, other in zip(results(gato, kept, drawn(0)), results(gato, again, drawn(0)), strict=True):
        assert torch.equal(one, other)


def test_computing_blocks_again_keeps_little() -> None:
    """Numbers that are kept for the backward pass of the blocks: of each, what goes in, and little more."""
    gato = fresh_gato(CONFIG, torch.device("cpu"))
    stream = drawn(0)

    def kept(gradient: Gradient) -> int:
        weights = {parameter.untyped_storage().data_ptr() for parameter in gato.parameters()}
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = gato(stream, run=gradient._run)
        assert hidden.requires_grad
        return sum(size for place, size in sizes.items() if place not in weights)

    whole, again = (kept(Gradient(gato, TOKENS, checkpoint_activations=chosen)) for chosen in (False, True))
    n_token = len(stream.positions)
    assert again < whole / 2
    assert again < (3 + 4) * 32 * n_token


class Lengths:
    """A source of documents of any length."""

    name = "lengths"

    def draw(self, generator: np.random.Generator, context_length: int, n: int) -> list[Document]:
        made = []
        for _ in range(n):
            ids = np.full(int(generator.integers(2, context_length + 1)), 7, np.int32)
            made.append(Document(tokens=plain(ids), target=np.arange(len(ids)) > 0, labels=ids))
        return made


@pytest.mark.parametrize("n_shard", [1, 2, 3, 8])
def test_no_shard_is_larger_than_what_it_is_filled_up_to(n_shard: int) -> None:
    mixture = Mixture([Lengths()], [1.0], Vocabulary.shipped(), tokens_per_step=TOKENS, context_length=CONTEXT, seed=0)
    most = fixed_tokens(TOKENS, n_shard, CONTEXT)
    assert most % 64 == 0
    for step in range(50):
        for shard in mixture.shards(step, n_shard):
            assert len(shard.positions) <= most
            filled = shard.filled_up(most)
            assert len(filled.positions) == len(filled.tokens.ids) == most == filled.offsets[-1]
            assert filled.cuts.tolist() == filled.offsets.tolist()
            assert max(np.diff(filled.offsets[len(shard.offsets) - 1 :]), default=0) <= 64
            assert (filled.offsets[: len(shard.offsets)] == shard.offsets).all()


def test_a_cpu_compiles_nothing() -> None:
    assert default_compiler(torch.device("cpu")) is None
    compiled = n_compiled()
    gradient = Gradient(fresh_gato(CONFIG, torch.device("cpu")), TOKENS)
    assert not gradient.compiles
    assert n_compiled() == compiled


@pytest.mark.parametrize(
    "missing, expected",
    [("nothing", "inductor"), ("triton", None), ("compiler", None), ("headers", None), ("capability", None)],
)
def test_a_gpu_compiles_where_that_can_be_done(
    missing: str, expected: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if missing != "headers":
        (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None if missing == "triton" else object())
    monkeypatch.setattr(shutil, "which", lambda _name: None if missing == "compiler" else "/usr/bin/cc")
    monkeypatch.setattr(sysconfig, "get_path", lambda *_names: str(tmp_path))
    capability = (6, 1) if missing == "capability" else (7, 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert default_compiler(torch.device("cuda")) == expected


@needs_cuda
@quiet
@pytest.mark.usefixtures("compilable")
@pytest.mark.parametrize("again", [False, True])
def test_compiled_on_cuda(again: bool) -> None:
    """In bfloat16, over attention of ragged documents."""
    device = torch.device("cuda")
    gato = fresh_gato(GatoConfig(n_layer=3, n_head=2, d_model=128, d_ff=256, context_length=CONTEXT), device)
    plain_one = Gradient(gato, TOKENS)
    compiling = Gradient(gato, TOKENS, compiler=default_compiler(device), checkpoint_activations=again)
    assert compiling.compiles
    for seed in range(6):
        expected, found = (results(gato, gradient, drawn(seed)) for gradient in (plain_one, compiling))
        for one, other in zip(expected, found, strict=True):
            assert float((one - other).norm()) < 0.15 * float(one.norm())  # both round to bfloat16
        assert compiling.n_compiled == 3
