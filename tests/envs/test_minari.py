from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from gato_lite.config import TokenSpec
from gato_lite.envs.dataset import Dataset, check
from gato_lite.envs.record import record, record_task
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
    back = import_minari(name, tmp_path / "back")
    assert (back.observation_space, back.action_space) == (dataset.observation_space, dataset.action_space)
    assert (back.info.n_rows, back.n_parts) == (103, 2)
    assert (back.info.task, back.info.instruction) == ("Nested", "Do it.")
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


def identity(dataset):
    info = dataset.info
    told = (info.task, info.instruction, info.metric, info.spec, info.reference, info.seed, info.licence)
    return *told, info.generator.get("policy")


@pytest.mark.parametrize("task", ["babyai/GoToObj", "box2d/LunarLander", "gym:CartPole-v1"])
def test_what_a_dataset_says_of_itself_comes_back(tmp_path, task):
    pytest.importorskip("minigrid")
    pytest.importorskip("Box2D")
    level = record_task(task, 2, tmp_path / "level", seed=5)
    back = import_minari(export_minari(level.path, "mine/level-v0"), tmp_path / "back")
    assert identity(back) == identity(level)
    assert back.info.task == task
    assert (back.info.reference is None) == (task == "gym:CartPole-v1")
    assert back.info.generator["source"] == "minari:mine/level-v0"
    given = {"task": "my/Level", "instruction": "Go.", "spec": TokenSpec(history=2), "licence": "CC0-1.0"}
    info = import_minari("mine/level-v0", tmp_path / "given", **given).info
    assert {name: getattr(info, name) for name in given} == given


def test_an_environment_of_gymnasium_is_named_to_minari(dataset, tmp_path):
    import minari

    record(gym.make("CartPole-v1"), lambda _: 0, episodes=2, out=tmp_path / "pole")
    assert minari.load_dataset(export_minari(tmp_path / "pole", "mine/pole-v0")).env_spec == gym.spec("CartPole-v1")
    assert minari.load_dataset(export_minari(tmp_path / "d", "mine/nested-v0")).env_spec is None
    gym.register("Nested-v0", Nested)  # a class, which no JSON can name
    try:
        env = Nested()
        record(env, lambda _: env.action_space.sample(), episodes=2, out=tmp_path / "class", name="gym:Nested-v0")
        assert minari.load_dataset(export_minari(tmp_path / "class", "mine/class-v0")).env_spec is None
    finally:
        del gym.registry["Nested-v0"]


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


def record_of(tmp_path, space, values):
    class Told(gym.Env):
        observation_space = space
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            self.left = iter(values[1:])
            return values[0], {}

        def step(self, action):
            value = next(self.left)
            return value, 0.5, False, value is values[-1], {}

    return record(Told(), lambda _: 1, episodes=2, out=tmp_path / "told")


TEXTS = ["", "e\u0301 \U0001f469\u200d\U0001f467", "\u202eabc", "a" * 5000, " two\r\n\tlines ", "\x01\x7f\x80\xff"]


def test_every_text_without_a_nul_comes_back(tmp_path):
    told = record_of(tmp_path, spaces.Dict(said=FreeText()), [{"said": text} for text in TEXTS])
    back = import_minari(export_minari(told.path), tmp_path / "back")
    assert back.read_part(0).observations["said"] == TEXTS * 2


def test_numbers_of_every_kind_come_back(tmp_path):
    dtypes = ("float16", "float64", "int8", "uint16", "int64", "uint64")
    highs = {dtype: np.finfo(dtype).max if dtype.startswith("f") else np.iinfo(dtype).max for dtype in dtypes}
    leaves = {f"{dtype} {shape}": (shape, dtype) for dtype in dtypes for shape in ((), (3,), (2, 2))}
    space = spaces.Dict({key: spaces.Box(0, highs[dtype], shape, dtype) for key, (shape, dtype) in leaves.items()})
    values = [
        {key: np.full(shape, 1 if low else highs[dtype], dtype) for key, (shape, dtype) in leaves.items()}
        for low in (True, False)
    ]
    told = record_of(tmp_path, space, values)
    columns = import_minari(export_minari(told.path), tmp_path / "back").read_part(0).observations
    for key, (_, dtype) in leaves.items():
        assert columns[key].dtype == dtype
        assert np.array_equal(columns[key], np.stack([value[key] for value in values * 2]))


def test_a_recorded_level_of_babyai_comes_back(tmp_path):
    pytest.importorskip("minigrid")
    level = record_task("babyai/GoToObj", 5, tmp_path / "level", on_bad="skip")
    back = import_minari(export_minari(level.path), tmp_path / "back")
    assert (back.observation_space, back.action_space) == (level.observation_space, level.action_space)
    for path, column in level.read_part(0).observations.items():
        assert np.array_equal(back.read_part(0).observations[path], column), path


def test_a_text_that_hdf5_would_cut_is_refused_before_anything_is_changed(dataset, tmp_path):
    export_minari(dataset.path, "mine/kept-v0")
    told = record_of(tmp_path, FreeText(), ["a", "b", "c\0d"])
    message = r"part-000000\.parquet: episode 0, observation, step 2: Minari stores no text with a NUL, got 'c\\x00d'"
    with pytest.raises(ValueError, match=message):
        export_minari(told.path, "mine/kept-v0", overwrite=True)
    assert import_minari("mine/kept-v0", tmp_path / "back").info.n_rows == 103


@pytest.mark.parametrize("key", ["", ".", "a/b", "a\0b"])
def test_a_key_that_hdf5_reads_otherwise_is_refused(tmp_path, key):
    told = record_of(tmp_path, spaces.Dict(inner=spaces.Dict({key: spaces.Discrete(2)})), [{"inner": {key: 0}}] * 2)
    with pytest.raises(ValueError, match="Minari stores no key that is empty"):
        export_minari(told.path)
    assert list((tmp_path / "minari").iterdir()) == []
