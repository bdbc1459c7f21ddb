from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.config import TokenSpec
from gato_lite.sequence import ACTION_LOCAL, concatenate, plain
from gato_lite.spaces import FreeText
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.episodes import EpisodeTokens, join, said_once, tokenise_episodes, without_last

SPACE = spaces.Dict(
    goal=spaces.Box(-1, 1, (3,)), grid=spaces.Box(0, 255, (4, 5), np.uint8), say=FreeText(), turn=spaces.Discrete(9)
)
ACTION = spaces.MultiDiscrete([3, 4])
ONCE = ("goal", "grid", "say")
VOCABULARY = Vocabulary.shipped()


def values(n: int, seed: int = 0, change: float = 0.3) -> list[dict[str, Any]]:
    """Observations whose leaves each change now and then."""
    generator = np.random.default_rng(seed)
    SPACE["goal"].seed(seed)
    SPACE["grid"].seed(seed)
    rows: list[dict[str, Any]] = []
    for step in range(n):
        new = {"goal": SPACE["goal"].sample(), "grid": SPACE["grid"].sample(), "say": f"go {step}", "turn": step % 9}
        kept = {path for path in ONCE if rows and generator.random() > change}
        rows.append({path: rows[-1][path] if path in kept else new[path] for path in new})
    return rows


def tokenised(
    rows: list[dict[str, Any]], lengths: list[int], spec: TokenSpec, labels: list[np.ndarray] | None = None
) -> tuple[EpisodeTokens, list[np.ndarray]]:
    generator = np.random.default_rng(5)
    done = [generator.integers([3, 4]) for _ in rows]
    observation, action = SpaceTokenizer(SPACE, spec=spec), SpaceTokenizer(ACTION, action=True)
    tokens = tokenise_episodes(
        observation.stack(rows),
        action.stack(done),
        None if labels is None else action.stack(labels),
        np.array(lengths),
        observation_tokenizer=observation,
        action_tokenizer=action,
        vocabulary=VOCABULARY,
        separator=spec.separator,
    )
    return tokens, done


def by_hand(
    rows: list[dict[str, Any]], done: list[np.ndarray], spec: TokenSpec
) -> tuple[list[int], bytes, list[float]]:
    """Ids, pixels and chunks of a window, written down timestep by timestep."""
    ids: list[int] = []
    pixels, chunks = b"", []  # type: bytes, list[float]
    action = SpaceTokenizer(ACTION, action=True)
    for step, (row, act) in enumerate(zip(rows, done, strict=True)):
        for path in ("say", "grid", "goal", "turn"):
            same = step and np.array_equal(row[path], rows[step - 1][path])
            if same and path in spec.once:
                continue
            leaf = SpaceTokenizer(SPACE[path]).encode(row[path])
            ids += leaf.ids.tolist()
            pixels += leaf.pixels.tobytes()
            chunks += leaf.chunks.ravel().tolist()
        ids += [VOCABULARY.separator] * spec.separator
        ids += action.encode(act).ids.tolist()
    return ids, pixels, chunks


@pytest.mark.parametrize("separator", [False, True])
@pytest.mark.parametrize("once", [(), ("say",), ONCE])
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    window=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    seed=st.integers(0, 20),
)
def test_windows_are_written_down_by_hand(
    once: tuple[str, ...], separator: bool, lengths: list[int], window: tuple[int, int], seed: int
) -> None:
    spec = TokenSpec(once=once, separator=separator)
    rows = values(sum(lengths), seed)
    tokens, done = tokenised(rows, lengths, spec)
    episode = window[0] % len(lengths)
    start, stop = int(tokens.episodes[episode]), int(tokens.episodes[episode + 1])
    first = start + window[0] % (stop - start)
    last = first + 1 + window[1] % (stop - first)
    made, is_action, labels = tokens.window(first, last)
    ids, pixels, chunks = by_hand(rows[first:last], done[first:last], spec)
    assert made.ids.tolist() == ids
    assert made.pixels.tobytes() == pixels
    assert made.chunks.ravel().tolist() == chunks
    assert len(made) == tokens.window_length(first, last)
    assert labels.tolist() == ids
    assert is_action.sum() == 2 * (last - first)
    assert (made.local[is_action] == ACTION_LOCAL).all()


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), budget=st.integers(0, 60), place=st.integers(0, 99))
def test_the_last_timestep_within_a_budget(lengths: list[int], budget: int, place: int) -> None:
    tokens, _ = tokenised(values(sum(lengths), place), lengths, TokenSpec(once=ONCE))
    episode = place % len(lengths)
    start, stop = int(tokens.episodes[episode]), int(tokens.episodes[episode + 1])
    first = start + place % (stop - start)
    last = tokens.last_within(first, stop, budget)
    assert first <= last <= stop
    assert last == first or tokens.window_length(first, last) <= budget
    assert last == stop or tokens.window_length(first, last + 1) > budget


def test_an_episode_says_everything_anew() -> None:
    row = values(1)[0]
    tokens, _ = tokenised([row] * 4, [2, 2], TokenSpec(once=ONCE))
    n_first, n_next = (tokens.window_length(step, step + 1) for step in (0, 1))
    assert n_first == n_next  # a window that begins there says it all
    assert tokens.window_length(0, 2) < 2 * n_first
    assert tokens.window_length(0, 2) == tokens.window_length(2, 4)
    assert tokens.lengths[2] == tokens.lengths[4] - tokens.lengths[2]
    assert tokens.longest_timestep == n_first


