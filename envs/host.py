"""One process that environments are in, and how it is asked, watched and ended.

One message carries the actions of many slots, and their answers come back in one too. Where a core is idle they may
come in two halves: then a model acts for the first while the second is being stepped, and the halves take turns.
Before the process enters an environment it notes slot, call and time in shared memory. When
it dies or a call exceeds its limit, that note says whose fault it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from gato_lite.envs.catalogue import find_tasks
from gato_lite.envs.stage import Answer, Begin, Broken, Replay, Stage, Step, told
from gato_lite.spaces import space_to_json

PATIENCE_S: Final = 0.005
"""Time within which answers are waited for, and after which half of them may be sent though others are to come."""
START_LIMIT_S: Final = 120.0
"""Longest silence while no environment is being called: starting up, sending and receiving."""
MOST_RESTARTS: Final = 5
"""Times in a row that the process may end while no environment is being called."""
_NOTE: Final = struct.Struct("qqd")
"""Slot (-1: none), call and time.monotonic() of its beginning."""
_CHILD: Final = "import sys; from gato_lite.envs.host import serve; serve(*map(int, sys.argv[1:]))"

Packed = tuple[Any, ...]  # Any: the reason of a `Broken`, or the fields of a `Seen`
"""An answer as it is sent."""
Asked = Begin | Replay | tuple[Any]  # Any: an action
"""A turn as it is sent."""


def write_note(note: mmap.mmap, slot: int, call: int) -> None:
    """Notes that a call begins now, where another process may be reading.

    `pack_into` would set all of it to zero first: who read just then saw a call that began when the machine did.
    """
    note[:] = _NOTE.pack(slot, call, time.monotonic())


class LostError(Exception):
    """The process is of no use any more."""

    def __init__(self, slot: int, call: int, what: str) -> None:
        super().__init__(what)
        self.slot, self.call, self.what = slot, call, what


class Host:
    """The process, from outside.

    Args:
        names: of the tasks, as `find_tasks` knows them.
        evaluation: whether environments are of the evaluation kind.
        limit_s: longest time for one call of an environment, in seconds.
        halves: whether half of the answers may come before the others.
    """

    def __init__(self, names: Sequence[str], *, evaluation: bool, limit_s: float, halves: bool) -> None:
        self._setting = (list(names), evaluation, halves)
        self._limit_s = limit_s
        self._n_restarts = 0
        self.asked: set[int] = set()
        """Slots whose answers are still to come; only where there are none may it be asked."""
        self.present: set[int] = set()
        """Slots whose episode the process has."""
        self.spoiled: set[int] = set()
        """Slots whose environment in the process is not to be used again."""
        self._sent_at = 0.0
        with tempfile.TemporaryFile() as file:
            file.write(_NOTE.pack(-1, 0, time.monotonic()))
            file.flush()
            self._note_file = os.dup(file.fileno())
        self._note = mmap.mmap(self._note_file, _NOTE.size)
        self._start()

    @property
    def patience_s(self) -> float:
        """Seconds for which its answers are still worth waiting for; 0 where none are to come."""
        return max(0.0, self._sent_at + PATIENCE_S - time.monotonic()) if self.asked else 0.0

    def send(self, turns: Mapping[int, Asked]) -> None:
        """Asks it, which must be waiting to be asked.

        Raises:
            LostError: it has ended.
        """
        assert not self.asked
        write_note(self._note, -1, 0)
        self.asked = set(turns)
        self._sent_at = time.monotonic()
        try:
            self.connection.send_bytes(pickle.dumps(turns))
        except (EOFError, ConnectionError):
            raise self._ended() from None

    def receive(self) -> dict[int, tuple[Packed, float]]:
        """Answers that have come, each with the seconds that its environment's last call took; waits for one message.

        Raises:
            LostError: it has ended.
        """
        try:
            answers: dict[int, tuple[Packed, float]] = self.connection.recv()
        except (EOFError, ConnectionError):
            raise self._ended() from None
        self.asked.difference_update(answers)
        self._n_restarts = 0
        return answers

    def watch(self) -> None:
        """Looks whether it is alive and within its limit, where nothing has come.

        Raises:
            LostError: it is not.
        """
        slot, call, since = _NOTE.unpack(self._note[:])
        limit_s = START_LIMIT_S if slot < 0 else self._limit_s
        is_over = time.monotonic() - since > limit_s
        is_gone = self.process.poll() is not None
        if not self.connection.poll():
            if is_over:
                raise LostError(slot, call, f"took longer than {limit_s:g} s")
            if is_gone:
                raise self._ended()

    def restart(self, lost: LostError) -> None:
        """A new process in place of the one that was lost; it has no episodes.

        Raises:
            RuntimeError: it is lost again and again while no environment is being called.
        """
        self._n_restarts = self._n_restarts + 1 if lost.slot < 0 else 0
        self.connection.close()
        self._kill()
        if self._n_restarts > MOST_RESTARTS:
            raise RuntimeError(
                f"the process of the environments {lost.what}, {self._n_restarts} times in a row while none of them "
                "was being called; look at what it wrote above, and at the memory that is left"
            )
        for slots in (self.asked, self.present, self.spoiled):
            slots.clear()
        self._start()

    def close(self) -> None:
        """Ends it; one that does not close its environments within seconds is killed."""
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(min(self._limit_s, 5.0))
        self._kill()
        self._note.close()
        os.close(self._note_file)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(theirs.fileno()), str(self._note_file)],
                pass_fds=(theirs.fileno(), self._note_file),
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # so that it can be killed with whatever it started
            )
        self.connection = Connection(ours.detach())
        self.connection.send(self._setting)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _ended(self) -> LostError:
        slot, call, _ = _NOTE.unpack(self._note[:])
        return LostError(slot, call, f"ended its process ({self._ending()})")

    def _ending(self) -> str:
        """How the process ended, in words."""
        try:
            code = self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


# -- in the process


def serve(connection_file: int, note_file: int) -> None:
    """Answers until the other end is closed.

    Args:
        connection_file: descriptor of the socket that turns come by.
        note_file: descriptor of the shared memory.
    """
    os.dup2(2, 1)  # what environments print is no part of anybody's answer
    _die_with_parent()
    for file in (connection_file, note_file):
        os.set_inheritable(file, False)
    connection = Connection(connection_file)
    note = mmap.mmap(note_file, _NOTE.size)

    def write(slot: int, call: int) -> None:
        write_note(note, slot, call)

    def since() -> float:
        began: float = _NOTE.unpack(note[:])[2]
        return began

    with contextlib.suppress(EOFError, ConnectionError):
        names, evaluation, halves = connection.recv()
        with contextlib.closing(Stage({task.name: task for task in find_tasks(names)}, evaluation, write)) as stage:
            while True:
                _answer(stage, connection, write, since, halves=halves)


def _answer(
    stage: Stage,
    connection: Connection,
    write: Callable[[int, int], None],
    since: Callable[[], float],
    *,
    halves: bool,
) -> None:
    """Takes the turns of one message; `since` tells when the last call of an environment began."""
    asked: dict[int, Asked] = connection.recv()
    found: dict[int, tuple[Answer, float]] = {}
    came_at = time.monotonic()
    for place, (slot, turn) in enumerate(asked.items(), 1):
        answer = stage.take({slot: Step(*turn) if isinstance(turn, tuple) else turn})[slot]
        now = time.monotonic()
        found[slot] = answer, now - since()
        is_half = place == len(asked) // 2 and now - came_at > PATIENCE_S
        if (is_half and halves and 3 * len(asked) > 2 * stage.n_running) or place == len(asked):
            write(-1, 0)
            connection.send_bytes(_message(found))
            found = {}


def _message(answers: Mapping[int, tuple[Answer, float]]) -> bytes:
    """All answers; in place of one that cannot be sent, what is wrong with it."""
    try:
        return pickle.dumps({slot: (_packed(answer), seconds) for slot, (answer, seconds) in answers.items()})
    except Exception as error:  # noqa: BLE001 - whatever an environment's own classes raise
        if len(answers) == 1:
            broken: Answer = Broken(why=f"answered with what cannot be sent: {told(error)}")
            return pickle.dumps(dict.fromkeys(answers, (_packed(broken), 0.0)))
    parts = [pickle.loads(_message({slot: answer})) for slot, answer in answers.items()]  # noqa: S301 - made just here
    return pickle.dumps({slot: packed for part in parts for slot, packed in part.items()})


def _packed(answer: Answer) -> Packed:
    """An answer as what is quick to send; spaces as JSON, since some of an environment's own cannot be sent."""
    if isinstance(answer, Broken):
        return (answer.why,)
    stored = None
    if answer.spaces is not None:
        stored = space_to_json(answer.spaces[0]), space_to_json(answer.spaces[1])
    return (
        answer.observation,
        answer.action_mask,
        answer.reward,
        answer.terminated,
        answer.truncated,
        answer.success,
        stored,
    )


def _die_with_parent() -> None:
    """Asks the system to end this process with its parent; a hung one would not see its connection closed."""
    with contextlib.suppress(OSError, AttributeError):  # what only Linux has
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
