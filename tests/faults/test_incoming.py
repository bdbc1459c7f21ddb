"""Data from strangers: values that are bad, and files that lie about their size or want out of their folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces

from gato_lite.envs.dataset import Dataset, DatasetError, check, write_documents
from gato_lite.envs.episodes import BadEpisodeError
from gato_lite.envs.parts import Document, describe, write_episodes
from gato_lite.envs.record import RecordEpisodes, record
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train import cli
from gato_lite.train.sources import ControlSource

BAD = {"NaN": np.nan, "infinity": np.inf, "minus infinity": -np.inf}
MEMORY = 3 * 2**30
"""Address space in bytes of a process that reads a file which claims more."""


class Arm(gym.Env):
    """Four steps; in the episode of seed 1 something at step 2 is what it is told to be."""

    observation_space = spaces.Dict(arm=spaces.Box(-np.inf, np.inf, (2,)), lamp=spaces.Discrete(4))
    action_space = spaces.Dict(push=spaces.Box(-1, 1, (2,)), press=spaces.Discrete(3))

    def __init__(self, **bad):
        self.bad = bad

    def reset(self, *, seed=None, options=None):
        self.n_steps, self.is_bad = 0, seed == 1
        return self._observe(), {}

    def step(self, action):
        self.n_steps += 1
        return self._observe(), self._now("reward", 0.5), self.n_steps == 4, False, {}

    def _observe(self):
        return {"arm": np.array([0, self._now("arm", 0)], np.float32), "lamp": self._now("lamp", 1)}

    def act(self):
        return {"push": np.array([0, self._now("push", 0)], np.float32), "press": self._now("press", 2)}

    def _now(self, key, usual):
        return self.bad[key] if key in self.bad and self.is_bad and self.n_steps == 2 else usual


def play(env, out, **options):
    return record(env, lambda _: env.act(), episodes=3, out=out, **options)


@pytest.fixture
def data(tmp_path):
    return play(Arm(), tmp_path / "data")


def rewrite(dataset, change):
    """Puts other columns into the one part of a dataset, with hashes and counts that fit."""
    (part,) = dataset.info.parts
    file = dataset.path / part.file
    table = change(pq.read_table(file))
    pq.write_table(table, file, write_page_checksum=True)
    new = describe(file, rows=len(table), timesteps=sum(length or 0 for length in table["length"].to_pylist()))
    info = json.loads((dataset.path / "dataset.json").read_text())
    info["parts"] = [{name: getattr(new, name) for name in new.__struct_fields__}]
    info |= {"n_rows": new.rows, "n_timesteps": new.timesteps}
    (dataset.path / "dataset.json").write_text(json.dumps(info))
    return Dataset.open(dataset.path)


def with_value(name, episode, place, value):
    """A change of one value in a list column."""

    def change(table):
        rows = table[name].to_pylist()
        rows[episode][place] = value
        return table.set_column(table.column_names.index(name), name, pa.array(rows, table[name].type))

    return change


# -- 1, 2


BAD_VALUES = [
    *[(key, value) for key in ("arm", "reward", "push") for value in BAD.values()],
    ("reward", None),
    ("reward", 1e39),
    ("push", 1.5),
    ("press", 3),
    ("press", -1),
    ("press", 2**70),
    ("lamp", 4),
]
PLACES = {
    "arm": "observation/arm, step 2",
    "lamp": "observation/lamp, step 2",
    "reward": "reward, step 1",
    "push": "action/push, step 2",
    "press": "action/press, step 2",
}


@pytest.mark.parametrize("key, value", BAD_VALUES)
def test_a_bad_value_is_refused_by_key_and_step(key, value, tmp_path):
    with pytest.raises(
        BadEpisodeError, match=rf"data: episode 1 \(seed 1\): {PLACES[key]}: expected .*; on_bad=\"skip\""
    ):
        play(Arm(**{key: value}), tmp_path / "data")
    assert not list(tmp_path.glob("data/*.parquet"))
    kept = play(Arm(**{key: value}), tmp_path / "data", on_bad="skip")
    assert (kept.info.n_rows, kept.info.n_skipped) == (3, 1)
    assert kept.read_part(0).seeds.tolist() == [0, 2, 3]
    assert check(kept.path) == []


@pytest.mark.parametrize("key, value", [("arm", np.nan), ("press", 3)])
def test_by_hand_the_episodes_around_a_bad_one_stay(key, value, tmp_path):
    env = RecordEpisodes(Arm(**{key: value}), tmp_path / "data")
    for seed in range(3):
        env.reset(seed=seed)
        try:
            while not env.step(env.unwrapped.act())[2]:
                pass
        except BadEpisodeError:
            assert seed == 1
    env.close()
    assert env.dataset.read_part(0).seeds.tolist() == [0, 2]


SPOILT = """
import gymnasium as gym
import numpy as np

