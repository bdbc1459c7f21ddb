"""What an earlier recording left in a folder: whether it is the one that is asked for, and else how it differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gato_lite.envs.blocks import Block
from gato_lite.envs.folder import claim, next_first_part, part_number, sweep
from gato_lite.envs.format import INFO_FILE, DatasetError, DatasetInfo, read_info
from gato_lite.envs.parts import read_metadata
from gato_lite.lock import FolderLock


def prepare(out: Path, blocks: Sequence[Block], *, overwrite: bool) -> list[Block]:
    """The blocks with the numbers of their parts, once `out` holds nothing else but a dataset that they replace.

    Raises:
        FileExistsError: it does, or nothing shows that a damaged part in it is of this recording.
    """
    old = old_recording(out)
    first = 0 if old is None else part_number(old.parts[0].file)
    mine = [replace(block, first_part=first) for block in blocks]
    if not _is_resumable(out, old, mine, overwrite=overwrite):
        first = 0 if old is None else next_first_part(old)
        mine = [replace(block, first_part=first) for block in blocks]
        wanted = {block.path.name: block.identity for block in mine}
        claim(
            out,
            overwrite=overwrite,
            is_wanted=lambda file: _identity(file) == wanted.get(file.name, 0),
            differences=lambda: _differences(out, old, mine),
        )
    wanted_names = {block.path.name for block in mine}
    sweep(out, is_wanted=lambda file: file.name in wanted_names)
    return mine


def old_recording(out: Path) -> DatasetInfo | None:
    """What the dataset in `out` says of itself; None where there is none that is whole."""
    try:
        info = read_info(out)
    except DatasetError:
        return None
    return info if info.parts else None


def _identity(file: Path) -> Any:  # Any: JSON
    """Of which recording a part is; None of a damaged file."""
    return (read_metadata(file) or {}).get("identity")


def _is_resumable(out: Path, old: DatasetInfo | None, blocks: Sequence[Block], *, overwrite: bool) -> bool:
    """Whether what lies in `out` is of this recording, or nothing.

    Raises:
        FileExistsError: nothing shows that a damaged part in it is, and `overwrite` is off.
    """
    wanted = {block.path.name: block.identity for block in blocks}
    listed = set() if old is None else {part.file for part in old.parts}
    parts = {
        file.name: read_metadata(file) for file in out.glob("part-*.parquet") if old is None or file.name in listed
    }
    resumable = all(
        name in wanted and (metadata is None or metadata.get("identity") == wanted[name])
        for name, metadata in parts.items()  # None is a damaged part, which is made again
    )
    if (out / INFO_FILE).is_file():
        rows = [] if old is None else [part.rows for part in old.parts]
        return resumable and rows == [block.episodes for block in blocks]
    if not parts:
        return not any(file for file in out.iterdir() if file.name != FolderLock.NAME and file.suffix != ".tmp")
    if resumable and all(metadata is None for metadata in parts.values()):
        if not overwrite:
            raise FileExistsError(
                f"{out / min(parts)}: expected a part of this recording, found damage or another file;"
                " name another folder, or pass overwrite=True (--overwrite) to replace it"
            )
        return False
    return resumable


def _differences(out: Path, old: DatasetInfo | None, blocks: Sequence[Block]) -> str:
    """How the recording in `out` is not the one of `blocks`, as the end of a sentence."""
    files = sorted(out.glob("part-*.parquet")) if old is None else [out / part.file for part in old.parts]
    identities = [found for file in files if isinstance(found := _identity(file), dict)]
    if not identities:
        return "" if old is None else ", which is no recording of a task of the catalogue"
    asked = blocks[0].identity
    there, asked = _by_name(next((found for found in identities if found != asked), asked)), _by_name(asked)
    if there.get("least_return") is None and "least_return" in asked:
        there["least_return"] = "none (it was recorded before the task had one, and may hold episodes below it)"
    names, wanted = [file.name for file in files], [block.path.name for block in blocks]
    if old is not None:
        there["episodes"], asked["episodes"] = old.n_rows, sum(block.episodes for block in blocks)
    if old is None and not set(names) <= set(wanted):
        there["parts"], asked["parts"] = f"{names[0]} to {names[-1]}", f"{wanted[0]} to {wanted[-1]}"
    elif old is not None and there["episodes"] == asked["episodes"]:
        there["episodes of a part"], asked["episodes of a part"] = old.parts[0].rows, blocks[0].episodes
    differing = [name for name in {**asked, **there} if there.get(name) != asked.get(name)]
    listed = [f"{name}: there {there.get(name, 'none')}, asked for {asked.get(name, 'none')}" for name in differing]
    return f", which is not what is asked for ({'; '.join(listed)})" if listed else ""


def _by_name(identity: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON
    """What all parts of a recording share, with each package's version by its own name."""
    versions = identity.get("versions")
    rest = {name: value for name, value in identity.items() if name != "versions"}
    return {**rest, **(versions if isinstance(versions, dict) else {})}
