"""Holds docs/formats.md to what is written and read."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import msgspec
import pytest

from gato_lite.checkpoint import FileRecord, Manifest
from gato_lite.envs.dataset import Dataset, check
from gato_lite.envs.format import DatasetInfo, Part, Reference, Score
from gato_lite.envs.parts import Document
from gato_lite.run import RunConfig, TaskFormat

PAGE = (Path(__file__).parent.parent / "docs" / "formats.md").read_text("utf-8")


@pytest.mark.parametrize(
    "struct",
    [DatasetInfo, Part, Score, Manifest, FileRecord, RunConfig, TaskFormat],
    ids=lambda struct: struct.__name__,
)
def test_every_field_is_explained(struct: type[msgspec.Struct]) -> None:
    missing = [name for name in struct.__struct_fields__ if name not in PAGE]
    assert not missing, f"docs/formats.md: expected a word on {', '.join(missing)}"


def test_every_document_column_is_explained() -> None:
    assert [name for name in Document._fields if f"| `{name}` |" not in PAGE] == []


def test_the_example_of_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"^    import numpy.*?write_documents\(\".*?$", PAGE, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(example), {})
    assert check("squares") == []
    assert [len(row.turns) for row in Dataset.open("squares").read_documents()] == [3, 1, 1]


def test_the_scale_has_two_ends() -> None:
    assert Reference.__struct_fields__ == ("random", "expert")


@pytest.mark.parametrize("struct", [DatasetInfo, RunConfig], ids=lambda struct: struct.__name__)
def test_the_versions_are_those_of_the_page(struct: type[msgspec.Struct]) -> None:
    default = next(field.default for field in msgspec.structs.fields(struct) if field.name == "format_version")
    name = {"DatasetInfo": "dataset.json", "RunConfig": "config.json"}[struct.__name__]
    assert f"{name}`, format version {default}" in PAGE or f"{name}, format version {default}" in PAGE
