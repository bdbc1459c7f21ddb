"""Recording, killed at any moment or with environments and experts that raise, exit, hang or end their process."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gato_lite.envs.blocks import GivenUpError
from gato_lite.envs.dataset import Dataset, DatasetError, check
from gato_lite.envs.recording import UnrecordedError, folder_name, record_task, record_tasks
from gato_lite.train.cli import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

SOKOBAN, TAXI = "sokoban/Sokoban7x7", "toy/Taxi"

ODD = """
import itertools, multiprocessing, os, pathlib, sys, time
import gymnasium as gym
import numpy as np

class Odd(gym.Env):
    '''Three steps; with seed 3 the last one goes wrong.'''
    observation_space, action_space = gym.spaces.Discrete(9), gym.spaces.Discrete(2)

    def __init__(self, kind, seeds=(3,), render_mode=None):
        if kind == "ends_workers" and multiprocessing.parent_process() is not None:
            os._exit(9)
        self.kind, self.seeds = kind, seeds

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.n_steps = seed, 0
        return 0, {}

    def step(self, action):
        self.n_steps += 1
        if self.seed in self.seeds and self.n_steps == 3:
            getattr(self, self.kind)()
        return self.n_steps, 1.0, self.n_steps == 3, False, {}

    def raises(self): raise ValueError(f"no {self.seed} at {id(self)}")
    def exits(self): sys.exit(1)
    def dies(self): os._exit(7)
    def waits(self): time.sleep(1000)
    def naps(self): time.sleep(1.5)
    def counts_in_c(self):
        pathlib.Path(__file__).with_name("hangs").touch()
        sum(itertools.repeat(1))
    def swallows(self):
        while True:
            try:
                time.sleep(1000)
            except Exception:
                pass

for kind in ("raises", "exits", "dies", "waits", "naps", "counts_in_c", "swallows"):
    gym.register(f"Odd-{kind}-v0", entry_point=Odd, kwargs={"kind": kind}, disable_env_checker=True)
gym.register("Odd-ends_workers-v0", entry_point=Odd, kwargs={"kind": "ends_workers"}, disable_env_checker=True)
gym.register("Odd-always-v0", entry_point=Odd, kwargs={"kind": "raises", "seeds": range(10**6)})
gym.register("Odd-mortal-v0", entry_point=Odd, kwargs={"kind": "dies", "seeds": range(10**6)})
"""


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """From a kind of fault to the name of a task that has it."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "odd_environments.py").write_text(ODD)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    return "gym:odd_environments:Odd-{}-v0".format


def begin(out: Path, *words: object) -> subprocess.Popen[bytes]:
    command = ["-m", "gato_lite.train.cli", "record", SOKOBAN, TAXI, "--out", out, "--workers", 2, *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, *map(str, command)], env=environment, stdout=subprocess.DEVNULL)


def contents(out: Path) -> dict[str, bytes]:
    """Every file by its path; those of locks and of unfinished writing are not a dataset's."""
    found = {str(file.relative_to(out)): file for file in out.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in found.items() if not file.name.startswith(".")}


def workers_of(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(happened, process=None):
    deadline = time.monotonic() + 60
    while not happened() and (process is None or process.poll() is None):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def kill_and_check(process: subprocess.Popen[bytes], out: Path, whole: dict[str, bytes]) -> int:
    """Kills the command; what it had committed is as in the whole recording. Returns how many parts that is."""
    workers = workers_of(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(is_running, workers)))
    left = contents(out)
    assert left == {name: whole[name] for name in left}
    for folder in out.glob("*"):
        with contextlib.suppress(DatasetError):  # such as "a recording that was not finished"
            assert Dataset.open(folder).info.n_rows
    return len(left)


def n_names(out: Path) -> int:
    """Files of any name: parts, their temporary forms, locks."""
    return sum(1 for _ in out.rglob("*.*"))


def record_whole(out: Path, episodes: int) -> dict[str, bytes]:
    record_tasks({SOKOBAN: episodes, TAXI: episodes}, out)
    return contents(out)


def test_a_command_killed_twice_ends_in_the_same_bytes(tmp_path):
    whole = record_whole(tmp_path / "whole", 300)
    out = tmp_path / "killed"
    kept = 0
    for _ in range(2):
        process = begin(out, "--episodes", 300)
        wait_for(lambda before=kept: len(contents(out)) >= before + 1, process)
        kept = kill_and_check(process, out, whole)
        assert 1 <= kept < len(whole)
    times = {file: file.stat().st_mtime_ns for file in out.rglob("part-*")}
    assert begin(out, "--episodes", 300).wait() == 0
    assert contents(out) == whole
    assert {file: file.stat().st_mtime_ns for file in times} == times  # nothing committed was made again
    assert {file.name for file in out.rglob(".*")} == set()


