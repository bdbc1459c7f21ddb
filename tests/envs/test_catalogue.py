from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import gymnasium as gym
import pytest

from gato_lite.envs import babyai, catalogue
from gato_lite.envs.catalogue import TASKS, Task, find_tasks
from gato_lite.envs.episodes import EpisodeBuilder
from gato_lite.envs.experts import ExpertFailedError, RandomExpert
from gato_lite.envs.play import play_episode
from gato_lite.envs.task import MODULES, references
from gato_lite.spaces import leaf_spaces, space_from_json, space_to_json
from gato_lite.tokenizers.space import SpaceTokenizer

LEAST = {  # mean over the same ten seeds that every expert reaches here
    "classic/CartPole": 500,
    "classic/Acrobot": -120,
    "classic/MountainCar": -125,
    "classic/MountainCarContinuous": 88,
    "classic/Pendulum": -220,
    "toy/FrozenLake": 0.3,
    "toy/FrozenLake8x8": 0.5,
    "toy/Taxi": 5,
    "toy/CliffWalking": -13,
    "toy/Blackjack": -0.2,
}


FEW = {"box2d", "mujoco", "metaworld"}
"""Suites whose episodes or environments take long: two episodes of each task."""


def played_by_expert(task, episodes):
    env = task.make()
    expert, builder = task.expert(env), EpisodeBuilder(env.observation_space, env.action_space)
    return env, [play_episode(task, env, expert, builder, seed) for seed in range(50, 50 + episodes)]


def installed(tasks):
    """Parameters of the tasks, each skipped where its packages are missing."""
    skip = [pytest.mark.skipif(not task.installed, reason=f"needs {task.install}") for task in tasks]
    return [pytest.param(task, id=task.name, marks=mark) for task, mark in zip(tasks, skip, strict=True)]


def has_many_seeds(task):
    return task.suite in {"classic", "toy", "sokoban"} or task.name.removeprefix("babyai/") in babyai.ROOMS[:10]


@pytest.mark.parametrize("task", installed([task for task in TASKS.values() if has_many_seeds(task)]))
def test_what_an_expert_reaches(task):
    episodes = {"classic/CartPole": 3, "toy/Blackjack": 300}.get(task.name, 10)
    _, played = played_by_expert(task, episodes)
    if task.metric == "success":
        mean = sum(bool(one.success[0]) for one in played) / episodes
    else:
        mean = sum(float(one.rewards.sum()) for one in played) / episodes
        assert all(one.success is None for one in played)
    assert mean >= LEAST.get(task.name, 1.0)
    assert mean > task.random.mean


@pytest.mark.filterwarnings("ignore")  # of other packages
@pytest.mark.parametrize(
    "task", installed([task for task in TASKS.values() if task.expert and not has_many_seeds(task)])
)
def test_an_expert_succeeds_or_gains_more_than_random_actions(task):
    env, played = played_by_expert(task, 2 if task.suite in FEW else 3)
    if task.metric == "success":
        assert any(one.success.all() for one in played)
        return
    random, builder = RandomExpert(env, 0), EpisodeBuilder(env.observation_space, env.action_space)
    worse = [play_episode(task, env, random, builder, int(one.seeds[0])) for one in played]
    assert sum(one.rewards.sum() for one in played) > sum(one.rewards.sum() for one in worse)


@pytest.mark.filterwarnings("ignore")  # of other packages
@pytest.mark.parametrize("task", installed(list(TASKS.values())))
def test_every_environment_keeps_to_its_spaces(task):
    env = task.make()
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        assert env.observation_space.contains(observation)
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            observation, _ = env.reset()
    assert space_from_json(space_to_json(env.observation_space)) == env.observation_space
    assert set(task.spec.leaves or ()) | set(task.spec.once) <= set(leaf_spaces(env.observation_space))
    SpaceTokenizer(env.observation_space, spec=task.spec).encode(observation)
    env.close()


def test_what_to_do_is_said_where_it_is_not_seen():
    told = {task.instruction for task in TASKS.values() if task.expert and task.instruction}
    silent = [task for task in TASKS.values() if task.expert and task.instruction is None]
    assert all("mission" in task.spec.once for task in silent)
    assert len(told) == sum(task.expert is not None for task in TASKS.values()) - len(silent)


@pytest.mark.parametrize("name", references())
def test_a_measured_scale(name):
    task = TASKS[name]
    assert task.random.episodes >= (100 if task.expert is not None else 5)
    assert (task.random.success is not None) == (task.metric == "success")
    assert (task.expert_score is None) == (task.expert is None)
    if task.expert_score is not None:
        assert task.expert_score.episodes >= 100
        assert task.expert_score.mean > task.random.mean


def test_the_catalogue_is_large_enough():
    assert sum(task.expert is not None for task in TASKS.values()) >= 160
    assert Counter(task.suite for task in TASKS.values()) >= Counter(babyai=89, metaworld=50, atari=104, dm=47)
    assert sum(len(suite.TASKS) for suite in catalogue.SUITES) == len(TASKS), "two tasks have one name"
    assert all(name == task.name for name, task in TASKS.items())


def test_the_page_counts_as_the_catalogue_does():
    page = (Path(__file__).parent.parent.parent / "docs" / "tasks.md").read_text("utf-8")
    told = {suite: int(count) for suite, count in re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE)}
    assert told == Counter(task.suite for task in TASKS.values())


