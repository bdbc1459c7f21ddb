from __future__ import annotations

import statistics
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from gato_lite.config import TokenSpec
from gato_lite.sequence import ACTION_LOCAL, Tokens
from gato_lite.spaces import FreeText
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary

GRID = spaces.Dict(
    direction=spaces.Discrete(4),
    image=spaces.Box(0, 255, (7, 7, 3), np.uint8),
    mission=FreeText(),
    pose=spaces.Box(-1, 1),
)


def grid(mission: str = "go to the red ball", direction: int = 1) -> dict[str, object]:
    return {
        "direction": np.int64(direction),
        "image": np.arange(147, dtype=np.uint8).reshape(7, 7, 3),
        "mission": mission,
        "pose": np.array([0.5], np.float32),
    }


def test_text_then_images_then_tensors(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(GRID, vocabulary)
    assert [leaf.path for leaf in tokenizer.leaves] == ["mission", "image", "direction", "pose"]
    assert [leaf.kind for leaf in tokenizer.leaves] == ["text", "image", "integer", "chunks"]
    assert [leaf.n_tokens for leaf in tokenizer.leaves] == [None, 1, 1, 1]
    tokens = tokenizer.encode(grid())
    n_text = len(tokens) - 3
    assert (tokens.ids[:n_text] < vocabulary.text_ids.stop).all()
    assert tokens.ids[n_text:].tolist() == [vocabulary.patch, vocabulary.discrete_ids[1], vocabulary.chunk]
    assert tokens.local.tolist() == list(range(1, len(tokens) + 1))
    decoded = tokenizer.decode(tokens)
    assert decoded.keys() == grid().keys()
    assert decoded["mission"] == "go to the red ball"
    assert np.array_equal(decoded["image"], grid()["image"])


def test_keys_are_lexicographic_and_tuples_in_order(vocabulary: Vocabulary) -> None:
    space = spaces.Dict(
        {"b": spaces.Tuple([spaces.Discrete(2)] * 11), "a/c": spaces.Discrete(2), "a.c": spaces.Discrete(2)}
    )
    tokenizer = SpaceTokenizer(space, vocabulary)
    assert [leaf.path for leaf in tokenizer.leaves] == ["a~2c", "a~1c", *(f"b/{i}" for i in range(11))]


def test_an_image_action_is_integers(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(spaces.Box(0, 255, (2, 2, 3), np.uint8), vocabulary, action=True)
    assert tokenizer.n_tokens == 12
    assert tokenizer.encode(np.zeros((2, 2, 3), np.uint8)).local.tolist() == [ACTION_LOCAL] * 12
    assert tokenizer.legal_ranges == [(vocabulary.discrete_ids.start, vocabulary.discrete_ids.start + 256)] * 12


def test_leaves_written_once(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(GRID, vocabulary, spec=TokenSpec(once=("mission", "direction", "image")))
    values = [grid(), grid(direction=2), grid("open the door", 2), grid("open the door", 2)]
    tokens, lengths, repeats = tokenizer.encode_many(tokenizer.stack(values))
    kinds = vocabulary.kind(tokens.ids)
    row = np.repeat(np.arange(4), lengths)
    written = [{int(kind) for kind in kinds[(row == n) & ~repeats]} for n in range(4)]
    text, integer, patch, chunk = 0, 2, 5, 6
    assert written == [{text, integer, patch, chunk}, {integer, chunk}, {text, chunk}, {chunk}]
    assert not repeats[row == 0].any()


def test_a_single_value_repeats_nothing(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(GRID, vocabulary, spec=TokenSpec(once=("image", "mission")))
    assert not tokenizer.encode_many(tokenizer.stack([grid()]))[2].any()


def test_a_repeated_composite_value(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(
        spaces.Dict(s=spaces.Sequence(spaces.Box(-1, 1, (2,)))), vocabulary, spec=TokenSpec(once=("s",))
    )
    a, b = np.zeros(2, np.float32), np.ones(2, np.float32)
    _, lengths, repeats = tokenizer.encode_many({"s": [(a, b), (a.copy(), b), (a,), (a, a)]})
    assert lengths.tolist() == [3, 3, 2, 3]
    assert repeats.tolist() == [False] * 3 + [True] * 3 + [False] * 5


def test_dropped_leaves(vocabulary: Vocabulary) -> None:
    spec = TokenSpec(leaves=("image", "mission"), once=("mission",))
    tokenizer = SpaceTokenizer(GRID, vocabulary, spec=spec)
    assert [leaf.path for leaf in tokenizer.leaves] == ["mission", "image"]
    tokens = tokenizer.encode(grid())
    assert tokens.ids[-1] == vocabulary.patch
    full = SpaceTokenizer(GRID, vocabulary).stack([grid()])
    assert np.array_equal(tokenizer.encode_many(full)[0].ids, tokens.ids)
    with pytest.raises(ValueError, match="got one that drops 'direction', 'pose'; build it without TokenSpec.leaves"):
        tokenizer.decode(tokens)


def test_flatten_and_unflatten(vocabulary: Vocabulary) -> None:
    space = spaces.Dict(
        a=spaces.Tuple([spaces.Discrete(2), spaces.Dict({"x/y": spaces.Discrete(3)})]), b=spaces.Discrete(4)
    )
    tokenizer = SpaceTokenizer(space, vocabulary)
    value = {"a": (1, {"x/y": 2}), "b": 3}
    assert tokenizer.flatten(value) == {"a/0": 1, "a/1/x~1y": 2, "b": 3}
    assert tokenizer.unflatten(tokenizer.flatten(value)) == value


@pytest.mark.parametrize(
    "value, message",
    [
        ({"a": (1, 0)}, "the value: expected a mapping with the key 'b', got keys ['a']"),
        (3, "the value: expected a mapping with the key 'a', got int"),
        ({"a": (1,), "b": 3}, "leaf 'a': expected a tuple of 2 values, got 1"),
        ({"a": 7, "b": 3}, "leaf 'a': expected a tuple of 2 values, got int"),
    ],
)
def test_values_of_another_form(vocabulary: Vocabulary, value: object, message: str) -> None:
    space = spaces.Dict(a=spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)]), b=spaces.Discrete(4))
    with pytest.raises(ValueError) as caught:
        SpaceTokenizer(space, vocabulary).encode(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"a": np.zeros(2, int)}, "leaf 'b': expected a column for it, got columns ['a']"),
        (
            {"a": np.zeros(2, int), "b": np.zeros(3, int)},
            "leaf 'b': expected 2 values as in 'a', got 3",
        ),
        ({"a": [0], "b": [0], "bb": [0]}, "Unknown leaf 'bb'. Did you mean b? Known: a, b"),
        (
            {"a": np.zeros((2, 1), int), "b": [0, 1]},
            "leaf 'a': expected values of shape (), got an array of shape (2, 1)",
        ),
    ],
)
def test_columns_of_another_form(vocabulary: Vocabulary, columns: dict[str, object], message: str) -> None:
    tokenizer = SpaceTokenizer(spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2)), vocabulary)
    with pytest.raises(ValueError) as caught:
        tokenizer.encode_many(columns)
    assert str(caught.value) == message


