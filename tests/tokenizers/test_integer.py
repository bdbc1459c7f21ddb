from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.tokenizers.integer import Digits


def digits_of(*lasts: int, base: int = 1024) -> Digits:
    return Digits(np.array(lasts, np.uint64), base)


@pytest.mark.parametrize(
    "last, n_tokens", [(0, 1), (1023, 1), (1024, 2), (1024**2 - 1, 2), (1024**2, 3), (2**63, 7), (2**64 - 1, 7)]
)
def test_digits_of_a_range(last: int, n_tokens: int) -> None:
    digits = digits_of(last)
    assert digits.n_tokens == n_tokens
    ends = np.array([[0], [last]], np.uint64)
    encoded = digits.encode(ends)
    assert encoded.shape == (2, n_tokens)
    assert encoded.dtype == np.int32
    assert encoded[1].tolist() == digits.top.tolist()
    assert [int(digits.decode(row)[0]) for row in encoded] == [0, last]


def test_most_significant_first() -> None:
    assert digits_of(10_000_000).encode(np.array([[1024 * 1024 * 2 + 1024 * 3 + 4]], np.uint64)).tolist() == [[2, 3, 4]]


@given(
    pairs=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=5),
    base=st.sampled_from([2, 10, 1000, 1024]),
)
def test_several_ranges_round_trip(pairs: list[tuple[int, int]], base: int) -> None:
    digits = digits_of(*(max(pair) for pair in pairs), base=base)
    values = np.array([[min(pair) for pair in pairs]], np.uint64)
    encoded = digits.encode(values)
    assert encoded.min() >= 0
    assert encoded.max() < base
    assert digits.decode(encoded[0]).tolist() == values[0].tolist()
    for place in range(digits.n_tokens):
        assert encoded[0, place] < digits.stop(encoded[0, :place])


@given(last=st.integers(0, 2**64 - 1), seed=st.integers(0, 1000))
def test_legal_digits_never_leave_the_range(last: int, seed: int) -> None:
    rng, digits = np.random.default_rng(seed), digits_of(7, last)
    chosen: list[int] = []
    for _ in range(digits.n_tokens):
        stop = digits.stop(np.array(chosen, np.int32))
        chosen.append(int(rng.choice([stop - 1, rng.integers(stop)])))
    assert int(digits.decode(np.array(chosen, np.int32))[1]) <= last


def test_where_digits_do_not_depend_on_one_another() -> None:
    assert digits_of(6, 1023).stops.tolist() == [7, 1024]
    assert digits_of(1024 * 5 - 1).stops.tolist() == [5, 1024]
    assert digits_of(1024 * 5).stops is None


@pytest.mark.parametrize("wrong", [[16, 0, 0, 0, 0, 0, 0], [15, 1023, 1023, 1023, 1023, 1023, 1024], [-1] + [0] * 6])
def test_digits_beyond_the_range_are_refused(wrong: list[int]) -> None:
    with pytest.raises(ValueError, match="^expected digits of at most .15, 1023, "):
        digits_of(2**64 - 1).decode(np.array(wrong, np.int32))
    with pytest.raises(ValueError, match="expected digits of at most .1, 0., got .1, 1."):
        digits_of(1024).decode(np.array([1, 1], np.int32))


def test_nothing_is_nothing() -> None:
    assert digits_of().encode(np.zeros((3, 0), np.uint64)).shape == (3, 0)
    assert digits_of().decode(np.zeros(0, np.int32)).shape == (0,)
