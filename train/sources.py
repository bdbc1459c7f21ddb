"""Data sources: each draws documents of one task from a dataset, many at once, by a generator that the caller passes.

- `ControlSource`   windows of episodes, with the task's instruction, a quarter of them with a prompt
- `TextSource`      stretches of text, a quarter of them begun by a prompt
- `ExchangeSource`  captions, questions, translations, conversations (`train/exchanges.py`)

To add a kind of data, write a class with the two members of `Source`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gato_lite.config import TokenSpec
from gato_lite.envs.dataset import Dataset, DatasetError, Episodes
from gato_lite.exchange import text_tokens
from gato_lite.sequence import Document, offsets_of, plain, split
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.episodes import EpisodeTokens, join, said_once, tokenise_episodes, without_last

PROMPT_SHARE = 0.25
"""Share of control documents that begin with a prompt (Reed et al. 2022, section 2.2), and here of texts too."""


_Windows = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""First timestep of each, and the one after its last; the same where there is none."""


class Source(Protocol):
    """Anything documents can be drawn from."""

    name: str

    def draw(self, generator: np.random.Generator, context_length: int, n: int) -> list[Document]:
        """`n` documents of at most `context_length` tokens each."""
        ...


def mean_length(source: Source, context_length: int, n_draw: int = 200) -> float:
    """Mean tokens of the documents that `source` draws, estimated with a fixed generator."""
    documents = source.draw(np.random.default_rng(0), context_length, n_draw)
    return float(np.mean([len(document.tokens) for document in documents]))