def test_no_suite_is_imported_before_an_environment_is_made():
    packages = sorted({module for modules in MODULES.values() for module in modules})
    code = (
        f"import sys, gato_lite.envs.catalogue as c; c.all_tasks(); print([m for m in {packages} if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_patterns():
    assert [task.name for task in find_tasks(["toy/Ta*", "toy/*"])][:2] == ["toy/Taxi", "toy/FrozenLake"]
    assert len(find_tasks(["babyai/*", "babyai/GoToObj"])) == 89


def test_an_unknown_name_lists_the_closest():
    with pytest.raises(
        ValueError, match=re.escape("Unknown task 'cartpol'. Did you mean classic/CartPole, pixels/CartPole?")
    ):
        find_tasks(["cartpol"])
    with pytest.raises(ValueError, match=r"Unknown Gymnasium environment 'CartPole-v7'\. Did you mean CartPole-v"):
        find_tasks(["gym:CartPole-v7"])


def test_any_registered_environment_is_a_task():
    (task,) = find_tasks(["gym:Blackjack-v1"])
    assert (task.suite, task.expert, task.random, task.install) == ("gym", None, None, None)
    assert isinstance(task.make(), gym.Env)


def test_a_missing_extra_is_told_with_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    task = TASKS["babyai/GoToObj"]
    assert not task.installed
    message = "task 'babyai/GoToObj' needs packages that are not installed: pip install 'gato_lite[babyai]'"
    with pytest.raises(ImportError, match=re.escape(message)):
        task.make()


def test_success():
    assert TASKS["babyai/GoToObj"].is_success(0.4, {}) is True
    assert TASKS["babyai/GoToObj"].is_success(0.0, {}) is False
    assert TASKS["classic/CartPole"].is_success(500.0, {}) is None
    assert TASKS["classic/CartPole"].is_success(0.0, {"is_success": 1}) is True
    assert TASKS["metaworld/reach"].is_success(300.0, {"success": False}) is False


def test_what_is_a_demonstration():
    assert TASKS["babyai/GoToObj"].is_demonstration(0.0, False) is False
    assert TASKS["box2d/LunarLander"].is_demonstration(199.0, None) is False
    assert TASKS["box2d/LunarLander"].is_demonstration(200.0, None) is True
    assert TASKS["toy/FrozenLake"].is_demonstration(0.0, False) is True


@pytest.mark.parametrize("name", ["Thing", "mine/", "mine/a b", "mine/*"])
def test_a_name_has_a_suite_and_an_environment(name):
    with pytest.raises(ValueError, match=re.escape(f'such as "mine/Maze", got {name!r}')):
        Task(name=name, make_env=lambda _evaluation, _mode: gym.make("CartPole-v1"))


def test_babyai_is_quiet_and_ends_early(capfd):
    env = TASKS["babyai/PutNextLocal"].make()
    for seed in range(20):  # some of these levels are drawn more than once
        observation, _ = env.reset(seed=seed)
        assert env.observation_space.contains(observation)
    assert capfd.readouterr().out == ""
    env = TASKS["babyai/OpenDoor"].make()
    env.reset(seed=0)
    assert [env.step(6)[3] for _ in range(128)].index(True) == 127


def test_the_babyai_bot_follows_other_actions():
    task = TASKS["babyai/GoToLocal"]
    env = task.make()
    bot = task.expert(env)
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        bot.reset()
        action, ended, total_reward = None, False, 0.0
        for step in range(128):
            wanted = bot.act(observation, action)
            action = seed % 3 if step % 4 == 3 else wanted  # every fourth action is another's
            observation, reward, terminated, truncated, _ = env.step(action)
            total_reward += reward
            ended = terminated or truncated
            if ended:
                break
        assert ended
        assert total_reward > 0


def test_a_lost_bot_says_so():
    task = TASKS["babyai/GoToLocal"]
    env = task.make()
    env.reset(seed=0)
    bot = task.expert(env)
    bot.bot = object()
    with pytest.raises(ExpertFailedError, match="the BabyAI bot is lost: AttributeError"):
        bot.act(None, None)


def test_an_entry_needs_no_more_than_a_name_and_an_environment():
    task = Task(name="mine/Thing", make_env=lambda _evaluation, _mode: gym.make("CartPole-v1"))
    assert (task.suite, task.metric, task.installed) == ("mine", "return", True)


@pytest.mark.parametrize(
    "name, hint",
    [
        ("ALE/NoSuchGame-v5", "pip install 'gato_lite[atari]'"),
        ("Meta-World/MT0", "pip install 'gato_lite[robotics]'"),
        ("CartPole-v9", "Did you mean CartPole-v1"),
    ],
)
def test_an_unknown_environment_says_where_it_comes_from(monkeypatch, name, hint):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=f"Unknown Gymnasium environment '{re.escape(name)}'") as caught:
        find_tasks([f"gym:{name}"])
    assert hint in str(caught.value)


@pytest.mark.parametrize("name", ["ale_py:ALE/Pong-v5", "minigrid:MiniGrid-Empty-5x5-v0", "shimmy:dm_control/lqr-v0"])
def test_an_environment_of_an_installed_package_is_called_by_its_module(monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr("gymnasium.registry", {})  # what other tests imported is in it
    with pytest.raises(ValueError, match=f"; the environment itself is called gym:{re.escape(name)}$") as caught:
        find_tasks([f"gym:{name.partition(':')[2]}"])
    assert "pip install" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name, told",
    [
        ("Reacher-v2", "have been moved to the gymnasium-robotics project .* Or take gym:Reacher-v5"),
        ("no_such_module:Thing-v0", "No module named 'no_such_module'"),
    ],
)
def test_an_environment_that_cannot_be_made(name, told):
    (task,) = find_tasks([f"gym:{name}"])
    with pytest.raises(ValueError, match=f"^gym:{name}: .*{told}"):
        task.make()
