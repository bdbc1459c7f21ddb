from __future__ import annotations

import re

import numpy as np
import pytest

from gato_lite.envs.dataset import Document, Turn
from gato_lite.exchange import Exchange, lay_out_exchanges, picture_tokens, text_tokens
from gato_lite.sequence import TEXT_PLACES
from gato_lite.sequence import Document as TokenDocument
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.exchanges import ExchangeSource, vary
from gato_lite.train.pictures import encode_png
from gato_lite.train.sources import PROMPT_SHARE


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def draw(source: ExchangeSource, n: int = 1, context_length: int = 64, seed: int = 0) -> list[TokenDocument]:
    return source.draw(np.random.default_rng(seed), context_length, n)


def test_a_picture_then_its_caption(vocabulary: Vocabulary) -> None:
    shown = pixels(32, 20)
    (document,) = draw(ExchangeSource([Document(encode_png(shown), "a boat")], vocabulary, name="p"))
    caption = [*vocabulary.text.encode("a boat").tolist(), vocabulary.end]
    assert document.tokens.ids.tolist() == [vocabulary.patch] * 4 + caption
    assert document.target.tolist() == [False] * 4 + [True] * len(caption)
    assert np.array_equal(document.tokens.pixels, picture_tokens(shown, vocabulary).pixels)
    assert document.labels.tolist() == document.tokens.ids.tolist()


def test_a_question_is_not_predicted_unless_all_text_is(vocabulary: Vocabulary) -> None:
    asked = Document(encode_png(pixels(16, 16)), "red", prompt="What colour?")
    question, answer = (vocabulary.text.encode(text).tolist() for text in ("What colour?", "red"))
    for all_text in (False, True):
        (document,) = draw(ExchangeSource([asked], vocabulary, name="q", all_text=all_text))
        assert document.tokens.ids.tolist() == [vocabulary.patch, *question, *answer, vocabulary.end]
        assert document.target.tolist() == [False, *[all_text] * len(question), *[True] * (len(answer) + 1)]


def test_a_quarter_of_the_captions_are_begun_by_a_prompt(vocabulary: Vocabulary) -> None:
    before = (Turn(encode_png(pixels(16, 16, 1)), "", "one boat"),)
    stored = Document(encode_png(pixels(32, 16)), "a small boat on a lake in the sun", before=before)
    caption = lay_out_exchanges([Exchange(text=stored.text)], vocabulary)[0].ids[1:]
    source = ExchangeSource([stored], vocabulary, name="p")
    still = lay_out_exchanges([Exchange(text="one boat")], vocabulary)[0].local[1:].tolist()
    counts = []
    for document in draw(source, 400):
        local = document.tokens.local[-len(caption) :]
        counts.append(int(((local < 0) & (local >= -TEXT_PLACES)).sum()))
        assert document.tokens.local[: -len(caption)].tolist() == [1, *still, 1, 2]
        assert local.tolist() == text_tokens(caption, vocabulary.end, counts[-1]).local.tolist()
        assert document.target[-len(caption) :].all()
    begun = [count for count in counts if count]
    assert len(begun) / len(counts) == pytest.approx(PROMPT_SHARE, abs=0.06)
    assert (min(begun), max(begun)) == (1, len(caption) - 2)


def test_some_pieces_of_an_answer_are_misread(vocabulary: Vocabulary) -> None:
    asked = Document(
        encode_png(pixels(16, 16)), "due barche in un lago al sole", prompt="two boats on a lake in the sun"
    )
    (plain,) = draw(ExchangeSource([asked], vocabulary, name="t"))
    answer = plain.target & (plain.labels != vocabulary.end)
    read = []
    for document in draw(ExchangeSource([asked], vocabulary, name="t", piece_noise=0.2), 300):
        assert np.array_equal(document.labels, plain.labels)
        assert np.array_equal(document.target, plain.target)
        assert np.array_equal(document.tokens.ids[~answer], plain.tokens.ids[~answer])
        read.append(document.tokens.ids[answer])
    wrong = np.stack(read) != plain.labels[answer]
    assert wrong.mean() == pytest.approx(0.2, abs=0.03)
    assert wrong.any(0).all()
    assert max(map(max, read)) < vocabulary.text_ids.stop
    assert len(np.unique(np.stack(read)[wrong])) > 0.8 * wrong.sum()


