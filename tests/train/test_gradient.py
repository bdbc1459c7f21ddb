from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gato_lite.config import GatoConfig, Precision
from gato_lite.model import FILLED_UP, Gato, StreamTensors, stream_tensors
from gato_lite.sequence import Document, lay_out, plain
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.bench.train import fresh_gato
from gato_lite.train.gradient import Gradient

CONFIG = GatoConfig(n_layer=2, n_head=2, d_model=64, d_ff=128, d_encoder=16, context_length=64, token_shift=True)


def drawn(vocabulary: Vocabulary, n_chunk: int = 0) -> StreamTensors:
    """Documents of random text, after chunks of random values."""
    generator = np.random.default_rng(0)
    documents = []
    for length in (40, 33, 7):
        ids = generator.integers(0, 4000, length).astype(np.int32)
        tokens = plain(ids)
        if n_chunk:
            ids[:n_chunk] = vocabulary.chunk
            chunks = generator.normal(size=(n_chunk, 32)).astype(np.float32)
            tokens = replace(plain(ids), chunks=chunks)
        documents.append(Document(tokens=tokens, target=np.arange(length) > n_chunk, labels=ids))
    return stream_tensors(lay_out(documents), vocabulary, None)


def gradient_of(gato: Gato, stream: StreamTensors, precision: Precision) -> torch.Tensor:
    with Gradient(gato, 1, precision=precision) as gradient:
        gradient.backward([stream])
    return torch.cat([p.grad.flatten() for p in gato.parameters() if p.grad is not None])


def test_bfloat16_rounds_the_gradient_a_little() -> None:
    gato = fresh_gato(CONFIG, torch.device("cpu"))
    stream = drawn(gato.vocabulary)
    exact, rounded = (gradient_of(gato, stream, precision) for precision in ("float32", "bfloat16"))
    assert rounded.dtype == torch.float32
    assert 1e-5 < float((rounded - exact).norm() / exact.norm()) < 0.02


def test_values_reach_the_first_block_unrounded() -> None:
    """A position in metres has to be known better than to the three digits of bfloat16."""
    gato = fresh_gato(CONFIG, torch.device("cpu"))
    stream = drawn(gato.vocabulary, n_chunk=3)
    seen: list[torch.Tensor] = []
    gato.transformer.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach()))
    for precision in ("float32", "bfloat16"):
        gradient_of(gato, stream, precision)
    assert len(stream.tokens.chunks) == 9
    exact, rounded = seen
    assert torch.equal(exact, rounded[: len(exact)])


def test_streams_are_filled_up_for_products_in_bfloat16_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gato = fresh_gato(CONFIG, torch.device("cpu"))
    stream = drawn(gato.vocabulary, n_chunk=3)
    n_token, n_target = len(stream.positions), stream.n_target
    assert n_token % FILLED_UP
    assert n_target % FILLED_UP
    seen: list[tuple[int, ...]] = []
    gato.transformer.register_forward_pre_hook(lambda _module, inputs: seen.append((len(inputs[0]), len(inputs[3]))))
    gradient_of(gato, stream, "float32")
    filled = gradient_of(gato, stream, "bfloat16")
    monkeypatch.setattr("gato_lite.model.FILLED_UP", 1)
    plain_one = gradient_of(gato, stream, "bfloat16")
    assert seen == [(n_token, n_target), (128, 128), (n_token, n_target)]
    assert float((filled - plain_one).norm() / plain_one.norm()) < 1e-3


def test_a_context_may_be_shorter_than_what_a_stream_is_filled_up_with() -> None:
    gato = fresh_gato(replace(CONFIG, context_length=40), torch.device("cpu"))
    stream = drawn(gato.vocabulary)
    n_token = len(stream.positions)
    assert -n_token % FILLED_UP > gato.config.context_length
    exact, rounded = (gradient_of(gato, stream, precision) for precision in ("float32", "bfloat16"))
    assert float((rounded - exact).norm() / exact.norm()) < 0.02


def test_a_full_stream_stays_as_it_is() -> None:
    stream = drawn(Vocabulary.shipped())
    assert stream.filled_up(len(stream.positions)) is stream
