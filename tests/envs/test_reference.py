from __future__ import annotations

import json
import re

import pytest

from gato_lite.envs import reference
from gato_lite.envs.catalogue import SCORES_FILE, TASKS, Task
from gato_lite.envs.experts import Rule
from gato_lite.envs.reference import measure, measure_all


def test_a_scale(tmp_path, capsys):
    before = SCORES_FILE.read_bytes()
    assert measure_all([TASKS["toy/CliffWalking"]], episodes=5, path=tmp_path / "scores.json") == []
    stored = json.loads((tmp_path / "scores.json").read_text())
    assert list(stored["tasks"]) == ["toy/CliffWalking"]
    expert = stored["tasks"]["toy/CliffWalking"]["expert"]
    assert expert == {"mean": -13.0, "std": 0.0, "success": None, "episodes": 5, "length": 13.0}
    assert {"python", "gymnasium", "numpy"} <= set(stored["versions"])
    assert "toy/CliffWalking" in capsys.readouterr().out
    assert SCORES_FILE.read_bytes() == before


def test_an_expert_no_better_than_random_is_refused():
    task = TASKS["toy/FrozenLakeNotSlippery"]
    useless = Task(name="toy/Useless", make_env=task.make_env, expert=lambda _: Rule(lambda _: 0), metric="success")
    message = "toy/Useless: expected an expert better than random actions ("
    with pytest.raises(ValueError, match=re.escape(message)):
        measure(useless, episodes=5)
    with pytest.raises(ValueError, match="has no expert to measure"):
        measure(Task(name="toy/None", make_env=task.make_env), episodes=5)


def test_too_few_episodes_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["reference", "--episodes", "10"])
    with pytest.raises(SystemExit):
        reference.main()
    assert "--episodes must be at least 100, got 10" in capsys.readouterr().err
