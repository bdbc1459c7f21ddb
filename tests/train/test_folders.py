import io
import json
import re
import tarfile
import zipfile
from typing import get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gato_lite.envs.dataset import Dataset
from gato_lite.envs.format import Ability
from gato_lite.fitting import PictureFit
from gato_lite.train import items
from gato_lite.train.cli import main
from gato_lite.train.commands.data_import import Options
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
        ("captions.csv", "file,text\nsub/1.png,\n", r"captions.csv, line 2: expected a caption or an answer, got an"),
        (
            "captions.csv",
            "file,text\n,x\n",
            r"captions.csv, line 2: expected `file` and `text`, or `prompt` and `text`",
        ),
        ("captions.jsonl", '{"text": "x"}', r"captions.jsonl, line 1: expected `file` and `text`, or `prompt` and"),
        (
            "captions.jsonl",
            '{"file": "sub/1.png", "text": null}',
            r"captions.jsonl, line 1: expected `text`, .* or `label`, got file, text",
        ),
        ("captions.jsonl", '{"prompt": "x", "label": []}', r"line 1: expected text or a number in `label`, found list"),
        ("captions.csv", 'file,text\nsub/1.png,"open', r"captions.csv, after line 1: unexpected end of data"),
        ("captions.csv", "file,text,split\nsub/1.png,x,odd\n", r'expected split "train" or "test", got \'odd\''),
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
            r"x.parquet: expected a column text, caption, answer, label, labels, messages, translation, found words",
        ),
        (
            lambda path: pq.write_table(pa.table({"label": [1]}), path),
            r"x.parquet: expected a column image or prompt beside label, found label",
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


# -- rows: questions, pairs and classes


def asked(dataset):
    return [(row.prompt, row.text, row.image is not None) for row in dataset.read_documents()]


def test_rows_with_a_prompt_are_questions_about_pictures_or_pairs(pictures, tmp_path):
    rows = 'file,prompt,text,licence\nsub/1.png,"Which number, then?",one\nsub/1.png,Is it dark?,yes\n,Hello,Hi\n'
    (pictures / "captions.csv").write_text(rows, "utf-8")
    imported = import_source(pictures, tmp_path / "out")
    assert asked(imported.dataset) == [
        ("Which number, then?", "one", True),
        ("Is it dark?", "yes", True),
        ("Hello", "Hi", False),
    ]
    assert imported.dataset.info.ability == "question"
    assert imported.unused == ("licence",)
    assert len({row.split for row in imported.dataset.read_documents()[:2]}) == 1  # the same picture


PAIRS = [{"prompt": f"Translate to Italian: {i}", "text": f"{i} volte", "id": i} for i in range(8)]
SAID = [{"question": f"Who is {i}?", "answer": i} for i in range(8)]


@pytest.mark.parametrize(
    "rows, ability, unused", [(PAIRS, "translation", ("id",)), (SAID, "dialogue", ())], ids=["pairs", "said"]
)
@pytest.mark.parametrize("form", ["captions.jsonl", "rows.jsonl", "rows.csv", "rows.parquet", "folder"])
def test_pairs_of_prompt_and_answer_need_no_picture(tmp_path, rows, ability, unused, form):
    source = file = tmp_path / "in" / ("rows.jsonl" if form == "folder" else form)
    file.parent.mkdir()
    if form == "rows.csv":
        file.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]), "utf-8")
    elif form == "rows.parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    if form in {"captions.jsonl", "folder"}:
        source = file.parent
        (source / "README.md").write_text("# About")
    imported = import_source(source, tmp_path / "out", test_share=0.3)
    prompt, text = list(rows[0])[:2]
    assert asked(imported.dataset) == [(row[prompt], str(row[text]), False) for row in rows]
    assert imported.dataset.info.ability == ability
    assert imported.unused == unused
    assert imported.n_test > 0


def test_the_ability_may_be_said(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, SAID)), "utf-8")
    imported = import_source(tmp_path / "rows.jsonl", tmp_path / "out", ability="translation")
    assert imported.dataset.info.ability == "translation"


def test_a_line_of_json_is_a_text(tmp_path):
    long = "\n\n".join(["word " * 1000] * 20)
    lines = [{"text": "One\nand more."}, {"text": "Two."}, {"text": ""}, {"text": long, "group": "books"}]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", "utf-8")
    dataset = import_source(tmp_path / "texts.jsonl", tmp_path / "out").dataset
    rows = dataset.read_documents()
    assert [row.text for row in rows[:2]] == ["One\nand more.", "Two."]
    assert {row.group for row in rows[2:]} == {"books"}
    assert len(rows) > 3
    assert dataset.info.ability == "text"


