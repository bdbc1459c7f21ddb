"""Values that cannot become tokens, or only wrong ones: NaN, numbers out of range, odd text, pictures, spaces."""

from __future__ import annotations

import io

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from gato_lite import SpaceTokenizer
from gato_lite.config import TokenSpec
from gato_lite.envs.dataset import Document, write_documents
from gato_lite.envs.episodes import BadEpisodeError, EpisodeBuilder
from gato_lite.envs.parts import part_name
from gato_lite.envs.record import record
from gato_lite.envs.writer import About
from gato_lite.sequence import concatenate, plain
from gato_lite.spaces import SUPPORTED, FreeText
from gato_lite.tokenizers.continuous import encode_bins
from gato_lite.tokenizers.text import LoneSurrogateError
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.pictures import decode_picture

BOX = spaces.Box(-1, 1, (3,))
BINS = TokenSpec(kinds=(("", "bins"),))
STRINGS = {
    "empty": "",
    "nul": "a\0b\0",
    "joined emoji": "👩🏽‍🚀 👨‍👩‍👧‍👦 🏴󠁧󠁢󠁷󠁬󠁳󠁿",
    "right to left": "שלום مرحبا \u202eabc\u202c \u200f",
    "combining": "e\u0301 é ﷽",
    "marks": "\ufeff\u2028\u2029\r\n\t \u00a0",
    "space mark": "▁a ▁▁",
    "last character": "\U0010ffff\ufffe\ufffd",
}
SPECIALS = (
    "<s>",
    "</s>",
    "<unk>",
    "<pad>",
    "<0x41>",
    "separator",
    "end",
    "patch",
    "<patch>",
    "chunk",
    "[END]",
    "<|end|>",
)


class Said(gym.Env):
    """Says one string, twice."""

    action_space = spaces.Discrete(2)

    def __init__(self, text, space=None):
        self.text = text
        self.observation_space = spaces.Dict(mission=FreeText() if space is None else space)

    def reset(self, *, seed=None, options=None):
        return {"mission": self.text}, {}

    def step(self, action):
        return {"mission": self.text}, 0.0, True, False, {}


# -- 10


@pytest.mark.parametrize("action", [False, True])
@pytest.mark.parametrize("spec", [None, BINS], ids=["chunks", "bins"])
def test_nan_has_no_bin(action, spec):
    tokenizer = SpaceTokenizer(spaces.Dict(arm=BOX), action=action, spec=spec and TokenSpec(kinds=(("arm", "bins"),)))
    with pytest.raises(ValueError, match=r"^leaf 'arm': expected a number, got nan at scalar 1$"):
        tokenizer.encode({"arm": np.array([0, np.nan, 0], np.float32)})
    with pytest.raises(ValueError, match=r"got nan at scalar 2 in value 1$"):
        tokenizer.encode_many({"arm": np.array([[0, 0, 0], [0, 0, np.nan]], np.float32)})


def test_nan_has_no_bin_below_the_tokenizer():
    with pytest.raises(ValueError, match=r"expected numbers to put into bins, got NaN at 2"):
        encode_bins(np.array([0.0, 1.0, np.nan]))


# -- 11


@pytest.mark.parametrize("wrong", [2**31, 2**32 + 5, -(2**31) - 1])
def test_an_id_beyond_its_dtype_is_not_another_id(wrong):
    with pytest.raises(ValueError, match=rf"token ids must be in 0..2147483647, got {wrong}"):
        plain([1, wrong])
    with pytest.raises(ValueError, match=rf"got {wrong}"):
        plain(np.array([1, wrong], np.int64))
    assert plain([2**31 - 1]).ids.dtype == np.int32


def test_a_vocabulary_has_no_more_ids_than_fit():
    with pytest.raises(ValueError, match=r"n_bins must be in 2..1048576, got n_bins=2147483648"):
        Vocabulary(Vocabulary.shipped().text, n_bins=2**31)


