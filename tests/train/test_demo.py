from __future__ import annotations

from pathlib import Path

import pytest

from gato_lite.fitting import PictureFit
from gato_lite.run import read_run_config
from gato_lite.train import demo
from gato_lite.train.abilities import EXAMPLES, documents_of_run
from gato_lite.train.picture_fits import run_fits
from gato_lite.train.plans import Part, Plan
from gato_lite.train.prompts import prompt_folders
from gato_lite.train.recipes import RECIPES
from gato_lite.train.settings import TrainConfig


def test_a_run_knows_its_data_and_pictures_and_is_scored_on_them(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(preset=tiny, context_length=48, tokens_per_step=96)
    monkeypatch.setitem(RECIPES, "demo", lambda: config)
    plan = Plan(tasks=[{"toy/FrozenLake": Part(5, 0.5)}], documents={"emoji": 1.0})
    run = demo._train(tmp_path, plan, demo.Clock(0.05), workers=1)
    recorded = tmp_path / "data" / "toy-FrozenLake"
    training = read_run_config(run).training
    assert training["data"] == [[str(recorded), 0.5], ["emoji", 1.0]]
    assert training["minutes"] == 0.05
    assert run_fits(run) == (PictureFit(side=32),)
    assert list(documents_of_run(run)) == ["vision/emoji"]
    assert prompt_folders(run, ["toy/FrozenLake"]) == {"toy/FrozenLake": recorded}
    _, documents = demo._films_and_words(run, [], 1, lambda *_: None)
    score = documents["vision/emoji"]
    assert (score.ability, score.n, len(score.examples)) == ("caption", 237, EXAMPLES)
    assert score.baselines["most similar of another style"] == pytest.approx(64 / 237)
