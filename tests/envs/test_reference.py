from __future__ import annotations

import json
import re
from dataclasses import replace

import gymnasium as gym
import pytest

from gato_lite.envs import reference
from gato_lite.envs.catalogue import TASKS, Task, all_tasks
from gato_lite.envs.experts import ExpertFailedError, Rule
from gato_lite.envs.format import Score
from gato_lite.envs.reference import Unseen, measure, measure_all
from gato_lite.envs.task import SCORES_FILE, references


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


def test_a_later_scale_stands_beside_the_others_in_the_catalogues_order(tmp_path):
    path = tmp_path / "scores.json"
    tasks = [TASKS["toy/CliffWalking"], TASKS["toy/FrozenLakeNotSlippery"]]
    for task in tasks:
        measure_all([task], episodes=5, path=path)
    assert list(references(path)) == ["toy/FrozenLakeNotSlippery", "toy/CliffWalking"]
    measure_all(tasks, episodes=6, path=path, workers=2)
    assert [measured.random.episodes for measured in references(path).values()] == [6, 6]


def test_a_task_without_an_expert_has_a_lower_end(tmp_path, capsys):
    path = tmp_path / "scores.json"
    task = Task(name="toy/None", make_env=TASKS["toy/FrozenLake"].make_env, metric="success")
    assert measure_all([task], episodes=5, path=path) == []
    assert references(path)["toy/None"].expert is None
    assert "expert" not in capsys.readouterr().out


def test_random_actions_are_spared_what_nobody_sees():
    class Dear(gym.ObservationWrapper):
        def observation(self, observation):
            raise AssertionError("an observation was made over")

    walk = TASKS["toy/CliffWalking"]
    dear = Task(name="toy/Dear", make_env=lambda *options: Dear(walk.make_env(*options)))
    assert measure(dear, episodes=3).random == measure(walk, episodes=3).random
    env = Unseen(dear.make())
    assert env.reset(seed=1)[0] == env.step(0)[0] == 0
    assert env.observation_space.contains(0)

    class Generous(Dear):
        def step(self, action):
            return 0, 7.0, True, False, {}

    assert Unseen(Generous(walk.make())).step(0)[1] == 7.0


def test_an_expert_no_better_than_random_is_refused(tmp_path):
    task = TASKS["toy/FrozenLakeNotSlippery"]
    useless = Task(name="toy/Useless", make_env=task.make_env, expert=lambda _: Rule(lambda _: 0), metric="success")
    message = "toy/Useless: expected an expert better than random actions ("
    with pytest.raises(ValueError, match=re.escape(message)):
        measure(useless, episodes=5)
    (problem,) = measure_all([useless], episodes=5, path=tmp_path / "scores.json")
    assert problem.startswith(message)
    assert references(tmp_path / "scores.json") == {}
    assert replace(useless, scores_file=tmp_path / "scores.json").is_refused
    better = replace(useless, expert=task.expert, scores_file=tmp_path / "scores.json")
    assert measure_all([better], episodes=5) == []
    assert not better.is_refused


def test_a_lead_within_the_noise_is_refused():
    message = r"random actions \(-0\.3125\) by more than 0\.65\d+, half the 95 % interval .*; got -0\.0625$"
    with pytest.raises(ValueError, match=message):
        measure(TASKS["toy/Blackjack"], episodes=16)


def test_an_expert_that_fails_is_no_success_and_no_return():
    def lose(_observation):
        raise ExpertFailedError("lost")

    walking, lake = TASKS["toy/CliffWalking"], TASKS["toy/FrozenLakeNotSlippery"]
    with pytest.raises(ExpertFailedError, match=r"seed 900000000: lost"):
        measure(Task(name="toy/Lost", make_env=walking.make_env, expert=lambda _: Rule(lose)), episodes=2)
    with pytest.raises(ValueError, match=r"better than random actions .* got 0$"):
        measure(
            Task(name="toy/Lost", make_env=lake.make_env, expert=lambda _: Rule(lose), metric="success"), episodes=2
        )


def test_too_few_episodes_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["reference", "--episodes", "10"])
    with pytest.raises(SystemExit):
        reference.main()
    assert "--episodes must be at least 100, got 10" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["reference", "dm/lqr-lqr_2_1", "--episodes", "1"])
    with pytest.raises(SystemExit):
        reference.main()
    assert "--episodes must be at least 2, got 1" in capsys.readouterr().err


def test_what_was_measured_over_few_episodes_is_missing_where_more_are_asked_for(monkeypatch):
    asked = []
    scored = replace(TASKS["atari/Pong"], extra=None)
    few = Score(mean=-20.0, std=1.0, success=None, episodes=5, length=900.0)
    monkeypatch.setattr(reference, "find_tasks", lambda _: [scored])
    monkeypatch.setattr(reference, "measure_all", lambda tasks, *_, **__: asked.append(len(tasks)) or [])
    monkeypatch.setattr(Task, "random", property(lambda _: few))
    for episodes in ("5", "6"):
        monkeypatch.setattr("sys.argv", ["reference", "atari/Pong", "--missing", "--episodes", episodes])
        assert reference.main() == 0
    assert asked == [0, 1]


def test_an_environment_that_breaks_leaves_the_other_tasks_their_scales(tmp_path):
    def broken(evaluation, render_mode):
        raise RuntimeError("physics diverged")

    tasks = [Task(name="toy/Broken", make_env=broken), TASKS["toy/CliffWalking"]]
    (problem,) = measure_all(tasks, episodes=5, path=tmp_path / "scores.json")
    assert problem == "toy/Broken: expected whole episodes, found RuntimeError: physics diverged"
    assert list(references(tmp_path / "scores.json")) == ["toy/CliffWalking"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_scale_outlives_a_measurement_that_fails(tmp_path, workers, monkeypatch):
    own = tmp_path / "own.py"
    own.write_text("""
import os
import gymnasium as gym, gato_lite
from gato_lite.envs.experts import Rule

def make(evaluation, render_mode):
    if os.environ.get("BROKEN") == "raises":
        raise RuntimeError("no physics today")
    if os.environ.get("BROKEN") == "dies":
        os._exit(3)
    return gym.make("CliffWalking-v1", max_episode_steps=20)

steady = gato_lite.Task(name="mine/Steady", make_env=make, expert=lambda env: Rule(lambda _: 0))
""")
    monkeypatch.setenv("GATO_LITE_TASKS", str(own))
    task = all_tasks()["mine/Steady"]
    assert measure_all([task], episodes=100, workers=workers) == []
    before = references(task.scores_file)
    for broken, words in (("raises", "no physics today"), ("dies", "a process of the environments died")):
        if broken == "dies" and workers == 1:
            continue  # it is this process that would
        monkeypatch.setenv("BROKEN", broken)
        (problem,) = measure_all([task], episodes=100, workers=workers)
        assert words in problem
        assert references(task.scores_file) == before


def test_any_gymnasium_environment_has_no_scores_of_ours(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["reference", "gym:CartPole-v1"])
    with pytest.raises(SystemExit):
        reference.main()
    assert "expected tasks of the catalogue or of your own, got gym:CartPole-v1" in capsys.readouterr().err


def test_a_damaged_scores_file(tmp_path):
    (tmp_path / "scores.json").write_text('{"tasks": 3}')
    with pytest.raises(ValueError, match="scores.json: expected scores as `python -m gato_lite.envs.reference` writes"):
        references(tmp_path / "scores.json")
