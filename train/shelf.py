"""Which folders a name means: a dataset, a folder of datasets, or a dataset or run that comes with the package."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from gato_lite.names import unknown_name
from gato_lite.shelf import named_run

SHIPPED: Final = ("emoji", "text")
"""Datasets that come with the package."""
INFO_FILE: Final = "dataset.json"


def run_or_dataset_folder(name: str) -> Path:
    """The folder `name`, or where there is none that of the published run or the shipped dataset of this name.

    Raises:
        FileNotFoundError: there is none of them.
    """
    folder = named_run(name)
    return folder if folder.exists() else dataset_folder(name)


def dataset_folder(name: str) -> Path:
    """The folder `name`, or that of the shipped dataset of this name where there is no such folder.

    Raises:
        FileNotFoundError: there is neither.
    """
    folder = Path(name)
    if folder.exists():
        return folder
    if name in SHIPPED:
        return shipped_folder(name)
    if folder.name != name:
        raise FileNotFoundError(f"{name}: expected a folder, found nothing")
    raise FileNotFoundError(f"{unknown_name('dataset', name, SHIPPED)}; or give the folder of a dataset")


def shipped_folder(name: str) -> Path:
    """Where a dataset that comes with the package is."""
    return Path(str(resources.files("gato_lite") / "data" / name)).resolve()


def shipped_name(folder: str) -> str | None:
    """The name of the shipped dataset that `folder` is, or is the name of; None where it is another one."""
    there = Path(folder)
    if not there.exists():
        return folder if folder in SHIPPED else None
    return next((name for name in SHIPPED if shipped_folder(name) == there.resolve()), None)


def dataset_folders(name: str) -> list[Path]:
    """The datasets at `name`: one, or all those in a folder of datasets such as `gato-lite record` makes.

    Raises:
        FileNotFoundError: there is no dataset.
    """
    folder = dataset_folder(name)
    if not folder.is_dir():
        raise FileNotFoundError(f"{name}: expected the folder of a dataset, found a file")
    if (folder / INFO_FILE).is_file():
        return [folder]
    found = sorted(path.parent for path in (*folder.glob(f"*/{INFO_FILE}"), *folder.glob(f"*/*/{INFO_FILE}")))
    if not found:
        what = "a recording that was not finished" if any(folder.glob("part-*")) else "none"
        raise FileNotFoundError(f"{name}: expected a dataset, or a folder of datasets ({INFO_FILE}), found {what}")
    return found


def weighted(values: tuple[str, ...], others: Sequence[tuple[str, float]] = ()) -> list[tuple[str, float]]:
    """`DIR` and `DIR=WEIGHT` as (folder, weight); every dataset in a folder of datasets gets that weight.

    Args:
        values: `DIR` or `DIR=WEIGHT` each.
        others: what they come after.

    A shipped dataset that is named again gets the later weight, and is left out where that is 0.

    Raises:
        ValueError: a weight is no positive number, or a dataset is to be left out that is not there.
        FileNotFoundError: there is no dataset.
    """
    found = list(others)
    for value in values:
        name, equals, text = value.rpartition("=")
        if not equals or Path(value).exists():  # a folder's own name may hold "="
            name, text = value, "1"
        try:
            weight = float(text)
        except ValueError:
            weight = -1.0
        shipped = shipped_name(name)
        again = shipped is not None and any(shipped_name(folder) == shipped for folder, _ in found)
        if weight == 0 and not again:
            own = ", ".join(folder for folder, _ in found if shipped_name(folder)) or "there is none"
            raise ValueError(f"{value}: expected a shipped dataset that is trained on to be left out ({own})")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{value}: expected DIR=WEIGHT with a positive number, got weight '{text}'")
        if again:
            found = [(folder, weight if shipped_name(folder) == shipped else old) for folder, old in found]
            continue
        found += [(str(folder), weight) for folder in dataset_folders(name)]
    return [(folder, weight) for folder, weight in found if weight]
