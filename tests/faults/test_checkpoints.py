"""Faults 34 to 38: weights that are not what they say, or that nobody should go on from."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import os
import pickle
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import gato_lite
from gato_lite.checkpoint import NotFiniteError, list_checkpoints, load_checkpoint, save_checkpoint
from gato_lite.model import Gato
from gato_lite.run import RunConfig, RunError, read_run_config, read_vocabulary, write_run
from gato_lite.tokenizers.text import TextTokenizer, train_text_model
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train import cli
from gato_lite.train.loop import Length, Trainer
from gato_lite.train.mixture import Mixture
from gato_lite.train.settings import TrainConfig
from gato_lite.train.sources import TextSource
from gato_lite.train.training import train_run
from gato_lite.train.verify import verify

ROOT = Path(__file__).parent.parent.parent
BETWEEN_OUR_PROCESSES = {ROOT / "envs" / "host.py", ROOT / "envs" / "hosted.py"}
"""Pickles what passes through a pipe between a command and the process that runs its environments: never a file."""


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


@pytest.fixture
def newest(run: Path) -> Path:
    """The folder of the run's newest checkpoint."""
    return run / "checkpoints" / "step_2"


@pytest.fixture
def resume(whole_data: Path, run: Path, small_config: TrainConfig) -> Callable[..., object]:
    def call(**options: Any) -> object:
        length = Length(steps=3)
        return train_run(small_config, [(str(whole_data), 1.0)], run, length=length, resume=True, **options)

    return call


def rehash(folder: Path, name: str) -> None:
    """Writes into the manifest what the file is now, as whoever altered it on purpose would."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    content = (folder / name).read_bytes()
    manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def offers_the_previous(error: BaseException, run: Path) -> bool:
    return str(error).endswith(
        ". The previous checkpoint step_1 is intact: train on from it with --resume --from-step 1, "
        f"or give {run / 'checkpoints' / 'step_1'} in place of the run"
    )


# 19


@pytest.mark.parametrize("n", [6, pytest.param(256, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_flipped_bit_anywhere_in_weights_is_found(
    newest: Path, name: str, n: int, resume: Callable[..., object]
) -> None:
    file, run = newest / name, newest.parent.parent
    content, words = file.read_bytes(), f"{file}: expected SHA-256 "
    generator = np.random.default_rng(0)
    for start, stop in itertools.pairwise(np.linspace(0, len(content), n + 1).astype(int)):
        flipped = bytearray(content)
        flipped[generator.integers(start, max(stop, start + 1))] ^= 1 << int(generator.integers(8))
        file.write_bytes(flipped)
        with pytest.raises(ValueError, match=words) as caught:
            load_checkpoint(run)  # what resuming reads
        assert offers_the_previous(caught.value, run)
        if name == "model.safetensors":
            with pytest.raises(ValueError, match=words):
                gato_lite.load(run)  # what evaluation and prompts read
        assert verify(newest).problems[0].startswith(words)
    with pytest.raises(ValueError, match=words):
        resume()
    file.write_bytes(content)
    assert verify(newest).ok
    resume()


# 34


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def pickles(marker: Path, folder: Path) -> list[bytes]:
    """Files that run code when loaded: pickles of every protocol, and torch's two formats."""
    found = [pickle.dumps(Bomb(marker), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for zipped in (True, False):
        torch.save({"w": Bomb(marker)}, folder / "saved", _use_new_zipfile_serialization=zipped)
        found.append((folder / "saved").read_bytes())
    return found


def read_all(run: Path) -> None:
    """What acting reads, then what resuming reads."""
    gato_lite.load(run)
    load_checkpoint(run)


def test_a_pickle_in_place_of_any_file_is_refused(run: Path, newest: Path, tmp_path: Path) -> None:
    marker = tmp_path / "exploded"
    bombs = pickles(marker, tmp_path)
    pickle.loads(bombs[0])  # what every one of them would do
    assert marker.exists()
    marker.rmdir()
    files = [newest / name for name in ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")]
    files += [run / name for name in ("config.json", "vocabulary.json", "text.model")]
    for file in files:
        content = file.read_bytes()
        for bomb in bombs:
            file.write_bytes(bomb)
            if file.parent == newest and file.name != "manifest.json":
                rehash(newest, file.name)
            with pytest.raises(ValueError) as caught:
                read_all(run)
            if file.suffix == ".safetensors" and bomb[:1] in b"P\x80":
                assert f"{file}: expected safetensors or JSON, found a pickle, which can " in str(caught.value)
            assert not verify(run).ok
        file.write_bytes(content)
        if file.parent == newest and file.name != "manifest.json":
            rehash(newest, file.name)
    assert verify(run).ok
    assert not marker.exists()


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "weights.ckpt", "model.pkl"])
def test_a_pickle_beside_or_alone_is_refused(run: Path, newest: Path, tmp_path: Path, name: str) -> None:
    bomb = pickles(tmp_path / "exploded", tmp_path)[-2]
    (newest / "model.safetensors").rename(tmp_path / "away")
    (newest / name).write_bytes(bomb)
    words = f"{name} is a pickle, which can run code when loaded: refused"
    with pytest.raises(ValueError, match=words):
        gato_lite.load(run)
    lone = tmp_path / name
    lone.write_bytes(bomb)
    with pytest.raises(ValueError, match="found a pickle, which can run code when loaded"):
        load_checkpoint(lone)
    assert verify(lone).problems == (
        f"{lone}: expected safetensors, found a pickle, which can run code when loaded: refused",
    )
    assert not (tmp_path / "exploded").exists()


def test_no_source_of_ours_unpickles() -> None:
    """So that there is no switch to override: nothing in the package could load a pickle from a file."""
    modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    calls = {
        "pickle.load",
        "pickle.Unpickler",
        "torch.load",
        "torch.jit.load",
        "np.load",
        "numpy.load",
        "pandas.read_pickle",
        "eval",
        "exec",
    }
    found = []
    folders = ("gato_lite", "envs", "tokenizers", "train")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", None) or "", *(alias.name for alias in node.names)}
                taken = names & modules if path not in BETWEEN_OUR_PROCESSES else names & (modules - {"pickle"})
                found += [f"{path}:{node.lineno}: {name}" for name in taken]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in calls:
                allowed = any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords)
                found += [] if allowed else [f"{path}:{node.lineno}: {ast.unparse(node.func)}"]
    assert found == []