def test_no_piece_of_a_prompt_is_misread(vocabulary: Vocabulary) -> None:
    """Though it is to be predicted too, as all text is, or as a caption that is begun is."""
    asked = Document(None, "due barche in un lago al sole", prompt="two boats on a lake in the sun")
    named = Document(encode_png(pixels(16, 16)), "two boats on a lake in the sun")
    n_begun, wrong = 0, []
    for document, all_text in ((asked, True), (named, False)):
        source = ExchangeSource([document], vocabulary, name="t", all_text=all_text, piece_noise=0.9)
        for found in draw(source, 100):
            said = (found.tokens.local < 0) & (found.tokens.local >= -TEXT_PLACES)
            n_begun += bool(said.any())
            assert np.array_equal(found.tokens.ids[said], found.labels[said])
            answer = found.tokens.local < -TEXT_PLACES
            wrong.append(np.mean(found.tokens.ids[answer] != found.labels[answer]))
    assert 100 < n_begun < 200
    assert np.mean(wrong) > 0.5


def test_what_was_asked_for_is_not_begun(vocabulary: Vocabulary) -> None:
    """Nor one piece, which there is no beginning of."""
    asked = [
        Document(None, "due barche", prompt="two boats"),
        Document(None, "3", before=(Turn(prompt="?", text="a"),)),
    ]
    for document in draw(ExchangeSource(asked, vocabulary, name="t"), 60):
        prompt = (document.tokens.local < 0) & (document.tokens.local >= -TEXT_PLACES)
        said = vocabulary.text.encode("two boats" if len(document.tokens.ids) > 6 else "?")
        assert document.tokens.ids[prompt].tolist() == said.tolist()


def test_every_turn_of_a_conversation_is_answered(vocabulary: Vocabulary) -> None:
    talk = Document(None, "Well.", prompt="How are you?", before=(Turn(prompt="Hello.", text="Good day."),))
    (document,) = draw(ExchangeSource([talk], vocabulary, name="c"))
    said = [vocabulary.text.encode(text).tolist() for text in ("Hello.", "Good day.", "How are you?", "Well.")]
    end = [vocabulary.end]
    assert document.tokens.ids.tolist() == [*end, *said[0], *said[1], *end, *said[2], *said[3], *end]
    predicted = document.tokens.ids[document.target].tolist()
    assert predicted == [*said[1], *end, *said[3], *end]


def test_several_pictures_in_one_document(vocabulary: Vocabulary) -> None:
    first, second = pixels(16, 16, 1), pixels(16, 20, 2)
    stored = Document(encode_png(second), "two", before=(Turn(encode_png(first), "", "one"),))
    (document,) = draw(ExchangeSource([stored], vocabulary, name="m"))
    expected = np.concatenate([picture_tokens(shown, vocabulary).pixels for shown in (first, second)])
    assert np.array_equal(document.tokens.pixels, expected)
    assert (document.tokens.ids == vocabulary.patch).sum() == len(document.tokens.patch_shapes) == 3


def test_a_long_answer_is_cut(vocabulary: Vocabulary) -> None:
    source = ExchangeSource([Document(encode_png(pixels(16, 16)), "boat " * 50)], vocabulary, name="p")
    (document,) = draw(source, context_length=20)
    assert len(document.tokens) == len(document.target) == len(document.labels) == 20


