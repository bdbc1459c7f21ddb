"""The readers of files, fed with whole files that were altered in bytes, fields and structure.

A reader either reads, or refuses in one line that the command line shows. Where the format has hashes or checksums,
what it reads is what was written. It never raises anything else, crashes, hangs, or takes much memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import select
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import gato_lite
from gato_lite.checkpoint import save_checkpoint
from gato_lite.config import GatoConfig, TokenSpec
from gato_lite.envs.dataset import Document, write_documents
from gato_lite.model import Gato
from gato_lite.run import RunConfig, task_format, write_run
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.pictures import FORMATS, encode_png

TIME_LIMIT_S = 60.0
OFTEN = pytest.mark.parametrize("n", [10, pytest.param(150, marks=pytest.mark.long)])
"""How many altered files are read."""
LESS_OFTEN = pytest.mark.parametrize("n", [5, pytest.param(40, marks=pytest.mark.long)])
"""Of a run, which takes a tenth of a second to read and verify."""


class Reader:
    """The process of `fuzz_reader.py`; another takes its place when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, reader: str, path: Path) -> dict[str, str]:
        """What came of reading `path`, with `kind` "read", "refused" or "raised"; to die or to hang fails the test."""
        if self._process is None:
            command = [sys.executable, str(Path(__file__).with_name("fuzz_reader.py"))]
            # Arrow's own allocator may reserve a gigabyte of addresses at once, which is all that the reader has.
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=environment, bufsize=1,
            )  # fmt: skip
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"reader": reader, "path": str(path)}) + "\n")
        answered = select.select([process.stdout], [], [], TIME_LIMIT_S)[0]
        line = process.stdout.readline() if answered else ""
        if not line:
            self.close()
            pytest.fail(f"{reader}: {f'died with {process.returncode}' if answered else 'hangs'}")
        answer: dict[str, str] = json.loads(line)
        return answer

    def harm(self, path: Path, *readers: str) -> list[dict[str, str]]:
        """What came of reading `path` in these ways, where it was neither read nor refused."""
        answers = [self.read(reader, path) for reader in readers]
        return [answer for answer in answers if answer["kind"] not in {"read", "refused"}]

    def close(self) -> None:
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout):
                stream.close()
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    found = Reader()
    yield found
    found.close()


