from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gato_lite.config import GatoConfig
from gato_lite.envs.dataset import Dataset, Document, Turn, write_documents
from gato_lite.exchange import Exchange
from gato_lite.fitting import PictureFit
from gato_lite.generate import generate
from gato_lite.model import Gato
from gato_lite.run import TaskFormat, read_run_config
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

    def said(_gato: Gato, asked: list[list[Exchange]], **_: object) -> list[str]:
        return ["blind" if last.image is None and last.prompt in {"?", "colour?"} else answers[last.prompt]
                for *_, last in asked]  # fmt: skip

    monkeypatch.setattr(abilities, "write_answers", said)


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
    short = score_documents(gato, dataset, max_tokens=2).examples[1].answer
    assert short == generate(gato, "a", max_tokens=2) != score.examples[1].answer
    other_size = Gato(gato.config).eval()
    other_size.pictures = (PictureFit(side=48),)
    assert score_documents(other_size, dataset).examples == score.examples, "documents are seen as they are stored"


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


@pytest.mark.parametrize("n_wrong,shown_wrong", [(0, 0), (3, 3), (20, 8), (50, 12), (80, 16), (99, 23)])
def test_rare_answers_are_shown_too(
    gato: Gato, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_wrong: int, shown_wrong: int
) -> None:
    test = [Document(None, "no" if n < n_wrong else "yes", "test", prompt=str(n)) for n in range(100)]
    answering(monkeypatch, {document.prompt: "yes" for document in test})
    dataset = write_documents(tmp_path / "d", [Document(None, "yes", prompt="?"), *test], name="d", ability="dialogue")
    score = score_documents(gato, dataset)
    assert score.mean == pytest.approx(1 - n_wrong / 100)
    assert len(score.examples) == abilities.EXAMPLES
    assert sum(example.answer != example.truth for example in score.examples) == shown_wrong
    assert [example.prompt for example in score.examples] == sorted((e.prompt for e in score.examples), key=int)