def test_labels_stand_beside_the_actions_taken() -> None:
    rows = values(3)
    better = [np.array([2, 3])] * 3
    tokens, done = tokenised(rows, [3], TokenSpec(), better)
    made, is_action, labels = tokens.window(0, 3)
    taken = SpaceTokenizer(ACTION, action=True)
    assert made.ids[is_action].tolist() == concatenate([taken.encode(action) for action in done]).ids.tolist()
    assert labels[is_action].tolist() == taken.encode(better[0]).ids.tolist() * 3
    assert labels[~is_action].tolist() == made.ids[~is_action].tolist()


def test_an_observation_without_tokens_is_followed_by_a_separator() -> None:
    """An action always has a token before it that it is predicted from."""
    observation, action = SpaceTokenizer(FreeText()), SpaceTokenizer(spaces.Discrete(2), action=True)
    tokens = tokenise_episodes(
        {"": ["", "a"]},
        {"": np.array([0, 1])},
        None,
        np.array([2]),
        observation_tokenizer=observation,
        action_tokenizer=action,
        vocabulary=VOCABULARY,
        separator=False,
    )
    zero, one = VOCABULARY.discrete_ids[0], VOCABULARY.discrete_ids[1]
    assert tokens.window(0, 2)[0].ids.tolist() == [
        VOCABULARY.separator,
        zero,
        *VOCABULARY.text.encode("a").tolist(),
        one,
    ]


def test_labels_of_another_size() -> None:
    space = spaces.Text(4, min_length=0)
    action = SpaceTokenizer(space, action=True)
    with pytest.raises(ValueError, match="relabelled actions must have as many tokens as the actions taken"):
        tokenise_episodes(
            {"": np.zeros(1, np.int64)},
            {"": ["a"]},
            {"": ["zqzq"]},
            np.array([1]),
            observation_tokenizer=SpaceTokenizer(spaces.Discrete(2)),
            action_tokenizer=action,
            vocabulary=VOCABULARY,
            separator=False,
        )


def test_the_last_observation_is_left_out() -> None:
    columns = without_last({"a": np.arange(7), "b": list("abcdefg")}, np.array([2, 3]))
    assert columns["a"].tolist() == [0, 1, 3, 4, 5]  # type: ignore[union-attr]
    assert columns["b"] == ["a", "b", "d", "e", "f"]


def test_free_tokens_have_no_place() -> None:
    assert plain([1]).local.tolist() == [ACTION_LOCAL]


@pytest.mark.parametrize("once", [(), ONCE])
def test_many_windows_at_once_are_the_windows_end_to_end(once: tuple[str, ...]) -> None:
    tokens, _ = tokenised(values(12), [5, 7], TokenSpec(once=once))
    pairs = [(5, 9), (0, 2), (11, 12), (2, 5), (5, 9)]
    made, is_action, labels = tokens.windows(np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]))
    single = [tokens.window(*pair) for pair in pairs]
    joined = concatenate([run for run, _, _ in single])
    for name in ("ids", "local", "pixels", "patch_shapes", "patch_intervals", "chunks"):
        assert np.array_equal(getattr(made, name), getattr(joined, name)), name
    assert np.array_equal(is_action, np.concatenate([flags for _, flags, _ in single]))
    assert np.array_equal(labels, np.concatenate([asked for _, _, asked in single]))
    assert len(made) == sum(tokens.window_length(*pair) for pair in pairs)


def test_patches_of_several_shapes_keep_their_pixels() -> None:
    space = spaces.Box(0, 255, (20, 24, 3), np.uint8)
    space.seed(0)
    rows = [space.sample() for _ in range(4)]
    observation, action = SpaceTokenizer(space), SpaceTokenizer(spaces.Discrete(2), action=True)
    tokens = tokenise_episodes(
        observation.stack(rows),
        action.stack([0, 1, 0, 1]),
        None,
        np.array([4]),
        observation_tokenizer=observation,
        action_tokenizer=action,
        vocabulary=VOCABULARY,
        separator=False,
    )
    made, _, _ = tokens.windows(np.array([3, 1]), np.array([4, 3]))
    assert not tokens.is_uniform
    assert np.array_equal(made.pixels, np.concatenate([observation.encode(rows[index]).pixels for index in (3, 1, 2)]))


def test_joined_episodes_are_those_of_each_run() -> None:
    runs = [tokenised(values(5, seed), [2, 3], TokenSpec(once=ONCE))[0] for seed in range(3)]
    whole = join([said_once(plain(VOCABULARY.text.encode("Go.")), VOCABULARY), *runs], VOCABULARY)
    assert whole.episodes.tolist() == [0, 1, 3, 6, 8, 11, 13, 16]
    assert VOCABULARY.text.decode(whole.window(0, 1)[0].ids) == "Go."
    for index, run in enumerate(runs):
        for made, own in zip(whole.window(5 * index + 2, 5 * index + 6), run.window(1, 5), strict=True):
            if isinstance(made, np.ndarray):
                assert np.array_equal(made, own)
            else:
                assert made.pixels.tobytes() == own.pixels.tobytes()
                assert made.chunks.tobytes() == own.chunks.tobytes()
                assert made.ids.tolist() == own.ids.tolist()
