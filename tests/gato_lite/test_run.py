from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import gato_lite
from gato_lite.checkpoint import save_checkpoint
from gato_lite.config import TokenSpec
from gato_lite.model import Gato
from gato_lite.run import (
    RunConfig,
    RunError,
    TaskFormat,
    find_format,
    load,
    read_run_config,
    read_vocabulary,
    task_format,
    weight_problems,
    write_run,
)
from gato_lite.tokenizers.text import TextTokenizer, train_text_model
from gato_lite.tokenizers.vocabulary import Vocabulary

CART = spaces.Box(-np.inf, np.inf, (4,))
GRID = spaces.Box(0, 255, (7, 7, 3), np.uint8)
FORMATS = (
    task_format("cart", CART, spaces.Discrete(2), TokenSpec(), "Balance the pole."),
    task_format("tilt", CART, spaces.Discrete(2), TokenSpec(), "Tilt the pole."),
    task_format("lake", spaces.Discrete(16), spaces.Discrete(4), TokenSpec(separator=True), None),
    task_format("grid", GRID, spaces.Discrete(7), TokenSpec(pixel_high=(9, 5, 3)), "Go."),
)


def write(run: Path, gato: Gato, *steps: int, **changes: Any) -> Path:
    config = RunConfig(model=gato.config, tasks=FORMATS, vocabulary=gato.vocabulary.fingerprint, training={"seed": 3})
    write_run(
        run, RunConfig(**{**{f: getattr(config, f) for f in config.__struct_fields__}, **changes}), gato.vocabulary
    )
    for step in steps:
        save_checkpoint(run, step, model=gato.state_dict(), optimizer={}, state={})
    return run


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def test_a_run_is_loaded_as_it_was_written(tmp_path: Path, gato: Gato) -> None:
    write(tmp_path, gato, 3, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoints",
        "config.json",
        "text.model",
        "vocabulary.json",
    ]
    loaded = gato_lite.load(tmp_path)
    assert loaded.config == gato.config
    assert loaded.formats == FORMATS
    assert loaded.vocabulary.fingerprint == gato.vocabulary.fingerprint
    assert not loaded.training
    for name, tensor in gato.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert read_run_config(tmp_path).training == {"seed": 3}
    assert torch.equal(load(str(tmp_path), step=3).embedding.tokens.weight, gato.embedding.tokens.weight)


def test_a_run_keeps_a_vocabulary_of_its_own(tmp_path: Path, make: Callable[..., Gato]) -> None:
    text = TextTokenizer(train_text_model(["go to the red ball", "open the blue door"] * 4, n_pieces=300))
    vocabulary = Vocabulary(text)
    gato = Gato(make(vocab_size=6148).config.__class__.preset("lite-1m", vocab_size=vocabulary.size), vocabulary)
    write(tmp_path, gato, 1)
    assert load(tmp_path).vocabulary.size == vocabulary.size == 300 + 2052


def test_no_run(tmp_path: Path) -> None:
    expected = (
        f"'{tmp_path}' holds no run: expected the file {tmp_path / 'config.json'}; train one with `gato-lite train`"
    )
    with pytest.raises(FileNotFoundError, match=re.escape(expected)):
        load(tmp_path)


def test_no_checkpoint(tmp_path: Path, gato: Gato) -> None:
    write(tmp_path, gato)
    with pytest.raises(FileNotFoundError, match="expected a run with a whole checkpoint"):
        load(tmp_path)
    write(tmp_path, gato, 5)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 4; there are those of steps 5"):
        load(tmp_path, step=4)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(format_version=2), "format version 2 needs gato-lite > 0.1.0, this is gato-lite 0.1.0"),
        (lambda c: c.update(format_version="x"), "not a run's configuration"),
        (lambda c: c["training"].update(data=None), "training.data: Expected `array`, got `null`"),
        (lambda c: c["training"].update(data=[["emoji"]]), "training.data: Expected `array` of length 2"),
        (lambda c: c["training"].update(data=[["emoji", "much"]]), "training.data: Expected `float`, got `str`"),
        (lambda c: c.update(surprise=1), "unknown field `surprise`"),
        (lambda c: c["model"].update(d_model=31), "d_model must be divisible by n_head, got d_model=31, n_head=2"),
        (lambda c: c["model"].pop("n_head"), "missing required field `n_head`"),
        (lambda c: c.pop("vocabulary"), "missing required field `vocabulary`"),
        (lambda c: c["tasks"][0]["spec"].update(patch_size=0), "patch_size must be at least 1 pixel"),
    ],
)
def test_a_configuration_that_is_damaged(
    tmp_path: Path, gato: Gato, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    write(tmp_path, gato, 1)
    edit(tmp_path / "config.json", change)
    with pytest.raises(RunError, match=re.escape(message)) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: ")
    assert str(caught.value).count("config.json") == 1


def test_half_a_configuration(tmp_path: Path, gato: Gato) -> None:
    write(tmp_path, gato, 1)
    path = tmp_path / "config.json"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RunError, match="not a run's configuration"):
        read_run_config(tmp_path)


