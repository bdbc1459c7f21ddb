import json

import pytest

from gato_lite.envs.dataset import Dataset, check
from gato_lite.tokenizers.text import TextTokenizer
from gato_lite.train.ship import DATA, emoji_baselines, model_texts
from gato_lite.train.ship_text import Passage


def test_the_shipped_data_are_whole_and_small():
    assert check(DATA / "text") == []
    assert check(DATA / "emoji") == []
    files = [file for file in DATA.rglob("*") if file.is_file() and DATA / "runs" not in file.parents]
    assert sum(file.stat().st_size for file in files) < 10_000_000


def test_each_part_says_its_licence_and_its_makers():
    notice = (DATA / "LICENSES.md").read_text("utf-8")
    for name in ("text", "emoji"):
        info = Dataset.open(DATA / name).info
        assert info.licence
        assert info.attribution
        assert f"`{name}/`" in notice
    for words in (
        "WordNet 3.0 Copyright 2006 by Princeton University",
        "CC-BY-4.0",
        "Apache-2.0",
        "UNICODE LICENSE V3",
    ):
        assert words in notice


def test_the_text_model_has_4096_pieces_and_knows_the_words_of_the_tasks():
    tokenizer = TextTokenizer.from_file(DATA / "text.model")
    assert tokenizer.n_pieces == 4096
    assert len(tokenizer.encode("go to the red ball")) == 5
    assert len(tokenizer.encode("face with tears of joy")) == 5


def test_the_text_model_never_sees_held_out_text():
    passages = [Passage("a", "train", "seen"), Passage("a", "test", "unseen")]
    texts = list(model_texts(passages, ["cat", "flag: Italy"]))
    assert "seen" in texts
    assert "unseen" not in texts
    assert texts.count("cat") == 10
    assert "flag: Italy" not in texts


def test_the_recorded_baselines_of_the_pictures_are_right():
    measured = json.loads((DATA / "baselines.json").read_text("utf-8"))
    again = emoji_baselines(Dataset.open(DATA / "emoji"))
    for name, scores in measured["emoji"].items():
        assert scores == pytest.approx(again[name], abs=0.005)
    assert measured["emoji"]["nearest_neighbour"]["n"] == 237
