from __future__ import annotations

import pytest

from gato_lite.envs.dataset import Dataset, Document, write_documents
from gato_lite.envs.folder import OTHER_FIRST_PART, claim, part_number


def test_claim_leaves_other_files_alone(tmp_path):
    (tmp_path / "part-000000.parquet").write_text("")
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        claim(tmp_path, overwrite=False)
    claim(tmp_path, overwrite=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match=r"expected an empty folder or a dataset, found 'thesis.tex'"):
        claim(tmp_path, overwrite=True)


@pytest.mark.parametrize("name", ["part-of-thesis.parquet", "part-0.parquet", ".part-list.tmp", "dataset.json"])
def test_claim_refuses_files_that_only_look_like_a_dataset(tmp_path, name):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(FileExistsError, match=f"expected an empty folder or a dataset, found .*{name}"):
        claim(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_a_damaged_dataset_can_be_replaced(tmp_path):
    for name in ("dataset.json", "part-000000.parquet", ".part-000001.parquet.12.tmp"):
        (tmp_path / name).write_text("{")
    claim(tmp_path, overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_that_is_replaced_stays_until_the_new_one_is_whole(tmp_path):
    numbers = []
    for text in ("one", "two", "three"):
        seen = []

        def rows(text=text, seen=seen):
            yield Document(None, text)
            seen.extend(file.name for file in tmp_path.glob("dataset.json"))

        dataset = write_documents(tmp_path, rows(), name="n", overwrite=True)
        assert seen == ([] if text == "one" else ["dataset.json"])
        assert [document.text for document in dataset.read_documents()] == [text]
        assert [file.name for file in tmp_path.glob("part-*")] == [dataset.info.parts[0].file]
        numbers.append(part_number(dataset.info.parts[0].file))
    assert numbers == [0, OTHER_FIRST_PART, 0]


def test_an_error_keeps_the_dataset_that_was_to_be_replaced(tmp_path):
    write_documents(tmp_path, [Document(None, "one")], name="n")
    (tmp_path / "part-500007.parquet").write_text("left over")
    with pytest.raises(ValueError, match="document 1: expected an image or text"):
        write_documents(tmp_path, [Document(None, "two"), Document(None, "")], name="n", overwrite=True)
    assert [document.text for document in Dataset.open(tmp_path).read_documents()] == ["one"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dataset.json", "part-000000.parquet"]