def fuzz(strategy: st.SearchStrategy[Any], n: int, check: Callable[[Any], None]) -> None:
    """Calls `check` with `n` examples."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    settings(max_examples=n, deadline=None, database=None, suppress_health_check=quiet)(given(strategy)(check))()


PLACES = st.one_of(st.integers(0, 64), st.integers(-64, -1), st.integers(0, 1 << 20))
WORDS = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63]).map(
        lambda number: struct.pack("<Q", number)
    ),
)
BYTE_CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), PLACES, st.integers(0, 7)),
        st.tuples(st.just("put"), PLACES, WORDS),
        st.tuples(st.just("insert"), PLACES, WORDS),
        st.tuples(st.just("drop"), PLACES, st.integers(1, 64)),
        st.tuples(st.just("repeat"), PLACES, st.integers(1, 64)),
        st.tuples(st.just("end"), PLACES, st.none()),
    ),
    min_size=1,
    max_size=3,
)
SAME_SIZE = st.lists(
    st.one_of(st.tuples(st.just("flip"), PLACES, st.integers(0, 7)), st.tuples(st.just("put"), PLACES, WORDS)),
    min_size=1,
    max_size=3,
)


def altered(data: bytes, changes: list[tuple[str, int, Any]]) -> bytes:
    """`data` after changes at places, which count from either end."""
    for what, place, value in changes:
        at = place % max(len(data), 1)
        match what:
            case "flip":
                data = data[:at] + bytes([data[at] ^ (1 << value)]) + data[at + 1 :] if data else data
            case "put":
                data = (data[:at] + value + data[at + len(value) :])[: len(data)]
            case "insert":
                data = data[:at] + value + data[at:]
            case "drop":
                data = data[:at] + data[at + value :]
            case "repeat":
                data = data[: at + value] + data[at:]
            case _:
                data = data[:at]
    return data


TOKENS = (
    *("null", "true", "0", "-1", "1", "2", "3.5", "-0.0", "1e308", "1e400", "NaN", "-Infinity", "1e9", "1e15"),
    *("2147483648", "9223372036854775807", "9223372036854775808", "18446744073709551616", "400 digits", "5000 digits"),
    *('""', '"x"', '"inf"', '"-inf"', '"../x"', '"/"', '"\\ud800"', '"\\u0000"', '"O"', '"float16"', '"complex64"'),
    *('"uint64"', '"M8[s]"', '"U"', '"V8"', '"Dict"', '"Box"', '"Graph"', '"Sequence"', '"documents"', '"control"'),
    *("[]", "{}", "[[]]", "[0]", "[-1]", "[1000000000]", "[100000, 100000]", "[null]", '{"type": "Discrete"}'),
    *('{"type": "FreeText"}', "deep list", "deeper list", "deep object", "deep space"),
)
"""JSON values that readers stumble over; those in words stand for a value of `LONG_TOKENS`."""
LONG_TOKENS = {
    "400 digits": "1" * 400,
    "5000 digits": "1" * 5000,
    "deep list": "[" * 3000 + "]" * 3000,
    "deeper list": "[" * 200_000,
    "deep object": '{"a":' * 3000 + "1" + "}" * 3000,
    "deep space": '{"type": "Tuple", "spaces": [' * 300 + '{"type": "FreeText"}' + "]}" * 300,
}
JSON_CHANGES = st.lists(
    st.tuples(
        st.sampled_from(("replace", "replace", "replace", "drop", "add", "twice")),
        st.integers(0, 1 << 16),
        st.sampled_from(TOKENS),
    ),
    min_size=1,
    max_size=3,
)


def altered_json(document: Any, changes: list[tuple[str, int, str]]) -> bytes:
    """`document` after changes of its fields, as JSON; some are none that a writer of JSON would write."""
    document = json.loads(json.dumps(document))
    raw = {}
    for number, (what, place, token) in enumerate(changes):
        holders = list(_holders(document))
        if not holders:
            break
        holder, key = holders[place % len(holders)]
        raw[f"<<{number}>>"] = token
        if what == "replace":
            holder[key] = f"<<{number}>>"
        elif what == "drop":
            del holder[key]
        elif isinstance(holder, dict):
            holder["other" if what == "add" else f"{key} "] = f"<<{number}>>"
        else:
            holder.insert(key, f"<<{number}>>" if what == "add" else holder[key])
    text = json.dumps(document)
    for mark, token in raw.items():
        text = text.replace(json.dumps(mark), LONG_TOKENS.get(token, token))
    return text.encode()


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) within a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _holders(value[key])


class Zoo(gym.Env[Any, Any]):
    """An observation of every kind of leaf."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Dict(
            box=gym.spaces.Box(-1, 1, (2,)),
            grid=gym.spaces.Box(0, 255, (3, 4), np.uint8),
            word=gym.spaces.Text(8, min_length=0),
            several=gym.spaces.Sequence(gym.spaces.Discrete(4)),
        )
        self.action_space = gym.spaces.MultiDiscrete([3, 2])
        self.observation_space.seed(0)
        self.action_space.seed(0)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps >= 5, False, {"is_success": True}


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fuzz") / "control"
    env = Zoo()
    gato_lite.record(env, lambda _: env.action_space.sample(), episodes=6, out=out, name="zoo", instruction="Look.")
    return out


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fuzz") / "documents"
    picture = encode_png(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3))
    rows = [Document(picture if index % 2 else None, f"text {index}" * 20) for index in range(40)]
    write_documents(out, rows, name="some")
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    vocabulary = Vocabulary.shipped()
    config = GatoConfig(
        n_layer=1, n_head=1, d_model=8, d_ff=8, d_encoder=8, context_length=32, vocab_size=vocabulary.size
    )
    env = Zoo()
    task = task_format("zoo", env.observation_space, env.action_space, TokenSpec(once=("word",)), "Look.")
    training = {"data": [["zoo", 1.0]], "steps": 2, "seed": 0}
    found = RunConfig(model=config, tasks=(task,), vocabulary=vocabulary.fingerprint, training=training)
    write_run(folder, found, vocabulary)
    lines = [{"step": step, "loss": 1.0 / step, "loss_by_task": {"zoo": 1.0}} for step in range(1, 6)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    weights = Gato(config, vocabulary).state_dict()
    state = {"elapsed_s": 1.0, "skipped": [], "seed": 0, "meter": {}}
    save_checkpoint(folder, 5, model=weights, optimizer={"m": torch.zeros(3), "step": torch.ones(())}, state=state)
    return folder


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copytree(folder, tmp_path / folder.name))