def test_a_patch_too_large_for_its_shape_is_refused():
    wide = spaces.Box(0, 255, (2, 32_768, 3), np.uint8)
    with pytest.raises(ValueError, match=r"patch_size must be at most 32767 for pictures of 2 × 32768, got 40000"):
        SpaceTokenizer(wide, spec=TokenSpec(patch_size=40_000))


def test_a_seed_and_a_part_beyond_their_numbers_are_refused():
    builder = EpisodeBuilder(BOX, BOX)
    with pytest.raises(ValueError, match=r"seed must be in 0..2\*\*63 - 1, .*got seed=9223372036854775808"):
        builder.start(np.zeros(3), seed=2**63)
    with pytest.raises(ValueError, match=r"at most 1,000,000 parts, got number 1000000"):
        part_name(1_000_000)


# -- 12


@pytest.mark.parametrize(
    "dtype, wrong",
    [(np.int8, 300), (np.int8, -129), (np.uint8, 256), (np.uint8, -1), (np.int64, 2**63), (np.uint64, -1)],
)
@pytest.mark.parametrize("action", [False, True])
def test_an_integer_that_overflows_is_refused(dtype, wrong, action):
    info = np.iinfo(dtype)
    tokenizer = SpaceTokenizer(spaces.Box(info.min, info.max, (2,), dtype), action=action)
    with pytest.raises(ValueError, match=rf"expected a value in {info.min}..{info.max}, got {wrong} at scalar 1"):
        tokenizer.encode(np.array([0, wrong], np.uint64 if wrong > 0 else np.int64))
    for end in (info.min, info.max):
        assert tokenizer.decode(tokenizer.encode(np.array([0, end], dtype))).tolist() == [0, end]


def test_an_integer_that_overflows_is_not_recorded():
    builder = EpisodeBuilder(spaces.Box(-128, 127, (2,), np.int8), spaces.Discrete(2))
    builder.start(np.zeros(2, np.int8), seed=0)
    builder.step(1, np.array([0, 300]), 0.0)
    with pytest.raises(BadEpisodeError, match=r"^observation, step 1: expected a value of int8, got \[  0 300\]$"):
        builder.finish(terminated=True, truncated=False)


# -- 13, 14, 15


@pytest.mark.parametrize("text", STRINGS.values(), ids=STRINGS)
def test_odd_text_comes_back_exactly(text, tmp_path):
    tokenizer = SpaceTokenizer(FreeText())
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    twice = concatenate([tokens, tokens])  # in a stream
    assert tokenizer.vocabulary.text.decode(twice.ids) == text * 2
    dataset = record(Said(text), lambda _: 0, episodes=1, out=tmp_path / "data", instruction=text)
    assert dataset.read_part(0).observations["mission"] == [text, text]
    assert dataset.info.instruction == text
    documents = write_documents(tmp_path / "texts", [Document(None, text or "x", group=text)], name="t")
    assert documents.read_documents()[0] == Document(None, text or "x", group=text)


def test_a_lone_surrogate_is_named_by_the_tokenizer():
    tokenizer = SpaceTokenizer(spaces.Dict(mission=FreeText()))
    with pytest.raises(LoneSurrogateError, match=r"^leaf 'mission': .* got the lone surrogate U\+D83D at position 2$"):
        tokenizer.encode({"mission": "ab\ud83d"})


@pytest.mark.parametrize("space", [FreeText(), spaces.Sequence(FreeText())], ids=["text", "inside a Sequence"])
def test_a_lone_surrogate_is_not_recorded(space, tmp_path):
    text = "ab\ud83d"
    env = Said(text if isinstance(space, FreeText) else (text,), space)
    with pytest.raises(
        BadEpisodeError, match=r"episode 0 \(seed 0\): observation/mission, step 0: .*got a lone surrogate at \d"
    ):
        record(env, lambda _: 0, episodes=1, out=tmp_path / "data")


@pytest.mark.parametrize("field", ["task", "instruction", "licence", "attribution"])
def test_a_lone_surrogate_is_not_written_beside_the_data(field):
    with pytest.raises(ValueError, match=rf"^{field} must be text that UTF-8 can write, got a lone surrogate at 1$"):
        About(**{"task": "t", field: "a\udfff"})


