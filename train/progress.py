"""How long a run is to be, and where it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LONGEST: Final = 10**12
"""Steps or minutes of the longest run."""


@dataclass
class Length:
    """How long a run is: steps, minutes of training, or minutes of CPU time; the learning rate ends when it does."""

    steps: int | None = None
    minutes: float | None = None
    cpu_minutes: float | None = None
    """Of all threads together: a busy machine takes longer, and trains as much."""

    def __post_init__(self) -> None:
        lengths = {"steps": self.steps, "minutes": self.minutes, "cpu_minutes": self.cpu_minutes}
        given = {name: value for name, value in lengths.items() if value is not None}
        told = ", ".join(f"{name}={value}" for name, value in given.items())
        if len(given) != 1:
            raise ValueError(f"give one of steps, minutes and cpu_minutes, got {told or 'none'}")
        if not all(0 < value <= LONGEST for value in given.values()):
            raise ValueError(f"a run's length must be above 0 and at most {LONGEST:,}, got {told}")

    def progress(self, step: int, elapsed_s: float, cpu_s: float) -> float:
        """Share of the run that is done, in [0, 1]."""
        if self.steps is not None:
            done = step / self.steps
        elif self.minutes is not None:
            done = elapsed_s / 60 / self.minutes
        else:
            assert self.cpu_minutes is not None
            done = cpu_s / 60 / self.cpu_minutes
        return min(done, 1.0)

    def less(self, seconds: float, cpu_seconds: float) -> Length:
        """What is left of its minutes for training when something else takes some of them."""
        if self.minutes is not None:
            return Length(minutes=max(self.minutes - seconds / 60, min(0.1, self.minutes)))
        if self.cpu_minutes is not None:
            return Length(cpu_minutes=max(self.cpu_minutes - cpu_seconds / 60, min(0.1, self.cpu_minutes)))
        return self


@dataclass
class Progress:
    """Where a run stands; shown to whoever watches."""

    step: int
    elapsed_s: float
    done: float
    """Share of the run, in [0, 1]."""
    loss: float
    """Mean over the last logged steps, nats per target token."""
    tokens_per_s: float
    utilisation: float
    """Share of the matmul peak measured at the start."""
    asked: tuple[int, int] | None = None
    """While experts are asked and nothing else is measured: episodes that they have been asked about, of how many."""

    def show(self, bar: Callable[[float, str], None]) -> None:
        """Tells a progress bar."""
        now = f"loss {self.loss:.3f}  {self.tokens_per_s:,.0f} tokens/s"
        if self.asked is not None:
            now = f"asking the experts: {self.asked[0]:,} of {self.asked[1]:,} episodes"
        bar(self.done, f"step {self.step:,}  {now}")
