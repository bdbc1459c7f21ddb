from __future__ import annotations

import re
from typing import Any

import pytest

from gato_lite.config import PRESETS
from gato_lite.train.recipes import RECIPES, find_recipe
from gato_lite.train.settings import TrainConfig, with_settings


def test_a_recipe_by_name() -> None:
    assert find_recipe("quick") == RECIPES["quick"]()
    with pytest.raises(ValueError, match=re.escape("Unknown recipe 'quik'. Did you mean quick?")):
        find_recipe("quik")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_makes_a_model(name: str) -> None:
    config = find_recipe(name)
    shape = config.model(6148)
    assert shape.context_length == config.context_length
    assert shape.n_layer == PRESETS[config.preset].n_layer
    assert RECIPES[name].__doc__


def test_parts_of_a_preset_are_replaced() -> None:
    shape = TrainConfig(preset="lite-5m", patch_encoder="linear", patch_size=20, context_length=99).model(7000)
    assert (shape.patch_encoder, shape.patch_size, shape.context_length, shape.vocab_size) == ("linear", 20, 99, 7000)
    assert shape.d_model == PRESETS["lite-5m"].d_model


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"preset": "lite-3m"}, "Unknown preset 'lite-3m'. Did you mean lite-5m, lite-2m, lite-1m"),
        ({"context_length": 0}, "context_length must be at least 1, got context_length=0"),
        ({"tokens_per_step": -4}, "tokens_per_step must be at least 1, got tokens_per_step=-4"),
        ({"log_every": 0}, "log_every must be at least 1, got log_every=0"),
        ({"seed": -1}, "seed must be at least 0, got seed=-1"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number, got learning_rate=0.0"),
        ({"matrix_learning_rate": float("nan")}, "matrix_learning_rate must be a positive number"),
        ({"gradient_clip": -1.0}, "gradient_clip must be a positive number, got gradient_clip=-1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got weight_decay=-0.1"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainConfig(**changes)


def test_settings_said_anew() -> None:
    given = ["patch_encoder=tnt", "patch_size=16", "learning_rate=1e-3", "compile=false", "n_example=2", "loss_on=text"]
    changed = with_settings(TrainConfig(checkpoint_activations=True), [*given, "checkpoint_activations=null"])
    assert changed == TrainConfig(
        patch_encoder="tnt", patch_size=16, learning_rate=1e-3, compile=False, n_example=2, loss_on="text"
    )
    assert with_settings(changed, []) == changed


@pytest.mark.parametrize(
    "given, message",
    [
        ("patch_encoder", "a setting must be NAME=VALUE, got 'patch_encoder'"),
        ("patch_encodr=tnt", "Unknown setting 'patch_encodr'. Did you mean patch_encoder"),
        ("patch_encoder=cnn", "setting patch_encoder=cnn: expected Optional[Literal['"),
        ("patch_size=large", "setting patch_size=large: expected int | None: Expected `int | null`, got `str`"),
        ("context_length=0", "context_length must be at least 1, got context_length=0"),
    ],
)
def test_settings_that_do_not_fit(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        with_settings(TrainConfig(), [given])
