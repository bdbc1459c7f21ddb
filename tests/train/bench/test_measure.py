"""Taking turns: rounds, ratios and their order."""

from __future__ import annotations

import time

import pytest
import torch

from gato_lite.train.bench.measure import take_turns, this_machine


def test_variants_take_turns_and_the_first_is_the_measure() -> None:
    calls: list[str] = []
    shown: list[tuple[int, int]] = []
    timings = take_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        rounds=3,
        warm_ups=2,
        on_progress=lambda done, total: shown.append((done, total)),
    )
    assert calls == ["a", "b"] * 5
    assert shown[-1] == (10, 10)
    assert timings["a"].ratio == timings["a"].ratio_low == timings["a"].ratio_high == 1.0
    assert timings["b"].rounds == 3


def test_a_ratio_above_one_is_faster() -> None:
    timings = take_turns({"slow": lambda: time.sleep(0.02), "fast": lambda: time.sleep(0.001)}, rounds=3)
    assert timings["fast"].ratio > 2.0
    assert timings["fast"].ratio_low <= timings["fast"].ratio <= timings["fast"].ratio_high


@pytest.mark.parametrize("variants, rounds", [({}, 3), ({"a": lambda: None}, 0)])
def test_nothing_to_time_is_refused(variants: dict[str, object], rounds: int) -> None:
    with pytest.raises(ValueError, match="at least one variant and one round"):
        take_turns(variants, rounds=rounds)  # type: ignore[arg-type]


def test_the_machine_is_named() -> None:
    machine = this_machine(torch.device("cpu"))
    assert machine.processor
    assert machine.cores >= 1
    assert machine.matmul_flops > 1e8
