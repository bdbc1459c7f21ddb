from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from types import SimpleNamespace

import numpy as np
import pytest

from gato_lite.envs.blocks import Block
from gato_lite.envs.recording import record_task
from gato_lite.envs.workers import _cpu_seconds, _Queue, _Worker, start_process

MIXED = """
import sys
import gymnasium as gym
import numpy as np

class Mixed(gym.Env):
    observation_space, action_space = gym.spaces.Box(-9, 9, (2,)), gym.spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode=None):
        self.worn = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.n_steps = seed, 0
        return self._observe(), {}

    def step(self, action):
        self.n_steps += 1
        if self.seed % 10 == 3:
            self.worn = True  # whoever goes on with this environment sees other values
            raise ValueError(f"no step at {id(self)}")
        if self.seed % 10 == 5:
            sys.exit(3)
        return self._observe(), float(action[0]), self.n_steps == 4, False, {}

    def _observe(self):
        drawn = self.np_random.uniform(-9, 9, 2).astype(np.float32)
        return drawn * np.nan if self.seed % 10 == 4 and self.n_steps == 2 else drawn * (1 - self.worn)

gym.register("Mixed-v0", entry_point=Mixed, disable_env_checker=True)
"""


def contents(out):
    return {file.name: file.read_bytes() for file in out.iterdir()}


def test_the_bytes_are_the_same_whoever_records_also_with_failures_and_after_a_resume(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "mixed_environment.py").write_text(MIXED)
    monkeypatch.syspath_prepend(tmp_path / "modules")

    def record(out, workers):
        return record_task("gym:mixed_environment:Mixed-v0", 250, tmp_path / out, workers=workers, on_bad="skip")

    here = record("here", None)
    seeds = np.concatenate([here.read_part(index).seeds for index in range(3)])
    assert not np.isin(seeds % 10, [3, 4, 5]).any()
    assert (here.info.n_failed, here.info.n_skipped) == (70, 35)
    expected = contents(here.path)
    assert sorted(expected) == ["dataset.json", *(f"part-00000{index}.parquet" for index in range(3))]
    for workers in (1, 2, 3):
        assert contents(record(f"with{workers}", workers).path) == expected
    for name in ("dataset.json", "part-000001.parquet"):
        (here.path / name).unlink()
    assert contents(record("here", 2).path) == expected


@pytest.mark.parametrize("workers", [None, 1])
def test_progress_is_told_while_blocks_are_recorded(tmp_path, workers):
    told = []
    record_task("toy/Taxi", 150, tmp_path, workers=workers, progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 150)
    assert told[-1] == (150, 150)
    assert {total for _, total in told} == {150}
    assert all(0 <= done <= 150 for done, _ in told)


def block(task, index):
    return Block(task=task, out="", index=index, episodes=100, seed=0, on_bad="error", time_limit_s=1.0)


class Hung(_Worker):
    """A worker that has begun seed 5, as its parent sees it at `clock` seconds."""

    def __init__(self, monkeypatch):
        self.block, self.shared, self.process = block("a", 0), [5, 0], SimpleNamespace(pid=None)
        self._seed, self._waited, self._looked, self._used = 5, 0.0, 0.0, 0.0
        self.clock = self.used = 0.0
        monkeypatch.setattr("gato_lite.envs.workers._cpu_seconds", lambda _pid: self.used)
        monkeypatch.setattr("gato_lite.envs.workers.time.monotonic", lambda: self.clock)

    def overdue_after(self, cpu_share):
        """CPU time and time by the clock after which its seed is overdue."""
        while self.overdue_seed() is None:
            self.clock += 0.2
            self.used += 0.2 * cpu_share
        return round(self.used, 1), round(self.clock, 1)


@pytest.mark.parametrize("cpu_share, after", [(1.0, (2.2, 2.2)), (0.25, (2.0, 8.2)), (0.0, (0.0, 21.2))])
def test_a_worker_is_overdue_by_its_own_cpu_time_or_much_later_by_the_clock(monkeypatch, cpu_share, after):
    cpu, clock = Hung(monkeypatch).overdue_after(cpu_share)
    assert cpu == pytest.approx(after[0], abs=0.25)
    assert clock == pytest.approx(after[1], abs=0.25)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_is_told_its_cpu_time():
    assert _cpu_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=0.5)
    assert _cpu_seconds(2**30) == 0.0


def test_a_worker_stays_with_its_task_and_then_helps_where_most_is_left():
    queue = _Queue([*(block("a", index) for index in range(2)), *(block("b", index) for index in range(3))])
    taken = [queue.take("a"), queue.take("a"), queue.take("a"), queue.take(None)]
    assert [(found.task, found.index) for found in taken] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    queue.put_back(taken[3])
    assert len(queue) == 2
    assert queue.take("b") == taken[3]
    queue.drop("b")
    queue.put_back(taken[3])
    assert len(queue) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_a_process_has_started(number):
    """Half-started, it would find the end of what its parent had to say, and complain with a traceback."""

    class Half(BaseProcess):
        told = False

        def start(self):
            os.kill(os.getpid(), number)
            for _ in range(100):
                pass  # the signal is there
            self.told = True

    class Came(BaseException):
        pass

    def come(_number, _frame):
        raise Came

    before = signal.signal(number, come)
    process = Half()
    try:
        with pytest.raises(Came):
            start_process(process)
        assert process.told
        assert signal.getsignal(number) is come
    finally:
        signal.signal(number, before)
