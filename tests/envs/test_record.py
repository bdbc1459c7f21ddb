from __future__ import annotations

import json
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit, TransformObservation

import gato_lite
from gato_lite.config import TokenSpec
from gato_lite.envs.dataset import Dataset, DatasetError, check
from gato_lite.envs.episodes import BadEpisodeError
from gato_lite.envs.record import RecordEpisodes, record, record_task, task_name


def test_any_policy_in_any_environment(tmp_path):
    env = gym.make("CartPole-v1")
    resets, seen = [], []
    dataset = gato_lite.record(
        env,
        lambda observation: int(observation[2] > 0),
        episodes=5,
        out=tmp_path / "d",
        seed=3,
        instruction="Balance the pole.",
        spec=TokenSpec(separator=True),
        on_reset=lambda: resets.append(1),
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert (dataset.info.task, dataset.info.seed, dataset.info.instruction) == (
        "gym:CartPole-v1",
        3,
        "Balance the pole.",
    )
    assert dataset.info.spec.separator
    episodes = dataset.read_part(0)
    assert episodes.seeds.tolist() == [3, 4, 5, 6, 7]
    assert episodes.terminated.all()
    assert np.array_equal(episodes.actions[""], _asked(episodes))
    assert (len(resets), seen[-1]) == (5, (5, 5))
    assert check(tmp_path / "d") == []
    env.reset()  # it stays open


def _asked(episodes):
    """What the policy says to every observation but each episode's last."""
    last = np.cumsum(episodes.lengths + 1) - 1
    return (np.delete(episodes.observations[""], last, axis=0)[:, 2] > 0).astype(np.int64)


def test_the_same_seed_gives_the_same_bytes(tmp_path, make_env):
    datasets = [record(make_env(), lambda _: np.zeros(2), episodes=4, out=tmp_path / out) for out in "ab"]
    assert datasets[0].info == datasets[1].info


@pytest.mark.parametrize(
    "seed, last", [(10**9, 1_000_000_999), (699_999_500, 700_000_499), (-1, 998), (1_500_000_000, 1_500_000_999)]
)
def test_seeds_for_something_else_are_refused_as_by_the_command(tmp_path, make_env, seed, last):
    message = f"seeds of a recording must be in 0..699999999, got seed={seed}, whose block 0 reaches {last}"
    with pytest.raises(ValueError, match=re.escape(message)):
        gato_lite.record(make_env(), lambda _: np.zeros(2), episodes=4, out=tmp_path / "a", seed=seed)
    with pytest.raises(ValueError, match=re.escape(message)):
        record_task("toy/Taxi", 4, tmp_path / "b", seed=seed)
    assert list(tmp_path.iterdir()) == []


def test_max_steps_truncates(tmp_path):
    env = gym.make("CartPole-v1")
    episodes = record(env, lambda _: 0, episodes=2, out=tmp_path, max_steps=4).read_part(0)
    assert episodes.lengths.tolist() == [4, 4]
    assert episodes.truncated.all()
    assert not episodes.terminated.any()


def test_a_bad_value_names_episode_key_and_step(tmp_path, make_env):
    def spoil(env, observation):
        if env.seed == 2 and env.n_steps == 1:
            observation["pair"] = (np.array([0, np.nan], np.float32), observation["pair"][1])
        return observation

    message = 'episode 2 (seed 2): observation/pair/0, step 1: expected a finite number, got [ 0. nan]; on_bad="skip"'
    with pytest.raises(BadEpisodeError, match=re.escape(message)):
        record(make_env(spoil), lambda _: np.zeros(2), episodes=4, out=tmp_path / "d")
    assert list((tmp_path / "d").iterdir()) == []
    dataset = record(make_env(spoil), lambda _: np.zeros(2), episodes=4, out=tmp_path / "d", on_bad="skip")
    assert dataset.read_part(0).seeds.tolist() == [0, 1, 3, 4]
    assert dataset.info.n_skipped == 1


def test_an_action_outside_its_space_is_refused(tmp_path, make_env):
    message = r"episode 0 \(seed 0\): action, step 0: expected a member of Box.*got \[2. 0.\]"
    with pytest.raises(BadEpisodeError, match=message):
        record(make_env(), lambda _: np.array([2.0, 0.0]), episodes=1, out=tmp_path)


def test_only_bad_episodes_end_in_an_error(tmp_path, make_env):
    with pytest.raises(ValueError, match="11 episodes have bad values, more than are asked for"):
        record(make_env(), lambda _: np.full(2, 9.0), episodes=1, out=tmp_path, on_bad="skip")


def test_nothing_is_overwritten_unasked(tmp_path, make_env):
    record(make_env(), lambda _: np.zeros(2), episodes=1, out=tmp_path)
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        record(make_env(), lambda _: np.zeros(2), episodes=2, out=tmp_path)
    assert Dataset.open(tmp_path).info.n_rows == 1
    assert record(make_env(), lambda _: np.zeros(2), episodes=2, out=tmp_path, overwrite=True).info.n_rows == 2


def test_episodes_by_hand(tmp_path):
    env = RecordEpisodes(gym.make("CartPole-v1"), tmp_path / "d", name="mine/CartPole", instruction="Do it.")
    env.reset(seed=9)
    for _ in range(3):
        env.step(1)
    env.reset()  # given up: kept as truncated
    terminated = False
    while not terminated:
        _, _, terminated, _, _ = env.step(0)
    env.reset()  # closed before its first step: nothing to keep
    with pytest.raises(DatasetError):
        Dataset.open(tmp_path / "d")
    assert json.loads((tmp_path / "d" / ".lock").read_text())["pid"]
    env.close()
    env.close()
    episodes = Dataset.open(tmp_path / "d").read_part(0)
    assert episodes.lengths[0] == 3
    assert episodes.truncated.tolist() == [True, False]
    assert episodes.seeds.tolist() == [9, -1]
    assert env.dataset.info.task == "mine/CartPole"


def test_no_episode_leaves_nothing(tmp_path):
    env = RecordEpisodes(gym.make("CartPole-v1"), tmp_path)
    env.reset()
    env.close()
    assert list(tmp_path.iterdir()) == []


def test_success_is_what_the_environment_says(tmp_path, make_env):
    assert record(make_env(), lambda _: np.zeros(2), episodes=2, out=tmp_path / "a").read_part(0).success.all()
    cart_pole = record(gym.make("CartPole-v1"), lambda _: 0, episodes=2, out=tmp_path / "b")
    assert cart_pole.read_part(0).success is None


def test_names_of_tasks(make_env):
    assert task_name(gym.make("CartPole-v1")) == "gym:CartPole-v1"
    assert task_name(make_env()) == "Random"
    env = gym.make("CartPole-v1")
    changed = TransformObservation(env, lambda observation: observation * 2, env.observation_space)
    assert task_name(changed) == "CartPoleEnv"
    assert task_name(TimeLimit(make_env(), 3)) == "Random"


def test_large_episodes_are_written_as_they_come(tmp_path, make_env, monkeypatch):
    monkeypatch.setattr("gato_lite.envs.writer.PART_BYTES", 2000)
    dataset = record(make_env(), lambda _: np.zeros(2), episodes=12, out=tmp_path)
    assert dataset.n_parts > 2
    assert dataset.lengths().tolist() == [3 + seed % 4 for seed in range(12)]


def test_counts_are_checked(tmp_path, make_env):
    with pytest.raises(ValueError, match="episodes must be at least 1, got episodes=0"):
        record(make_env(), lambda _: np.zeros(2), episodes=0, out=tmp_path)
    for steps in (0, -1):
        with pytest.raises(ValueError, match=f"max_steps must be at least 1 or None, got max_steps={steps}"):
            record(make_env(), lambda _: np.zeros(2), episodes=1, out=tmp_path / "d", max_steps=steps)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_unfinished_episode_does_not_cost_the_others(tmp_path, make_env):
    env = RecordEpisodes(make_env(), tmp_path)
    for action in (np.zeros(2), np.full(2, 9.0)):
        env.cut()
        env.reset()
        env.step(action)
    with pytest.raises(BadEpisodeError, match="episode 1: action, step 0"):
        env.close()
    assert (Dataset.open(tmp_path).info.n_rows, env.dataset.info.n_skipped) == (1, 1)
    assert check(tmp_path) == []


KILLED = """
import os, sys
import gymnasium as gym
from gato_lite.envs import dataset, writer
from gato_lite.envs.record import record

moment = sys.argv[2]
if moment == "parts":  # the new parts are there, dataset.json is still the old one
    writer.write_info = lambda *_: os._exit(9)
else:  # dataset.json is the new one, the old parts are still there
    dataset.sweep = lambda *_: os._exit(9)
record(gym.make("CartPole-v1"), lambda _: 1, episodes=3, out=sys.argv[1], seed=7, overwrite=True)
"""


@pytest.mark.parametrize("moment, whole", [("parts", 5), ("renamed", 3)])
def test_a_kill_while_overwriting_leaves_the_old_or_the_new_dataset(tmp_path, moment, whole):
    env = gym.make("CartPole-v1")
    record(env, lambda _: 0, episodes=5, out=tmp_path)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), moment], check=False)
    assert ended.returncode == 9
    left = Dataset.open(tmp_path)
    assert left.info.n_rows == whole
    assert len(left.read_part(0)) == whole
    assert len(list(tmp_path.glob("part-*"))) == 2
    again = record(env, lambda _: 1, episodes=4, out=tmp_path, overwrite=True)
    assert again.info.n_rows == 4
    assert check(tmp_path) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dataset.json", again.info.parts[0].file]


