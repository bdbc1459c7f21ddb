"""The runs that come with the package, by name: `generalist` is `gato_lite/data/runs/generalist`.

Such a run is the folder of any other (`gato_lite.run`) with one checkpoint, in which there is nothing of the optimizer:
it can be loaded and be begun from, not resumed. `python -m gato_lite.train.ship_run` makes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

RUNS: Final = Path(__file__).parent / "data" / "runs"
"""Where they are, a folder each."""
GENERALIST: Final = "generalist"
"""The run that is taken where none is named."""


def named_run(path: Path | str) -> Path:
    """The folder `path`, or where there is none the published run of that name.

    Raises:
        FileNotFoundError: it is the name of a run that this installation came without.
    """
    folder = Path(path)
    if folder.exists() or len(folder.parts) != 1:
        return folder
    published = RUNS / folder
    if published.is_dir():
        return published
    if folder.name == GENERALIST:
        raise FileNotFoundError(
            f"this installation came without the weights of '{GENERALIST}', expected them in {published}; train your "
            f"own with `gato-lite train {GENERALIST} --out runs/{GENERALIST}`, and name that folder"
        )
    return folder
