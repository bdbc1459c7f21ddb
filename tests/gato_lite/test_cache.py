from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gato_lite import cache
from gato_lite.cache import Decoder
from gato_lite.exchange import picture_tokens
from gato_lite.model import Gato
from gato_lite.sequence import Tokens, concatenate, plain

Uncached = Callable[[Gato, Tokens], torch.Tensor]


def drawn(n: int, seed: int) -> Tokens:
    return plain(np.random.default_rng(seed).integers(0, 6000, n).astype(np.int32))


@settings(max_examples=25)
@given(
    st.lists(st.dictionaries(st.integers(0, 3), st.integers(1, 4), min_size=1), min_size=1, max_size=6),
    st.integers(),
    st.booleans(),
    st.booleans(),
)
def test_any_reads_are_one_forward(reads: list[dict[int, int]], seed: int, older: bool, fixed: bool) -> None:
    """Rows read different counts, in different orders, some not at all; now and then one starts over."""
    gatos, uncached = SHARED
    gato = gatos[older]
    generator = np.random.default_rng(abs(seed) % 2**32)
    decoder = Decoder(gato, 4, 16, fixed=fixed)
    held: list[list[int]] = [[] for _ in range(4)]
    for counts in reads:
        rows = [int(row) for row in generator.permutation(list(counts))]
        begun = [row for row in rows if len(held[row]) + counts[row] > 16 or generator.random() < 0.2]
        going = [row for row in rows if row not in begun]
        new = {row: generator.integers(0, 6000, counts[row]).tolist() for row in rows}
        states: dict[int, torch.Tensor] = {}
        if begun:
            for row in begun:
                held[row] = new[row]
            states.update(zip(begun, decoder.read_documents(begun, [plain(new[row]) for row in begun]), strict=True))
        if going:
            for row in going:
                held[row] = held[row] + new[row]
            tokens = concatenate([plain(new[row]) for row in going])
            states.update(zip(going, decoder.read(going, tokens, [counts[row] for row in going]), strict=True))
        assert decoder.cursors.tolist() == [len(row) for row in held]
        for row, state in states.items():
            torch.testing.assert_close(state, uncached(gato, plain(held[row])), atol=1e-4, rtol=1e-4)


SHARED: tuple[tuple[Gato, Gato], Uncached]
"""A model of today's shape and one of a run from before, and what they are compared with."""


@pytest.fixture(autouse=True, scope="module")
def _shared(gato: Gato, make: Callable[..., Gato], uncached: Uncached) -> None:
    global SHARED  # noqa: PLW0603 - hypothesis takes no fixtures of a function
    SHARED = (gato, make(token_shift=False, head_norm=False)), uncached


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_heads_that_share_keys(make: Callable[..., Gato], uncached: Uncached, n_kv_head: int) -> None:
    """Rows that share attention calls and rows that do not, of equal and unequal lengths, every new token asked for."""
    gato = make(context_length=200, n_head=4, n_kv_head=n_kv_head)
    decoder = Decoder(gato, 5)
    assert decoder._keys.shape == (2, 5, n_kv_head, 200, 8)
    held = [drawn(length, row) for row, length in enumerate((9, 9, 12, 150, 3))]
    for counts in ([1, 1, 1, 1, 1], [3, 3, 3, 3, 3], [2, 2, 1, 4, 1]):
        if not decoder.cursors.any():
            decoder.read_documents(range(5), held)
        new = [drawn(count, 7 + row) for row, count in enumerate(counts)]
        wanted = [1, count := counts[1], 1, counts[3], 1]
        states = decoder.read(range(5), concatenate(new), counts, wanted)
        held = [concatenate([old, more]) for old, more in zip(held, new, strict=True)]
        ends = [(row, len(held[row]) - back) for row in range(5) for back in reversed(range(wanted[row]))]
        assert len(states) == len(ends) >= 5 + count - 1
        for (row, end), state in zip(ends, states, strict=True):
            torch.testing.assert_close(state, uncached(gato, plain(held[row].ids[:end])), atol=1e-4, rtol=1e-4)


def test_one_row_token_by_token(gato: Gato, uncached: Uncached) -> None:
    tokens = drawn(30, 0)
    decoder = Decoder(gato, 1)
    for end in range(1, 31):
        state = decoder.read([0], plain(tokens.ids[end - 1 : end]), [1])
        torch.testing.assert_close(state[0], uncached(gato, plain(tokens.ids[:end])), atol=1e-4, rtol=1e-4)


def test_pictures_are_read_as_training_reads_them(gato: Gato, uncached: Uncached) -> None:
    shown = picture_tokens(np.arange(20 * 20 * 3, dtype=np.uint8).reshape(20, 20, 3), gato.vocabulary)
    whole = concatenate([shown, drawn(3, 1), shown])
    decoder = Decoder(gato, 2)
    decoder.read_documents([1], [shown])
    state = decoder.read([1], concatenate([drawn(3, 1), shown]), [3 + len(shown)])
    torch.testing.assert_close(state[0], uncached(gato, whole), atol=1e-4, rtol=1e-4)


