"""The files to import: those of a folder, of tars or of a zip, read one at a time and never extracted.

Decisions:

- An archive is judged whole before any of it is read. A member that is absolute, leads out by `..`, is a link, a device
  or a sparse file, or has the name of another one: the archive is refused, whatever `on_bad` says.
- A file of more than 256 MiB is not read, and a header that claims one is not believed.
- Folders' files are held to the folder: a link that leads out of it is not followed.
- A folder around everything in an archive does not count: `tar cf x.tar x` and `cd x; tar cf ../x.tar *` are the same.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, Protocol, TypeVar

from gato_lite.train.pictures import MAX_BYTES

Member = TypeVar("Member")

TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")
"""Names of tars that are read; WebDataset's are plain."""
_BLOCK: Final = 512
"""Bytes of a tar's block; one of zeros ends it."""
_CHUNK: Final = 2**20


class Files(Protocol):
    """Files by name, in a fixed order."""

    path: Path
    """Where they are, for messages."""
    names: Sequence[str]
    """Their names, the parts joined by "/"."""

    def read(self, name: str) -> bytes:
        """The content of one.

        Raises:
            ValueError: there is none of this name, or it cannot be read.
            OSError: it cannot be read.
        """
        ...


class Folder:
    """The files in a folder, at any depth, or some of them."""

    def __init__(self, path: Path, names: Sequence[str] | None = None) -> None:
        self.path = path
        found = sorted(path.rglob("*")) if names is None else []
        self.names: Sequence[str] = names or [str(file.relative_to(path)) for file in found if file.is_file()]
        self._root = path.resolve()

    def read(self, name: str) -> bytes:
        """As `Files.read`."""
        file = self.path / name
        if not file.resolve().is_relative_to(self._root):
            raise ValueError(f"{file}: expected a file within {self.path}, found a link to {file.resolve()}")
        if (size := file.stat().st_size) > MAX_BYTES:
            raise ValueError(_too_large(str(file), size))
        return file.read_bytes()


