from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from gato_lite.train.fetch.packages import FetchError, Package, apt_config, default_cache, fetch, fetch_indexes, members


def wheel(path: Path, **files: str) -> Path:
    """A wheel that pip accepts, with `files` in its package."""
    name, version = path.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(f"{name}/{file}", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def deb(path: Path, **files: bytes) -> Path:
    """A Debian package whose data is an uncompressed tar."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./usr/share/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

    def entry(name: str, content: bytes) -> bytes:
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        return head + content + b"\n" * (len(content) % 2)

    path.write_bytes(b"!<arch>\n" + entry("debian-binary", b"2.0\n\n") + entry("data.tar", data.getvalue()))
    return path


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, and from nowhere else."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_pip_brings_a_package_once(shop: Path, tmp_path: Path) -> None:
    wheel(shop / "tiny_words-1.0-py3-none-any.whl", **{"a.txt": "one", "b.json": "2"})
    package = Package("pip", "tiny-words", "1.0")
    file, noted = fetch(package, tmp_path / "cache")
    assert dict(members(file, (".txt",))) == {"tiny_words/a.txt": b"one"}
    assert noted.size == file.stat().st_size
    (shop / "tiny_words-1.0-py3-none-any.whl").unlink()
    assert fetch(package, tmp_path / "cache") == (file, noted)
    assert sorted(path.name for path in (tmp_path / "cache" / "pip").iterdir()) == ["tiny-words@1.0.json", file.name]


def test_a_damaged_file_is_fetched_again(shop: Path, tmp_path: Path) -> None:
    wheel(shop / "tiny_words-1.0-py3-none-any.whl", **{"a.txt": "one"})
    package = Package("pip", "tiny-words", "1.0")
    file, noted = fetch(package, tmp_path / "cache")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert fetch(package, tmp_path / "cache") == (file, noted)
    assert dict(members(file, (".txt",))) == {"tiny_words/a.txt": b"one"}


def test_what_pip_cannot_find_can_be_brought_by_hand(shop: Path, tmp_path: Path) -> None:
    package = Package("pip", "tiny-words", "1.0")
    folder = tmp_path / "cache" / "pip"
    with pytest.raises(FetchError, match=r"pip:tiny-words@1.0: .* failed: .*") as raised:
        fetch(package, tmp_path / "cache")
    assert f"or put a file tiny_words-1.0[-.]* into {folder} and run the command again" in str(raised.value)
    assert list(folder.iterdir()) == []
    brought = wheel(folder / "tiny_words-1.0-py3-none-any.whl", **{"a.txt": "one"})
    assert fetch(package, tmp_path / "cache")[0] == brought


def test_the_cache_may_be_a_relative_path(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(shop / "tiny_words-1.0-py3-none-any.whl", **{"a.txt": "one"})
    monkeypatch.chdir(tmp_path)
    file, _ = fetch(Package("pip", "tiny-words", "1.0"), Path("c"))
    assert file == tmp_path / "c" / "pip" / "tiny_words-1.0-py3-none-any.whl"


def test_a_file_brought_by_hand_may_be_replaced(shop: Path, tmp_path: Path) -> None:
    package, folder = Package("pip", "tiny-words", "1.0"), tmp_path / "cache" / "pip"
    folder.mkdir(parents=True)
    file = folder / "tiny_words-1.0-py3-none-any.whl"
    file.write_bytes(b"damage")
    noted = fetch(package, tmp_path / "cache")[1]
    with pytest.raises(ValueError, match="expected a whole archive, found damage"):
        list(members(file))
    wheel(file, **{"a.txt": "one"})
    brought, new = fetch(package, tmp_path / "cache")  # pip finds none
    assert dict(members(brought, (".txt",))) == {"tiny_words/a.txt": b"one"}
    assert new != noted
    file.unlink()
    with pytest.raises(FetchError, match="or put a file"):
        fetch(package, tmp_path / "cache")


def test_a_missing_pip_is_told_how_to_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.distributions", lambda name: [])
    told = (
        f"expected pip in {sys.executable}, found none; install it with `python -m ensurepip` or `uv pip install pip`"
    )
    with pytest.raises(FetchError, match=re.escape(f"pip:x@1: {told}, or put a file")):
        fetch(Package("pip", "x", "1"), tmp_path)


def test_looking_for_pip_leaves_setuptools_its_distutils(tmp_path: Path) -> None:
    """`importlib.util.find_spec("pip")` would take setuptools' distutils away from who compiles later."""
    program = f"""
from pathlib import Path
from gato_lite.train.fetch.packages import FetchError, Package, fetch
try:
    fetch(Package("pip", "no such name", "1"), Path({str(tmp_path)!r}))
except FetchError:
    import distutils.core
    import setuptools
else:
    raise SystemExit("fetched what there is not")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=False, timeout=120, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


APT: str = """#!/bin/sh
cd "$(dirname "$APT_CONFIG")"
echo "$1" >> asked
case "$1" in
update) test ! -e offline || { echo "no network" >&2; exit 100; }; touch lists/host_Packages new;;
download) test -e new || { echo "404 Not Found" >&2; exit 100; }; echo "$3" > "$OLDPWD/$3_1_all.deb";;
esac
"""
"""An apt-get that has what its lists name only once they were made anew."""


@pytest.mark.parametrize("stale", [False, True])
def test_apt_makes_its_lists_anew_where_a_download_fails(
    *, stale: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "apt"
    (folder / "lists").mkdir(parents=True)
    if stale:
        (folder / "lists" / "host_Packages").touch()
    (tmp_path / "bin").mkdir()
    client = tmp_path / "bin" / "apt-get"
    client.write_text(APT)
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(client.parent), prepend=os.pathsep)
    (folder / "offline").touch()
    with pytest.raises(FetchError, match="apt:words: apt-get update failed: no network; try again later, or put a"):
        fetch(Package("apt", "words"), tmp_path)
    (folder / "offline").unlink()
    assert fetch(Package("apt", "words"), tmp_path)[0].name == "words_1_all.deb"
    assert fetch(Package("apt", "more"), tmp_path)[0].name == "more_1_all.deb"
    asked = (folder / "asked").read_text().split()
    assert asked == ["download", "update", "download", "update", "download", "download"]
    (folder / "new").unlink()
    client.write_text(APT.replace(" new;;", ";;"))
    with pytest.raises(FetchError, match="apt:third: apt-get download failed: 404 Not Found; try again later"):
        fetch(Package("apt", "third"), tmp_path)
    assert (folder / "asked").read_text().split()[6:] == ["download", "update", "download"]


@pytest.mark.parametrize("client, what", [("npm", "Node.js with npm"), ("apt", "Debian's or Ubuntu's apt")])
def test_a_missing_client_is_named(client: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match=re.escape(f"found none; install {what}, or put a file")):
        fetch(Package(client, "x", "1"), tmp_path / "cache")  # type: ignore[arg-type]
    with pytest.raises(FetchError, match="expected apt-get on the path"):
        list(fetch_indexes(("it",), tmp_path / "cache"))


def test_indexes_that_are_there_are_taken(tmp_path: Path) -> None:
    lists = tmp_path / "apt" / "lists"
    lists.mkdir(parents=True)
    for place, size in (("security", 3), ("main", 50)):
        (lists / f"host_{place}_main_i18n_Translation-it").write_text("x" * size)
    ((language, file, noted),) = fetch_indexes(("it",), tmp_path)
    assert (language, file.name, noted.size) == ("it", "host_main_main_i18n_Translation-it", 50)


def test_apt_keeps_its_lists_beside_the_cache(tmp_path: Path) -> None:
    written = apt_config(tmp_path, ("en", "it")).read_text("utf-8")
    assert f'Dir::State::lists "{tmp_path / "lists"}";' in written
    assert 'Acquire::Languages { "en"; "it"; };' in written
    assert (tmp_path / "lists" / "partial").is_dir()


def test_archives_are_read_and_not_unpacked(tmp_path: Path) -> None:
    packed = deb(tmp_path / "a_1_all.deb", **{"words/data.noun": b"odd", "doc": b"x"})
    assert dict(members(packed, (".noun",))) == {"./usr/share/words/data.noun": b"odd"}
    with tarfile.open(tmp_path / "a-1.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("../../up.txt")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"up"))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert dict(members(tmp_path / "a-1.tgz")) == {"../../up.txt": b"up"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1.tgz", "a_1_all.deb"]


@pytest.mark.parametrize("name", ["a.whl", "a.deb", "a.tgz"])
def test_a_damaged_archive_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK nothing of the kind" * 9)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / name}: expected a whole archive, found damage")):
        list(members(tmp_path / name))


@pytest.mark.parametrize("level", [0, 9])
def test_a_byte_that_changed_anywhere_is_found(level: int, tmp_path: Path) -> None:
    content = " ".join(map(str, range(2000))).encode()
    file = tmp_path / "a-1.tgz"
    with tarfile.open(file, "w:gz", compresslevel=level) as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    whole = file.read_bytes()
    for place in range(len(whole) // 4, len(whole), len(whole) // 40):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"a-1.tgz: expected a whole archive, found damage"):
            list(members(file))


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "gato_lite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "gato_lite"
