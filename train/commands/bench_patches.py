"""`gato-lite bench patches`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from tyro.conf import Positional, arg

from gato_lite.train.console import print_table, refuse_to_overwrite, share_bar, to_json, write_whole

if TYPE_CHECKING:
    from gato_lite.train.bench.patches import EncoderScore

EXAMPLE: Final = "gato-lite bench patches emoji --encoders hog conv@16 --minutes 1"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train the same model with each patch encoder for as long, and score it on held-out pictures.

    The models are not kept.
    """

    data: Positional[Annotated[str, arg(metavar="DIR")]]
    """Dataset of pictures with names, classes or questions; emoji comes with the package."""
    encoders: Annotated[tuple[str, ...], arg(metavar="NAME[@SIZE] …")] = (
        "hog",
        "conv",
        "mlp",
        "resnet",
        "linear",
        "tnt",
    )
    """Encoders, each with the side of its patches in pixels: 64 for hog, 32 for conv and mlp, 16 for the others."""
    recipe: str = "captions"
    """How the model is trained otherwise."""
    minutes: Annotated[float, arg(metavar="M")] = 3.0
    """Training time of each: CPU time, all threads together; on a GPU by the clock, so that nothing else should run."""
    documents: int = 1000
    """Most held-out documents that are scored."""
    seed: int = 0
    """Of weights, batches and the choice of documents."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write the figures there too."""
    overwrite: bool = False
    """Replace FILE."""


def run(options: Options) -> None:
    """Prints a table, the best first."""
    import torch

    from gato_lite.train.bench.measure import this_machine
    from gato_lite.train.bench.patches import check, find_encoder, score_encoder

    chosen = [find_encoder(text) for text in options.encoders]
    check(chosen, options.data, recipe=options.recipe, documents=options.documents)
    refuse_to_overwrite([options.json], overwrite=options.overwrite)
    found: list[EncoderScore] = []
    for encoder, patch_size in chosen:
        with tempfile.TemporaryDirectory() as folder, share_bar(f"{encoder}, {patch_size} pixels") as show:
            found.append(
                score_encoder(
                    encoder,
                    patch_size,
                    options.data,
                    Path(folder) / "run",
                    recipe=options.recipe,
                    minutes=options.minutes,
                    documents=options.documents,
                    seed=options.seed,
                    on_progress=lambda now: now.show(show),
                )
            )
    print_scores(found)
    if options.json is not None:
        machine = this_machine(torch.device("cpu"))
        how = {"data": options.data, "recipe": options.recipe, "minutes": options.minutes, "seed": options.seed}
        report = {"command": "gato-lite bench patches", **how, "machine": machine, "results": found}
        write_whole(options.json, to_json(report) + "\n")


def print_scores(found: list[EncoderScore]) -> None:
    """A row for each encoder, the best first."""
    rows = [
        [
            score.encoder,
            str(score.patch_size),
            f"{score.n_parameters:,}",
            f"{score.steps:,}",
            f"{score.loss:.3f}",
            f"{score.mean:.3f}",
            "" if score.low is None or score.high is None else f"{score.low:.3f}–{score.high:.3f}",
        ]
        for score in sorted(found, key=lambda score: -score.mean)
    ]
    header = ["encoder", "patch", "parameters", "steps", "loss", found[0].metric, "95 %"]
    print_table(header, rows, numbers=header[1:])
