"""The two processes that live as long as the soak: one trains, one evaluates and acts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from soak_child import TASKS
from soak_process import Watch, run, start

FIRST_CHECKPOINT_S = 1800.0
"""Longest wait for it."""


class LongLived:
    """Starts both, tells how far they are, and ends them; one that ended too early is counted and started again.

    Args:
        folder: for their data and run.
        watch: samples their memory.
        seconds: how long they are to live.
    """

    def __init__(self, folder: Path, watch: Watch, seconds: float) -> None:
        self.problems: list[str] = []
        self.ended: dict[str, Any] = {}  # Any: JSON
        """How both ended, once they have."""
        self._folder = folder
        self._run = folder / "run"
        self._watch = watch
        self._end = time.monotonic() + seconds
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        data = str(self._folder / "data")
        ended = run(["record", *TASKS, "--episodes", "200", "--out", data], self._folder / "record.txt")
        if ended.code:
            raise RuntimeError(f"record ended with {ended.code}: {ended.text}")
        self._begin("trainer")
        waited = time.monotonic() + FIRST_CHECKPOINT_S
        while not any(self._run.glob("checkpoints/step_*/manifest.json")):
            if time.monotonic() > waited or self._children["trainer"].poll() is not None:
                raise RuntimeError(f"no checkpoint: {(self._folder / 'trainer.txt').read_text('utf-8')}")
            time.sleep(0.5)
        self._begin("actor")
        return self

    def _begin(self, name: str) -> None:
        train = ["cli", "train", "soak-long", "--data", str(self._folder / "data"), "emoji", "text"]
        words = {
            "trainer": [*train, "--steps", "100000000", "--resume", "--out", str(self._run)],
            "actor": ["act", str(self._run), str(self._folder), str(self._end - time.monotonic())],
        }
        self._children[name] = start(words[name], self._folder / f"{name}.txt")
        self._watch.pids[name] = self._children[name].pid

    def look(self) -> dict[str, Any]:  # Any: JSON
        """How far both are, and what went wrong so far."""
        for name, child in self._children.items():
            code = child.poll()
            if code is not None and time.monotonic() < self._end - 60:
                log = (self._folder / f"{name}.txt").read_text("utf-8", errors="replace")
                self.problems.append(f"{name} ended with {code}: {log[-1000:]}")
                self._begin(name)
        return {**self._progress(), "problems": self.problems}

    def _progress(self) -> dict[str, Any]:  # Any: JSON
        return {
            "trainer": _last(self._run / "metrics.jsonl").get("step", 0),
            "actor": _last(self._folder / "acted.jsonl"),
        }

    def __exit__(self, *_: object) -> None:
        codes = {}
        for name, child in self._children.items():
            if child.poll() is None:
                os.kill(child.pid, signal.SIGTERM)
            codes[name] = child.wait(1800)
        verified = run(["verify", str(self._run)], self._folder / "verify.txt")
        self.ended = {
            **self._progress(),
            "exit_codes": codes,
            "verify": verified.code,
            "steps_missing_in_metrics": _missing(self._run / "metrics.jsonl"),
            "problems": self.problems,
        }


def _last(file: Path) -> dict[str, Any]:
    """The last whole line of a file of JSON objects."""
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    for line in reversed(lines):
        try:
            return dict(json.loads(line))
        except ValueError:
            continue
    return {}


def _missing(metrics: Path, every: int = 50) -> int:
    """How many of the steps that are logged are not there, or twice."""
    steps = [line["step"] for line in map(json.loads, metrics.read_text("utf-8").splitlines()) if "loss" in line]
    return len(set(range(every, max(steps, default=0) + 1, every)) ^ set(steps)) + len(steps) - len(set(steps))