# 35


def test_truncated_weights_are_named(run: Path, newest: Path) -> None:
    path = newest / "model.safetensors"
    content = path.read_bytes()
    for n in range(64):
        length = len(content) * n // 64
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"{path}: expected {len(content)} bytes, found {length}: ") as caught:
            gato_lite.load(run)
        assert offers_the_previous(caught.value, run)
        rehash(newest, path.name)  # and where the manifest lies too
        with pytest.raises(ValueError, match=f"{path}: expected safetensors, found other content") as caught:
            gato_lite.load(run)
        assert offers_the_previous(caught.value, run)
        path.write_bytes(content)
        rehash(newest, path.name)


def lies(header: dict[str, Any], size: int) -> Iterator[dict[str, Any] | list[Any] | str]:
    """Headers that do not fit the `size` bytes after them; each begins from the true one."""
    name = min(header.keys() - {"__metadata__"})
    entry = header[name]
    begin, end = entry["data_offsets"]
    rows, *rest = entry["shape"]
    for offsets in (
        *([begin, end + 4], [begin + 4, end], [begin, end - 4], [end, begin], [begin, size + 4], [-4, end]),
        *([begin, 2**63], [2**64, 2**65], [2**70, 1], [begin], [begin, end, end], [begin, None], "0,4", [0.5, 4.5]),
    ):
        yield {**header, name: {**entry, "data_offsets": offsets}}
    for shape in (
        *([rows + 1, *rest], [0, *rest], [-rows, *rest], [2**62, 2**62], [2**63], [2**32, 2**32, 4], [10**30]),
        *([rows, None], "16", [1.5], None, {"rows": rows}, [1] * 100_000),
    ):
        yield {**header, name: {**entry, "shape": shape}}
    for kind in ("F64", "F16", "BF16", "I8", "F8_E4M3", "BOOL", "F4", "C64", "object", "", None, 32, "f32"):
        yield {**header, name: {**entry, "dtype": kind}}
    other = max(header.keys() - {"__metadata__", name})
    yield {**header, name: {**entry, "data_offsets": header[other]["data_offsets"]}}  # overlapping
    yield {**header, name: header[other]}
    yield {**header, "a hole": {"dtype": "F32", "shape": [1], "data_offsets": [size, size + 4]}}
    yield {key: value for key, value in header.items() if key != name}
    yield {**header, name: {key: value for key, value in entry.items() if key != "dtype"}}
    yield {**header, name: None}
    yield {**header, "__metadata__": {"n": {"nested": 1}}}
    yield [header]
    yield {}
    yield "[" * 100_000
    yield "{" + json.dumps(header)
    yield "\x00" * 64


def lengths(true: int, size: int) -> list[int]:
    """Lengths that a header may claim for itself."""
    return [0, 1, true - 1, true + 1, true + 8, size, size + true + 1, 10**8, 10**8 + 1, 2**31, 2**63 - 1, 2**64 - 1]


