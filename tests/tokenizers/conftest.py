"""A vocabulary with a small text model, trained here in milliseconds."""

from __future__ import annotations

import pytest

from gato_lite.tokenizers.text import TextTokenizer, train_text_model
from gato_lite.tokenizers.vocabulary import Vocabulary

SENTENCES = [
    "Go to the red ball, then pick up the blue key.",
    "The quick brown fox jumps over the lazy dog; 0123456789 times.",
    "Open the door, put the box next to the green ball and balance the pole.",
    "What is a token? A piece of a text, a patch of a picture or a step of an agent.",
]


@pytest.fixture(scope="session")
def text() -> TextTokenizer:
    return TextTokenizer(train_text_model(SENTENCES, n_pieces=380))


@pytest.fixture(scope="session")
def vocabulary(text: TextTokenizer) -> Vocabulary:
    return Vocabulary(text)
