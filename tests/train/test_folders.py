import io
import json
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gato_lite.envs.dataset import Dataset
from gato_lite.envs.format import PictureFit
from gato_lite.train import items
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
    assert all(len(row.text) <= 2 * items.PIECE for row in rows)
    assert "\n\n".join(row.text for row in rows) == "\n\n".join(paragraphs)
    assert {row.split for row in rows} == {"train", "test"}


def test_a_file_without_paragraphs_is_cut_too():
    assert [len(piece) for piece in items.pieces("x" * 150_000)] == [65_536, 65_536, 18_928]


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


def test_pictures_may_keep_their_aspect(pictures, tmp_path):
    padded = import_source(pictures, tmp_path / "padded", size=64).dataset
    kept = import_source(pictures, tmp_path / "kept", size=64, keep_aspect=True).dataset
    assert padded.info.pictures == PictureFit(side=64)
    assert Dataset.open(tmp_path / "kept").info.pictures == PictureFit(side=64, keep_aspect=True)
    assert decode_picture(padded.first_image()).shape == (64, 64, 3)
    pixels = decode_picture(kept.first_image())
    assert pixels.shape == (48, 80, 3)
    assert not pixels.any()


def test_texts_do_not_say_how_pictures_were_fitted(tmp_path):
    dataset = import_source(texts(tmp_path / "in", 2), tmp_path / "out", keep_aspect=True).dataset
    assert dataset.info.pictures is None
    assert dataset.first_image() is None


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
    [
        ({"test_share": 1.0}, "test_share must be between 0 and 1"),
        ({"size": 0}, r"size must be in 1\.\.8000 pixels, got size=0"),
        ({"size": 8001}, r"size must be in 1\.\.8000 pixels, got size=8001"),
        ({"size": 31, "keep_aspect": True}, "size must be at least 32 pixels with keep_aspect"),
    ],
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


# -- archives, pairs and tables


def png(value):
    return encode_png(np.full((4, 6, 3), value, np.uint8))


def samples(n):
    """Members as WebDataset has them: a picture and its caption, every third caption in a JSON."""
    for i in range(n):
        yield f"{i:04}.png", png(i)
        if i % 3:
            yield f"{i:04}.txt", f"thing {i}".encode()
        else:
            yield f"{i:04}.json", json.dumps({"caption": f"thing {i}", "group": "g", "width": 6}).encode()


