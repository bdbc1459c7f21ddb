from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gato_lite.config import GatoConfig
from gato_lite.envs.dataset import Dataset, Document, Turn, write_documents
from gato_lite.exchange import Exchange
from gato_lite.generate import generate
from gato_lite.model import Gato
from gato_lite.train import abilities
from gato_lite.train.abilities import ability_of, documents_of_run, score_documents, score_name
from gato_lite.train.loop import Length
from gato_lite.train.pictures import encode_png
from gato_lite.train.settings import TrainConfig
from gato_lite.train.templates import caption, conversation, labelled, question, translation
from gato_lite.train.training import train_run


def png(level: int) -> bytes:
    return encode_png(np.full((16, 16, 3), level, np.uint8))


@pytest.fixture(scope="module")
def gato() -> Gato:
    return Gato(GatoConfig(n_layer=1, n_head=1, d_model=16, d_ff=16)).eval()


def answering(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> None:
    """Lets the model say what a test wants, by the prompt; scoring is what is tested."""

    def said(_gato: Gato, prompts: list[str], images: list[object], **_: object) -> list[str]:
        return ["blind" if image is None and prompt in {"?", "colour?"} else answers[prompt]
                for prompt, image in zip(prompts, images, strict=True)]  # fmt: skip

    monkeypatch.setattr(abilities, "generate", said)


def test_answers_are_those_of_generate(gato: Gato, tmp_path: Path) -> None:
    rows = [
        Document(png(9), "x", "test", prompt="what is this?", before=(Turn(png(200), "and", "y"),)),
        Document(None, "z", "test", prompt="a"),
    ]
    dataset = write_documents(tmp_path / "d", [*rows, Document(None, "t", prompt="a")], name="d", ability="dialogue")
    score = score_documents(gato, dataset)
    shown = np.full((16, 16, 3), 9, np.uint8)
    before = [Exchange(image=np.full((16, 16, 3), 200, np.uint8), prompt="and", text="y")]
    assert [example.answer for example in score.examples] == [
        generate(gato, "what is this?", shown, before=before, max_tokens=abilities.MAX_TOKENS),
        generate(gato, "a", max_tokens=abilities.MAX_TOKENS),
    ]
    assert (score.n, score.ability, score.metric) == (2, "dialogue", "exact match")


def test_answers_of_a_beam_search(gato: Gato, tmp_path: Path) -> None:
    rows = [Document(None, "z", "test", prompt=prompt) for prompt in ("a", "what is this?")]
    dataset = write_documents(tmp_path / "d", [*rows, Document(None, "t", prompt="a")], name="d", ability="dialogue")
    score = score_documents(gato, dataset, beams=3)
    asked = [row.prompt for row in rows]
    answers = generate(gato, asked, max_tokens=abilities.MAX_TOKENS, beams=3)
    assert [example.answer for example in score.examples] == answers
    assert answers != generate(gato, asked, max_tokens=abilities.MAX_TOKENS)
    assert (score.beams, score_documents(gato, dataset).beams) == (3, 1)


def test_questions(gato: Gato, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [question(png(1), "colour?", "red"), question(png(2), "colour?", "red"), question(png(3), "?", "no")]
    test = [
        question(png(4), "colour?", "red", split="test"),
        question(png(5), "colour?", "blue", split="test"),
        question(png(6), "?", "no", split="test"),
        question(png(7), "new?", "red", split="test"),
    ]
    answering(monkeypatch, {"colour?": "Red ", "?": "no", "new?": "blue"})
    score = score_documents(gato, write_documents(tmp_path / "q", [*train, *test], name="q", ability="question"))
    assert score.mean == 0.5
    assert 0.0 <= (score.low or 0.0) <= 0.5 <= (score.high or 0.0) <= 1.0
    assert score.baselines == {"commonest answer": 0.5, "question alone": 0.75}
    assert score.more == {"without the picture": 0.0}
    assert [example.truth for example in score.examples] == ["red", "blue", "no", "red"]


def test_captions_beside_the_most_similar_picture_of_another_style(
    gato: Gato, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        caption(png(0), "cat", group="noto/Animals"),
        caption(png(100), "dog", group="flat/Animals"),
        caption(png(110), "cat", group="flat/Animals", split="test"),
    ]
    answering(monkeypatch, {"": "cat"})
    score = score_documents(gato, write_documents(tmp_path / "c", rows, name="c", ability="caption"))
    assert (score.baselines["most similar picture"], score.baselines["most similar of another style"]) == (0.0, 1.0)


def test_captions_by_style_and_category(gato: Gato, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        caption(png(0), "cat", group="noto/Animals"),
        caption(png(0), "gatto", language="it", group="noto/Animals"),
        caption(png(255), "bus", group="noto/Travel"),
        caption(png(10), "cat", group="flat/Animals", split="test"),
        caption(png(10), "gatto", language="it", group="flat/Animals", split="test"),
        caption(png(250), "dog", group="noto/Animals", split="test"),
    ]
    answering(monkeypatch, {"": "cat", "In Italian:": "gatta"})
    score = score_documents(gato, write_documents(tmp_path / "c", rows, name="c", ability="caption"))
    assert score.mean == pytest.approx(1 / 3)
    assert score.more["category"] == pytest.approx(2 / 3)  # the dog was taken for a cat, "gatta" for nothing known
    assert score.baselines["most similar picture"] == pytest.approx(2 / 3)
    assert "most similar of another style" not in score.baselines  # there is one style to learn from
    assert score.groups == {
        "Animals": (pytest.approx(1 / 3), 3),
        "asked ''": (0.5, 2),
        "asked 'In Italian:'": (0.0, 1),
        "flat": (0.5, 2),
        "flat/Animals": (0.5, 2),
        "noto": (0.0, 1),
        "noto/Animals": (0.0, 1),
    }


def test_translations(gato: Gato, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        translation("the cat sleeps here", "il gatto dorme qui", "it", group="a"),
        translation("the dog sleeps here", "il cane dorme qui", "it", group="a", split="test"),
        translation("where are you now", "dove sei adesso", "it", group="b", split="test"),
    ]
    answers = {rows[1].prompt: "il cane dorme qui", rows[2].prompt: "boh"}
    answering(monkeypatch, answers)
    score = score_documents(gato, write_documents(tmp_path / "t", rows, name="t", ability="translation"))
    assert score.groups["a"] == (pytest.approx(100), 1)
    assert score.groups["b"][0] < 20
    assert score.groups["b"][0] < score.mean < 100
    assert score.more["BLEU a"] == pytest.approx(100)
    assert set(score.signatures) == {"chrF", "BLEU"}
    assert "version:" in score.signatures["chrF"]
    assert score.baselines["the sentence itself"] < 50


def test_text_beside_what_does_not_understand(gato: Gato, tmp_path: Path) -> None:
    rows = [Document(None, "It rained all day. " * 20), Document(None, "It rained all night. " * 5, "test")]
    score = score_documents(gato, write_documents(tmp_path / "t", rows, name="t"))
    assert set(score.baselines) == {"xz", "byte 5-gram", "piece frequencies"}
    assert all(0 < bits < score.mean for bits in score.baselines.values())
    assert score.low is None


def test_of_many_some_are_drawn(gato: Gato, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [labelled(png(n), "a", split="test") for n in range(30)]
    answering(monkeypatch, {rows[0].prompt: "a"})
    dataset = write_documents(tmp_path / "c", [*rows, labelled(png(99), "a")], name="c", ability="class")
    done: list[tuple[int, int]] = []
    assert score_documents(gato, dataset, n=10, on_progress=lambda *at: done.append(at)).n == 10
    assert done == [(10, 10)]


def test_abilities_are_read_off_where_nobody_said(tmp_path: Path) -> None:
    kinds = {
        "vision/a": Document(png(0), "x"),
        "vision/b": Document(png(0), "x", prompt="?"),
        "text/c": Document(None, "x"),
        "text/d": conversation([("a", "b"), ("c", "d")]),
    }
    for name, document in kinds.items():
        dataset = write_documents(tmp_path / name[-1], [document], name=name[-1])
        assert score_name(dataset) == name
    assert ability_of(Dataset.open(tmp_path / "d")) == "dialogue"


def test_nothing_held_out(gato: Gato, tmp_path: Path) -> None:
    dataset = write_documents(tmp_path / "d", [Document(None, "x")], name="d")
    with pytest.raises(ValueError, match="expected documents in the test split, found none"):
        score_documents(gato, dataset)


def test_the_documents_of_a_run(tmp_path: Path) -> None:
    both = [Document(png(0), "x"), Document(png(1), "y", "test")]
    seen = write_documents(tmp_path / "seen", both, name="seen")
    write_documents(tmp_path / "all", both[:1], name="all")
    config = TrainConfig(preset="lite-1m", context_length=32, tokens_per_step=32)
    data = [(str(tmp_path / name), 1.0) for name in ("seen", "all")]
    run = train_run(config, data, tmp_path / "run", length=Length(steps=1))
    assert {name: dataset.path for name, dataset in documents_of_run(run).items()} == {"vision/seen": seen.path}
    assert list(documents_of_run(run, ["vision/*"])) == ["vision/seen"]
    with pytest.raises(ValueError, match="Unknown dataset of documents that the run has 'text/x'"):
        documents_of_run(run, ["text/x"])
