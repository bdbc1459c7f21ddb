from __future__ import annotations

import json

import numpy as np
import pytest

from gato_lite.tokenizers.text import TextTokenizer, train_text_model
from gato_lite.tokenizers.vocabulary import KINDS, Vocabulary


def test_ranges_follow_one_another(vocabulary: Vocabulary) -> None:
    assert vocabulary.text_ids == range(380)
    assert vocabulary.bin_ids == range(380, 1404)
    assert vocabulary.discrete_ids == range(1404, 2428)
    specials = (vocabulary.separator, vocabulary.end, vocabulary.patch, vocabulary.chunk)
    assert specials == (2428, 2429, 2430, 2431)
    assert vocabulary.size == len(vocabulary) == 2432


def test_the_shipped_vocabulary() -> None:
    shipped = Vocabulary.shipped()
    assert len(shipped) == 6148
    assert shipped is Vocabulary.shipped()
    assert shipped.text.decode(shipped.text.encode("Go to the red ball.")) == "Go to the red ball."


def test_words_for_every_id(vocabulary: Vocabulary) -> None:
    ball = int(vocabulary.text.encode("a")[0])
    assert vocabulary.describe(ball) == "text 'a'"
    assert vocabulary.describe(vocabulary.text.byte_ids[10]) == "byte 0x0A"
    assert vocabulary.describe(vocabulary.bin_ids[512]) == "bin 512"
    assert vocabulary.describe(vocabulary.discrete_ids[3]) == "discrete 3"
    assert [vocabulary.describe(i) for i in range(2428, 2432)] == ["separator", "end", "patch", "chunk"]
    assert vocabulary.describe(2432) == "no token (2432 is not in 0..2431)"


def test_kinds_at_both_ends_of_each_range(vocabulary: Vocabulary) -> None:
    ids = np.array([0, 379, 380, 1403, 1404, 2427, 2428, 2429, 2430, 2431])
    kinds = vocabulary.kind(ids)
    assert kinds.dtype == np.int8
    assert [KINDS[kind] for kind in kinds] == ["text"] * 2 + ["bin"] * 2 + ["discrete"] * 2 + list(KINDS[3:])


def test_files_round_trip(vocabulary: Vocabulary) -> None:
    copy = Vocabulary.from_files(vocabulary.to_json().encode(), vocabulary.text.model_bytes)
    assert copy == vocabulary
    assert hash(copy) == hash(vocabulary)
    assert copy.fingerprint == vocabulary.fingerprint
    assert len(copy.fingerprint) == 64
    assert Vocabulary(vocabulary.text, n_bins=512) != vocabulary


def test_another_text_model_is_refused(vocabulary: Vocabulary) -> None:
    other = train_text_model(["an altogether different text to learn from"], n_pieces=290)
    expected = f"expected SHA-256 {vocabulary.text.sha256}, got {TextTokenizer(other).sha256}"
    with pytest.raises(ValueError, match=expected):
        Vocabulary.from_files(vocabulary.to_json().encode(), other)


@pytest.mark.parametrize("stored", [b"", b"[]", b'{"bins": 3}', b"\xff"])
def test_json_that_is_no_vocabulary(vocabulary: Vocabulary, stored: bytes) -> None:
    with pytest.raises(ValueError, match="^expected a vocabulary's JSON with 'bins', 'discrete' and 'text_sha256'"):
        Vocabulary.from_files(stored, vocabulary.text.model_bytes)


def test_altered_ranges_are_refused(vocabulary: Vocabulary) -> None:
    stored = {**json.loads(vocabulary.to_json()), "patch": 7}
    with pytest.raises(ValueError, match="the vocabulary's ranges do not follow: expected .*2430.* got .*7"):
        Vocabulary.from_files(json.dumps(stored).encode(), vocabulary.text.model_bytes)


def test_sizes_are_checked(text: TextTokenizer) -> None:
    with pytest.raises(ValueError, match="^n_bins must be in 2..1048576, got n_bins=1$"):
        Vocabulary(text, n_bins=1)
