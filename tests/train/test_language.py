from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gato_lite.attention import attend
from gato_lite.config import GatoConfig
from gato_lite.envs.dataset import Document
from gato_lite.exchange import Exchange, text_tokens
from gato_lite.model import Gato
from gato_lite.train import language
from gato_lite.train.language import bits_per_byte, score_captions, score_text
from gato_lite.train.pictures import encode_png

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


def picture(colour: int) -> bytes:
    return encode_png(np.full((16, 16, 3), colour, np.uint8))


def test_captions_are_compared_with_the_nearest_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    train = [Document(picture(0), "black", group="a"), Document(picture(255), "white", group="b")]
    test = [Document(picture(10), "black", "test", "b"), Document(picture(250), "snow", "test", "a")]
    asked: list[int] = []

    def named(gato: Gato, prompts: list[list[Exchange]], *, max_tokens: int) -> list[str]:
        asked.append(len(prompts))
        pictures = [turn.image for (turn,) in prompts if turn == Exchange(image=turn.image) and turn.image is not None]
        return ["Black" if shown.mean() < 128 else "snow flake" for shown in pictures]

    monkeypatch.setattr(language, "write_answers", named)
    found = score_captions(gato_of(16), train, test, batch=1, n_example=5)
    assert asked == [1, 1]
    assert (found.exact, found.n) == (0.5, 2)
    assert found.token_f1 == pytest.approx((1.0 + 2 / 3) / 2)
    assert found.baseline_exact == 0.5
    assert [(e.caption, e.truth, e.style) for e in found.examples] == [
        ("Black", "black", "b"),
        ("snow flake", "snow", "a"),
    ]
    assert found.examples[0].image == picture(10)


def test_text_is_scored_beside_unigram_and_xz() -> None:
    gato = gato_of(64)
    train, test = ["the boat and the sea " * 40] * 3, ["the sea and a boat " * 40, "short"]
    found = score_text(gato, train, test, n_example=2, prompt_pieces=5, answer_pieces=4)
    assert found.bits_per_byte == bits_per_byte(gato, test)
    assert 0 < found.xz < found.unigram
    assert found.n_bytes == sum(map(len, test))
    (example,) = found.examples
    pieces = gato.vocabulary.text.encode(test[0])
    assert example.prompt + example.truth == gato.vocabulary.text.decode(pieces[:9])
    assert score_text(gato, train, test, n_example=2, prompt_pieces=5, answer_pieces=4) == found