def outcome(run: Path, path: Path) -> str:
    """The words of the refusal, after seeing that they are what an error owes; "loaded" where there is none."""
    rehash(path.parent, path.name)
    try:
        gato = gato_lite.load(run)
    except ValueError as refusal:
        error = refusal
    else:
        assert all(torch.isfinite(tensor).all() for tensor in gato.state_dict().values())
        return "loaded"
    if str(path.parent) not in str(error) or "\n" in str(error) or verify(path.parent).ok:
        return f"badly told: {error}"
    return "refused" if isinstance(error, RunError) or offers_the_previous(error, run) else f"nothing offered: {error}"


def test_a_header_that_lies_is_refused(run: Path, newest: Path) -> None:
    path = newest / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    body = content[8 + length :]
    header = json.loads(content[8 : 8 + length])
    outcomes = []
    for lie in lies(header, len(body)):
        text = (lie if isinstance(lie, str) else json.dumps(lie)).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + body)
        outcomes.append(outcome(run, path))
    for claimed in lengths(length, len(content)):
        path.write_bytes(struct.pack("<Q", claimed) + content[8:])
        outcomes.append(outcome(run, path))
    assert outcomes == ["refused"] * 64
    path.write_bytes(content)
    assert outcome(run, path) == "loaded"


@pytest.mark.long
def test_random_lies_in_a_header_never_pass_for_other_weights(run: Path, newest: Path) -> None:
    path = newest / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    true = {name: tuple(tensor.shape) for name, tensor in load_file(path).items()}
    generator = np.random.default_rng(0)
    outcomes = {"refused": 0, "loaded": 0}
    for _ in range(400):
        lie = bytearray(content)
        for place in generator.integers(0, 8 + length, size=generator.integers(1, 4)):
            lie[place] = generator.choice(list(b'0123456789[]{}",:FI\x00\xff'))
        path.write_bytes(lie)
        found = outcome(run, path)
        outcomes[found] += 1
        if found == "loaded":  # a digit for itself, or a value moved within the file: names and shapes still hold
            assert {name: tuple(tensor.shape) for name, tensor in load_file(path).items()} == true
    assert outcomes["refused"] > 300


def test_training_goes_on_from_the_checkpoint_before(
    run: Path, newest: Path, resume: Callable[..., object], whole_data: Path, small_config: TrainConfig, tmp_path: Path
) -> None:
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    before = {path.name: path.read_bytes() for path in newest.iterdir()}
    with pytest.raises(ValueError, match="truncated") as caught:
        resume()
    assert offers_the_previous(caught.value, run)
    resume(from_step=1)
    aside = run / "checkpoints" / "aside_step_2"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before
    assert list_checkpoints(run) == [1, 3]
    assert verify(run).ok
    straight = tmp_path / "straight"
    train_run(small_config, [(str(whole_data), 1.0)], straight, length=Length(steps=1))
    train_run(small_config, [(str(whole_data), 1.0)], straight, length=Length(steps=3), resume=True)
    same = load_checkpoint(straight).model
    assert all(torch.equal(tensor, same[name]) for name, tensor in load_checkpoint(run).model.items())
    assert gato_lite.load(run / "checkpoints" / "step_1").config == gato_lite.load(run).config
    for expected in ("aside_step_3", "aside_step_3_2"):  # gone back from twice: neither replaces the other
        resume(from_step=1)
        assert (run / "checkpoints" / expected).is_dir()
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 2; there are those of steps 1, 3"):
        resume(from_step=2)
    with pytest.raises(ValueError, match="from_step=1 is where to resume: give resume"):
        train_run(small_config, [(str(whole_data), 1.0)], run, length=Length(steps=3), from_step=1)


# 36


def test_tensors_that_do_not_fit_are_listed(run: Path, newest: Path, resume: Callable[..., object]) -> None:
    path = newest / "model.safetensors"
    tensors = load_file(path)
    name = "transformer.norm.weight"
    tensors["another"] = tensors.pop(name)
    tensors["embedding.tokens.weight"] = tensors["embedding.tokens.weight"][:100].clone()
    save_file(tensors, path)
    rehash(newest, path.name)
    words = [
        f"missing {name} (16,)",
        "unexpected another (16,)",
        "embedding.tokens.weight expected (6148, 16), found (100, 16)",
    ]
    for load in (lambda: gato_lite.load(run), resume):
        with pytest.raises(RunError, match=f"{newest}: weights do not fit the configuration: ") as caught:
            load()
        assert str(caught.value).endswith("; ".join(words))
    assert verify(run).problems == tuple(f"{path}: {word}" for word in words)


def test_a_long_listing_says_how_many_more(run: Path, newest: Path) -> None:
    path = newest / "model.safetensors"
    n_expected = len(load_file(path))
    save_file({}, path)
    rehash(newest, path.name)
    with pytest.raises(RunError, match=f"; and {n_expected - 8} more, which `gato-lite verify` lists$"):
        gato_lite.load(run)
    assert len(verify(run).problems) == n_expected


