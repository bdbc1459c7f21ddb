"""Demonstrations to prompt with: the ends of recorded episodes of the same task.

The episode of environment seed s is prompted with the (s mod n)-th of a task's n demonstrations, so that neither the
number of processes nor the other tasks have a say in which.

Source: Reed et al. 2022, sections 2.2 (the end of an episode as a prompt) and 2.5 (a demonstration before acting).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from gato_lite.envs.dataset import Dataset, Episodes
from gato_lite.run import read_run_config
from gato_lite.slots import Demonstration
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.shelf import SHIPPED, dataset_folders
from gato_lite.train.wording import few

MOST: Final = 32
"""Demonstrations of a task."""

Prompts = Mapping[str, Sequence[Demonstration]]
"""Demonstrations by task."""


def prompt_folders(run: Path, tasks: Iterable[str], given: Sequence[Path] = ()) -> dict[str, Path]:
    """The dataset of each task that demonstrations come from.

    Args:
        run: folder of the run.
        tasks: names.
        given: datasets or folders of datasets; none takes those that the run was trained on and that are still where
            its configuration names them.

    Raises:
        FileNotFoundError: a given folder holds no dataset.
        ValueError: a task has no dataset of experts' episodes there.
    """
    names = [str(path) for path in given] or [
        name for name, _ in read_run_config(run).training.get("data", []) if name not in SHIPPED
    ]
    folders: list[Path] = []
    for name in names:
        try:
            folders += dataset_folders(name)
        except FileNotFoundError:
            if given:
                raise
    found: dict[str, Path] = {}
    wanted = list(tasks)
    for folder in folders:
        dataset = Dataset.open(folder)
        task = dataset.info.task
        # Labels are what an expert would have done: the actions are then another agent's.
        if task in wanted and task not in found and dataset.n_parts and dataset.read_part(0).labels is None:
            found[task] = folder
    missing = [name for name in wanted if name not in found]
    if missing:
        where = few([str(folder) for folder in folders] or names) or "the run's data"
        raise ValueError(
            f"prompts need recorded episodes of every task, expected them in {where}, "
            f"found none of {few(missing)}; give their datasets with --prompts, or name other --tasks; "
            f"`gato-lite record {missing[0]} --out data` makes one, for --prompts data"
        )
    return {name: found[name] for name in wanted}


def read_prompts(folders: Mapping[str, Path], vocabulary: Vocabulary, n_timestep: int) -> Prompts:
    """The first demonstrations in each dataset: the last timesteps of episodes that reached their goal, if any did.

    Args:
        folders: dataset of each task.
        vocabulary: of the model.
        n_timestep: as much of an episode's end as a prompt may use.
    """
    return {task: _demonstrations(Dataset.open(folder), vocabulary, n_timestep) for task, folder in folders.items()}


def _demonstrations(dataset: Dataset, vocabulary: Vocabulary, n_timestep: int) -> list[Demonstration]:
    seen, done = (
        SpaceTokenizer(dataset.observation_space, vocabulary),
        SpaceTokenizer(dataset.action_space, vocabulary, action=True),
    )
    episodes = dataset.read_part(0)
    chosen = np.arange(len(episodes))
    if episodes.success is not None and episodes.success.any():
        chosen = np.flatnonzero(episodes.success)
    return [_demonstration(episodes, int(index), seen, done, n_timestep) for index in chosen[:MOST]]


def _demonstration(
    episodes: Episodes, index: int, seen: SpaceTokenizer, done: SpaceTokenizer, n_timestep: int
) -> Demonstration:
    stop = int(episodes.lengths[: index + 1].sum())
    start = max(stop - int(episodes.lengths[index]), stop - n_timestep)
    return [
        (
            # An episode has an observation more than it has timesteps, so there are `index` more before this one's.
            seen.unflatten({path: column[step + index] for path, column in episodes.observations.items()}),
            done.unflatten({path: column[step] for path, column in episodes.actions.items()}),
        )
        for step in range(start, stop)
    ]
