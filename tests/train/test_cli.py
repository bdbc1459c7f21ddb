"""The command line on tiny data, in this process; two tests start another one."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image

import gato_lite
from gato_lite import fitting
from gato_lite.envs.catalogue import find_tasks
from gato_lite.envs.dataset import Dataset, Document, Turn, write_documents
from gato_lite.envs.reference import measure_all
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.text import TextTokenizer
from gato_lite.train import cli, doctor, players
from gato_lite.train.cli import COMMANDS, main
from gato_lite.train.commands import eval as eval_command
from gato_lite.train.commands import prompt
from gato_lite.train.recipes import RECIPES

NO_PICTURES = (
    "no pictures are known that '{}' was trained on: fitting into squares of 32 pixels, as the shipped ones; "
    "--image-size N takes others\n"
)


def told(capsys, *args: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, *args: object, code: int = 2) -> str:
    """The one line that a wrong command writes."""
    found, _, err = told(capsys, *args)
    assert found == code, err
    assert err.startswith("gato-lite: error: "), err
    assert err.count("\n") == 1, err
    return err.removeprefix("gato-lite: error: ").rstrip("\n")


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("poems")
    (folder / "fog.txt").write_text("The fog comes\non little cat feet.\n" * 20, "utf-8")
    (folder / "sea.txt").write_text("The sea is never still.\n" * 20, "utf-8")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, texts: Path) -> Path:
    """A run of three steps on text."""
    root = tmp_path_factory.mktemp("runs")
    assert main(["data", "import", str(texts), "--out", str(root / "poems")]) == 0
    arguments = ["--data", f"{root / 'poems'}=2", "--out", str(root / "run"), "--steps", "3"]
    assert main(["train", "quick", *arguments]) == 0
    return root / "run"


# Help


def test_help_lists_every_command(capsys):
    code, out, err = told(capsys, "--help")
    assert (code, err) == (0, "")
    assert [line.split("  ")[1] for line in out.splitlines() if line.startswith("  ")][:-1] == list(COMMANDS)


def test_no_command_is_wrong_input(capsys):
    assert told(capsys)[0] == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_ends_with_an_example(capsys, name):
    code, out, err = told(capsys, *name.split(), "--help")
    assert (code, err) == (0, "")
    module = importlib.import_module(f"gato_lite.train.commands.{COMMANDS[name].module}")
    assert out.endswith("\nExample:\n  " + "\n  ".join(module.EXAMPLE.splitlines()) + "\n")
    assert f"gato-lite {name}" in module.EXAMPLE


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_parses(name):
    module = importlib.import_module(f"gato_lite.train.commands.{COMMANDS[name].module}")
    for line in module.EXAMPLE.splitlines():
        if not line.startswith("gato-lite "):
            continue
        import shlex

        found, rest = cli._command(shlex.split(line)[1:])
        other = importlib.import_module(f"gato_lite.train.commands.{COMMANDS[found].module}")
        assert isinstance(cli._read(found, other.Options, other.EXAMPLE, rest), other.Options)


def test_help_is_light():
    program = (
        "import sys, time; start = time.perf_counter(); from gato_lite.train.cli import main; main(['--help'])\n"
        "heavy = {'torch', 'gymnasium', 'numpy', 'pyarrow', 'minigrid', 'rich', 'msgspec'} & set(sys.modules)\n"
        "print(sorted(heavy), time.perf_counter() - start < 1.0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] True"


def test_version(capsys):
    assert told(capsys, "--version") == (0, "gato-lite 0.1.0\n", "")


def test_a_group_lists_its_commands(capsys):
    code, out, _ = told(capsys, "data", "--help")
    assert code == 0
    assert "data info" in out
    assert "doctor" not in out


# Wrong input


def test_unknown_names_give_the_closest(capsys, tmp_path):
    assert refused(capsys, "verifi").startswith("Unknown command 'verifi'. Did you mean verify? Known: bench, data, de")
    assert refused(capsys, "data", "inof").startswith("Unknown 'gato-lite data' command 'inof'. Did you mean info?")
    out = tmp_path / "run"
    assert (
        refused(capsys, "train", "quik", "--out", out)
        == f"Unknown recipe 'quik'. Did you mean quick? Known: {', '.join(sorted(RECIPES))}"
    )
    message = refused(capsys, "train", "quick", "--out", out, "--preset", "lite-3m")
    assert message.startswith("Unknown preset 'lite-3m'. Did you mean lite-5m, ")
    message = refused(capsys, "train", "quick", "--out", out, "--data", "emojis")
    assert message.startswith("Unknown dataset 'emojis'. Did you mean emoji?")
    assert not out.exists()


def test_what_is_wrong_with_documents_shows_before_anything_is_recorded(capsys, tmp_path):
    recordings, out = tmp_path / "recordings", tmp_path / "run"
    words = ["--recordings", recordings, "--out", out]
    message = refused(capsys, "train", "control", "--add", "emoji=0", *words)
    assert message.startswith("emoji=0: expected a shipped dataset that is trained on to be left out (there is none)")
    write_documents(tmp_path / "wordnet", [Document(None, "able: having the means")], name="wordnet")
    message = refused(capsys, "train", "generalist", "--add", tmp_path / "wordnet", *words)
    assert message.startswith("'text' and 'wordnet' share documents and hold out different ones")
    assert not recordings.exists()
    assert not out.exists()


def test_options_that_do_not_fit(capsys):
    message = refused(capsys, "verify", "emoji", "--jsn")
    assert message.startswith("Unrecognized options: --jsn; Perhaps you meant: --json")
    assert message.endswith("; see gato-lite verify --help")
    assert refused(capsys, "verify").startswith("Missing from gato-lite verify: PATH")
    assert "'maybe'" in refused(capsys, "data", "import", "x", "--out", "y", "--on-bad", "maybe")


def test_what_is_not_there(capsys, tmp_path):
    assert refused(capsys, "prompt", tmp_path, "Hello").startswith(f"'{tmp_path}' holds no run: expected the file")
    assert refused(capsys, "eval", tmp_path).startswith(f"'{tmp_path}' holds no run")
    assert refused(capsys, "inspect", tmp_path / "no").endswith("expected a folder, found nothing")
    assert "expected a run (config.json)" in refused(capsys, "verify", tmp_path)
    assert refused(capsys, "data", "info", tmp_path).endswith("(dataset.json), found none")
    assert "found nothing" in refused(capsys, "data", "import", tmp_path / "no", "--out", tmp_path / "out")


def test_lengths_that_make_no_sense(capsys, tmp_path):
    out = tmp_path / "run"
    assert "give one of steps, minutes and cpu_minutes" in refused(
        capsys, "train", "quick", "--out", out, "--steps", 1, "--minutes", 1
    )
    assert "--resume or --overwrite, got both" in refused(
        capsys, "train", "quick", "--out", out, "--resume", "--overwrite"
    )
    assert "positive number of minutes" in refused(capsys, "demo", "--out", out, "--minutes", 0)


@pytest.mark.parametrize(
    "error, code, message",
    [
        (ValueError("a\nb"), 2, "a b"),
        (FileNotFoundError(2, "No such file or directory", "x.txt"), 2, "x.txt: no such file or directory"),
        (OSError(28, "No space left on device", "x"), 1, "x: no space left on device"),
        (
            ModuleNotFoundError("No module named 'minigrid'", name="minigrid.core"),
            2,
            "the package minigrid is missing: ",
        ),
        (ImportError("films need ffmpeg: pip install 'gato_lite[video]'"), 2, "films need ffmpeg: pip install"),
    ],
)
def test_what_a_user_can_mend_is_one_line(capsys, monkeypatch, error, code, message):
    def fail(*_):
        raise error

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert refused(capsys, "doctor", code=code).startswith(message)
    monkeypatch.setenv("GATO_LITE_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["doctor"])


@pytest.mark.parametrize(
    "bug", [TypeError("x"), KeyError("x"), RuntimeError("x"), ModuleNotFoundError(name="gato_lite.x")]
)
def test_a_bug_keeps_its_traceback(monkeypatch, bug):
    def fail(*_):
        raise bug

    monkeypatch.setattr(cli, "_dispatch", fail)
    with pytest.raises(type(bug)):
        main(["doctor"])


def test_what_our_own_code_raises_is_one_line(capsys, monkeypatch):
    class Odd(gym.Space):
        pass

    monkeypatch.setattr(cli, "_dispatch", lambda _: SpaceTokenizer(Odd()))
    assert "Odd" in refused(capsys, "doctor")
    monkeypatch.setattr(cli, "_dispatch", lambda _: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError):  # torch raised it: a bug
        main(["doctor"])


@pytest.mark.parametrize("line, ours", [("raise RuntimeError(", True), ("torch.mm(a, b)", False)])
def test_what_a_worker_raised(line, ours):
    class _RemoteTraceback(Exception):  # noqa: N818 - as multiprocessing names it
        pass

    file = Path(cli.__file__).parent.parent / "envs" / "blocks.py"
    error = RuntimeError("the expert failed too often")
    error.__cause__ = _RemoteTraceback(
        f'  File "x.py", line 1, in run\n    f()\n  File "{file}", line 2, in f\n    {line}\n'
    )
    assert cli._explain(error) == (("the expert failed too often", 1) if ours else None)


def test_ctrl_c_is_one_line(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupt)
    assert told(capsys, "doctor") == (130, "", "gato-lite: interrupted\n")


# Commands


def test_doctor(capsys):
    code, out, _ = told(capsys, "doctor", "--json")
    assert code == 0
    assert json.loads(out)["versions"]["gato_lite"] == "0.1.0"


def test_data_info_and_check(capsys):
    code, out, err = told(capsys, "data", "info", "emoji")
    assert (code, err) == (0, "")
    assert "twemoji" in out
    assert json.loads(told(capsys, "data", "info", "emoji", "--json")[1])["kind"] == "documents"
    code, out, _ = told(capsys, "data", "check", "emoji")
    assert code == 0
    assert out.endswith("emoji: whole\n")


def test_import_refuses_to_overwrite(capsys, texts, tmp_path):
    out = tmp_path / "poems"
    code, written, _ = told(capsys, "data", "import", texts, "--out", out, "--licence", "CC0-1.0")
    assert (code, written) == (0, f"{out}: 2 documents, 1 of them held out to score on (ability: text), 0 left out\n")
    before = (out / "dataset.json").read_bytes()
    assert "--overwrite" in refused(capsys, "data", "import", texts, "--out", out)
    assert (out / "dataset.json").read_bytes() == before
    assert told(capsys, "data", "import", texts, "--out", out, "--overwrite")[0] == 0


def test_a_damaged_dataset(capsys, texts, tmp_path):
    out = tmp_path / "poems"
    assert told(capsys, "data", "import", texts, "--out", out)[0] == 0
    part = next(out.glob("part-*"))
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    for command in (["data", "check"], ["verify"]):
        code, written, err = told(capsys, *command, out)
        assert code == 1
        assert f"{part}: expected SHA-256" in written
        assert "1 problem" in err
    code, written, err = told(capsys, "verify", out, "--json")
    assert code == 1
    assert json.loads(written)["ok"] is False


def test_text_model(capsys, tmp_path):
    out = tmp_path / "small.model"
    assert "expected text to learn from" in refused(capsys, "data", "text-model", "--out", out)
    code, written, _ = told(capsys, "data", "text-model", "emoji", "--pieces", 400, "--out", out)
    assert code == 0
    assert written.startswith(f"{out}: 400 pieces learnt from ")
    assert [path.name for path in tmp_path.iterdir()] == ["small.model"]
    assert "--overwrite" in refused(capsys, "data", "text-model", "emoji", "--out", out)
    (tmp_path / "short.txt").write_text("hi")
    assert "could not learn" in refused(capsys, "data", "text-model", tmp_path / "short.txt", "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_text_model_learns_prompts_too(capsys, tmp_path):
    rows = [Document(None, "oo" * 40, prompt="zwitschern " * 9, before=(Turn(prompt="quaken " * 9),))] * 9
    write_documents(tmp_path / "data", rows, name="data")
    out = tmp_path / "own.model"
    assert told(capsys, "data", "text-model", tmp_path / "data", "--pieces", 290, "--out", out)[0] == 0
    text = TextTokenizer.from_file(out)
    assert max(len(text.encode(word)) for word in ("zwitschern", "quaken")) < 6


def test_prompts_from_a_file(capsys, run, tmp_path, monkeypatch):
    picture = tmp_path / "red.png"
    Image.new("RGB", (40, 30), "red").save(picture)
    asked = [{"prompt": "The fog"}, {"prompt": "", "image": str(picture), "before": [{"prompt": "?", "text": "red"}]}]
    requests = tmp_path / "requests.jsonl"
    requests.write_text("\n\n".join(map(json.dumps, asked)), "utf-8")
    code, out, err = told(capsys, "prompt", run, "--requests", requests, "--max-tokens", 5)
    assert (code, err) == (0, NO_PICTURES.format(run))
    first, second = map(json.loads, out.splitlines())
    assert first["text"] == told(capsys, "prompt", run, "The fog", "--max-tokens", 5)[1].removesuffix("\n")
    assert second["image"] == str(picture)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(asked[0])))
    assert json.loads(told(capsys, "prompt", run, "--requests", "-", "--max-tokens", 5)[1]) == first
    chosen = json.loads(
        told(capsys, "prompt", run, "--requests", requests, "--choice", "a", "--choice", "b")[1].split("\n")[0]
    )
    assert max(chosen["log_likelihoods"], key=chosen["log_likelihoods"].get) == chosen["text"]


def test_a_bad_request_has_an_error_of_its_own(capsys, run, tmp_path, monkeypatch):
    monkeypatch.setattr(prompt, "BATCH", 3)
    monkeypatch.setattr(prompt, "MOST_CHARACTERS", 3000)
    no_picture = tmp_path / "no.png"
    requests = tmp_path / "requests.jsonl"
    lines = [
        '{"prompt": "The fog"}',
        '{"promt": "b"}',
        "",
        json.dumps({"prompt": "a", "image": str(no_picture)}),
        json.dumps({"prompt": "boat " * 500}),
        json.dumps({"prompt": "x" * 9000}),
        '{"prompt": "The"}',
        '{"prompt": "\udcff"}',
        '{"prompt": "a", "text": "b"}',
        '{"prompt": "The fog"}',
    ]
    requests.write_text("\n".join(lines), "utf-8", "surrogateescape")
    code, out, err = told(capsys, "prompt", run, "--requests", requests, "--max-tokens", 5)
    assert (code, err) == (1, "")
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer.get("line") for answer in answers] == [None, 2, 4, 5, 6, None, 8, 9, None]
    for answer, expected in zip(
        [answer["error"] for answer in answers if "error" in answer],
        [
            'expected a request such as {"prompt": "…"}: Object contains unknown field `promt`',
            f"{no_picture}: no such file or directory",
            "the prompt is 503 tokens, but the context holds 256 with the answer",
            "expected at most 3,000 characters, got more; shorten it",
            'expected a request such as {"prompt": "…"}: \'utf-8\' codec',
            "expected `text` in the turns of `before` alone",
        ],
        strict=True,
    ):
        assert answer.startswith(expected)
    alone = told(capsys, "prompt", run, "The fog", "--max-tokens", 5)[1].removesuffix("\n")
    assert answers[0] == answers[-1] == {"prompt": "The fog", "image": None, "text": alone, "seed": 0}
    refused(capsys, "prompt", run, "--requests", requests, "--temperature", -1)


def test_requests_are_answered_while_others_are_still_to_come(capsys, run, monkeypatch):
    class Slow(io.StringIO):
        def readline(self, size=-1):
            line = super().readline(size)
            heard.append(capsys.readouterr().out.count("\n"))
            return line

    heard = []
    monkeypatch.setattr(prompt, "BATCH", 2)
    monkeypatch.setattr("sys.stdin", Slow('{"prompt": "a"}\n' * 4))
    assert main(["prompt", str(run), "--requests", "-", "--max-tokens", "2"]) == 0
    assert heard == [0, 0, 2, 0, 2]


def test_chat(capsys, run, tmp_path, monkeypatch):
    picture = tmp_path / "red.png"
    Image.new("RGB", (40, 30), "red").save(picture)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"The fog\n\n/image {picture}\nand?\n"))
    code, out, err = told(capsys, "prompt", run, "--chat", "--max-tokens", 4, "--json")
    assert (code, err) == (0, NO_PICTURES.format(run))
    turns = [json.loads(line) for line in out.splitlines()]
    assert [turn["prompt"] for turn in turns] == ["The fog", "and?"]
    assert turns[0]["text"] == told(capsys, "prompt", run, "The fog", "--max-tokens", 4)[1].removesuffix("\n")


def test_a_request_may_have_several_pictures(capsys, run, tmp_path):
    files = [tmp_path / f"{name}.png" for name in ("red", "blue")]
    for file in files:
        Image.new("RGB", (40, 30), file.stem).save(file)
    red, blue = map(str, files)
    asked = [{"prompt": "and?", "image": [red, blue]}, {"prompt": "and?", "image": blue, "before": [{"image": red}]}]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*asked, {"image": []}]))
    how = ["--max-tokens", 3]
    code, out, _ = told(capsys, "prompt", run, "--requests", tmp_path / "asked.jsonl", *how)
    assert code == 0
    first, second, none = map(json.loads, out.splitlines())
    alone = told(capsys, "prompt", run, "and?", "--image", red, "--image", blue, "--json", *how)[1]
    assert first == json.loads(alone)
    assert second["text"] == first["text"]
    assert none["text"] == told(capsys, "prompt", run, "", *how)[1].removesuffix("\n")


@pytest.mark.parametrize("json_too", [True, False])
def test_a_chat_goes_on_after_what_it_cannot_answer(capsys, run, tmp_path, monkeypatch, json_too):
    how = ["prompt", run, "--chat", "--max-tokens", 4, *(["--json"] if json_too else [])]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"The fog\n/image {tmp_path / 'none.png'}\n{'fog ' * 9999}\nand?\n"))
    code, out, err = told(capsys, *how)
    monkeypatch.setattr("sys.stdin", io.StringIO("The fog\nand?\n"))
    assert code == 1
    expected = told(capsys, *how)[1]
    if json_too:
        kept = [line for line in out.splitlines() if "error" not in json.loads(line)]
        assert len(out.splitlines()) == len(kept) + 2
        assert "none.png" in out
        assert kept == expected.splitlines()
    else:
        assert out == expected
        assert "none.png" in err
        assert "shorten the text" in err


def test_prompt(capsys, run, tmp_path):
    code, out, err = told(capsys, "prompt", run, "The fog", "--max-tokens", 5, "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["prompt"] == "The fog"
    assert told(capsys, "prompt", run, "The fog", "--max-tokens", 5)[1] == answer["text"] + "\n"
    picture = tmp_path / "red.png"
    Image.new("RGB", (40, 30), "red").save(picture)
    code, out, _ = told(capsys, "prompt", run, "--image", picture, "--max-tokens", 3, "--json")
    assert code == 0
    assert json.loads(out)["image"] == str(picture)
    code, out, _ = told(
        capsys, "prompt", run, "--image", picture, "--image", picture, "and", "--choice", "a", "--choice", "b"
    )
    assert (code, out.strip()) in {(0, "a"), (0, "b")}
    asked = ["prompt", run, "The fog", "--choice", "comes", "--choice", "never", "--json"]
    nats = json.loads(told(capsys, *asked)[1])["log_likelihoods"]
    given = [[gato_lite.Exchange(prompt="The fog")]]
    assert list(nats) == ["comes", "never"]
    assert list(nats.values()) == gato_lite.log_likelihoods(gato_lite.load(run), given, list(nats))[0].tolist()
    whole = told(capsys, "prompt", run, "The fog", "--max-tokens", 9)[1].removesuffix("\n")
    assert told(capsys, "prompt", run, "The fog", "--max-tokens", 9, "--stop", whole[4:6])[1] == whole[:4] + "\n"
    searched = told(capsys, "prompt", run, "The fog", "--max-tokens", 5, "--beams", 3)
    assert searched == (0, gato_lite.generate(gato_lite.load(run), "The fog", max_tokens=5, beams=3) + "\n", "")
    assert "temperature" in refused(capsys, "prompt", run, "The fog", "--temperature", -1)
    assert refused(capsys, "prompt", run, "The fog", "--beams", 2, "--choice", "a").endswith("with it, got choices")
    for beams in (0, 2):
        assert "--beams answers one prompt or --requests, got --chat" in refused(
            capsys, "prompt", run, "--chat", "--beams", beams
        )
    assert "expected one of TEXT or --image, --chat, --requests" in refused(capsys, "prompt", run, "x", "--chat")
    assert "expected a whole picture" in refused(capsys, "prompt", run, "--image", run / "config.json")


def test_verify_and_inspect_a_run(capsys, run):
    code, out, _ = told(capsys, "verify", run)
    assert code == 0
    assert "a whole run" in out
    assert "without environments" in refused(capsys, "inspect", run)
    assert json.loads(told(capsys, "inspect", run.parent / "poems", "--json")[1])[0]["n_tokens"] > 10


@pytest.fixture
def precisions(monkeypatch) -> list[str]:
    """Fills with what models are loaded to act in."""
    asked: list[str] = []
    load = gato_lite.load

    def noted(run, **how):
        asked.append(how["precision"])
        return load(run, **how)

    for module in (gato_lite.run, players):
        monkeypatch.setattr(module, "load", noted)
    return asked


def test_a_run_is_evaluated_in_bfloat16(capsys, run, tmp_path, precisions):
    """Its episodes, its documents and its films."""
    scores = tmp_path / "scores.json"
    words = ["eval", run, "--tasks", "toy/FrozenLakeNotSlippery", "text/*", "--episodes", 1, "--workers", 1]
    assert told(capsys, *words, "--json", scores)[0] == 0
    code, out, err = told(
        capsys, *words, "--precision", "bfloat16", "--against", scores, "--video", tmp_path, "--json", "-"
    )
    assert (code, precisions) == (0, ["float32"] * 2 + ["bfloat16"] * 3)
    assert json.loads(scores.read_text())["precision"] == "float32"
    assert json.loads(out)["precision"] == "bfloat16"
    assert f"{scores}: acted in float32, this evaluation in bfloat16\n" in err


def test_a_run_is_not_overwritten_but_resumed(capsys, run, tmp_path):
    arguments = ["--data", f"{run.parent / 'poems'}=2", "--out", run]
    other = ["--data", run.parent / "poems", "--out", run, "--steps", 4, "--resume"]
    assert "--resume needs the recipe, options and data that began the run: data was" in refused(
        capsys, "train", "quick", *other
    )
    assert "--resume" in refused(capsys, "train", "quick", *arguments, "--steps", 4)
    assert told(capsys, "train", "quick", *arguments, "--steps", 4, "--resume")[0] == 0
    assert (run / "checkpoints" / "step_4").is_dir()
    code, out, _ = told(capsys, "eval", run)
    assert (code, "text/poems" in out, "bits per byte" in out) == (0, True, True)
    assert "beams must be in 1..64, got 0" in refused(capsys, "eval", run, "--beams", 0)
    assert "Unknown dataset of documents that the run has 'vision/x'" in refused(
        capsys, "eval", run, "--tasks", "vision/x"
    )
    code, out, err = told(capsys, "eval", run, "--tasks", "vision/*", "text/*")
    assert (code, "text/poems" in out) == (0, True)
    assert err.startswith("gato-lite: Unknown dataset of documents that the run has 'vision/*'. Known: text/poems")
    poems = run.parent / "poems"
    poems.rename(run.parent / "moved")
    try:
        for more in ([], ["--tasks", "text/*"]):
            assert f"cannot be read: {poems} (not found); run this in the folder" in refused(capsys, "eval", run, *more)
        played = ["--tasks", "toy/FrozenLakeNotSlippery", "text/*", "--episodes", 1, "--workers", 1]
        code, out, err = told(capsys, "eval", run, *played)
        assert (code, "FrozenLakeNotSlippery" in out, f"{poems} (not found)" in err) == (0, True, True)
    finally:
        (run.parent / "moved").rename(poems)


def test_pictures_of_ones_own(capsys, tmp_path):
    generator = np.random.default_rng(0)
    for name in ("red", "blue", "green"):
        pixels = generator.integers(0, 255, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "captions.csv").write_text("file,text\n" + "".join(f"{n}.png,{n}\n" for n in ("red", "blue", "green")))
    out, run = tmp_path / "data", tmp_path / "run"
    assert told(capsys, "data", "import", tmp_path, "--out", out, "--size", 16)[0] == 0
    assert told(capsys, "train", "quick", "--data", f"{out}=0.5", "--out", run, "--steps", 2)[0] == 0
    assert told(capsys, "prompt", run, "--image", tmp_path / "red.png", "--max-tokens", 2)[0] == 0


def test_data_beside_what_a_recipe_has(capsys, run, tmp_path):
    out = tmp_path / "run"
    own = run.parent / "poems"
    command = ["train", "quick", "--data", f"{own}=2", "--add", "emoji=0.5", "text", "--out", out, "--steps", 1]
    assert told(capsys, *command)[0] == 0
    data = json.loads((out / "config.json").read_text())["training"]["data"]
    assert [(Path(folder).name, weight) for folder, weight in data] == [("poems", 2), ("emoji", 0.5), ("text", 1)]
    assert told(capsys, *command, "--resume")[0] == 0


def test_data_that_are_not_there_are_told_before_a_recipe_records(capsys, tmp_path):
    recordings = tmp_path / "recordings"
    command = ["train", "demo", "--recordings", recordings, "--out", tmp_path / "run"]
    assert "emoji=-1: expected DIR=WEIGHT with a positive" in refused(capsys, *command, "--add", "emoji=-1")
    assert "Unknown dataset 'emojis'. Did you mean emoji" in refused(capsys, *command, "--add", "emojis=1")
    assert not recordings.exists()


def test_pictures_of_any_aspect(capsys, tmp_path, monkeypatch):
    source, out, run = tmp_path / "in", tmp_path / "data", tmp_path / "run"
    source.mkdir()
    for name, size in (("red", (90, 30)), ("blue", (30, 60)), ("green", (40, 40))):
        Image.new("RGB", size, name).save(source / f"{name}.png")
    (source / "captions.csv").write_text("file,text\n" + "".join(f"{n}.png,{n}\n" for n in ("red", "blue", "green")))
    assert told(capsys, "data", "import", source, "--out", out, "--size", 48, "--keep-aspect")[0] == 0
    shown = told(capsys, "data", "info", out)[1].splitlines()
    assert "pictures   at their own aspect, at most 48² pixels" in shown
    assert told(capsys, "train", "quick", "--data", out, "--out", run, "--steps", 1)[0] == 0
    out.rename(tmp_path / "moved")

    seen = []

    def watched(pixels, fits, fit=fitting.fit_one_of):
        seen.append(fit(pixels, fits).shape)
        return fit(pixels, fits)

    monkeypatch.setattr(fitting, "fit_one_of", watched)
    for size in ([], ["--image-size", 64]):
        assert told(capsys, "prompt", run, "--image", source / "red.png", "--max-tokens", 2, *size)[::2] == (0, "")
    assert seen == [(16, 48, 3), (32, 96, 3)]


def test_tasks(capsys):
    code, out, err = told(capsys, "tasks", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert len(rows) >= 20
    assert set(rows[0]) == {"name", "suite", "modality", "has_expert", "installed", "install", "random", "expert"}
    code, out, _ = told(capsys, "tasks", "--suite", "toy")
    assert code == 0
    assert all(line.startswith("toy/") for line in out.splitlines()[1:])
    assert [row["name"] for row in json.loads(told(capsys, "tasks", "*Lake", "--json")[1])] == ["toy/FrozenLake"]
    assert refused(capsys, "tasks", "--suite", "toys").startswith("Unknown suite 'toys'. Did you mean toy?")
    assert "Did you mean classic/CartPole" in refused(capsys, "tasks", "classic/CartPol")


def test_a_refused_task_is_not_one_without_scores(capsys, monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text("""
import gymnasium as gym, gato_lite
from gato_lite.envs.experts import Rule

