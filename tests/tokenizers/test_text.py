from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.tokenizers.text import TextTokenizer, train_text_model

AWKWARD = [
    "",
    " ",
    "  two  before, two after  ",
    "\0",
    "a\0b\r\n\t\x01\x7f",
    "\u2581",
    " \u2581 \u2581\u2581x",
    "<s></s><unk><pad><0x41>",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301 \u00e9",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u202eabc",
    "\ufeff\ufffd\uffff\U0010ffff",
    "pick up the blue key" * 50,
]


@pytest.mark.parametrize("string", AWKWARD)
def test_awkward_strings_round_trip(text: TextTokenizer, string: str) -> None:
    ids = text.encode(string)
    assert ids.dtype == np.int32
    assert ids.shape == (len(ids),)
    assert text.decode(ids) == string


@given(string=st.text())
def test_every_string_round_trips(text: TextTokenizer, string: str) -> None:
    ids = text.encode(string)
    assert text.decode(ids) == string
    assert text.unknown not in ids


def test_pieces_are_longer_than_bytes(text: TextTokenizer) -> None:
    assert len(text.encode("the red ball")) < len("the red ball") // 2


def test_digits_are_apart(text: TextTokenizer) -> None:
    assert len(text.encode("2024")) == 4


def test_a_lone_surrogate_is_refused(text: TextTokenizer) -> None:
    with pytest.raises(ValueError, match=r"^text must be valid Unicode, got the lone surrogate U\+D800 at position 2$"):
        text.encode("ab\ud800")


def test_broken_bytes_become_the_replacement_character(text: TextTokenizer) -> None:
    smile = "\U0001f600".encode()
    ids = [text.byte_ids[byte] for byte in smile]
    assert text.decode(ids) == "\U0001f600"
    assert text.decode(ids[:3]) == "\ufffd"
    assert text.decode([ids[0], *text.encode("a").tolist()]) == "\ufffda"
    assert text.decode([text.unknown]) == "\ufffd"


@pytest.mark.parametrize("wrong", [-1, 380])
def test_ids_of_no_piece_are_refused(text: TextTokenizer, wrong: int) -> None:
    with pytest.raises(ValueError, match=f"^expected piece ids in 0..379, got {wrong}$"):
        text.decode([5, wrong])


def test_training_is_repeatable_and_writes(tmp_path: Path) -> None:
    lines = ["one two three four five", "six seven eight\nnine \u2581 ten\0eleven"]
    model = train_text_model(lines, n_pieces=300, out=tmp_path / "text.model")
    assert model == train_text_model(lines, n_pieces=300)
    tokenizer = TextTokenizer.from_file(tmp_path / "text.model")
    assert tokenizer.model_bytes == model
    assert tokenizer.n_pieces == 300
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.sha256 == tokenizer.sha256


def test_too_little_text_to_train_on() -> None:
    with pytest.raises(ValueError, match="could not learn n_pieces=5000 pieces from these texts"):
        train_text_model(["short"], n_pieces=5000)


def test_bytes_that_are_no_model() -> None:
    with pytest.raises(ValueError, match="^expected a SentencePiece model, got 0 bytes$"):
        TextTokenizer(b"")
    with pytest.raises(ValueError, match="^expected a SentencePiece model, got 8 bytes that are none$"):
        TextTokenizer(b"not this")
