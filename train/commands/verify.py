"""`gato-lite verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from tyro.conf import Positional, arg

from gato_lite.train.console import print_error, print_json

EXAMPLE: Final = "gato-lite verify emoji"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Check every hash, schema and value of a run, a checkpoint, a dataset or weights. Nothing is repaired.

    The exit code is 1 if there is a problem.
    """

    path: Positional[Annotated[str, arg(metavar="PATH")]]
    """A run, a checkpoint, a dataset, a folder of them, a .safetensors file; or by name what comes with the
    package: generalist, emoji or text."""
    json: bool = False
    """Write JSON."""


def run(options: Options) -> int:
    """Prints what was found; 1 if something is wrong."""
    from gato_lite.train.shelf import run_or_dataset_folder
    from gato_lite.train.verify import verify

    found = verify(run_or_dataset_folder(options.path))
    if options.json:
        print_json(found.to_json())
    elif found.ok:
        print(f"{found.path}: a whole {found.kind}; checked {_some(found.checked)}")
    else:
        print(*found.problems, sep="\n")
    if not found.ok:
        n_problems = len(found.problems)
        print_error(f"{found.path}: {n_problems} problem{'s' * (n_problems > 1)} in this {found.kind}")
    return int(not found.ok)


def _some(names: Sequence[str], most: int = 10) -> str:
    """Names, those in the middle of a long list counted only; the JSON has all."""
    if len(names) <= most:
        return ", ".join(names)
    return ", ".join([*names[: most - 2], f"{len(names) - most + 1} more", names[-1]])
