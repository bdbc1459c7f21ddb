from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from gato_lite.envs.dataset import Dataset, check
from gato_lite.envs.record import record
from gato_lite.spaces import FreeText

pytest.importorskip("minari")
pytest.importorskip("h5py")

from gato_lite.envs.minari import export_minari, import_minari

SPACE = spaces.Dict(
    {
        "words": FreeText(),
        "named": spaces.Text(20, charset="abc "),
        "picture": spaces.Box(0, 255, (40, 33, 3), np.uint8),
        "pair": spaces.Tuple([spaces.Box(-np.inf, np.inf, (2,), np.float64), spaces.Discrete(5, start=-2)]),
    }
)


class Nested(gym.Env):
    observation_space = SPACE
    action_space = spaces.Dict({"push": spaces.Box(-1, 1, (2,)), "press": spaces.MultiBinary(3)})

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        self.n_steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.n_steps += 1
        return self.observation_space.sample(), 0.25, False, self.n_steps == 4, {"success": self.n_steps == 4}


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "minari").mkdir()


@pytest.fixture
def dataset(tmp_path):
    env = Nested()
    env.action_space.seed(0)
    return record(env, lambda _: env.action_space.sample(), episodes=103, out=tmp_path / "d", instruction="Do it.")


def test_there_and_back(dataset, tmp_path):
    name = export_minari(tmp_path / "d")
    assert name == "gato_lite/Nested-v0"
    back = import_minari(name, tmp_path / "back", instruction="Do it.")
    assert (back.observation_space, back.action_space) == (dataset.observation_space, dataset.action_space)
    assert (back.info.n_rows, back.n_parts) == (103, 2)
    assert back.info.generator["source"] == "minari:gato_lite/Nested-v0"
    for index in range(2):
        left, right = dataset.read_part(index), back.read_part(index)
        for role in ("observations", "actions"):
            for path, column in getattr(left, role).items():
                other = getattr(right, role)[path]
                assert type(other) is type(column)
                assert np.array_equal(column, other), path
        for field in ("rewards", "terminated", "truncated", "lengths", "seeds", "success"):
            assert np.array_equal(getattr(left, field), getattr(right, field)), field
    assert check(tmp_path / "back") == []


def test_nothing_is_overwritten_unasked(dataset, tmp_path):
    export_minari(dataset.path, "mine/nested-v0")
    with pytest.raises(FileExistsError, match="Minari has a dataset 'mine/nested-v0'; pass overwrite=True"):
        export_minari(dataset.path, "mine/nested-v0")
    assert export_minari(dataset.path, "mine/nested-v0", overwrite=True) == "mine/nested-v0"
    import_minari("mine/nested-v0", tmp_path / "back")
    with pytest.raises(FileExistsError, match="already holds a dataset"):
        import_minari("mine/nested-v0", tmp_path / "back")


def test_an_unknown_dataset_lists_the_closest(dataset, tmp_path):
    export_minari(dataset.path, "mine/nested-v0")
    with pytest.raises(ValueError, match=r"Unknown Minari dataset 'mine/nestd-v0'\. Did you mean mine/nested-v0\?"):
        import_minari("mine/nestd-v0", tmp_path / "back")


def test_a_bad_value_names_its_place(tmp_path):
    import minari
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            observations=np.array([[0.0], [value], [0.0]], np.float32),
            actions=np.array([0, 1]),
            rewards=[0.0, 1.0],
            terminations=[False, True],
            truncations=[False, False],
            infos={},
        )
        for value in (0.0, np.nan)
    ]
    with pytest.warns(UserWarning, match="None"):  # of all that it was not told
        minari.create_dataset_from_buffers(
            "mine/nan-v0", buffers, observation_space=spaces.Box(-1, 1, (1,)), action_space=spaces.Discrete(2)
        )
    with pytest.raises(
        ValueError, match=r"minari:mine/nan-v0, episode 1: observation, step 1: expected a finite number"
    ):
        import_minari("mine/nan-v0", tmp_path / "back")
    assert import_minari("mine/nan-v0", tmp_path / "back", on_bad="skip").info.n_skipped == 1
    assert Dataset.open(tmp_path / "back").info.n_rows == 1


def test_what_minari_cannot_store_is_told(folder):
    with pytest.raises(TypeError, match="Minari stores no Sequence space"):
        export_minari(folder)


@pytest.mark.parametrize("name", ["nested", "mine/nested", "../nested-v0", "mine/nes ted-v0", ""])
def test_a_name_that_minari_does_not_take_is_refused(dataset, tmp_path, name):
    with pytest.raises(ValueError, match=r"name must be of the form \[namespace/\]dataset-v0, got"):
        export_minari(dataset.path, name)
    assert list((tmp_path / "minari").iterdir()) == []