def _fits(folder: Path, **rows: int) -> None:
    """Has a dataset's JSON state the size and hash that its first part has now, so that what is in it gets read."""
    info = json.loads((folder / "dataset.json").read_bytes())
    data = (folder / info["parts"][0]["file"]).read_bytes()
    info["parts"][0] |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **rows}
    info |= {f"n_{name}": count for name, count in rows.items()}
    (folder / "dataset.json").write_text(json.dumps(info), "utf-8")


def _signs(checkpoint: Path) -> None:
    """Has a checkpoint's manifest state the sizes and hashes that its files have now."""
    manifest = json.loads((checkpoint / "manifest.json").read_bytes())
    for name in manifest["files"]:
        data = (checkpoint / name).read_bytes()
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest), "utf-8")


@OFTEN
@pytest.mark.parametrize("name", ["control", "documents"])
def test_dataset_json(n, name, request, copy, reader):
    folder = copy(request.getfixturevalue(name))
    file = folder / "dataset.json"
    stored, data = json.loads(file.read_bytes()), file.read_bytes()

    def check(change):
        file.write_bytes(altered_json(stored, change) if isinstance(change[0][2], str) else altered(data, change))
        assert not reader.harm(folder, "dataset", "check", "verify")

    fuzz(JSON_CHANGES | BYTE_CHANGES.filter(lambda changes: not isinstance(changes[0][2], str)), n, check)


@OFTEN
@pytest.mark.parametrize("name", ["control", "documents"])
def test_bytes_of_a_part(n, name, request, copy, reader):
    folder = copy(request.getfixturevalue(name))
    (file,) = folder.glob("part-*.parquet")
    data = file.read_bytes()
    whole = reader.read("dataset", folder)["value"]

    def check(changes):
        file.write_bytes(altered(data, changes))
        found = reader.read("dataset", folder)
        assert found["kind"] == "refused" or found["value"] == whole
        assert not reader.harm(file, "metadata")
        assert reader.read("check", folder)["value"] == reader.read("verify", folder)["value"]

    fuzz(SAME_SIZE, n, check)


@OFTEN
@pytest.mark.parametrize("name", ["control", "documents"])
def test_bytes_of_a_part_with_a_right_hash(n, name, request, copy, reader):
    folder = copy(request.getfixturevalue(name))
    (file,) = folder.glob("part-*.parquet")
    data = file.read_bytes()

    def check(changes):
        file.write_bytes(altered(data, changes))
        _fits(folder)
        assert not reader.harm(folder, "dataset", "check")
        assert not reader.harm(file, "metadata")

    fuzz(BYTE_CHANGES, n, check)


TYPES = (pa.string(), pa.float64(), pa.int8(), pa.bool_(), pa.null(), pa.list_(pa.int64()), pa.list_(pa.string()))
COLUMN_CHANGES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("drop", "null", "twice", "negative", "short")), st.integers(0, 20), st.none()),
        st.tuples(st.just("type"), st.integers(0, 20), st.sampled_from(TYPES)),
    ),
    min_size=1,
    max_size=2,
)


