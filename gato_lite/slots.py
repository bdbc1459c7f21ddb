"""What a slot of a policy remembers of its episode, and how its environment is spoken of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Discrete

from gato_lite.config import TokenSpec
from gato_lite.drafts import Drafter
from gato_lite.inputs import SpaceCheck
from gato_lite.model import Gato
from gato_lite.run import find_format
from gato_lite.sampling import Legal
from gato_lite.sequence import Tokens, concatenate, plain, select, split
from gato_lite.spaces import AnySpace, require_leaf
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary

Observation = Any  # Any: whatever the environment's observation space holds
Action = Any  # Any: whatever its action space holds
Demonstration = Sequence[tuple[Observation, Action]]
"""The timesteps of one episode."""


@dataclass(frozen=True)
class Language:
    """How one kind of environment is spoken of; slots that speak the same share one."""

    observation: SpaceTokenizer
    action: SpaceTokenizer
    spec: TokenSpec
    instruction: str | None
    check: SpaceCheck
    """Of observations, in what their tokenizer lets pass."""
    ranges: list[tuple[int, int]] | None
    """Legal ids of each action token, where the space has a fixed number of them."""
    values: dict[int, Action] = field(default_factory=dict)
    """What the token of a Discrete action has been decoded to so far."""

    def timesteps(self, observations: Sequence[Observation]) -> list[Timestep]:
        """A timestep for each observation; what the one before said is marked in all but the first.

        Raises:
            ValueError: an observation is not one of its space.
        """
        vocabulary = self.observation.vocabulary
        columns = self.observation.stack(observations)
        tokens, lengths, repeats = self.observation.encode_many(columns)
        self.check.hold(columns)
        runs = split(tokens, lengths, patch_id=vocabulary.patch, chunk_id=vocabulary.chunk)
        timesteps = []
        for run, repeated in zip(runs, np.split(repeats, np.cumsum(lengths)[:-1]), strict=True):
            if self.spec.separator or not len(run):  # as in training
                run = concatenate([run, plain([vocabulary.separator])])  # noqa: PLW2901
                repeated = np.append(repeated, False)  # noqa: PLW2901
            timesteps.append(Timestep(run, repeated))
        return timesteps

    def legal(self, action: Sequence[int], allowed: npt.NDArray[np.int32] | None) -> Legal | None:
        """Ids that may follow the first tokens of an action; None when it is whole.

        Args:
            action: these tokens.
            allowed: the ids of the values that a Discrete action may have; None allows all.
        """
        if self.ranges is None:
            legal = self.action.legal(action)
            return legal if len(legal) else None
        if len(action) == len(self.ranges):
            return None
        return self.ranges[len(action)] if allowed is None else allowed

    def decode(self, action: Sequence[int]) -> Action:
        """The action that these tokens are; of a Discrete space each is made once."""
        if not isinstance(self.action.space, Discrete) or len(action) > 1:
            return self.action.decode(plain(action))
        if action[0] not in self.values:
            self.values[action[0]] = self.action.decode(plain(action))
        return self.values[action[0]]


@dataclass
class Timestep:
    """One timestep of a slot: what was seen, and as much of the action as has been chosen."""

    observation: Tokens
    """With the separator, if there is one; nothing left out."""
    repeats: npt.NDArray[np.bool_]
    """Which of its tokens the previous timestep already said."""
    action: list[int] = field(default_factory=list)

    def tokens(self, vocabulary: Vocabulary, *, first: bool) -> Tokens:
        """Its tokens, as the first of a window or as a later one."""
        seen = self.observation
        if not first:
            seen = select(seen, ~self.repeats, patch_id=vocabulary.patch, chunk_id=vocabulary.chunk)
        return concatenate([seen, plain(self.action)]) if self.action else seen

    def length(self, *, first: bool) -> int:
        """How many tokens these are."""
        return len(self.repeats) - (0 if first else int(self.repeats.sum())) + len(self.action)


@dataclass
class Slot:
    """One environment's episode so far."""

    language: Language
    prefix: Tokens
    """Instruction and prompt: read before every window."""
    task: str | None = None
    """Its name, where it was given."""
    n_seen: int = 0
    """Observations of the episode."""
    timesteps: list[Timestep] = field(default_factory=list)
    """Those in the window; the last may be under way."""
    seen: Observation = None
    """The last observation, where some of it is written once."""
    unread: list[int] = field(default_factory=list)
    """Action tokens chosen but not in the cache yet."""
    drafter: Drafter = field(default_factory=Drafter)
    draft: list[int] = field(default_factory=list)
    """Action tokens in the cache that were only guessed."""

    def begin(self) -> None:
        """A new episode."""
        self.timesteps, self.seen, self.unread, self.n_seen = [], None, [], 0

    @property
    def is_full(self) -> bool:
        """Whether the window has more timesteps than its kind of environment is to show."""
        history = self.language.spec.history
        return history is not None and len(self.timesteps) > history

    def news(
        self, vocabulary: Vocabulary, held: int, context_length: int, short: int, *, observed: bool
    ) -> tuple[int, list[Tokens] | None]:
        """Takes what is to be read before the next choice: what is new, or a window from its start.

        A window begins where an episode does, and where its older half has to be dropped, which is done here: then
        instruction and prompt stay in the cache as they were read.

        Args:
            vocabulary: of the model.
            held: tokens of the slot in the cache.
            context_length: tokens that it has room for.
            short: most tokens of a window that are read after what the cache holds, with what is new in other slots.
            observed: whether the last timestep's observation is new.

        Returns:
            How many of the tokens in the cache stay, and what is read after them; None where that is more than `short`,
            and the whole window is to be read.
        """
        unread, self.unread = self.unread, []
        if held and not self.is_full:
            new = [plain(unread)]
            if observed:
                new.append(self.timesteps[-1].tokens(vocabulary, first=False))
            if held + sum(map(len, new)) <= context_length:
                return held, new
        kept, before = 0, [self.prefix]
        if held:
            kept, before = len(self.prefix), []
            self.drop_older((context_length - kept) // 2)
        window = [*before, *window_tokens(self.timesteps, vocabulary)]
        is_short = sum(map(len, window)) <= min(short, context_length - kept)
        return kept, window if is_short else None

    def drop_older(self, budget: int) -> None:
        """Drops the older half of the window, or more where `budget` tokens are less; the last timestep stays."""
        history = self.language.spec.history
        kept = self.timesteps if history is None else self.timesteps[-((history + 1) // 2) :]
        self.timesteps = newest(kept, budget) or kept[-1:]

    def take(self, chosen: Sequence[int]) -> int:
        """Keeps the tokens chosen after a draft's tokens, up to the first that is not what the draft guessed.

        Returns:
            How many of the draft's tokens did not stand, and are in the cache.
        """
        draft, self.draft = self.draft, []
        n_stood = next((n for n, guessed in enumerate(draft) if chosen[n] != guessed), len(draft))
        action = self.timesteps[-1].action
        if draft:
            self.drafter.record(len(draft), n_stood)
            self.drafter.expect(len(action) + n_stood + 1, chosen[n_stood + 1 :])
        action += chosen[: n_stood + 1]
        self.unread = [chosen[n_stood]]
        return len(draft) - n_stood

    def act(self) -> Action:
        """The action that was chosen."""
        chosen = self.timesteps[-1].action
        self.drafter.finish(chosen)
        return self.language.decode(chosen)

    def window(self, vocabulary: Vocabulary) -> Tokens:
        """All that the next prediction is over."""
        return concatenate([self.prefix, *window_tokens(self.timesteps, vocabulary)])


def window_tokens(timesteps: Sequence[Timestep], vocabulary: Vocabulary) -> list[Tokens]:
    """The tokens of each timestep of a window."""
    return [step.tokens(vocabulary, first=index == 0) for index, step in enumerate(timesteps)]


def newest(timesteps: list[Timestep], budget: int) -> list[Timestep]:
    """The longest run of last timesteps that is a window of at most `budget` tokens; may be empty."""
    length = 0
    for count, step in enumerate(reversed(timesteps)):
        if length + step.length(first=True) > budget:
            return timesteps[len(timesteps) - count :]
        length += step.length(first=False)
    return timesteps


class Speaker:
    """Finds how a kind of environment is spoken of, and remembers it.

    Args:
        gato: the model.
        spec: how observations become tokens; None takes the task's.
        instruction: what to do, in words; None takes the task's.
    """

    def __init__(self, gato: Gato, spec: TokenSpec | None, instruction: str | None) -> None:
        self._gato = gato
        self._override = (spec, instruction)
        self._known: list[tuple[AnySpace, AnySpace, str | None, Language]] = []

    def language(self, seen: AnySpace, done: AnySpace, task: str | None) -> Language:
        """Of an environment with these spaces of observations and of actions."""
        for other_seen, other_done, other_task, spoken in self._known:
            if other_task == task and other_seen == seen and other_done == done:
                return spoken
        given, words = self._override
        spec, instruction = find_format(self._gato.formats, seen, done, task, quiet=given is not None)
        spec = spec if given is None else given
        vocabulary = self._gato.vocabulary
        require_leaf(seen, "observation space")
        observation = SpaceTokenizer(seen, vocabulary, spec=spec)
        action = SpaceTokenizer(done, vocabulary, action=True)
        language = Language(
            observation=observation,
            action=action,
            spec=spec,
            instruction=instruction if words is None else words,
            check=SpaceCheck(observation),
            ranges=action.legal_ranges,
        )
        self._known.append((seen, done, task, language))
        return language

    def prefix(self, language: Language, prompt: Sequence[Demonstration], room: int) -> Tokens:
        """Instruction, then as much of the demonstrations' end as fits with it into `room` tokens.

        Of each no more timesteps than a window of the task shows, as in training (`TokenSpec.history`).
        """
        vocabulary = self._gato.vocabulary
        instruction = plain(vocabulary.text.encode(language.instruction or ""))
        budget = room - len(instruction)
        windows: list[list[Tokens]] = []
        for whole in filter(len, reversed(prompt)):
            episode = whole if language.spec.history is None else whole[-language.spec.history :]
            timesteps = language.timesteps([seen for seen, _ in episode])
            for step, (_, action) in zip(timesteps, episode, strict=True):
                step.action = language.action.encode(action).ids.tolist()
            window = window_tokens(newest(timesteps, budget), vocabulary)
            budget -= sum(map(len, window))
            windows.insert(0, window)
        return concatenate([instruction, *(tokens for window in windows for tokens in window)])
