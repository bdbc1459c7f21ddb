"""Data sources: each draws documents of one task from a dataset, by a generator that the caller passes.

- `ControlSource`  windows of episodes, with the task's instruction, a quarter of them with a prompt
- `TextSource`     stretches of text
- `PictureSource`  pictures with their captions

To add a kind of data, write a class with the two members of `Source`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from gato_lite.config import TokenSpec
from gato_lite.envs.dataset import Dataset
from gato_lite.generate import picture_tokens
from gato_lite.sequence import Document, Tokens, concatenate, plain
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.episodes import EpisodeTokens, tokenise_episodes, without_last

PROMPT_SHARE = 0.25
"""Share of control documents that begin with a prompt (Reed et al. 2022, section 2.2)."""


_Window = tuple[Tokens, npt.NDArray[np.bool_], npt.NDArray[np.int32]]
"""Tokens, which of them are actions, and the labels."""


class Source(Protocol):
    """Anything documents can be drawn from."""

    name: str

    def draw(self, generator: np.random.Generator, context_length: int) -> Document:
        """One document of at most `context_length` tokens."""
        ...


def mean_length(source: Source, context_length: int, n_draw: int = 200) -> float:
    """Mean tokens of the documents that `source` draws, estimated with a fixed generator."""
    generator = np.random.default_rng(0)
    return float(np.mean([len(source.draw(generator, context_length).tokens) for _ in range(n_draw)]))


class ControlSource:
    """Windows of recorded episodes.

    Args:
        dataset: of kind "control".
        vocabulary: of the model.
        name: shown in logs; None takes the dataset's task.

    Raises:
        ValueError: the dataset is of another kind, or has no episode.
    """

    def __init__(self, dataset: Dataset, vocabulary: Vocabulary, *, name: str | None = None) -> None:
        info = dataset.info
        self.name = name if name is not None else info.task
        self.spec: TokenSpec = info.token_spec
        self.observation_tokenizer = SpaceTokenizer(dataset.observation_space, vocabulary, spec=self.spec)
        self.action_tokenizer = SpaceTokenizer(dataset.action_space, vocabulary, action=True)
        instruction = np.zeros(0, np.int32) if not info.instruction else vocabulary.text.encode(info.instruction)
        self.instruction = plain(instruction)
        self._parts = [self._tokenise(dataset, part, vocabulary) for part in range(dataset.n_parts)]
        self._part_ends = np.cumsum([len(part.episodes) - 1 for part in self._parts])
        if not len(self._part_ends) or not self._part_ends[-1]:
            raise ValueError(f"dataset '{dataset.path}' has no episode; record some first")
        self._longest = max(part.longest_timestep for part in self._parts)

    def _tokenise(self, dataset: Dataset, part: int, vocabulary: Vocabulary) -> EpisodeTokens:
        episodes = dataset.read_part(part)
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
        return int(self._part_ends[-1])

    @property
    def n_tokens(self) -> int:
        """Tokens of all episodes, repeats left out."""
        return int(sum(part.lengths[-1] for part in self._parts))

    def draw(self, generator: np.random.Generator, context_length: int) -> Document:
        """A window of a random episode; a quarter of them after a prompt from another episode.

        Raises:
            ValueError: a timestep of the dataset does not fit into the context.
        """
        budget = context_length - len(self.instruction)
        if self._longest > budget:
            raise ValueError(
                f"one timestep of '{self.name}' is {self._longest} tokens, more than the {budget} that fit; raise "
                "context_length or make its observation smaller with a TokenSpec"
            )
        index = int(generator.integers(self.n_episodes))
        prompt = None
        if generator.random() < PROMPT_SHARE and self.n_episodes > 1:
            other = (index + int(generator.integers(1, self.n_episodes))) % self.n_episodes
            prompt = self._prompt(generator, other, budget // 2)
        window = None if prompt is None else self._window(generator, index, budget - len(prompt[0]))
        if prompt is None or window is None:  # beside a prompt there may be no room for a long timestep
            prompt, window = None, self._window(generator, index, budget)
        pieces = [piece for piece in (prompt, window) if piece is not None]
        n_before = len(self.instruction)
        return Document(
            tokens=concatenate([self.instruction, *(tokens for tokens, _, _ in pieces)]),
            target=np.concatenate([np.zeros(n_before, np.bool_), *(is_action for _, is_action, _ in pieces)]),
            labels=np.concatenate([self.instruction.ids, *(labels for _, _, labels in pieces)]),
        )

    def _episode(self, index: int) -> tuple[EpisodeTokens, int, int]:
        """The part of an episode, its first timestep there, and the one after its last."""
        part_index = int(np.searchsorted(self._part_ends, index, side="right"))
        part = self._parts[part_index]
        local = index - (int(self._part_ends[part_index - 1]) if part_index else 0)
        return part, int(part.episodes[local]), int(part.episodes[local + 1])

    def _window(self, generator: np.random.Generator, index: int, budget: int) -> _Window | None:
        """A window of at most `budget` tokens: the whole episode if it fits, else from a random timestep of it."""
        part, start, stop = self._episode(index)
        first, last = start, part.last_within(start, stop, budget)
        if last < stop:  # the episode is longer than the window: begin anywhere, end where the budget does
            first = int(generator.integers(start - (last - start) // 2, stop))
            first = max(first, start)
            last = part.last_within(first, stop, budget)
        return None if last == first else part.window(first, last)

    def _prompt(self, generator: np.random.Generator, index: int, budget: int) -> _Window | None:
        """A stretch of an episode: half of the time its end, else anywhere (GATO section 2.2)."""
        part, start, stop = self._episode(index)
        first = int(generator.integers(start, stop))
        if generator.random() < 0.5:  # the earliest start from which the end still fits
            first = start
            if part.last_within(start, stop, budget) < stop:
                limit = part.lengths[stop] - budget
                first = min(int(np.searchsorted(part.lengths, limit, side="left")), stop - 1)
                while first < stop - 1 and part.window_length(first, stop) > budget:
                    first += 1
        last = part.last_within(first, stop, budget)
        return None if last == first else part.window(first, last)


class TextSource:
    """Stretches of text documents; each begins with `end` if it begins its document.

    Args:
        texts: documents.
        vocabulary: of the model.
        name: shown in logs.

    Raises:
        ValueError: there is no text.
    """

    def __init__(self, texts: Sequence[str], vocabulary: Vocabulary, *, name: str) -> None:
        self.name = name
        end = np.array([vocabulary.end], np.int32)
        runs = [np.concatenate([end, vocabulary.text.encode(text), end]) for text in texts if text]
        if not runs:
            raise ValueError(f"text source '{name}' is empty, expected at least one document with text")
        self._ids = np.concatenate(runs)
        self._starts = np.concatenate([[0], np.cumsum([len(run) for run in runs])])

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents."""
        return len(self._ids)

    def draw(self, generator: np.random.Generator, context_length: int) -> Document:
        """A stretch of a document chosen in proportion to its length."""
        place = int(generator.integers(len(self._ids)))
        document = int(np.searchsorted(self._starts, place, side="right")) - 1
        start, stop = int(self._starts[document]), int(self._starts[document + 1])
        if stop - start > context_length:
            start = int(generator.integers(start, stop - context_length + 1))
            stop = start + context_length
        ids = self._ids[start:stop]
        target = np.ones(len(ids), np.bool_)
        target[0] = False
        return Document(tokens=plain(ids), target=target, labels=ids)


