"""English and Italian sentences of games: dialogue, quests, tales, puzzles and encyclopedias.

A game's messages come as gettext catalogues, compiled or not, or as scripts that give both languages; a fuzzy
translation is left out, as gettext does. Messages are parted into paragraphs, and these into sentences where both sides
have as many. What has a format or markup in it is left out. Splits are those of `languages`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from gato_lite.envs.dataset import Document
from gato_lite.train.fetch.languages import TEST_SHARE, aligned, is_held_out, is_pair, messages, plain
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
_CODE: Final = re.compile(r"[\[\]{}|\\^_~$@#=<>]|%[-+.*\d]*[A-Za-z]|%\d")


def en_it_games(files: Mapping[str, Path]) -> Iterator[Document]:
    """Pairs of sentences; the group is the game."""
    seen: set[tuple[str, str]] = set()
    for package, (group, read) in GAMES.items():
        for source, target in sentences(read(files[package])):
            if (source, target) in seen:
                continue
            seen.add((source, target))
            split = "test" if is_held_out(source, TEST_SHARE) else "train"
            yield translation(source, target, "it", split=split, group=group)


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
}
"""Package → the game's name and what reads its messages."""
