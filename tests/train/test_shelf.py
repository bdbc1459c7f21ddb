from __future__ import annotations

from pathlib import Path

import pytest

from gato_lite.train.shelf import dataset_folder, dataset_folders, shipped_folder, weighted


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "dataset.json").touch()
    return folder


def test_a_shipped_dataset():
    assert (dataset_folder("emoji") / "dataset.json").is_file()


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "emoji")
    assert dataset_folder("emoji") == Path("emoji")


def test_an_unknown_name():
    with pytest.raises(
        FileNotFoundError, match=r"Unknown dataset 'emojis'. Did you mean emoji\? Known: emoji, text; or"
    ):
        dataset_folder("emojis")
    with pytest.raises(FileNotFoundError, match="no/such: expected a folder, found nothing"):
        dataset_folder("no/such")


def test_a_folder_of_datasets(tmp_path: Path):
    first, second = make(tmp_path / "b"), make(tmp_path / "a" / "deep")
    assert dataset_folders(str(tmp_path)) == [second, first]
    assert dataset_folders(str(first)) == [first]


def test_a_folder_without_datasets(tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match=r"expected a dataset, or a folder of datasets \(dataset.json\), found none"
    ):
        dataset_folders(str(tmp_path))
    (tmp_path / "part-000000.parquet").touch()
    with pytest.raises(FileNotFoundError, match="found a recording that was not finished"):
        dataset_folders(str(tmp_path))


def test_weights(tmp_path: Path):
    plain, odd = make(tmp_path / "plain"), make(tmp_path / "x=2")
    assert weighted((f"{plain}=0.5", str(odd), f"{odd}=3")) == [(str(plain), 0.5), (str(odd), 1.0), (str(odd), 3.0)]
    assert weighted((f"{tmp_path}=2",)) == [(str(plain), 2.0), (str(odd), 2.0)]


def test_a_recipes_own_dataset_is_given_another_weight_or_left_out(tmp_path: Path):
    plain, own = make(tmp_path / "plain"), [("emoji", 2.0), ("text", 0.6)]
    assert weighted(("emoji=0", f"{plain}=3", "text=1"), own) == [("text", 1.0), (str(plain), 3.0)]
    assert weighted(("text=0",), weighted(("emoji", "text"))) == weighted(("emoji",))
    with pytest.raises(ValueError, match=r"plain=0: expected a shipped dataset that is trained on .* \(emoji, text\)"):
        weighted((f"{plain}=0",), own)
    expected = r"emoji=0: expected a shipped dataset that is trained on to be left out \(text\)"
    with pytest.raises(ValueError, match=expected):
        weighted(("emoji=0",), [("text", 1.0)])
    with pytest.raises(ValueError, match=r"nothing=0: expected a shipped dataset .* \(there is none\)"):
        weighted(("nothing=0",))
    by_path = str(shipped_folder("emoji"))
    assert weighted((f"{by_path}=3",), own) == [("emoji", 3.0), ("text", 0.6)]


@pytest.mark.parametrize("weight", ["-1", "inf", "nan", "much", ""])
def test_a_wrong_weight(weight):
    with pytest.raises(ValueError, match=f"text={weight}: expected DIR=WEIGHT with a positive number"):
        weighted((f"text={weight}",))