class ControlSource:
    """Windows of recorded episodes.

    Args:
        dataset: of kind "control".
        vocabulary: of the model.

    Raises:
        ValueError: the dataset is of another kind, or has no episode.
        DatasetError: a value in it does not fit its space; the message names file, episode, key and step.
    """

    def __init__(self, dataset: Dataset, vocabulary: Vocabulary) -> None:
        info = dataset.info
        self.name = info.task
        self.origin = str(dataset.path)
        self.spec: TokenSpec = info.spec
        self.observation_tokenizer = SpaceTokenizer(dataset.observation_space, vocabulary, spec=self.spec)
        if not self.observation_tokenizer.leaves:
            raise ValueError(
                f"dataset '{dataset.path}': expected its TokenSpec to keep a leaf of the observation, got none"
            )
        self.action_tokenizer = SpaceTokenizer(dataset.action_space, vocabulary, action=True)
        instruction = np.zeros(0, np.int32) if not info.instruction else vocabulary.text.encode(info.instruction)
        self.instruction = plain(instruction)
        parts = [part for group in dataset.groups() for part in self._tokenise_group(dataset, group, vocabulary)]
        if not any(len(part.episodes) > 1 for part in parts):
            raise ValueError(f"dataset '{dataset.path}' has no episode; record some first")
        self._longest = max(part.longest_timestep for part in parts)
        self._tokens = join([said_once(self.instruction, vocabulary), *parts], vocabulary)
        """The instruction as timestep 0, then all episodes."""
        self._episodes = self._tokens.episodes[1:]

    def _tokenise_group(self, dataset: Dataset, group: list[int], vocabulary: Vocabulary) -> list[EpisodeTokens]:
        """Tokens of neighbouring parts: of all together, or one by one where something is wrong, which then is told."""
        if len(group) > 1 and (episodes := dataset.read_sound_parts(group)) is not None:
            with contextlib.suppress(ValueError):
                return [self._tokens_of(episodes, vocabulary)]
        return [self._tokenise(dataset, part, vocabulary) for part in group]

    def _tokenise(self, dataset: Dataset, part: int, vocabulary: Vocabulary) -> EpisodeTokens:
        episodes = dataset.read_part(part)
        for problem in dataset.problems(part, episodes):  # of a stranger's files nothing is known
            raise DatasetError(problem)
        try:
            return self._tokens_of(episodes, vocabulary)
        except ValueError as error:  # a tokenizer knows neither file nor episode
            raise DatasetError(f"{dataset.path / dataset.info.parts[part].file}: {error}") from error

    def _tokens_of(self, episodes: Episodes, vocabulary: Vocabulary) -> EpisodeTokens:
        return tokenise_episodes(
            without_last(episodes.observations, episodes.lengths),
            episodes.actions,
            episodes.labels,
            episodes.lengths,
            observation_tokenizer=self.observation_tokenizer,
            action_tokenizer=self.action_tokenizer,
            vocabulary=vocabulary,
            separator=self.spec.separator,
        )

    @property
    def n_episodes(self) -> int:
        """Episodes to draw from."""
        return len(self._episodes) - 1

    @property
    def n_tokens(self) -> int:
        """Tokens of all episodes, repeats left out."""
        return int(self._tokens.lengths[-1]) - len(self.instruction)

    def draw(self, generator: np.random.Generator, context_length: int, n: int) -> list[Document]:
        """Windows of random episodes; a quarter of them after a prompt from another episode.

        Raises:
            ValueError: a timestep of the dataset does not fit into the context.
        """
        budget = context_length - len(self.instruction)
        if self._longest > budget:
            raise ValueError(
                f"one timestep of '{self.name}' is {self._longest} tokens, more than the {budget} that fit; raise "
                "context_length or make its observation smaller with a TokenSpec"
            )
        first, last, rows = self._choose(generator.random((n, 6)), budget)
        is_there = last > first  # (n, 3)
        lengths = (self._tokens.window_length(first, last) * is_there).sum(1)
        tokens, target, labels = self._tokens.windows(first[is_there], last[is_there])
        vocabulary = self._tokens.vocabulary
        runs = split(tokens, lengths, patch_id=vocabulary.patch, chunk_id=vocabulary.chunk)
        documents, start = [], 0
        for run, stop, made_of in zip(runs, np.cumsum(lengths).tolist(), rows, strict=True):
            documents.append(
                Document(
                    tokens=run,
                    target=target[start:stop],
                    labels=labels[start:stop],
                    origin=self.origin,
                    rows=made_of,
                )
            )
            start = stop
        return documents

    def _choose(
        self, chances: npt.NDArray[np.float64], budget: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[tuple[int, ...]]]:
        """The windows of n documents: instruction, prompt if any, and episode.

        Args:
            chances: (n, 6) numbers in [0, 1) for each: episode, whether there is a prompt, its episode, whether it is
                that one's end, else where in it the prompt begins, and where the window does.
            budget: tokens that may follow the instruction.

        Returns:
            (n, 3) first timestep of each window and the one after its last, the same where there is none; and the
            episodes that each document is made of, that of its prompt first.
        """
        n_episodes = len(self._episodes) - 1
        index = (chances[:, 0] * n_episodes).astype(np.int64)
        first, last = np.zeros((2, len(index), 3), np.int64)
        last[:, 0] = len(self.instruction) > 0
        first[:, 2], last[:, 2] = self._window(chances[:, 5], index, budget)
        rows: list[tuple[int, ...]] = [(episode,) for episode in index.tolist()]
        asked = np.flatnonzero(chances[:, 1] < PROMPT_SHARE)
        if len(asked) and n_episodes > 1:
            _, _, of_other, of_end, of_prompt, of_window = chances[asked].T
            other = (index[asked] + 1 + (of_other * (n_episodes - 1)).astype(np.int64)) % n_episodes
            begin, end = self._prompt(of_end, of_prompt, other, budget // 2)
            start, stop = self._window(of_window, index[asked], budget - self._tokens.window_length(begin, end))
            fits = (end > begin) & (stop > start)  # beside a prompt there may be no room for a long timestep
            both = asked[fits]
            first[both, 1], last[both, 1] = begin[fits], end[fits]
            first[both, 2], last[both, 2] = start[fits], stop[fits]
            for document, episode in zip(both.tolist(), other[fits].tolist(), strict=True):
                rows[document] = (episode, *rows[document])
        return first, last, rows

    def _window(
        self, chances: npt.NDArray[np.float64], index: npt.NDArray[np.int64], budget: int | npt.NDArray[np.int64]
    ) -> _Windows:
        """Windows of at most `budget` tokens: the whole episode if it fits, else from a random timestep of it."""
        start, stop = self._episodes[index], self._episodes[index + 1]
        last = self._last(start, stop, budget)
        # An episode that is longer than the window begins anywhere, and ends where the budget does.
        earliest = start - (last - start) // 2
        first = np.maximum(start, earliest + (chances * (stop - earliest)).astype(np.int64))
        first = np.where(last < stop, first, start)
        return first, self._last(first, stop, budget)

    def _last(
        self, first: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], budget: int | npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Where the longest window from `first` ends: at `stop`, or where tokens or timesteps are too many."""
        if self.spec.history is not None:
            stop = np.minimum(stop, first + self.spec.history)
        return self._tokens.last_within(first, stop, budget)

    def _prompt(
        self, end: npt.NDArray[np.float64], chances: npt.NDArray[np.float64], index: npt.NDArray[np.int64], budget: int
    ) -> _Windows:
        """Stretches of episodes: half of the time their end, else anywhere (GATO section 2.2)."""
        start, stop = self._episodes[index], self._episodes[index + 1]
        anywhere = start + (chances * (stop - start)).astype(np.int64)
        # Of an end, the earliest start from which it still fits.
        lengths, history = self._tokens.lengths, self.spec.history
        earliest = start if history is None else np.maximum(start, stop - history)
        at_end = np.minimum(np.maximum(earliest, lengths.searchsorted(lengths[stop] - budget)), stop - 1)
        while (over := (at_end < stop - 1) & (self._tokens.window_length(at_end, stop) > budget)).any():
            at_end = at_end + over  # with what its first timestep repeats
        first = np.where(end < 0.5, at_end, anywhere)
        return first, self._last(first, stop, budget)


class TextSource:
    """Stretches of text documents; each begins with `end` if it begins its document.

    In `PROMPT_SHARE` of them a first part, of any length, is a prompt and the rest its answer, so that the model goes
    on with a prompt as it does with its own text. The loss asks for all of the text.

    Args:
        texts: documents.
        vocabulary: of the model.
        name: shown in logs.
        origin: the dataset they are from.
        rows: of each text in that dataset; None counts them.

    Raises:
        ValueError: there is no text.
    """

    def __init__(
        self,
        texts: Sequence[str],
        vocabulary: Vocabulary,
        *,
        name: str,
        origin: str = "",
        rows: Sequence[int] | None = None,
    ) -> None:
        self.name = name
        self._origin = origin
        numbered = zip(range(len(texts)) if rows is None else rows, texts, strict=True)
        self._rows = [row for row, text in numbered if text]
        self._end = vocabulary.end
        end = np.array([self._end], np.int32)
        runs = [np.concatenate([end, vocabulary.text.encode(text), end]) for text in texts if text]
        if not runs:
            raise ValueError(f"text source '{name}' is empty, expected at least one document with text")
        self._ids = np.concatenate(runs)
        self._starts = offsets_of([len(run) for run in runs])

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents."""
        return len(self._ids)

    def draw(self, generator: np.random.Generator, context_length: int, n: int) -> list[Document]:
        """Stretches of documents chosen in proportion to their length."""
        chosen = self._starts.searchsorted(generator.integers(len(self._ids), size=n), side="right") - 1
        starts, stops = self._starts[chosen], self._starts[chosen + 1]
        latest = np.maximum(stops - context_length, starts)
        starts = generator.integers(starts, latest + 1)
        stops = np.minimum(stops, starts + context_length)
        n_prompt = generator.integers(stops - starts) * (generator.random(n) < PROMPT_SHARE)
        documents = []
        for index, start, stop, n_said in zip(
            chosen.tolist(), starts.tolist(), stops.tolist(), n_prompt.tolist(), strict=True
        ):
            ids = self._ids[start:stop]
            target = np.ones(len(ids), np.bool_)
            target[0] = False
            rows = (self._rows[index],)
            documents.append(
                Document(
                    tokens=text_tokens(ids, self._end, n_said),
                    target=target,
                    labels=ids,
                    origin=self._origin,
                    rows=rows,
                )
            )
        return documents
