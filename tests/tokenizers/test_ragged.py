from __future__ import annotations

from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.tokenizers.ragged import Block, interleave, plain, regroup, spread

ROWS = st.lists(st.lists(st.integers(0, 99), max_size=3), min_size=4, max_size=4)


def ragged(rows: list[list[int]]) -> Block:
    """A block in which every token is a chunk that holds its id."""
    ids = np.array([i for row in rows for i in row], np.int32)
    lengths = np.array([len(row) for row in rows], np.int64)
    return Block(ids=ids, lengths=lengths, chunks=np.repeat(ids[:, None], 32, 1).astype(np.float32), n_chunks=lengths)


def rows_of(block: Block) -> list[list[int]]:
    return [part.tolist() for part in np.split(block.ids, np.cumsum(block.lengths)[:-1])]


@given(tables=st.lists(ROWS, min_size=1, max_size=4))
def test_interleaving_is_row_by_row(tables: list[list[list[int]]]) -> None:
    block = interleave([ragged(rows) for rows in tables])
    assert rows_of(block) == [list(chain(*parts)) for parts in zip(*tables, strict=True)]
    assert (block.chunks[:, 0] == block.ids).all()
    assert (block.n_chunks == block.lengths).all()


def test_interleaving_rows_of_equal_length() -> None:
    block = interleave([plain(np.array([[1], [2]], np.int32)), ragged([[3, 4], [5, 6]])])
    assert rows_of(block) == [[1, 3, 4], [2, 5, 6]]
    assert block.chunks[:, 31].tolist() == [3, 4, 5, 6]


@given(rows=ROWS)
def test_regrouping_joins_rows(rows: list[list[int]]) -> None:
    joined = regroup(ragged(rows), np.array([0, 3, 1, 0]))
    assert rows_of(joined) == [[], list(chain(*rows[:3])), rows[3], []]
    assert (joined.n_chunks == joined.lengths).all()


@given(rows=ROWS)
def test_spreading_leaves_the_others_empty(rows: list[list[int]]) -> None:
    block = spread(ragged(rows), np.array([1, 2, 5, 6]), 7)
    assert rows_of(block) == [[], rows[0], rows[1], [], [], rows[2], rows[3]]
