import struct
import zlib

import pytest

from gato_lite.envs.dataset import Dataset
from gato_lite.train import ship_text
from gato_lite.train.ship import DATA


def vector(lines, version=3):
    head = b"X\n" + struct.pack(">iii", version, 0x40201, 0x30500)
    head += struct.pack(">i5s", 5, b"UTF-8") if version == 3 else b""
    strings = b"".join(struct.pack(">ii", 0x40009, len(line)) + line for line in lines)
    data = head + struct.pack(">ii", 16, len(lines)) + strings
    return struct.pack(">I", len(data)) + zlib.compress(data)


@pytest.mark.parametrize("version", [2, 3])
def test_novels_are_read_from_every_record(tmp_path, version):
    (tmp_path / "x.rdb").write_bytes(vector([b"A TALE", b"", b"one"], version) + vector([b"Another", "é".encode()]))
    assert list(ship_text.read_novels(tmp_path / "x.rdb")) == [
        ("A Tale", ["A TALE", "", "one"]),
        ("Another", ["Another", "é"]),
    ]


def test_a_record_of_another_type_is_refused(tmp_path):
    data = b"X\n" + struct.pack(">iiiii", 2, 0, 0, 13, 1)
    (tmp_path / "x.rdb").write_bytes(struct.pack(">I", len(data)) + zlib.compress(data))
    with pytest.raises(ValueError, match=r"x.rdb: expected an R character vector \(type 16\), got type 13"):
        list(ship_text.read_novels(tmp_path / "x.rdb"))


def test_chapters_are_running_text_without_headings_and_notes():
    lines = ["TITLE", "", "CHAPTER I", "", "It  was", "_very_ late.", "", "", "", "So it was.", "VOLUME II", ""]
    lines += ["Chapter 2", "", "The rest.", "", "THE END", "", "A NOTE ON THE TEXT", "By an editor."]
    assert ship_text.chapters(lines) == ["It was very late.\n\nSo it was.", "The rest."]


def test_definitions_lose_their_examples_and_come_once(tmp_path):
    (tmp_path / "index.noun").write_text("  note\ndog n 2 1 @ 2 1 00000001 00000002\ncat n 1 1 @ 1 1 00000003\n")
    rows = ['00000001 05 n 01 dog 0 000 | a barking animal; "the dog barked"  ', "00000002 05 n 01 dog 0 000 | a cad"]
    rows += ["00000003 05 n 01 big_cat 0 000 | a barking animal"]
    (tmp_path / "data.noun").write_text("  note\n" + "\n".join(rows) + "\n")
    for part in ("verb", "adj", "adv"):
        (tmp_path / f"index.{part}").write_text("")
        (tmp_path / f"data.{part}").write_text("")
    (passage,) = ship_text.definition_passages(tmp_path)
    assert passage.text == "dog: a barking animal"
    assert passage.group == "WordNet"


def test_the_shipped_text_is_split_without_a_leak():
    rows = Dataset.open(DATA / "text").read_documents()
    train = {line for row in rows if row.split == "train" for line in row.text.split("\n")}
    test = [line for row in rows if row.split == "test" for line in row.text.split("\n")]
    long = [line for line in test if len(line) > 60]
    assert len(long) > 900
    assert not [line for line in long if line in train]
    assert {row.group for row in rows if row.split == "test"} == {row.group for row in rows}
    share = sum(len(line) for line in test) / sum(len(row.text) for row in rows)
    assert 0.04 < share < 0.07
