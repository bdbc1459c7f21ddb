from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys

import pytest

from gato_lite.lock import FolderLock

HOST = socket.gethostname()


def refused(folder) -> str:
    with pytest.raises(BlockingIOError) as caught, FolderLock(folder):
        pass
    return str(caught.value)


def test_a_second_writer_in_this_process_is_told_so(tmp_path):
    with FolderLock(tmp_path):
        owner = json.loads((tmp_path / ".lock").read_text())
        assert (owner["pid"], owner["host"]) == (os.getpid(), HOST)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", owner["since"])
        assert refused(tmp_path) == (
            f"{tmp_path}: process {os.getpid()} on host {HOST} has been writing into it since {owner['since']}, "
            "which is this process; close that writer first, or name another folder"
        )
    assert list(tmp_path.iterdir()) == []
    with FolderLock(tmp_path):
        pass


def test_the_number_of_a_process_that_runs_does_not_hold_a_lock(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps({"pid": os.getppid(), "host": HOST, "since": "before the last boot"}))
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_an_owner_killed_before_it_wrote_its_name_is_stale(tmp_path):
    (tmp_path / ".lock").touch()
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    "text, who",
    [
        ('{"pid": 7, "host": "elsewhere", "since": "noon"}', "process 7 on host elsewhere has been writing into it"),
        ("[1]", "process 0 on host unknown has been writing into it since a time unknown"),
    ],
)
def test_a_lock_that_cannot_be_judged_is_kept(tmp_path, text, who):
    (tmp_path / ".lock").write_text(text)
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path}: {who}")
    assert message.endswith(f"; wait for it to end, or, if it has, delete {tmp_path / '.lock'}")
    assert (tmp_path / ".lock").read_text() == text


def test_many_processes_hold_it_one_after_the_other(tmp_path):
    program = (
        "import sys, pathlib\n"
        "from gato_lite.lock import FolderLock\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "done = 0\n"
        "while done < 200:\n"
        "    try:\n"
        "        with FolderLock(folder):\n"
        "            (folder / 'inside').touch(exist_ok=False)\n"
        "            (folder / 'inside').unlink()\n"
        "            done += 1\n"
        "    except BlockingIOError:\n"
        "        pass\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []
