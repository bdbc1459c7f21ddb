from __future__ import annotations

import re
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from gato_lite.envs import blocks, catalogue, recording
from gato_lite.envs.blocks import GivenUpError, package_versions
from gato_lite.envs.catalogue import Task
from gato_lite.envs.dataset import Dataset, check
from gato_lite.envs.experts import ExpertFailedError
from gato_lite.envs.record import record
from gato_lite.envs.recording import record_task, record_tasks
from gato_lite.envs.seeds import EVALUATION_SEED, REFERENCE_SEED, RELABEL_SEED, block_seed

SOKOBAN = "sokoban/Sokoban7x7"


def digests(dataset: Dataset) -> list[str]:
    return [part.sha256 for part in dataset.info.parts]


class Counter(gym.Env):
    """Three steps; what goes wrong is up to the seed."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.n_steps = seed, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.n_steps += 1
        value = np.nan if self.seed % 10 == 4 else self.seed
        return np.array([value], np.float32), float(self.seed % 7 > 0), self.n_steps == 3, False, {}


class Picky:
    """Fails for seeds that end in 3."""

    def __init__(self, env):
        self.env = env

    def reset(self):
        pass

    def act(self, observation, previous_action):
        if self.env.unwrapped.seed % 10 == 3:
            raise ExpertFailedError("no idea")
        return 1


@pytest.fixture
def picky(monkeypatch):
    """A task whose episodes fail, go unsolved, or hold NaN, depending on the seed."""
    task = Task(
        name="test/Picky",
        make_env=lambda _evaluation, _mode: Counter(),
        expert=Picky,
        metric="success",
        must_succeed=True,
    )
    monkeypatch.setitem(catalogue.TASKS, task.name, task)
    return task


def test_the_number_of_workers_changes_nothing(tmp_path):
    seen = []
    one = record_task(SOKOBAN, 230, tmp_path / "one")
    two = record_task(
        SOKOBAN, 230, tmp_path / "two", workers=2, progress=lambda done, total: seen.append((done, total))
    )
    assert one.info == two.info
    assert [part.rows for part in one.info.parts] == [100, 100, 30]
    assert seen[-1] == (230, 230)
    assert check(tmp_path / "two") == []


def test_the_folder_says_all_that_training_needs(tmp_path):
    dataset = record_task("toy/Taxi", 3, tmp_path / "d")
    task = catalogue.TASKS["toy/Taxi"]
    info = Dataset.open(tmp_path / "d").info
    assert (info.task, info.instruction, info.metric) == ("toy/Taxi", task.instruction, "return")
    assert info.spec == task.spec
    assert dataset.action_space == spaces.Discrete(6)
    assert info.reference.expert == task.expert_score
    assert {"gymnasium", "numpy", "python", "policy"} <= set(info.generator)


def test_the_same_command_again_does_nothing(tmp_path):
    first = record_task(SOKOBAN, 120, tmp_path)
    times = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert record_task(SOKOBAN, 120, tmp_path).info == first.info
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == times


def test_another_recording_is_not_overwritten_unasked(tmp_path):
    record_task(SOKOBAN, 20, tmp_path)
    for changed, told in (
        ({"episodes": 30}, "episodes: there 20, asked for 30"),
        ({"episodes": 20, "seed": 1}, "seed: there 0, asked for 1"),
        ({"episodes": 30, "on_bad": "skip"}, "on_bad: there error, asked for skip; episodes: there 20, asked for 30"),
    ):
        with pytest.raises(
            FileExistsError,
            match=r"already holds a dataset, 20 episodes of sokoban/Sokoban7x7 from seed 0 \(.*gymnasium \d.*\),"
            rf" which is not what is asked for \({told}\); name another folder, or pass overwrite=True",
        ):
            record_task(SOKOBAN, out=tmp_path, **changed)
    assert record_task(SOKOBAN, 30, tmp_path, overwrite=True).info.n_rows == 30
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_what_differs_from_the_recording_that_is_there_is_named(tmp_path, monkeypatch):
    task = Task(name="test/Counter", make_env=lambda _evaluation, _mode: Counter())
    stricter = replace(task, least_return=1.5)

    def told(wanted, episodes=3):
        monkeypatch.setitem(catalogue.TASKS, task.name, wanted)
        with pytest.raises(FileExistsError) as raised:
            record_task(task.name, episodes, tmp_path)
        return re.search(r"which is not what is asked for \((.*)\); name another", str(raised.value))[1]

    monkeypatch.setitem(catalogue.TASKS, task.name, task)
    record_task(task.name, 3, tmp_path)
    assert told(stricter) == (
        "least_return: there none (it was recorded before the task had one, and may hold episodes below it),"
        " asked for 1.5"
    )
    assert told(replace(task, part_episodes=2)) == "episodes of a part: there 3, asked for 2"
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "package_versions", lambda: {**package_versions(), "numpy": "9.9"})
        assert told(task) == f"numpy: there {np.__version__}, asked for 9.9"
    monkeypatch.setitem(catalogue.TASKS, task.name, stricter)
    record_task(task.name, 3, tmp_path, overwrite=True)
    assert told(replace(task, least_return=0.5)) == "least_return: there 1.5, asked for 0.5"
    assert told(task) == "least_return: there 1.5, asked for none"


def test_what_differs_from_an_unfinished_or_another_dataset_is_named(tmp_path):
    record_task("toy/Taxi", 250, tmp_path / "d")
    (tmp_path / "d" / "dataset.json").unlink()
    message = r"which is unfinished.* \(task: there toy/Taxi, asked for sokoban/Sokoban7x7\); name another folder"
    with pytest.raises(FileExistsError, match=message):
        record_task(SOKOBAN, 250, tmp_path / "d")
    message = r"\(parts: there part-000000.parquet to part-000002.parquet, asked for part-000000.* to part-000000.*\);"
    with pytest.raises(FileExistsError, match=message):
        record_task("toy/Taxi", 50, tmp_path / "d")
    record(Counter(), lambda _: 1, episodes=1, out=tmp_path / "own")
    message = "1 episode of Counter from seed 0 .*, which is no recording of a task of the catalogue; name another"
    with pytest.raises(FileExistsError, match=message):
        record_task("toy/Taxi", 1, tmp_path / "own")


def test_a_recording_that_replaces_another_goes_on_where_it_stopped(tmp_path, monkeypatch):
    old = record_task(SOKOBAN, 20, tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recording, "write_info", killed)
        with pytest.raises(KeyboardInterrupt):
            record_task(SOKOBAN, 120, tmp_path, seed=1, overwrite=True)
    assert Dataset.open(tmp_path).info == old.info
    kept = (tmp_path / "part-500000.parquet").stat().st_mtime_ns
    new = record_task(SOKOBAN, 120, tmp_path, seed=1, overwrite=True)
    assert new.info.n_rows == 120
    assert (tmp_path / "part-500000.parquet").stat().st_mtime_ns == kept
    assert check(tmp_path) == []
    assert record_task(SOKOBAN, 120, tmp_path, seed=1).info == new.info
    fresh = record_task(SOKOBAN, 120, tmp_path.parent / "fresh", seed=1)
    assert [part.sha256 for part in fresh.info.parts] == [part.sha256 for part in new.info.parts]


def test_a_recording_goes_on_where_it_stopped(tmp_path):
    whole = record_task(SOKOBAN, 250, tmp_path)
    (tmp_path / "dataset.json").unlink()
    (tmp_path / "part-000001.parquet").write_bytes(b"PAR1 damage")
    (tmp_path / "part-000002.parquet").unlink()
    (tmp_path / ".part-000002.parquet.123.tmp").write_bytes(b"half")
    kept = (tmp_path / "part-000000.parquet").stat().st_mtime_ns
    with pytest.raises(FileExistsError):
        record_task("toy/Taxi", 250, tmp_path)
    assert record_task(SOKOBAN, 250, tmp_path).info == whole.info
    assert (tmp_path / "part-000000.parquet").stat().st_mtime_ns == kept
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "dataset.json",
        *(part.file for part in whole.info.parts),
    ]


def test_a_part_damaged_later_is_made_again(tmp_path):
    whole = record_task(SOKOBAN, 120, tmp_path)
    content = bytearray((tmp_path / "part-000001.parquet").read_bytes())
    content[len(content) // 3] ^= 1
    (tmp_path / "part-000001.parquet").write_bytes(content)
    assert record_task(SOKOBAN, 120, tmp_path).info == whole.info
    assert check(tmp_path) == []


def test_files_of_others_are_kept(tmp_path):
    part, temporary = tmp_path / "part-000000.parquet", tmp_path / ".mine.tmp"
    temporary.write_text("mine")
    part.write_text("mine")
    with pytest.raises(FileExistsError, match=r"part-000000\.parquet: expected a part of this recording"):
        record_task(SOKOBAN, 3, tmp_path)
    assert part.read_text() == "mine"
    part.unlink()
    assert record_task(SOKOBAN, 3, tmp_path).info.n_rows == 3
    part.write_text("damage")  # beside a dataset.json that is ours
    assert record_task(SOKOBAN, 3, tmp_path).info.n_rows == 3
    assert temporary.read_text() == "mine"


def test_a_damaged_recording_is_replaced_when_asked(tmp_path):
    for name in ("dataset.json", "part-000000.parquet"):
        (tmp_path / name).write_text("{")
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        record_task(SOKOBAN, 3, tmp_path)
    assert record_task(SOKOBAN, 3, tmp_path, overwrite=True).info.n_rows == 3


def test_failures_give_way_to_the_next_seeds(tmp_path, picky):
    dataset = record_task(picky.name, 150, tmp_path, on_bad="skip")
    seeds = dataset.read_part(0).seeds
    assert len(seeds) == 100
    assert not np.isin(seeds % 10, [3, 4]).any()
    assert (seeds % 7 > 0).all()
    assert dataset.read_part(1).seeds[0] >= 1000
    tried = [range(int(dataset.read_part(i).seeds[-1]) - 1000 * i + 1) for i in range(2)]
    assert dataset.info.n_skipped == sum(seed % 10 == 4 for i in range(2) for seed in map((1000 * i).__add__, tried[i]))
    assert dataset.info.n_failed + dataset.info.n_skipped == sum(map(len, tried)) - 150


def test_an_episode_below_the_least_return_is_left_out(tmp_path, monkeypatch):
    task = Task(name="test/Low", make_env=lambda _evaluation, _mode: Counter(), least_return=1.0)
    monkeypatch.setitem(catalogue.TASKS, task.name, task)
    recording = record_tasks({task.name: 12}, tmp_path, on_bad="skip")[task.name]
    assert recording.dataset.read_part(0).seeds.tolist() == [1, 2, 3, 5, 6, 8, 9, 10, 11, 12, 13, 15]
    assert (recording.dataset.info.n_failed, recording.dataset.info.n_skipped) == (2, 2)
    assert recording.reasons == {"low return": 2}
    assert recording.examples == ("seed 0: the expert's return is 0, below 1",)
    monkeypatch.setitem(catalogue.TASKS, task.name, replace(task, least_return=2.0))
    with pytest.raises(FileExistsError):  # what was kept by another rule is another recording
        record_tasks({task.name: 12}, tmp_path, on_bad="skip")


@pytest.mark.parametrize("name", ["mujoco/HalfCheetah", "mujoco/Ant"])
def test_a_demonstration_has_four_fifths_of_the_expert(name):
    task = catalogue.TASKS[name]
    assert task.least_return == pytest.approx(0.8 * task.expert_score.mean, rel=0.02)


def test_large_observations_make_small_parts(tmp_path, monkeypatch):
    class Large(Counter):
        observation_space = spaces.Box(0, 255, (100, 300, 3), np.uint8)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros((100, 300, 3), np.uint8), {}

        def step(self, action):
            self.n_steps += 1
            return np.zeros((100, 300, 3), np.uint8), 1.0, self.n_steps == 2, False, {}

    monkeypatch.setitem(catalogue.TASKS, "test/Large", Task(name="test/Large", make_env=lambda *_: Large()))
    dataset = record_task("test/Large", 5, tmp_path)
    assert [part.rows for part in dataset.info.parts] == [2, 2, 1]  # 64 MiB hold two episodes of 256 such pictures
    assert dataset.read_part(1).seeds.tolist() == [1000, 1001]


def test_what_cannot_be_made_is_said_with_its_reason(tmp_path, monkeypatch):
    def lost(env):
        raise FileNotFoundError("no weights")

    task = Task(name="test/Lost", make_env=lambda *_: Counter(), expert=lost)
    monkeypatch.setitem(catalogue.TASKS, task.name, task)
    with pytest.raises(GivenUpError, match="test/Lost: cannot be made: FileNotFoundError: no weights"):
        record_task(task.name, 5, tmp_path)


def test_a_bad_value_names_task_seed_key_and_step(tmp_path, picky):
    message = "test/Picky, seed 4: observation, step 1: expected a finite number, got [nan]"
    with pytest.raises(ValueError, match=re.escape(message)):
        record_task(picky.name, 10, tmp_path)


def test_an_expert_that_always_fails_is_given_up(tmp_path, picky, monkeypatch):
    monkeypatch.setattr(Picky, "act", lambda self, observation, previous_action: 1 / 0 if self is None else 0)
    monkeypatch.setattr(Counter, "step", lambda self, _: (np.zeros(1, np.float32), 0.0, True, False, {}))
    with pytest.raises(RuntimeError, match=r"expected 5 episodes from 100 seeds from 0, got 0: 100 failed"):
        record_task(picky.name, 5, tmp_path)


def test_several_tasks_with_one_set_of_workers(tmp_path):
    found = record_tasks({"toy/Taxi": 5, "gym:CartPole-v1": 4}, tmp_path, workers=2)
    folders = {name: recorded.dataset.path for name, recorded in found.items()}
    assert folders == {"toy/Taxi": tmp_path / "toy-Taxi", "gym:CartPole-v1": tmp_path / "gym-CartPole-v1"}
    cart_pole = found["gym:CartPole-v1"].dataset
    assert cart_pole.info.generator["policy"] == "random actions"
    assert set(cart_pole.read_part(0).actions[""].tolist()) == {0, 1}


def test_seeds_of_recordings_stay_below_all_others():
    assert block_seed(5, 3) == 3005
    assert RELABEL_SEED < REFERENCE_SEED < EVALUATION_SEED
    with pytest.raises(ValueError, match=r"must be in 0\.\.699999999, got seed=699999500"):
        block_seed(699_999_500, 0)
    with pytest.raises(ValueError, match="got seed=-1"):
        block_seed(-1, 0)


def test_counts_are_checked(tmp_path):
    with pytest.raises(ValueError, match="workers must be at least 1 or None, got workers=0"):
        record_task(SOKOBAN, 5, tmp_path, workers=0)


def test_a_timestep_takes_few_bytes(tmp_path):
    pytest.importorskip("minigrid")
    dataset = record_task("babyai/GoToLocal", 300, tmp_path)
    n_bytes = sum(file.stat().st_size for file in tmp_path.glob("part-*.parquet"))
    assert n_bytes <= 70 * dataset.info.n_timesteps