class Tar:
    """The members of a tar, plain or compressed by gzip."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        self.path = path
        with path.open("rb") as file:
            opened: IO[bytes] = gzip.open(path) if file.read(2) == b"\x1f\x8b" else path.open("rb")  # type: ignore[assignment]  # noqa: SIM115
        self._file: Any = _Bounded(stack.enter_context(opened))  # Any: as much of a file as tarfile needs
        try:
            members = dict(_unique(path, self._members()))
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: expected a whole tar, found damage: {error}") from error
        self._places = _without_top(members)
        self.names: Sequence[str] = list(self._places)

    def read(self, name: str) -> bytes:
        """As `Files.read`."""
        if name not in self._places:
            raise ValueError(f"{self.path}: expected a member {name!r}, found none")
        start, size = self._places[name]
        if size > MAX_BYTES:
            raise ValueError(_too_large(f"{self.path}/{name}", size))
        try:
            self._file.seek(start)
            data: bytes = self._file.read(size)
        except (EOFError, zlib.error, OSError) as error:
            raise ValueError(f"{self.path}/{name}: expected {size} bytes, found damage: {error}") from error
        if len(data) != size:
            raise ValueError(f"{self.path}/{name}: expected {size} bytes, found {len(data)}")
        return data

    def _members(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Name, first byte and size of every file; the archive is read to its end."""
        with tarfile.open(fileobj=self._file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # a million of them would take gigabytes
                name = _safe(self.path, member.name)
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    kind = f"a link to {member.linkname!r}" if member.linkname else "a device or a sparse file"
                    raise ValueError(f"{self.path}: expected files alone, found {member.name!r}, {kind}: refused")
                yield name, (member.offset_data, member.size)
            self._file.seek(archive.offset)  # where no further header was found
            if self._file.read(_BLOCK) != bytes(_BLOCK):
                raise tarfile.ReadError(f"neither a header nor the end at byte {archive.offset}")
            while self._file.read(_CHUNK):
                pass  # gzip says at its end whether all of it is whole


class Zip:
    """The members of a zip, stored or deflated."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        self.path = path
        try:
            self._archive = stack.enter_context(zipfile.ZipFile(path))
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ValueError(f"{path}: expected a whole zip, found damage: {error}") from error
        self._members = _without_top(dict(_unique(path, self._safe_members())))
        self.names: Sequence[str] = list(self._members)

    def read(self, name: str) -> bytes:
        """As `Files.read`."""
        if name not in self._members:
            raise ValueError(f"{self.path}: expected a member {name!r}, found none")
        member = self._members[name]
        if member.file_size > MAX_BYTES:
            raise ValueError(_too_large(f"{self.path}/{name}", member.file_size))
        if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise ValueError(f"{self.path}/{name}: expected it stored or deflated, found method {member.compress_type}")
        try:
            with self._archive.open(member) as file:  # no more than file_size bytes come out, and their CRC is checked
                return file.read(MAX_BYTES)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise ValueError(f"{self.path}/{name}: expected a whole member, found damage: {error}") from error

    def _safe_members(self) -> Iterator[tuple[str, zipfile.ZipInfo]]:
        for member in self._archive.infolist():
            name = _safe(self.path, member.orig_filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.is_dir() or name.startswith("__MACOSX/"):
                continue
            if kind not in {0, stat.S_IFREG}:
                what = "a link" if kind == stat.S_IFLNK else "a device"
                raise ValueError(f"{self.path}: expected files alone, found {member.filename!r}, {what}: refused")
            yield name, member


class Shards:
    """Several archives as one."""

    def __init__(self, path: Path, archives: Sequence[Files]) -> None:
        self.path = path
        self._archives = {archive.path.name: archive for archive in archives}
        self.names: Sequence[str] = [f"{key}/{name}" for key, one in self._archives.items() for name in one.names]

    def read(self, name: str) -> bytes:
        """As `Files.read`."""
        shard, _, member = name.partition("/")
        return self._archives[shard].read(member)


def is_archive(path: Path) -> bool:
    """Whether `path` is a tar or a zip, by its name."""
    return path.is_file() and path.name.lower().endswith((*TAR_SUFFIXES, ".zip"))


def open_files(path: Path, stack: contextlib.ExitStack) -> Files:
    """The files at `path`: a folder's, an archive's, those of all tars in a folder, or the one file that it is.

    Args:
        path: What to read.
        stack: Closes what is opened.

    Raises:
        ValueError: an archive is damaged, or holds what may not be in one.
    """
    if is_archive(path):
        return Zip(path, stack) if path.suffix.lower() == ".zip" else Tar(path, stack)
    if not path.is_dir():
        return Folder(path.parent, [path.name])
    shards = [file for file in sorted(path.iterdir()) if is_archive(file)]
    return Shards(path, [open_files(file, stack) for file in shards]) if shards else Folder(path)


class _Bounded:
    """A file that gives at most `MAX_BYTES` at a time: tars ask for as much as their headers say."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_BYTES:
            raise OSError(f"a header claims {size:,} bytes, more than {MAX_BYTES >> 20} MiB")
        return self._file.read(size)


def _safe(path: Path, name: str) -> str:
    """A member's name without "." and double slashes.

    Raises:
        ValueError: it is absolute or leads out of its folder.
    """
    parts = re.split(r"[/\\]", name)
    if not name or parts[0] == "" or re.match(r"[A-Za-z]:", name) or ".." in parts or "\0" in name:
        raise ValueError(f"{path}: expected names within a folder, found {name!r}: refused")
    return "/".join(part for part in name.split("/") if part not in {"", "."})


def _unique(path: Path, members: Iterable[tuple[str, Member]]) -> Iterator[tuple[str, Member]]:
    seen = set()
    for name, member in members:
        if name in seen:
            raise ValueError(f"{path}: expected every name once, found {name!r} twice: refused")
        seen.add(name)
        yield name, member


def _without_top(members: Mapping[str, Member]) -> dict[str, Member]:
    """The members without the one folder that all of them are in."""
    tops = {name.partition("/")[0] for name in members if "/" in name}
    if len(tops) != 1 or not all("/" in name for name in members):
        return dict(members)
    return {name.partition("/")[2]: member for name, member in members.items()}


def _too_large(name: str, size: int) -> str:
    return f"{name}: expected at most {MAX_BYTES >> 20} MiB, found {size:,} bytes"
