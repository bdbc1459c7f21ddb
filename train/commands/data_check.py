"""`gato-lite data check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from tyro.conf import Positional, arg

from gato_lite.train.console import print_error

EXAMPLE: Final = "gato-lite data check emoji"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Check every hash and every value of a dataset, or of each dataset in a folder. Nothing is repaired.

    The exit code is 1 if there is a problem.
    """

    path: Positional[Annotated[str, arg(metavar="DIR")]]
    """Folder of a dataset or of datasets; or a shipped dataset, emoji or text."""


def run(options: Options) -> int:
    """Prints every problem; 1 if there is one."""
    from gato_lite.envs.dataset import check
    from gato_lite.train.shelf import dataset_folders

    n_problems = 0
    folders = dataset_folders(options.path)
    for folder in folders:
        problems = check(folder)
        n_problems += len(problems)
        print(*(problems or [f"{folder}: whole"]), sep="\n")
    if n_problems:
        print_error(f"{options.path}: {n_problems} problem{'s' * (n_problems > 1)} in {len(folders)} checked")
    return int(n_problems > 0)
