"""Faults of training: real processes, killed, told to stop, short of disk or memory, divided over ranks.

The commands are `gato-lite train` with a model of milliseconds a step, see `training_child.py`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from gato_lite.checkpoint import list_checkpoints, load_checkpoint
from gato_lite.envs.dataset import Document, write_documents
from gato_lite.envs.record import record_tasks
from gato_lite.train.verify import verify

CHILD = Path(__file__).with_name("training_child.py")
TIME_LIMIT_S = 300.0


class Commands:
    """Starts `gato-lite` commands in processes of their own, forked from one that has done the imports."""

    def __init__(self, before: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, log: Path, words: list[str], *, patience: int | None = None, **environment: str) -> int:
        """The process id of a new command."""
        return self._ask({"words": words, "log": str(log), "patience": patience, "environment": environment})

    def wait(self, pid: int) -> int:
        """Exit code of a command, minus the number of a signal that killed it."""
        return self._ask({"wait": pid})

    def run(self, log: Path, words: list[str], **options: str) -> int:
        return self.wait(self.start(log, words, **options))

    def _ask(self, line: dict[str, object]) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    made = Commands()
    yield made
    made.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two datasets: some episodes, some text."""
    folder = tmp_path_factory.mktemp("data")
    record_tasks({"classic/Acrobot": 2}, folder, workers=1)
    write_documents(folder / "text", [Document(None, f"word {n} " * (3 + n)) for n in range(6)], name="text")
    return folder


def training(run: Path, data: Path, steps: int, *more: str, recipe: str = "fault") -> list[str]:
    """The words after `gato-lite`; a run that is there is gone on with."""
    words = ["train", recipe, "--data", str(data), "--out", str(run), "--steps", str(steps), "--resume"]
    return [*words, *more]


def lives(pid: int) -> bool:
    """Whether a command still runs; one that ended is a zombie until it is waited for."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until(condition: Callable[[], object], pid: int) -> None:
    end = time.monotonic() + TIME_LIMIT_S
    while not condition():
        assert lives(pid), "the command ended by itself"
        assert time.monotonic() < end
        time.sleep(0.001)


CLOCKED = {"elapsed_s", "cpu_s", "tokens_per_s", "target_tokens_per_s", "utilisation", "waited_s"}


def metrics(run: Path) -> list[dict[str, object]]:
    """Lines of metrics, without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKED} for line in lines]


def newest(run: Path) -> int:
    return (list_checkpoints(run) or [0])[-1]


def assert_same_end(a: Path, b: Path) -> None:
    """Equal weights, optimiser state, skipped steps and metrics, to the bit."""
    one, other = load_checkpoint(a), load_checkpoint(b)
    assert one.step == other.step
    for mine, theirs in ((one.model, other.model), (one.optimizer, other.optimizer)):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name]), name
    assert one.state["skipped"] == other.state["skipped"]
    assert metrics(a) == metrics(b)


