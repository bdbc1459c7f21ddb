import numpy as np
import pytest

from gato_lite.envs.dataset import Document
from gato_lite.tokenizers.text import TextTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.baselines import (
    bits_per_byte_unigram,
    bits_per_byte_xz,
    caption_scores,
    nearest_neighbour_captions,
)
from gato_lite.train.pictures import encode_png


def plain(level, text="", group=None, side=32):
    return Document(encode_png(np.full((side, side, 3), level, np.uint8)), text, group=group)


def test_the_nearest_picture_gives_its_caption():
    train = [plain(0, "black"), plain(120, "grey"), plain(255, "white", side=40)]
    test = [plain(10), plain(250), plain(130, side=7)]
    assert nearest_neighbour_captions(train, test) == ["black", "white", "grey"]


def test_other_groups_looks_past_pictures_of_the_same_group():
    train = [plain(100, "near", "a"), plain(200, "far", "b")]
    assert nearest_neighbour_captions(train, [plain(110, group="a")]) == ["near"]
    assert nearest_neighbour_captions(train, [plain(110, group="a")], other_groups=True) == ["far"]
    with pytest.raises(ValueError, match=r"other_groups needs training pictures of at least two groups"):
        nearest_neighbour_captions(train[:1], [plain(110, group="a")], other_groups=True)


def test_a_text_is_no_picture():
    with pytest.raises(ValueError, match=r"document 0 \('words'\): expected a picture, got text alone"):
        nearest_neighbour_captions([Document(None, "words")], [plain(0)])
    with pytest.raises(ValueError, match=r"expected at least one training picture, got none"):
        nearest_neighbour_captions([], [plain(0)])


def test_caption_scores():
    scores = caption_scores(["Red ball ", "red box", "", "a a"], ["red ball", "blue box", "key", "a"])
    assert scores.exact == 0.25
    assert scores.token_f1 == pytest.approx((1 + 0.5 + 0 + 2 / 3) / 4)
    assert scores.n == 4
    with pytest.raises(ValueError, match=r"expected one prediction for each of at least 1 caption, got 1/2"):
        caption_scores(["a"], ["a", "b"])


def test_unigram_bits_of_a_text_without_training_are_those_of_equal_odds():
    tokenizer = Vocabulary.shipped().text
    bits = bits_per_byte_unigram([], ["a"], tokenizer)
    assert bits == pytest.approx(np.log2(tokenizer.n_pieces))


def test_frequent_pieces_cost_less():
    tokenizer: TextTokenizer = Vocabulary.shipped().text
    seen = bits_per_byte_unigram([" the" * 100], [" the the"], tokenizer)
    assert seen < bits_per_byte_unigram([" of" * 100], [" the the"], tokenizer)


def test_xz_uses_what_it_has_read():
    text = "".join(chr(97 + i) for i in np.random.default_rng(0).integers(0, 26, 4000))
    assert bits_per_byte_xz([text], [text]) < 0.2
    assert bits_per_byte_xz(["other"], [text]) > 4


@pytest.mark.parametrize("test", [[], [""]])
def test_no_held_out_text_is_an_error(test):
    with pytest.raises(ValueError, match=r"expected at least one byte of held-out text, got none"):
        bits_per_byte_xz(["a"], test)
