"""Episodes → documents: the tokens of one part of a dataset, and any window of it by slicing.

A part is tokenised once, into flat arrays; a document is then a slice at timestep boundaries, an instruction before
it, and for some of them a prompt from another episode of the same task. No Python runs for a token.

Source: Reed et al. 2022, section 2.1 (order within a timestep), 2.2 (prompts).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gato_lite.sequence import ACTION_LOCAL, Tokens, concatenate, ranges
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class EpisodeTokens:
    """All timesteps of some episodes of one task, each observation | separator | action, end to end."""

    tokens: Tokens
    is_action: npt.NDArray[np.bool_]
    """(T,) which tokens are action tokens."""
    labels: npt.NDArray[np.int32]
    """(T,) what the loss asks for at each token: the token itself, or for relabelled actions the expert's."""
    repeats: npt.NDArray[np.bool_]
    """(T,) tokens that say again what the previous timestep said; dropped but in a window's first timestep."""
    steps: npt.NDArray[np.int64]
    """(S+1,) first token of each timestep, then T."""
    patches: npt.NDArray[np.int64]
    """(S+1,) first patch of each timestep."""
    pixels: npt.NDArray[np.int64]
    """(P+1,) first pixel value of each patch."""
    chunks: npt.NDArray[np.int64]
    """(S+1,) first chunk of each timestep."""
    episodes: npt.NDArray[np.int64]
    """(E+1,) first timestep of each episode, then S."""
    lengths: npt.NDArray[np.int64]
    """(S+1,) running count of tokens that are not repeats."""
    repeated: npt.NDArray[np.int64]
    """(S,) repeats in each timestep: tokens that it has more of where a window begins with it."""
    patch_id: int
    """The vocabulary's patch token."""
    chunk_id: int
    """The vocabulary's chunk token."""

    @functools.cached_property
    def is_uniform(self) -> bool:
        """Whether all patches have one number of pixels."""
        return bool((np.diff(self.pixels) == self.pixels[1]).all())

    @functools.cached_property
    def has_repeats(self) -> bool:
        """Whether a timestep says again what the one before it said."""
        return bool(self.repeats.any())

    @property
    def longest_timestep(self) -> int:
        """Most tokens of a timestep, with what it repeats."""
        return int(np.diff(self.steps).max(initial=0))

    def window_length(self, first: int, last: int) -> int:
        """Tokens in the window of timesteps [first, last)."""
        return int(self.lengths[last] - self.lengths[first] + self.repeated[first])

    def last_within(self, first: int, stop: int, budget: int) -> int:
        """Largest `last` ≤ `stop` for which the window [first, last) has at most `budget` tokens; may be `first`."""
        limit = self.lengths[first] + (budget - self.repeated[first])
        if self.lengths[stop] <= limit:
            return stop
        return max(first, first - 1 + int(self.lengths[first:stop].searchsorted(limit, side="right")))

    def window(self, first: int, last: int) -> tuple[Tokens, npt.NDArray[np.bool_], npt.NDArray[np.int32]]:
        """Tokens, action flags and labels of the timesteps [first, last)."""
        return self.windows(np.array([first]), np.array([last]))

    def windows(
        self, first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]
    ) -> tuple[Tokens, npt.NDArray[np.bool_], npt.NDArray[np.int32]]:
        """Tokens, action flags and labels of W windows end to end, gathered at once.

        Args:
            first: (W,) first timestep of each window; no window is empty.
            last: (W,) the timestep after its last.
        """
        starts, stops = self.steps[first], self.steps[last]
        places = ranges(starts, stops)  # (T,)
        patches = ranges(self.patches[first], self.patches[last])
        chunks = ranges(self.chunks[first], self.chunks[last])
        if self.has_repeats:
            keep = ~self.repeats[places]
            begins = np.cumsum(stops - starts) - (stops - starts)
            keep[ranges(begins, begins + self.steps[first + 1] - starts)] = True
            ids = self.tokens.ids[places]
            patches, chunks = patches[keep[ids == self.patch_id]], chunks[keep[ids == self.chunk_id]]
            places = places[keep]
        tokens = Tokens(
            ids=self.tokens.ids[places],
            local=self.tokens.local[places],
            pixels=self._pixels(patches),
            patch_shapes=self.tokens.patch_shapes[patches],
            patch_intervals=self.tokens.patch_intervals[patches],
            chunks=self.tokens.chunks[chunks],
        )
        return tokens, self.is_action[places], self.labels[places]

    def _pixels(self, patches: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Pixels of the patches of these numbers, end to end."""
        if not len(patches):
            return self.tokens.pixels[:0]
        size = int(self.pixels[1])
        if self.is_uniform:
            return self.tokens.pixels.reshape(-1, size)[patches].reshape(-1)
        return self.tokens.pixels[ranges(self.pixels[patches], self.pixels[patches + 1])]


def interleave(
    observations: Tokens,
    observation_lengths: npt.NDArray[np.int64],
    repeats: npt.NDArray[np.bool_],
    actions: Tokens,
    action_lengths: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int32],
    episode_lengths: npt.NDArray[np.int64],
    *,
    vocabulary: Vocabulary,
    separator: bool,
) -> EpisodeTokens:
    """Lays S observations and S actions out as timesteps.

    Args:
        observations: tokens of all observations, one after another.
        observation_lengths: (S,) tokens of each.
        repeats: (T_o,) observation tokens that repeat the previous timestep's.
        actions: tokens of all actions.
        action_lengths: (S,) tokens of each.
        labels: (T_a,) token the loss asks for at each action token.
        episode_lengths: (E,) timesteps of each episode, S in all.
        vocabulary: gives the separator, patch and chunk ids.
        separator: whether one stands between observation and action; one always follows an observation without tokens.
    """
    separators = np.where(observation_lengths == 0, 1, int(separator))  # an action always has a token before it
    totals = observation_lengths + separators + action_lengths
    steps = np.concatenate([np.zeros(1, np.int64), np.cumsum(totals)])
    n_token = int(steps[-1])
    ids = np.full(n_token, vocabulary.separator, np.int32)
    local = np.full(n_token, ACTION_LOCAL, np.int16)
    is_action = np.zeros(n_token, np.bool_)
    repeated = np.zeros(n_token, np.bool_)

    at = ranges(steps[:-1], steps[:-1] + observation_lengths)
    ids[at], local[at], repeated[at] = observations.ids, observations.local, repeats
    at = ranges(steps[1:] - action_lengths, steps[1:])
    ids[at], local[at], is_action[at] = actions.ids, actions.local, True
    asked = ids.copy()
    asked[at] = labels

    tokens = Tokens(
        ids=ids,
        local=local,
        pixels=observations.pixels,
        patch_shapes=observations.patch_shapes,
        patch_intervals=observations.patch_intervals,
        chunks=observations.chunks,
    )
    episodes = np.concatenate([np.zeros(1, np.int64), np.cumsum(episode_lengths)])
    return _indexed(tokens, is_action, asked, repeated, steps, episodes, vocabulary)


def _indexed(
    tokens: Tokens,
    is_action: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int32],
    repeats: npt.NDArray[np.bool_],
    steps: npt.NDArray[np.int64],
    episodes: npt.NDArray[np.int64],
    vocabulary: Vocabulary,
) -> EpisodeTokens:
    """Timesteps of tokens, with where the content of each begins."""

    def before(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(flags)])[steps]  # (S+1,)

    lengths = before(~repeats)
    sizes = tokens.patch_shapes.astype(np.int64).prod(1)
    return EpisodeTokens(
        tokens=tokens,
        is_action=is_action,
        labels=labels,
        repeats=repeats,
        steps=steps,
        patches=before(tokens.ids == vocabulary.patch),
        pixels=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
        chunks=before(tokens.ids == vocabulary.chunk),
        episodes=episodes,
        lengths=lengths,
        repeated=np.diff(steps) - np.diff(lengths),
        patch_id=vocabulary.patch,
        chunk_id=vocabulary.chunk,
    )


def said_once(tokens: Tokens, vocabulary: Vocabulary) -> EpisodeTokens:
    """`tokens`, such as an instruction, as an episode of one timestep in which nobody acts."""
    n_token = len(tokens)
    none = np.zeros(n_token, np.bool_)
    return _indexed(tokens, none, tokens.ids, none, np.array([0, n_token]), np.array([0, 1]), vocabulary)


def join(runs: Sequence[EpisodeTokens], vocabulary: Vocabulary) -> EpisodeTokens:
    """The episodes of all `runs`, end to end."""
    return _indexed(
        concatenate([run.tokens for run in runs]),
        np.concatenate([run.is_action for run in runs]),
        np.concatenate([run.labels for run in runs]),
        np.concatenate([run.repeats for run in runs]),
        _joined([run.steps for run in runs]),
        _joined([run.episodes for run in runs]),
        vocabulary,
    )


def _joined(offsets: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Offsets of runs laid end to end, from the offsets of each."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([np.diff(run) for run in offsets]))])


def without_last(
    columns: Mapping[str, Sequence[Any] | npt.NDArray[Any]], lengths: npt.NDArray[np.int64]
) -> dict[str, Sequence[Any] | npt.NDArray[Any]]:
    """Observation columns without each episode's last, on which nobody acted.

    Args:
        columns: by leaf path, sum of (T_e + 1) values each.
        lengths: (E,) timesteps T_e of each episode.
    """
    acted = np.ones(int(lengths.sum()) + len(lengths), np.bool_)
    acted[np.cumsum(lengths + 1) - 1] = False
    kept = np.flatnonzero(acted)
    return {
        path: column[kept] if isinstance(column, np.ndarray) else [column[index] for index in kept.tolist()]
        for path, column in columns.items()
    }


def tokenise_episodes(
    observations: Mapping[str, Sequence[Any] | npt.NDArray[Any]],
    actions: Mapping[str, Sequence[Any] | npt.NDArray[Any]],
    labels: Mapping[str, Sequence[Any] | npt.NDArray[Any]] | None,
    episode_lengths: npt.NDArray[np.int64],
    *,
    observation_tokenizer: SpaceTokenizer,
    action_tokenizer: SpaceTokenizer,
    vocabulary: Vocabulary,
    separator: bool,
) -> EpisodeTokens:
    """Tokens of columns of raw values, each with S rows.

    Raises:
        ValueError: labels and actions differ in their number of tokens, which only spaces of fixed size may have.
    """
    seen, seen_lengths, repeats = observation_tokenizer.encode_many(observations)
    first_steps = np.cumsum(episode_lengths) - episode_lengths
    starts = np.zeros(len(seen_lengths), np.bool_)
    starts[first_steps[episode_lengths > 0]] = True
    repeats = repeats & ~np.repeat(starts, seen_lengths)  # what another episode said is news
    done, done_lengths, _ = action_tokenizer.encode_many(actions)
    asked = done.ids
    if labels is not None:
        asked_tokens, asked_lengths, _ = action_tokenizer.encode_many(labels)
        if not np.array_equal(asked_lengths, done_lengths):
            raise ValueError("relabelled actions must have as many tokens as the actions taken; this space's vary")
        asked = asked_tokens.ids
    return interleave(
        seen,
        seen_lengths,
        repeats,
        done,
        done_lengths,
        asked,
        episode_lengths,
        vocabulary=vocabulary,
        separator=separator,
    )
