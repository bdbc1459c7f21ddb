"""What was last said before a patch: whole documents, and rows read bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.words import last_run, last_words

PATCH, OTHER, N_TEXT = 100, 101, 10


def reference(documents: list[list[int]]) -> list[list[int]]:
    """Token by token: the last run of text before each patch."""
    found = []
    for document in documents:
        run: list[int] = []
        said = False
        for token in document:
            if token < N_TEXT:
                run = [*run, token] if said else [token]
            said = token < N_TEXT
            if token == PATCH:
                found.append(run)
    return found


def runs_of(documents: list[list[int]]) -> list[list[int]]:
    ids = np.array([token for document in documents for token in document], np.int32)
    words = last_words(ids, [len(document) for document in documents], n_text=N_TEXT, patch_id=PATCH)
    for run in set(words.runs.tolist()):
        places = words.places[words.runs == run]
        assert places.tolist() == list(range(len(places)))
    return [words.ids[words.runs == run].tolist() if run >= 0 else [] for run in words.of_patch.tolist()]


TOKENS = st.lists(st.sampled_from([1, 2, 3, PATCH, OTHER]), max_size=12)


@given(st.lists(TOKENS, max_size=5))
def test_it_finds_what_reading_token_by_token_finds(documents: list[list[int]]) -> None:
    assert runs_of(documents) == reference(documents)


@given(TOKENS, TOKENS)
def test_a_reader_needs_only_the_last_run(before: list[int], new: list[int]) -> None:
    said = last_run(np.array(before, np.int32), n_text=N_TEXT, other_id=OTHER).tolist()
    seen = sum(token == PATCH for token in before)
    assert runs_of([said + new]) == reference([before + new])[seen:]


@pytest.mark.parametrize(
    "documents, expected",
    [
        ([[1, 2, PATCH]], [[1, 2]]),
        ([[1, 2], [PATCH]], [[]]),
        ([[1, PATCH, OTHER, 2, 3, PATCH, PATCH]], [[1], [2, 3], [2, 3]]),
        ([[], [PATCH], []], [[]]),
    ],
)
def test_examples(documents: list[list[int]], expected: list[list[int]]) -> None:
    assert runs_of(documents) == expected
