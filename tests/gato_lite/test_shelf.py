from __future__ import annotations

from pathlib import Path

import pytest

from gato_lite import shelf
from gato_lite.shelf import named_run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, and beside it a shelf with one run."""
    (tmp_path / "here").mkdir()
    (tmp_path / "runs" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(shelf, "RUNS", tmp_path / "runs")
    return tmp_path / "here"


def test_a_published_run_has_a_name(here: Path) -> None:
    assert named_run("small") == named_run(Path("small")) == here.parent / "runs" / "small"


def test_a_folder_of_that_name_comes_first(here: Path) -> None:
    (here / "small").mkdir()
    assert named_run("small") == Path("small")


def test_other_paths_stay_as_they_are(here: Path) -> None:
    for path in ("runs/small", "other", ".", str(here.parent / "small")):
        assert named_run(path) == Path(path)


def test_an_installation_without_weights(here: Path) -> None:
    expected = (
        "this installation came without the weights of 'generalist', expected them in .*runs/generalist; train your "
        "own with `gato-lite train generalist --out runs/generalist`, and name that folder"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        named_run("generalist")
    (here.parent / "runs" / "generalist").mkdir()
    assert named_run("generalist") == here.parent / "runs" / "generalist"
