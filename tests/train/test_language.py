from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gato_lite.attention import attend
from gato_lite.config import GatoConfig
from gato_lite.envs.dataset import Document
from gato_lite.exchange import text_tokens
from gato_lite.model import Gato
from gato_lite.train import language
from gato_lite.train.language import bits_per_byte, text_score

TEXTS = ["", "One boat.", "A much longer text, é and 🧿, which takes several windows. " * 6, "x"]


def gato_of(context_length: int, seed: int = 0) -> Gato:
    shape = GatoConfig(
        n_layer=2,
        n_head=2,
        d_model=32,
        d_ff=64,
        d_encoder=16,
        context_length=context_length,
        n_text_local=9,
        token_shift=True,
        head_norm=True,
    )
    gato = Gato(shape, seed=seed)
    with torch.no_grad():
        for parameter in gato.transformer.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(seed))
        gato.embedding.tokens.weight.mul_(20)
    return gato.eval()


def by_hand(gato: Gato, text: str) -> float:
    """Nats of a text, piece by piece, each over the window that the function says it has."""
    vocabulary, context = gato.vocabulary, gato.config.context_length
    ids = [vocabulary.end, *vocabulary.text.encode(text).tolist()]
    half = context // 2
    legal = torch.tensor([*vocabulary.text_ids, vocabulary.end])
    nats = 0.0
    for place in range(1, len(ids)):
        start = 0 if place < context else half * math.ceil((place + 1 - context) / half)
        window = text_tokens(np.array(ids[start:place], np.int32), vocabulary.end)
        offsets = np.array([0, len(window)])
        with torch.inference_mode():
            hidden = gato.hidden(
                gato.token_tensors(window),
                torch.arange(len(window)),
                lambda _layer, q, k, v, offsets=offsets: attend(q, k, v, offsets, "dense"),  # type: ignore[misc]
            )
            logits = gato.logits(hidden[-1:], legal)[0].log_softmax(-1)
        nats -= float(logits[legal.tolist().index(ids[place])])
    return nats


@pytest.mark.parametrize("context_length", [16, 17, 400])
@pytest.mark.parametrize("tokens_per_batch", [1, 64, 8192])
def test_every_byte_is_counted_once(context_length: int, tokens_per_batch: int) -> None:
    gato = gato_of(context_length)
    n_bytes = sum(len(text.encode()) for text in TEXTS)
    expected = sum(by_hand(gato, text) for text in TEXTS) / math.log(2) / n_bytes
    assert bits_per_byte(gato, TEXTS, tokens_per_batch) == pytest.approx(expected, rel=1e-4)


def test_a_uniform_guess() -> None:
    gato = gato_of(32)
    with torch.no_grad():
        gato.embedding.tokens.weight.zero_()
    n_piece = len(gato.vocabulary.text.encode(TEXTS[2]))
    expected = n_piece * math.log2(4097) / len(TEXTS[2].encode())
    assert bits_per_byte(gato, [TEXTS[2]]) == pytest.approx(expected, rel=1e-5)
    assert bits_per_byte(gato, [""]) == 0.0


def test_text_is_scored_beside_what_does_not_understand_and_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "EXAMPLES", 2)
    monkeypatch.setattr(language, "PIECES", 5)
    gato = gato_of(64)
    train = [Document(None, "the boat and the sea " * 40)] * 3
    test = [Document(None, "short", "test"), Document(None, "the sea and a boat " * 40, "test", "novels")]
    found = text_score(gato, train, test)
    assert found.mean == bits_per_byte(gato, [document.text for document in test])
    assert 0 < found.baselines["xz"] < found.baselines["piece frequencies"]
    assert (found.n, found.low) == (2, None)
    (example,) = found.examples
    pieces = gato.vocabulary.text.encode(test[1].text)
    assert example.prompt + example.truth == gato.vocabulary.text.decode(pieces[:10])
    assert example.answer
    assert (example.image, example.group) == (None, "novels")
    assert text_score(gato, train, test) == found


@pytest.mark.parametrize("context_length", [16, 64])
def test_a_text_is_cut_in_half_where_it_or_the_context_is_short(context_length: int) -> None:
    gato = gato_of(context_length)
    text = "the sea and a boat " * 4
    pieces = gato.vocabulary.text.encode(text)
    assert 16 < len(pieces) < 48
    (example,) = text_score(gato, [Document(None, text)], [Document(None, text, "test")]).examples
    n = min(len(pieces), context_length) // 2
    assert example.prompt == gato.vocabulary.text.decode(pieces[:n])
    assert example.truth == gato.vocabulary.text.decode(pieces[n:])
