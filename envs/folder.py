"""Writing into a dataset folder so that nothing half-written is ever taken for whole.

Every file is written whole (`gato_lite.whole`). Writers hold the folder's lock.

A dataset that replaces another lies beside it in the same folder, its parts numbered from 500000 where the old ones are
numbered from 0 and the other way round. The one rename of `dataset.json` changes from the old to the new; a kill before
it leaves the old one whole, a kill after it the new one. What neither lists is removed by the next writer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from gato_lite.envs.format import INFO_FILE, PART_NAME, DatasetError, DatasetInfo, read_info
from gato_lite.lock import FolderLock
from gato_lite.whole import final_name, sync

OTHER_FIRST_PART: Final = 500_000
"""Number of the first part of a dataset that replaces one with parts from 0."""


def claim(
    out: Path,
    *,
    overwrite: bool,
    is_wanted: Callable[[Path], bool] = lambda _: False,
    differences: Callable[[], str] = lambda: "",
) -> int:
    """Make `out` a folder to write a new dataset into; a whole one in it stays until `write_info` replaces it.

    Args:
        out: The folder; it is made.
        overwrite: Whether a dataset in it may be replaced.
        is_wanted: Whether an unlisted part is one of the new dataset already, and stays.
        differences: Says how a dataset in it is not the one to be written, for the error.

    Returns:
        The number of the new dataset's first part.

    Raises:
        FileExistsError: it holds something already, and `overwrite` is off or what it holds is no dataset.
    """
    out.mkdir(parents=True, exist_ok=True)
    old = check_claim(out, overwrite=overwrite, differences=differences)
    if old is None:
        (out / INFO_FILE).unlink(missing_ok=True)  # first, so that what is left is never taken for whole
    sweep(out, is_wanted=is_wanted)
    return 0 if old is None else next_first_part(old)


def check_claim(out: Path, *, overwrite: bool, differences: Callable[[], str] = lambda: "") -> DatasetInfo | None:
    """The dataset in `out` that a new one would replace, None where there is no whole one; nothing is changed.

    Raises:
        FileExistsError: as `claim`.
    """
    present = [file for file in out.iterdir() if file.name != FolderLock.NAME] if out.exists() else []
    ours = [file for file in present if is_ours(file)]
    if len(ours) != len(present):
        other = next(file.name for file in present if not is_ours(file))
        raise FileExistsError(f"{out}: expected an empty folder or a dataset, found {other!r}; name another folder")
    old = _whole(out)
    if old is None and (out / INFO_FILE).exists() and not any(PART_NAME.fullmatch(file.name) for file in present):
        raise FileExistsError(
            f"{out}: expected an empty folder or a dataset, found another {INFO_FILE!r}; name another folder"
        )
    if present and not overwrite:
        raise FileExistsError(
            f"{out}: already holds a dataset, {_contents(old)}{differences()}; name another folder,"
            " or pass overwrite=True (--overwrite) to replace it"
        )
    return old


def _contents(old: DatasetInfo | None) -> str:
    """What a dataset is, so that one sees how it differs from what was to be written."""
    if old is None:
        return "which is unfinished, damaged or of a later version"
    row = "episode" if old.kind == "control" else "document"
    seed = "" if old.seed is None else f" from seed {old.seed}"
    made_with = ", ".join(f"{name} {version}" for name, version in sorted(old.generator.items()))
    rows = f"{old.n_rows:,} {row}{'' if old.n_rows == 1 else 's'} of {old.task}"
    return rows + seed + (f" ({made_with})" if made_with else "")


def next_first_part(old: DatasetInfo) -> int:
    """The number of the first part of a dataset that replaces `old`."""
    numbers = [part_number(part.file) for part in old.parts]
    return OTHER_FIRST_PART if any(number < OTHER_FIRST_PART for number in numbers) else 0


def part_number(name: str) -> int:
    """The number in a part's file name."""
    return int(name.removeprefix("part-").removesuffix(".parquet"))


def sweep(out: Path, *, is_wanted: Callable[[Path], bool] = lambda _: False) -> None:
    """Remove the parts that no `dataset.json` lists, and files that were not finished."""
    info = _whole(out)
    listed = set() if info is None else {part.file for part in info.parts}
    for file in out.iterdir():
        stale = is_ours(file) and file.name not in {INFO_FILE, FolderLock.NAME, *listed}
        if stale and not (PART_NAME.fullmatch(file.name) and is_wanted(file)):
            file.unlink(missing_ok=True)
    sync(out)


def _whole(out: Path) -> DatasetInfo | None:
    """What the folder says about itself; None where nothing whole does."""
    try:
        return read_info(out)
    except DatasetError:
        return None


def is_ours(file: Path) -> bool:
    """Whether `file` has a name that a dataset's files have."""
    name = final_name(file.name)
    return name in {INFO_FILE, FolderLock.NAME} or PART_NAME.fullmatch(name) is not None