def test_an_error_while_overwriting_keeps_the_old_dataset(tmp_path, make_env):
    old = record(make_env(), lambda _: np.zeros(2), episodes=2, out=tmp_path)
    with pytest.raises(BadEpisodeError):
        record(make_env(), lambda _: np.full(2, 9.0), episodes=3, out=tmp_path, overwrite=True)
    assert Dataset.open(tmp_path).info == old.info
    assert check(tmp_path) == []


class Malformed(gym.Env):
    """Every other episode forgets a key in its second observation."""

    observation_space = gym.spaces.Dict(a=gym.spaces.Discrete(3), b=gym.spaces.Discrete(3))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.broken, self.n_steps = bool(seed % 2), 0
        return {"a": 0, "b": 0}, {}

    def step(self, action):
        self.n_steps += 1
        observation = {"a": 1} if self.broken and self.n_steps == 1 else {"a": 1, "b": 2}
        return observation, 0.0, self.n_steps == 3, False, {}


def test_a_malformed_observation_spoils_its_own_episode_alone(tmp_path):
    dataset = record(Malformed(), lambda _: 0, episodes=3, out=tmp_path / "skip", on_bad="skip")
    assert (dataset.info.n_rows, dataset.info.n_skipped) == (3, 2)
    assert dataset.read_part(0).lengths.tolist() == [3, 3, 3]
    env = RecordEpisodes(Malformed(), tmp_path / "hand")
    env.reset(seed=1)
    with pytest.raises(
        BadEpisodeError, match=r"episode 0 \(seed 1\): observation/b, step 1: expected a member of Dict"
    ):
        env.step(0)
    env.step(0)
    env.reset(seed=2)
    for _ in range(3):
        env.step(1)
    env.close()
    episodes = env.dataset.read_part(0)
    assert episodes.lengths.tolist() == [3]
    assert episodes.actions[""].tolist() == [1, 1, 1]


def test_a_malformed_first_observation(tmp_path):
    class Wrong(Malformed):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=0)
            return ({"b": 0} if seed == 0 else {"a": 0, "b": 0}), {}

    dataset = record(Wrong(), lambda _: 0, episodes=2, out=tmp_path, on_bad="skip")
    assert (dataset.info.n_rows, dataset.info.n_skipped) == (2, 1)
    assert dataset.read_part(0).seeds.tolist() == [1, 2]


@pytest.mark.parametrize("role", ["observation", "action"])
def test_a_space_without_leaves_is_refused_before_anything_is_written(tmp_path, role):
    env = Malformed()
    setattr(env, f"{role}_space", gym.spaces.Dict(a=gym.spaces.Tuple([])))
    with pytest.raises(ValueError, match=f"{role} space: expected at least one leaf, got Dict"):
        record(env, lambda _: 0, episodes=1, out=tmp_path / "d")
    assert not (tmp_path / "d").exists()
