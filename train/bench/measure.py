"""Comparing pieces of work in one process: in turns, as ratios, with the machine's own drift taken out.

Absolute times of a shared machine mean little. Variants therefore take turns, round after round, and what is reported
is the median over rounds of each variant's time divided by the first one's *in the same round*.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import torch

from gato_lite.config import Precision
from gato_lite.train.cores import processor_name, usable_cores
from gato_lite.train.peak import datasheet_peak, device_name, matmul_dtype, matmul_peak


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """One variant's times."""

    seconds: float
    """Median time of one call."""
    ratio: float
    """Median over rounds of the first variant's time divided by this one's: how many times as fast it is."""
    ratio_low: float
    """Smallest of these ratios."""
    ratio_high: float
    """Largest."""
    rounds: int


def take_turns(
    variants: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    warm_ups: int = 1,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Timing]:
    """Times of `variants`, called in turns.

    Args:
        variants: by name; the first is what the others are compared with. On a GPU they must wait for it themselves.
        rounds: calls of each that count.
        warm_ups: calls of each before those.
        on_progress: told after every call how many of all calls are done.

    Raises:
        ValueError: nothing to time.

    Example:
        >>> timings = take_turns({"loop": lambda: [i * i for i in range(9)], "map": lambda: list(map(abs, range(9)))})
        >>> timings["loop"].ratio
        1.0
    """
    if not variants or rounds < 1:
        raise ValueError(f"need at least one variant and one round, got {len(variants)} variants, {rounds} rounds")
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    total = (warm_ups + rounds) * len(variants)
    done = 0
    for turn in range(warm_ups + rounds):
        for name, call in variants.items():
            start = time.perf_counter()
            call()
            if turn >= warm_ups:
                seconds[name].append(time.perf_counter() - start)
            done += 1
            on_progress(done, total)
    first = np.array(next(iter(seconds.values())))
    timings = {}
    for name, taken in seconds.items():
        ratios = first / np.array(taken)
        timings[name] = Timing(
            seconds=float(np.median(taken)),
            ratio=float(np.median(ratios)),
            ratio_low=float(ratios.min()),
            ratio_high=float(ratios.max()),
            rounds=rounds,
        )
    return timings


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where figures were measured."""

    processor: str
    cores: int
    """That this process may use."""
    threads: int
    """That torch uses inside an operation."""
    device: str
    torch: str
    python: str
    precision: str
    """What matrices are multiplied in."""
    matmul_flops: float
    """FLOP/s of a large matmul in that precision, measured in the same run."""
    datasheet_flops: float | None
    """What the GPU's maker states for it; None where that is not known."""


def this_machine(device: torch.device, precision: Precision = "float32") -> Machine:
    """What the figures of this process are measured on; takes a second, for the peak."""
    return Machine(
        processor=processor_name(),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        device=device_name(device),
        torch=str(torch.__version__),
        python=platform.python_version(),
        precision=str(matmul_dtype(device, precision)).removeprefix("torch."),
        matmul_flops=matmul_peak(device, 1.0, precision),
        datasheet_flops=datasheet_peak(device_name(device), matmul_dtype(device, precision)),
    )