def test_documents_without_room_for_an_answer(vocabulary: Vocabulary) -> None:
    large, small = Document(encode_png(pixels(64, 64)), "a"), Document(encode_png(pixels(16, 16)), "b")
    source = ExchangeSource([large], vocabulary, name="p")
    assert len(draw(source, context_length=17)[0].tokens) == 17
    expected = "the shortest document of 'p' needs 17 tokens up to its answer, but a document has at most 16"
    with pytest.raises(ValueError, match=re.escape(expected)):
        draw(source, context_length=16)
    both = ExchangeSource([large, small], vocabulary, name="p")
    assert {len(document.tokens.patch_shapes) for document in draw(both, 20, context_length=16)} == {1}


def test_examples_stand_before_a_document_where_there_is_room(vocabulary: Vocabulary) -> None:
    named = [Document(encode_png(pixels(16, 16, seed)), name) for seed, name in enumerate(("one", "two", "three"))]
    source = ExchangeSource(named, vocabulary, name="p", n_example=2)
    documents = draw(source, 60)
    counts = [len(document.tokens.patch_shapes) for document in documents]
    assert set(counts) == {1, 2, 3}
    for document, count in zip(documents, counts, strict=True):
        ids = document.tokens.ids
        assert (ids == vocabulary.end).sum() == count
        assert ids[document.target].tolist() == ids[ids != vocabulary.patch].tolist()
        assert len(document.tokens.pixels) == count * 768
    assert {len(document.tokens.patch_shapes) for document in draw(source, 60, context_length=4)} == {1}


def test_examples_of_text_share_their_ends(vocabulary: Vocabulary) -> None:
    pairs = [Document(None, "uno", prompt="one"), Document(None, "due", prompt="two")]
    for document in draw(ExchangeSource(pairs, vocabulary, name="t", n_example=3), 40):
        ids = document.tokens.ids
        assert ids[0] == ids[-1] == vocabulary.end
        assert not ((ids[1:] == vocabulary.end) & (ids[:-1] == vocabulary.end)).any()
        assert not document.target[0]


def test_pictures_are_varied_only_when_asked(vocabulary: Vocabulary) -> None:
    stored = [Document(encode_png(pixels(16, 16)), "a")]
    still = draw(ExchangeSource(stored, vocabulary, name="p"), 2)
    assert np.array_equal(still[0].tokens.pixels, still[1].tokens.pixels)
    varied = draw(ExchangeSource(stored, vocabulary, name="p", augment="recoloured"), 2)
    assert not np.array_equal(varied[0].tokens.pixels, varied[1].tokens.pixels)
    again = draw(ExchangeSource(stored, vocabulary, name="p", augment="recoloured"), 2)
    assert np.array_equal(varied[0].tokens.pixels, again[0].tokens.pixels)


def test_copies_of_a_picture_are_kept_once(vocabulary: Vocabulary) -> None:
    png = encode_png(pixels(16, 16))
    source = ExchangeSource([Document(png, answer, prompt="?") for answer in "abc"], vocabulary, name="q")
    assert len(source._pictures) == 1
    assert len({document.tokens.ids.tobytes() for document in draw(source, 30)}) == 3


def test_a_varied_picture_keeps_its_form() -> None:
    shown = np.full((20, 30, 3), 255, np.uint8)
    for recolour in (False, True):
        varied = vary(shown, np.random.default_rng(0), recolour=recolour)
        assert varied.shape == shown.shape
        assert varied.dtype == np.uint8


def test_a_moved_picture_keeps_its_colours() -> None:
    shown = np.full((24, 24, 3), 255, np.uint8)
    shown[6:18, 6:18] = (200, 30, 90)
    moved = vary(shown, np.random.default_rng(1), recolour=False)
    assert (moved[12, 12] == (200, 30, 90)).all()
    recoloured = vary(shown, np.random.default_rng(1), recolour=True)
    assert not (recoloured[12, 12] == (200, 30, 90)).all()


def test_nothing_to_answer(vocabulary: Vocabulary) -> None:
    expected = "source 'p' is empty, expected at least one document with an answer"
    for documents in ([], [Document(encode_png(pixels(8, 8)), "")]):
        with pytest.raises(ValueError, match=expected):
            ExchangeSource(documents, vocabulary, name="p")