def events(run: Path, tag: str = "training/loss") -> dict[int, float]:
    """What TensorBoard shows: a value for each step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(run), size_guidance={"scalars": 0})
        found.Reload()
        points = found.Scalars(tag) if tag in found.Tags()["scalars"] else []
    steps = [point.step for point in points]
    assert steps == sorted(set(steps)), f"a step is told twice: {steps}"
    return {point.step: point.value for point in points}


STEPS = 60


@pytest.fixture(scope="module")
def uninterrupted(commands: Commands, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("straight") / "run"
    assert commands.run(run.parent / "log", training(run, data, STEPS)) == 0
    assert events(run).keys() == set(range(1, STEPS + 1))
    return run


@dataclass
class Killed:
    """Where kills fell."""

    n: int = 0
    writing: int = 0
    """While a checkpoint was being written or removed: its hidden folder was left."""
    unbegun: int = 0
    """Before the first checkpoint."""
    finished: int = 0
    """Runs that were trained to their end by lives that were killed."""


def hidden(run: Path) -> set[Path]:
    """Folders of checkpoints that are being written or removed."""
    return set((run / "checkpoints").glob(".step_*"))


def check_after_a_kill(run: Path, before: int) -> None:
    """Nothing is lost and nothing half-written counts; metrics and events know every step that was saved."""
    step = newest(run)
    assert step >= before
    if not step:
        return
    assert load_checkpoint(run).step == step
    verification = verify(run)
    assert verification.problems == ()
    assert f"checkpoints/step_{step}" in verification.checked
    assert not any(".step_" in name for name in verification.checked)
    assert {line["step"] for line in metrics(run)} >= set(range(1, step + 1))
    assert events(run).keys() >= set(range(1, step + 1))


@pytest.mark.parametrize("n_kill", [6, pytest.param(50, marks=pytest.mark.long)])
def test_a_run_that_is_killed_again_and_again(
    n_kill: int, commands: Commands, data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Every other kill is aimed at the moment when a checkpoint's hidden folder is there."""
    generator = np.random.default_rng(n_kill)
    killed = Killed()
    run = tmp_path / "run-0"
    while killed.n < n_kill:
        before, left = newest(run), hidden(run)
        pid = commands.start(tmp_path / "log", training(run, data, STEPS))
        if killed.n % 2:
            aim = before + int(generator.integers(1, 6))
            while lives(pid) and not (newest(run) >= aim and hidden(run) - left):
                pass  # a hidden folder is there for milliseconds
        else:
            time.sleep(float(generator.uniform(0.0, 1.2)))
        os.kill(pid, signal.SIGKILL)
        code = commands.wait(pid)
        if code == 0:
            assert_same_end(run, uninterrupted)
            killed.finished += 1
            run = tmp_path / f"run-{killed.finished}"
            continue
        assert code == -signal.SIGKILL
        killed.n += 1
        killed.writing += bool(hidden(run) - left)  # what an earlier life left stays until the next save
        killed.unbegun += not newest(run)
        check_after_a_kill(run, before)
    assert commands.run(tmp_path / "log", training(run, data, STEPS)) == 0
    assert_same_end(run, uninterrupted)
    assert events(run) == events(uninterrupted)
    assert killed.writing >= n_kill // 5
    print(killed)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_told_to_stop_saves(
    number: int, code: int, commands: Commands, data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pid = commands.start(tmp_path / "log", training(run, data, STEPS))
    wait_until(lambda: newest(run) >= 5, pid)
    os.kill(pid, number)
    assert commands.wait(pid) == code
    assert f"stopped and saved in {run}; the same command with --resume goes on" in (tmp_path / "log").read_text()
    assert 5 <= newest(run) < STEPS
    assert verify(run).problems == ()
    assert commands.run(tmp_path / "log", training(run, data, STEPS)) == 0
    assert_same_end(run, uninterrupted)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_evaluation_is_left_when_told_to_stop(
    number: int, code: int, commands: Commands, data: Path, tmp_path: Path
) -> None:
    """An untrained agent plays 200 episodes of 500 steps after each step; none of them is waited for."""
    run = tmp_path / "run"
    pid = commands.start(tmp_path / "log", training(run, data, STEPS, recipe="fault-score"))
    wait_until(lambda: (run / "metrics.jsonl").is_file() and len(metrics(run)) == 1, pid)
    os.kill(pid, number)
    assert commands.wait(pid) == code
    assert list_checkpoints(run) == [1]
    assert [line.keys() & {"loss", "score_by_suite"} for line in metrics(run)] == [{"loss"}]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], tuple[Commands, Path, Path]]]:
    """Makes a disk of some megabytes: commands that see it, its folder as they name it, and the same as seen from here.

    The disk is a tmpfs in a mount namespace of its own, for which no rights are needed.
    """
    made: list[Commands] = []

    def make(megabytes: int) -> tuple[Commands, Path, Path]:
        mount = tmp_path / "disk"
        mount.mkdir()
        script = f'mount -t tmpfs -o size={megabytes}m tmpfs {mount} && exec "$@"'
        before = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh")
        if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
            pytest.skip("this system does not let a user mount a tmpfs")
        made.append(Commands(before))
        assert made[0].run(tmp_path / "log", ["--version"]) == 0  # it is there
        return made[0], mount, Path(f"/proc/{made[0].process.pid}/root{mount}")

    yield make
    for commands in made:
        commands.close()


