"""Writing into a dataset folder so that nothing half-written is ever taken for whole.

Every file is written under a temporary name, forced to disk and renamed. While a process writes, a lock file names it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from gato_lite.envs.format import INFO_FILE, PART_NAME, DatasetError, read_info

_TEMPORARY_NAME: Final = re.compile(rf"\.({PART_NAME.pattern}|{re.escape(INFO_FILE)})\.[0-9]+\.tmp")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` when the block ends well and is removed when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Force the names in a folder to disk."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def claim(out: Path, *, overwrite: bool) -> None:
    """Make `out` a folder to write a new dataset into.

    Raises:
        FileExistsError: it holds something already, and `overwrite` is off or what it holds is no dataset.
    """
    out.mkdir(parents=True, exist_ok=True)
    present = [file for file in out.iterdir() if file.name != FolderLock.NAME]
    if not present:
        return
    ours = [file for file in present if is_ours(file)]
    if len(ours) != len(present):
        other = next(file.name for file in present if not is_ours(file))
        raise FileExistsError(f"{out}: expected an empty folder or a dataset, found {other!r}; name another folder")
    if (out / INFO_FILE).exists() and not any(PART_NAME.fullmatch(file.name) for file in present):
        try:
            read_info(out)
        except DatasetError as error:
            raise FileExistsError(
                f"{out}: expected an empty folder or a dataset, found another {INFO_FILE!r}; name another folder"
            ) from error
    if not overwrite:
        raise FileExistsError(f"{out}: already holds a dataset; pass overwrite=True (--overwrite) to replace it")
    clear(out)


def clear(out: Path) -> None:
    """Remove a dataset's files from `out`, but for the lock."""
    (out / INFO_FILE).unlink(missing_ok=True)  # first, so that what is left is never taken for whole
    for file in out.iterdir():
        if is_ours(file) and file.name != FolderLock.NAME:
            file.unlink(missing_ok=True)
    sync_folder(out)


def is_ours(file: Path) -> bool:
    """Whether `file` has a name that a dataset's files have."""
    named = file.name in {INFO_FILE, FolderLock.NAME} or PART_NAME.fullmatch(file.name) is not None
    return named or _TEMPORARY_NAME.fullmatch(file.name) is not None


class FolderLock:
    """While it is held, `path` is written by this process alone; the lock file says who holds it.

    A lock whose process has ended on this host is stale and is taken over.

    Raises:
        BlockingIOError: another process writes into the folder.
    """

    NAME = ".lock"

    def __init__(self, path: Path) -> None:
        self.file = path / self.NAME

    def __enter__(self) -> Self:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(3):
            try:
                descriptor = os.open(self.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                self._remove_if_stale()
                continue
            with os.fdopen(descriptor, "w") as file:
                json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
            return self
        raise BlockingIOError(f"{self.file}: another process takes this lock again and again; wait for it to end")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.unlink(missing_ok=True)

    def _remove_if_stale(self) -> None:
        try:
            owner: Any = json.loads(self.file.read_text())  # Any: checked below
            pid, host = int(owner["pid"]), str(owner["host"])
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError):
            pid, host = 0, "unknown"
        if host == socket.gethostname() and not _runs(pid):
            self.file.unlink(missing_ok=True)
            return
        raise BlockingIOError(
            f"{self.file.parent}: process {pid} on host {host} is writing into it;"
            f" wait for it to end, or delete {self.file} if it has"
        )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
