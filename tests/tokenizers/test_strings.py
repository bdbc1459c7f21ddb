from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from gato_lite.sequence import Tokens
from gato_lite.spaces import FreeText
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary


def as_tokens(ids: list[int]) -> Tokens:
    return Tokens(ids=np.array(ids, np.int32), local=np.zeros(len(ids), np.int16))


def test_an_observation_needs_an_end_only_before_another_text(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(spaces.Dict(a=FreeText(), b=FreeText(), n=spaces.Discrete(3)), vocabulary)
    value = {"a": "the red", "b": "ball", "n": np.int64(2)}
    tokens = tokenizer.encode(value)
    assert (tokens.ids == vocabulary.end).sum() == 1
    assert tokenizer.decode(tokens) == value
    empty = {"a": "", "b": "", "n": np.int64(0)}
    assert tokenizer.encode(empty).ids.tolist() == [vocabulary.end, vocabulary.discrete_ids[0]]
    assert tokenizer.decode(tokenizer.encode(empty)) == empty


def test_an_action_ends(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(spaces.Text(12, min_length=0, charset="the red"), vocabulary, action=True)
    ids = tokenizer.encode("the red").ids
    assert ids[-1] == vocabulary.end
    assert tokenizer.decode(as_tokens(ids.tolist())) == "the red"
    assert tokenizer.encode("").ids.tolist() == [vocabulary.end]
    assert tokenizer.n_tokens is None
    assert tokenizer.legal_ranges is None


def test_legal_pieces_of_a_small_alphabet(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(spaces.Text(2, min_length=1, charset="aé"), vocabulary, action=True)
    text = vocabulary.text
    (a,), lead, follow = text.encode("a").tolist(), text.byte_ids[0xC3], text.byte_ids[0xA9]
    start = {a, text.byte_ids[ord("a")], lead}
    assert set(tokenizer.legal([]).tolist()) == start
    assert tokenizer.legal([lead]).tolist() == [follow]
    assert set(tokenizer.legal([lead, follow]).tolist()) == start | {vocabulary.end}
    assert tokenizer.legal([lead, follow, a]).tolist() == [vocabulary.end]
    assert tokenizer.legal([a, vocabulary.end]).tolist() == []
    assert tokenizer.decode(as_tokens([lead, follow, a, vocabulary.end])) == "éa"


def test_a_text_of_no_characters(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(spaces.Text(3, min_length=0, charset=""), vocabulary, action=True)
    assert tokenizer.legal([]).tolist() == [vocabulary.end]
    assert tokenizer.decode(as_tokens([vocabulary.end])) == ""


def test_free_text_takes_any_piece(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(FreeText(), vocabulary, action=True)
    assert len(tokenizer.legal([])) == vocabulary.text.n_pieces + 1
    assert tokenizer.decode(tokenizer.encode("any \u2581 text\n")) == "any \u2581 text\n"
    assert tokenizer.decode(as_tokens([vocabulary.text.byte_ids[0xFF], vocabulary.end])) == "\ufffd"


@pytest.mark.parametrize(
    "value, message",
    [
        ("", "the value: expected 1 to 3 characters, got 0 in ''"),
        ("aaaa", "the value: expected 1 to 3 characters, got 4 in 'aaaa'"),
        ("ax", "the value: expected characters of its space, got 'x' in 'ax'"),
    ],
)
def test_an_action_outside_its_space(vocabulary: Vocabulary, value: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        SpaceTokenizer(spaces.Text(3, charset="abc"), vocabulary, action=True).encode(value)
    assert str(caught.value) == message


def test_a_lone_surrogate_names_its_leaf(vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match=r"^leaf 'mission': text must be valid Unicode, got .* U\+DC00 at position 1$"):
        SpaceTokenizer(spaces.Dict(mission=FreeText()), vocabulary).encode({"mission": "a\udc00"})


def test_equal_strings_are_encoded_once(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(FreeText(), vocabulary)
    missions = ["go to the red ball", "", "go to the red ball", "pick up the key"] * 50
    tokens, lengths, _ = tokenizer.encode_many({"": missions})
    parts = np.split(tokens.ids, np.cumsum(lengths)[:-1])
    assert [vocabulary.text.decode(part) for part in parts] == missions


def test_what_a_caller_gets_is_its_own(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(FreeText(), vocabulary)
    tokenizer.encode("the ball").ids[:] = 0
    assert tokenizer.decode(tokenizer.encode("the ball")) == "the ball"


def test_a_missing_end(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(spaces.Text(3), vocabulary, action=True)
    with pytest.raises(ValueError, match="^the value: expected 1 more tokens, got 0$"):
        tokenizer.decode(as_tokens(vocabulary.text.encode("a").tolist()))