def test_a_bad_line_is_counted_and_more_are_an_error(tmp_path):
    lines = [json.dumps({"text": f"Text {i}"}) for i in range(200)]
    lines[7], lines[9] = '{"text": "open', '["list"]'
    (tmp_path / "x.jsonl").write_text("\n".join(lines), "utf-8")
    imported = import_source(tmp_path / "x.jsonl", tmp_path / "out")
    assert imported.dataset.info.n_rows == 198
    assert 'x.jsonl, line 8: expected a JSON object, got \'{"text": "open\'' in imported.skipped[0]
    lines[11] = '{"words": "x"}'
    (tmp_path / "x.jsonl").write_text("\n".join(lines), "utf-8")
    with pytest.raises(
        ValueError, match=r"at most 1 % unreadable documents, got 3 of 200; .* line 12: expected `text`"
    ):
        import_source(tmp_path / "x.jsonl", tmp_path / "out", overwrite=True)


def test_lines_that_are_no_text_are_named(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"x.jsonl: expected text in UTF-8, got byte 0xe9 at 3"):
        import_source(tmp_path / "x.jsonl", tmp_path / "out")


def test_files_of_rows_keep_the_split_of_their_names(tmp_path):
    members = [(f"{name}.jsonl", b'{"text": "%s"}' % name.encode()) for name in ("train", "validation")]
    dataset = import_source(write_zip(tmp_path / "x.zip", members), tmp_path / "out").dataset
    assert [(row.text, row.split) for row in dataset.read_documents()] == [("train", "train"), ("validation", "test")]


def test_a_row_cannot_name_a_file_elsewhere(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(1))
    write_folder(tmp_path / "in", [("x.jsonl", b'{"image": "../secret.png", "prompt": "What?", "text": "x"}')])
    with pytest.raises(ValueError, match=r"x.jsonl, line 1: expected a file within .*, got '../secret.png'"):
        import_source(tmp_path / "in" / "x.jsonl", tmp_path / "out")


