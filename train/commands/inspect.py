"""`gato-lite inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from tyro.conf import Positional, arg

EXAMPLE: Final = "gato-lite inspect emoji"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Show the stream of one timestep or document, token by token, as the model reads it.

    Of a run, a timestep of each task that it was trained on.
    """

    path: Positional[Annotated[str, arg(metavar="RUN|DATASET")]]
    """Folder of a run, of a dataset or of datasets; or by name what comes with the package: generalist, emoji or
    text."""
    tasks: Annotated[tuple[str, ...], arg(metavar="TASK …", help_behavior_hint="")] = ()
    """Names of a run's tasks; none means all of them."""
    row: Annotated[int | None, arg(metavar="N")] = None
    """Of a dataset, the episode or document of this number, as `metrics.jsonl` names them; None takes the first."""
    json: bool = False
    """Write JSON, with patches as PNG in base64."""


def run(options: Options) -> None:
    """Draws the streams."""
    from gato_lite.run import CONFIG_FILE, find_run
    from gato_lite.train.console import answer_only
    from gato_lite.train.inspect import inspect_path
    from gato_lite.train.shelf import dataset_folders, run_or_dataset_folder
    from gato_lite.train.token_rows import render, to_json

    folder = find_run(run_or_dataset_folder(options.path))
    is_run = (folder / CONFIG_FILE).is_file()
    if options.tasks and not is_run:
        raise ValueError(f"{options.path}: --tasks names tasks of a run, but this is none")
    folders = [folder] if is_run else dataset_folders(options.path)
    if options.row is not None and (is_run or len(folders) > 1):
        raise ValueError(f"{options.path}: --row is a row of one dataset, but this is none")
    with answer_only():
        streams = [s for path in folders for s in inspect_path(path, tasks=options.tasks or None, row=options.row)]
    if not streams:
        raise ValueError(f"{options.path}: a run without environments; inspect its data, such as emoji or text")
    if options.json:
        print(to_json(streams))
        return
    from rich.console import Console

    console = Console()
    for stream in streams:
        console.print(render(stream))
