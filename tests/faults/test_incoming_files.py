"""Pictures, archives and tables from strangers: damaged, larger than they look, or leading out of their folder."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import resource
import stat
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from gato_lite.fitting import MAX_PIXELS
from gato_lite.train import cli
from gato_lite.train.folders import import_source
from gato_lite.train.pictures import decode_picture, encode_png

PICTURE = encode_png(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8))


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bomb(side=60_000):
    """A PNG of a few hundred bytes that claims `side` × `side` pixels."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def talkative():
    """A PNG of one pixel with a comment of 200 MB, compressed."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "z" * 200_000_000, zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def album(kind, path, n, bad):
    """`n` captioned pictures in a folder, a tar, a zip or a table, of which some are `bad`."""
    members = {f"{i:03}.png": bad.get(i, PICTURE) for i in range(n)}
    captions = {f"{i:03}.txt": b"thing" for i in range(n)}
    if kind == "table":
        images = [{"bytes": data, "path": name} for name, data in members.items()]
        pq.write_table(pa.table({"image": images, "text": ["thing"] * n}), path / "x.parquet")
        return path / "x.parquet"
    if kind == "folder":
        (path / "x").mkdir()
        for name, data in (members | captions).items():
            (path / "x" / name).write_bytes(data)
        return path / "x"
    if kind == "zip":
        with zipfile.ZipFile(path / "x.zip", "w") as archive:
            for name, data in (members | captions).items():
                archive.writestr(name, data)
        return path / "x.zip"
    return tar(path / "x.tar", [(tarfile.TarInfo(name), data) for name, data in (members | captions).items()])


def tar(path, members):
    with tarfile.open(path, "w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


# -- 5, 6


BROKEN = {
    "cut": PICTURE[:400],
    "noise": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "no picture": b"GIF89",
    "bomb": bomb(),
}


@pytest.mark.parametrize("kind", ["folder", "tar", "zip", "table"])
def test_a_corrupt_picture_in_a_hundred_is_counted_and_more_are_an_error(kind, tmp_path):
    bad = dict(zip((5, 50, 70, 99), BROKEN.values(), strict=True))
    for n_bad in (1, 4):
        (tmp_path / f"{n_bad}").mkdir()
        source = album(kind, tmp_path / f"{n_bad}", 100, dict(list(bad.items())[:n_bad]))
        if n_bad == 1:
            imported = import_source(source, tmp_path / "one", size=16)
            assert (imported.dataset.info.n_rows, len(imported.skipped)) == (99, 1)
            assert "5" in imported.skipped[0].split(": ")[0]
            continue
        with pytest.raises(ValueError, match=r"expected at most 1 % unreadable documents, got 4 of 100; mend them"):
            import_source(source, tmp_path / "four", size=16)
        assert not (tmp_path / "four" / "dataset.json").exists()
        assert len(import_source(source, tmp_path / "four", size=16, on_bad="skip").skipped) == 4


def test_the_command_says_what_was_left_out(tmp_path, capsys):
    source = album("tar", tmp_path, 10, {3: BROKEN["cut"]})
    command = ["data", "import", str(source), "--out", str(tmp_path / "out"), "--size", "16"]
    assert cli.main(command) != 0
    assert "got 1 of 10; mend them, or leave them out with on_bad='skip' (--on-bad skip): " in capsys.readouterr().err
    assert cli.main([*command, "--on-bad", "skip"]) == 0
    said = capsys.readouterr()
    assert "x.tar/003.png: expected a whole picture" in said.err
    assert said.out.startswith(f"{tmp_path / 'out'}: 9 documents, ")
    assert said.out.endswith(", 1 left out\n")


def test_a_bomb_is_refused_before_it_is_decoded():
    before = peak()
    with pytest.raises(ValueError, match=rf"^b.png: expected at most {MAX_PIXELS:,} pixels"):
        decode_picture(bomb(), name="b.png")
    with pytest.raises(ValueError, match=r"expected at most 64,000,000 pixels, got 8001 × 8000; make it smaller"):
        decode_picture(bomb_of(8001, 8000))
    assert peak() - before < 2**25


def bomb_of(width, height):
    data = bytearray(bomb(1))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def test_a_comment_that_unpacks_to_gigabytes_is_refused():
    data = talkative()
    assert len(data) < 300_000
    before = peak()
    with pytest.raises(ValueError, match=r"^t.png: expected a whole picture .*: Decompressed data too large"):
        decode_picture(data, name="t.png")
    assert peak() - before < 2**26


# -- 7


def test_members_that_claim_gigabytes_are_not_read(tmp_path):
    """A tar.gz and a zip of less than 1 MB whose one picture is 512 MiB of zeros."""
    before = peak()
    large = 2**29
    with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1) as file:
        info = tarfile.TarInfo("a.png")
        info.size = large
        file.write(info.tobuf())
        for _ in range(large // 2**24):
            file.write(bytes(2**24))
        for name, data in (("a.txt", b"zeros"), ("b.txt", b"text")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.write(info.tobuf() + data.ljust(512, b"\0"))
        file.write(bytes(1024))
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("a.png", "w") as file:
            for _ in range(large // 2**24):
                file.write(bytes(2**24))
        archive.writestr("a.txt", "zeros")
        archive.writestr("b.txt", "text")
    for name in ("x.tar.gz", "x.zip"):
        assert (tmp_path / name).stat().st_size < 2**22
        imported = import_source(tmp_path / name, tmp_path / f"{name}-out", on_bad="skip")
        assert imported.dataset.info.n_rows == 1
        assert "a.png: expected at most 256 MiB, found 536,870,912 bytes" in imported.skipped[0]
    assert peak() - before < 2**28


def test_a_header_that_claims_gigabytes_is_not_believed(tmp_path):
    """The extended header of a tar is read as a whole by whoever reads tars."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 2**33 - 1
    with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
        file.write(info.tobuf() + bytes(4096))
    with pytest.raises(
        ValueError, match=r"x.tar.gz: expected a whole tar, .* header claims 8,589,934,[0-9]+ bytes, more"
    ):
        import_source(tmp_path / "x.tar.gz", tmp_path / "out")


