from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces

from gato_lite.config import TokenSpec
from gato_lite.envs.dataset import Dataset, DatasetError, Document, Turn, check, write_documents
from gato_lite.envs.parts import read_document_rows, read_episodes, read_table, write_episodes

PNG = b"\x89PNG\r\n\x1a\n and so on"


def same(left, right):
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    return list(left) == list(right)


def edit(folder, change):
    file = folder / "dataset.json"
    stored = json.loads(file.read_text())
    change(stored)
    file.write_text(json.dumps(stored))


def test_what_is_read_is_what_was_written(folder, tmp_path):
    dataset = Dataset.open(folder)
    episodes = dataset.read_part(0)
    assert list(episodes.observations) == ["bag", "pair/0", "pair/1", "picture", "words"]
    assert episodes.observations["picture"].shape == (int(episodes.lengths.sum()) + 12, 3, 4, 3)
    assert episodes.lengths.tolist() == [3 + seed % 4 for seed in range(3, 15)]
    assert episodes.success.all()
    write_episodes(tmp_path / "part-000000.parquet", episodes, dataset.observation_space, dataset.action_space)
    again = read_episodes(tmp_path / "part-000000.parquet", dataset.observation_space, dataset.action_space)
    assert all(same(column, again.observations[path]) for path, column in episodes.observations.items())
    assert same(episodes.actions[""], again.actions[""])


def test_values_are_those_of_the_environment(folder, make_env):
    episodes = Dataset.open(folder).read_part(0)
    observation, _ = make_env().reset(seed=4)
    row = int(episodes.lengths[0]) + 1  # first observation of the second episode
    assert np.array_equal(episodes.observations["picture"][row], observation["picture"])
    assert episodes.observations["words"][row] == observation["words"]
    assert episodes.observations["bag"][row] == observation["bag"]
    assert episodes.observations["pair/1"][row] == observation["pair"][1]


def test_lengths_without_values(folder):
    dataset = Dataset.open(folder)
    assert dataset.lengths().tolist() == dataset.read_part(0).lengths.tolist()
    assert dataset.info.n_timesteps == dataset.lengths().sum()


def test_any_parquet_reader_opens_a_part(folder):
    table = pq.read_table(folder / "part-000000.parquet")
    assert table.column_names == [
        *("observation/bag", "observation/pair/0", "observation/pair/1", "observation/picture", "observation/words"),
        *("action", "reward", "terminated", "truncated", "seed", "length", "success"),
    ]
    assert table.schema.field("observation/picture").type == pa.list_(pa.uint8())
    assert table.column("seed").to_pylist() == list(range(3, 15))


def test_an_untouched_dataset_has_no_problems(folder):
    assert check(folder) == []


def test_a_flipped_byte_is_found(folder):
    file = folder / "part-000000.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    (problem,) = check(folder)
    assert problem.startswith(f"{file}: expected SHA-256 ")
    with pytest.raises(DatasetError, match=re.escape(problem)):
        Dataset.open(folder).read_part(0)
    with pytest.raises(DatasetError, match=re.escape(f"{file}: expected a whole Parquet file, found damage")):
        read_table(file)


def test_a_cut_file_is_named(folder):
    file = folder / "part-000000.parquet"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        DatasetError, match=re.escape(f"{file}: expected {size} bytes, found 100: truncated or altered")
    ):
        Dataset.open(folder)


def test_a_missing_part_is_named(folder):
    (folder / "part-000000.parquet").unlink()
    with pytest.raises(DatasetError, match=r"lists, found 1 of 1 missing: part-000000\.parquet; copy"):
        Dataset.open(folder)


def test_a_value_outside_its_space_is_found(folder):
    dataset = Dataset.open(folder)
    episodes = dataset.read_part(0)
    actions = episodes.actions[""].copy()
    actions[4] = 3.0  # the second step of the second episode: the first has three
    bad = type(episodes)(**{**vars(episodes), "actions": {"": actions}})
    part = write_episodes(folder / "part-000000.parquet", bad, dataset.observation_space, dataset.action_space)
    edit(folder, lambda stored: stored["parts"][0].update(size=part.size, sha256=part.sha256))
    (problem,) = check(folder)
    assert "part-000000.parquet: episode 0, action, step 4: expected a member of Box" in problem