class Spoilt(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        pass

    def reset(self, *, seed=None, options=None):
        self.n_steps, self.is_bad = 0, seed == 1
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.n_steps += 1
        value = np.nan if self.is_bad and self.n_steps == 2 else 0
        return np.array([0, value], np.float32), 0.5, self.n_steps == 4, False, {}

gym.register("Spoilt-v0", entry_point=Spoilt, disable_env_checker=True)
"""


def test_the_command_leaves_bad_episodes_out_and_counts_them(tmp_path, capsys, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "spoilt_environment.py").write_text(SPOILT)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    command = ["record", "gym:spoilt_environment:Spoilt-v0", "--episodes", "2", "--workers", "1"]
    command += ["--out", str(tmp_path / "d")]
    assert cli.main(command) == 2
    assert "seed 1: observation, step 2: expected a finite number" in capsys.readouterr().err
    assert cli.main([*command, "--on-bad", "skip"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1:5] == ["2", "0", "1", "8"]


@pytest.mark.parametrize(
    "name, place, value, message",
    [
        (
            "observation/arm",
            5,
            np.nan,
            r"episode 1, observation/arm, step 2: expected a finite number, got \[ 0. nan\]",
        ),
        (
            "observation/arm",
            5,
            np.inf,
            r"episode 1, observation/arm, step 2: expected a finite number, got \[ 0. inf\]",
        ),
        ("reward", 2, np.nan, r"episode 1, reward, step 2: expected a finite number, got nan"),
        ("action/push", 2, 1.5, r"episode 1, action/push, step 1: expected a member of Box"),
        ("action/press", 3, 3, r"episode 1, action/press, step 3: expected a member of Discrete\(3\), got 3"),
        ("observation/lamp", 4, 9, r"episode 1, observation/lamp, step 4: expected a member of Discrete\(4\), got 9"),
    ],
)
def test_a_bad_value_on_disk_is_refused_before_it_becomes_tokens(data, name, place, value, message):
    spoilt = rewrite(data, with_value(name, 1, place, value))
    assert re.search(message, check(data.path)[0])
    with pytest.raises(DatasetError, match=rf"part-000000.parquet: {message}"):
        ControlSource(spoilt, Vocabulary.shipped())


# -- 3


@pytest.mark.parametrize("name", ["observation/arm", "observation/lamp", "action/push", "action/press", "reward"])
def test_columns_of_unequal_length_are_refused(data, name):
    """A value moves from episode 1 to episode 0, so that the totals stay as they were."""

    def move(table):
        rows = table[name].to_pylist()
        rows[0].append(rows[1].pop())
        return table.set_column(table.column_names.index(name), name, pa.array(rows, table[name].type))

    spoilt = rewrite(data, move)
    with pytest.raises(DatasetError, match=rf"000000.parquet: episode 0, {name}: expected (\d+) values, found \d+$"):
        spoilt.read_part(0)
    assert len(check(data.path)) == 1


@pytest.mark.parametrize("name", ["length", "terminated", "seed"])
def test_a_row_without_its_number_is_refused(data, name):
    def forget(table):
        rows = [None, *table[name].to_pylist()[1:]]
        return table.set_column(table.column_names.index(name), name, pa.array(rows, table[name].type))

    spoilt = rewrite(data, forget)
    with pytest.raises(DatasetError, match=rf"expected column '{name}' of \w+, found \w+, 1 null"):
        spoilt.read_part(0)


def test_an_empty_episode_is_refused(data, tmp_path):
    def empty(table):
        columns = {name: table[name].to_pylist() for name in table.column_names}
        for name, rows in columns.items():
            if isinstance(rows[1], list):
                rows[1] = rows[1][: len(rows[1]) // 5] if name.startswith("observation") else []
        columns["length"][1] = 0
        return pa.table({name: pa.array(rows, table[name].type) for name, rows in columns.items()})

    spoilt = rewrite(data, empty)
    with pytest.raises(DatasetError, match=r"part-000000.parquet: episode 1: expected at least one step, found none"):
        ControlSource(spoilt, Vocabulary.shipped())


def test_an_episode_that_ends_at_once_is_not_recorded(tmp_path):
    env = RecordEpisodes(Arm(), tmp_path / "data")
    env.reset(seed=0)
    env.reset(seed=1)
    env.close()
    assert env.n_episodes == 0
    assert not (tmp_path / "data" / "dataset.json").exists()


# -- 7, 8


def repeated(table, file, doublings):
    """Writes a Parquet file whose footer lists the row group of `table` again and again: a lie that costs nothing."""
    pq.write_table(table, file, compression="zstd", dictionary_pagesize_limit=2**30)
    whole = file.read_bytes()
    metadata = pq.read_metadata(file)
    for _ in range(doublings):
        metadata.append_row_groups(metadata)
    footer = file.with_suffix(".footer")
    metadata.write_metadata_file(footer)
    body = whole[: -8 - int.from_bytes(whole[-8:-4], "little")]
    file.write_bytes(body + footer.read_bytes()[4:])
    footer.unlink()


def claim(dataset, table, doublings=0):
    """Makes `table`, listed again and again, the one part of a dataset."""
    part_file = dataset.path / "part-000000.parquet"
    repeated(table, part_file, doublings)
    part = describe(part_file, rows=len(table), timesteps=0)
    info = json.loads((dataset.path / "dataset.json").read_text())
    info["parts"] = [{name: getattr(part, name) for name in part.__struct_fields__}]
    info |= {"n_rows": part.rows, "n_timesteps": 0}
    (dataset.path / "dataset.json").write_text(json.dumps(info))
    return part_file.stat().st_size


def _numbers(folder):
    """Sixteen million bytes of zeros, and a footer that lists them 512 times."""
    dataset = play(Arm(), folder)
    zeros = pa.ListArray.from_arrays(pa.array([0, 2**22], pa.int32()), pa.array(np.zeros(2**22, np.float32)))
    table = pq.read_table(folder / "part-000000.parquet")[:1]
    assert claim(dataset, table.set_column(table.column_names.index("reward"), "reward", zeros), 9) < 2**20


def _strings(folder, column):
    """One long string a thousand times; it is stored once, and neither footer nor pages tell what it takes."""
    dataset = write_documents(folder, [Document(None, "x")], name="x")
    table = pq.read_table(folder / "part-000000.parquet")
    kind = pa.binary() if column == "image" else pa.string()
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), pa.array(["z" * 2**23], kind))
    rows = {name: pa.array(table[name].to_pylist() * 1000, table[name].type) for name in table.column_names}
    if column == "before":
        turns = pa.StructArray.from_arrays([pa.nulls(1000, pa.binary()), long, long], ["image", "prompt", "text"])
        long = pa.ListArray.from_arrays(pa.array(range(1001), pa.int32()), turns)
    assert claim(dataset, pa.table({**rows, column: long})) < 2**16


def _space(folder, kind):
    play(Arm(), folder)
    info = json.loads((folder / "dataset.json").read_text())
    info["observation_space"] = {"type": kind, "shape": [2**20, 2**12], "dtype": "float32", "low": 0, "high": 1}
    (folder / "dataset.json").write_text(json.dumps(info))


CLAIMS = {
    "numbers": (_numbers, (), "part-000000.parquet: expected at most 4 GiB of values, found 8.0 GiB claimed"),
    "texts": (_strings, ("text",), "000000.parquet: text: expected at most 4 GiB of values, found 7.8 GiB claimed"),
    "pictures": (
        _strings,
        ("image",),
        "000000.parquet: image: expected at most 4 GiB of values, found 7.8 GiB claimed",
    ),
    "turns": (
        _strings,
        ("before",),
        "000000.parquet: before: expected at most 4 GiB of values, found 15.6 GiB claimed",
    ),
    "box": (
        _space,
        ("Box",),
        "dataset.json: shape of a stored space must hold at most 67,108,864 scalars, got [1048576",
    ),
    "bits": (
        _space,
        ("MultiBinary",),
        "shape of a stored space must hold at most 67,108,864 scalars, got [1048576, 4096]",
    ),
}
READ = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
from gato_lite.envs.dataset import Dataset, DatasetError
for folder in sys.argv[1:]:
    try:
        dataset = Dataset.open(folder)
        print(dataset.read_documents() if dataset.info.kind == "documents" else dataset.read_part(0))
    except DatasetError as error:
        print(error)
"""


def test_files_that_claim_gigabytes_are_refused_before_they_are_read(tmp_path):
    """In a process that has less memory than any of them asks for."""
    for name, (make, arguments, _) in CLAIMS.items():
        make(tmp_path / name, *arguments)
    folders = [str(tmp_path / name) for name in CLAIMS]
    done = subprocess.run([sys.executable, "-c", READ, *folders], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    said = done.stdout.splitlines()
    assert len(said) == len(CLAIMS)
    for line, (_, _, expected) in zip(said, CLAIMS.values(), strict=True):
        assert expected in line


def test_a_part_too_large_to_be_read_is_not_written(data, monkeypatch):
    episodes = data.read_part(0)
    monkeypatch.setattr("gato_lite.envs.claims.MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"expected at most 0 GiB of values, found 0.0 GiB claimed; cut episodes"):
        write_episodes(data.path / "part-000001.parquet", episodes, Arm.observation_space, Arm.action_space)