make = lambda evaluation, render_mode: gym.make("CliffWalking-v1", max_episode_steps=20)
stuck = gato_lite.Task(name="mine/Stuck", make_env=make, expert=lambda env: Rule(lambda _: 1), metric="success")
later = gato_lite.Task(name="mine/Later", make_env=make, expert=lambda env: Rule(lambda _: 0))
""")
    monkeypatch.setenv("GATO_LITE_TASKS", str(tmp_path / "mine.py"))
    (problem,) = measure_all(find_tasks(["mine/Stuck"]), episodes=5)
    assert "expected an expert better than random actions" in problem
    rows = told(capsys, "tasks", "--suite", "mine")[1].splitlines()[1:]
    assert [row.split() for row in rows] == [
        ["mine/Stuck", "control", "yes", "refused"],
        ["mine/Later", "control", "yes"],
    ]


def test_record(capsys, tmp_path):
    out = tmp_path / "data"
    words = ["record", "toy/FrozenLakeNotSlippery", "gym:CartPole-v1", "--workers", 1, "--out", out]
    code, written, _ = told(capsys, *words, "--episodes", 3)
    assert code == 0
    header, row = written.splitlines()[:2]
    assert header.split() == ["dataset", "episodes", "failed", "bad", "timesteps", "bytes/timestep", "seconds"]
    assert row.split()[:5] == [str(out / "toy-FrozenLakeNotSlippery"), "3", "0", "0", "18"]
    assert 1 < float(row.split()[5]) < 1000
    before = (out / "gym-CartPole-v1" / "dataset.json").stat()
    assert told(capsys, *words, "--episodes", 3)[0] == 0  # all there already
    assert (out / "gym-CartPole-v1" / "dataset.json").stat() == before
    assert "--overwrite" in refused(capsys, *words, "--episodes", 4)
    assert told(capsys, *words, "--episodes", 4, "--overwrite")[0] == 0
    code, written, _ = told(capsys, "data", "info", out)
    assert code == 0
    assert written.splitlines()[1].split()[1:4] == ["gym:CartPole-v1", "control", "4"]
    assert json.loads(told(capsys, "data", "info", out, "--json")[1])[1]["task"] == "toy/FrozenLakeNotSlippery"
    assert "Discrete(16)" in told(capsys, "data", "info", out / "toy-FrozenLakeNotSlippery")[1]
    assert "at least one episode" in refused(capsys, *words, "--episodes", 0)
    assert "at least one task" in refused(capsys, "record", "--out", out)
    message = refused(capsys, "record", "gym:CartPol-v1", "--out", out)
    assert message.startswith("Unknown Gymnasium environment 'CartPol-v1'. Did you mean CartPole-v1")


@pytest.mark.parametrize("words", ["data", "rollout", "train", "patches emoji"])
def test_a_benchmark_overwrites_no_figures_unasked(capsys, tmp_path, words):
    present = tmp_path / "speed.json"
    present.write_text("{}")
    message = refused(capsys, "bench", *words.split(), "--json", present)
    assert message == f"{present}: already there; pass --overwrite to replace it, or name another"
    if words == "rollout":
        assert message == refused(capsys, "bench", "rollout", "--figure", present)
    assert present.read_text() == "{}"


def test_a_report_says_what_makes_its_scores_again():
    options = eval_command.Options(run=Path("a run"), documents=30, beams=4, episodes=5, seed=7, report=Path("p.html"))
    words = "gato-lite eval 'a run' --episodes 5 --documents 30 --seed 7 --beams 4 --report p.html"
    assert eval_command._command(options) == words
    options = replace(options, precision="bfloat16")
    assert eval_command._command(options) == words.replace("--beams", "--precision bfloat16 --beams")


def test_tasks_of_ones_own_ask_for_their_file(capsys, monkeypatch):
    monkeypatch.delenv("GATO_LITE_TASKS", raising=False)
    known = "tasks of your own are known where GATO_LITE_TASKS names their file"
    message = f"runs/tilt: trained on only tasks of your own (mine/Tilt); {known}; name what to play with --tasks"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        eval_command._known_tasks(Path("runs/tilt"), ["mine/Tilt"], beside=False)
    trained = ["mine/Tilt", "classic/CartPole"]
    assert eval_command._known_tasks(Path("runs/tilt"), trained, beside=False) == ["classic/CartPole"]
    note = f"left out, since they are not in the catalogue: mine/Tilt; {known}, and gato_lite.Policy plays any\n"
    assert capsys.readouterr().err == note


@pytest.mark.parametrize(
    "words, why",
    [
        (
            ["--preset", "lite-5m"],
            "preset: expected that of the run to begin with, '{run}', which is lite-1m, got lite-5m",
        ),
        (
            ["--set", "patch_size=32"],
            "patch_size: expected that of the run to begin with, '{run}', which is 16, got 32",
        ),
    ],
)
def test_another_shape_than_that_of_the_run_to_begin_with_is_refused(capsys, run, texts, tmp_path, words, why):
    words = ["train", "quick", "--data", "text", "--init", run, "--out", tmp_path / "run", "--steps", 1, *words]
    assert refused(capsys, *words) == f"{why.format(run=run)}; leave one of the two out"
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_gives_its_command(capsys, monkeypatch, run, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    command = "pip install 'gato_lite[babyai]'"
    assert command in refused(capsys, "record", "babyai/GoToObj", "--out", tmp_path / "data")
    assert command in refused(capsys, "eval", run, "--tasks", "babyai/GoToObj")
    assert command in told(capsys, "tasks", "--suite", "babyai")[1]


def brought(extra: str, package: str = "gato_lite") -> Iterator[str]:
    """Names of all packages that `package` wants for an extra."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    ours = map(Requirement, project["optional-dependencies"][extra]) if package == "gato_lite" else ()
    for requirement in ours or doctor._requirements(extra, package):
        yield requirement.name.lower().replace("-", "_")
        for inner in requirement.extras:
            yield from brought(inner, requirement.name)