def test_a_lone_surrogate_in_a_document_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"document 1: .*lone surrogate at 0"):
        write_documents(tmp_path / "t", [Document(None, "a"), Document(None, "\ud800")], name="t")


@pytest.mark.parametrize("text", SPECIALS)
def test_the_spelling_of_a_special_stays_text(text):
    vocabulary = Vocabulary.shipped()
    ids = vocabulary.text.encode(f"a {text} b")
    assert ids.max() < vocabulary.text_ids.stop
    assert vocabulary.text.unknown not in ids
    assert vocabulary.text.decode(ids) == f"a {text} b"
    tokenizer = SpaceTokenizer(spaces.Dict(a=FreeText(), b=FreeText()), vocabulary)
    value = {"a": text, "b": f"{text}{text}"}
    assert tokenizer.decode(tokenizer.encode(value)) == value


# -- 16


def _file(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _oriented():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (2, 1), "red")
    picture.putpixel((1, 0), (0, 0, 255))
    return _file(picture, "PNG", exif=exif)


def _palette():
    picture = Image.new("P", (1, 1))
    picture.putpalette([1, 2, 3])
    return _file(picture)


KINDS = {
    "RGB": (_file(Image.new("RGB", (1, 1), (1, 2, 3))), [[[1, 2, 3]]]),
    "RGBA, clear": (_file(Image.new("RGBA", (1, 1), (1, 2, 3, 0))), [[[255, 255, 255]]]),
    "RGBA, half": (_file(Image.new("RGBA", (1, 1), (0, 0, 0, 128))), [[[127, 127, 127]]]),
    "LA": (_file(Image.new("LA", (1, 1), (9, 255))), [[[9, 9, 9]]]),
    "P": (_palette(), [[[1, 2, 3]]]),
    "L": (_file(Image.new("L", (1, 1), 7)), [[[7, 7, 7]]]),
    "1": (_file(Image.new("1", (1, 1), 1)), [[[255, 255, 255]]]),
    "16 bits": (_file(Image.fromarray(np.array([[65535, 257]], np.uint16))), [[[255] * 3, [1] * 3]]),
    "CMYK": (_file(Image.new("CMYK", (1, 1), (0, 0, 0, 255)), "TIFF"), [[[0, 0, 0]]]),
    "turned by EXIF": (_oriented(), [[[255, 0, 0]], [[0, 0, 255]]]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_has_defined_pixels(kind):
    data, expected = KINDS[kind]
    assert decode_picture(data).tolist() == expected


@pytest.mark.parametrize("mode, message", [("F", "got floating point; save it as PNG"), ("I", r"0..65535, got -1..-1")])
def test_pixels_without_a_defined_brightness_are_refused(mode, message):
    with pytest.raises(ValueError, match=message):
        decode_picture(_file(Image.new(mode, (1, 1), -1), "TIFF"))


def test_a_picture_of_one_pixel_is_a_patch():
    tokenizer = SpaceTokenizer(spaces.Box(0, 255, (1, 1, 3), np.uint8), spec=TokenSpec(kinds=(("", "image"),)))
    tokens = tokenizer.encode(decode_picture(KINDS["RGB"][0]))
    assert tokens.patch_shapes.tolist() == [[1, 1, 3]]
    assert tokenizer.decode(tokens).tolist() == [[[1, 2, 3]]]


# -- 17


class Odd(spaces.Space):
    """A space that nobody knows."""


@pytest.mark.parametrize("action", [False, True])
@pytest.mark.parametrize("nest", [lambda s: s, lambda s: spaces.Dict(a=spaces.Tuple([s])), spaces.Sequence])
def test_a_space_that_cannot_be_supported_says_what_can(action, nest, tmp_path):
    message = rf"{SUPPORTED}, or of strings, got Odd"
    with pytest.raises(TypeError, match=message):
        SpaceTokenizer(nest(Odd()), action=action)
    env = Said("a", nest(Odd()))
    with pytest.raises(TypeError, match=message):
        record(env, lambda _: 0, episodes=1, out=tmp_path / "data")
    assert not list(tmp_path.glob("data/part-*"))
