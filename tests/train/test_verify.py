from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from safetensors.torch import save_file

from gato_lite.checkpoint import save_checkpoint
from gato_lite.config import GatoConfig, TokenSpec
from gato_lite.envs.dataset import Document, write_documents
from gato_lite.model import Gato
from gato_lite.run import RunConfig, task_format, write_run
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.verify import verify


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    vocabulary = Vocabulary.shipped()
    config = GatoConfig(
        n_layer=1, n_head=1, d_model=8, d_ff=8, d_encoder=8, context_length=32, vocab_size=vocabulary.size
    )
    gato = Gato(config, vocabulary)
    space = gym.spaces.Discrete(2)
    task = task_format("classic/Toy", space, space, TokenSpec(), "Do it.")
    write_run(run, RunConfig(model=config, tasks=(task,), vocabulary=vocabulary.fingerprint), vocabulary)
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    for step in (1, 2):
        save_checkpoint(run, step, model=gato.state_dict(), optimizer={"m": torch.zeros(2)}, state={})
    return run


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


def test_a_whole_run(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    found = verify(run)
    assert found.ok
    assert found.kind == "run"
    assert found.checked == (
        "config.json",
        "vocabulary.json",
        "task classic/Toy",
        "metrics.jsonl",
        "checkpoints/step_1",
        "checkpoints/step_2",
    )
    assert json.loads(json.dumps(found.to_json()))["problems"] == []
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_every_problem_of_a_run_is_found(run: Path) -> None:
    weights = run / "checkpoints" / "step_1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    (run / "checkpoints" / "step_2" / "state.json").unlink()
    (run / "checkpoints" / "step_3").mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    (run / "text.model").write_bytes((run / "text.model").read_bytes() + b"\0")
    expected = (
        "vocabulary.json: the text model is not the vocabulary's",
        "metrics.jsonl: line 2: expected a JSON object, found b'{\"st'",
        "step_3: expected a whole checkpoint, found no manifest.json",
        "step_1/model.safetensors: expected ",
        "step_2/state.json: expected 2 bytes, found no file",
    )
    problems = verify(run).problems
    assert len(problems) == len(expected)
    for problem, words in zip(problems, expected, strict=True):
        assert words in problem
    assert not verify(run).ok


def test_a_damaged_configuration(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    for change, words in (
        ({"vocabulary": "00"}, "expected fingerprint 00, found "),
        ({"format_version": 9}, "9"),
        ({"model": {**config["model"], "n_layer": -1}}, "n_layer must be at least 1"),
        ({"surprise": 1}, "surprise"),
        ({"tasks": [{**config["tasks"][0], "action_space": {"type": "Nonsense"}}]}, "task classic/Toy"),
    ):
        (run / "config.json").write_text(json.dumps({**config, **change}))
        problems = verify(run).problems
        assert len(problems) == 1
        assert re.search(r"\.json: ", problems[0])
        assert words in problems[0]
    (run / "config.json").unlink()
    assert "expected the file" in verify(run).problems[0]


def test_weights_of_another_model(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["model"]["d_ff"] = 16
    (run / "config.json").write_text(json.dumps(config))
    problems = verify(run).problems
    assert problems
    assert all("expected (" in problem for problem in problems)


def test_weights_that_are_not_numbers(run: Path) -> None:
    path = run / "weights.safetensors"
    save_file({"w": torch.tensor([1.0, float("nan")])}, path)
    (run / "config.json").unlink()
    found = verify(path)
    assert (found.kind, found.checked) == ("weights", ("weights.safetensors",))
    assert found.problems == (f"{path}: w: expected finite numbers, found NaN or infinity in 1 of 2",)


def test_a_checkpoint_is_judged_by_its_run(run: Path) -> None:
    folder = run / "checkpoints" / "step_2"
    for path in (folder, folder / "state.json"):
        assert verify(path).ok
        assert verify(path).kind == "checkpoint"
    state = {"vocabulary": "of another run"}
    save_checkpoint(run, 2, model={"w": torch.zeros(2)}, optimizer={}, state=state)
    problems = verify(folder).problems
    assert f"{folder / 'model.safetensors'}: unexpected w (2,)" in problems
    assert f"{folder / 'state.json'}: trained with another vocabulary: expected fingerprint " in problems[-1]
    assert verify(run).problems == problems


def test_a_folder_of_runs_and_datasets(run: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "data" / "texts", [Document(image=None, text="hello")], name="texts")
    (tmp_path / "notes").mkdir()
    found = verify(tmp_path)
    assert (found.kind, found.ok) == ("folder", True)
    assert found.checked[:3] == ("data/texts/dataset.json", "data/texts/part-000000.parquet", "run/config.json")
    (run / "text.model").unlink()
    (tmp_path / "data" / "texts" / "part-000000.parquet").unlink()
    assert len(verify(tmp_path).problems) == 2


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "model.pt")
    (problem,) = verify(tmp_path / "model.pt").problems
    assert problem.endswith("model.pt: expected safetensors, found a pickle, which can run code when loaded: refused")


def test_a_dataset(tmp_path: Path) -> None:
    out = tmp_path / "texts"
    write_documents(out, [Document(image=None, text="hello", split="train", group=None)], name="texts")
    found = verify(out)
    assert found.ok
    assert found.kind == "dataset"
    assert found.checked == ("dataset.json", "part-000000.parquet")
    part = out / "part-000000.parquet"
    part.write_bytes(part.read_bytes()[::-1])
    assert "part-000000.parquet: expected SHA-256" in verify(out).problems[0]


def test_what_is_neither(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a run .*, a dataset .* or a folder of them, found none of them"):
        verify(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a run, .*, found nothing"):
        verify(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file: expected a run, .* found another file"):
        verify(tmp_path / "file")