class PictureSource:
    """Pictures, each followed by its caption and `end`.

    Args:
        pictures: (H, W, C) uint8 arrays.
        captions: one for each.
        vocabulary: of the model.
        name: shown in logs.
        patch_size: side of a patch in pixels, the model's.
        augment: whether each draw varies the picture, see `vary`.

    Raises:
        ValueError: there is no picture.
    """

    def __init__(
        self,
        pictures: Sequence[npt.NDArray[np.uint8]],
        captions: Sequence[str],
        vocabulary: Vocabulary,
        *,
        name: str,
        patch_size: int = 16,
        augment: bool = False,
    ) -> None:
        self.name = name
        if not pictures:
            raise ValueError(f"picture source '{name}' is empty, expected at least one picture with a caption")
        end = np.array([vocabulary.end], np.int32)
        self._vocabulary = vocabulary
        self._patch_size = patch_size
        self._augment = augment
        self._pictures = list(pictures)
        self._captions = [np.concatenate([vocabulary.text.encode(caption), end]) for caption in captions]

    def draw(self, generator: np.random.Generator, context_length: int) -> Document:
        """A picture and its caption, cut at the context's end.

        Raises:
            ValueError: a picture leaves no room for a caption.
        """
        index = int(generator.integers(len(self._pictures)))
        pixels = vary(self._pictures[index], generator) if self._augment else self._pictures[index]
        picture = picture_tokens(pixels, self._vocabulary, self._patch_size)
        if len(picture) >= context_length:
            raise ValueError(
                f"a picture of '{self.name}' is {len(picture)} tokens ({pixels.shape[0]}×{pixels.shape[1]} pixels), "
                f"but a document is at most {context_length} with its caption; raise context_length or shrink the "
                "pictures"
            )
        caption = self._captions[index][: context_length - len(picture)]
        tokens = concatenate([picture, plain(caption)])
        target = np.arange(len(tokens)) >= len(picture)
        return Document(tokens=tokens, target=target, labels=tokens.ids)


def vary(picture: npt.NDArray[np.uint8], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The picture a little turned, scaled, shifted and recoloured, with white where nothing was.

    Args:
        picture: (H, W, 3).
        generator: draws up to 14° of turn, a quarter of scale, 7 % of shift, and saturation, contrast and tint.
    """
    height, width, _ = picture.shape
    turn = generator.uniform(-0.25, 0.25)
    across, down = generator.uniform(0.75, 1.25, 2)
    a, b, d, e = across * np.cos(turn), -np.sin(turn), np.sin(turn), down * np.cos(turn)
    shift_x, shift_y = generator.uniform(-0.075, 0.075, 2) * (width, height)
    x, y = (width - 1) / 2, (height - 1) / 2  # turned about the centre
    affine = (a, b, x - a * x - b * y + shift_x, d, e, y - d * x - e * y + shift_y)
    moved = Image.fromarray(picture).transform(
        (width, height), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR, fillcolor=(255, 255, 255)
    )
    pixels = np.asarray(moved, np.float32)
    grey = pixels.mean(2, keepdims=True)
    pixels = grey + (pixels - grey) * generator.uniform(0.0, 1.4)
    pixels = (pixels - 127.5) * generator.uniform(0.6, 1.4) + 127.5 + generator.uniform(-38.0, 38.0, 3)
    varied: npt.NDArray[np.uint8] = np.clip(pixels, 0, 255).astype(np.uint8)
    return varied
