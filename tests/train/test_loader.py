from __future__ import annotations

import ctypes
import errno
import threading
import time

import pytest

from gato_lite.train import loader
from gato_lite.train.loader import Prefetch


def test_steps_come_in_order():
    with Prefetch(lambda step: step * 10, first=5) as steps:
        assert [next(steps) for _ in range(6)] == [50, 60, 70, 80, 90, 100]
        assert steps.waited_s >= 0.0
        thread = steps._thread
    assert not thread.is_alive()


def test_an_error_reaches_the_reader_at_its_step():
    def make(step: int) -> int:
        if step == 3:
            raise RuntimeError(f"no step {step}")
        return step

    with Prefetch(make, first=2) as steps:
        assert next(steps) == 2
        with pytest.raises(RuntimeError, match="no step 3"):
            next(steps)


def test_leaving_early_stops_the_loader():
    with Prefetch(lambda step: step, first=0, n_ahead=1) as steps:
        thread = steps._thread
    assert not thread.is_alive()


@pytest.mark.parametrize("n_failure, works", [(1, True), (2, False)])
def test_what_may_pass_is_tried_once_more(n_failure, works, capsys):
    failures = 0

    def make(step: int) -> int:
        nonlocal failures
        if step == 4 and failures < n_failure:
            failures += 1
            raise OSError(errno.EIO, "Input/output error", "part-000000.parquet")
        return step

    with Prefetch(make, first=2) as steps:
        assert [next(steps), next(steps)] == [2, 3]
        if works:
            assert [next(steps), next(steps)] == [4, 5]
        else:
            with pytest.raises(OSError, match="part-000000.parquet"):
                next(steps)
    assert (
        "the loader ended at step 4 (OSError(5, 'Input/output error')) and is started again" in capsys.readouterr().err
    )


def test_what_will_not_pass_is_not_tried_again():
    calls = []

    def make(step: int) -> int:
        calls.append(step)
        raise OSError(errno.EACCES, "Permission denied")

    with Prefetch(make, first=0) as steps, pytest.raises(PermissionError):
        next(steps)
    assert calls == [0]


def kill(thread: threading.Thread) -> None:
    """Ends a thread from outside, wherever it is."""
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)) == 1
    end = time.monotonic() + 20
    while thread.is_alive():
        assert time.monotonic() < end
        time.sleep(0.001)


def slowly(step: int) -> int:
    for _ in range(20):
        time.sleep(0.001)  # a thread that waits inside a lock does not hear that it is to end
    return step


def test_a_loader_that_was_killed_is_started_again(monkeypatch, capsys):
    monkeypatch.setattr(loader, "CHECK_S", 0.05)
    with Prefetch(slowly, first=0, n_ahead=100) as steps:
        for expected in range(0, 30, 3):
            assert [next(steps) for _ in range(3)] == [expected, expected + 1, expected + 2]
            if expected % 9 == 0:
                kill(steps._thread)
    assert "is started again" in capsys.readouterr().err


def test_a_loader_that_dies_again_at_once():
    def make(step: int) -> int:
        raise SystemExit

    with Prefetch(make, first=7) as steps, pytest.raises(RuntimeError, match="the loader died twice at step 7"):
        next(steps)