def test_documents_come_back_in_the_order_of_their_rows(gato: Gato, uncached: Uncached) -> None:
    made = [drawn(n, n) for n in (7, 2, 7, 1)]
    states = Decoder(gato, 5).read_documents([3, 0, 4, 1], made)
    for state, document in zip(states, made, strict=True):
        torch.testing.assert_close(state, uncached(gato, document), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("n_kv_head", [1, 2])
def test_documents_are_read_in_passes(
    make: Callable[..., Gato], uncached: Uncached, monkeypatch: pytest.MonkeyPatch, n_kv_head: int
) -> None:
    """Of documents of several lengths, more than one in most of them; the order of the rows is kept."""
    monkeypatch.setattr(cache, "PASS", 16)
    gato = make(n_head=2, n_kv_head=n_kv_head)
    passes: list[int] = []
    hidden = gato.hidden
    monkeypatch.setattr(gato, "hidden", lambda made, *more: passes.append(len(made.ids)) or hidden(made, *more))
    made = [drawn(n, n) for n in (7, 2, 7, 1, 30, 7, 2)]
    decoder = Decoder(gato, 8)
    states = decoder.read_documents([3, 0, 4, 1, 7, 2, 6], made)
    assert passes == [12, 14, 30]
    monkeypatch.undo()
    for state, document in zip(states, made, strict=True):
        torch.testing.assert_close(state, uncached(gato, document), atol=1e-4, rtol=1e-4)
    states = decoder.read([7, 2], concatenate([drawn(2, 8), drawn(1, 9)]), [2, 1])  # from what the passes have written
    for state, document in zip(
        states, (concatenate([made[4], drawn(2, 8)]), concatenate([made[5], drawn(1, 9)])), strict=True
    ):
        torch.testing.assert_close(state, uncached(gato, document), atol=1e-4, rtol=1e-4)


def test_rows_that_do_not_read_are_left_alone(gato: Gato) -> None:
    decoder = Decoder(gato, 3, 16)
    decoder.read_documents([0, 1], [drawn(5, 1), drawn(3, 2)])
    before = decoder._keys[:, 0].clone()
    decoder.read([1], drawn(4, 3), [4])
    assert torch.equal(decoder._keys[:, 0], before)
    assert decoder.cursors.tolist() == [5, 7, 0]
    decoder.forget([])
    decoder.forget([1])
    assert decoder.cursors.tolist() == [5, 0, 0]


def test_a_forgotten_row_leaves_no_trace(gato: Gato, uncached: Uncached) -> None:
    decoder = Decoder(gato, 2, 16)
    decoder.read_documents([0, 1], [drawn(12, 1), drawn(3, 2)])
    decoder.forget([0])
    state = decoder.read([0, 1], drawn(4, 3), [2, 2])[0]
    torch.testing.assert_close(state, uncached(gato, plain(drawn(4, 3).ids[:2])), atol=1e-4, rtol=1e-4)


def test_no_room(gato: Gato) -> None:
    decoder = Decoder(gato, 2, 8)
    decoder.read([1], drawn(6, 0), [6])
    expected = "row 1 holds 6 tokens and was given 3 more; its context is 8 tokens"
    with pytest.raises(ValueError, match=re.escape(expected)):
        decoder.read([0, 1], drawn(4, 0), [1, 3])
    with pytest.raises(ValueError, match=re.escape("row 0 holds 0 tokens and was given 9 more; its context is 8")):
        decoder.read_documents([0], [drawn(9, 0)])
    for counts in ([1, 0], []):
        with pytest.raises(ValueError, match="every row that reads must get at least one token"):
            decoder.read([0, 1][: len(counts)], drawn(1, 0), counts)
    assert decoder.cursors.tolist() == [0, 6]


@pytest.mark.parametrize("length", [0, 257])
def test_contexts_the_model_cannot_hold(gato: Gato, length: int) -> None:
    with pytest.raises(ValueError, match=re.escape(f"context_length must be in 1..256 (the model's), got {length}")):
        Decoder(gato, 1, length)
    assert Decoder(gato, 1).context_length == 256


def test_what_is_rewound_is_forgotten(gato: Gato, uncached: Uncached) -> None:
    decoder = Decoder(gato, 2, 16)
    decoder.read([0, 1], concatenate([drawn(5, 0), drawn(4, 1)]), [5, 4])
    decoder.rewind(0, 3)
    state = decoder.read([0], drawn(2, 2), [2])[0]
    expected = uncached(gato, concatenate([plain(drawn(5, 0).ids[:2]), drawn(2, 2)]))
    torch.testing.assert_close(state, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="row 1 holds 4 tokens and cannot forget 5"):
        decoder.rewind(1, 5)
