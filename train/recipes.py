"""Recipes: functions that return how to train, and what one may expect of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gato_lite.names import unknown_name
from gato_lite.train.settings import TrainConfig


def quick() -> TrainConfig:
    """A small model for data of one's own.

    gato-lite train quick --data my-data --out runs/mine --minutes 2

    Two minutes on two cores learn CartPole from 100 expert episodes.
    """
    return TrainConfig(preset="lite-1m")


def demo() -> TrainConfig:
    """What `gato-lite demo` trains: 21 control tasks, emoji names and English text with one set of weights."""
    return TrainConfig(preset="lite-1m", patch_encoder="conv", patch_size=32, optimiser="muon", augment=True)


def pictures() -> TrainConfig:
    """A small model for classes of pictures and questions about them.

    gato-lite data fetch easy-vqa
    gato-lite train pictures --data data/easy-vqa --out runs/vqa --minutes 15
    """
    return TrainConfig(preset="lite-1m", patch_encoder="conv", patch_size=32, optimiser="muon")


def captions() -> TrainConfig:
    """The same with pictures that are varied at each draw, for names that have to hold in another drawing style.

    gato-lite data fetch emoji-captions
    gato-lite train captions --data data/emoji-captions --out runs/emoji --minutes 30
    """
    return TrainConfig(preset="lite-1m", patch_encoder="conv", patch_size=32, optimiser="muon", augment=True)


def words() -> TrainConfig:
    """A larger model for translation, text and dialogue.

    gato-lite data fetch en-it
    gato-lite train words --data data/en-it --out runs/en-it --minutes 30
    """
    return TrainConfig(preset="lite-5m", optimiser="muon")


RECIPES: Final[dict[str, Callable[[], TrainConfig]]] = {
    "quick": quick,
    "demo": demo,
    "pictures": pictures,
    "captions": captions,
    "words": words,
}


def find_recipe(name: str) -> TrainConfig:
    """The configuration of a recipe.

    Raises:
        ValueError: no recipe has that name; the message lists the closest.
    """
    if name not in RECIPES:
        raise ValueError(unknown_name("recipe", name, RECIPES))
    return RECIPES[name]()
