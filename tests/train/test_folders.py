import json

import numpy as np
import pytest

from gato_lite.envs.dataset import Dataset
from gato_lite.train import folders
from gato_lite.train.folders import import_source
from gato_lite.train.pictures import decode_picture, encode_png


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    lines = ["file,text,group"]
    for i in range(200):
        (folder / "sub" / f"{i}.png").write_bytes(encode_png(np.full((4, 6, 3), i, np.uint8)))
        lines.append(f'sub/{i}.png,"a thing, number {i}",g{i % 2}')
    (folder / "captions.csv").write_text("\n".join(lines), "utf-8")
    return folder


def texts(folder, n=100):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        (folder / f"{i}.txt").write_text(f"Text {i}.\r\nSecond line.", "utf-8", newline="")
    return folder


def test_text_files_become_documents(tmp_path):
    source = texts(tmp_path / "in")
    (source / "deep").mkdir()
    (source / "deep" / "x.md").write_bytes("\ufeffÜber".encode())
    (source / "deep" / "wide.txt").write_bytes("Weite".encode("utf-16"))
    (source / "deep" / "data.bin").write_bytes(b"\0")
    imported = import_source(source, tmp_path / "out", licence="CC0-1.0", test_share=0.2)
    rows = imported.dataset.read_documents()
    assert imported.skipped == ()
    assert len(rows) == 102
    assert "Text 7.\nSecond line." in {row.text for row in rows}
    assert {row.text for row in rows if row.group == "deep"} == {"Über", "Weite"}
    assert 10 < sum(row.split == "test" for row in rows) < 31
    assert imported.dataset.info.licence == "CC0-1.0"
    assert imported.dataset.info.task == "in"


def test_the_split_does_not_change_when_files_are_added(tmp_path):
    first = import_source(texts(tmp_path / "in", 60), tmp_path / "a", test_share=0.2).dataset
    second = import_source(texts(tmp_path / "in", 90), tmp_path / "b", test_share=0.2).dataset
    assert {row.text for row in first.read_documents("test")} <= {row.text for row in second.read_documents("test")}


def test_copies_stay_on_one_side(tmp_path):
    for i in range(40):
        texts(tmp_path / "in" / str(i), 3)
    rows = import_source(tmp_path / "in", tmp_path / "out", test_share=0.3).dataset.read_documents()
    assert len(rows) == 120
    assert not {row.text for row in rows if row.split == "test"} & {row.text for row in rows if row.split == "train"}


def test_something_is_always_held_out(tmp_path):
    rows = import_source(texts(tmp_path / "in", 2), tmp_path / "out", test_share=1e-9).dataset.read_documents()
    assert sorted(row.split for row in rows) == ["test", "train"]


def test_a_long_file_is_cut_at_paragraphs(tmp_path):
    paragraphs = [f"{i} " + "word " * 60 for i in range(500)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs), "utf-8")
    rows = import_source(tmp_path / "book.txt", tmp_path / "out").dataset.read_documents()
    assert len(rows) > 2
    assert all(len(row.text) <= 2 * folders.PIECE for row in rows)
    assert "\n\n".join(row.text for row in rows) == "\n\n".join(paragraphs)
    assert {row.split for row in rows} == {"train", "test"}


def test_a_file_without_paragraphs_is_cut_too():
    assert [len(piece) for piece in folders.pieces("x" * 150_000)] == [65_536, 65_536, 18_928]


def test_captioned_pictures_become_documents(pictures, tmp_path):
    imported = import_source(pictures, tmp_path / "out", size=16)
    rows = imported.dataset.read_documents()
    assert len(rows) == 200
    assert rows[3].text == "a thing, number 3"
    assert rows[3].group == "g1"
    pixels = decode_picture(rows[3].image)
    assert pixels.shape == (16, 16, 3)
    assert pixels[8, 8].tolist() == [3, 3, 3]
    assert pixels[0, 0].tolist() == [255, 255, 255]


def test_json_lines_with_the_other_names_and_splits(pictures, tmp_path):
    (pictures / "captions.csv").unlink()
    rows = [{"file_name": f"sub/{i}.png", "caption": f"n {i}", "split": "test" if i < 3 else "train"} for i in range(9)]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    dataset = import_source(pictures, tmp_path / "out").dataset
    assert [row.text for row in dataset.read_documents("test")] == ["n 0", "n 1", "n 2"]