def test_a_zip_that_lies_about_a_size_is_found(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "z" * 100_000)
        archive.writestr("b.txt", "text")
    data = bytearray((tmp_path / "x.zip").read_bytes())
    place = data.index(b"PK\x01\x02")  # the first entry of the directory
    data[place + 24 : place + 28] = struct.pack("<I", 10)
    (tmp_path / "x.zip").write_bytes(bytes(data))
    imported = import_source(tmp_path / "x.zip", tmp_path / "out", on_bad="skip")
    assert [row.text for row in imported.dataset.read_documents()] == ["text"]
    assert "a.txt: expected a whole member, found damage: Bad CRC-32" in imported.skipped[0]


def test_a_table_that_claims_gigabytes_is_refused(tmp_path):
    """A picture of 32 MB, said a thousand times, is stored once."""
    before = peak()
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), pa.array([b"\0" * 2**25], pa.binary()))
    table = pa.table({"image": long, "text": ["a"] * 1000})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd", dictionary_pagesize_limit=2**30)
    assert (tmp_path / "x.parquet").stat().st_size < 2**20
    with pytest.raises(
        ValueError, match=r"x.parquet, row group 0: expected at most 4 GiB of values, found 8.0 GiB claimed"
    ):
        import_source(tmp_path / "x.parquet", tmp_path / "out", on_bad="skip")
    assert peak() - before < 2**28


# -- 8


class Boom:
    def __reduce__(self):
        return os.mkdir, ("boom",)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.pkl", "x.pt", "x.txt"])
def test_pickled_objects_are_no_data(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.array([Boom()], object)
    match name:
        case "x.npy":
            np.save(name, objects, allow_pickle=True)
        case "x.npz":
            np.savez(name, a=objects)
        case _:
            (tmp_path / name).write_bytes(pickle.dumps(Boom()))
    with pytest.raises(ValueError, match=r"nothing is unpickled|expected text"):
        import_source(name, tmp_path / "out")
    (tmp_path / "in").mkdir()
    (tmp_path / name).rename(tmp_path / "in" / name)
    with pytest.raises(ValueError, match="expected"):
        import_source("in", tmp_path / "out")
    assert not (tmp_path / "boom").exists()


# -- 9


NAMES = ["../a.txt", "x/../../a.txt", "/a.txt", "/etc/passwd", "C:/a.txt", "..\\a.txt", "\\a.txt", "x\\..\\..\\a.txt"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_out_of_an_archive_are_refused(kind, name, tmp_path):
    file = tmp_path / f"x.{kind}"
    if kind == "tar":
        tar(file, [(tarfile.TarInfo("good.txt"), b"good"), (tarfile.TarInfo(name), b"bad")])
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("good.txt", "good")
            archive.writestr(zipfile.ZipInfo(name), "bad")
    for on_bad in ("error", "skip"):
        with pytest.raises(ValueError, match=rf"x.{kind}: expected names within a folder, found '.*': refused"):
            import_source(file, tmp_path / "out", on_bad=on_bad)
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name]


LINKS = {
    "symbolic link": (tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": (tarfile.LNKTYPE, "../secret.txt"),
    "device": (tarfile.CHRTYPE, ""),
    "pipe": (tarfile.FIFOTYPE, ""),
}


@pytest.mark.parametrize("kind", LINKS)
def test_links_and_devices_in_a_tar_are_refused(kind, tmp_path):
    info = tarfile.TarInfo("a.txt")
    info.type, info.linkname = LINKS[kind]
    tar(tmp_path / "x.tar", [(tarfile.TarInfo("good.txt"), b"good"), (info, b"")])
    with pytest.raises(ValueError, match=r"x.tar: expected files alone, found 'a.txt', a (link to|device).*: refused"):
        import_source(tmp_path / "x.tar", tmp_path / "out", on_bad="skip")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR])
