"""One Parquet file of a dataset: a row per episode or document, a typed list column per leaf, page checksums on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64

from gato_lite.envs.claims import claimed_bytes, plain_type, string_bytes, too_large
from gato_lite.envs.columns import Column, Role, column_name, from_arrow, list_array, per_value, to_arrow
from gato_lite.envs.episodes import Episodes
from gato_lite.envs.format import DatasetError, Part
from gato_lite.spaces import AnySpace, leaf_spaces
from gato_lite.whole import file_sha256, replacing

_METADATA_KEY = b"gato_lite"


class Turn(NamedTuple):
    """What is shown and said, and what is answered, as it is stored; `gato_lite.exchange.Exchange` holds pixels."""

    image: bytes | None = None
    """A PNG file, seen before the prompt."""
    prompt: str = ""
    """What is said to the model."""
    text: str = ""
    """What it answers."""


class Document(NamedTuple):
    """A text, a picture with its caption, a question with its answer; or several of them, the earlier in `before`."""

    image: bytes | None
    """A PNG file; None for text alone."""
    text: str
    """The text, the picture's caption, or the answer to the prompt."""
    split: str = "train"
    """"train" or "test"."""
    group: str | None = None
    """What documents have in common, such as a drawing style."""
    prompt: str = ""
    """What is said to the model, after the picture and before the answer."""
    before: tuple[Turn, ...] = ()
    """Earlier turns of a conversation, or examples; all but the last may be interleaved in any way."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns, this document's own one last."""
        return (*self.before, Turn(self.image, self.prompt, self.text))


_TURN = pa.struct([("image", pa.binary()), ("prompt", pa.string()), ("text", pa.string())])
_DOCUMENT_COLUMNS: dict[str, tuple[pa.DataType, Any]] = {
    "image": (pa.binary(), None),
    "text": (pa.string(), None),
    "split": (pa.string(), None),
    "group": (pa.string(), None),
    "prompt": (pa.string(), ""),
    "before": (pa.list_(_TURN), ()),
}
"""Type of each column, and the value of a row where the column may be absent."""


def part_name(index: int) -> str:
    """File name of a dataset's part, of six digits."""
    if index > 999_999:
        raise ValueError(f"a dataset has at most 1,000,000 parts, got number {index}; split it into several datasets")
    return f"part-{index:06d}.parquet"


def write_episodes(
    path: Path,
    episodes: Episodes,
    observation_space: AnySpace,
    action_space: AnySpace,
    metadata: Mapping[str, Any] | None = None,
) -> Part:
    """Write one part whole or not at all, with JSON `metadata` in its footer."""
    lengths = episodes.lengths
    columns: dict[str, pa.Array] = {}
    for role, space, values, counts in sides(episodes, observation_space, action_space):
        for leaf_path, leaf in leaf_spaces(space).items():
            columns[column_name(role, leaf_path)] = to_arrow(leaf, values[leaf_path], counts)
    columns["reward"] = list_array(pa.array(episodes.rewards), lengths)
    columns["terminated"] = pa.array(episodes.terminated)
    columns["truncated"] = pa.array(episodes.truncated)
    columns["seed"] = pa.array(episodes.seeds)
    columns["length"] = pa.array(lengths)
    success = episodes.success
    columns["success"] = pa.nulls(len(episodes), pa.bool_()) if success is None else pa.array(success)
    _write(path, pa.table(columns), metadata)
    return describe(path, rows=len(episodes), timesteps=int(lengths.sum()))


def sides(
    episodes: Episodes, observation_space: AnySpace, action_space: AnySpace
) -> list[tuple[Role, AnySpace, Mapping[str, Column], npt.NDArray[np.int64]]]:
    """Role, space, columns by leaf path, and values in each episode: observations, actions, and labels if any."""
    found: list[tuple[Role, AnySpace, Mapping[str, Column], npt.NDArray[np.int64]]] = [
        ("observation", observation_space, episodes.observations, episodes.lengths + 1),
        ("action", action_space, episodes.actions, episodes.lengths),
    ]
    if episodes.labels is not None:
        found.append(("label", action_space, episodes.labels, episodes.lengths))
    return found


