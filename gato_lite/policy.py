"""Observations → actions: everything that changes while a model acts lives here, nothing on the model.

A `Policy` has one or many slots. Each slot is an environment with spaces of its own; all slots share every forward.
One forward reads the previous action's last token and the new observation together; each further action token costs
one more, unless it was guessed (`gato_lite/drafts.py`). When a slot's context is full, the older half of its timesteps
is dropped and the rest is read again, so that every prediction is over a contiguous window of an episode, as in
training.

Source: Reed et al. 2022, sections 2.2 (prompts) and 2.5 (deployment).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Discrete
from gymnasium.vector.utils import batch_space, create_empty_array, iterate
from gymnasium.vector.utils import concatenate as stack_values

from gato_lite.cache import Decoder
from gato_lite.config import TokenSpec
from gato_lite.drafts import Drafter
from gato_lite.model import Gato
from gato_lite.run import find_format
from gato_lite.sampling import Legal, Sampler
from gato_lite.sequence import Tokens, concatenate, plain, select, split
from gato_lite.spaces import AnySpace, require_leaf
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary

Observation = Any  # Any: whatever the environment's observation space holds
Action = Any  # Any: whatever its action space holds
Demonstration = Sequence[tuple[Observation, Action]]
"""The timesteps of one episode."""


@dataclass(frozen=True)
class _Language:
    """How one kind of environment is spoken of; slots that speak the same share one."""

    observation: SpaceTokenizer
    action: SpaceTokenizer
    spec: TokenSpec
    instruction: str | None
    ranges: list[tuple[int, int]] | None
    """Legal ids of each action token, where the space has a fixed number of them."""
    values: dict[int, Action] = field(default_factory=dict)
    """What the token of a Discrete action has been decoded to so far."""


@dataclass
class _Timestep:
    """One timestep of a slot: what was seen, and as much of the action as has been chosen."""

    observation: Tokens
    """With the separator, if there is one; nothing left out."""
    repeats: npt.NDArray[np.bool_]
    """Which of its tokens the previous timestep already said."""
    action: list[int] = field(default_factory=list)

    def tokens(self, vocabulary: Vocabulary, *, first: bool) -> Tokens:
        seen = self.observation
        if not first:
            seen = select(seen, ~self.repeats, patch_id=vocabulary.patch, chunk_id=vocabulary.chunk)
        return concatenate([seen, plain(self.action)]) if self.action else seen

    def length(self, *, first: bool) -> int:
        return len(self.repeats) - (0 if first else int(self.repeats.sum())) + len(self.action)


@dataclass
class _Slot:
    """One environment's episode so far."""

    language: _Language
    prefix: Tokens
    """Instruction and prompt: read before every window."""
    timesteps: list[_Timestep] = field(default_factory=list)
    """Those in the window; the last may be under way."""
    seen: Observation = None
    """The last observation, where some of it is written once."""
    unread: list[int] = field(default_factory=list)
    """Action tokens chosen but not in the cache yet."""
    drafter: Drafter = field(default_factory=Drafter)
    draft: list[int] = field(default_factory=list)
    """Action tokens in the cache that were only guessed."""

    def window(self, vocabulary: Vocabulary) -> Tokens:
        return concatenate([self.prefix, *_window_tokens(self.timesteps, vocabulary)])


def _window_tokens(timesteps: Sequence[_Timestep], vocabulary: Vocabulary) -> list[Tokens]:
    return [step.tokens(vocabulary, first=index == 0) for index, step in enumerate(timesteps)]


def _newest(timesteps: list[_Timestep], budget: int) -> list[_Timestep]:
    """The longest run of last timesteps that is a window of at most `budget` tokens; may be empty."""
    length = 0
    for count, step in enumerate(reversed(timesteps)):
        if length + step.length(first=True) > budget:
            return timesteps[len(timesteps) - count :]
        length += step.length(first=False)
    return timesteps


