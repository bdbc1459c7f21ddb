"""How each ability is asked for, in one place: what fetched data, prompts and evaluation agree on.

| ability     | picture | prompt                         | answer            |
|-------------|---------|--------------------------------|-------------------|
| text        |         |                                | the text          |
| caption     | yes     | nothing, or the language       | the name          |
| class       | yes     | "Which class is this?"         | the class         |
| question    | yes     | the question                   | the answer        |
| translation |         | "Translate to Italian: …"      | the translation   |
| dialogue    |         | what is said or asked          | the reply         |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gato_lite.envs.dataset import Document, Turn
from gato_lite.envs.format import Ability

LANGUAGES: Final = {
    "ar": "Arabic", "bg": "Bulgarian", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "eo": "Esperanto", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish",
    "fr": "French", "gu": "Gujarati", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "kk": "Kazakh", "ko": "Korean", "lt": "Lithuanian",
    "lv": "Latvian", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian",
    "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sr": "Serbian", "sv": "Swedish", "th": "Thai",
    "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""Names of languages by their ISO 639 codes."""
CLASS_PROMPT: Final = "Which class is this?"
_TRANSLATE: Final = "Translate to "


def caption_prompt(language: str = "en") -> str:
    """What asks for a picture's name; English needs no word."""
    return "" if language == "en" else f"In {LANGUAGES[language]}:"


def translation_prompt(source: str, language: str) -> str:
    """What asks for a translation into `language`."""
    return f"{_TRANSLATE}{LANGUAGES[language]}: {source}"


def apparent_ability(document: Document) -> Ability:
    """What a document teaches, by what it shows and asks."""
    if any(turn.image is not None for turn in document.turns):
        return "class" if document.prompt == CLASS_PROMPT else "question" if document.prompt else "caption"
    if document.prompt.startswith(_TRANSLATE):
        return "translation"
    return "dialogue" if document.prompt or document.before else "text"


def caption(
    image: bytes, name: str, *, language: str = "en", split: str = "train", group: str | None = None
) -> Document:
    """A picture and its name."""
    return Document(image, name, split, group, prompt=caption_prompt(language))


def labelled(image: bytes, label: str, *, split: str = "train", group: str | None = None) -> Document:
    """A picture and its class."""
    return Document(image, label, split, group, prompt=CLASS_PROMPT)


def question(image: bytes, asked: str, answer: str, *, split: str = "train", group: str | None = None) -> Document:
    """A question about a picture."""
    return Document(image, answer, split, group, prompt=asked)


def translation(source: str, target: str, language: str, *, split: str = "train", group: str | None = None) -> Document:
    """A sentence and its translation into `language`."""
    return Document(None, target, split, group, prompt=translation_prompt(source, language))


def conversation(turns: Sequence[tuple[str, str]], *, split: str = "train", group: str | None = None) -> Document:
    """What was said and replied, turn after turn."""
    *earlier, (said, reply) = turns
    before = tuple(Turn(prompt=prompt, text=text) for prompt, text in earlier)
    return Document(None, reply, split, group, prompt=said, before=before)


ABILITIES: Final[dict[Ability, str]] = {
    "text": "bits per byte",
    "caption": "exact match",
    "class": "accuracy",
    "question": "accuracy",
    "translation": "chrF",
    "dialogue": "exact match",
}
"""What a score of each ability is."""
