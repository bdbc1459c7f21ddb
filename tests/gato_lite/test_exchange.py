from __future__ import annotations

import numpy as np
import pytest

from gato_lite.exchange import Exchange, lay_out_exchanges, picture_tokens, text_tokens
from gato_lite.model import Gato
from gato_lite.sequence import TEXT_PLACES
from gato_lite.tokenizers.vocabulary import Vocabulary


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_prompt_begins_with_end_or_with_its_picture(vocabulary: Vocabulary) -> None:
    pieces = vocabulary.text.encode("a boat").tolist()
    tokens, answers = lay_out_exchanges([Exchange(prompt="a boat")], vocabulary)
    assert tokens.ids.tolist() == [vocabulary.end, *pieces]
    assert not answers.any()
    tokens, answers = lay_out_exchanges([Exchange(image=picture(20, 16), prompt="a boat")], vocabulary)
    assert tokens.ids.tolist() == [vocabulary.patch, vocabulary.patch, *pieces]
    assert tokens.local.tolist() == [1, 2, *range(-1, -1 - len(pieces), -1)]
    assert tokens.patch_shapes.tolist() == [[16, 16, 3], [4, 16, 3]]
    assert answers.shape == tokens.ids.shape


def test_answers_and_the_end_after_each_are_marked(vocabulary: Vocabulary) -> None:
    one, two, three = (vocabulary.text.encode(text).tolist() for text in ("a cat", "what?", "a dog"))
    shown = [
        Exchange(image=picture(16, 16, 1), text="a cat"),
        Exchange(image=picture(16, 16, 2), prompt="what?", text="a dog"),
    ]
    tokens, answers = lay_out_exchanges(shown, vocabulary)
    patch, end = vocabulary.patch, vocabulary.end
    assert tokens.ids.tolist() == [patch, *one, end, patch, *two, *three, end]
    said = -1 - TEXT_PLACES
    places = [range(said, said - len(one), -1), range(-1, -1 - len(two), -1), range(said, said - len(three), -1)]
    assert tokens.local.tolist() == [1, *places[0], 0, 1, *places[1], *places[2], 0]
    answered = [False, *[True] * len(one), True, False, *[False] * len(two), *[True] * len(three), True]
    assert answers.tolist() == answered
    assert np.array_equal(tokens.pixels.reshape(2, 16, 16, 3)[1], picture(16, 16, 2))


def test_plain_text_is_an_answer_to_nothing(vocabulary: Vocabulary) -> None:
    tokens, answers = lay_out_exchanges([Exchange(text="It rained.")], vocabulary)
    assert tokens.ids.tolist() == [vocabulary.end, *vocabulary.text.encode("It rained.").tolist(), vocabulary.end]
    assert answers.tolist() == [False, *[True] * (len(tokens) - 1)]


def test_a_prompt_is_a_beginning_of_its_document(vocabulary: Vocabulary) -> None:
    turns = [Exchange(prompt="Hello.", text="Good day."), Exchange(prompt="How are you?", text="Well.")]
    whole, _ = lay_out_exchanges(turns, vocabulary)
    begun, _ = lay_out_exchanges([turns[0], Exchange(prompt="How are you?")], vocabulary)
    assert whole.ids[: len(begun)].tolist() == begun.ids.tolist()


def test_patches_are_in_raster_order(gato: Gato) -> None:
    shown = picture(32, 48)
    tokens = picture_tokens(shown, gato.vocabulary)
    assert len(tokens) == 6
    second = tokens.pixels.reshape(6, 16, 16, 3)[1]
    assert np.array_equal(second, shown[:16, 16:32])
    assert tokens.patch_intervals[4].tolist() == pytest.approx([0.5, 1.0, 1 / 3, 2 / 3])


@pytest.mark.parametrize("begun, ended", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("n_prompt", [0, 2, 9])
def test_a_stretch_is_a_prompt_and_an_answer(vocabulary: Vocabulary, begun: bool, ended: bool, n_prompt: int) -> None:
    end = [vocabulary.end]
    pieces = vocabulary.text.encode("once upon a time there was").tolist()
    tokens = text_tokens(np.array([*end * begun, *pieces, *end * ended], np.int32), vocabulary.end, n_prompt)
    assert tokens.ids.tolist() == [*end * begun, *pieces, *end * ended]
    n = min(n_prompt, len(pieces))
    prompt, answer = range(-1, -1 - n, -1), range(-1 - TEXT_PLACES, -1 - TEXT_PLACES - len(pieces) + n, -1)
    assert tokens.local.tolist() == [*[0] * begun, *prompt, *answer, *[0] * ended]


def test_a_stretch_of_ends_alone(vocabulary: Vocabulary) -> None:
    for n in (1, 2):
        tokens = text_tokens(np.full(n, vocabulary.end, np.int32), vocabulary.end, 3)
        assert (tokens.ids.tolist(), tokens.local.tolist()) == ([vocabulary.end] * n, [0] * n)


def test_places_beyond_the_last_share_it(vocabulary: Vocabulary) -> None:
    ids = np.zeros(TEXT_PLACES + 3, np.int32)
    prompt = text_tokens(ids, vocabulary.end, len(ids)).local
    answer = text_tokens(ids, vocabulary.end).local
    assert prompt[-4:].tolist() == [-TEXT_PLACES] * 4
    assert answer[-4:].tolist() == [-2 * TEXT_PLACES] * 4
