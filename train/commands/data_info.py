"""`gato-lite data info`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from tyro.conf import Positional, arg

from gato_lite.train.console import print_json, print_table

if TYPE_CHECKING:
    from gato_lite.envs.dataset import Dataset
    from gato_lite.fitting import PictureFit

EXAMPLE: Final = "gato-lite data info emoji"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Say what a dataset holds, or each dataset in a folder: kind, size, spaces, scores, licence."""

    path: Positional[Annotated[str, arg(metavar="DIR")]]
    """Folder of a dataset or of datasets; or a shipped dataset, emoji or text."""
    json: bool = False
    """Write what is in dataset.json; of several datasets, a list."""


def run(options: Options) -> None:
    """Prints a few lines for one dataset, a table for several."""
    from gato_lite.envs.dataset import Dataset
    from gato_lite.train.shelf import dataset_folders

    datasets = [Dataset.open(folder) for folder in dataset_folders(options.path)]
    if options.json:
        print_json(datasets[0].info if len(datasets) == 1 else [dataset.info for dataset in datasets])
    elif len(datasets) == 1:
        lines = [(name, value) for name, value in _lines(datasets[0]) if value]
        width = max(len(name) for name, _ in lines)
        print(*(f"{name:{width}}  {value}" for name, value in lines), sep="\n")
    else:
        rows = [
            [str(d.path), d.info.task, d.info.kind, f"{d.info.n_rows:,}", f"{d.info.n_timesteps:,}", f"{_bytes(d):,}"]
            for d in datasets
        ]
        print_table(
            ["dataset", "task", "kind", "rows", "timesteps", "bytes"], rows, numbers=["rows", "timesteps", "bytes"]
        )


def _lines(dataset: Dataset) -> list[tuple[str, str]]:
    info = dataset.info
    control = info.kind == "control"
    size = f"{info.n_rows:,} {'episodes' if control else 'documents'}"
    if control:
        size += f", {info.n_timesteps:,} timesteps"
    lines = [
        ("dataset", str(dataset.path)),
        ("task" if control else "name", info.task),
        ("size", f"{size}, {_bytes(dataset):,} bytes in {dataset.n_parts} parts"),
    ]
    if control:
        lengths = dataset.lengths()
        lines += [
            (
                "lengths",
                f"{lengths.min()} to {lengths.max()}, {lengths.mean():.1f} in the mean" if len(lengths) else "",
            ),
            ("left out", f"{info.n_failed} failed, {info.n_skipped} with bad values"),
            ("observation", str(dataset.observation_space)),
            ("action", str(dataset.action_space)),
            ("instruction", info.instruction or ""),
            ("random", _score(info.reference and info.reference.random)),
            ("expert", _score(info.reference and info.reference.expert)),
        ]
    else:
        documents = dataset.read_documents()
        pictures = sum(any(turn.image is not None for turn in document.turns) for document in documents)
        held_out = sum(document.split == "test" for document in documents)
        groups = sorted({document.group for document in documents if document.group})
        lines += [
            ("documents", f"{pictures:,} with a picture; {held_out:,} held out"),
            ("ability", info.ability or ""),
            ("pictures", _pictures(info.pictures)),
            ("groups", ", ".join(groups[:8]) + (f", … ({len(groups)} in all)" if len(groups) > 8 else "")),
        ]
    made_by = ", ".join(f"{name} {version}" for name, version in info.generator.items())
    return [*lines, ("made by", made_by), ("licence", info.licence or ""), ("attribution", info.attribution or "")]


def _pictures(how: PictureFit | None) -> str:
    if how is None:
        return ""
    return f"at their own aspect, at most {how.side}² pixels" if how.keep_aspect else f"{how.side} × {how.side} pixels"


def _bytes(dataset: Dataset) -> int:
    return sum(part.size for part in dataset.info.parts)


def _score(score: Any) -> str:  # Any: a Score or None
    return "" if score is None else f"{score.mean:.2f} ± {score.std:.2f} over {score.episodes} episodes"
