"""Child processes that are started, killed, waited for and measured, on Linux."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

CHILD = Path(__file__).with_name("soak_child.py")
TIME_LIMIT_S = 1800.0
"""After which a child counts as hung; on a busy machine one at low priority may wait for minutes."""
ORPHANS_S = 120.0
"""Time that a killed command's own workers have to end."""


@dataclass(frozen=True)
class Kill:
    """A signal, and the moment in seconds after the start at which it is sent."""

    number: signal.Signals
    after_s: float


@dataclass(frozen=True)
class Ended:
    """How one child ended."""

    code: int
    """Exit code; minus the number of the signal that ended it."""
    seconds: float
    killed: str | None
    """Name of the signal that was sent before it ended."""
    peak_mb: float
    """Largest resident memory of the child, or of a worker that it waited for."""
    hung: bool
    orphans: int
    """Its workers that were alive long after it."""
    text: str
    """Last lines of standard output and error."""


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A child in a session of its own, everything that it prints in `log`."""
    with log.open("wb") as file:
        command = [sys.executable, str(CHILD), *words]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def run(words: list[str], log: Path, kill: Kill | None = None) -> Ended:
    """Runs `gato-lite` with `words` and waits for its end; Ctrl-C goes to its workers too, as in a terminal."""
    process = start(["cli", *words], log)
    began = time.monotonic()
    killed: str | None = None
    hung = False
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            seconds = time.monotonic() - began
            if kill is not None and killed is None and seconds >= kill.after_s:
                killed = kill.number.name
                (os.killpg if kill.number is signal.SIGINT else os.kill)(process.pid, kill.number)
            if seconds > TIME_LIMIT_S and not hung:
                hung = True
                process.kill()
            time.sleep(0.02)
    except BaseException:  # whoever stops the soak stops its children
        process.kill()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(
        code=process.returncode,
        seconds=time.monotonic() - began,
        killed=killed,
        peak_mb=usage.ru_maxrss / 1024,
        hung=hung,
        orphans=_end_orphans(process.pid),
        text=log.read_text("utf-8", errors="replace")[-2000:],
    )


def _end_orphans(session: int) -> int:
    """How many processes of a session are left after a while; they are killed."""
    end = time.monotonic() + ORPHANS_S
    while left := _members(session):
        if time.monotonic() > end:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return len(left)
        time.sleep(0.1)
    return 0


def _members(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text("utf-8").rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def memory(pid: int) -> dict[str, float] | None:
    """Resident, anonymous and swapped-out memory of a process in MB; None once it is gone."""
    names = {"VmRSS": "resident", "RssAnon": "anonymous", "VmSwap": "swapped"}
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return None
    pairs = (line.split(":") for line in lines)
    found = {names[key]: int(value.split()[0]) / 1024 for key, value in pairs if key in names}
    return found or None


class Watch:
    """Samples the memory of processes every ten seconds into a file, from a thread of its own."""

    EVERY_S = 10.0

    def __init__(self, file: Path) -> None:
        self.pids: dict[str, int] = {"soak": os.getpid()}
        """What is sampled, by name."""
        self._file = file
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stop.wait(self.EVERY_S):
            now = round(time.monotonic() - self._began, 1)
            for name, pid in list(self.pids.items()):
                if found := memory(pid):
                    line = {"t": now, "name": name, "pid": pid, **{key: round(mb, 2) for key, mb in found.items()}}
                    with self._file.open("a", encoding="utf-8") as out:
                        out.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()