class Policy:
    """A model that acts.

    Args:
        gato: the model.
        observation_space: of one environment; or a list, a slot for each.
        action_space: likewise.
        task: name of the trained task that this is (a list: one for each slot); None finds it by its spaces.
        spec: how observations become tokens; None takes the task's.
        instruction: what to do, in words; None takes the task's.
        prompt: demonstration episodes, each a sequence of (observation, action); as much of their end as fits into
            half the context is read before every episode. Only for slots of one space.
        slots: number of sub-environments of a vector environment, whose `single_*_space` are given; observations and
            actions are then batched as Gymnasium does.
        temperature: 0 takes the likeliest action; above 0 actions are drawn.
        seed: of the draws.
        context_length: tokens that a slot remembers at most; None takes the model's.
        draft: whether the tokens of an action may be guessed and checked in one forward; what is chosen is the same.

    Raises:
        ValueError: an argument does not fit the others, or a prompt's values do not fit the spaces.
        TypeError: a space of an unsupported class.

    Example:
        >>> policy = Policy(gato, env.observation_space, env.action_space)  # doctest: +SKIP
        >>> action = policy.act(observation)  # doctest: +SKIP
    """

    def __init__(
        self,
        gato: Gato,
        observation_space: AnySpace | Sequence[AnySpace],
        action_space: AnySpace | Sequence[AnySpace],
        *,
        task: str | Sequence[str | None] | None = None,
        spec: TokenSpec | None = None,
        instruction: str | None = None,
        prompt: Sequence[Demonstration] = (),
        slots: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        context_length: int | None = None,
        draft: bool = True,
    ) -> None:
        self.gato = gato
        self._drafts = draft
        listed = len(observation_space) if isinstance(observation_space, (list, tuple)) else None
        self._batched = slots is not None
        self._listed = listed is not None or self._batched
        n_slot = slots if slots is not None else 1 if listed is None else listed
        observation_spaces = _per_slot("observation_space", observation_space, n_slot)
        action_spaces = _per_slot("action_space", action_space, n_slot)
        tasks = _per_slot("task", task, n_slot)
        self._sampler = Sampler(temperature, seed)
        self._decoder = Decoder(gato, n_slot, context_length)
        if self._batched:
            self._observation_batch = batch_space(observation_spaces[0], n_slot)
            self._action_space = action_spaces[0]
        self._override = (spec, instruction)
        self._known: list[tuple[AnySpace, AnySpace, str | None, _Language]] = []
        self._slots: list[_Slot] = []
        for seen, done, name in zip(observation_spaces, action_spaces, tasks, strict=True):
            language = self._language(seen, done, name)
            self._slots.append(_Slot(language=language, prefix=self._prefix(language, prompt)))

    @property
    def n_slot(self) -> int:
        """Environments that act together."""
        return len(self._slots)

    def assign(
        self,
        slot: int,
        observation_space: AnySpace,
        action_space: AnySpace,
        task: str | None = None,
        prompt: Sequence[Demonstration] = (),
    ) -> None:
        """Gives a slot another environment, with a new episode; the other slots go on.

        Args:
            slot: which one.
            observation_space: of the new environment.
            action_space: of the new environment.
            task: as for the constructor.
            prompt: as for the constructor, of this slot alone.

        Raises:
            ValueError: the policy acts in a vector environment, whose slots share their spaces.
        """
        if self._batched:
            raise ValueError("slots of a vector environment share their spaces; build the policy with lists of spaces")
        language = self._language(observation_space, action_space, task)
        self._slots[slot] = _Slot(language=language, prefix=self._prefix(language, prompt))
        self._decoder.forget([slot])

    def reset(self, mask: Sequence[bool] | npt.NDArray[np.bool_] | None = None) -> None:
        """Begins a new episode, in the slots where `mask` (all of them if None).

        A vector environment should reset its parts in `AutoresetMode.SAME_STEP`: then `terminated | truncated` is the
        mask. In Gymnasium's default mode the observation of an episode's end comes first, and an action that is
        ignored.

        Raises:
            ValueError: the mask has another length.
        """
        chosen = [True] * self.n_slot if mask is None else [bool(value) for value in mask]
        if len(chosen) != self.n_slot:
            raise ValueError(f"mask must have a value for each slot, expected {self.n_slot}, got {len(chosen)}")
        for slot, begins in zip(self._slots, chosen, strict=True):
            if begins:
                slot.timesteps, slot.seen, slot.unread = [], None, []
        self._decoder.forget([index for index, begins in enumerate(chosen) if begins])

    @torch.inference_mode()
    def act(self, observation: Observation, action_mask: Any = None) -> Action:
        """One action for each slot.

        Args:
            observation: what the environment shows; with several slots a list of them, in which None lets a slot sit
                out, or a vector environment's batch.
            action_mask: (n,) which values of a Discrete action are allowed, as environments give it in `info`; with
                several slots a list of them, None where there is none.

        Returns:
            A member of the action space; with several slots a list (None where the slot sat out), or a batch.

        Raises:
            ValueError: an observation is not one of its space; the message names the leaf.
        """
        observations, masks = self._per_slot_inputs(observation, action_mask)
        active = [index for index, seen in enumerate(observations) if seen is not None]
        if active:
            allowed = {index: self._allowed(index, masks[index]) for index in active}
            self._see(active, observations)
            self._choose(active, self._read(active, observed=True), allowed)
        actions = [self._action(index) if seen is not None else None for index, seen in enumerate(observations)]
        if self._batched:
            out: Any = create_empty_array(self._action_space, self.n_slot)  # Any: whatever the space batches to
            return stack_values(self._action_space, actions, out)
        return actions if self._listed else actions[0]

    def window(self, slot: int = 0) -> Tokens:
        """The tokens that the slot's next prediction is over: what an uncached forward would be given."""
        return self._slots[slot].window(self.gato.vocabulary)

    # -- reading

    def _see(self, active: Sequence[int], observations: Sequence[Observation]) -> None:
        """Appends a timestep to each active slot, or to none if an observation is bad.

        Slots of one language are tokenised together.
        """
        groups: dict[int, list[int]] = {}
        new: dict[int, _Timestep] = {}
        for index in active:
            groups.setdefault(id(self._slots[index].language), []).append(index)
        for members in groups.values():
            language = self._slots[members[0]].language
            stride = 2 if language.spec.once else 1
            rows = []
            for index in members:  # after the previous observation, the tokenizer sees what is said again
                before = self._slots[index].seen
                rows += [observations[index] if before is None else before] * (stride - 1) + [observations[index]]
            new.update(zip(members, self._timesteps(language, rows)[stride - 1 :: stride], strict=True))
        for index, step in new.items():
            slot = self._slots[index]
            if not slot.timesteps:
                step.repeats[:] = False
            slot.timesteps.append(step)
            if slot.language.spec.once:  # a copy: an environment may change what it showed
                slot.seen = copy.deepcopy(observations[index])

    def _read(self, rows: Sequence[int], *, observed: bool) -> torch.Tensor:
        """Reads each row's unread action tokens, its new observation where `observed`, and a draft of what may follow.

        Returns:
            (n, D) hidden states, row after row: the one before each draft token and the one after the last.
        """
        begun: list[int] = []
        going: list[int] = []
        news: list[Tokens] = []
        counts: list[int] = []
        wanted: list[int] = []
        cursors = self._decoder.cursors.tolist()
        for index in rows:
            slot = self._slots[index]
            new = [plain(slot.unread)]
            if observed:
                new.append(slot.timesteps[-1].tokens(self.gato.vocabulary, first=False))
            n_new = sum(map(len, new))
            room = self._decoder.context_length - cursors[index] - n_new
            slot.unread = []
            if cursors[index] == 0 or room < 0:
                begun.append(index)
                continue
            if self._drafts and slot.language.ranges is not None:
                slot.draft = slot.drafter.guess(slot.timesteps[-1].action, room)
            going.append(index)
            news += [*new, plain(slot.draft)] if slot.draft else new
            counts.append(n_new + len(slot.draft))
            wanted.append(len(slot.draft) + 1)
        if not begun:
            return self._decoder.read(going, concatenate(news), counts, wanted)
        hidden = dict(zip(begun, torch.split(self._read_windows(begun), 1), strict=True))
        if going:
            states = self._decoder.read(going, concatenate(news), counts, wanted)
            hidden.update(zip(going, torch.split(states, wanted), strict=True))
        return torch.cat([hidden[index] for index in rows])

    def _read_windows(self, rows: Sequence[int]) -> torch.Tensor:
        """Reads whole windows anew, at an episode's start and after the older half has been dropped; (n, D)."""
        windows = []
        for index in rows:
            slot = self._slots[index]
            room = self._decoder.context_length - len(slot.prefix)
            if self._decoder.cursors[index]:
                slot.timesteps = _newest(slot.timesteps, room // 2) or slot.timesteps[-1:]
            window = slot.window(self.gato.vocabulary)
            if len(window) > self._decoder.context_length:
                raise ValueError(
                    f"one timestep of slot {index} is {len(window) - len(slot.prefix)} tokens and {len(slot.prefix)} "
                    f"come before it, more than the context of {self._decoder.context_length}; raise context_length "
                    "or make the observation smaller with a TokenSpec"
                )
            windows.append(window)
        return self._decoder.read_documents(rows, windows)

    # -- choosing

    def _choose(
        self, active: Sequence[int], hidden: torch.Tensor, allowed: Mapping[int, npt.NDArray[np.int32] | None]
    ) -> None:
        """Chooses action tokens until every active slot's action is whole; the last of each is not read yet."""
        rows, ids, places = self._unfinished(active, allowed)
        hidden = hidden if len(places) == len(hidden) else hidden[places]
        while rows:
            chosen = [int(token) for token in self._sampler.choose(self.gato, hidden, ids)]
            for index in rows:
                n_chosen = len(self._slots[index].draft) + 1
                self._take(index, chosen[:n_chosen])
                chosen = chosen[n_chosen:]
            rows = self._unfinished(rows, allowed)[0]
            if rows:
                hidden = self._read(rows, observed=False)
                ids = self._unfinished(rows, allowed)[1]

    def _take(self, index: int, chosen: list[int]) -> None:
        """Keeps the tokens chosen after a draft's tokens, up to the first that is not what the draft guessed."""
        slot = self._slots[index]
        draft, slot.draft = slot.draft, []
        n_stood = next((n for n, guessed in enumerate(draft) if chosen[n] != guessed), len(draft))
        if draft:
            slot.drafter.record(len(draft), n_stood)
            self._decoder.rewind(index, len(draft) - n_stood)
        slot.timesteps[-1].action += chosen[: n_stood + 1]
        slot.unread = [chosen[n_stood]]

    def _unfinished(
        self, rows: Sequence[int], allowed: Mapping[int, npt.NDArray[np.int32] | None]
    ) -> tuple[list[int], list[Legal], list[int]]:
        """Those of `rows` whose action is not whole, and what is to be chosen for them.

        Returns:
            Rows; legal ids for the next token and for the one after each token of the row's draft, row after row; and
            the places of these choices among those of all `rows`.
        """
        going: list[int] = []
        ids: list[Legal] = []
        places: list[int] = []
        place = 0
        for index in rows:
            slot = self._slots[index]
            action = slot.timesteps[-1].action
            legal = self._legal(index, allowed[index], action)
            if legal is not None:
                going.append(index)
                ids.append(legal)
                for n_read in range(1, len(slot.draft) + 1):
                    further = self._legal(index, allowed[index], [*action, *slot.draft[:n_read]])
                    assert further is not None  # a draft stops before the last token
                    ids.append(further)
                places += range(place, place + len(slot.draft) + 1)
            place += len(slot.draft) + 1
        return going, ids, places

    def _legal(self, index: int, allowed: npt.NDArray[np.int32] | None, action: Sequence[int]) -> Legal | None:
        """Ids that may follow the first tokens of the slot's action; None when it is whole."""
        language = self._slots[index].language
        if language.ranges is not None:
            if len(action) == len(language.ranges):
                return None
            return language.ranges[len(action)] if allowed is None else allowed
        legal = language.action.legal(action)
        return legal if len(legal) else None

    def _allowed(self, index: int, mask: Any) -> npt.NDArray[np.int32] | None:
        """Ids of the values of a Discrete action that `mask` allows; None without a mask."""
        if mask is None:
            return None
        values = np.asarray(mask)
        ranges = self._slots[index].language.ranges
        if ranges is None or len(ranges) != 1 or values.shape != (ranges[0][1] - ranges[0][0],) or not values.any():
            n_value = "" if ranges is None or len(ranges) != 1 else f"{ranges[0][1] - ranges[0][0]} "
            raise ValueError(
                f"action_mask of slot {index} must allow at least one of the {n_value}values of a Discrete action, "
                f"got {mask!r} for {self._slots[index].language.action.space}"
            )
        return (ranges[0][0] + np.flatnonzero(values)).astype(np.int32)

    def _action(self, index: int) -> Action:
        slot = self._slots[index]
        language, chosen = slot.language, slot.timesteps[-1].action
        slot.drafter.finish(chosen)
        if not isinstance(language.action.space, Discrete) or len(chosen) > 1:
            return language.action.decode(plain(chosen))
        if chosen[0] not in language.values:
            language.values[chosen[0]] = language.action.decode(plain(chosen))
        return language.values[chosen[0]]

    # -- setting up

    def _language(self, seen: AnySpace, done: AnySpace, task: str | None) -> _Language:
        for other_seen, other_done, other_task, spoken in self._known:
            if other_task == task and other_seen == seen and other_done == done:
                return spoken
        given, words = self._override
        spec, instruction = find_format(self.gato.formats, seen, done, task, quiet=given is not None)
        spec = spec if given is None else given
        vocabulary = self.gato.vocabulary
        require_leaf(seen, "observation space")
        action = SpaceTokenizer(done, vocabulary, action=True)
        language = _Language(
            observation=SpaceTokenizer(seen, vocabulary, spec=spec),
            action=action,
            spec=spec,
            instruction=instruction if words is None else words,
            ranges=action.legal_ranges,
        )
        self._known.append((seen, done, task, language))
        return language

    def _prefix(self, language: _Language, prompt: Sequence[Demonstration]) -> Tokens:
        """Instruction, then the end of the demonstrations."""
        instruction = plain(self.gato.vocabulary.text.encode(language.instruction or ""))
        budget = self._decoder.context_length // 2 - len(instruction)
        windows: list[list[Tokens]] = []
        for episode in filter(len, reversed(prompt)):
            timesteps = self._timesteps(language, [seen for seen, _ in episode])
            for step, (_, action) in zip(timesteps, episode, strict=True):
                step.action = language.action.encode(action).ids.tolist()
            window = _window_tokens(_newest(timesteps, budget), self.gato.vocabulary)
            budget -= sum(map(len, window))
            windows.insert(0, window)
        return concatenate([instruction, *(tokens for window in windows for tokens in window)])

    def _timesteps(self, language: _Language, observations: Sequence[Observation]) -> list[_Timestep]:
        """A timestep for each observation; what the one before said is marked in all but the first."""
        vocabulary = self.gato.vocabulary
        tokens, lengths, repeats = language.observation.encode_many(language.observation.stack(observations))
        runs = split(tokens, lengths, patch_id=vocabulary.patch, chunk_id=vocabulary.chunk)
        timesteps = []
        for run, repeated in zip(runs, np.split(repeats, np.cumsum(lengths)[:-1]), strict=True):
            if language.spec.separator or not len(run):  # as in training
                run = concatenate([run, plain([vocabulary.separator])])  # noqa: PLW2901
                repeated = np.append(repeated, False)  # noqa: PLW2901
            timesteps.append(_Timestep(run, repeated))
        return timesteps

    def _per_slot_inputs(self, observation: Observation, action_mask: Any) -> tuple[list[Any], list[Any]]:
        if self._batched:
            observations = list(iterate(self._observation_batch, observation))
        else:
            observations = list(observation) if self._listed else [observation]
        masks = list(action_mask) if self._listed and action_mask is not None else [action_mask] * self.n_slot
        for name, values in (("observations", observations), ("action masks", masks)):
            if len(values) != self.n_slot:
                raise ValueError(f"expected {self.n_slot} {name}, one for each slot, got {len(values)}")
        return observations, masks


def _per_slot(name: str, value: Any, n_slot: int) -> list[Any]:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * n_slot
    if len(values) != n_slot:
        raise ValueError(f"expected {n_slot} values of {name}, one for each slot, got {len(values)}")
    return values
