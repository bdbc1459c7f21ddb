"""A stage in a process of its own, so that no environment can take down, or hold up, the one that asks it.

One message carries the actions of all slots and one brings all answers, so a step costs one exchange however many
environments there are. Before the process enters an environment it notes slot, call and time in shared memory. When it
dies or a call exceeds its limit, that note says whose fault it was: the episode is given up and the process started
anew. Other episodes that were under way are played again from their seeds and actions, once they are asked to go on.
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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from gato_lite.envs.catalogue import find_tasks
from gato_lite.envs.stage import CALLS, Answer, Begin, Broken, Replay, Seen, Stage, Step, Turn, told
from gato_lite.spaces import AnySpace, Json, space_from_json, space_to_json

START_LIMIT_S: Final = 120.0
"""Longest silence while no environment is being called: starting up, sending and receiving."""
MOST_LOST: Final = 8
"""Episodes by which the process may be lost before a task is given up of which no more came to their end."""
MOST_RESTARTS: Final = 5
"""Times in a row that the process may end while no environment is being called."""
_NOTE: Final = struct.Struct("qqd")
"""Slot (-1: none), call and time.monotonic() of its beginning."""
_Packed = tuple[Any, ...]  # Any: the reason of a `Broken`, or the fields of a `Seen`
_Asked = Begin | Replay | tuple[Any]  # Any: an action
_CHILD: Final = "import sys; from gato_lite.envs.hosted import serve; serve(*map(int, sys.argv[1:]))"


@dataclass
class _Log:
    """An episode so far, as it can be played again."""

    begin: Begin
    actions: list[Any] = field(default_factory=list)
    total_reward: float = 0.0


class HostedStage:
    """As `Stage`, whatever the environments do.

    Args:
        names: of the tasks, as `find_tasks` knows them.
        evaluation: whether environments are of the evaluation kind.
        limit_s: longest time for one call of an environment, in seconds.
    """

    def __init__(self, names: Sequence[str], *, evaluation: bool, limit_s: float) -> None:
        self._setting = (list(names), evaluation)
        self._limit_s = limit_s
        self._logs: dict[int, _Log] = {}
        self._present: set[int] = set()
        """Slots whose episode the process has; one that it lost is played again when it is asked to go on."""
        self._spaces: dict[str, tuple[tuple[Json, Json], tuple[AnySpace, AnySpace]]] = {}
        """By task, as they were sent and as they are."""
        self._n_restarts = 0
        self._n_lost: Counter[str] = Counter()
        self._n_ended: Counter[str] = Counter()
        """Episodes by task that the process was lost by, and that came to their end."""
        with tempfile.TemporaryFile() as file:
            file.write(bytes(_NOTE.size))
            file.flush()
            self._note_file = os.dup(file.fileno())
        self._note = mmap.mmap(self._note_file, _NOTE.size)
        self._start()

    def take(self, turns: Mapping[int, Turn]) -> dict[int, Answer]:
        """Each slot's turn, and what its environment answers.

        Raises:
            RuntimeError: the process ends again and again while no environment is being called.
        """
        for slot, turn in turns.items():
            if isinstance(turn, Begin):
                self._logs[slot] = _Log(turn)
            elif isinstance(turn, Step):
                self._logs[slot].actions.append(turn.action)
        found: dict[int, Answer] = {}
        waiting = dict(turns)
        while waiting:
            for slot in [slot for slot in waiting if self._is_hopeless(self._logs[slot].begin.task)]:
                found[slot] = self._given_up(slot)
                del waiting[slot]
            if not waiting:
                break
            asked = {slot: self._asked(slot, turn) for slot, turn in waiting.items()}
            try:
                answers = self._exchange(asked)
            except _LostError as lost:
                self._restart(lost)
                if lost.slot >= 0:
                    found[lost.slot] = self._blame(lost)
                    del waiting[lost.slot]
                continue
            self._n_restarts = 0
            found.update({slot: self._received(slot, packed) for slot, packed in answers.items()})
            break
        return {slot: found[slot] for slot in turns}

    def close(self) -> None:
        """Ends the process; one that does not close its environments within seconds is killed."""
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(min(self._limit_s, 5.0))
        self._kill()
        self._note.close()
        os.close(self._note_file)

    # -- asking

    def _asked(self, slot: int, turn: Turn) -> _Asked:
        """The turn, or its action alone, with all that came before it where the process has lost that."""
        if isinstance(turn, Step) and slot in self._present:
            return (turn.action,)
        log = self._logs[slot]
        return turn if isinstance(turn, Begin) else Replay(log.begin, log.actions, log.total_reward)

    def _exchange(self, turns: Mapping[int, _Asked]) -> dict[int, _Packed]:
        self._write_note(-1, 0)
        try:
            self._connection.send_bytes(pickle.dumps(turns))
            while not self._connection.poll(min(1.0, self._limit_s / 4)):
                slot, call, since = _NOTE.unpack(self._note[:])
                limit_s = START_LIMIT_S if slot < 0 else self._limit_s
                if time.monotonic() - since > limit_s:
                    raise _LostError(slot, call, f"took longer than {limit_s:g} s")
                if self._process.poll() is not None and not self._connection.poll():
                    raise EOFError
            answers: dict[int, _Packed] = self._connection.recv()
        except (EOFError, ConnectionError):
            slot, call, _ = _NOTE.unpack(self._note[:])
            raise _LostError(slot, call, f"ended its process ({self._ending()})") from None
        return answers

    def _received(self, slot: int, packed: _Packed) -> Answer:
        """Notes what an episode needs to be played again."""
        if len(packed) == 1:
            self._present.discard(slot)
            return Broken(why=packed[0])
        observation, action_mask, reward, terminated, truncated, success, stored = packed
        self._present.add(slot)
        log = self._logs[slot]
        spaces = None if stored is None else self._read_spaces(log.begin.task, stored)
        log.total_reward += reward
        if terminated or truncated:
            self._n_ended[log.begin.task] += 1
        return Seen(observation, action_mask, reward, terminated, truncated, success, spaces)

    def _read_spaces(self, task: str, stored: tuple[Json, Json]) -> tuple[AnySpace, AnySpace]:
        known = self._spaces.get(task)
        if known is None or known[0] != stored:
            known = stored, (space_from_json(stored[0]), space_from_json(stored[1]))
            self._spaces[task] = known
        return known[1]

    def _blame(self, lost: _LostError) -> Broken:
        log = self._logs[lost.slot]
        self._n_lost[log.begin.task] += 1
        call = CALLS[lost.call] + (f" {len(log.actions)}" if CALLS[lost.call] == "step" else "")
        return Broken(why=f"{call} {lost.what}")

    def _is_hopeless(self, task: str) -> bool:
        return self._n_lost[task] >= MOST_LOST and self._n_lost[task] > self._n_ended[task]

    def _given_up(self, slot: int) -> Broken:
        task = self._logs[slot].begin.task
        return Broken(
            why=f"given up: {self._n_lost[task]} episodes of the task ended or held up their process, and only "
            f"{self._n_ended[task]} came to their end"
        )

    # -- the process

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(theirs.fileno()), str(self._note_file)],
                pass_fds=(theirs.fileno(), self._note_file),
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # so that it can be killed with whatever it started
            )
        self._connection = Connection(ours.detach())
        self._connection.send(self._setting)

    def _restart(self, lost: _LostError) -> None:
        self._n_restarts = self._n_restarts + 1 if lost.slot < 0 else 0
        self._connection.close()
        self._kill()
        if self._n_restarts > MOST_RESTARTS:
            raise RuntimeError(
                f"the process of the environments {lost.what}, {self._n_restarts} times in a row while none of them "
                "was being called; look at what it wrote above, and at the memory that is left"
            )
        self._present.clear()
        self._start()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _ending(self) -> str:
        """How the process ended, in words."""
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _write_note(self, slot: int, call: int) -> None:
        _NOTE.pack_into(self._note, 0, slot, call, time.monotonic())


class _LostError(Exception):
    """The process is of no use any more."""

    def __init__(self, slot: int, call: int, what: str) -> None:
        super().__init__(what)
        self.slot, self.call, self.what = slot, call, what


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
        _NOTE.pack_into(note, 0, slot, call, time.monotonic())

    with contextlib.suppress(EOFError, ConnectionError):
        names, evaluation = connection.recv()
        with contextlib.closing(Stage({task.name: task for task in find_tasks(names)}, evaluation, write)) as stage:
            while True:
                asked: dict[int, _Asked] = connection.recv()
                answers = stage.take(
                    {slot: Step(*turn) if isinstance(turn, tuple) else turn for slot, turn in asked.items()}
                )
                write(-1, 0)
                connection.send_bytes(_message(answers))


def _message(answers: Mapping[int, Answer]) -> bytes:
    """All answers; in place of one that cannot be sent, what is wrong with it."""
    try:
        return pickle.dumps({slot: _packed(answer) for slot, answer in answers.items()})
    except Exception as error:  # noqa: BLE001 - whatever an environment's own classes raise
        if len(answers) == 1:
            broken: Answer = Broken(why=f"answered with what cannot be sent: {told(error)}")
            return pickle.dumps(dict.fromkeys(answers, _packed(broken)))
    parts = [pickle.loads(_message({slot: answer})) for slot, answer in answers.items()]  # noqa: S301 - made just here
    return pickle.dumps({slot: packed for part in parts for slot, packed in part.items()})


def _packed(answer: Answer) -> _Packed:
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