def altered_table(table: pa.Table, changes: list[tuple[str, int, Any]]) -> pa.Table:
    """`table` with columns that are gone, of another type, doubled, or with other values."""
    for what, place, dtype in changes:
        at = place % table.num_columns
        name, column = table.column_names[at], table.column(at).combine_chunks()
        n_rows = len(column)
        if what == "drop" and table.num_columns > 1:
            table = table.remove_column(at)
        elif what == "twice":
            table = table.append_column(name, column)
        elif what == "null":
            keep = pa.array([index != 1 for index in range(n_rows)])
            table = table.set_column(at, name, pa.compute.if_else(keep, column, pa.scalar(None, column.type)))
        elif what == "negative" and pa.types.is_integer(column.type):
            table = table.set_column(at, name, pa.compute.negate(column.cast(pa.int64())))
        elif what == "short":
            table = table.slice(0, place % (n_rows + 1))
        elif what == "type":
            values: list[Any] = [None] * n_rows
            if not pa.types.is_null(dtype):
                one = [1] if dtype == pa.list_(pa.int64()) else ["x"] if dtype == pa.list_(pa.string()) else None
                values = [one if one is not None else "x" if dtype == pa.string() else 1] * n_rows
            table = table.set_column(
                at, name, pa.array(values).cast(dtype) if dtype == pa.bool_() else pa.array(values, dtype)
            )
    return table


@OFTEN
@pytest.mark.parametrize("name", ["control", "documents"])
def test_columns_of_a_part(n, name, request, copy, reader):
    folder = copy(request.getfixturevalue(name))
    (file,) = folder.glob("part-*.parquet")
    table = pq.read_table(file)

    def check(changes):
        other = altered_table(table, changes)
        pq.write_table(other, file, write_page_checksum=True)
        _fits(folder, rows=len(other))
        assert not reader.harm(folder, "dataset", "check")

    fuzz(COLUMN_CHANGES, n, check)


@LESS_OFTEN
def test_config_json(n, run, copy, reader):
    folder = copy(run)
    file = folder / "config.json"
    stored, data = json.loads(file.read_bytes()), file.read_bytes()

    def check(changes):
        file.write_bytes(altered_json(stored, changes) if isinstance(changes[0][2], str) else altered(data, changes))
        assert not reader.harm(folder, "run", "verify")

    fuzz(JSON_CHANGES | SAME_SIZE, n, check)


@LESS_OFTEN
def test_vocabulary_json(n, run, copy, reader):
    folder = copy(run)
    file = folder / "vocabulary.json"
    stored = json.loads(file.read_bytes())
    whole = reader.read("run", folder)["value"]

    def check(changes):
        file.write_bytes(altered_json(stored, changes))
        found = reader.read("run", folder)
        assert found["kind"] == "refused" or found["value"] == whole
        assert not reader.harm(folder, "verify")

    fuzz(JSON_CHANGES, n, check)


@OFTEN
def test_text_model(n, run, tmp_path, reader):
    file = tmp_path / "text.model"
    data = (run / "text.model").read_bytes()

    def check(changes):
        file.write_bytes(altered(data, changes))
        assert not reader.harm(file, "text model")

    fuzz(BYTE_CHANGES, n, check)


@LESS_OFTEN
@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_json_of_a_checkpoint(n, name, run, copy, reader):
    folder = copy(run)
    checkpoint = folder / "checkpoints" / "step_5"
    file = checkpoint / name
    stored = json.loads(file.read_bytes())

    def check(changes):
        file.write_bytes(altered_json(stored, changes))
        if name == "state.json":
            _signs(checkpoint)
        assert not reader.harm(folder, "checkpoint", "verify")

    fuzz(JSON_CHANGES, n, check)


@LESS_OFTEN
def test_bytes_of_weights(n, run, copy, reader):
    folder = copy(run)
    file = folder / "checkpoints" / "step_5" / "model.safetensors"
    data = file.read_bytes()
    whole = reader.read("checkpoint", folder)["value"]

    def check(changes):
        file.write_bytes(altered(data, changes))
        found = reader.read("checkpoint", folder)
        assert found["kind"] == "refused" or found["value"] == whole
        assert not reader.harm(folder, "run", "verify")

    fuzz(BYTE_CHANGES, n, check)