# 37


def test_another_vocabulary_is_refused(run: Path, newest: Path, resume: Callable[..., object]) -> None:
    shipped = read_vocabulary(run, read_run_config(run))
    words = [
        ["go to the red ball", "open the blue door"] * 4,
        ["put the grey key next to it", "pick up the box"] * 4,
    ]
    texts = [TextTokenizer(train_text_model(lines, n_pieces=300)) for lines in words]
    ours, other = (Vocabulary(text) for text in texts)
    assert ours.size == other.size
    assert ours.fingerprint != other.fingerprint

    for file, data in (("text.model", other.text.model_bytes), ("vocabulary.json", other.to_json().encode())):
        kept = (run / file).read_bytes()
        (run / file).write_bytes(data)
        with pytest.raises(RunError, match="the text model is not the vocabulary's: expected SHA-256 "):
            gato_lite.load(run)
        (run / file).write_bytes(kept)
    write_run(run, read_run_config(run), other)  # both files, but another configuration's
    words_of_both = f"expected fingerprint {shipped.fingerprint}, found {other.fingerprint}"
    for load in (lambda: gato_lite.load(run), resume):
        with pytest.raises(RunError, match=words_of_both):
            load()
    assert any(words_of_both in problem for problem in verify(run).problems)


def test_a_checkpoint_of_a_run_with_another_vocabulary_is_refused(
    run: Path, newest: Path, resume: Callable[..., object]
) -> None:
    """The same shapes, but other words: every tensor fits, and every id means something else."""
    state = newest / "state.json"
    stored = json.loads(state.read_bytes())
    assert stored["vocabulary"] == read_run_config(run).vocabulary
    state.write_text(json.dumps({**stored, "vocabulary": "f" * 64}))
    rehash(newest, state.name)
    words = f"trained with another vocabulary: expected fingerprint {stored['vocabulary']}, found {'f' * 64}"
    for load in (lambda: gato_lite.load(run), resume):
        with pytest.raises(RunError, match=f"{newest}: {words}"):
            load()
    assert verify(run).problems == (f"{state}: {words}",)


# 38


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_not_saved(
    run: Path, small_config: TrainConfig, tmp_path: Path, bad: float
) -> None:
    vocabulary = Vocabulary.shipped()
    gato = Gato(small_config.model(vocabulary.size), vocabulary)
    config = RunConfig(model=gato.config, vocabulary=vocabulary.fingerprint)
    write_run(tmp_path / "lost", config, vocabulary)
    mixture = Mixture(
        [TextSource(["a few words"], vocabulary, name="text")],
        [1.0],
        vocabulary,
        tokens_per_step=64,
        context_length=32,
        seed=0,
    )
    trainer = Trainer(gato, mixture, tmp_path / "lost", small_config, Length(steps=2))
    trainer.train(0.5)
    before = {path: path.read_bytes() for path in (tmp_path / "lost" / "checkpoints").rglob("*") if path.is_file()}
    with torch.no_grad():
        gato.transformer.norm.weight[3] = bad
    trainer.step += 1
    with pytest.raises(NotFiniteError, match=r"step_2: not saved, transformer.norm.weight: .* in 1 of 16; the newest "):
        trainer.save()
    after = {path: path.read_bytes() for path in (tmp_path / "lost" / "checkpoints").rglob("*") if path.is_file()}
    assert after == before
    with pytest.raises(NotFiniteError, match="step_0: not saved, m: .* in 1 of 2; there is no checkpoint yet"):
        save_checkpoint(tmp_path / "new", 0, model={}, optimizer={"m": torch.tensor([0.0, bad])}, state={})


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_stored_weights_that_are_not_finite_are_not_used(
    run: Path, newest: Path, name: str, resume: Callable[..., object], capsys: pytest.CaptureFixture[str]
) -> None:
    path = newest / name
    tensors = load_file(path)
    key = max(tensors, key=lambda key: tensors[key].numel())
    tensors[key].view(-1)[5] = float("nan")
    save_file(tensors, path)
    rehash(newest, name)
    words = f"{path}: {key}: expected finite numbers, found NaN or infinity in 1 of {tensors[key].numel()}"
    readers = [resume] + [lambda: gato_lite.load(run)] * (name == "model.safetensors")
    for read in readers:
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            read()
        assert offers_the_previous(caught.value, run)
    assert verify(run).problems == (words,)
    if name == "model.safetensors":
        assert cli.main(["prompt", str(run), "hello"]) == cli.WRONG_INPUT
        assert words in capsys.readouterr().err
