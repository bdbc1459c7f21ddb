"""Faults 18 to 24: what a disk, a copy or another process does to datasets and runs."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gato_lite
from gato_lite.checkpoint import list_checkpoints
from gato_lite.envs.dataset import Dataset, DatasetError, Document, write_documents
from gato_lite.train import cli
from gato_lite.train.films import film_name
from gato_lite.train.loop import Length
from gato_lite.train.settings import TrainConfig
from gato_lite.train.training import train_run
from gato_lite.train.verify import verify

HOST = socket.gethostname()


@pytest.fixture
def data(whole_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_data, tmp_path / "data"))


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


@pytest.fixture
def train(small_config: TrainConfig, tmp_path: Path) -> Callable[..., str | None]:
    """Trains one step into a new folder; the error, after seeing that nothing was begun."""

    def call(*data: Path) -> str | None:
        out = tmp_path / "new"
        try:
            train_run(small_config, [(str(folder), 1.0) for folder in data], out, length=Length(steps=1))
        except DatasetError as error:
            assert list(out.iterdir()) == []
            return str(error)
        return None

    return call


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    stored = json.loads(path.read_bytes())
    change(stored)
    path.write_text(json.dumps(stored))


def flips(content: bytes, n: int) -> Iterator[bytes]:
    """`content` with one bit flipped in each 1/n of it."""
    generator = np.random.default_rng(0)
    edges = np.linspace(0, len(content), n + 1).astype(int)
    for start, stop in itertools.pairwise(edges):
        flipped = bytearray(content)
        flipped[generator.integers(start, max(stop, start + 1))] ^= 1 << int(generator.integers(8))
        yield bytes(flipped)


def test_whole_data_train(data: Path, train: Callable[..., str | None]) -> None:
    assert verify(data).ok
    assert train(data) is None


# 18


def test_a_truncated_part_is_an_error_before_training_starts(data: Path, train: Callable[..., str | None]) -> None:
    part = data / "part-000001.parquet"
    content = part.read_bytes()
    for n in range(64):
        length = len(content) * n // 64
        part.write_bytes(content[:length])
        expected = f"{part}: expected {len(content)} bytes, found {length}: truncated or altered"
        assert train(data) == expected
        assert verify(data).problems == (expected,)


# 19


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    rows = [Document(None, f"{n} is a number that is {'even' if n % 2 == 0 else 'odd'}") for n in range(500)]
    return write_documents(tmp_path / "documents", rows, name="numbers").path


@pytest.mark.parametrize("n", [12, pytest.param(256, marks=pytest.mark.long)])
def test_a_flipped_bit_anywhere_in_a_part_is_found(
    data: Path, documents: Path, n: int, train: Callable[..., str | None]
) -> None:
    for folder in (data, documents):
        part = folder / "part-000000.parquet"
        content = part.read_bytes()
        for flipped in flips(content, n):
            part.write_bytes(flipped)
            problem = train(folder)
            assert problem is not None
            words = rf"{re.escape(str(part))}: expected SHA-256 \w{{64}}, found \w{{64}}: .* altered"
            assert re.fullmatch(words, problem)
            assert verify(folder).problems == (problem,)
        part.write_bytes(content)
    assert train(data, documents) is None


# 20


def test_a_later_format_names_the_version_that_reads_it(
    data: Path, run: Path, train: Callable[..., str | None]
) -> None:
    def later(stored: dict[str, Any]) -> None:
        stored.update(format_version=7, gato_lite="4.2.0", news=[1])

    words = "format version 7 needs gato-lite ≥ 4.2.0, this is gato-lite .* pip install -U 'gato_lite>=4.2.0'"
    edit(data / "dataset.json", later)
    assert re.search(f"dataset.json: {words}", train(data) or "")
    manifest = run / "checkpoints" / "step_2" / "manifest.json"
    for file in (manifest, run / "config.json"):
        edit(file, later)
        with pytest.raises(ValueError, match=f"{file.name}: {words}"):
            gato_lite.load(run)
    for folder in (data, run):
        assert re.search(words, verify(folder).problems[0])


def test_a_later_format_without_a_version_asks_for_a_later_one(data: Path, train: Callable[..., str | None]) -> None:
    for written_by in ({}, {"gato_lite": "1.0'; rm -r ~"}):
        edit(data / "dataset.json", lambda stored, also=written_by: stored.update(format_version=7, **also))
        installed = re.escape(gato_lite.__version__)
        assert re.search(f"needs gato-lite > {installed}, .* -U 'gato_lite>{installed}'$", train(data) or "")


# 21


def two_counts(stored: dict[str, Any], part: str, total: str) -> None:
    stored["parts"][1][part] += 1
    stored[total] += 1


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.update(n_rows=211), "dataset.json: expected n_rows=210, the sum over its parts, found n_rows=211"),
        (lambda s: s.update(n_timesteps=1), "dataset.json: expected n_timesteps=840, the sum over its parts"),
        (lambda s: s["parts"][2].update(rows=11), "dataset.json: expected n_rows=211, the sum over its parts"),
        (lambda s: two_counts(s, "rows", "n_rows"), "part-000001.parquet: expected 101 rows and 4"),
        (lambda s: two_counts(s, "timesteps", "n_timesteps"), "part-000001.parquet: expected 100 rows and 4"),
        (lambda s: s["parts"][1].update(size=1), "part-000001.parquet: expected 1 bytes, found "),
        (lambda s: s["parts"].append(s["parts"][0]), "dataset.json: expected every part once, found one listed twice"),
        (
            lambda s: s.update(n_rows="210"),
            "dataset.json: expected the JSON of a dataset, found damage: Expected `int`",
        ),
    ],
)
def test_wrong_counts_are_named(
    data: Path, train: Callable[..., str | None], change: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit(data / "dataset.json", change)
    problem = train(data)
    assert problem is not None
    assert words in problem
    assert verify(data).problems == (problem,)


# 22

NAMES = [
    "../part-000000.parquet",
    "/etc/passwd",
    "..\\part-000000.parquet",
    "part-000000.parquet/../../part-000000.parquet",
    "part-000000.parquet\0",
    "part-000000.parquet\n",
    "part-٠٠٠٠٠٠.parquet",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_folder(data: Path, run: Path, train: Callable[..., str | None], name: str) -> None:
    edit(data / "dataset.json", lambda stored: stored["parts"][0].update(file=name))
    assert train(data) == f"{data / 'dataset.json'}: expected parts named part-000000.parquet, found {name!r}"
    manifest = run / "checkpoints" / "step_2" / "manifest.json"
    edit(manifest, lambda stored: stored["files"].update({name: stored["files"].pop("model.safetensors")}))
    with pytest.raises(ValueError, match=f"{manifest}: expected the files model.safetensors, .*, found "):
        gato_lite.load(run)


def test_a_tasks_name_leads_nowhere(data: Path, train: Callable[..., str | None], tmp_path: Path) -> None:
    edit(data / "dataset.json", lambda stored: stored.update(task="../../../up"))
    before = {entry.name for entry in tmp_path.parent.iterdir()}
    assert train(data) is None
    assert {entry.name for entry in tmp_path.parent.iterdir()} == before
    assert Path(film_name("../../../up")).name == film_name("../../../up")


def test_a_run_cannot_choose_what_is_imported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bomb.py").write_text(f"import os; os.mkdir({str(tmp_path / 'exploded')!r})")
    monkeypatch.syspath_prepend(tmp_path)
    edit(run / "config.json", lambda stored: stored["tasks"][0].update(name="gym:bomb:Steps-v0"))
    assert cli.main(["inspect", str(run)]) == cli.DONE
    assert cli.main(["eval", str(run)]) == cli.WRONG_INPUT
    told = capsys.readouterr().err
    assert "left out, since making them imports a module: gym:bomb:Steps-v0; name with --tasks what to play" in told
    assert not (tmp_path / "exploded").exists()
    cli.main(["eval", str(run), "--tasks", "gym:bomb:Steps-v0", "--episodes", "1"])  # what the user names is imported
    assert (tmp_path / "exploded").exists()


def test_a_lock_that_is_a_link_is_not_followed(data: Path, tmp_path: Path) -> None:
    (data / ".lock").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="symbolic link"):
        write_documents(data, [Document(None, "text")], name="mine", overwrite=True)
    assert not (tmp_path / "outside").exists()


# 23


def test_missing_parts_are_all_named(data: Path, train: Callable[..., str | None]) -> None:
    for name in ("part-000000.parquet", "part-000002.parquet"):
        (data / name).unlink()
    assert train(data) == (
        f"{data}: expected every part that dataset.json lists, found 2 of 3 missing: part-000000.parquet, "
        "part-000002.parquet; copy them here, or record again"
    )
    assert [problem.split(": ")[0] for problem in verify(data).problems] == [
        str(data / "part-000000.parquet"),
        str(data / "part-000002.parquet"),
    ]


# 24


def start(program: str, *arguments: Path) -> subprocess.Popen[str]:
    """Another process that has said it is at work."""
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    return process


def refused_by(process: subprocess.Popen[str], folder: Path, write: Callable[[], object]) -> None:
    since = json.loads((folder / ".lock").read_text())["since"]
    expected = (
        f"{folder}: process {process.pid} on host {HOST} has been writing into it since {since}; "
        f"wait for it to end, end it (kill {process.pid}), or name another folder"
    )
    with pytest.raises(BlockingIOError, match=f"^{re.escape(expected)}$"):
        write()


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from gato_lite.envs.dataset import Document, write_documents\n"
        "def rows():\n"
        "    yield Document(None, 'first')\n"
        "    print('at work', flush=True)\n"
        "    time.sleep(600)\n"
        "write_documents(sys.argv[1], rows(), name='first')\n"
    )
    out = tmp_path / "data"

    def write() -> Dataset:
        return write_documents(out, [Document(None, "second")], name="second", overwrite=True)

    first = start(program, out)
    try:
        refused_by(first, out, write)
    finally:
        kill(first)
    assert (out / ".lock").is_file()  # nobody removed it, and yet it holds nobody up
    assert write().info.task == "second"
    assert sorted(entry.name for entry in out.iterdir()) == ["dataset.json", "part-000000.parquet"]


def test_a_run_is_trained_by_one_process(whole_data: Path, run: Path, small_config: TrainConfig) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from gato_lite.config import PRESETS, GatoConfig\n"
        "from gato_lite.train.loop import Length\n"
        "from gato_lite.train.settings import TrainConfig\n"
        "from gato_lite.train.training import train_run\n"
        "PRESETS['small'] = GatoConfig(n_layer=1, n_head=1, d_model=16, d_ff=16, d_encoder=16)\n"
        "config = TrainConfig(preset='small', context_length=32, tokens_per_step=64, log_every=1)\n"
        "def told(progress):\n"
        "    if progress.step == 3: print('at work', flush=True)\n"
        "data = [(sys.argv[1], 1.0)]\n"
        "train_run(config, data, Path(sys.argv[2]), length=Length(steps=10**7), resume=True, on_progress=told)\n"
    )

    def resume() -> object:
        length = Length(steps=4)
        return train_run(small_config, [(str(whole_data), 1.0)], run, length=length, resume=True)

    first = start(program, whole_data, run)
    try:
        refused_by(first, run, resume)
    finally:
        kill(first)
    resume()
    assert list_checkpoints(run) == [2, 4]
    assert not (run / ".lock").exists()


def test_a_lock_of_another_host_says_how_to_remove_it(
    whole_data: Path, data: Path, run: Path, small_config: TrainConfig
) -> None:
    def resume() -> object:
        return train_run(small_config, [(str(whole_data), 1.0)], run, length=Length(steps=3), resume=True)

    def write() -> object:
        return write_documents(data, [Document(None, "text")], name="mine", overwrite=True)

    for folder, work in ((data, write), (run, resume)):
        lock = folder / ".lock"
        lock.write_text(json.dumps({"pid": 12, "host": "elsewhere", "since": "2026-01-02 03:04:05 UTC"}))
        expected = (
            f"{folder}: process 12 on host elsewhere has been writing into it since 2026-01-02 03:04:05 UTC; "
            f"wait for it to end, or, if it has, delete {lock}"
        )
        with pytest.raises(BlockingIOError, match=f"^{re.escape(expected)}$"):
            work()
        lock.unlink()
        work()