@LESS_OFTEN
def test_header_of_weights_with_a_right_hash(n, run, copy, reader):
    folder = copy(run)
    file = folder / "checkpoints" / "step_5" / "model.safetensors"
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    stored = json.loads(data[8 : 8 + size])

    def check(changes):
        if isinstance(changes[0][2], str):
            header = altered_json(stored, changes)
            file.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])
        else:
            file.write_bytes(altered(data, changes))
        _signs(file.parent)
        assert not reader.harm(folder, "checkpoint", "run", "verify")

    fuzz(JSON_CHANGES | BYTE_CHANGES, n, check)


@LESS_OFTEN
def test_metrics(n, run, copy, reader):
    folder = copy(run)
    file = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    data = file.read_bytes()

    def check(changes):
        if isinstance(changes[0][2], str):
            file.write_bytes(b"\n".join(altered_json([line], changes)[1:-1] for line in lines))
        else:
            file.write_bytes(altered(data, changes))
        assert not reader.harm(folder, "verify", "metrics")

    fuzz(JSON_CHANGES | BYTE_CHANGES, n, check)


@OFTEN
@pytest.mark.parametrize("format_name", FORMATS)
def test_picture(n, format_name, tmp_path, reader):
    file = tmp_path / "picture"
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_name)

    def check(changes):
        file.write_bytes(altered(buffer.getvalue(), changes))
        assert not reader.harm(file, "picture")

    fuzz(BYTE_CHANGES, n, check)


@OFTEN
@pytest.mark.parametrize("name", ["captions.jsonl", "captions.csv", "text.txt"])
def test_import(n, name, tmp_path, reader):
    folder = tmp_path / "source"
    folder.mkdir()
    picture = encode_png(np.zeros((8, 8, 3), np.uint8))
    rows = [{"file": f"{index}.png", "text": f"number {index}"} for index in range(3)]
    for row in rows:
        (folder / row["file"]).write_bytes(picture)
    data = {
        "captions.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "captions.csv": "file,text\n" + "".join(f'{row["file"]},"{row["text"]}"\n' for row in rows),
        "text.txt": "Some words.\n\nMore words.\n",
    }[name].encode()

    def check(changes):
        if isinstance(changes[0][2], str):
            (folder / name).write_bytes(b"\n".join(altered_json([row], changes)[1:-1] for row in rows))
        else:
            (folder / name).write_bytes(altered(data, changes))
        assert not reader.harm(folder, "import")

    fuzz(BYTE_CHANGES | JSON_CHANGES if name == "captions.jsonl" else BYTE_CHANGES, n, check)


@OFTEN
@pytest.mark.parametrize("name", ["pictures.tar", "pictures.tar.gz", "pictures.zip", "pictures.parquet"])
def test_import_of_an_archive(n, name, tmp_path, reader):
    picture = encode_png(np.zeros((8, 8, 3), np.uint8))
    members = {
        f"{index}.{kind}": content for index in range(3) for kind, content in (("png", picture), ("txt", b"dot"))
    }
    source = tmp_path / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as file:
            for member, content in members.items():
                file.writestr(member, content)
    elif name.endswith(".parquet"):
        pq.write_table(pa.table({"image": [picture] * 3, "text": ["dot", "line", "ring"]}), source)
    else:
        with tarfile.open(source, "w:gz" if name.endswith("gz") else "w") as file:
            for member, content in members.items():
                header = tarfile.TarInfo(member)
                header.size = len(content)
                file.addfile(header, io.BytesIO(content))
    data = source.read_bytes()
    assert reader.read("import", source)["kind"] == "read"

    def check(changes):
        source.write_bytes(altered(data, changes))
        assert not reader.harm(source, "import")

    fuzz(BYTE_CHANGES, n, check)