def test_another_vocabulary(tmp_path: Path, gato: Gato) -> None:
    write(tmp_path, gato, 1)
    edit(tmp_path / "config.json", lambda c: c.update(vocabulary="0" * 64))
    expected = f"expected fingerprint {'0' * 64}, found {gato.vocabulary.fingerprint}"
    with pytest.raises(RunError, match=expected):
        load(tmp_path)


def test_a_vocabulary_that_is_missing_or_altered(tmp_path: Path, gato: Gato) -> None:
    write(tmp_path, gato, 1)
    config = read_run_config(tmp_path)
    model = tmp_path / "text.model"
    data = model.read_bytes()
    model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(RunError, match=r"vocabulary\.json: "):
        read_vocabulary(tmp_path, config)
    model.unlink()
    with pytest.raises(RunError, match=re.escape(f"{model}: missing from the run; expected the vocabulary it was")):
        read_vocabulary(tmp_path, config)


def test_weights_that_do_not_fit(tmp_path: Path, gato: Gato, make: Callable[..., Gato]) -> None:
    write(tmp_path, gato)
    weights = dict(make(d_ff=48).state_dict())
    weights["extra"] = weights.pop("transformer.norm.weight")
    save_checkpoint(tmp_path, 2, model=weights, optimizer={}, state={})
    with pytest.raises(
        RunError, match="weights do not fit the configuration: missing transformer.norm.weight"
    ) as caught:
        load(tmp_path)
    assert "unexpected extra (32,)" in str(caught.value)
    assert "transformer.blocks.0.feed_forward_in.weight expected (64, 32), found (48, 32)" in str(caught.value)
    assert weight_problems(gato, gato.state_dict()) == []


def test_formats_are_found_by_spaces() -> None:
    assert find_format(FORMATS, spaces.Discrete(16), spaces.Discrete(4)) == (TokenSpec(separator=True), None)
    expected = "no task that the model was trained on has these spaces, so observations are tokenised by default; pass"
    with pytest.warns(UserWarning, match=expected):
        assert find_format(FORMATS, spaces.Discrete(17), spaces.Discrete(4)) == (TokenSpec(), None)
    assert find_format(FORMATS, spaces.Discrete(17), spaces.Discrete(4), quiet=True) == (TokenSpec(), None)
    assert find_format((), CART, spaces.Discrete(2)) == (TokenSpec(), None)


def test_tasks_that_look_alike_leave_the_instruction_out() -> None:
    assert find_format(FORMATS, CART, spaces.Discrete(2)) == (TokenSpec(), None)
    assert find_format(FORMATS, CART, spaces.Discrete(2), "tilt") == (TokenSpec(), "Tilt the pole.")
    assert find_format(FORMATS[:1], CART, spaces.Discrete(2)) == (TokenSpec(), "Balance the pole.")


def test_an_unknown_task() -> None:
    with pytest.raises(
        ValueError, match=re.escape("Unknown trained task 'kart'. Did you mean cart? Known: cart, grid")
    ):
        find_format(FORMATS, CART, spaces.Discrete(2), "kart")


def test_spaces_come_back() -> None:
    kept: TaskFormat = FORMATS[3]
    assert kept.spaces == (spaces.Box(0, 255, (7, 7, 3), np.uint8), spaces.Discrete(7))
    assert kept.fits(*kept.spaces)
    assert not kept.fits(spaces.Box(0, 254, (7, 7, 3), np.uint8), spaces.Discrete(7))


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda c: c["model"].update(d_model=10**9), "d_model must be at most 65,536, got d_model=1000000000"),
        (lambda c: c["model"].update(d_model=-2), "d_model must be at least 1, got d_model=-2"),
        (lambda c: c["model"].update(d_model=63), "d_model must be divisible by n_head, got d_model=63"),
        (lambda c: c["model"].update(d_model=6), "the head size must be even for rotary positions"),
        (lambda c: c["model"].update(d_modle=64), "Unknown field of model 'd_modle'. Did you mean d_model"),
        (lambda c: c["tasks"][2]["spec"].update(seperator=True), "Unknown field of tasks[2].spec 'seperator'. Did"),
    ],
)
def test_a_wrong_or_unknown_field_of_the_model(
    tmp_path: Path, gato: Gato, change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    write(tmp_path, gato, 1)
    edit(tmp_path / "config.json", change)
    with pytest.raises(RunError, match=re.escape(expected)) as caught:
        load(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_unknown_fields_of_a_later_version_are_no_news(tmp_path: Path, gato: Gato) -> None:
    write(tmp_path, gato, 1)
    edit(tmp_path / "config.json", lambda c: (c.update(format_version=2), c["model"].update(news=1)))
    with pytest.raises(RunError, match="format version 2 needs gato-lite > 0.1.0"):
        load(tmp_path)


def test_wide_tables_are_not_made_for_narrow_weights(tmp_path: Path, gato: Gato) -> None:
    write(tmp_path, gato, 1)
    edit(tmp_path / "config.json", lambda c: c["model"].update(d_model=65_536, d_ff=262_144, n_layer=900))
    with pytest.raises(RunError, match="weights do not fit the configuration: missing"):
        load(tmp_path)
