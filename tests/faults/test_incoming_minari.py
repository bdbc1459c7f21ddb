"""Minari datasets from strangers: HDF5 that lies, leads elsewhere or holds objects, metadata that would run code."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from gato_lite.envs.episodes import BadEpisodeError
from gato_lite.envs.record import record

pytest.importorskip("h5py")
pytest.importorskip("minari")

import h5py

from gato_lite.envs.minari import export_minari, import_minari
from gato_lite.train.cli import main

NAME = "strange/walk-v0"


class Walk(gym.Env):
    observation_space = spaces.Dict(x=spaces.Box(-1, 1, (3,)), eye=spaces.Box(0, 255, (32, 40, 3), np.uint8))
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        self.n_steps = 0
        return self._observe(), {}

    def step(self, action):
        self.n_steps += 1
        return self._observe(), 1.0, self.n_steps == 3, False, {}

    def _observe(self):
        return {"x": np.zeros(3, np.float32), "eye": np.full((32, 40, 3), 9, np.uint8)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Minari's folder of a dataset of two episodes."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "minari").mkdir()
    record(Walk(), lambda _: np.zeros(2, np.float32), episodes=2, out=tmp_path / "mine")
    export_minari(tmp_path / "mine", NAME)
    return tmp_path / "minari" / NAME / "data"


def replaced(folder, place, make):
    """Puts another thing in the place of an array: `make(group, key)`."""
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        group, key = file[str(Path(place).parent)], Path(place).name
        del group[key]
        make(group, key)


def changed(folder, **fields):
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata |= fields
    kept = {key: value for key, value in metadata.items() if value is not None}
    (folder / "metadata.json").write_text(json.dumps(kept))


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_what_is_whole_is_imported(folder, tmp_path):
    assert import_minari(NAME, tmp_path / "out").info.n_rows == 2


@pytest.mark.parametrize(
    "place, shape, message",
    [
        ("observations/x", (4, 3), r"observation/x, step 2: expected a finite number, got \[nan nan nan\]"),
        ("actions", (3, 2), r"action, step 2: expected a finite number, got \[nan nan\]"),
        ("rewards", (3,), r"reward, step 2: expected a finite number, got nan"),
        ("actions", (4, 2), r"action: expected 3 values, got 4"),
        ("observations/x", (3, 3), r"observation/x: expected 4 values, got 3"),
        ("rewards", (0,), r"the episode is empty: expected at least one step"),
    ],
)
def test_a_bad_episode_is_named_or_skipped(folder, tmp_path, place, shape, message):
    values = np.zeros(shape, np.float32)
    values[2:3] = np.nan
    replaced(folder, f"episode_1/{place}", lambda group, key: group.create_dataset(key, data=values))
    with pytest.raises(BadEpisodeError, match=rf"minari:{NAME}, episode 1: {message}"):
        import_minari(NAME, tmp_path / "out")
    kept = import_minari(NAME, tmp_path / "out", on_bad="skip")
    assert (kept.info.n_rows, kept.info.n_skipped) == (1, 1)


def test_an_array_that_claims_gigabytes_is_refused_before_it_is_read(folder, tmp_path):
    before = peak()
    replaced(
        folder,
        "episode_1/rewards",
        lambda group, key: group.create_dataset(key, (2**31,), np.float64, chunks=(2**16,), compression="gzip"),
    )
    assert (folder / "main_data.hdf5").stat().st_size < 2**20
    with pytest.raises(ValueError, match=r"episode_1: expected at most 4 GiB of values, found 16.0 GiB claimed"):
        import_minari(NAME, tmp_path / "out")
    assert peak() - before < 2**27


def test_many_episodes_that_are_none_are_refused(folder, tmp_path):
    changed(folder, total_episodes=2**40)
    with pytest.raises(ValueError, match=r"expected total_episodes=1099511627776 episodes, found 2"):
        import_minari(NAME, tmp_path / "out")


def _pictures(group, key):
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(buffer, "JPEG")
    array = group.create_dataset(key, (4,), h5py.vlen_dtype(np.uint8))
    for step in range(4):
        array[step] = np.frombuffer(buffer.getvalue(), np.uint8)


def test_pictures_larger_than_their_space_are_refused_before_they_are_decoded(folder, tmp_path):
    changed(folder, jpeg_encoding=True)
    before = peak()
    for episode in range(2):
        replaced(folder, f"episode_{episode}/observations/eye", _pictures)
    with pytest.raises(ValueError, match=r"observations/eye, step 0: expected 32 × 40 pixels, found 4000 × 4000"):
        import_minari(NAME, tmp_path / "out")
    assert peak() - before < 2**27


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("boom",)


def _opaque(group, key):
    data = np.void(pickle.dumps(Bomb()))
    group.create_dataset(key, data=np.array([data] * 3))


def _references(group, key):
    group.create_dataset(key, data=np.array([group.ref] * 3, h5py.ref_dtype), dtype=h5py.ref_dtype)


@pytest.mark.parametrize("make, found", [(_opaque, r"dtype \|V\d+"), (_references, "an array of objects")])
def test_pickled_objects_are_refused(folder, tmp_path, monkeypatch, make, found):
    monkeypatch.chdir(tmp_path)
    replaced(folder, "episode_1/rewards", make)
    with pytest.raises(
        ValueError, match=rf"/episode_1/rewards: expected numbers or strings, found {found}; nothing is"
    ):
        import_minari(NAME, tmp_path / "out")
    assert not (tmp_path / "boom").exists()


def _external(group, key):
    group[key] = h5py.ExternalLink("/etc/passwd", "/")


def _soft(group, key):
    group[key] = h5py.SoftLink("/episode_0/rewards")


def _virtual(group, key):
    layout = h5py.VirtualLayout((3,), np.float64)
    layout[:] = h5py.VirtualSource("elsewhere.hdf5", "rewards", (3,))
    group.create_virtual_dataset(key, layout)


def _outside(group, key):
    group.create_dataset(key, (3,), np.float64, external=[("/etc/passwd", 0, 24)])


@pytest.mark.parametrize(
    "make, found",
    [
        (_external, "a ExternalLink"),
        (_soft, "a SoftLink"),
        (_virtual, "them in another"),
        (_outside, "them in another"),
    ],
)
def test_values_in_another_place_are_refused(folder, tmp_path, make, found):
    replaced(folder, "episode_1/rewards", make)
    with pytest.raises(ValueError, match=rf"episode_1/rewards: expected values in this .*, found {found}: refused"):
        import_minari(NAME, tmp_path / "out")


def test_metadata_cannot_run_a_function_of_its_choice(folder, tmp_path, monkeypatch):
    """Without its spaces Minari makes the environment that the file names: here any function, with any arguments."""
    monkeypatch.chdir(tmp_path)
    call = {"id": "Boom-v0", "entry_point": "os:mkdir", "kwargs": {"path": "boom"}, "additional_wrappers": []}
    spec = {**json.loads(gym.spec("CartPole-v1").to_json()), **call}
    changed(folder, env_spec=json.dumps(spec), observation_space=None)
    with pytest.raises(ValueError, match=r"metadata.json: expected 'observation_space', found none; .* refused"):
        import_minari(NAME, tmp_path / "out")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"data_format": "arrow"}, r"expected data_format 'hdf5', found 'arrow'"),
        ({"action_space": '{"type": "Odd"}'}, r"expected 'action_space' to be a space that Minari stores, found"),
        ({"action_space": "["}, r"expected 'action_space' to be a space that Minari stores, found"),
    ],
)
def test_metadata_that_lie_are_named(folder, tmp_path, fields, message):
    changed(folder, **fields)
    with pytest.raises(ValueError, match=rf"metadata.json: {message}"):
        import_minari(NAME, tmp_path / "out")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_file_is_named(folder, tmp_path, share):
    file = folder / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(ValueError, match=r"main_data.hdf5: expected a whole HDF5 file, found damage"):
        import_minari(NAME, tmp_path / "out")


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda _: 5, "expected the JSON of a dataset, found int"),
        (lambda _: "", "metadata.json: expected the JSON of a dataset, found damage"),
        (lambda _: "[" * 100_000, "metadata.json: expected the JSON of a dataset, found damage"),
        (lambda _: "\ud800", "surrogates not allowed"),
        (lambda told: told.replace('"Walk"', r'"\ud800"'), "found damage"),
        (lambda told: told.replace('"Walk"', "5"), r"Expected `str`, got `int` - at `\$.task`"),
        (lambda told: told.replace('"patch_size"', '"patch_sise"'), "Unknown field of spec 'patch_sise'"),
        (lambda told: told.replace('"patch_size": 16', '"patch_size": 0'), "patch_size must be at least 1 pixel"),
        (lambda told: told.replace('"format_version": 1', '"format_version": 99'), "99"),
        (lambda told: told.replace('"metric"', '"run"'), "unknown field `run`"),
    ],
)
def test_what_we_wrote_beside_a_dataset_is_left_out_where_it_is_damaged(folder, tmp_path, edit, message):
    told = json.loads((folder / "metadata.json").read_text())["gato_lite"]
    assert edit(told) != told
    changed(folder, gato_lite=edit(told))
    with pytest.warns(UserWarning, match=rf"minari:{NAME}: what it was exported with, .* is left out: .*{message}"):
        imported = import_minari(NAME, tmp_path / "out")
    assert (imported.info.n_rows, imported.info.task) == (2, NAME)


def test_the_command_notes_what_is_left_out(folder, tmp_path, capsys):
    changed(folder, gato_lite="{")
    assert main(["data", "import", f"minari:{NAME}", "--out", str(tmp_path / "out")]) == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith(f"minari:{NAME}: what it was exported with, such as its task, is left out: ")
