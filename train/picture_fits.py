"""How a dataset's, several datasets' and a run's pictures were fitted to a size, which is how a prompt's are.

Decisions:

- A dataset says it. Where it does not, its first picture does: a square one was fitted into a square of its side,
  any other at its own aspect.
- Of several datasets that differ all fits count, that with the largest weight in the mixture first: a picture that
  one of them leaves as it is stays so, and any other is fitted as most were that the model has seen.
- A run remembers it in its `config.json`; where none of its datasets has pictures, from the run that it began with.
  `load` takes it from there. An older run's datasets are looked at again, those that are still there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from gato_lite.envs.dataset import Dataset
from gato_lite.fitting import PictureFit
from gato_lite.run import PICTURES_KEY, read_run_config
from gato_lite.train.pictures import decode_picture
from gato_lite.train.shelf import dataset_folder


def dataset_fit(dataset: Dataset) -> PictureFit | None:
    """How a dataset's pictures were fitted; None for episodes, and where there are none."""
    if dataset.info.kind != "documents" or dataset.info.pictures is not None:
        return dataset.info.pictures
    image = dataset.first_image()
    if image is None:
        return None
    height, width = decode_picture(image).shape[:2]
    if height == width:
        return PictureFit(side=height)
    return PictureFit(side=math.isqrt(height * width - 1) + 1, keep_aspect=True)


def mixture_fits(data: Sequence[tuple[Dataset, float]]) -> tuple[PictureFit, ...]:
    """The fits by their weights, the largest first, of equal ones as they come; none where no dataset has pictures."""
    weights: dict[PictureFit, float] = {}
    for dataset, weight in data:
        if (how := dataset_fit(dataset)) is not None:
            weights[how] = weights.get(how, 0.0) + weight
    return tuple(sorted(weights, key=weights.__getitem__, reverse=True))


def run_fits(run: Path) -> tuple[PictureFit, ...]:
    """How a run's pictures were fitted; none where it was trained on none, or where nothing says it any more.

    Raises:
        FileNotFoundError: there is no run.
        RunError: its configuration is damaged.
    """
    config = read_run_config(run)
    training = config.training
    if PICTURES_KEY in training:
        return config.pictures
    found: list[tuple[Dataset, float]] = []
    for name, weight in training.get("data", []):
        try:
            found.append((Dataset.open(dataset_folder(name)), weight))
        except (FileNotFoundError, ValueError):
            continue
    return mixture_fits(found)