def write_document_rows(path: Path, documents: Sequence[Document]) -> Part:
    """Write one part of documents whole or not at all."""
    columns = {
        "image": pa.array([document.image for document in documents], pa.binary()),
        "text": pa.array([document.text for document in documents], pa.string()),
        "split": pa.array([document.split for document in documents], pa.string()),
        "group": pa.array([document.group for document in documents], pa.string()),
    }
    if any(document.prompt for document in documents):
        columns["prompt"] = pa.array([document.prompt for document in documents], pa.string())
    if any(document.before for document in documents):
        rows = [[turn._asdict() for turn in document.before] for document in documents]
        columns["before"] = pa.array(rows, pa.list_(_TURN))
    _write(path, pa.table(columns), None)
    return describe(path, rows=len(documents), timesteps=0)


def _write(path: Path, table: pa.Table, metadata: Mapping[str, Any] | None) -> None:
    if problem := too_large(str(path), table.nbytes):
        raise ValueError(f"{problem}; cut episodes, or make the observation smaller")
    text = json.dumps(dict(metadata or {}), sort_keys=True)
    table = table.replace_schema_metadata({_METADATA_KEY: text.encode()})
    with replacing(path) as temporary:
        pq.write_table(
            table, temporary, compression="zstd", compression_level=3, write_page_checksum=True, write_statistics=False
        )


def describe(path: Path, *, rows: int, timesteps: int) -> Part:
    """Size and digest of a part on disk."""
    return Part(file=path.name, rows=rows, timesteps=timesteps, size=path.stat().st_size, sha256=file_sha256(path))


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The JSON in a part's footer, empty where it has none; None where the file is not whole."""
    try:
        stored = pq.read_metadata(path).metadata or {}
        metadata = json.loads(stored.get(_METADATA_KEY, b"{}"))
    except (OSError, pa.ArrowException, ValueError, RecursionError):
        return None
    return metadata if isinstance(metadata, dict) else None


def read_table(path: Path, columns: Sequence[str] | None = None, *, sha256: str | None = None) -> pa.Table:
    """A part's columns; strings come dictionary-encoded.

    Page checksums are verified, and where `sha256` is given the whole file: pages alone leave the headers between them
    and the footer open.

    Raises:
        DatasetError: the file is damaged, or claims more than 4 GiB of values; the message names it.
    """
    try:
        source: Any = path  # Any: pyarrow takes a path or a buffer
        if sha256 is not None:
            data = path.read_bytes()
            source = pa.BufferReader(data)  # what was hashed is what is read
            if (found := hashlib.sha256(data).hexdigest()) != sha256:
                raise DatasetError(f"{path}: expected SHA-256 {sha256}, found {found}: the file is altered")
        metadata = pq.read_metadata(source)
        if problem := too_large(str(path), claimed_bytes(metadata, range(metadata.num_row_groups))):
            raise DatasetError(problem)
        leaves = map(metadata.schema.column, range(metadata.num_columns))
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        with pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True, read_dictionary=texts) as file:
            table = file.read(columns=None if columns is None else list(columns), use_threads=False)
            table.validate(full=True)  # a file can hold places outside its dictionaries, and bytes that are no UTF-8
            return table
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: expected a whole Parquet file, found damage: {error}") from error


def read_episodes(
    path: Path, observation_space: AnySpace, action_space: AnySpace, *, sha256: str | None = None
) -> Episodes:
    """All episodes of one part; arrays are read-only.

    Args:
        path: The file.
        observation_space: What its observations are of.
        action_space: What its actions are of.
        sha256: Digest of the whole file, where it is known.

    Raises:
        DatasetError: the file is damaged, or its columns do not fit the spaces.
    """
    return _episodes(path, read_table(path, sha256=sha256), observation_space, action_space)


def read_small_parts(
    folder: Path, parts: Sequence[Part], observation_space: AnySpace, action_space: AnySpace
) -> Episodes | None:
    """The episodes of several parts, end to end: as `read_episodes` of each, but made of columns only once.

    Returns:
        None where anything is amiss with them, or they have not all the same columns.
    """
    try:
        tables = [read_table(folder / part.file, sha256=part.sha256) for part in parts]
        if any(table.schema != tables[0].schema for table in tables):
            return None
        episodes = _episodes(folder, pa.concat_tables(tables), observation_space, action_space)
    except (DatasetError, pa.ArrowException):
        return None
    ends = np.cumsum([table.num_rows for table in tables])
    timesteps = [int(lengths.sum()) for lengths in np.split(episodes.lengths, ends[:-1])]
    found = list(zip((table.num_rows for table in tables), timesteps, strict=True))
    return episodes if found == [(part.rows, part.timesteps) for part in parts] else None


