"""Publishing a run, and what can be done with a published one."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gato_lite
from gato_lite import shelf
from gato_lite.checkpoint import load_checkpoint
from gato_lite.run import read_run_config
from gato_lite.train import ship_run
from gato_lite.train.cli import main
from gato_lite.train.recipes import generalist, words
from gato_lite.train.settings import with_settings
from gato_lite.train.ship_run import DOCS, MOST_BYTES, publish, training_command
from gato_lite.train.verify import verify

COMMAND = "gato-lite train quick --data data/toy-Taxi emoji=0.5 --out runs/first --steps 2"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a small run was trained and scored."""
    here = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr("gato_lite.train.loop.matmul_peak", lambda _device, precision: 1e9)
        assert main("record toy/Taxi --episodes 3 --workers 1 --out data".split()) == 0
        assert main(COMMAND.split()[1:]) == 0
        words = "eval runs/first --episodes 2 --documents 4 --workers 1 --json eval.json"
        assert main(words.split()) == 0
    return here


@pytest.fixture
def here(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder to stand in, and an empty shelf."""
    monkeypatch.chdir(first)
    monkeypatch.setattr(shelf, "RUNS", tmp_path / "shelf")
    return first


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_is_published(here: Path, tmp_path: Path) -> None:
    run = publish(Path("runs/first"), "small", tmp_path)
    found = contents(run)
    names = ("manifest.json", "model.safetensors", "optimizer.safetensors", "state.json")
    assert sorted(found) == [
        *(f"checkpoints/step_2/{name}" for name in names),
        "config.json",
        "text.model",
        "vocabulary.json",
    ]
    assert (
        found["checkpoints/step_2/model.safetensors"]
        == Path("runs/first/checkpoints/step_2/model.safetensors").read_bytes()
    )
    assert load_checkpoint(run).optimizer == {}
    assert {file.stat().st_mode & 0o777 for file in (run / "checkpoints" / "step_2").iterdir()} == {0o644}
    assert verify(run).ok
    training = read_run_config(run).training
    assert training["data"] == [["data/toy-Taxi", 1.0], ["emoji", 0.5]]
    assert training["published"] == "small"
    assert publish(Path("runs/first"), "small", tmp_path) == run
    assert contents(run) == found, "the same run gives the same bytes"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]


def test_no_place_on_the_machine_is_published(here: Path, tmp_path: Path) -> None:
    copy = shutil.copytree("runs/first", tmp_path / "copy")
    stored = json.loads((copy / "config.json").read_text("utf-8"))
    stored["training"] |= {"text_model": "/elsewhere/own.model", "init": "/elsewhere/first"}
    (copy / "config.json").write_text(json.dumps(stored), "utf-8")
    training = read_run_config(publish(copy, "small", tmp_path)).training
    assert (training["text_model"], training["init"]) == ("own.model", "first")


def test_one_command_publishes_and_writes_the_card(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = tmp_path / "docs" / "card.md"
    words = ["runs/first", "--scores", "eval.json", "--out", str(shelf.RUNS), "--card", str(card), "--machine", "a PC"]
    ship_run.main([*words, "--command", COMMAND])
    run = shelf.RUNS / "generalist"
    assert re.fullmatch(rf"{run}: 9\.\d MB; its card: {card}\n", capsys.readouterr().out)
    weights = (run / "checkpoints" / "step_2" / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in card.read_text("utf-8")
    assert f"`{COMMAND}`, on a PC: 2 steps" in card.read_text("utf-8")
    assert "](generalist.svg)" in card.read_text("utf-8")
    assert card.with_name("generalist.svg").read_text("utf-8").count("<!-- all tasks, 1 -->") == 1
    loaded, trained = gato_lite.load("generalist").state_dict(), gato_lite.load("runs/first").state_dict()
    assert all(torch.equal(loaded[name], trained[name]) for name in trained)
    with pytest.raises(SystemExit, match="generalist' is published already; give the run that it was made of"):
        ship_run.main(["generalist", *words[1:], "--command", COMMAND])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="toy-Taxi: expected a folder, found nothing; the card counts what the run"):
        ship_run.main([str(here / "runs" / "first"), *words[3:], "--command", COMMAND])


def test_a_published_run_is_begun_from_and_not_resumed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = publish(Path("runs/first"), "generalist", shelf.RUNS)
    words = ["train", "quick", "--data", "data", "--steps", "1"]
    before = contents(run)
    assert main([*words, "--out", str(run), "--resume"]) == 2
    message = f"'{run}' is a published run, which has no optimizer state to go on from; begin another run with its"
    assert capsys.readouterr().err.startswith(f"gato-lite: error: {message} weights: --init {run} --out RUN")
    assert {name: data for name, data in contents(run).items() if name != ".lock"} == before
    assert main([*words, "--out", str(shelf.RUNS / "new"), "--init", "generalist"]) == 0
    training = read_run_config(shelf.RUNS / "new").training
    assert training["init"] == "generalist"
    assert "published" not in training


def test_what_is_refused_changes_nothing(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = publish(Path("runs/first"), "small", tmp_path)
    before = contents(run)
    monkeypatch.setattr(ship_run, "MOST_BYTES", 5_000_000)
    expected = r"may have 5 MB, all of it as float32; 'runs/first' would have 9\.\d MB: train a smaller preset"
    with pytest.raises(ValueError, match=expected):
        publish(Path("runs/first"), "small", tmp_path)
    assert contents(run) == before
    (tmp_path / "docs").mkdir()
    with pytest.raises(FileExistsError, match="docs' is no published run; delete it yourself, or take another name"):
        publish(Path("runs/first"), "docs", tmp_path)
    with pytest.raises(ValueError, match="expected a name without folders, got 'a/b'"):
        publish(Path("runs/first"), "a/b", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "small"]


def test_the_command_is_made_of_the_recipe() -> None:
    training: dict[str, Any] = {**asdict(generalist()), "minutes": 120.0, "steps": None, "data": []}
    command = "gato-lite train generalist --minutes 120 --out runs/generalist"
    assert training_command(training, "generalist") == command
    other = {**training, "seed": 3, "preset": "lite-5m", "minutes": None, "steps": 7, "init": "/elsewhere/first"}
    assert training_command(other, "generalist") == (
        "gato-lite train generalist --preset lite-5m --seed 3 --steps 7 --init first --out runs/generalist"
    )
    own = {**training, "text_model": "/elsewhere/en-it.model"}
    assert " --text-model en-it.model --out " in training_command(own, "generalist")
    recorded = [["data/generalist/toy-Taxi", 0.25], ["emoji", 2.0], ["text", 0.6]]
    assert training_command({**training, "data": recorded}, "generalist") == command
    added = [["/elsewhere/en-it", 6.0], ["data/easy-vqa", 0.5]]
    assert " --minutes 120 --add data/en-it=6 data/easy-vqa=0.5 --out " in training_command(
        {**training, "data": recorded + added}, "generalist"
    )
    assert " --data data/en-it=6 data/easy-vqa=0.5 --out " in training_command(
        {**training, "data": added}, "generalist"
    )
    assert " --add emoji=0 data/en-it=6 data/easy-vqa=0.5 --out " in training_command(
        {**training, "data": [recorded[0], recorded[2], *added]}, "generalist"
    )
    mine = {**training, "data": [*recorded, ["/home/me/text", 1.0], ["my data", 2.5]]}
    assert " --add data/text=1 'my data'=2.5 --out " in training_command(mine, "generalist")
    heavier = {**training, "data": [recorded[0], ["emoji", 2.0], ["text", 3.0]]}
    assert " --minutes 120 --add text=3 --out " in training_command(heavier, "generalist")
    in_cpu = {**training, "minutes": None, "cpu_minutes": 96.0}
    assert training_command(in_cpu, "generalist").endswith(" generalist --cpu-minutes 96 --out runs/generalist")
    assert " words --minutes 9 --data data/en-it=6 " in training_command(
        {**asdict(words()), "minutes": 9.0, "data": added}, "words"
    )
    changed = {"optimiser": "adamw", "patch_size": None, "compile": False}
    said = training_command({**training, **changed}, "generalist")
    assert said == (
        "gato-lite train generalist --minutes 120 --set patch_size=null optimiser=adamw compile=False"
        " --out runs/generalist"
    )
    settings = said.partition("--set ")[2].partition(" --out")[0].split()
    assert with_settings(generalist(), settings) == replace(generalist(), **changed)
    with pytest.raises(ValueError, match="Unknown recipe 'generalistt'. Did you mean generalist"):
        training_command(training, "generalistt")


@pytest.mark.parametrize("run", sorted(shelf.RUNS.glob("*/")), ids=lambda run: run.name)
def test_what_comes_with_the_package_is_whole_and_has_its_card(run: Path) -> None:
    assert verify(run).ok
    files = contents(run)
    assert sum(map(len, files.values())) <= MOST_BYTES
    config = json.loads(files["config.json"])
    assert config["training"]["published"] == run.name
    assert not [name for name, _ in config["training"]["data"] if Path(name).is_absolute()]
    (weights,) = (data for name, data in files.items() if name.endswith("model.safetensors"))
    assert hashlib.sha256(weights).hexdigest() in (DOCS / f"{run.name}.md").read_text("utf-8")
