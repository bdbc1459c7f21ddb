from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.tokenizers.continuous import LARGEST, Squash, decode_bins, encode_bins, inverse_mu_law, mu_law


def test_the_papers_numbers() -> None:
    squashed = mu_law(np.array([0.0, 1.0, -1.0, 256.0, -256.0]))
    one = np.log(101) / np.log(25601)
    np.testing.assert_allclose(squashed, [0, one, -one, 1, -1], rtol=1e-15)
    assert squashed.dtype == np.float64


def test_both_ends_stay_in_their_bins() -> None:
    ends = np.array([-np.inf, -1.5, -1.0, -1 + 1e-12, 1 - 1e-12, 1.0, 1.5, np.inf])
    assert encode_bins(ends).tolist() == [0] * 4 + [1023] * 4
    assert encode_bins(ends).dtype == np.int32
    assert encode_bins(np.array([-1e-12, 0.0])).tolist() == [511, 512]


def test_decoding_gives_centres() -> None:
    centres = decode_bins(np.arange(1024))
    np.testing.assert_allclose(centres[[0, 1023]], [-1 + 1 / 1024, 1 - 1 / 1024])
    assert (encode_bins(centres) == np.arange(1024)).all()


@given(x=st.floats(-256, 256))
def test_a_bin_is_half_a_bin_away(x: float) -> None:
    squashed = mu_law(np.array([x]))
    assert abs(decode_bins(encode_bins(squashed)) - squashed) <= 1 / 1024 + 1e-12


@given(x=st.floats(allow_nan=False, width=32))
def test_the_mu_law_inverts(x: float) -> None:
    there_and_back = inverse_mu_law(mu_law(np.array([x])))
    np.testing.assert_allclose(there_and_back, np.clip(x, -LARGEST, LARGEST), rtol=1e-10, atol=1e-300)


def test_affine_and_mu_law_side_by_side() -> None:
    low = np.array([-2.0, -np.inf, 0.0, 5.0, -1e7, -1.7e308])
    high = np.array([2.0, np.inf, np.inf, 5.0, 1.0, 1.7e308])
    squash = Squash(low, high, limit=1e6)
    assert squash.affine.tolist() == [True, False, False, True, False, False]
    assert Squash(low, high).affine.tolist() == [True, False, False, True, True, True]
    x = np.array([[-2.0, 3.0, 0.0, 5.0, 1.0, 1.0], [2.0, -3.0, 9.0, 5.0, -2.0, 2.0]])
    y = squash.forward(x)
    assert y[:, 0].tolist() == [-1, 1]
    assert y[:, 3].tolist() == [0, 0]
    np.testing.assert_allclose(squash.inverse(y), x, rtol=1e-12)


def test_the_widest_bounds_do_not_overflow() -> None:
    most = np.finfo(np.float64).max
    squash = Squash(np.array([-most]), np.array([most]))
    with np.errstate(all="raise"):
        assert squash.forward(np.array([[most], [0.0], [-most]])).reshape(-1).tolist() == [1, 0, -1]
        assert squash.inverse(np.array([[1.0], [-1.0]])).reshape(-1).tolist() == [most, -most]


@pytest.mark.parametrize("bound", [1.0, np.inf])
def test_infinity_is_the_far_end(bound: float) -> None:
    squash = Squash(np.array([-bound]), np.array([bound]))
    far = squash.forward(np.array([[-np.inf], [np.inf]]))
    assert np.isfinite(far).all()
    assert far[1] == -far[0] >= squash.forward(np.array([[bound if bound == 1 else 1e30]]))[0]
