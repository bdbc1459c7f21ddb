from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gato_lite.config import GatoConfig
from gato_lite.envs.dataset import Dataset, Document, write_documents
from gato_lite.train import encoder_decoder
from gato_lite.train.encoder_decoder import (
    TOKENS,
    EncoderDecoder,
    Options,
    Pair,
    batches,
    like,
    n_weights,
    repeated,
    sinusoids,
)
from gato_lite.train.loop import Length
from gato_lite.train.settings import TrainConfig
from gato_lite.train.templates import translation
from gato_lite.train.training import train_run

torch.set_num_threads(1)


def tiny() -> EncoderDecoder:
    torch.manual_seed(0)
    return EncoderDecoder(20, d_model=16, n_head=2, d_ff=32, n_encoder=1, n_decoder=2).eval()


def pair(*lengths: int) -> Pair:
    source, target = (np.arange(1, 1 + n, dtype=np.int32) for n in lengths)
    return Pair(source, target)


def test_what_is_written_depends_on_the_source_and_on_what_stands_before_only() -> None:
    model = tiny()
    source, given, _ = model.batch([pair(5, 6)])
    states = model(source, given)
    later = given.clone()
    later[0, 4] = 15
    changed = model(source, later)
    assert torch.allclose(states[0, :4], changed[0, :4], atol=1e-6)
    assert not torch.allclose(states[0, 4:], changed[0, 4:], atol=1e-3)
    other = source.clone()
    other[0, 2] = 15
    assert not torch.allclose(states[0, 0], model(other, given)[0, 0], atol=1e-4)


def test_datasets_come_in_the_shares_of_the_run() -> None:
    large, small = [pair(5, 5)] * 100, [pair(2, 3)] * 10  # 1,000 pieces and 50
    assert len(repeated([large, small], [0.9, 0.1])) == 100 + 2 * 10
    assert len(repeated([large, small], [0.5, 0.5])) == 100 + 20 * 10
    assert len(repeated([large, small], [0.99, 0.01])) == 5 * 100 + 10
    assert repeated([small], [3.0]) == small


def test_padding_changes_nothing() -> None:
    model = tiny()
    alone = model(*model.batch([pair(3, 4)])[:2])
    beside = model(*model.batch([pair(3, 4), pair(9, 8)])[:2])
    assert torch.allclose(alone[0], beside[0, :5], atol=1e-5)
    assert model.translate([pair(3, 1).source], 5)[0] == model.translate([pair(3, 1).source, pair(9, 1).source], 5)[0]


def test_an_empty_source_spoils_nothing() -> None:
    model = tiny().train()
    empty, other = pair(0, 4), pair(3, 4)
    for pairs in ([empty], [empty, other]):
        source, given, _ = model.batch(pairs)
        assert model(source, given).isfinite().all()
    model.eval()
    assert model.translate([empty.source, other.source], 5)[1:] == model.translate([other.source], 5)
    assert model.translate([empty.source], 5) == model.translate([empty.source, other.source], 5)[:1]


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_training_that_would_never_end_is_refused(minutes: float) -> None:
    with pytest.raises(ValueError, match="cpu_minutes must be a positive number"):
        encoder_decoder.train(tiny(), [pair(2, 2)], cpu_minutes=minutes, learning_rate=1e-3, seed=0)


def test_a_missing_extra_is_told_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ImportError, match="sacrebleu"):
        encoder_decoder.main(Options(run=Path("nowhere")))


def test_an_epoch_has_every_pair_once_in_batches_of_bounded_size() -> None:
    generator = np.random.default_rng(0)
    pairs = [pair(int(a), int(b)) for a, b in generator.integers(1, 190, (900, 2))]
    found: list[int] = []
    for some in batches(pairs, generator):
        assert max(len(p.source) + len(p.target) + 1 for p in some) * len(some) <= TOKENS
        found += map(id, some)
        if len(found) == len(pairs):
            break
    assert sorted(found) == sorted(map(id, pairs))


def test_it_has_about_as_many_parameters_as_asked() -> None:
    config = GatoConfig.preset("lite-5m")
    for wanted in (4_000_000, 7_000_000):
        assert abs(n_weights(like(config, 8192, wanted)) - wanted) < 700_000


def test_positions_differ_and_are_bounded() -> None:
    table = sinusoids(50, 8)
    assert table.abs().max() <= 1
    assert all(not torch.allclose(a, b) for a, b in itertools.combinations(table, 2))


def test_it_learns_and_is_scored_on_the_runs_own_data(tmp_path: Path) -> None:
    words = ("uno", "due", "tre", "sei")
    names = ("one", "two", "three", "six")
    documents = [
        translation(f"{names[a]} {names[b]}", f"{words[a]} {words[b]}", "it", split="test" if a == b else "train")
        for a, b in itertools.product(range(4), range(4))
    ]
    data = tmp_path / "data"
    write_documents(data, documents, name="numbers", ability="translation")
    assert Dataset.open(data).info.ability == "translation"
    run = tmp_path / "run"
    moved = tmp_path / "moved"
    write_documents(moved, [Document(None, "words and words " * 20)], name="moved", ability="text")
    train_run(TrainConfig(preset="lite-1m"), [(str(data), 1.0), (str(moved), 1.0)], run, length=Length(steps=1))
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="documents must be at least 1, got 0"):  # before an hour of training
        encoder_decoder.main(Options(run=run, cpu_minutes=1e9, documents=0))
    encoder_decoder.main(Options(run=run, cpu_minutes=0.1, json=tmp_path / "scores.json"))
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["training"]["epochs"] > 5
    assert found["training"]["loss"] < 7  # of 4,097 pieces, evenly: 8.3
    score = found["scores"]["text/numbers"]
    assert score["n"] == 4
    assert 0 < score["mean"] <= 100