def write_tar(file, members, mode="w"):
    with tarfile.open(file, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def write_zip(file, members):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file


def write_folder(folder, members):
    for name, data in members:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def in_folder(members):
    return [(f"photos/{name}", data) for name, data in members]


SOURCES = {
    "tar": lambda path: write_tar(path / "x.tar", samples(12)),
    "tar.gz": lambda path: write_tar(path / "x.tar.gz", samples(12), "w:gz"),
    "tar of a folder": lambda path: write_tar(path / "x.tar", in_folder(samples(12))),
    "zip": lambda path: write_zip(path / "x.zip", samples(12)),
    "zip of a folder": lambda path: write_zip(path / "x.zip", in_folder(samples(12))),
    "folder": lambda path: write_folder(path / "x", samples(12)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_pictures_find_the_captions_of_their_name(tmp_path, kind):
    dataset = import_source(SOURCES[kind](tmp_path), tmp_path / "out", size=16).dataset
    rows = dataset.read_documents()
    assert [row.text for row in rows] == [f"thing {i}" for i in range(12)]
    assert [row.group for row in rows] == ["g" if i % 3 == 0 else None for i in range(12)]
    assert [int(decode_picture(row.image)[8, 8, 0]) for row in rows] == list(range(12))


def test_a_folder_of_shards_is_one_source(tmp_path):
    members = list(samples(12))
    (tmp_path / "in").mkdir()
    for i in range(2):
        write_tar(tmp_path / "in" / f"shard-{i}.tar", members[12 * i : 12 * i + 12])
    rows = import_source(tmp_path / "in", tmp_path / "out").dataset.read_documents()
    assert [row.text for row in rows] == [f"thing {i}" for i in range(12)]


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_an_archive_may_have_a_captions_file_or_be_texts(tmp_path, write):
    captions = b"file,text\nsub/./a.png,one\nsub/b.png,two\n"
    pictures = [("x/captions.csv", captions), ("x/sub/a.png", png(1)), ("x/sub/b.png", png(2))]
    suffix = ".tar" if write is write_tar else ".zip"
    rows = import_source(write(tmp_path / f"a{suffix}", pictures), tmp_path / "a").dataset.read_documents()
    assert [row.text for row in rows] == ["one", "two"]
    texts = [("x/a.txt", b"Alpha"), ("x/deep/b.md", b"Beta"), ("x/fig.png", png(1))]
    rows = import_source(write(tmp_path / f"b{suffix}", texts), tmp_path / "b").dataset.read_documents()
    assert [(row.text, row.group) for row in rows] == [("Alpha", None), ("Beta", "deep")]


def test_a_picture_without_its_caption_is_counted_among_others_that_have_one(tmp_path):
    source = write_folder(
        tmp_path / "in", [*samples(3), ("lonely.png", png(9)), ("odd.png", png(8)), ("odd.json", b"[")]
    )
    imported = import_source(source, tmp_path / "out", on_bad="skip")
    assert imported.dataset.info.n_rows == 3
    assert "lonely.png: expected its caption in lonely.txt or as `text`" in imported.skipped[0]
    assert "odd.png: " in imported.skipped[1]


def hub_table(n, *, struct=True):
    files = [png(i % 200) for i in range(n)]
    images = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(files)] if struct else files
    return pa.table({"id": list(range(n)), "image": images, "caption": [f"thing {i}" for i in range(n)]})


@pytest.mark.parametrize("struct", [True, False])
def test_rows_of_pictures_as_hubs_keep_them(tmp_path, struct):
    pq.write_table(hub_table(600, struct=struct), tmp_path / "x.parquet", row_group_size=250)
    imported = import_source(tmp_path / "x.parquet", tmp_path / "out", size=16, test_share=0.2)
    rows = imported.dataset.read_documents()
    assert [row.text for row in rows] == [f"thing {i}" for i in range(600)]
    assert int(decode_picture(rows[7].image)[8, 8, 0]) == 7
    assert 0 < imported.n_test < 300


def test_rows_of_text_and_the_splits_of_their_files(tmp_path):
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# About")
    for split, n in (("train", 30), ("test", 3), ("validation", 2)):
        table = pa.table({"text": [f"{split} {i}" for i in range(n)], "label": [0] * n})
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    dataset = import_source(folder, tmp_path / "out").dataset
    assert len(dataset.read_documents("train")) == 30
    assert {row.text.split()[0] for row in dataset.read_documents("test")} == {"test", "validation"}


def test_rows_that_cannot_be_read_are_counted(tmp_path):
    images = [{"bytes": png(1), "path": "a"}, {"bytes": None, "path": "b.png"}, None, {"bytes": b"no", "path": ""}]
    table = pa.table({"image": images, "text": ["one", "two", "three", "four"], "split": ["train"] * 4})
    pq.write_table(table, tmp_path / "x.parquet")
    imported = import_source(tmp_path / "x.parquet", tmp_path / "out", on_bad="skip")
    assert imported.dataset.info.n_rows == 1
    assert [reason.split(": ", 1)[1][:50] for reason in imported.skipped] == [
        "expected the bytes of a picture, found the path 'b",
        "expected the bytes of a picture, found none",
        "expected a whole picture (PNG, JPEG, GIF, WEBP, BM",
    ]
    assert all(f"x.parquet, row {i}: " in imported.skipped[i - 1] for i in (1, 2, 3))


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda path: pq.write_table(pa.table({"words": ["a"]}), path),
            r"x.parquet: expected a column text or caption",
        ),
        (lambda path: path.write_bytes(b"PAR1 no PAR1"), r"x.parquet: expected a whole Parquet file, found damage"),
    ],
)
def test_a_parquet_file_that_is_none_is_named(tmp_path, make, message):
    make(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=message):
        import_source(tmp_path / "x.parquet", tmp_path / "out")


def test_a_dataset_is_no_source(tmp_path):
    import_source(texts(tmp_path / "in", 2), tmp_path / "out")
    with pytest.raises(ValueError, match=r"out: is a dataset already; train on it with --data"):
        import_source(tmp_path / "out", tmp_path / "again")
