from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gato_lite.whole import file_sha256, final_name, replacing


def write(file: Path, text: str) -> None:
    with replacing(file) as temporary:
        temporary.write_text(text)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "dataset.json"

    def fail() -> None:
        with replacing(file) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with replacing(file) as temporary:
        temporary.write_text("whole")
        assert not file.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    write(file, "old")
    with replacing(file) as temporary:
        temporary.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    file = tmp_path / "config.json"
    write(file, "old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if call == "fsync" else Path, call, refuse)
    with pytest.raises(OSError, match="No space left"):
        write(file, "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("config.json", "old")]


@pytest.mark.skipif(os.name == "nt", reason="folders are not forced to disk there")
def test_the_file_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, happened = tmp_path / "config.json", []

    def fsync(handle: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        happened.append(("folder" if is_folder else "file", file.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write(file, "text")
    assert happened == [("file", False), ("folder", True)]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_kill_leaves_the_old_file_and_a_name_that_is_known(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    write(file, "old")
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from gato_lite.whole import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    print(flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        process.kill()
    assert file.read_text() == "old"
    assert [final_name(path.name) for path in tmp_path.iterdir()] == ["config.json"] * 2


@pytest.mark.parametrize(
    "name, final",
    [
        (".part-000000.parquet.12.tmp", "part-000000.parquet"),
        (".config.json.partial", "config.json"),  # of version 0.1
        ("config.json", "config.json"),
        (".mine.tmp", ".mine.tmp"),
        ("part-000000.parquet.12.tmp", "part-000000.parquet.12.tmp"),
        (".lock", ".lock"),
    ],
)
def test_what_a_kill_left_behind_is_known(name: str, final: str) -> None:
    assert final_name(name) == final


def test_a_files_hash(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100_000))
    assert file_sha256(tmp_path / "file") == hashlib.sha256(bytes(100_000)).hexdigest()
