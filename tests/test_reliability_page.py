"""docs/reliability.md promises nothing that no test holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "reliability.md").read_text("utf-8").splitlines()
    if re.match(r"\| \d", line)
]


def test_a_row_has_every_column():
    assert [row for row in ROWS if len(row) != 6 or not all(row)] == []


def test_no_fault_is_listed_twice():
    numbers = [row[0] for row in ROWS]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_tests_of_a_row_exist(row):
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[5])
    assert named, f"fault {row[0]}: expected `test_file.py::test_name` in the last column, got {row[5]!r}"
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / "faults" / file).read_text("utf-8"), f"{file} has no {test}"