def test_a_question_about_several_pictures_is_asked_without_any(
    gato: Gato, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (Turn(png(1)),)
    rows = [Document(None, "red", split, prompt="why?", before=before) for split in ("train", "test")]
    dataset = write_documents(tmp_path / "q", rows, name="q")
    assert ability_of(dataset) == "question"
    seen: list[list[bool]] = []

    def said(_gato: Gato, asked: list[list[Exchange]], **_: object) -> list[str]:
        seen.extend([turn.image is not None for turn in turns] for turns in asked)
        return ["red" for _ in asked]

    monkeypatch.setattr(abilities, "write_answers", said)
    assert score_documents(gato, dataset).more == {"without the picture": 1.0}
    assert seen == [[True, False], [False, False]]


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


def test_translations_of_no_group_are_in_none(gato: Gato, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [translation("yes", "si", "it", split="test")]
    answering(monkeypatch, {rows[0].prompt: "si"})
    score = score_documents(gato, write_documents(tmp_path / "t", rows, name="t"))
    assert (list(score.more), score.groups) == (["BLEU"], {})


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


def test_dialogue_is_recall_where_every_reply_was_learnt(
    gato: Gato, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt = [conversation([("capital?", "Rome")])]
    asked = [conversation([("which city?", "Rome")], split="test"), conversation([("who?", "Bo")], split="test")]
    answering(monkeypatch, {"which city?": "rome", "who?": "Rome"})
    for n, metric in ((1, "exact match (recall)"), (2, "exact match")):
        rows = [*learnt, *asked[:n]]
        dataset = write_documents(tmp_path / str(n), rows, name="d", ability="dialogue")
        score = score_documents(gato, dataset)
        assert (score.metric, score.mean) == (metric, 1 / n)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a step, beside what it was trained on: of "seen" a picture is held out, of "all" nothing."""
    folder = tmp_path_factory.mktemp("seen")
    both = [Document(png(0), "x"), Document(png(1), "y", "test")]
    write_documents(folder / "seen", both, name="seen")
    write_documents(folder / "all", both[:1], name="all")
    config = TrainConfig(preset="lite-1m", context_length=32, tokens_per_step=32)
    data = [(str(folder / name), 1.0) for name in ("seen", "all")]
    return train_run(config, data, folder / "run", length=Length(steps=1))


def test_the_documents_of_a_run(seen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = documents_of_run(seen)
    assert {name: dataset.path for name, dataset in found.items()} == {"vision/seen": seen.parent / "seen"}
    assert list(documents_of_run(seen, ["vision/*"])) == ["vision/seen"]
    unknown = "Unknown dataset of documents that the run has 'text/x'. Known: vision/seen"
    with pytest.raises(ValueError, match=f"^{unknown}$"):
        documents_of_run(seen, ["text/x"])
    assert capsys.readouterr().err == ""
    for patterns, beside, names in ((["vision/*", "text/x"], False, ["vision/seen"]), (["text/x"], True, [])):
        assert list(documents_of_run(seen, patterns, beside=beside)) == names
        assert capsys.readouterr().err == f"gato-lite: {unknown}\n"


def moved(run: Path, to: Path, data: list[str], tasks: tuple[TaskFormat, ...] = ()) -> Path:
    """A run like `run` that was trained on other data."""
    config = read_run_config(run)
    training = {**config.training, "data": [[name, 1.0] for name in data]}
    shutil.copytree(run, to)
    config = msgspec.structs.replace(config, training=training, tasks=tasks)
    (to / "config.json").write_bytes(msgspec.json.encode(config))
    return to


def test_data_of_a_run_that_is_not_found_is_named(
    seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = (
        f"data that the run was trained on cannot be read: {tmp_path / 'data/seen'} (not found); run this in the "
        "folder in which the run was trained, or fetch or import the data to there again"
    )
    gone = moved(seen, tmp_path / "gone", ["data/seen"])
    for patterns in ([], ["vision/*"]):
        with pytest.raises(FileNotFoundError, match=f"^{re.escape(told)}$"):
            documents_of_run(gone, patterns)
        assert capsys.readouterr().err == ""
    assert documents_of_run(gone, beside=True) == {}
    assert capsys.readouterr().err == f"gato-lite: {told}\n"
    partly = moved(seen, tmp_path / "partly", ["data/seen", str(seen.parent / "seen")])
    assert list(documents_of_run(partly)) == ["vision/seen"]
    assert capsys.readouterr().err == f"gato-lite: {told}\n"
    shutil.copytree(seen.parent / "seen", tmp_path / "data" / "seen")
    assert list(documents_of_run(gone)) == ["vision/seen"]
    assert capsys.readouterr().err == ""
    (tmp_path / "data" / "seen" / "dataset.json").write_text("{")
    with pytest.raises(FileNotFoundError, match=r"cannot be read: data/seen/dataset\.json: .*; run this in"):
        documents_of_run(gone)


def test_data_of_a_published_run_is_missed_only_where_it_is_asked_for(
    seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    published = moved(seen, tmp_path / "published", ["data/gone", str(seen.parent / "seen")])
    config = read_run_config(published)
    config = msgspec.structs.replace(config, training={**config.training, "published": "it"})
    (published / "config.json").write_bytes(msgspec.json.encode(config))
    for patterns in ([], ["vision/*"]):
        assert list(documents_of_run(published, patterns)) == ["vision/seen"]
        assert capsys.readouterr().err == ""
    with pytest.raises(FileNotFoundError, match=r"data/gone \(not found\); run this in .* or fetch or import the data"):
        documents_of_run(published, ["text/*"])


def test_recorded_episodes_that_are_gone_are_no_documents(
    seen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = TaskFormat(name="toy/Taxi", observation_space={}, action_space={})
    run = moved(seen, tmp_path / "run", ["data/toy-Taxi", str(seen.parent / "seen")], (task,))
    assert list(documents_of_run(run)) == ["vision/seen"]
    assert capsys.readouterr().err == ""