def _episodes(path: Path, table: pa.Table, observation_space: AnySpace, action_space: AnySpace) -> Episodes:
    """A table's columns as episodes."""
    sides: list[tuple[Role, dict[str, AnySpace]]] = [
        ("observation", leaf_spaces(observation_space)),
        ("action", leaf_spaces(action_space)),
    ]
    if any(name.split("/")[0] == "label" for name in table.column_names):
        sides.append(("label", leaf_spaces(action_space)))
    lengths: npt.NDArray[np.int64] = _scalars(path, table, "length", pa.int64())
    counts = {"observation": lengths + 1, "action": lengths, "label": lengths}
    success = _column(path, table, "success")
    try:
        columns = {
            role: {
                leaf_path: from_arrow(
                    leaf,
                    _rows(path, table, column_name(role, leaf_path), counts[role] * per_value(leaf)),
                    int(counts[role].sum()),
                )
                for leaf_path, leaf in leaves.items()
            }
            for role, leaves in sides
        }
        return Episodes(
            observations=columns["observation"],
            actions=columns["action"],
            rewards=_rows(path, table, "reward", lengths).flatten().to_numpy(),
            terminated=_scalars(path, table, "terminated", pa.bool_()),
            truncated=_scalars(path, table, "truncated", pa.bool_()),
            lengths=lengths,
            seeds=_scalars(path, table, "seed", pa.int64()),
            success=None if success.null_count else success.to_numpy(zero_copy_only=False),
            labels=columns.get("label"),
        )
    except DatasetError:
        raise
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error


def read_lengths(path: Path, *, sha256: str | None = None) -> Int64[np.ndarray, " E"]:
    """Timesteps of each episode of one part; `sha256` is the digest of the whole file, where it is known."""
    return _scalars(path, read_table(path, ["length"], sha256=sha256), "length", pa.int64())


def read_document_rows(path: Path, *, sha256: str | None = None) -> list[Document]:
    """All documents of one part; `sha256` is the digest of the whole file, where it is known.

    Raises:
        DatasetError: the file is damaged, or a column has another type than it should.
    """
    table = read_table(path, sha256=sha256)
    columns: dict[str, list[Any]] = {}  # Any: the fields of Document
    for name, (kind, absent) in _DOCUMENT_COLUMNS.items():
        if absent is not None and name not in table.column_names:
            columns[name] = [absent] * len(table)
            continue
        column = _plain(path, name, _column(path, table, name))
        if column.type != kind:
            raise DatasetError(f"{path}: expected the column {name!r} to be {kind}, found {column.type}")
        if column.null_count and name not in {"image", "group"}:
            raise DatasetError(f"{path}: expected a value of {name!r} in every row, found {column.null_count} without")
        try:
            columns[name] = column.to_pylist()
        except UnicodeDecodeError as error:
            raise DatasetError(f"{path}: {name}: expected UTF-8, found {error}") from error
    columns["before"] = [tuple(Turn(**turn) for turn in row) for row in columns["before"]]
    return [Document(*row) for row in zip(*(columns[name] for name in Document._fields), strict=True)]


def _rows(path: Path, table: pa.Table, name: str, counts: npt.NDArray[np.int64]) -> pa.Array:
    """The lists of a column, which hold `counts` values each."""
    column = _column(path, table, name)
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise DatasetError(f"{path}: expected column {name!r} of lists, found {column.type}")
    if column.null_count:
        found = pc.list_value_length(column).cast(pa.int64()).fill_null(-1).to_numpy()
    else:
        found = np.diff(column.offsets.to_numpy()).astype(np.int64)
    if (wrong := found != counts).any():
        episode = int(np.argmax(wrong))
        raise DatasetError(
            f"{path}: episode {episode}, {name}: expected {counts[episode]} values, found {found[episode]}"
        )
    return column


def _scalars(path: Path, table: pa.Table, name: str, expected: pa.DataType) -> npt.NDArray[Any]:
    """A value for each row."""
    column = _column(path, table, name)
    if column.type != expected or column.null_count:
        raise DatasetError(
            f"{path}: expected column {name!r} of {expected}, found {column.type}, {column.null_count} null"
        )
    values: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _plain(path: Path, name: str, column: pa.Array) -> pa.Array:
    """A column of dictionary-encoded strings written out."""
    if problem := too_large(f"{path}: {name}", string_bytes(column)):
        raise DatasetError(problem)
    return column.cast(plain_type(column.type))


def _column(path: Path, table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        raise DatasetError(f"{path}: expected a column {name!r}, found {', '.join(table.column_names)}")
    if table.column_names.count(name) > 1:
        raise DatasetError(f"{path}: expected one column {name!r}, found several")
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
