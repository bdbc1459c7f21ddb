from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gato_lite import sampling
from gato_lite.model import Gato
from gato_lite.sampling import Legal, Sampler, chance


def states(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))


def chosen(sampler: Sampler, gato: Gato, hidden: torch.Tensor, legal: list[Legal]) -> list[int]:
    with torch.inference_mode():
        return sampler.choose(gato, hidden, legal).tolist()


def test_greedy_takes_the_likeliest_legal_id_and_the_median_bin(gato: Gato) -> None:
    hidden = states(5)
    some = np.array([7, 5000, 12], np.int32)
    bins = gato.vocabulary.bin_ids
    assert (bins.start, bins.stop) == (4096, 5120)
    legal: list[Legal] = [(4096, 5119), some, (4096, 5120), (5120, 5122), np.array(bins, np.int32)]
    logits = gato.logits(hidden).detach()
    medians = [
        np.searchsorted(np.cumsum(torch.softmax(logits[row, 4096:5120].double(), 0).numpy()), 0.5) for row in (2, 4)
    ]
    expected = [
        4096 + int(logits[0, 4096:5119].argmax()),
        int(some[int(logits[1, some.tolist()].argmax())]),
        4096 + int(medians[0]),
        5120 + int(logits[3, 5120:5122].argmax()),
        4096 + int(medians[1]),
    ]
    assert chosen(Sampler(), gato, hidden, legal) == expected


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 6000), st.integers(1, 140)), st.lists(st.integers(0, 6147), min_size=1, max_size=9)
        )
    )
)
def test_what_is_chosen_is_legal(choices: list[Any]) -> None:
    gato = GATO[0]
    legal: list[Legal] = [
        (c[0], c[0] + c[1]) if isinstance(c, tuple) else np.unique(np.array(c, np.int32)) for c in choices
    ]
    for sampler in (Sampler(), Sampler(2.0, 1), Sampler(1.0, 1, top_p=0.5), Sampler(1e-30)):
        for token, ids in zip(chosen(sampler, gato, states(len(legal)), legal), legal, strict=True):
            assert ids[0] <= token < ids[1] if isinstance(ids, tuple) else token in ids


GATO: list[Gato] = []


@pytest.fixture(autouse=True, scope="module")
def _shared(gato: Gato) -> None:
    GATO.append(gato)


def test_draws_follow_the_softmax(gato: Gato) -> None:
    hidden = states(1).repeat(4000, 1)
    drawn = np.array(chosen(Sampler(2.0, 5), gato, hidden, [(5120, 5124)] * 4000)) - 5120
    expected = (gato.logits(hidden[:1], slice(5120, 5124)) / 2.0).softmax(-1)[0].tolist()
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 4000, expected, atol=0.03)


def test_top_p_leaves_the_unlikely_out(gato: Gato) -> None:
    hidden = states(1).repeat(500, 1)
    probability = gato.logits(hidden[:1], slice(5120, 5220)).softmax(-1)[0]
    ordered, order = probability.sort(descending=True)
    n_kept = int((ordered.cumsum(0) < 0.6).sum()) + 1
    drawn = {token - 5120 for token in chosen(Sampler(1.0, 0, top_p=0.6), gato, hidden, [(5120, 5220)] * 500)}
    assert drawn <= set(order[:n_kept].tolist())
    assert len(drawn) == n_kept
    assert set(chosen(Sampler(1.0, 0, top_p=1e-9), gato, hidden, [(5120, 5220)] * 500)) == {5120 + int(order[0])}


def test_the_seed_decides(gato: Gato) -> None:
    hidden, legal = states(8), [(0, 4096)] * 8
    first = [chosen(sampler, gato, hidden, legal) for sampler in (Sampler(1.0, 3), Sampler(1.0, 3), Sampler(1.0, 4))]
    assert first[0] == first[1] != first[2]
    sampler = Sampler(1.0, 3)
    assert chosen(sampler, gato, hidden, legal) != chosen(sampler, gato, hidden, legal)


def test_draws_from_given_numbers_follow_the_softmax(gato: Gato) -> None:
    hidden, legal = states(1).repeat(4000, 1), [(5120, 5124)] * 4000
    chances = [chance("draw", index) for index in range(4000)]
    with torch.inference_mode():
        drawn = Sampler(2.0, 5).choose(gato, hidden, legal, chances) - 5120
        expected = (gato.logits(hidden[:1], slice(5120, 5124)) / 2.0).softmax(-1)[0].tolist()
        np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 4000, expected, atol=0.03)
        ends = Sampler(1.0, 0, top_p=1e-9).choose(gato, hidden[:2], legal[:2], [0.0, 1.0 - 2.0**-53]) - 5120
    assert set(ends.tolist()) == {int(np.argmax(expected))}
    assert 0.0 <= min(chances) < 0.001
    assert 0.999 < max(chances) < 1.0


def test_a_close_choice_is_settled_alone(gato: Gato) -> None:
    """Asked for the row that is close, and for no other."""
    hidden, asked = states(3), []
    twin = gato.logits(hidden).detach()[1, :10].argmax()

    def settle(row: int) -> torch.Tensor:
        asked.append(row)
        return hidden[row : row + 1]

    ids = np.array([int(twin), int(twin)], np.int32)  # the same score twice
    with torch.inference_mode():
        found = Sampler().choose(gato, hidden, [(0, 10), ids, (0, 10)], None, settle)
    assert asked == [1]
    assert found.tolist() == chosen(Sampler(), gato, hidden, [(0, 10), ids, (0, 10)])


@pytest.mark.parametrize("scores, median", [([9.0, 0.0, 0.0], 0), ([0.0, 0.0, 9.0], 2), ([0.0, 0.1, 0.0], 1)])
def test_the_median_at_both_ends(scores: list[float], median: int) -> None:
    place, is_close = sampling._median(torch.tensor([scores]))
    assert (place.tolist(), is_close.tolist()) == ([median], [False])


def test_a_median_between_two_bins_is_close() -> None:
    """Half of the chances on each side: rounding decides, so it is settled alone."""
    rows = torch.tensor([[5.0, 0.0, 0.0, 5.0], [5.0, 5.0, 0.0, 0.0], [5.0, 5.0, 5.0, 0.0]])
    assert sampling._median(rows)[1].tolist() == [True, False, False]


def test_almost_no_temperature_is_greedy(gato: Gato) -> None:
    hidden, legal = states(8), [(0, 4096)] * 8
    assert chosen(Sampler(1e-38), gato, hidden, legal) == chosen(Sampler(), gato, hidden, legal)


def test_rows_with_the_same_ids_share_a_product(gato: Gato, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    logits = gato.logits
    monkeypatch.setattr(gato, "logits", lambda hidden, ids: calls.append(len(hidden)) or logits(hidden, ids))
    ids = np.array([3, 9], np.int32)
    chosen(Sampler(), gato, states(6), [ids, (0, 5), ids, (0, 5), (0, 6), ids])
    assert sorted(calls) == [1, 2, 3]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((-0.1,), "temperature must be 0 (greedy) or a positive number, got -0.1"),
        ((float("nan"),), "temperature must be 0 (greedy) or a positive number, got nan"),
        ((float("inf"),), "temperature must be 0 (greedy) or a positive number, got inf"),
        ((1.0, 0, 0.0), "top_p must be in (0, 1], got 0.0"),
        ((1.0, 0, 1.1), "top_p must be in (0, 1], got 1.1"),
    ],
)
def test_arguments_out_of_range(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Sampler(*arguments)  # type: ignore[arg-type]
