"""Files that are whole or not there: written under another name beside them, forced to disk, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_TEMPORARY_NAME: Final = re.compile(r"\.(.+)\.(?:[0-9]+\.tmp|partial)")  # the second is what version 0.1 wrote


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` when the block ends well and is removed when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def final_name(name: str) -> str:
    """What a file of this name was to be called, if a kill left it behind; else its name."""
    match = _TEMPORARY_NAME.fullmatch(name)
    return name if match is None else match[1]


def sync(path: Path) -> None:
    """Forces a file, or the names in a folder, to disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return  # Windows has no such call for folders, and for files takes only what can be written
    handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
