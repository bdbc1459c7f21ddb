from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from gato_lite.envs.folder import FolderLock, claim, replacing


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    file = tmp_path / "dataset.json"

    def fail():
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


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    with FolderLock(tmp_path):
        message = rf"process {os.getpid()} on host {socket.gethostname()} is writing into it"
        with pytest.raises(BlockingIOError, match=message), FolderLock(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_an_ended_process_is_taken_over(tmp_path):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    (tmp_path / ".lock").write_text(json.dumps({"pid": int(ended.stdout), "host": socket.gethostname()}))
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_lock_of_another_host_is_kept(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with (
        pytest.raises(BlockingIOError, match=r"process 1 on host elsewhere .* delete .*\.lock if it has"),
        FolderLock(tmp_path),
    ):
        pass


def test_claim_leaves_other_files_alone(tmp_path):
    (tmp_path / "part-000000.parquet").write_text("")
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        claim(tmp_path, overwrite=False)
    claim(tmp_path, overwrite=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match=r"expected an empty folder or a dataset, found 'thesis.tex'"):
        claim(tmp_path, overwrite=True)


@pytest.mark.parametrize("name", ["part-of-thesis.parquet", "part-0.parquet", ".part-list.tmp", "dataset.json"])
def test_claim_refuses_files_that_only_look_like_a_dataset(tmp_path, name):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(FileExistsError, match=f"expected an empty folder or a dataset, found .*{name}"):
        claim(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_a_damaged_dataset_can_be_replaced(tmp_path):
    for name in ("dataset.json", "part-000000.parquet", ".part-000001.parquet.12.tmp"):
        (tmp_path / name).write_text("{")
    claim(tmp_path, overwrite=True)
    assert list(tmp_path.iterdir()) == []
