from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.train.statistics import (
    AGGREGATES,
    flipped_means,
    holm,
    interquartile_mean,
    interval,
    mean,
    median,
    p_value,
    resampled_means,
    share_above,
)

scores = st.lists(st.floats(-2, 2, allow_subnormal=False), min_size=1, max_size=30)


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0.0, 1.0, 2.0, 9.0], 1.5),
        ([3.0], 3.0),
        ([0.0, 6.0], 3.0),
        ([9.0, 0.0, 3.0], 4.0),  # fewer than four: nothing is cut
        ([5.0, -100.0, 1.0, 2.0, 3.0], 2.0),
        ([0, 1, 2, 3, 4, 5, 6, 7], 3.5),
        ([0, 0, 0, 0, 8, 8, 8, 100, 1000], 24 / 5),
    ],
)
def test_the_interquartile_mean_is_of_the_middle_half(values: list[float], expected: float) -> None:
    assert interquartile_mean(values) == pytest.approx(expected)


def test_aggregates_go_along_the_last_axis() -> None:
    values = np.random.default_rng(0).random((5, 3, 9))
    for aggregate in AGGREGATES.values():
        found = aggregate(values)
        assert found.shape == (5, 3)
        assert found[4, 2] == aggregate(values[4, 2])


@given(scores, st.randoms())
def test_the_order_of_tasks_makes_no_difference(values: list[float], random: np.random.Generator) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    for name, aggregate in AGGREGATES.items():
        assert aggregate(shuffled) == aggregate(values), name


@given(scores, st.floats(-3, 3), st.floats(0.1, 4))
def test_means_and_medians_follow_a_change_of_scale(values: list[float], offset: float, factor: float) -> None:
    moved = [offset + factor * value for value in values]
    for aggregate in (mean, median, interquartile_mean):
        assert aggregate(moved) == pytest.approx(offset + factor * aggregate(values), abs=1e-9)
        assert min(values) - 1e-9 <= aggregate(values) <= max(values) + 1e-9


@given(st.lists(st.floats(0, 1), min_size=4, max_size=20), st.floats(-1e6, 1e6))
def test_one_outlier_cannot_move_the_interquartile_mean_out_of_the_others(values: list[float], outlier: float) -> None:
    assert min(values) <= interquartile_mean([*values, outlier]) <= max(values)


@given(scores)
def test_fewer_tasks_are_above_a_higher_share(values: list[float]) -> None:
    shares = [float(share_above(threshold)(values)) for threshold in np.linspace(-2, 2.5, 19)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert shares[-1] == 0.0


def test_a_score_at_the_threshold_reaches_it() -> None:
    assert share_above(0.9)([0.9, 0.3 * 3, 0.89, 1.0]) == 0.75


def test_draws_depend_on_the_task_alone() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert (resampled_means("a/b", values) == resampled_means("a/b", values)).all()
    apart = np.corrcoef(resampled_means("a/b", values), resampled_means("a/c", values))[0, 1]
    assert abs(apart) < 0.1, "two tasks were resampled alike"
    signs = np.corrcoef(flipped_means("a/b", values), flipped_means("a/c", values))[0, 1]
    assert abs(signs) < 0.05


def test_an_interval_is_about_two_standard_errors_to_each_side() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = interval(resampled_means("a/b", values))
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.02)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.02)
    assert interval(resampled_means("a/b", np.ones(3))) == (1.0, 1.0)


@pytest.mark.parametrize("kind", ["mean", "median", "iqm"])
def test_intervals_hold_the_true_value_about_as_often_as_they_say(kind: str) -> None:
    """Eight tasks whose true scores are far apart, so that the aggregate of the true scores is what is estimated."""
    generator = np.random.default_rng(1)
    truth = np.linspace(0.1, 0.9, 8)
    aggregate = AGGREGATES[kind]
    held = 0
    for _ in range(200):
        episodes = generator.random((8, 60)) < truth[:, None]  # (M, N)
        draws = np.stack([resampled_means(f"t/{i}", row.astype(float), 400) for i, row in enumerate(episodes)], axis=1)
        low, high = interval(aggregate(draws))
        held += low <= aggregate(truth) <= high
    assert 0.90 <= held / 200 <= 0.99


def test_p_values_are_small_as_often_as_they_say_where_nothing_differs() -> None:
    generator = np.random.default_rng(2)
    small = 0
    for index in range(400):
        apart = (generator.random(40) < 0.6).astype(float) - (generator.random(40) < 0.6)
        small += p_value(float(apart.mean()), flipped_means(f"t/{index}", apart, 500)) <= 0.05
    assert 0.01 <= small / 400 <= 0.07


def test_a_p_value_knows_a_difference() -> None:
    sure, none = np.ones(12), np.zeros(12)
    assert p_value(1.0, flipped_means("t", sure)) == pytest.approx(2 / 2**12, rel=0.5)
    assert p_value(0.0, flipped_means("t", none)) == 1.0
    assert p_value(1.0, flipped_means("t", np.ones(1))) == 1.0, "one pair shows nothing"


def test_holm_asks_more_of_each_the_more_there_are() -> None:
    assert holm([0.04]) == [True]
    assert holm([0.04, 0.04]) == [False, False]
    assert holm([0.03, 0.001, 0.02]) == [True, True, True]
    assert holm([0.06, 0.001, 0.02]) == [False, True, True]
    assert holm([0.3, 0.001, 0.04]) == [False, True, False]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_rejects_at_least_what_bonferroni_does_and_smallest_first(p_values: list[float]) -> None:
    rejected = holm(p_values)
    for p, verdict in zip(p_values, rejected, strict=True):
        assert verdict or p > 0.05 / len(p_values)
        assert not verdict or all(other or q >= p for q, other in zip(p_values, rejected, strict=True))
