from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gato_lite.envs.catalogue import TASKS, all_tasks, find_tasks
from gato_lite.envs.own import VARIABLE
from gato_lite.envs.record import record_tasks
from gato_lite.envs.reference import measure_all

PAGE = Path(__file__).parent.parent.parent / "docs" / "tasks.md"
(MINE,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A file with one task, in a folder that holds nothing of ours."""
    file = tmp_path / "my_tasks.py"
    file.write_text(MINE)
    monkeypatch.setenv(VARIABLE, str(file))
    monkeypatch.chdir(tmp_path)
    return file


def test_a_task_of_ones_own_is_known_by_its_name(mine):
    (task,) = find_tasks(["mine/*"])
    assert (task.suite, task.instruction, task.random) == ("mine", "Keep it upright.", None)
    assert list(all_tasks())[: len(TASKS)] == list(TASKS)
    with pytest.raises(ValueError, match=re.escape("Unknown task 'mine/Tlit'. Did you mean mine/Tilt")):
        find_tasks(["mine/Tlit"])


@pytest.mark.parametrize("pattern", ["mine/Tilt", "mine/*"])
def test_without_its_file_the_variable_is_named(monkeypatch, pattern):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ValueError, match=f"Unknown task .*; tasks of your own are known where {VARIABLE} names their"):
        find_tasks([pattern])
    with pytest.raises(ValueError, match="Unknown task 'classic/Tilt'") as caught:
        find_tasks(["classic/Tilt"])
    assert VARIABLE not in str(caught.value)


def test_its_scale_lies_beside_its_file(mine):
    assert measure_all(find_tasks(["mine/Tilt"]), episodes=20) == []
    (task,) = find_tasks(["mine/Tilt"])
    assert mine.with_suffix(".scores.json").is_file()
    assert task.expert_score.mean > task.random.mean + 20


def test_recording_workers_know_it(mine, tmp_path):
    recorded = record_tasks({"mine/Tilt": 150}, tmp_path / "data", workers=2)
    assert [file.name for file in sorted(recorded["mine/Tilt"].dataset.path.glob("part-*"))] == [
        "part-000000.parquet",
        "part-000001.parquet",
    ]


def test_a_module_will_do(mine, monkeypatch):
    monkeypatch.syspath_prepend(mine.parent)
    monkeypatch.setenv(VARIABLE, "my_tasks")
    assert [task.name for task in find_tasks(["mine/*"])] == ["mine/Tilt"]
    sys.modules.pop("my_tasks")


@pytest.mark.parametrize(
    "text, told",
    [
        (None, "to be a Python file or module with tasks, found FileNotFoundError: no such file"),
        ("import no_such_package", "found ModuleNotFoundError: No module named 'no_such_package'"),
        ("x = 1", "expected a gato_lite.Task among the names of"),
        (MINE.replace("mine/Tilt", "toy/Taxi"), "expected names that are not in the catalogue, found toy/Taxi"),
        (MINE + "again = gato_lite.Task(name='mine/Tilt', make_env=tilt.make_env)", "found task 'mine/Tilt' again in"),
    ],
)
def test_a_file_that_is_none(tmp_path, monkeypatch, text, told):
    file = tmp_path / "bad_tasks.py"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv(VARIABLE, str(file))
    with pytest.raises(ValueError, match=f"^{VARIABLE}: expected .*") as caught:
        find_tasks(["classic/CartPole"])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_files(mine, tmp_path, monkeypatch):
    other = tmp_path / "other.py"
    other.write_text(MINE.replace("mine/Tilt", "mine/Lean"))
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(mine), str(other)]))
    assert [task.name for task in find_tasks(["mine/*"])] == ["mine/Tilt", "mine/Lean"]


@pytest.mark.slow
def test_every_command_takes_it(mine):
    def run(*arguments):
        command = [sys.executable, "-c", "from gato_lite.train.cli import main; raise SystemExit(main())", *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert "mine/Tilt" in run("tasks", "--suite", "mine")
    run("record", "mine/Tilt", "--episodes", "20", "--out", "data", "--workers", "2")
    run("train", "quick", "--data", "data", "--out", "run", "--steps", "5")
    assert "mine/Tilt" in run("eval", "run", "--episodes", "4", "--workers", "2", "--json", "-")
    assert "mine/Tilt" in run("inspect", "run", "--tasks", "mine/Tilt")