def test_one_unreadable_picture_in_a_hundred_is_counted(pictures, tmp_path):
    (pictures / "sub" / "5.png").write_bytes(b"broken")
    (pictures / "sub" / "6.png").unlink()
    imported = import_source(pictures, tmp_path / "out")
    assert len(imported.skipped) == 2
    assert imported.dataset.info.n_rows == 198
    assert any("5.png: expected a whole picture" in reason for reason in imported.skipped)


def test_more_are_an_error_that_leaves_no_dataset(pictures, tmp_path):
    for i in range(3):
        (pictures / "sub" / f"{i}.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"expected at most 1 % unreadable .*, got 3 of 200; mend them, .*0.png"):
        import_source(pictures, tmp_path / "out")
    with pytest.raises(ValueError, match=r"expected a dataset"):
        Dataset.open(tmp_path / "out")
    assert len(import_source(pictures, tmp_path / "out", on_bad="skip", overwrite=True).skipped) == 3


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd"])
def test_a_captions_file_cannot_name_files_elsewhere(pictures, tmp_path, name):
    (tmp_path / "secret.png").write_bytes(encode_png(np.zeros((2, 2, 3), np.uint8)))
    (pictures / "captions.csv").write_text(f"file,text\n{name},x\n", "utf-8")
    with pytest.raises(ValueError, match=r"captions.csv, line 2: expected a file within"):
        import_source(pictures, tmp_path / "out")


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("captions.csv", "name,words\na,b", r"captions.csv: expected a first line with `file` and `text`"),
        ("captions.csv", "file,text\nsub/1.png,\n", r"captions.csv, line 2: expected `file` and `text`"),
        ("captions.csv", 'file,text\nsub/1.png,"open', r"captions.csv, after line 1: unexpected end of data"),
        ("captions.csv", "file,text,split\nsub/1.png,x,dev\n", r'expected split "train" or "test", got \'dev\''),
        ("captions.jsonl", "{", r"captions.jsonl, line 1: expected a JSON object"),
        ("captions.jsonl", "[1]", r"captions.jsonl, line 1: expected a JSON object"),
    ],
)
def test_a_bad_captions_file_is_named(pictures, tmp_path, file, content, message):
    (pictures / "captions.csv").unlink()
    (pictures / file).write_text(content, "utf-8")
    with pytest.raises(ValueError, match=message):
        import_source(pictures, tmp_path / "out")


def test_bad_text_is_named(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a.txt: expected text in UTF-8, got byte 0xe9 at 3"):
        import_source(tmp_path / "in", tmp_path / "out")


def test_a_folder_of_pictures_alone_says_what_is_missing(pictures, tmp_path):
    (pictures / "captions.csv").unlink()
    with pytest.raises(ValueError, match=r"found none; pictures need one of captions.csv, captions.jsonl"):
        import_source(pictures, tmp_path / "out")


@pytest.mark.parametrize(
    "options, message",
    [({"test_share": 1.0}, "test_share must be between 0 and 1"), ({"size": 0}, "size must be at least 1 pixel")],
)
def test_options_are_checked(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        import_source(texts(tmp_path / "in", 2), tmp_path / "out", **options)


def test_the_source_must_be_there_and_stay_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: expected a folder"):
        import_source(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match=r"out must be another folder than the source"):
        import_source(texts(tmp_path / "in", 2), tmp_path / "in")


def test_nothing_is_overwritten_unasked(tmp_path):
    source = texts(tmp_path / "in", 2)
    import_source(source, tmp_path / "out")
    with pytest.raises(FileExistsError):
        import_source(source, tmp_path / "out")
    import_source(source, tmp_path / "out", overwrite=True)


def test_a_bad_source_does_not_cost_the_dataset_it_was_to_replace(tmp_path, pictures):
    import_source(pictures, tmp_path / "out")
    for i in range(10):
        (pictures / "sub" / f"{i}.png").write_bytes(b"damage")
    with pytest.raises(ValueError, match="got 10 of 200"):
        import_source(pictures, tmp_path / "out", overwrite=True)
    assert Dataset.open(tmp_path / "out").info.n_rows == 200
    replaced = import_source(pictures, tmp_path / "out", overwrite=True, on_bad="skip")
    assert (replaced.dataset.info.n_rows, len(replaced.skipped)) == (190, 10)


@pytest.mark.parametrize("n, n_test", [(1, 0), (2, 1), (5, 1)])
def test_what_is_held_out_is_counted(tmp_path, n, n_test):
    (tmp_path / "in").mkdir()
    for index in range(n):
        (tmp_path / "in" / f"{index}.txt").write_text(f"Text {index}.")
    imported = import_source(tmp_path / "in", tmp_path / "out", test_share=1e-6)
    assert imported.n_test == n_test == len(imported.dataset.read_documents("test"))
