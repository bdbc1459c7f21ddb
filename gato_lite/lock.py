"""One writer in a folder at a time; the others are told who it is.

The lock is the system's own (`flock`) on the folder's `.lock` file, so it ends with its process, however that ends, and
no number of a process is ever guessed from. The file says who holds it: process, host, since when. Decisions:

- A file that nobody holds and whose owner was on this host is stale: it is taken over.
- Whether an owner on another host still runs cannot be seen from here, since not every network file system carries
  locks from host to host: the error says which file to delete once it has ended. So it is where a file system or
  Windows has no such locks at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

if sys.platform != "win32":
    import fcntl

_ATTEMPTS: Final = 100
"""Tries, each lost only where the last owner removed its file within a moment."""


class Owner(NamedTuple):
    """Who holds a lock."""

    pid: int
    host: str
    since: str
    """When it was taken: date and time in UTC."""


class FolderLock:
    """While it is held, `path` is written by this process alone.

    Args:
        path: The folder; it is made.

    Raises:
        BlockingIOError: another writer holds it, or may hold it on another host; the message says who and what to do.
    """

    NAME = ".lock"

    def __init__(self, path: Path) -> None:
        self.file = path / self.NAME
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # a link might lead anywhere
            descriptor = os.open(self.file, flags, 0o644)
            try:
                if self._take(descriptor):
                    self._descriptor = descriptor
                    return self
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        raise BlockingIOError(f"{self.file}: other processes take this lock again and again; wait for them to end")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is None:
            return
        os.ftruncate(self._descriptor, 0)
        with contextlib.suppress(OSError):  # Windows removes no open file; an empty one is nobody's
            self.file.unlink(missing_ok=True)  # before it is let go, so that nobody takes a file that is then removed
        os.close(self._descriptor)
        self._descriptor = None

    def _take(self, descriptor: int) -> bool:
        """Whether the open lock file is ours now; not if its last owner has just removed it."""
        try:
            knows_locks = _lock(descriptor)
        except BlockingIOError:
            raise BlockingIOError(self._held_by(_read_owner(descriptor))) from None
        try:
            if not os.path.samestat(os.fstat(descriptor), self.file.stat()):
                return False
        except FileNotFoundError:
            return False
        owner = _read_owner(descriptor)
        if owner is not None and (owner.host != socket.gethostname() or not knows_locks):
            raise BlockingIOError(self._held_by(owner, may_have_ended=True))
        mine = Owner(os.getpid(), socket.gethostname(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(mine._asdict()).encode())
        return True

    def _held_by(self, owner: Owner | None, *, may_have_ended: bool = False) -> str:
        folder = self.file.parent
        if owner is None:
            return f"{folder}: another process has begun to write into it; wait for it to end, or name another folder"
        who = f"{folder}: process {owner.pid} on host {owner.host} has been writing into it since {owner.since}"
        if may_have_ended:
            return f"{who}; wait for it to end, or, if it has, delete {self.file}"
        if owner.host != socket.gethostname():
            return f"{who}; wait for it to end, or name another folder"
        if owner.pid == os.getpid():
            return f"{who}, which is this process; close that writer first, or name another folder"
        return f"{who}; wait for it to end, end it (kill {owner.pid}), or name another folder"


def _lock(descriptor: int) -> bool:
    """Locks the open file; False where the file system has no locks.

    Raises:
        BlockingIOError: another one holds it.
    """
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _read_owner(descriptor: int) -> Owner | None:
    """What the lock file says; None where it is empty, since its writer was killed in its first moment.

    Another text is an owner that is not known.
    """
    os.lseek(descriptor, 0, os.SEEK_SET)
    data = os.read(descriptor, 4096)
    if not data:
        return None
    try:
        stored: Any = json.loads(data)  # Any: checked here
        return Owner(int(stored["pid"]), str(stored["host"]), str(stored.get("since", "a time unknown")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Owner(0, "unknown", "a time unknown")
