"""Episodes → documents: the tokens of one part of a dataset, and any window of it by slicing.

A part is tokenised once, into flat arrays; a document is then a slice at timestep boundaries, an instruction before
it, and for some of them a prompt from another episode of the same task. No Python runs for a token.

Source: Reed et al. 2022, section 2.1 (order within a timestep), 2.2 (prompts).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gato_lite.sequence import ACTION_LOCAL, Tokens, concatenate, offsets_of, ranges
from gato_lite.tokenizers.ragged import Item, merge, total
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary

Steps = int | npt.NDArray[np.int64]
"""A timestep, or several, each by its number among all."""


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
    episodes: npt.NDArray[np.int64]
    """(E+1,) first timestep of each episode, then S."""
    vocabulary: Vocabulary

    @functools.cached_property
    def patches(self) -> npt.NDArray[np.int64]:
        """(S+1,) first patch of each timestep."""
        return offsets_of(self.tokens.ids == self.vocabulary.patch)[self.steps]

    @functools.cached_property
    def pixels(self) -> npt.NDArray[np.int64]:
        """(P+1,) first pixel value of each patch."""
        return offsets_of(self.tokens.patch_shapes.astype(np.int64).prod(1))

    @functools.cached_property
    def chunks(self) -> npt.NDArray[np.int64]:
        """(S+1,) first chunk of each timestep."""
        return offsets_of(self.tokens.ids == self.vocabulary.chunk)[self.steps]

    @functools.cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(S+1,) running count of tokens that are not repeats."""
        return offsets_of(~self.repeats)[self.steps]

    @functools.cached_property
    def begins(self) -> npt.NDArray[np.int64]:
        """(S,) what the running count is taken from in a window that begins with each timestep, repeats and all."""
        return self.lengths[1:] - np.diff(self.steps)

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

    def window_length(self, first: Steps, last: Steps) -> npt.NDArray[np.int64]:
        """Tokens in the windows of timesteps [first, last), each of at least one; numbers or arrays of them."""
        return np.asarray(self.lengths[last] - self.begins[first])

    def last_within(self, first: Steps, stop: Steps, budget: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Largest `last` ≤ `stop` for which the window [first, last) has at most `budget` tokens; may be `first`."""
        within = self.lengths.searchsorted(self.begins[first] + budget, side="right") - 1
        return np.minimum(np.maximum(within, first), stop)

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
            begins = offsets_of(stops - starts)[:-1]
            keep[ranges(begins, begins + self.steps[first + 1] - starts)] = True
            ids = self.tokens.ids[places]
            patches, chunks = patches[keep[ids == self.vocabulary.patch]], chunks[keep[ids == self.vocabulary.chunk]]
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
    counts = [observation_lengths, separators, action_lengths]
    n_separator = int(separators.sum())

    def laid_out(seen: npt.NDArray[Item], between: int, done: npt.NDArray[Item]) -> npt.NDArray[Item]:
        return merge([seen, np.full(n_separator, between, seen.dtype), done], counts)

    return EpisodeTokens(
        tokens=replace(
            observations,
            ids=laid_out(observations.ids, vocabulary.separator, actions.ids),
            local=laid_out(observations.local, ACTION_LOCAL, actions.local),
        ),
        is_action=laid_out(np.zeros_like(repeats), 0, np.ones(len(actions), np.bool_)),
        labels=laid_out(observations.ids, vocabulary.separator, labels),
        repeats=laid_out(repeats, 0, np.zeros(len(actions), np.bool_)),
        steps=offsets_of(total(counts)),
        episodes=offsets_of(episode_lengths),
        vocabulary=vocabulary,
    )


def said_once(tokens: Tokens, vocabulary: Vocabulary) -> EpisodeTokens:
    """`tokens`, such as an instruction, as an episode of one timestep in which nobody acts."""
    none = np.zeros(len(tokens), np.bool_)
    return EpisodeTokens(
        tokens=tokens,
        is_action=none,
        labels=tokens.ids,
        repeats=none,
        steps=np.array([0, len(tokens)]),
        episodes=np.array([0, 1]),
        vocabulary=vocabulary,
    )


def join(runs: Sequence[EpisodeTokens], vocabulary: Vocabulary) -> EpisodeTokens:
    """The episodes of all `runs`, end to end."""
    return EpisodeTokens(
        tokens=concatenate([run.tokens for run in runs]),
        is_action=np.concatenate([run.is_action for run in runs]),
        labels=np.concatenate([run.labels for run in runs]),
        repeats=np.concatenate([run.repeats for run in runs]),
        steps=offsets_of(np.concatenate([np.diff(run.steps) for run in runs])),
        episodes=offsets_of(np.concatenate([np.diff(run.episodes) for run in runs])),
        vocabulary=vocabulary,
    )


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
