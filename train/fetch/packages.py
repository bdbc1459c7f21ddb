"""Packages of npm, PyPI and Debian as data: fetched by their own clients, kept in a cache, read without unpacking.

The client runs as the user's own configuration says (mirrors, proxies, credentials). Debian's lists are kept beside the
cache, so that the machine's own are neither read nor changed. A file that is in the cache with the size and the hash
that were noted when it came is not fetched again, and one without them counts where no client brings another; what a
killed client leaves is in a folder that is cleared.
"""

from __future__ import annotations

import importlib.metadata
import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from gato_lite.whole import file_sha256

INSTALL: Final = {
    "npm": "Node.js with npm",
    "pip": "it with `python -m ensurepip` or `uv pip install pip`",
    "apt-get": "Debian's or Ubuntu's apt",
}
"""What brings each client."""
PATTERNS: Final = {"npm": "{plain}-{version}.tgz", "pip": "{under}-{version}[-.]*", "apt": "{name}_*.deb"}
"""How the file of a package is called."""


class FetchError(RuntimeError):
    """A package could not be fetched: which, why, and how to bring it by hand."""


class Fetched(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is noted of a file in the cache."""

    file: str
    """Name within the cache's folder of that client."""
    size: int
    """Bytes."""
    sha256: str
    """Digest of the file, hexadecimal."""


@dataclass(frozen=True)
class Package:
    """One package by its name."""

    client: Literal["npm", "pip", "apt"]
    name: str
    version: str | None = None
    """None takes what Debian has; the others are exact."""

    def __str__(self) -> str:
        return f"{self.client}:{self.name}" + (f"@{self.version}" if self.version else "")

    @property
    def pattern(self) -> str:
        """Pattern of the file's name."""
        plain = self.name.lstrip("@").replace("/", "-")
        return PATTERNS[self.client].format(
            plain=plain, under=self.name.replace("-", "_"), name=self.name, version=self.version
        )


def default_cache() -> Path:
    """`gato_lite` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "gato_lite"


def fetch(package: Package, cache: Path) -> tuple[Path, Fetched]:
    """The package's file in the cache, fetched if it is not there whole.

    Raises:
        FetchError: its client is missing or failed; the message says how to bring the file by hand.
    """
    folder = (cache / package.client).absolute()  # the client runs in a folder of its own
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / f"{package.name.lstrip('@').replace('/', '-')}@{package.version or 'any'}.json"
    if note.is_file():
        fetched = msgspec.json.decode(note.read_bytes(), type=Fetched)
        if (folder / fetched.file).is_file() and _describe(folder / fetched.file) == fetched:
            return folder / fetched.file, fetched
    by_hand = sorted(folder.glob(package.pattern))
    try:
        file = by_hand[-1] if by_hand and not note.is_file() else _download(package, folder)
    except FetchError:
        if not by_hand:
            raise
        file = by_hand[-1]  # another file than was noted, and no other to be had
    fetched = _describe(file)
    note.write_bytes(msgspec.json.encode(fetched))
    return file, fetched


def _describe(file: Path) -> Fetched:
    return Fetched(file=file.name, size=file.stat().st_size, sha256=file_sha256(file))


def _download(package: Package, folder: Path) -> Path:
    client = {"npm": "npm", "pip": "pip", "apt": "apt-get"}[package.client]
    hand = f"or put a file {package.pattern} into {folder} and run the command again"
    where, missing = "on the path", shutil.which(client) is None
    if client == "pip":  # that of this Python is what is run
        where, missing = f"in {sys.executable}", not any(importlib.metadata.distributions(name="pip"))
    if missing:
        raise FetchError(f"{package}: expected {client} {where}, found none; install {INSTALL[client]}, {hand}")
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
        command, env = _command(package, folder, temporary)
        done = _run([command], env, temporary)
        if done.returncode and client == "apt-get":  # there are no lists yet, or what they name is gone
            done = _run([["apt-get", "update", "--quiet"], command], env, temporary)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
            raise FetchError(f"{package}: {' '.join(done.args[:2])} failed: {said}; try again later, {hand}")
        found = sorted(Path(temporary).glob(package.pattern))
        if not found:
            there = ", ".join(sorted(path.name for path in Path(temporary).iterdir())) or "nothing"
            raise FetchError(f"{package}: expected {client} to bring {package.pattern}, found {there}; {hand}")
        return found[-1].replace(folder / found[-1].name)


def _command(package: Package, folder: Path, temporary: str) -> tuple[list[str], dict[str, str]]:
    """What fetches the package into `temporary`, with its environment."""
    env = dict(os.environ)
    match package.client:
        case "npm":
            return ["npm", "pack", f"{package.name}@{package.version}", "--silent"], env
        case "pip":
            name = f"{package.name}=={package.version}"
            return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, name], env
        case "apt":
            return ["apt-get", "download", "--quiet", package.name], {**env, "APT_CONFIG": str(apt_config(folder))}


def _run(commands: Sequence[Sequence[str]], env: Mapping[str, str], folder: str) -> subprocess.CompletedProcess[str]:
    """The outcome of the first of the `commands` that fails, or of the last."""
    for command in commands:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            break
    return done


def fetch_indexes(languages: Sequence[str], cache: Path) -> Iterator[tuple[str, Path, Fetched]]:
    """(language, file, what is noted of it) of Debian's indexes of descriptions, such as `…_i18n_Translation-it`.

    Raises:
        FetchError: apt is missing or failed, or has no such index.
    """
    folder = cache / "apt"
    for language in languages:
        if not _indexes(folder, language):
            if shutil.which("apt-get") is None:
                raise FetchError(
                    f"apt: expected apt-get on the path, found none; install {INSTALL['apt-get']}, or put Debian's "
                    f"index {INDEX.format(language)} into {folder / 'lists'} and run the command again"
                )
            done = subprocess.run(
                ["apt-get", "update", "--quiet"],
                env={**os.environ, "APT_CONFIG": str(apt_config(folder, languages))},
                capture_output=True,
                text=True,
                check=False,
            )
            found = _indexes(folder, language)
            if done.returncode or not found:
                said = (done.stderr.strip() or f"no {INDEX.format(language)} in its lists").splitlines()[-1]
                raise FetchError(f"apt: apt-get update brought no index of descriptions in '{language}': {said}")
        largest = max(_indexes(folder, language), key=lambda file: file.stat().st_size)
        yield language, largest, _describe(largest)


INDEX: Final = "*_main_i18n_Translation-{}"


def _indexes(folder: Path, language: str) -> list[Path]:
    return sorted((folder / "lists").glob(INDEX.format(language)))


def apt_config(folder: Path, languages: Sequence[str] = ()) -> Path:
    """A configuration of apt whose lists and cache lie in `folder`, with indexes of translated descriptions."""
    lists, cache = folder / "lists", folder / "archives"
    for made in (lists / "partial", cache / "partial", folder / "none"):
        made.mkdir(parents=True, exist_ok=True)
    spoken = " ".join(f'"{language}";' for language in languages) or '"none";'
    lines = [
        f'Dir::State::lists "{lists.resolve()}";',
        f'Dir::Cache "{cache.resolve()}";',
        f'Dir::Etc::parts "{(folder / "none").resolve()}";',
        f"Acquire::Languages {{ {spoken} }};",
        'APT::Sandbox::User "root";',
    ]
    file = folder / "apt.conf"
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file


def members(file: Path, suffixes: tuple[str, ...] = ()) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files in a .tgz, .whl or .deb whose names end in one of `suffixes`; nothing is unpacked.

    Raises:
        ValueError: it is no such archive, or damaged.
    """
    try:
        if file.suffix == ".whl":
            with zipfile.ZipFile(file) as wheel:
                for name in wheel.namelist():
                    if not name.endswith("/") and name.endswith(suffixes or ("",)):
                        yield name, wheel.read(name)
            return
        opened = io.BytesIO(_deb_data(file.read_bytes())) if file.suffix == ".deb" else file.open("rb")
        with opened, tarfile.open(fileobj=opened) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None and member.name.endswith(suffixes or ("",)):
                    yield member.name, content.read()
            while archive.fileobj.read(2**20):
                pass  # compressed files say at their end whether all of them is whole
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{file}: expected a whole archive, found damage: {error}") from error


def _deb_data(content: bytes) -> bytes:
    """The archive of a Debian package's files: an `ar` file of members with 60-byte headers (deb(5))."""
    if not content.startswith(b"!<arch>\n"):
        raise tarfile.ReadError("not a Debian package")
    place = 8
    while place + 60 <= len(content):
        name, size = content[place : place + 16].strip(b" /"), int(content[place + 48 : place + 58])
        place += 60
        if name.startswith(b"data.tar"):
            return content[place : place + size]
        place += size + size % 2
    raise tarfile.ReadError("no data.tar in it")