def test_links_and_devices_in_a_zip_are_refused(mode, tmp_path):
    info = zipfile.ZipInfo("a.txt")
    info.external_attr = (mode | 0o644) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("good.txt", "good")
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match=r"x.zip: expected files alone, found 'a.txt', a (link|device): refused"):
        import_source(tmp_path / "x.zip", tmp_path / "out", on_bad="skip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_name_twice_is_refused(kind, tmp_path):
    file = tmp_path / f"x.{kind}"
    if kind == "tar":
        tar(file, [(tarfile.TarInfo("a.txt"), b"one"), (tarfile.TarInfo("./a.txt"), b"two")])
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.txt", "one")
            archive.writestr("a.txt", "two")
    with pytest.raises(ValueError, match=r"expected every name once, found 'a.txt' twice: refused"):
        import_source(file, tmp_path / "out")


def test_a_link_out_of_a_folder_is_not_followed(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("mine")
    (tmp_path / "in" / "b.txt").symlink_to(tmp_path / "secret.txt")
    imported = import_source(tmp_path / "in", tmp_path / "out", on_bad="skip")
    assert [row.text for row in imported.dataset.read_documents()] == ["mine"]
    assert "b.txt: expected a file within " in imported.skipped[0]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_every_cut_of_an_archive_is_named(kind, tmp_path):
    """At each 1/16 of its length."""
    members = [(tarfile.TarInfo(f"{i}.txt"), f"text {i} ".encode() * 40) for i in range(8)]
    whole = tmp_path / f"x.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(whole, "w") as archive:
            for info, data in members:
                archive.writestr(info.name, data)
    else:
        tar(tmp_path / "x.tar", members)
        if kind == "tar.gz":
            whole.write_bytes(gzip.compress((tmp_path / "x.tar").read_bytes()))
    data = whole.read_bytes()
    if kind == "tar":
        data = data[: 8 * 1024 + 512]  # one block of zeros is the end
    for part in range(16):
        whole.write_bytes(data[: len(data) * part // 16])
        with pytest.raises(ValueError, match=rf"^{whole}: expected a whole (tar|zip), found damage"):
            import_source(whole, tmp_path / "out")
    whole.write_bytes(data)
    assert import_source(whole, tmp_path / "out").dataset.info.n_rows == 8


def test_damage_within_a_tar_is_no_end_of_it(tmp_path):
    """A header that cannot be read ends a tar in silence for many readers."""
    file = tar(tmp_path / "x.tar", [(tarfile.TarInfo(f"{i}.txt"), b"text") for i in range(8)])
    data = bytearray(file.read_bytes())
    data[4 * 1024 + 10] ^= 255
    file.write_bytes(bytes(data))
    with pytest.raises(
        ValueError, match=r"x.tar: expected a whole tar, found damage: neither a header nor the end at byte 4096"
    ):
        import_source(file, tmp_path / "out")


def test_a_lone_surrogate_in_a_captions_file_costs_its_row_alone(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    rows = [r'{"file": "a.png", "text": "fine"}', r'{"file": "a.png", "text": "half \ud83d"}']
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    imported = import_source(tmp_path, tmp_path / "out", on_bad="skip")
    assert imported.dataset.info.n_rows == 1
    assert (
        "captions.jsonl, line 2: expected text that UTF-8 can write, got a lone surrogate at 5" in imported.skipped[0]
    )
