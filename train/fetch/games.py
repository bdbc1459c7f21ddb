"""English and Italian sentences of games: dialogue, quests, tales, puzzles and encyclopedias.

A game's messages come as gettext catalogues, compiled or not, as one of Qt's, or as scripts that give both languages; a
fuzzy translation is left out, as gettext does. Messages are parted into paragraphs, and these into sentences where both
sides have as many. What has a format or markup in it is left out, and so is what the campaigns say that are the test
out of domain of `languages`, whose splits these are.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from gato_lite.envs.dataset import Document
from gato_lite.train.fetch.languages import TEST_SHARE, aligned, campaigns, is_held_out, is_pair, messages, plain
from gato_lite.train.fetch.packages import members
from gato_lite.train.templates import translation

PLAYER: Final = "Robin"
"""Who stands for the player's name, which the games fill in."""

_STRING: Final = r'"((?:[^"\\]|\\.)*)"'
_ITALIAN: Final = re.compile(r"[/._]it(_IT)?[/.]")
_ENTRY: Final = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"\n?)+)', re.MULTILINE)
_FUZZY: Final = re.compile(r"^#,.*\bfuzzy\b", re.MULTILINE)
_SPOKEN: Final = re.compile(rf"dialogId\({_STRING}, *{_STRING}, *{_STRING}\)\s*dialogStr\({_STRING}\)")
_CONTEXT: Final = re.compile(r"^\?[^:]+:")
_PARAGRAPH: Final = re.compile(r"\n\s*\n|\n\s*[*-] ")
_OPEN: Final = re.compile(r"<[^/<>][^<>]*>")
_CLOSE: Final = re.compile(r"</[^<>]*>")
_CODE: Final = re.compile(r"[\[\]{}|\\^_~$@#=<>]|%[-+.*\d]*[A-Za-z]|%\d")


def en_it_games(files: Mapping[str, Path]) -> Iterator[Document]:
    """Pairs of sentences; the group is the game."""
    seen: set[tuple[str, str]] = set()
    tested = "".join(_words(source) for source, _ in campaigns(files))
    for package, (group, read) in GAMES.items():
        for source, target in sentences(read(files[package])):
            if (source, target) in seen or (len(source.split()) >= 4 and _words(source) in tested):
                continue
            seen.add((source, target))
            split = "test" if is_held_out(source, TEST_SHARE) else "train"
            yield translation(source, target, "it", split=split, group=group)


def _words(text: str) -> str:
    return " ".join(["", *re.findall(r"\w+", text.lower()), ""])


def sentences(said: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The sentences of messages and of their translations; a paragraph stays whole if they are not as many."""
    for message in said:
        own, other = (_paragraphs(text) for text in message)
        if len(own) != len(other):
            continue
        for pair in zip(own, other, strict=True):
            for source, target in list(aligned([pair[0]], [pair[1]])) or [pair]:
                if is_pair(source, target) and not _CODE.search(source + target):
                    yield source, target


def _paragraphs(text: str) -> list[str]:
    filled = _CONTEXT.sub("", text).replace("$name", PLAYER).replace("%%", "%")
    lines = (plain(paragraph) for paragraph in _PARAGRAPH.split(filled))
    return [line.removeprefix("* ") for line in lines if line]


def catalogue_messages(package: Path) -> Iterator[tuple[str, str]]:
    """Messages of a game and their Italian translations, as its uncompiled catalogues have them; no fuzzy one."""
    for name, data in members(package, (".po",)):
        if not _ITALIAN.search(name):
            continue
        for entry in data.decode("utf-8").replace("\r", "").split("\n\n"):
            found = _ENTRY.search(entry)
            if found and not _FUZZY.search(entry):
                source, target = ("".join(map(_unescaped, re.findall(_STRING, side))) for side in found.groups())
                if source and target:
                    yield source, target


def dialogue(package: Path) -> Iterator[tuple[str, str]]:
    """What is said in Fish Fillets, whose Italian scripts repeat the English."""
    for _, data in members(package, ("dialogs_it.lua",)):
        for _, _, source, target in _SPOKEN.findall(data.decode("utf-8")):
            yield _unescaped(source), _unescaped(target)


def whole_messages(package: Path) -> Iterator[tuple[str, str]]:
    """Messages without those of Cataclysm's tags that stand for words, as `<name_g>`: what nothing closes."""
    for source, target in messages(package):
        if len(_OPEN.findall(source)) == len(_CLOSE.findall(source)):
            yield source, target


def qt_messages(package: Path) -> Iterator[tuple[str, str]]:
    """Messages and their Italian translations in a compiled catalogue of Qt, the first form of those that have more.

    Source: `qtranslator.cpp` of Qt: 16 bytes of magic, then sections of a tag, a length and the content.
    """
    for name, data in members(package, ("_it.qm",)):
        place = 16
        while place < len(data):
            tag, size = struct.unpack_from(">BI", data, place)
            place += 5 + size
            if tag == _QM_MESSAGES:
                yield from _qt_section(data[place - size : place], name)


_QM_MESSAGES: Final = 0x69
_QM_END, _QM_TRANSLATION, _QM_HASH, _QM_SOURCE = 1, 3, 5, 6


def _qt_section(data: bytes, name: str) -> Iterator[tuple[str, str]]:
    place, source, target = 0, "", ""
    while place < len(data):
        tag = data[place]
        place += 1
        if tag == _QM_END:
            if source and target:
                yield source, target
            source, target = "", ""
        elif tag == _QM_HASH:
            place += 4
        elif tag in range(2, 9):
            (size,) = struct.unpack_from(">i", data, place)  # -1 for none
            place += 4
            text = data[place : place + max(size, 0)]
            place += len(text)
            if tag == _QM_TRANSLATION:
                target = target or text.decode("utf-16-be")
            elif tag == _QM_SOURCE:
                source = text.decode("utf-8")
        else:
            raise ValueError(f"{name}: expected a tag of 1 to 8 in its messages, got {tag}")


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), text)


GAMES: Final[dict[str, tuple[str, Callable[[Path], Iterator[tuple[str, str]]]]]] = {
    "adonthell-data": ("adonthell", messages),
    "fillets-ng-data": ("fillets", dialogue),
    "flare-game": ("flare", catalogue_messages),
    "singularity": ("singularity", catalogue_messages),
    "pingus-data": ("pingus", catalogue_messages),
    "freeciv-data": ("freeciv", messages),
    "ufoai-misc": ("ufoai", messages),
    "gbrainy": ("gbrainy", messages),
    "cataclysm-dda-data": ("cataclysm", whole_messages),
    "gcompris-qt-data": ("gcompris", qt_messages),
}
"""Package → the game's name and what reads its messages."""
