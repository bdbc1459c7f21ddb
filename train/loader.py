"""The loader: a thread that makes what the next steps read while the model works on this one.

What a step reads is a function of its number alone, so a loader that died is started again at the step that is due, and
nothing is lost or read twice. It is started again once a step, and only where another try may help.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Generic, Self, TypeVar

from gato_lite.train.console import PROGRAM, print_note

TRANSIENT: Final = {errno.EIO, errno.EINTR, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE, errno.ENETDOWN, errno.ENOMEM}
"""Errors of the system that may be gone when one tries again."""
CHECK_S: Final = 1.0
"""Seconds after which a reader that waits looks whether the loader still lives."""

T = TypeVar("T")


class Prefetch(Generic[T]):
    """What `make` gives for steps `first`, `first + 1`, …, made in a thread, a few steps ahead of the reader.

    Args:
        make: called with the number of a step.
        first: step to begin with.
        n_ahead: steps that may be ready before they are asked for.

    Example:
        >>> with Prefetch(mixture.stream, first=0) as streams:  # doctest: +SKIP
        ...     stream = next(streams)
    """

    def __init__(self, make: Callable[[int], T], first: int, *, n_ahead: int = 3) -> None:
        self.waited_s = 0.0
        """Seconds that the reader has waited."""
        self._make = make
        self._next = first
        self._n_ahead = n_ahead
        self._restarted_at: int | None = None
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.05)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        start = time.perf_counter()
        try:
            made = self._take()
            while isinstance(made, BaseException):
                self._restart(made)
                made = self._take()
        finally:
            self.waited_s += time.perf_counter() - start
        self._next += 1
        return made

    def _take(self) -> T | BaseException:
        """What is ready, or what ended the loader."""
        while True:
            try:
                return self._ready.get(timeout=CHECK_S)
            except queue.Empty:
                if not self._thread.is_alive():
                    return SystemExit("it ended without a word")

    def _restart(self, error: BaseException) -> None:
        """Starts the loader again at the step that is due; raises what ended it where that does not help."""
        died = not isinstance(error, Exception)  # somebody ended the thread
        if not died and not (isinstance(error, OSError) and error.errno in TRANSIENT):
            raise error
        if self._restarted_at == self._next:
            if not died:
                raise error
            raise RuntimeError(f"the loader died twice at step {self._next}; go on with --resume") from error
        self._restarted_at = self._next
        print_note(f"{PROGRAM}: the loader ended at step {self._next} ({error!r}) and is started again")
        self._start()

    def _start(self) -> None:
        """A thread with a queue of its own, so that what an earlier one left behind is not read."""
        self._ready: queue.Queue[T | BaseException] = queue.Queue(maxsize=self._n_ahead)
        arguments = (self._next, self._ready)
        self._thread = threading.Thread(target=self._run, args=arguments, name="gato-lite-loader", daemon=True)
        self._thread.start()

    def _run(self, step: int, ready: queue.Queue[T | BaseException]) -> None:
        while not self._stop.is_set():
            try:
                ready.put(self._make(step))
            except BaseException as error:  # noqa: BLE001 - handed to the reader, which raises it
                ready.put(error)
                return
            step += 1