def test_a_part_that_is_not_listed_is_found(folder):
    (folder / "part-000001.parquet").write_bytes(b"")
    assert check(folder) == [
        f"{folder / 'part-000001.parquet'}: expected to be listed in dataset.json, found it is not"
    ]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.update(format_version=2), "format version 2 needs gato-lite > 0.1.0, this is"),
        (lambda s: s.update(surprise=1), "unknown field `surprise`"),
        (lambda s: s["spec"].update(seperator=True), "Unknown field of spec 'seperator'. Did you mean separator"),
        (lambda s: s["spec"].update(patch_size=0), "patch_size must be at least 1 pixel, got patch_size=0"),
        (lambda s: s.update(n_rows=13), "expected n_rows=12, the sum over its parts, found n_rows=13"),
        (lambda s: s.update(n_timesteps=1), "the sum over its parts, found n_timesteps=1"),
        (lambda s: s["parts"][0].update(file="../part-000000.parquet"), "expected parts named part-000000.parquet"),
        (lambda s: s.update(observation_space=None), "expected observation_space and action_space"),
        (lambda s: s.update(observation_space={"type": "Cube"}), "type of a stored space must be one of"),
        (lambda s: s.update(kind="video"), "expected the JSON of a dataset, found damage"),
    ],
)
def test_damaged_json_is_named(folder, change, message):
    edit(folder, change)
    with pytest.raises(DatasetError, match=re.escape(message)) as caught:
        Dataset.open(folder)
    assert str(folder / "dataset.json") in str(caught.value)
    assert check(folder) == [str(caught.value)]


def test_no_json_at_all(tmp_path):
    with pytest.raises(DatasetError, match=r"expected a dataset .* found none$"):
        Dataset.open(tmp_path)
    (tmp_path / "part-000000.parquet").write_bytes(b"")
    with pytest.raises(DatasetError, match="found a recording that was not finished"):
        Dataset.open(tmp_path)
    (tmp_path / "dataset.json").write_text('{"half')
    with pytest.raises(DatasetError, match="found damage"):
        Dataset.open(tmp_path)


def test_a_spec_comes_back(folder):
    spec = TokenSpec(kinds=(("a/b", "bins"),), leaves=("a/b",), once=("a/b",), pixel_high=(1, 2), separator=True)
    edit(folder, lambda stored: stored.update(spec=dataclasses.asdict(spec)))
    assert Dataset.open(folder).info.spec == spec


def test_labels_come_back(tmp_path, folder):
    dataset = Dataset.open(folder)
    episodes = dataset.read_part(0)
    labelled = type(episodes)(**{**vars(episodes), "labels": {"": -episodes.actions[""]}})
    path = tmp_path / "part-000000.parquet"
    write_episodes(path, labelled, dataset.observation_space, dataset.action_space)
    again = read_episodes(path, dataset.observation_space, dataset.action_space)
    assert same(again.labels[""], -episodes.actions[""])
    assert episodes.labels is None


def test_documents_come_back(tmp_path):
    rows = [Document(None, "a text\n\x00 ▁", "train"), Document(PNG, "cat", "test", "noto")]
    dataset = write_documents(tmp_path / "d", rows, name="things", licence="CC0-1.0", attribution="us")
    assert dataset.read_documents() == rows
    assert dataset.read_documents("test") == rows[1:]
    assert (dataset.info.n_rows, dataset.info.licence, dataset.info.kind) == (2, "CC0-1.0", "documents")
    assert check(tmp_path / "d") == []
    with pytest.raises(ValueError, match="expected a dataset of episodes, got kind='documents'"):
        dataset.lengths()


