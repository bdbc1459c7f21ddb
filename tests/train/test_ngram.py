from __future__ import annotations

import math

import numpy as np
import pytest

from gato_lite.train.ngram import ORDER, bits_per_byte_ngram


def by_hand(train: list[str], test: list[str]) -> float:
    """The same model with dictionaries, byte after byte."""
    counts: dict[bytes, dict[int, int]] = {}
    for text in train:
        data = b"\n" * (ORDER - 1) + text.encode()
        for place, byte in enumerate(data):
            for length in range(min(ORDER - 1, place) + 1):
                seen = counts.setdefault(data[place - length : place], {})
                seen[byte] = seen.get(byte, 0) + 1
    bits, n = 0.0, 0
    for text in test:
        data = b"\n" * (ORDER - 1) + text.encode()
        for place in range(ORDER - 1, len(data)):
            probability = 1 / 256
            for length in range(ORDER):
                seen = counts.get(data[place - length : place], {})
                if seen:
                    total, different = sum(seen.values()), len(seen)
                    probability = (seen.get(data[place], 0) + different * probability) / (total + different)
            bits -= math.log2(probability)
            n += 1
    return bits / n


def test_it_is_the_formula() -> None:
    train, test = ["the cat sat on the mat. " * 3], ["the cat ate the rat", "é"]
    assert bits_per_byte_ngram(train, test) == pytest.approx(by_hand(train, test), rel=1e-6)


def test_what_was_read_often_costs_little() -> None:
    line = "It was a dark and stormy night. "
    assert bits_per_byte_ngram([line * 50], [line * 3]) < 0.6
    drawn = "".join(map(chr, np.random.default_rng(0).integers(33, 127, 2000)))
    assert bits_per_byte_ngram([line * 50], [drawn]) > 6


def test_nothing_known_is_a_byte_a_byte() -> None:
    assert bits_per_byte_ngram([], ["abc"]) == 8.0


def test_no_text() -> None:
    for test in ([], [""]):
        with pytest.raises(ValueError, match="expected at least one byte of held-out text, got none"):
            bits_per_byte_ngram(["a"], test)
