"""Runs what README.md shows, in its order, in one empty folder, with small numbers in place of the large ones."""

from __future__ import annotations

import io
import json
import re
import shlex
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from gato_lite import shelf
from gato_lite.train import cli
from gato_lite.train.ship_run import publish

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

INSTALLING = ("pip install -e '.[demo]' && gato-lite demo", "pip install -e '.[test]' && pytest")
"""What cannot run inside a test: installing, the tests themselves, and ten minutes of demo."""
SMALLER = {
    r"^(gato-lite record .*--episodes) \d+": r"\1 5 --workers 1",
    r"^(gato-lite eval .*--episodes) \d+": r"\1 2 --workers 1",
    r"^(gato-lite play .*)": r"\1 --episodes 1",
    r"^(gato-lite train .*)--minutes \d+": r"\1--steps 3",
    r"^(gato-lite prompt .*--max-tokens) \d+": r"\1 3",
    r"^(gato-lite prompt (?!.*--max-tokens).*)": r"\1 --max-tokens 3",
    r"episodes=\d+": "episodes=2",
    r"range\(20\)": "range(2)",
    r"max_tokens=\d+": "max_tokens=3",
}
"""What is written smaller before it runs."""


def smaller(text: str) -> str:
    for pattern, replacement in SMALLER.items():
        text = re.sub(pattern, replacement, text)
    return text


def commands() -> Iterator[str]:
    for language, block in BLOCKS:
        if language == "bash":
            yield from block.splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: texts, pictures, a run where the demo leaves its own, and one that came with the package."""
    here = tmp_path_factory.mktemp("readme")
    (here / "my-texts").mkdir()
    (here / "my-texts" / "fog.txt").write_text("The fog comes\non little cat feet.\n", "utf-8")
    (here / "my-texts" / "sea.txt").write_text("The sea is never still.\n", "utf-8")
    (here / "my-pictures").mkdir()
    names = ("red", "green", "blue")
    for name in names:
        Image.new("RGB", (40, 30), name).save(here / "my-pictures" / f"{name}.png")
    captions = "".join(f"{name}.png,a {name} picture\n" for name in names)
    (here / "my-pictures" / "captions.csv").write_text(f"file,text\n{captions}", "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        call("gato-lite record classic/CartPole --episodes 2 --out runs/demo/data --workers 1")
        call("gato-lite train quick --data runs/demo/data --out runs/demo/run --steps 2")
        publish(Path("runs/demo/run"), "generalist", here / "published")
    return here


def questions(cache: Path) -> None:
    """A package in the cache as if brought by hand, with a few of its questions: no test needs a network."""
    drawn = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(drawn, "PNG")
    asked = json.dumps([["what color is the shape?", "red", 0], ["is it blue?", "no", 0]])
    (cache / "pip").mkdir(parents=True)
    with zipfile.ZipFile(cache / "pip" / "easy_vqa-1.0-py3-none-any.whl", "w") as archive:
        for split in ("train", "test"):
            archive.writestr(f"easy_vqa/data/{split}/images/0.png", drawn.getvalue())
            archive.writestr(f"easy_vqa/data/{split}/questions.json", asked)


def call(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "gato-lite"
    assert cli.main(words) == cli.DONE, line


def test_every_block_says_what_it_is() -> None:
    assert README.count("```") == 2 * len(BLOCKS)
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
    others = [line for line in commands() if not line.startswith("gato-lite ")]
    assert others == list(INSTALLING), "a command that no test runs"


def test_the_demo_takes_no_option() -> None:
    module = import_module("gato_lite.train.commands.demo")
    assert cli._read("demo", module.Options, module.EXAMPLE, []).out == Path("runs/demo")


def test_what_it_shows_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(shelf, "RUNS", folder / "published")
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello.\n"))
    questions(folder / "cache" / "gato_lite")
    n_run = 0
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(smaller(block), "README.md", "exec"), {"__name__": "readme"})
            n_run += 1
            continue
        for line in block.splitlines():
            if line not in INSTALLING:
                call(smaller(line))
                n_run += 1
    assert n_run == len(list(commands())) - len(INSTALLING) + sum(language == "python" for language, _ in BLOCKS)
    out, err = capsys.readouterr()
    assert "error" not in err
    assert (folder / "film.mp4").read_bytes()[4:8] == b"ftyp"
    assert re.search(r"^\d+\.0 ", out, re.MULTILINE), "expected the score of the first Python block"
    assert "gym:MountainCar-v0" in out, "expected scores of the environments recorded by hand"


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/architecture.md",
        "docs/evaluation.md",
        "docs/tasks.md",
        "docs/formats.md",
        "docs/generalist.md",
        "CHANGELOG.md",
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8"))
    missing = [link for link in links if "://" not in link and not (path.parent / link.split("#")[0]).exists()]
    assert missing == []


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md", "docs/evaluation.md", "docs/tasks.md"])
def test_files_and_names_in_code_exist(page: str) -> None:
    spans = re.findall(r"`([\w./]+)`", (ROOT / page).read_text("utf-8"))
    files = {span for span in spans if re.match(r"(gato_lite|tokenizers|envs|train|tests|docs)/", span)}
    missing = [span for span in sorted(files) if not (ROOT / span).exists()]
    assert missing == []