@pytest.mark.parametrize("package", cli._EXTRA_OF)
def test_the_extra_that_is_named_brings_the_package(package):
    assert any(name.startswith(package) for name in brought(cli._EXTRA_OF[package]))


def test_episodes_of_ones_own(capsys, tmp_path):
    """An environment with its own policy: recorded, trained on, evaluated, shown."""
    data, run, scores = tmp_path / "mine", tmp_path / "run", tmp_path / "scores.json"
    gato_lite.record(gym.make("CartPole-v1"), lambda seen: int(seen[2] > 0), episodes=4, out=data, seed=0)
    assert told(capsys, "train", "quick", "--data", f"{data}=2", "--out", run, "--steps", 2)[0] == 0
    words = ["eval", run, "--episodes", 2, "--workers", 1]
    code, out, _ = told(capsys, *words, "--json", scores)
    assert code == 0
    assert re.search(r"^ *gym:CartPole-v1 .* ± ", out, re.MULTILINE)
    assert json.loads(scores.read_text())["tasks"]["gym:CartPole-v1"]["episodes"] == 2
    assert "scores.json: already there" in refused(capsys, *words, "--json", scores)
    page = tmp_path / "report.html"
    code, out, err = told(capsys, *words, "--prompt", "--against", scores, "--report", page)
    assert (code, err) == (0, f"{page}: open it in a browser\n")
    assert re.search(r"prompted .* unprompted .*\n.*\n *gym:CartPole-v1 ", out)
    assert re.search(r"^ *gym:CartPole-v1 .* 0\.0 +0\.0 – 0\.0 +1\.000 *$", out, re.MULTILINE), "the same episodes"
    titles = re.findall("<h2>(.*?)</h2>", page.read_text("utf-8"))
    assert titles[:4] == ["Watch it act", "Scores", "Prompted against unprompted", f"{run} against {scores}"]
    assert (
        f"gato-lite eval {run} --episodes 2 --documents 1000 --seed 1000000000 --prompt --against {scores}"
        in page.read_text("utf-8")
    )
    assert "report.html: already there" in refused(capsys, *words, "--report", page)
    assert "found gym:CartPole-v1 from seed 10" in refused(capsys, *words, "--seed", 2 * 10**9, "--against", scores)
    assert "holds no run: expected the file" in refused(capsys, *words, "--against", tmp_path / "mine")
    code, _, err = told(capsys, *words, "--prompt", "--tasks", "classic/CartPole")
    assert (code, "found none of classic/CartPole; give their datasets with --prompts" in err) == (2, True)
    code, out, err = told(capsys, *words, "--against", run, "--json", "-")
    assert json.loads(out)["against"]["tasks"]["gym:CartPole-v1"]["difference"] == 0.0
    code, out, err = told(capsys, *words, "--tasks", "classic/CartPole", "--json", "-")
    assert (code, err) == (0, "gato-lite: the run was not trained on classic/CartPole; read those scores as such\n")
    assert json.loads(out)["suites"]["classic"]["n_tasks"] == 1
    assert "evaluation seeds begin at" in refused(capsys, *words, "--seed", 3)
    assert "Unknown task 'cartpol'" in refused(capsys, *words, "--tasks", "cartpol")
    code, out, _ = told(capsys, "inspect", run, "--json")
    assert [stream["name"] for stream in json.loads(out)] == ["gym:CartPole-v1"]
    assert "discrete" in told(capsys, "inspect", data)[1]
    assert "Unknown trained task" in refused(capsys, "inspect", run, "--tasks", "other")