def test_tokens_of_another_form(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2)), vocabulary)
    tokens = tokenizer.encode({"a": 0, "b": 1})

    def first(count: int, ids: list[int] | None = None) -> Tokens:
        return Tokens(
            ids=np.resize(tokens.ids if ids is None else np.array(ids, np.int32), count),
            local=np.zeros(count, np.int16),
        )

    with pytest.raises(ValueError, match="^leaf 'b': expected 1 more tokens, got 0$"):
        tokenizer.decode(first(1))
    with pytest.raises(ValueError, match="^expected 2 tokens of a value, got 1 more from discrete 0 on$"):
        tokenizer.decode(first(3))
    with pytest.raises(ValueError, match="^leaf 'a': expected discrete 0 to discrete 1023, got patch at token 0$"):
        tokenizer.decode(first(1, [vocabulary.patch]))
    with pytest.raises(ValueError, match=r"^leaf 'a': expected digits of at most \[1\], got \[2\]$"):
        tokenizer.decode(first(1, [vocabulary.discrete_ids[2]]))


def test_patches_of_another_shape(vocabulary: Vocabulary) -> None:
    wide, tall = (SpaceTokenizer(spaces.Box(0, 255, shape, np.uint8), vocabulary) for shape in ((4, 6), (6, 4)))
    with pytest.raises(ValueError, match=r"channels\) \[\[6, 4, 1\]\], got \[\[4, 6, 1\]\]$"):
        tall.decode(wide.encode(np.zeros((4, 6), np.uint8)))


def test_legal_is_for_actions(vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="^expected a tokenizer of actions, .* build it with action=True$"):
        SpaceTokenizer(spaces.Discrete(2), vocabulary).legal([])
    tokenizer = SpaceTokenizer(spaces.Discrete(2), vocabulary, action=True)
    with pytest.raises(ValueError, match="^expected at most the 1 tokens of an action, got 2$"):
        tokenizer.legal([vocabulary.discrete_ids[0]] * 2)


def test_the_arrays_of_a_caller_are_not_changed(vocabulary: Vocabulary) -> None:
    image, vector = np.full((7, 7, 3), 2, np.uint8), np.array([0.5, 2.0], np.float32)
    tokenizer = SpaceTokenizer(
        spaces.Dict(i=spaces.Box(0, 255, (7, 7, 3), np.uint8), v=spaces.Box(-1, 1, (2,))),
        vocabulary,
        spec=TokenSpec(pixel_high=(10, 5, 3)),
    )
    tokenizer.encode({"i": image, "v": vector})
    assert (image == 2).all()
    assert vector.tolist() == [0.5, 2.0]


def test_an_episode_of_cartpole_takes_milliseconds(vocabulary: Vocabulary) -> None:
    env = gym.make("CartPole-v1")
    observing = SpaceTokenizer(env.observation_space, vocabulary)
    acting = SpaceTokenizer(env.action_space, vocabulary, action=True)
    rng = np.random.default_rng(0)
    observations = {"": rng.normal(size=(1000, 4)).astype(np.float32)}
    actions = {"": rng.integers(2, size=1000)}
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        tokens, lengths, _ = observing.encode_many(observations)
        chosen, _, _ = acting.encode_many(actions)
        seconds.append(time.perf_counter() - start)
    assert len(tokens) == len(chosen) == lengths.sum() == 1000
    assert statistics.median(seconds) < 0.01
