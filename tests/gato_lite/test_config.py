from __future__ import annotations

import re
from dataclasses import FrozenInstanceError

import pytest

from gato_lite.config import LIMITS, PRESETS, GatoConfig, TokenSpec
from gato_lite.sequence import TEXT_PLACES
from gato_lite.tokenizers.vocabulary import Vocabulary

SMALL = {"n_layer": 1, "n_head": 2, "d_model": 8, "d_ff": 16}


@pytest.mark.parametrize(
    "name, n_layer, n_head, d_model, d_ff, d_head",
    [
        ("gato-79m", 8, 24, 768, 3072, 32),
        ("gato-364m", 12, 12, 1536, 6144, 128),
        ("gato-1.18b", 24, 16, 2048, 8192, 128),
    ],
)
def test_presets_are_the_papers(name: str, n_layer: int, n_head: int, d_model: int, d_ff: int, d_head: int) -> None:
    """Reed et al. 2022, Table 5."""
    config = GatoConfig.preset(name)
    assert (config.n_layer, config.n_head, config.d_model) == (n_layer, n_head, d_model)
    assert (config.d_ff, config.d_head) == (d_ff, d_head)
    assert (config.patch_encoder, config.context_length) == ("resnet", 1024)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_takes_the_shipped_vocabulary(name: str) -> None:
    config = GatoConfig.preset(name)
    assert config.vocab_size == Vocabulary.shipped().size == 6148
    assert name.startswith("gato") or config.d_head == 64
    assert (config.token_shift, config.head_norm, config.n_text_local) == (True, True, 256)


def test_no_more_places_of_texts_than_can_be_told_apart() -> None:
    assert LIMITS["n_text_local"] == (0, TEXT_PLACES)


def test_a_preset_with_changes() -> None:
    config = GatoConfig.preset("lite-1m", context_length=99)
    assert config.context_length == 99
    assert PRESETS["lite-1m"].context_length == 1024


def test_an_unknown_preset_names_the_closest() -> None:
    with pytest.raises(ValueError, match=re.escape("Unknown preset 'gato-364M'. Did you mean gato-364m")):
        GatoConfig.preset("gato-364M")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"d_model": 9}, "d_model must be divisible by n_head, got d_model=9, n_head=2"),
        ({"d_model": 6}, "the head size must be even for rotary positions, got d_model/n_head=3"),
        ({"d_model": 10**9}, "d_model must be at most 65,536, got d_model=1000000000"),
        ({"d_ff": -4}, "d_ff must be at least 1, got d_ff=-4"),
        ({"n_layer": 0}, "n_layer must be at least 1, got n_layer=0"),
        ({"context_length": 0}, "context_length must be at least 1, got context_length=0"),
        ({"grid_size": -1}, "grid_size must be at least 0, got grid_size=-1"),
        ({"n_local": 0}, "n_local must be at least 1, got n_local=0"),
        ({"n_text_local": 16_385}, "n_text_local must be at most 16,384, got n_text_local=16385"),
    ],
)
def test_shapes_that_cannot_be(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        GatoConfig(**{**SMALL, **changes})  # type: ignore[arg-type]


def test_token_specs_are_checked() -> None:
    assert TokenSpec() == TokenSpec()
    with pytest.raises(ValueError, match="patch_size must be at least 1 pixel, got patch_size=0"):
        TokenSpec(patch_size=0)
    with pytest.raises(ValueError, match=re.escape("pixel_high must be in 1..255 for every channel, got (10, 256)")):
        TokenSpec(pixel_high=(10, 256))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"kinds": {}}, "kinds must be tuple[tuple[str, LeafKind], ...], got kinds={}: Expected `array`, got `object`"),
        ({"kinds": (("a", "bin"),)}, "got kinds=(('a', 'bin'),): Invalid enum value 'bin' - at `$[0][1]`"),
        ({"leaves": "image"}, "leaves must be tuple[str, ...] | None, got leaves='image': "),
        ({"once": (1,)}, "once must be tuple[str, ...], got once=(1,): "),
        ({"patch_size": 8.5}, "patch_size must be int, got patch_size=8.5: "),
        ({"pixel_high": ("10",)}, "pixel_high must be tuple[int, ...] | None, got pixel_high=('10',): "),
        ({"history": "4"}, "history must be int | None, got history='4': "),
        ({"separator": 1}, "separator must be bool, got separator=1: "),
    ],
)
def test_a_token_spec_of_another_type_is_refused_when_it_is_made(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TokenSpec(**wrong)  # type: ignore[arg-type]


def test_configurations_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        GatoConfig.preset("lite-1m").d_model = 3  # type: ignore[misc]


@pytest.mark.parametrize("n_kv_head", [0, 3, 4])
def test_heads_of_keys_divide_those_of_queries(n_kv_head: int) -> None:
    with pytest.raises(ValueError, match=f"n_kv_head must divide n_head, got n_kv_head={n_kv_head}, n_head=2"):
        GatoConfig(**SMALL, n_kv_head=n_kv_head)
    assert GatoConfig(**SMALL).n_key_head == 2
    assert GatoConfig(**SMALL, n_kv_head=1).n_key_head == 1