def test_export_to_minari_and_back(capsys, tmp_path, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    out = tmp_path / "data"
    assert told(capsys, "record", "toy/FrozenLakeNotSlippery", "--episodes", 2, "--workers", 1, "--out", out)[0] == 0
    words = ["data", "export", out / "toy-FrozenLakeNotSlippery", "--name", "mine/lake-v0"]
    code, written, _ = told(capsys, *words)
    assert code == 0
    assert written.startswith("mine/lake-v0: written; ")
    assert "--overwrite" in refused(capsys, *words)
    code, written, _ = told(capsys, "data", "import", "minari:mine/lake-v0", "--out", tmp_path / "back")
    assert (code, written) == (0, f"{tmp_path / 'back'}: 2 episodes, 0 left out\n")
    assert Dataset.open(tmp_path / "back").info.task == "toy/FrozenLakeNotSlippery"
    words = ["data", "import", "minari:mine/lake-v0", "--out", tmp_path / "named"]
    about = {"name": "ice", "licence": "CC0-1.0", "attribution": "The lake"}
    assert told(capsys, *words, *(word for name, value in about.items() for word in (f"--{name}", value)))[0] == 0
    info = Dataset.open(tmp_path / "named").info
    assert {"name": info.task, "licence": info.licence, "attribution": info.attribution} == about
    message = refused(
        capsys, *words, "--overwrite", "--ability", "text", "--size", 32, "--test-share", 0.1, "--keep-aspect"
    )
    assert message == (
        "minari:mine/lake-v0: expected no option of documents for episodes, "
        "got size, keep_aspect, test_share, ability: leave it out"
    )
    assert "expected a dataset of episodes" in refused(capsys, "data", "export", "emoji")


def test_films(capsys, run, tmp_path):
    words = ["eval", run, "--tasks", "toy/FrozenLakeNotSlippery", "--episodes", 1, "--workers", 1, "--video", tmp_path]
    code, _, err = told(capsys, *words)
    note = "gato-lite: the run was not trained on toy/FrozenLakeNotSlippery; read those scores as such\n"
    assert (code, err) == (0, f"{note}{tmp_path}: 1 film\n")
    film = tmp_path / "toy-FrozenLakeNotSlippery.mp4"
    assert film.stat().st_size > 1000
    assert f"{film}: already there" in refused(capsys, *words)


def test_repeated_options_are_gathered():
    from gato_lite.train.commands.train import Options

    gathered = cli._gathered(
        Options, ["quick", "--data", "a", "--data=b=2", "--out", "x", "--data", "c", "d", "--resume"]
    )
    assert gathered == ["quick", "--out", "x", "--resume", "--data", "a", "b=2", "c", "d"]


def test_a_stopped_run_is_saved(run, tmp_path):
    out = tmp_path / "run"
    words = ["train", "quick", "--data", str(run.parent / "poems"), "--out", str(out), "--minutes", "5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gato_lite.train.cli", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + 60
        while not list(out.glob("events.*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == f"gato-lite: stopped and saved in {out}; the same command with --resume goes on\n"
    assert list(out.glob("checkpoints/step_*"))


def test_a_closed_pipe_is_no_error(tmp_path):
    command = f"{sys.executable} -m gato_lite.train.cli data info text --json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_folder_that_was_deleted(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the current folder was deleted: cd to one that is there" in refused(capsys, "tasks")