@pytest.mark.long
def test_a_command_killed_at_thirty_random_moments_ends_in_the_same_bytes(tmp_path):
    rng = random.Random(0)
    whole = record_whole(tmp_path / "whole", 500)
    start = time.monotonic()
    assert begin(tmp_path / "timed", "--episodes", 500).wait() == 0
    duration = time.monotonic() - start
    out = tmp_path / "killed0"
    found = []
    while len(found) < 30:
        process = begin(out, "--episodes", 500)
        if len(found) % 2:  # at a random time, or when a random number of names have come
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, duration))
        else:
            names = (n_names(out) if out.exists() else 0) + rng.randint(1, 4)
            wait_for(lambda out=out, names=names: n_names(out) >= names, process)
        if process.poll() is None:
            found.append(kill_and_check(process, out, whole))
            continue
        assert process.returncode == 0
        assert contents(out) == whole
        out = tmp_path / f"killed{len(found)}"
    assert len(set(found)) > 3  # the kills were at many stages
    assert begin(out, "--episodes", 500).wait() == 0
    assert contents(out) == whole
    for name in (SOKOBAN, TAXI):
        assert check(out / folder_name(name)) == []


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_is_replaced_and_nothing_is_lost(tmp_path, sign):
    whole = record_whole(tmp_path / "whole", 200)
    process = begin(tmp_path / "out", "--episodes", 200)
    wait_for(lambda: contents(tmp_path / "out"), process)
    victim = workers_of(process.pid)[0]
    os.kill(victim, sign)
    assert process.wait() == 0
    assert contents(tmp_path / "out") == whole
    assert not is_running(victim)


def test_workers_end_with_their_parent_also_from_a_hang_in_c(tmp_path, odd):
    words = ["--episodes", "9", "--time-limit", "1000", "--workers", "1", "--out", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    command = [sys.executable, "-m", "gato_lite.train.cli", "record", odd("counts_in_c"), *map(str, words)]
    process = subprocess.Popen(command, env=environment)
    wait_for((tmp_path / "modules" / "hangs").exists, process)
    (worker,) = workers_of(process.pid)
    time.sleep(0.1)
    process.kill()
    process.wait()
    try:
        wait_for(lambda: not is_running(worker))
        assert not is_running(worker)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


REASONS = {
    "raises": "ValueError",
    "exits": "SystemExit",
    "dies": "worker died",
    "waits": "time limit",
    "counts_in_c": "time limit",
    "swallows": "time limit",
}


def test_an_episode_that_goes_wrong_costs_itself_alone(tmp_path, odd):
    wanted = {odd(kind): 6 for kind in REASONS}
    recordings = record_tasks(wanted, tmp_path, workers=2, time_limit_s=0.1)
    for kind, reason in REASONS.items():
        recording = recordings[odd(kind)]
        assert recording.reasons == {reason: 1}, kind
        assert recording.dataset.info.n_failed == 1
        episodes = recording.dataset.read_part(0)
        assert episodes.seeds.tolist() == [0, 1, 2, 4, 5, 6]
        assert episodes.lengths.tolist() == [3] * 6
        assert check(recording.dataset.path) == []
        (example,) = recording.examples
        assert example.startswith("seed 3: ")
    assert recordings[odd("raises")].examples[0].startswith("seed 3: ValueError: no 3 at ")
    assert recordings[odd("waits")].examples == (
        "seed 3: the episode took longer than its limit of 0.1 s of CPU time, 2 s by the clock",
    )


def test_an_episode_that_takes_long_without_the_cpu_is_kept(tmp_path, odd):
    """As one does on a busy machine: neither its process nor the parent that watches it minds."""
    dataset = record_task(odd("naps"), 6, tmp_path / "out", workers=1, time_limit_s=0.1)
    assert (dataset.info.n_failed, dataset.read_part(0).seeds.tolist()) == (0, [0, 1, 2, 3, 4, 5])


def test_a_task_that_always_fails_leaves_the_others_whole(tmp_path, odd):
    message = (
        r"1 of 2 tasks could not be recorded, the others are whole: .*Odd-always-v0: expected 100 episodes from 100"
        r" seeds from 0, got 0: 100 failed \(100 ValueError\), 0 had bad values; the last: ValueError: no 99 at \d+"
    )
    with pytest.raises(UnrecordedError, match=message) as raised:
        record_tasks({odd("always"): 150, TAXI: 150}, tmp_path)
    assert list(raised.value.recordings) == [TAXI]
    assert Dataset.open(tmp_path / folder_name(TAXI)).info.n_rows == 150


def test_the_command_says_which_tasks_failed_and_why(tmp_path, odd, capsys):
    words = ["record", odd("always"), odd("raises"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*words, "--episodes", "6"]) == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[1].split()[1:5] == ["6", "1", "0", "18"]
    note, error = told.err.splitlines()
    assert re.fullmatch(r".*Odd-raises-v0: 1 ValueError failed; such as seed 3: ValueError: no 3 at \d+", note)
    assert error.startswith("gato-lite: error: 1 of 2 tasks could not be recorded, the others are whole: gym:odd")


@pytest.mark.long
def test_a_task_that_ends_every_worker_is_given_up(tmp_path, odd, monkeypatch):
    monkeypatch.setattr("gato_lite.envs.workers._MAX_LOST", 2)
    message = (
        r"Odd-mortal-v0: more than 2 episodes of one block hung or ended their process,"
        r" the last: seed 2: worker died, exit code 7"
    )
    with pytest.raises(GivenUpError, match=message):
        record_task(odd("mortal"), 5, tmp_path / "out", workers=1)


@pytest.mark.long
def test_an_environment_that_ends_every_worker_as_it_is_made_is_given_up(tmp_path, odd):
    message = r"Odd-ends_workers-v0: its workers died 3 times outside an episode, the last by exit code 9"
    with pytest.raises(GivenUpError, match=message):
        record_task(odd("ends_workers"), 5, tmp_path / "out", workers=1)
