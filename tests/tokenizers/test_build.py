from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from gato_lite.config import TokenSpec
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary


class Words(spaces.Space[str]):
    """Strings of some package's own, as minigrid's missions are."""

    def __init__(self) -> None:
        super().__init__(dtype=str)

    def sample(self, mask: None = None, probability: None = None) -> str:
        return "go"


class Strange(spaces.Space[object]):
    pass


@pytest.mark.parametrize(
    "space, observed, acted",
    [
        (spaces.Box(0, 255, (84, 84, 3), np.uint8), "image", "integer"),
        (spaces.Box(0, 255, (84, 84), np.uint8), "image", "integer"),
        (spaces.Box(0, 255, (84, 84, 2), np.uint8), "integer", "integer"),
        (spaces.Box(0, 255, (128,), np.uint8), "integer", "integer"),
        (spaces.Box(0, 255, (84, 84, 3), np.int16), "integer", "integer"),
        (spaces.Box(-1, 1, (84, 84, 3)), "chunks", "bins"),
        (spaces.Discrete(4), "integer", "integer"),
        (spaces.MultiDiscrete([4, 4]), "integer", "integer"),
        (spaces.MultiBinary(4), "integer", "integer"),
        (spaces.Text(4), "text", "text"),
        (spaces.Sequence(spaces.Discrete(2)), "sequence", "sequence"),
        (spaces.OneOf([spaces.Discrete(2)]), "oneof", "oneof"),
        (spaces.Graph(spaces.Discrete(2), None), "graph", "graph"),
    ],
)
def test_default_kinds(vocabulary: Vocabulary, space: spaces.Space[Any], observed: str, acted: str) -> None:
    kinds = [SpaceTokenizer(space, vocabulary, action=action).leaves[0].kind for action in (False, True)]
    assert kinds == [observed, acted]


def test_two_channels_can_be_an_image(vocabulary: Vocabulary) -> None:
    space = spaces.Box(0, 255, (8, 8, 2), np.uint8)
    tokenizer = SpaceTokenizer(space, vocabulary, spec=TokenSpec(kinds=(("", "image"),)))
    assert tokenizer.n_tokens == 1


def test_a_kind_that_does_not_fit(vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match=r"^the value: expected a kind that fits Discrete\(3\): integer; got 'bins'$"):
        SpaceTokenizer(spaces.Discrete(3), vocabulary, spec=TokenSpec(kinds=(("", "bins"),)))


@pytest.mark.parametrize(
    "spec", [TokenSpec(kinds=(("imag", "integer"),)), TokenSpec(leaves=("imag",)), TokenSpec(once=("imag",))]
)
def test_a_spec_that_names_no_leaf(vocabulary: Vocabulary, spec: TokenSpec) -> None:
    space = spaces.Dict(image=spaces.Box(0, 255, (7, 7, 3), np.uint8), n=spaces.Discrete(2))
    with pytest.raises(
        ValueError, match=r"Unknown leaf in TokenSpec\.\w+ 'imag'\. Did you mean image\? Known: image, n"
    ):
        SpaceTokenizer(space, vocabulary, spec=spec)


def test_a_spec_does_not_touch_actions(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(spaces.Discrete(2), vocabulary, spec=TokenSpec(leaves=("image",)), action=True)
    assert tokenizer.n_tokens == 1


def test_strings_of_another_package(vocabulary: Vocabulary) -> None:
    tokenizer = SpaceTokenizer(Words(), vocabulary)
    assert tokenizer.decode(tokenizer.encode("go to it")) == "go to it"
    with pytest.raises(TypeError, match="^expected a Text or FreeText space for an action, .*, got Words$"):
        SpaceTokenizer(Words(), vocabulary, action=True)


def test_a_babyai_level(vocabulary: Vocabulary) -> None:
    pytest.importorskip("minigrid")
    env = gym.make("BabyAI-GoToRedBallGrey-v0")
    spec = TokenSpec(leaves=("image", "mission"), once=("mission",), pixel_high=(10, 5, 3))
    tokenizer = SpaceTokenizer(env.observation_space, vocabulary, spec=spec)
    observation, _ = env.reset(seed=0)
    tokens = tokenizer.encode(observation)
    assert (tokens.ids == vocabulary.patch).sum() == 1
    assert vocabulary.text.decode(tokens.ids[:-1]) == observation["mission"]


def test_an_unknown_space(vocabulary: Vocabulary) -> None:
    with pytest.raises(TypeError, match="^expected a space of Box, Discrete, .*, got Strange"):
        SpaceTokenizer(spaces.Dict(a=Strange()), vocabulary)
