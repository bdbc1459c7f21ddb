"""Recipes: how to train. What they train on is a plan (`plans.py`), or data of your own."""

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
    return TrainConfig(preset="lite-1m", patch_encoder="hog", patch_size=32, optimiser="muon", augment="recoloured")


def pictures() -> TrainConfig:
    """A small model for classes of pictures and questions about them.

    gato-lite data fetch easy-vqa
    gato-lite train pictures --data data/easy-vqa --out runs/vqa --minutes 15

    Clothes in grey want learned filters and stay as they are: `--data data/fashion-mnist --set patch_encoder=conv
    patch_size=32 augment=none`, chosen on 5,000 of the training pictures.
    """
    return TrainConfig(preset="lite-1m", patch_encoder="hog", patch_size=64, optimiser="muon", augment="moved")


def captions() -> TrainConfig:
    """The same with pictures that are varied at each draw, for names that have to hold in another drawing style.

    gato-lite data fetch emoji-captions
    gato-lite data text-model data/emoji-captions --pieces 4096 --out names.model
    gato-lite train captions --data data/emoji-captions --text-model names.model --out runs/emoji --minutes 50

    Pieces of the names' own are half as many a name as the shipped ones, and are learnt sooner. Two more
    drawing styles: `pip install 'gato_lite[svg]' && gato-lite data fetch emoji-openmoji`, then `--data
    data/emoji-captions=0.6 data/emoji-openmoji=0.4`.
    """
    return TrainConfig(
        preset="lite-1m",
        patch_encoder="hog",
        patch_size=64,
        optimiser="muon",
        augment="recoloured",
        weight_decay=0.1,
    )


def words() -> TrainConfig:
    """A small model for translation, text and dialogue.

    gato-lite data fetch en-it
    gato-lite data text-model data/en-it --pieces 8192 --out en-it.model
    gato-lite train words --data data/en-it --text-model en-it.model --out runs/en-it --minutes 30

    The shipped text pieces are English; pieces of both languages need little more than half as many tokens. For many
    hours take `--preset lite-5m`. A tenth of an answer's pieces are misread while it is learnt: fewer answers then run
    into one piece again and again.
    """
    return TrainConfig(preset="lite-2m", optimiser="muon", tokens_per_step=4096, piece_noise=0.1)


def tune() -> TrainConfig:
    """Gentler rates, for a new task on top of what a run has learnt.

    gato-lite train tune --init generalist --data my-data --out runs/tuned --minutes 2

    Add some of the old data (`--data my-data data/generalist=0.01`) where the old tasks are not to be forgotten.
    """
    return TrainConfig(
        optimiser="muon",
        learning_rate=1e-3,
        matrix_learning_rate=3e-3,
        warmup_steps=20,
        augment="recoloured",
        tokens_per_step=2048,
    )


def babyai() -> TrainConfig:
    """All 89 levels of BabyAI, whose experts it records.

    gato-lite train babyai --out runs/babyai --minutes 60
    """
    return TrainConfig(preset="lite-1m", optimiser="muon")


def metaworld() -> TrainConfig:
    """All 50 tasks of Meta-World, whose experts it records and asks.

    gato-lite train metaworld --out runs/metaworld --minutes 60
    """
    return TrainConfig(preset="lite-1m", optimiser="muon", tokens_per_step=4096)


def control() -> TrainConfig:
    """Classic control, toy text, Box2D and MuJoCo, whose experts it records and asks.

    gato-lite train control --out runs/control --minutes 20
    """
    return TrainConfig(preset="lite-1m", optimiser="muon")


def generalist() -> TrainConfig:
    """Every task that has an expert, emoji names and English text with one set of weights.

    gato-lite train generalist --out runs/generalist --minutes 60
    """
    return TrainConfig(
        preset="lite-1m",
        patch_encoder="hog",
        patch_size=32,
        optimiser="muon",
        augment="recoloured",
        tokens_per_step=4096,
        warmup_steps=200,
        evaluate_every_s=3600.0,
    )


RECIPES: Final[dict[str, Callable[[], TrainConfig]]] = {
    "quick": quick,
    "demo": demo,
    "pictures": pictures,
    "captions": captions,
    "words": words,
    "tune": tune,
    "babyai": babyai,
    "metaworld": metaworld,
    "control": control,
    "generalist": generalist,
}


def find_recipe(name: str) -> TrainConfig:
    """The configuration of a recipe.

    Raises:
        ValueError: no recipe has that name; the message lists the closest.
    """
    if name not in RECIPES:
        raise ValueError(unknown_name("recipe", name, RECIPES))
    return RECIPES[name]()
