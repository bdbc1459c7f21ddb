"""What it is worth not to wait for environments: slow ones among quick ones, and a suite that is bound by them.

The same episodes are played by `eval`'s own loop, its environments in processes of their own: once with all slots in
lock-step, their environments in one process, and once as it is done. Both come to the same outcomes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np

from gato_lite.envs.catalogue import find_tasks
from gato_lite.envs.hosted import HostedStage
from gato_lite.envs.stage import Answer, Begin
from gato_lite.train.bench.paces import NAP_S, WORK_S
from gato_lite.train.bench.rollout import fresh
from gato_lite.train.rollout import Outcome, Rollout

N_SLOT: Final = 32


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """The same episodes, in lock-step and not."""

    what: str
    slots: int
    lock_step_s: float
    """Median time until the last episode ended; of slow ones among quick ones, the last quick one."""
    overlapped_s: float
    ratio: float
    """Median of how many times as fast it is not to wait."""
    ratio_low: float
    ratio_high: float
    rounds: int


class Together(HostedStage):
    """A stage that answers when all have answered."""

    def answers(self, *, wait_for_one: bool = True) -> dict[int, Answer]:
        """All answers."""
        found: dict[int, Answer] = {}
        while self._turns:
            found |= super().answers()
        return found or super().answers(wait_for_one=wait_for_one)


def measure_paces(rounds: int = 3, on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> list[Pace]:
    """Both comparisons, in turns.

    Raises:
        RuntimeError: the two ways did not come to the same.
    """
    plans = {
        f"1 slot of steps of {1e3 * NAP_S:.0f} ms among {N_SLOT - 1} quick ones": {"Naps": 1, "Quick": N_SLOT - 1},
        f"{N_SLOT} slots of steps that compute for {1e3 * WORK_S:.1f} ms": {"Works": N_SLOT},
    }
    found = []
    for index, (what, counts) in enumerate(plans.items()):
        seconds: list[tuple[float, float]] = []
        for done in range(rounds):
            (together, first), (apart, second) = _play(counts, Together), _play(counts, HostedStage)
            if first != second:
                raise RuntimeError(f"{what}: episodes in lock-step and apart differ, which is a mistake in play")
            seconds.append((together, apart))
            on_progress(index * rounds + done + 1, len(plans) * rounds)
        ratios = [together / apart for together, apart in seconds]
        found.append(
            Pace(
                what=what,
                slots=N_SLOT,
                lock_step_s=float(np.median([pair[0] for pair in seconds])),
                overlapped_s=float(np.median([pair[1] for pair in seconds])),
                ratio=float(np.median(ratios)),
                ratio_low=min(ratios),
                ratio_high=max(ratios),
                rounds=rounds,
            )
        )
    return found


def _play(counts: dict[str, int], stage_of: type[HostedStage]) -> tuple[float, set[Outcome]]:
    """Seconds from the first episode's beginning to the last quick one's end, and all outcomes."""
    names = {f"gym:gato_lite.train.bench.paces:{pace}-v0": count for pace, count in counts.items()}
    jobs = [(task, seed) for task in find_tasks(list(names)) for seed in range(names[task.name])]
    ends: list[float] = []

    def end(outcome: Outcome) -> None:
        if len(counts) == 1 or "Naps" not in outcome.task:
            ends.append(time.perf_counter())

    hosts = 1 if stage_of is Together else 2
    with contextlib.closing(stage_of(list(names), evaluation=True, limit_s=60.0, hosts=hosts, halves=True)) as stage:
        stage.take({0: Begin(task=jobs[0][0].name, seed=0)})  # starting up is not what is compared
        rollout = Rollout(fresh(256), jobs, stage, on_episode=end)
        start = time.perf_counter()
        rollout.run(N_SLOT, 0.0, 0)
    return max(ends) - start, set(rollout.outcomes)
