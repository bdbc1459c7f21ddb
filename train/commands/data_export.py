"""`gato-lite data export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from tyro.conf import Positional, arg

from gato_lite.train.console import answer_only

EXAMPLE: Final = """\
gato-lite record classic/CartPole --episodes 10 --out data
gato-lite data export data/classic-CartPole --to minari --name mine/cartpole-v0"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a dataset of episodes in another format, among the datasets of the library that reads it."""

    path: Positional[Annotated[str, arg(metavar="DIR")]]
    """Folder of the dataset."""
    to: Literal["minari"] = "minari"
    """The format."""
    name: Annotated[str | None, arg(metavar="NAME")] = None
    """Name of the new dataset, such as mine/cartpole-v0; None makes one of the task's."""
    overwrite: bool = False
    """Replace the dataset of that name."""


def run(options: Options) -> None:
    """Exports."""
    from gato_lite.envs.minari import export_minari
    from gato_lite.train.shelf import dataset_folder

    with answer_only():
        name = export_minari(dataset_folder(options.path), options.name, overwrite=options.overwrite)
    print(f"{name}: written; minari.load_dataset({name!r}) opens it")