@contextmanager
def held(pid: int) -> Iterator[None]:
    """A block during which a command stands still."""
    os.kill(pid, signal.SIGSTOP)
    yield
    os.kill(pid, signal.SIGCONT)


def fill(file: Path) -> None:
    """Takes what is left of a disk."""
    page = bytes(4096)
    with file.open("wb", buffering=0) as taken, pytest.raises(OSError, match="No space left on device"):
        list(map(taken.write, itertools.repeat(page)))


def test_a_disk_that_was_full_for_a_while(
    small_disk: Callable[[int], tuple[Commands, Path, Path]], data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    commands, mount, seen = small_disk(3)
    pid = commands.start(tmp_path / "log", training(mount / "run", data, STEPS), patience=1_000_000)
    wait_until(lambda: newest(seen / "run") >= 3, pid)
    with held(pid):
        fill(seen / "other")
    wait_until(lambda: "could not be written" in (tmp_path / "log").read_text(), pid)
    with held(pid):
        assert load_checkpoint(seen / "run").step == newest(seen / "run") >= 3
        (seen / "other").unlink()
    assert commands.wait(pid) == 0
    assert_same_end(seen / "run", uninterrupted)
    assert events(seen / "run") == events(uninterrupted)


def test_a_disk_that_stays_full(
    small_disk: Callable[[int], tuple[Commands, Path, Path]],
    commands: Commands,
    data: Path,
    uninterrupted: Path,
    tmp_path: Path,
) -> None:
    """Two checkpoints fit on 1 MB, the third does not."""
    there, mount, seen = small_disk(1)
    assert there.run(tmp_path / "log", training(mount / "run", data, STEPS)) == 1
    assert list_checkpoints(seen / "run") == [1, 2]
    assert verify(seen / "run").problems == ()
    *notes, error = (tmp_path / "log").read_text().splitlines()[-3:]
    assert all("No space left on device" in line and line.endswith("; trying again") for line in notes)
    expected = (
        rf"gato-lite: error: {mount}/run/checkpoints: the checkpoint of step 5 could not be written \(\[Errno 28\] "
        r"No space left on device.*\): it needs about ([\d,]+) bytes, ([\d,]+) are free; "
        r"the checkpoint of step 2 is whole; that was the last of 3 tries: make room, then go on with --resume"
    )
    found = re.fullmatch(expected, error)
    assert found, error
    needed, free = (int(number.replace(",", "")) for number in found.groups())
    stored = sum(file.stat().st_size for file in (seen / "run" / "checkpoints" / "step_2").glob("*.safetensors"))
    assert 0.9 * stored < needed <= stored
    assert free < needed
    shutil.copytree(seen / "run", tmp_path / "roomy")
    assert commands.run(tmp_path / "log", training(tmp_path / "roomy", data, STEPS)) == 0
    assert_same_end(tmp_path / "roomy", uninterrupted)


def test_losses_that_are_not_finite_stop_a_run(commands: Commands, data: Path, tmp_path: Path) -> None:
    """A learning rate of 1e30 spoils the weights at the first step; the five after it are skipped."""
    run = tmp_path / "run"
    assert commands.run(tmp_path / "log", training(run, data, STEPS, recipe="fault-rate")) == 1
    error = (tmp_path / "log").read_text().splitlines()[-1]
    told = [line for line in metrics(run) if "skipped_step" in line]
    assert [line["skipped_step"] for line in told] == [1, 2, 3, 4, 5]
    origin, rows = next(iter(told[-1]["rows"].items()))
    expected = (
        "gato-lite: error: 5 steps in a row had a loss or gradient that was not finite, the last is step 5 (seed 0); "
        "the state before them is saved; lower learning_rate, or look at what those steps read: "
        f"{run}/metrics.jsonl lists it, `gato-lite inspect {origin} --row {rows[0]}` shows it"
    )
    assert error == expected
    assert all(torch.isfinite(tensor).all() for tensor in load_checkpoint(run).model.values())
    for stored, numbers in told[0]["rows"].items():
        assert commands.run(tmp_path / "shown", ["inspect", stored, "--row", str(numbers[-1])]) == 0


def memory_of(pid: int) -> int:
    """Bytes of address space that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def test_a_machine_without_memory(commands: Commands, data: Path, tmp_path: Path) -> None:
    """The run is taken its memory while it trains."""
    run = tmp_path / "run"
    pid = commands.start(tmp_path / "log", training(run, data, 4, recipe="fault-large"))
    limit = memory_of(commands.process.pid) + 220_000_000
    wait_until(lambda: newest(run) >= 1, pid)
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
    assert commands.wait(pid) == 1
    step = newest(run)
    error = (tmp_path / "log").read_text().splitlines()[-1]
    expected = (
        rf"gato-lite: error: step {step} ran out of memory with 30,\d\d\d tokens at once \(--accumulate 1\); "
        rf"the checkpoint of step {step} is whole; the same command with --resume --accumulate 2 goes on with "
        r"15,\d\d\d at once and the same result, a smaller --preset needs less for its weights"
    )
    assert re.fullmatch(expected, error), error
    assert load_checkpoint(run).step == step
    assert not list((run / "checkpoints").glob(".step_*"))


def ranks_of(commands: Commands, log: Path, words: list[str], size: int) -> list[int]:
    """Exit codes of the ranks of one command, started as `torchrun` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    pids = [commands.start(log, words, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(size)]
    return [commands.wait(pid) for pid in pids]


def assert_close(run: Path, whole: Path) -> None:
    """The same losses and weights up to rounding."""
    losses = [[line["loss"] for line in metrics(path)] for path in (run, whole)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    expected = load_checkpoint(whole).model
    for name, tensor in load_checkpoint(run).model.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-3, rtol=0)


def test_ranks_train_one_model(commands: Commands, data: Path, tmp_path: Path) -> None:
    assert commands.run(tmp_path / "log", training(tmp_path / "alone", data, 20)) == 0
    assert ranks_of(commands, tmp_path / "log", training(tmp_path / "two", data, 20), 2) == [0, 0]
    assert_close(tmp_path / "two", tmp_path / "alone")
    assert [line["step"] for line in metrics(tmp_path / "two")] == list(range(1, 21))


@pytest.mark.long
def test_torchrun_trains_one_model(commands: Commands, data: Path, tmp_path: Path) -> None:
    assert commands.run(tmp_path / "log", training(tmp_path / "alone", data, 20)) == 0
    words = training(tmp_path / "two", data, 20, "--accumulate", "2")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, str(CHILD), *words], check=True, timeout=300)
    assert_close(tmp_path / "two", tmp_path / "alone")


@pytest.mark.long
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_demo_that_is_told_to_stop_saves(number: int, code: int, commands: Commands, tmp_path: Path) -> None:
    """With one task in place of 21."""
    out = tmp_path / "demo"
    words = ["demo", "--out", str(out), "--minutes", "2"]
    pid = commands.start(tmp_path / "log", words, GATO_LITE_FAULT_DEMO="1")
    wait_until((out / "run" / "metrics.jsonl").is_file, pid)
    os.kill(pid, number)
    assert commands.wait(pid) == code
    assert f"stopped; the model so far is saved in {out / 'run'}" in (tmp_path / "log").read_text()
    assert newest(out / "run") >= 1
    assert verify(out / "run").problems == ()
