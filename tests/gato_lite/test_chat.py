from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from gato_lite.chat import Chat
from gato_lite.exchange import Exchange
from gato_lite.generate import generate
from gato_lite.model import Gato
from gato_lite.sequence import Tokens, answer_tokens, concatenate, plain, prompt_tokens

Uncached = Callable[[Gato, Tokens], torch.Tensor]


def test_a_turn_knows_those_before_it(gato: Gato) -> None:
    shown = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    chat = Chat(gato)
    first = chat.say("Good morning.", max_tokens=9)
    assert first == generate(gato, "Good morning.", max_tokens=9)
    second = chat.say("And this?", shown, max_tokens=9)
    assert second == generate(gato, "And this?", shown, before=chat.turns[:1], max_tokens=9)
    assert [(turn.prompt, turn.text) for turn in chat.turns] == [("Good morning.", first), ("And this?", second)]


def test_the_last_piece_of_a_cut_answer_is_read(gato: Gato) -> None:
    """Although nothing was to be written after it."""
    chat = Chat(gato)
    chat.say("Good morning.", max_tokens=5)
    chat.say("And now?", max_tokens=1)
    pieces = [gato.vocabulary.text.encode(said).tolist() for said in ("Good morning.", "And now?")]
    said = [token for token, _ in chat._writer._said[0]]
    assert len(said) == 1 + len(pieces[0]) + 5 + 1 + len(pieces[1])
    assert said[-len(pieces[1]) - 1 :] == [gato.vocabulary.end, *pieces[1]]


@pytest.mark.parametrize("stop", [" six seven", "x seven", "hree f", "one"])
@pytest.mark.parametrize("context_length", [256, 12])
def test_what_a_stop_cuts_off_is_forgotten(
    make: Callable[..., Gato], uncached: Uncached, monkeypatch: pytest.MonkeyPatch, stop: str, context_length: int
) -> None:
    """Whether it begins a piece or stands within one, and where the context has overflowed."""
    gato = make(context_length=context_length)
    answer, end = "one two three four five six seven eight nine", gato.vocabulary.end
    encode = gato.vocabulary.text.encode
    pieces = iter(encode(answer).tolist())
    states: list[torch.Tensor] = []

    def choose(_sampler: object, _gato: Gato, hidden: torch.Tensor, _legal: object) -> np.ndarray:
        states.append(hidden[0])
        return np.array([next(pieces)])

    monkeypatch.setattr("gato_lite.sampling.Sampler.choose", choose)
    chat = Chat(gato)
    told = chat.say("Count.", stop=["nowhere", stop])
    assert told == answer[: answer.index(stop)]
    chat.say("On.", max_tokens=1)
    prompts = [concatenate([plain([end]), prompt_tokens(encode(prompt))]) for prompt in ("Count.", "On.")]
    expected = concatenate([prompts[0], answer_tokens(encode(told)), prompts[1]])
    said = chat._writer._said[0]
    assert said == list(zip(expected.ids.tolist(), expected.local.tolist(), strict=True))
    held = slice(-int(chat._writer._decoder.cursors[0]), None)
    window = Tokens(ids=expected.ids[held], local=expected.local[held])
    torch.testing.assert_close(states[-1], uncached(gato, window), atol=1e-4, rtol=1e-4)


def test_only_what_is_new_is_read(gato: Gato, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat(gato)
    chat.say("Good morning.", max_tokens=3)
    decoder = chat._writer._decoder
    held = int(decoder.cursors[0])
    whole: list[object] = []
    monkeypatch.setattr(decoder, "read_documents", lambda *given: whole.append(given))
    chat.say("And now?", max_tokens=3)
    assert whole == [], "the conversation was read again"
    assert decoder.cursors[0] > held


def test_a_long_conversation_forgets_its_beginning(make: Callable[..., Gato]) -> None:
    gato = make(context_length=32)
    chat = Chat(gato, temperature=1.0, seed=1)
    for turn in range(12):
        chat.say(f"turn {turn}", max_tokens=6)
        assert 0 < chat._writer._decoder.cursors[0] <= 32
    assert len(chat.turns) == 12


def test_what_is_streamed_is_what_is_answered(gato: Gato) -> None:
    shown: list[str] = []
    assert Chat(gato).say("Hello.", max_tokens=8, on_text=shown.append) == "".join(shown)


def test_a_turn_without_room(make: Callable[..., Gato]) -> None:
    chat = Chat(make(context_length=16))
    with pytest.raises(ValueError, match="but the context holds 16 with the answer"):
        chat.say("boat " * 30)
    with pytest.raises(ValueError, match="max_tokens must be in 1..16384, got 0"):
        chat.say("x", max_tokens=0)
    assert chat.turns == []
    assert chat.say("x", max_tokens=2) == generate(make(context_length=16), "x", max_tokens=2)


def test_exchanges_are_public() -> None:
    import gato_lite

    assert gato_lite.Exchange is Exchange
    assert gato_lite.Chat is Chat