def test_prompts_and_turns_come_back(tmp_path):
    turns = (Turn(PNG, "what?", "a cat"), Turn(PNG), Turn(prompt="and\n"))
    rows = [Document(PNG, "a dog", prompt="and this?", before=turns), Document(None, "plain")]
    write_documents(tmp_path / "d", rows, name="talk")
    assert Dataset.open(tmp_path / "d").read_documents() == rows
    assert check(tmp_path / "d") == []


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("text", pa.array([1]), "expected the column 'text' to be string, found int64"),
        ("text", pa.array([None], pa.string()), "expected a value of 'text' in every row, found 1 without"),
        ("prompt", pa.array([b"x"]), "expected the column 'prompt' to be string, found binary"),
        ("before", pa.array([["x"]]), "expected the column 'before' to be list<item: struct<image: binary"),
    ],
)
def test_a_column_of_another_type_is_named(tmp_path, name, values, message):
    columns = {"image": pa.array([None], pa.binary()), "text": ["a"], "split": ["train"]}
    columns["group"] = pa.array([None], pa.string())
    pq.write_table(pa.table({**columns, name: values}), tmp_path / "part-000000.parquet")
    with pytest.raises(DatasetError, match=re.escape(f"part-000000.parquet: {message}")):
        read_document_rows(tmp_path / "part-000000.parquet")


def test_many_documents_take_many_parts(tmp_path):
    dataset = write_documents(tmp_path / "d", (Document(None, str(i)) for i in range(4500)), name="n")
    assert [part.rows for part in dataset.info.parts] == [2000, 2000, 500]
    assert dataset.read_documents()[4321].text == "4321"


@pytest.mark.parametrize(
    "row, message",
    [
        (Document(None, ""), "document 1: expected an image or text, got neither"),
        (Document(b"GIF89a", "x"), "document 1: expected an image as the bytes of a PNG file"),
        (Document(None, "x", "valid"), 'document 1: expected split "train" or "test", got \'valid\''),
        (Document(None, "\ud800"), "document 1: expected text that UTF-8 can write"),
        (Document(None, "x", prompt="\ud800"), "document 1: expected text that UTF-8 can write"),
        (Document(PNG, "", prompt="what?"), "document 1: expected an answer (text) after a prompt"),
        (Document(None, "x", before=(Turn(),)), "document 1: turn 1: expected an image, a prompt or text, got none"),
        (Document(None, "x", before=(Turn(b"GIF89a"),)), "document 1: turn 1: expected an image as the bytes of a PNG"),
    ],
)
def test_a_bad_document_is_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        write_documents(tmp_path / "d", [Document(None, "fine"), row], name="n")


def test_nothing_is_overwritten_unasked(tmp_path):
    write_documents(tmp_path / "d", [Document(None, "one")], name="n")
    with pytest.raises(
        FileExistsError, match=r"already holds a dataset, 1 document of n; name another folder, or pass overwrite=True"
    ):
        write_documents(tmp_path / "d", [Document(None, "two")], name="n")
    assert write_documents(tmp_path / "d", [Document(None, "two")], name="n", overwrite=True).info.n_rows == 1
    (tmp_path / "d" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"found 'notes.txt'"):
        write_documents(tmp_path / "d", [Document(None, "two")], name="n", overwrite=True)


def test_every_dtype_of_a_box(tmp_path):
    kinds = [np.float16, np.float32, np.float64, np.int8, np.uint16, np.int64, np.uint64, np.bool_]
    space = spaces.Tuple([spaces.Box(0, 1, (2,), kind) for kind in kinds])
    from gato_lite.envs.episodes import EpisodeBuilder

    builder = EpisodeBuilder(space, space)
    builder.start(space.sample(), 0)
    builder.step(space.sample(), space.sample(), 0.0)
    episodes = builder.finish(terminated=True, truncated=False)
    write_episodes(tmp_path / "part-000000.parquet", episodes, space, space)
    again = read_episodes(tmp_path / "part-000000.parquet", space, space)
    assert [again.observations[str(i)].dtype for i in range(len(kinds))] == [np.dtype(kind) for kind in kinds]
    assert all(same(column, again.actions[path]) for path, column in episodes.actions.items())
