from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.spaces import (
    FreeText,
    is_text,
    leaf_keys,
    leaf_spaces,
    require_leaf,
    space_from_json,
    space_to_json,
    value_from_json,
    value_to_json,
)

HALF_OPEN = np.array([-np.inf, 0.1], np.float32), np.array([3.7, np.inf], np.float32)
LEAVES = [
    spaces.Box(-1, 1, (2, 3)),
    spaces.Box(-np.inf, np.inf, (2,)),
    spaces.Box(*HALF_OPEN),
    spaces.Box(-np.inf, np.inf, (2,), np.float64),
    spaces.Box(-1, 1, (2,), np.float16),
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Box(-(2**63), 2**63 - 1, (2,), np.int64),
    spaces.Box(0, 2**64 - 1, (), np.uint64),
    spaces.Box(0, 1, (2,), np.bool_),
    spaces.Box(0, 1, (0,)),
    spaces.Discrete(5, start=-3),
    spaces.Discrete(7, dtype=np.int32),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiDiscrete([2, 3], start=[1, -5]),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Text(5),
    spaces.Text(9, min_length=0, charset="zyx\n"),
    FreeText(),
    spaces.OneOf([spaces.Discrete(3), spaces.Text(4)]),
    spaces.Sequence(spaces.Box(0, 1, (2,))),
    spaces.Sequence(spaces.Dict(a=spaces.Box(0, 1, (2,)), b=spaces.Discrete(3)), stack=True),
    spaces.Graph(spaces.Box(0, 1, (2,)), spaces.Discrete(4)),
    spaces.Graph(spaces.Discrete(3), None),
]


def nested() -> st.SearchStrategy[spaces.Space]:
    leaf = st.sampled_from(LEAVES)
    return st.recursive(
        leaf,
        lambda child: st.one_of(
            st.dictionaries(st.text("ab/.~", max_size=3), child, min_size=1, max_size=3).map(
                lambda found: spaces.Dict(list(found.items()))
            ),
            st.lists(child, min_size=1, max_size=3).map(spaces.Tuple),
        ),
        max_leaves=5,
    )


@pytest.mark.parametrize("space", LEAVES, ids=str)
def test_a_space_comes_back_equal(space):
    stored = json.loads(json.dumps(space_to_json(space), allow_nan=False))
    back = space_from_json(stored)
    assert back == space
    assert type(back) is type(space)
    assert space_to_json(back) == stored


@given(nested(), st.integers(0, 2**31))
def test_a_value_comes_back_as_a_member(space, seed):
    space = space_from_json(space_to_json(space))  # the strategy's own are shared
    space.seed(seed % 1000)
    value = space.sample()
    stored = json.loads(json.dumps(value_to_json(space, value)))
    back = value_from_json(space, stored)
    assert space.contains(back)
    assert value_to_json(space, back) == stored


def test_unbounded_sides_are_words():
    assert space_to_json(spaces.Box(-np.inf, np.inf, (2,)))["low"] == "-inf"
    assert space_to_json(spaces.Box(*HALF_OPEN))["high"] == [np.float32(3.7).item(), "inf"]


def test_a_large_uniform_box_is_two_numbers():
    stored = space_to_json(spaces.Box(0, 255, (210, 160, 3), np.uint8))
    assert (stored["low"], stored["high"]) == (0, 255)


def test_leaves_in_order_with_escaped_keys():
    space = spaces.Dict({"b": spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]), "a/x.y~": spaces.MultiBinary(2)})
    assert list(leaf_spaces(space)) == ["a~1x~2y~0", "b/0", "b/1"]
    assert leaf_keys(space)["b/1"] == ("b", 1)
    assert leaf_keys(space)["a~1x~2y~0"] == ("a/x.y~",)
    assert list(leaf_spaces(spaces.Discrete(2))) == [""]


def test_a_mission_space_is_free_text():
    mission = pytest.importorskip("minigrid.core.mission").MissionSpace(lambda: "go")
    assert is_text(mission)
    assert space_to_json(mission) == {"type": "FreeText"}


def test_free_text():
    space = FreeText(seed=0)
    assert space.sample() in space
    assert "\x00 any" in space
    assert 3 not in space
    assert space == FreeText() != spaces.Text(3)
    assert len({space, FreeText()}) == 1


def test_an_unknown_space_class_is_refused():
    class Odd(spaces.Space):
        pass

    with pytest.raises(TypeError, match=r"space must be one of Box, Discrete.* got Odd"):
        space_to_json(Odd())


@pytest.mark.parametrize(
    "stored",
    [
        {"type": "Cube"},
        {},
        {"type": "Discrete"},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": [0.0], "high": 1.0},
        {"type": "Box", "shape": [2], "dtype": "object", "low": 0, "high": 1},
        {"type": "Discrete", "n": "many", "start": 0, "dtype": "int64"},
    ],
)
def test_damaged_json_is_refused(stored):
    with pytest.raises(ValueError, match="stored|space must be|Box|dtype"):
        space_from_json(stored)


@pytest.mark.parametrize("space", [spaces.Dict({}), spaces.Tuple([]), spaces.Dict(a=spaces.Tuple([]))])
def test_a_space_without_leaves_is_refused(space: spaces.Space) -> None:
    with pytest.raises(ValueError, match="action space: expected at least one leaf, got"):
        require_leaf(space, "action space")
    require_leaf(spaces.Dict(a=spaces.Tuple([]), b=spaces.Discrete(1)), "action space")