def labelled_table(labels, *, names=None, column="label"):
    images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({"image": images, column: labels})
    if names is None:
        return table
    features = {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


@pytest.mark.parametrize(
    "table, expected",
    [
        (labelled_table([1, 0, 1], names=["cat", "dog"]), ["dog", "cat", "dog"]),
        (labelled_table([1, 0, 1], names=["cat", "dog"], column="labels"), ["dog", "cat", "dog"]),
        (labelled_table([1, 0, 12]), ["1", "0", "12"]),
        (labelled_table(["dog", "cat", "dog"]), ["dog", "cat", "dog"]),
        (labelled_table([1, 0, 1]).replace_schema_metadata({"huggingface": "{"}), ["1", "0", "1"]),
    ],
    ids=["names", "labels", "numbers", "words", "damage"],
)
def test_labels_of_pictures_become_classes(tmp_path, table, expected):
    pq.write_table(table, tmp_path / "x.parquet")
    dataset = import_source(tmp_path / "x.parquet", tmp_path / "out").dataset
    assert asked(dataset) == [("Which class is this?", name, True) for name in expected]
    assert dataset.info.ability == "class"


def test_labels_without_a_name_are_counted(tmp_path):
    pq.write_table(labelled_table([1, 2, -1, None], names=["cat", "dog"]), tmp_path / "x.parquet")
    imported = import_source(tmp_path / "x.parquet", tmp_path / "out", on_bad="skip")
    assert [row.text for row in imported.dataset.read_documents()] == ["dog"]
    assert [reason.partition("x.parquet, ")[2] for reason in imported.skipped] == [
        "row 1: expected one of 2 labels, from 0 on, found 2",
        "row 2: expected one of 2 labels, from 0 on, found -1",
        "row 3: expected `text`, `caption`, `answer` or `label`, got label",
    ]


def test_rows_of_questions_about_pictures_as_hubs_keep_them(tmp_path):
    table = labelled_table([0, 1]).append_column("question", pa.array(["What?", "Where?"]))
    table = table.append_column("answer", pa.array(["a dot", "here"]))
    pq.write_table(table, tmp_path / "x.parquet")
    imported = import_source(tmp_path / "x.parquet", tmp_path / "out")
    assert asked(imported.dataset) == [("What?", "a dot", True), ("Where?", "here", True)]
    assert imported.dataset.info.ability == "question"
    assert imported.unused == ("label",)


def test_a_picture_finds_the_class_beside_it_where_it_has_no_caption(tmp_path):
    members = [("0.png", png(0)), ("0.cls", b"7\n"), ("1.png", png(1)), ("1.cls", b"12"), ("1.json", b'{"width": 6}')]
    imported = import_source(write_tar(tmp_path / "x.tar", members), tmp_path / "out")
    assert asked(imported.dataset) == [("Which class is this?", text, True) for text in ("7", "12")]
    assert imported.dataset.info.ability == "class"
    assert imported.unused == ("width",)
    members += [("0.txt", b"a seven"), ("1.caption", b"a dozen")]
    dataset = import_source(write_tar(tmp_path / "y.tar", members), tmp_path / "y").dataset
    assert asked(dataset) == [("", "a seven", True), ("", "a dozen", True)]


def test_the_command_names_ability_and_columns_that_it_does_not_use(tmp_path, capsys):
    (tmp_path / "x.csv").write_text("prompt,text,mood\nHello,Hi,glad\nBye,Bye,sad\n", "utf-8")
    assert main(["data", "import", str(tmp_path / "x.csv"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert said.out.endswith("out: 2 documents, 1 of them held out to score on (ability: dialogue), 0 left out\n")
    assert said.err == (
        "not used: mood; columns that are understood: file, file_name, image, images, messages, translation, prompt, "
        "question, text, caption, answer, label, labels, group, split\n"
    )
    assert main(["data", "info", str(tmp_path / "out")]) == 0
    assert re.search(r"ability +dialogue\n", capsys.readouterr().out)


def test_every_ability_can_be_said():
    assert get_args(get_args(get_type_hints(Options)["ability"])[0]) == get_args(Ability)


# -- conversations, several pictures, translations


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def turns(dataset):
    """Pictures as the grey of their middle."""
    return [
        [(turn.image and int(decode_picture(turn.image)[8, 8, 0]), turn.prompt, turn.text) for turn in row.turns]
        for row in dataset.read_documents()
    ]


TALKS = [
    [
        said("system", "Be brief."),
        *(said("user", "Hello"), said("assistant", "Hi")),
        *(said("user", "Bye"), said("assistant", "Ciao")),
    ],
    [said("user", "Who is 1?"), said("assistant", "one\n")],
]
TALKED = [
    [(None, "Be brief.\n\nHello", "Hi"), (None, "Bye", "Ciao")],
    [(None, "Who is 1?", "one")],
]


def write_rows(file, rows):
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return file


@pytest.mark.parametrize("form", ["rows.jsonl", "captions.jsonl", "rows.parquet"])
def test_messages_are_the_turns_of_a_conversation(tmp_path, form):
    rows = [{"prompt": "as the first", "prompt_id": "x", "messages": talk} for talk in TALKS]
    (tmp_path / "in").mkdir()
    file = write_rows(tmp_path / "in" / form, rows)
    imported = import_source(file.parent if form == "captions.jsonl" else file, tmp_path / "out")
    assert turns(imported.dataset) == TALKED
    assert imported.dataset.info.ability == "dialogue"
    assert imported.unused == ("prompt", "prompt_id")
    assert imported.n_test == 1


@pytest.mark.parametrize(
    "messages, message",
    [
        ([], "expected an answer, of role assistant, as the last of `messages`, got none"),
        ([said("user", "a")], "expected an answer, of role assistant, as the last of `messages`, got user"),
        ([said("assistant", "a")], "expected system or user as `role` of message 1, got 'assistant'"),
        ([said("user", "a"), said("user", "b")], "expected assistant as `role` of message 2, got 'user'"),
        ([said("user", "a"), said("tool", "b")], "expected assistant as `role` of message 2, got 'tool'"),
        ([said("user", "a"), said(["assistant"], "b")], "expected assistant as `role` of message 2, got ['assistant']"),
        (["a"], "expected system or user as `role` of message 1, got None"),
        ([said("user", " ")], "expected words as `content` of message 1, got ' '"),
        ([said("user", [{"type": "image"}])], "expected words as `content` of message 1, got \"[{'type': 'image'}]\""),
        (
            [said("user", "a", image="0.png"), said("assistant", "b")],
            "expected pictures beside `messages` alone, got image in message 1",
        ),
        (
            [said("user", "a"), said("assistant", "\ud800")],
            "expected text that UTF-8 can write, got a lone surrogate at 0",
        ),
    ],
)
def test_messages_that_cannot_be_read_are_counted(tmp_path, messages, message):
    file = write_rows(tmp_path / "x.jsonl", [{"messages": messages}, {"messages": TALKS[1]}])
    imported = import_source(file, tmp_path / "out", on_bad="skip")
    assert imported.skipped == (f"{file}, line 1: {message}",)
    assert turns(imported.dataset) == TALKED[1:]


def test_messages_of_another_form_are_a_column_that_is_not_used(tmp_path):
    file = write_rows(
        tmp_path / "x.jsonl", [{"text": f"{i} mails", "messages": i, "translation": "x"} for i in range(3)]
    )
    imported = import_source(file, tmp_path / "out")
    assert [row.text for row in imported.dataset.read_documents()] == ["0 mails", "1 mails", "2 mails"]
    assert imported.unused == ("messages", "translation")


SHOWN = [
    {"images": [0, 1, 2], "prompt": "Which is darkest?", "text": "the first"},
    {"images": [3], "prompt": "", "text": "three"},
    {"images": [], "prompt": "Hello", "text": "Hi"},
    {"images": [4, 5], "messages": TALKS[0]},
    {"images": None, "messages": TALKS[1]},
]


@pytest.mark.parametrize("form", ["captions.jsonl", "rows.jsonl", "parquet"])
def test_a_row_may_have_several_pictures(tmp_path, capsys, form):
    members = [(f"{i}.png", png(i)) for i in range(6)]
    as_stored = [{"bytes": data, "path": name} if form == "parquet" else name for name, data in members]
    rows = [{**row, "images": row["images"] and [as_stored[i] for i in row["images"]]} for row in SHOWN]
    source = tmp_path / "in"
    if form == "parquet":
        source.mkdir()
        write_rows(source / "a.parquet", rows[:3])
        write_rows(source / "b.parquet", rows[3:])
    else:
        file = write_rows(write_folder(source, members) / form, rows)
        source = file if form == "rows.jsonl" else source
    imported = import_source(source, tmp_path / "out", size=16)
    assert turns(imported.dataset) == [
        [(0, "", ""), (1, "", ""), (2, "Which is darkest?", "the first")],
        [(3, "", "three")],
        [(None, "Hello", "Hi")],
        [(4, "", ""), (5, "Be brief.\n\nHello", "Hi"), (None, "Bye", "Ciao")],
        [(None, "Who is 1?", "one")],
    ]
    assert imported.dataset.info.ability == "question"
    assert imported.dataset.info.pictures == PictureFit(side=16)
    assert main(["data", "info", str(tmp_path / "out")]) == 0
    assert "3 with a picture" in capsys.readouterr().out


@pytest.mark.parametrize(
    "images, message",
    [
        (["0.png", "9.png"], r"9.png"),
        (["0.png", "bad.png"], r"line 1, 0.png, bad.png: expected a whole picture"),
        (["0.png", "../0.png"], r"expected a file within .*, got '../0.png'"),
        (["0.png", ""], r"expected a file within .*, got ''"),
        (["0.png", {"path": "0.png"}], r"expected text or a number in `images`, found dict"),
    ],
)
def test_a_row_without_all_its_pictures_is_left_out(tmp_path, images, message):
    write_folder(tmp_path / "in", [("0.png", png(0)), ("bad.png", b"none")])
    rows = [{"images": images, "prompt": "What?", "text": "x"}, {"images": ["0.png"], "text": "nought"}]
    write_rows(tmp_path / "in" / "captions.jsonl", rows)
    imported = import_source(tmp_path / "in", tmp_path / "out", on_bad="skip")
    assert [row.text for row in imported.dataset.read_documents()] == ["nought"]
    assert re.search(message, imported.skipped[0])


def test_pictures_of_a_table_are_all_there_or_the_row_is_left_out(tmp_path):
    one = {"bytes": png(1), "path": None}
    pictures = [[one], [one, {"bytes": None, "path": "far.png"}], [one, None], [], None]
    rows = [{"images": shown, "text": "x"} for shown in pictures]
    imported = import_source(write_rows(tmp_path / "x.parquet", rows), tmp_path / "out", on_bad="skip")
    assert imported.dataset.info.n_rows == 1
    assert [reason.partition("found ")[2] for reason in imported.skipped] == ["the path 'far.png' alone", *["none"] * 3]


@pytest.mark.parametrize("form", ["rows.jsonl", "rows.parquet"])
def test_pairs_of_languages_are_translations(tmp_path, form):
    pairs = [("Good day", "Buongiorno"), ("Thanks ", "Grazie"), ("Yes", None)]
    rows = [{"id": 1, "translation": {"en": source, "it": target}} for source, target in pairs]
    imported = import_source(write_rows(tmp_path / form, rows), tmp_path / "out", on_bad="skip")
    assert asked(imported.dataset) == [
        ("Translate to Italian: Good day", "Buongiorno", False),
        ("Translate to Italian: Thanks", "Grazie", False),
    ]
    assert imported.dataset.info.ability == "translation"
    assert imported.unused == ("id",)
    assert "expected a text in two languages in `translation`, got {'en': 'Yes', 'it': None}" in imported.skipped[0]


@pytest.mark.parametrize(
    "texts, message",
    [
        ({"en": "a"}, "expected a text in two languages in `translation`, got {'en': 'a'}"),
        ({"en": "a", "it": "b", "de": "c"}, "expected a text in two languages"),
        ({"en": "a", "tlh": "b"}, "vi, zh, got 'tlh'; write it out as `prompt` and `text`"),
    ],
)
def test_other_translations_are_counted(tmp_path, texts, message):
    rows = [{"translation": texts}, {"translation": {"de": "ja", "fr": "oui"}}]
    imported = import_source(write_rows(tmp_path / "x.jsonl", rows), tmp_path / "out", on_bad="skip")
    assert asked(imported.dataset) == [("Translate to French: ja", "oui", False)]
    assert message in imported.skipped[0]


# -- folders of classes, and other CSV


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_a_folder_may_be_the_class_of_its_pictures(tmp_path, write):
    members = [("README.md", b"# About"), *((f"{name}/{i}.png", png(i)) for i, name in enumerate(["cats", "dogs"] * 2))]
    dataset = import_source(write(tmp_path / "in.zip", members), tmp_path / "out").dataset
    said = sorted(text for _, text, _ in asked(dataset))
    assert said == ["cats", "cats", "dogs", "dogs"]
    assert {(prompt, shown) for prompt, _, shown in asked(dataset)} == {("Which class is this?", True)}
    assert dataset.info.ability == "class"


def test_folders_of_classes_may_be_in_folders_of_splits(tmp_path):
    members = [(f"{name}/0.png", png(i)) for i, name in enumerate(["train/a", "train/b", "test/a", "validation/b"])]
    members.append(("train/b/1.png", b"none"))
    imported = import_source(write_folder(tmp_path / "in", members), tmp_path / "out", on_bad="skip")
    found = sorted((row.split, row.text) for row in imported.dataset.read_documents())
    assert found == [("test", "a"), ("test", "b"), ("train", "a"), ("train", "b")]
    assert "train/b/1.png: expected a whole picture" in imported.skipped[0]


@pytest.mark.parametrize(
    "names",
    [
        ["a/0.png", "1.png"],
        ["a/0.png", "a/1.png"],
        ["train/0.png", "test/1.png"],
        ["a/x/0.png", "b/y/1.png"],
        ["a/0.png", "b/1.png", "labels.csv"],
    ],
)
def test_other_folders_are_no_classes(tmp_path, names):
    source = write_folder(tmp_path / "in", [(name, png(i)) for i, name in enumerate(names)])
    with pytest.raises(ValueError, match=r"found none; pictures need one of .*, or a folder for each class"):
        import_source(source, tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    [
        "Prompt,Text,Mood\nHello,Hi,glad\n",
        "prompt;text;mood\nHello;Hi;glad\n",
        '"Question";"Answer";"Mood"\nHello;Hi;glad\n',
        "Text,text,prompt\nglad,Hi,Hello\n",
    ],
)
def test_csv_may_have_semicolons_and_capitals(tmp_path, text):
    (tmp_path / "x.csv").write_text(text, "utf-8")
    imported = import_source(tmp_path / "x.csv", tmp_path / "out")
    assert asked(imported.dataset) == [("Hello", "Hi", False)]
    assert len(imported.unused) == 1


def test_semicolons_in_values_stay(tmp_path):
    (tmp_path / "x.csv").write_text("text,a;b\none; two,3;4\n", "utf-8")
    imported = import_source(tmp_path / "x.csv", tmp_path / "out")
    assert [row.text for row in imported.dataset.read_documents()] == ["one; two"]
