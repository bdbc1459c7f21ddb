from __future__ import annotations

import re

import gymnasium as gym
import pytest

from gato_lite.envs import catalogue
from gato_lite.envs.catalogue import TASKS, Task, find_tasks
from gato_lite.envs.episodes import EpisodeBuilder
from gato_lite.envs.experts import ExpertFailedError
from gato_lite.envs.play import play_episode
from gato_lite.spaces import leaf_spaces, space_from_json, space_to_json

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
}


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_task(task):
    env = task.make()
    expert, builder = task.expert(env), EpisodeBuilder(env.observation_space, env.action_space)
    episodes = 3 if task.name == "classic/CartPole" else 10
    played = [play_episode(task, env, expert, builder, seed) for seed in range(50, 50 + episodes)]
    if task.metric == "success":
        mean = sum(bool(one.success[0]) for one in played) / episodes
    else:
        mean = sum(float(one.rewards.sum()) for one in played) / episodes
        assert all(one.success is None for one in played)
    assert mean >= LEAST.get(task.name, 1.0)
    assert mean > task.random.mean
    assert space_from_json(space_to_json(env.observation_space)) == env.observation_space
    assert set(task.spec.leaves or ()) | set(task.spec.once) <= set(leaf_spaces(env.observation_space))
    assert (task.instruction is None) == (task.suite == "babyai")


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_scale_was_measured(task):
    assert task.random.episodes >= 100
    assert task.expert_score.episodes >= 100
    assert task.expert_score.mean > task.random.mean
    assert (task.random.success is not None) == (task.metric == "success")


def test_the_catalogue_is_large_enough():
    assert len(TASKS) >= 20
    assert sum(task.suite == "babyai" for task in TASKS.values()) >= 10
    assert all(name == task.name for name, task in TASKS.items())


def test_patterns():
    assert [task.name for task in find_tasks(["toy/Ta*", "toy/*"])][:2] == ["toy/Taxi", "toy/FrozenLake"]
    assert len(find_tasks(["babyai/*", "babyai/GoToObj"])) == 10


def test_an_unknown_name_lists_the_closest():
    with pytest.raises(ValueError, match=re.escape("Unknown task 'cartpol'. Did you mean classic/CartPole?")):
        find_tasks(["cartpol"])
    with pytest.raises(ValueError, match=r"Unknown Gymnasium environment 'CartPole-v7'\. Did you mean CartPole-v"):
        find_tasks(["gym:CartPole-v7"])


def test_any_registered_environment_is_a_task():
    (task,) = find_tasks(["gym:Blackjack-v1"])
    assert (task.suite, task.expert, task.random, task.install) == ("gym", None, None, None)
    assert isinstance(task.make(), gym.Env)


def test_a_missing_extra_is_told_with_its_command(monkeypatch):
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda _: None)
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
        ("ALE/Pong-v5", "pip install 'gato_lite[atari]'"),
        ("Meta-World/MT1", "pip install 'gato_lite[robotics]'"),
        ("CartPole-v9", "Did you mean CartPole-v1"),
    ],
)
def test_an_unknown_environment_says_where_it_comes_from(name, hint):
    with pytest.raises(ValueError, match=f"Unknown Gymnasium environment '{re.escape(name)}'") as caught:
        find_tasks([f"gym:{name}"])
    assert hint in str(caught.value)


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
