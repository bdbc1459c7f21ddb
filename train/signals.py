"""SIGTERM and Ctrl-C while a run trains: the step in hand ends, the run is saved, and the process says by which."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self


class Interrupted(SystemExit):
    """The run was saved and ends because a signal asked for it; the exit code is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class Signals:
    """Turns SIGTERM and Ctrl-C into a flag, so that the step in hand ends and is saved."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._at_once = False
        self._previous: dict[int, Any] = {}  # Any: a handler is a function, or a number of the system's

    def __enter__(self) -> Self:
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._receive)
        except ValueError:  # not the main thread: whoever runs us handles signals
            self._previous = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A block that changes nothing that is saved: a signal leaves it, rather than wait for its end."""
        self._at_once = True
        try:
            yield
        except Interrupted:
            pass
        finally:
            self._at_once = False

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt  # asked twice: stop at once
        self.received = number
        if self._at_once:
            raise Interrupted(number)
