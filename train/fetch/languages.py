"""English and Italian sentences that say the same: package descriptions, manual pages and campaigns of a game.

Sentences are paired by the identities that the sources give their paragraphs, then, where both sides of a paragraph
have as many sentences, one by one. A sentence's split is decided by a hash of its source with numbers and names masked:
12 % of a random test set is otherwise a copy of training data but for a version or a name.
"""

from __future__ import annotations

import gettext
import io
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

from gato_lite.envs.dataset import Document
from gato_lite.train.fetch.packages import members
from gato_lite.train.items import content_hash, in_share
from gato_lite.train.templates import translation

CAMPAIGNS: Final = (
    "did", "dm", "dw", "ei", "httt", "l", "low", "nr", "sof", "sota", "sotbe", "thot", "trow", "tsg", "ttb", "utbs",
)  # fmt: skip
"""Campaigns of The Battle for Wesnoth, as Debian's packages call them; they are the test out of domain."""
CAMPAIGN_PACKAGES: Final = tuple(f"wesnoth-1.16-{campaign}" for campaign in CAMPAIGNS)
TEST_SHARE: Final = 0.015
"""Share of the sentences in domain that is held out."""
MAX_CHARACTERS: Final = 300
"""Longest sentence of either side."""

_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+(?=[A-ZÀ-Ú\"(«])")
_NAME: Final = re.compile(r"(?<=\s)[A-Z]\w*")
_TAG: Final = re.compile(r"<[^>]+>")
_CATALOGUE: Final = re.compile(r"/it(_IT)?/LC_MESSAGES/")


def en_it(files: Mapping[str, Path]) -> Iterator[Document]:
    """Pairs of sentences; the group says where they come from."""
    seen: set[tuple[str, str]] = set()
    for group, source, target in _pairs(files):
        if (source, target) in seen or not is_pair(source, target):
            continue
        seen.add((source, target))
        split = "test" if group == "wesnoth" or is_held_out(source, TEST_SHARE) else "train"
        yield translation(source, target, "it", split=split, group=group)


def _pairs(files: Mapping[str, Path]) -> Iterator[tuple[str, str, str]]:
    """(group, English, Italian)."""
    english, italian = (descriptions(files[f"Translation-{language}"]) for language in ("en", "it"))
    for key, paragraphs in english.items():
        for source, target in aligned(paragraphs, italian.get(key, [])):
            yield "debian", source, target
    pages = {language: _help(files[package]) for language, package in (("en", _HELP_EN), ("it", _HELP_IT))}
    for key, text in pages["en"].items():
        for source, target in aligned([text], [pages["it"].get(key, "")]):
            yield "libreoffice", source, target
    for source, target in campaigns(files):
        yield "wesnoth", source, target


def campaigns(files: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """The test out of domain: messages of four words or more."""
    for campaign in CAMPAIGN_PACKAGES:
        for own, other in messages(files[campaign]):
            source = plain(own)
            if len(source.split()) >= 4:
                yield source, plain(other)


_HELP_EN, _HELP_IT = "libreoffice-help-en-us", "libreoffice-help-it"


def descriptions(index: Path) -> dict[str, list[str]]:
    """Paragraphs of each description in an index of Debian's translations, the first its one line, by its MD5."""
    found: dict[str, list[str]] = {}
    for entry in index.read_text("utf-8").split("\n\n"):
        lines = entry.split("\n")
        key = next((line.partition(": ")[2] for line in lines if line.startswith("Description-md5: ")), None)
        start = next(
            (number for number, line in enumerate(lines) if re.match(r"Description-\w\w(_\w\w)?: ", line)), None
        )
        if key is None or start is None:
            continue
        paragraphs = [lines[start].partition(": ")[2], ""]
        for line in lines[start + 1 :]:
            if line.strip() == ".":
                paragraphs.append("")
            elif line.startswith("  ") or line.lstrip().startswith(("*", "-")):  # lists and code stay apart
                paragraphs += [line.strip(" *-"), ""]
            else:
                paragraphs[-1] = f"{paragraphs[-1]} {line.strip()}".strip()
        found[key] = [paragraph for paragraph in paragraphs if paragraph]
    return found


def aligned(source: list[str], target: list[str]) -> Iterator[tuple[str, str]]:
    """Sentences of paragraphs that say the same, where both sides have as many."""
    if len(source) != len(target):
        return
    for own, other in zip(source, target, strict=True):
        sentences = _SENTENCE.split(own), _SENTENCE.split(other)
        if len(sentences[0]) == len(sentences[1]):
            yield from zip(*sentences, strict=True)


class _Paragraphs(HTMLParser):
    """Text of the elements of a page whose id names a paragraph or a heading."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: dict[str, str] = {}
        self._key: str | None = None
        self._tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begins a paragraph."""
        key = dict(attrs).get("id") or ""
        if tag in {"p", "h1", "h2", "h3", "h4"} and key.startswith(("par_", "hd_")):
            self._key, self._tag = key, tag
            self.found[key] = ""

    def handle_endtag(self, tag: str) -> None:
        """Ends it."""
        if tag == self._tag:
            self._key = None

    def handle_data(self, data: str) -> None:
        """Gathers its text."""
        if self._key is not None:
            self.found[self._key] += data


def _help(package: Path) -> dict[str, str]:
    """Paragraphs of LibreOffice's help by page and identity."""
    found: dict[str, str] = {}
    for name, page in members(package, (".html",)):
        parser = _Paragraphs()
        parser.feed(page.decode("utf-8", "replace"))
        place = name.partition("/text/")[2]
        found.update({f"{place}#{key}": " ".join(text.split()) for key, text in parser.found.items() if text.strip()})
    return found


def messages(package: Path) -> Iterator[tuple[str, str]]:
    """Messages of a game and their Italian translations, as its gettext catalogues have them."""
    for name, data in members(package, (".mo",)):
        if not _CATALOGUE.search(name):
            continue
        catalogue: dict[object, str] = gettext.GNUTranslations(io.BytesIO(data))._catalog  # type: ignore[attr-defined]  # noqa: SLF001  (it has no other way to list them)
        for source, target in catalogue.items():
            if isinstance(source, str) and source and target:
                own = source.rpartition("\x04")[2]  # what stands before it, or before ^, tells translators the context
                yield own.partition("^")[2] or own, target


def plain(text: str) -> str:
    """A text in one line, without tags."""
    return " ".join(_TAG.sub("", text).replace("\u2014", " - ").split())


def is_pair(source: str, target: str) -> bool:
    """Whether two texts can be translations of each other: of like length, mostly letters, not the same."""
    lengths = len(source), len(target)
    if min(lengths) < 4 or max(lengths) > MAX_CHARACTERS or source == target:
        return False
    return 0.4 < lengths[0] / lengths[1] < 2.5 and sum(map(str.isalpha, source)) > len(source) / 2


def is_held_out(source: str, share: float) -> bool:
    """Whether a sentence is held out: by a hash of it with numbers and names masked."""
    masked = _NAME.sub("X", re.sub(r"\d+", "0", source)).lower()
    return in_share(content_hash(masked.encode()), share)
