"""`gato-lite prompt`."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from tyro.conf import Positional, arg

from gato_lite.train.console import print_json

EXAMPLE: Final = """\
gato-lite train quick --out runs/words --minutes 2
gato-lite prompt runs/words "The king said" --max-tokens 40 --temperature 0.8"""

SHIPPED_SIZE: Final = 32
"""Side in pixels of the shipped pictures."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Continue a text, or name a picture."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Folder of the run."""
    text: Positional[Annotated[str, arg(metavar="TEXT")]] = ""
    """What to continue; after a picture, the beginning of its caption."""
    image: Annotated[Path | None, arg(metavar="PNG")] = None
    """A picture to name."""
    max_tokens: int = 64
    """Most pieces to write."""
    temperature: float = 0.0
    """0 writes the likeliest piece each time; above 0 pieces are drawn."""
    top_p: float = 1.0
    """Draw from the fewest pieces whose probabilities sum to this."""
    seed: int = 0
    """Of the draws."""
    image_size: Annotated[int | None, arg(metavar="N")] = None
    """Side in pixels that the picture is fitted into; None takes the size of the pictures the run was trained on."""
    json: bool = False
    """Write JSON."""


def run(options: Options) -> None:
    """Writes the text as it comes, or all of it as JSON."""
    from gato_lite.generate import generate
    from gato_lite.run import load, run_folder
    from gato_lite.train.pictures import decode_picture, square

    options = replace(options, run=run_folder(options.run))
    gato = load(options.run)
    picture = None
    if options.image is not None:
        side = options.image_size if options.image_size is not None else _trained_size(options.run)
        largest = gato.config.patch_size * math.isqrt(gato.config.context_length - 1)
        if not 1 <= side <= largest:
            raise ValueError(f"--image-size must be in 1..{largest}, what the run's context holds, got {side}")
        picture = square(decode_picture(options.image), side)
    text = generate(
        gato,
        options.text,
        picture,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        on_text=None if options.json else _write,
    )
    if options.json:
        image = None if options.image is None else str(options.image)
        print_json({"prompt": options.text, "image": image, "text": text, "seed": options.seed})
    else:
        print()


def _trained_size(run: Path) -> int:
    """Side of the pictures that the run was trained on, where its data is still there; else of the shipped ones."""
    from gato_lite.envs.dataset import Dataset
    from gato_lite.run import read_run_config
    from gato_lite.train.pictures import decode_picture
    from gato_lite.train.shelf import dataset_folder

    for name, _ in read_run_config(run).training.get("data", []):
        try:
            dataset = Dataset.open(dataset_folder(name))
        except (FileNotFoundError, ValueError):
            continue
        documents = dataset.read_documents() if dataset.info.kind == "documents" else []
        image = next((document.image for document in documents if document.image is not None), None)
        if image is not None:
            height, width = decode_picture(image).shape[:2]
            return int(max(height, width))
    return SHIPPED_SIZE


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
