"""Observations → actions: everything that changes while a model acts lives here, nothing on the model.

A `Policy` has one or many slots. Each slot is an environment with spaces of its own; all slots share every forward.
One forward reads the previous action's last token and the new observation together; each further action token costs
one more, unless it was guessed (`gato_lite/drafts.py`). When a slot's context is full, the older half of its timesteps
is dropped and the rest is read again after instruction and prompt, so that every prediction is over a contiguous window
of an episode, as in training.

What a slot does is a function of its own episode: which slots it shares forwards with, and when, changes nothing, as
long as the model acts in float32 (in bfloat16 rounding, which neighbours have a part in, decides too often). A greedy
choice that rounding could decide is made from the slot's window alone, and a draw is a function of the seed, the
episode and its place in it. (That drawn actions never hang on the last bit of a probability is not promised.)

Source: Reed et al. 2022, sections 2.2 (prompts) and 2.5 (deployment).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector.utils import batch_space, create_empty_array
from gymnasium.vector.utils import concatenate as stack_values

from gato_lite.alone import last_hidden
from gato_lite.cache import Decoder
from gato_lite.config import TokenSpec
from gato_lite.drafts import LEAST_CHANCE, LEAST_CHANCE_ALONE, Drafter
from gato_lite.inputs import ObservationError, allowed_values, listed, per_slot
from gato_lite.model import Gato
from gato_lite.sampling import Legal, Sampler, chance
from gato_lite.sequence import Tokens, concatenate, plain
from gato_lite.slots import Action, Demonstration, Observation, Slot, Speaker, Timestep
from gato_lite.spaces import AnySpace


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
        temperature: 0 takes the likeliest action, of continuous ones the median; above 0 actions are drawn.
        seed: of the draws.
        context_length: tokens that a slot remembers at most; None takes the model's.
        draft: whether the tokens of an action may be guessed and checked in one forward; what is chosen is the same, in
            bfloat16 but for rounding.

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
        n_listed = len(observation_space) if isinstance(observation_space, (list, tuple)) else None
        self._batched = slots is not None
        self._listed = n_listed is not None or self._batched
        n_slot = slots if slots is not None else 1 if n_listed is None else n_listed
        if n_slot < 1:
            what = f"slots={slots}" if self._batched else "an empty list of observation spaces"
            raise ValueError(f"a policy must have at least one slot, got {what}")
        observation_spaces = per_slot("observation_space", observation_space, n_slot)
        action_spaces = per_slot("action_space", action_space, n_slot)
        tasks = per_slot("task", task, n_slot)
        self._sampler = Sampler(temperature, seed)
        self._decoder = Decoder(gato, n_slot, context_length)
        if self._batched:
            self._observation_batch = batch_space(observation_spaces[0], n_slot)
            self._action_space = action_spaces[0]
        self._speaker = Speaker(gato, spec, instruction)
        self._slots = [
            self._slot(seen, done, name, prompt)
            for seen, done, name in zip(observation_spaces, action_spaces, tasks, strict=True)
        ]
        self._seed = seed
        self._n_begun = [0] * n_slot
        """Episodes that each slot has begun after its first."""
        self._episodes = [self._counted(slot) for slot in range(n_slot)]
        """What the draws of each slot's episode are a function of."""

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
        episode: int | None = None,
    ) -> None:
        """Gives a slot another environment, with a new episode; the other slots go on.

        Args:
            slot: which one.
            observation_space: of the new environment.
            action_space: of the new environment.
            task: as for the constructor.
            prompt: as for the constructor, of this slot alone.
            episode: number of the episode, which its draws are a function of with the task and the policy's seed,
                whatever slot it is in; None counts the episodes of the slot.

        Raises:
            ValueError: the policy acts in a vector environment, whose slots share their spaces.
        """
        if self._batched:
            raise ValueError("slots of a vector environment share their spaces; build the policy with lists of spaces")
        self._slots[slot] = self._slot(observation_space, action_space, task, prompt)
        self._decoder.forget([slot])
        self._n_begun[slot] += 1
        self._episodes[slot] = self._counted(slot) if episode is None else f"{task} {episode}"

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
                slot.begin()
        begun = [index for index, begins in enumerate(chosen) if begins]
        self._decoder.forget(begun)
        for index in begun:
            self._n_begun[index] += 1
            self._episodes[index] = self._counted(index)

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
            ObservationError: an observation is not one of its space, or an action mask is none; every slot is left as
                it was, and the error has the slot.
            ValueError: there are not as many observations or masks as slots.
        """
        observations, masks = self._per_slot_inputs(observation, action_mask)
        active = [index for index, seen in enumerate(observations) if seen is not None]
        if active:
            allowed = {index: self._allowed(index, masks[index]) for index in active if masks[index] is not None}
            self._see(active, observations)
            self._choose(active, self._read(active, observed=True), allowed)
        actions = [None if seen is None else self._slots[index].act() for index, seen in enumerate(observations)]
        if self._batched:
            out: Any = create_empty_array(self._action_space, self.n_slot)  # Any: whatever the space batches to
            return stack_values(self._action_space, actions, out)
        return actions if self._listed else actions[0]

    def window(self, slot: int = 0) -> Tokens:
        """The tokens that the slot's next prediction is over: what an uncached forward would be given."""
        return self._slots[slot].window(self.gato.vocabulary)

    # -- reading

    def _see(self, active: Sequence[int], observations: Sequence[Observation]) -> None:
        """A timestep more for each active slot, those of one language together; none if an observation is bad."""
        groups: dict[int, list[int]] = {}
        new: dict[int, Timestep] = {}
        for index in active:
            groups.setdefault(id(self._slots[index].language), []).append(index)
        for members in groups.values():
            new.update(zip(members, self._timesteps(members, observations), strict=True))
        for index, step in new.items():
            slot = self._slots[index]
            if len(slot.prefix) + len(step.observation) > self._decoder.context_length:
                raise self._error(index, self._too_long(index, len(step.observation)))
        for index, step in new.items():
            slot = self._slots[index]
            if not slot.timesteps:
                step.repeats[:] = False
            slot.timesteps.append(step)
            slot.n_seen += 1
            if slot.language.spec.once:  # a copy: an environment may change what it showed
                slot.seen = copy.deepcopy(observations[index])

    def _timesteps(self, members: Sequence[int], observations: Sequence[Observation]) -> list[Timestep]:
        """The next timestep of slots that speak the same."""
        language = self._slots[members[0]].language
        stride = 2 if language.spec.once else 1
        rows = []
        for index in members:  # after the previous observation, the tokenizer sees what is said again
            before = self._slots[index].seen
            rows += [observations[index] if before is None else before] * (stride - 1) + [observations[index]]
        try:
            return language.timesteps(rows)[stride - 1 :: stride]
        except (ValueError, TypeError) as error:
            for index in members:  # which one it is
                try:
                    language.timesteps([observations[index]])
                except (ValueError, TypeError) as alone:
                    raise self._error(index, str(alone)) from error
            raise

    def _error(self, index: int, why: str) -> ObservationError:
        slot = self._slots[index]
        return ObservationError(slot=index, task=slot.task, step=slot.n_seen, why=why)

    def _too_long(self, index: int, n_token: int) -> str:
        return (
            f"one timestep of slot {index} is {n_token} tokens and {len(self._slots[index].prefix)} come before it, "
            f"more than the context of {self._decoder.context_length}; raise context_length or make the observation "
            "smaller with a TokenSpec"
        )

    def _read(self, rows: Sequence[int], *, observed: bool) -> torch.Tensor:
        """Reads each row's unread action tokens, its new observation where `observed`, and a draft of what may follow;
        where its window begins anew, all of it after what stays in the cache.

        Returns:
            (n, D) hidden states, row after row: the one before each draft token and the one after the last.
        """
        whole: list[int] = []
        going: list[int] = []
        news: list[Tokens] = []
        counts: list[int] = []
        wanted: list[int] = []
        context_length = self._decoder.context_length
        for index in rows:
            slot, held = self._slots[index], int(self._decoder.cursors[index])
            kept, new = slot.news(self.gato.vocabulary, held, context_length, self._decoder.short, observed=observed)
            if new is None:
                whole.append(index)
                continue
            self._decoder.rewind(index, held - kept)
            n_new = sum(map(len, new))
            if self._drafts and slot.language.ranges is not None:
                slot.draft = slot.drafter.guess(slot.timesteps[-1].action, context_length - kept - n_new)
            going.append(index)
            news += [*new, plain(slot.draft)] if slot.draft else new
            counts.append(n_new + len(slot.draft))
            wanted.append(len(slot.draft) + 1)
        if not whole:
            return self._decoder.read(going, concatenate(news), counts, wanted)
        hidden = dict(zip(whole, torch.split(self._read_windows(whole), 1), strict=True))
        if going:
            states = self._decoder.read(going, concatenate(news), counts, wanted)
            hidden.update(zip(going, torch.split(states, wanted), strict=True))
        return torch.cat([hidden[index] for index in rows])

    def _read_windows(self, rows: Sequence[int]) -> torch.Tensor:
        """Reads whole windows; (n, D)."""
        windows = [self.window(index) for index in rows]
        for index, window in zip(rows, windows, strict=True):
            if len(window) > self._decoder.context_length:
                raise ValueError(self._too_long(index, len(window) - len(self._slots[index].prefix)))
        return self._decoder.read_documents(rows, windows)

    # -- choosing

    def _choose(
        self, active: Sequence[int], hidden: torch.Tensor, allowed: Mapping[int, npt.NDArray[np.int32]]
    ) -> None:
        """Chooses action tokens until every active slot's action is whole; the last of each is not read yet."""
        rows, ids, places = self._unfinished(active, allowed)
        hidden = hidden if len(places) == len(hidden) else hidden[places]
        while rows:
            chosen = self._chosen(rows, hidden, ids)
            for index in rows:
                n_chosen = len(self._slots[index].draft) + 1
                self._decoder.rewind(index, self._slots[index].take(chosen[:n_chosen]))
                chosen = chosen[n_chosen:]
            rows = self._unfinished(rows, allowed)[0]
            if rows:
                hidden = self._read(rows, observed=False)
                ids = self._unfinished(rows, allowed)[1]

    def _chosen(self, rows: Sequence[int], hidden: torch.Tensor, ids: Sequence[Legal]) -> list[int]:
        """A token for each of `ids`: for each row the next, and one after each token of its draft."""
        slots = [(index, n_read) for index in rows for n_read in range(len(self._slots[index].draft) + 1)]
        chances = None
        if self._sampler.temperature > 0.0:
            chances = [
                chance(self._seed, self._episodes[index], slot.n_seen, len(slot.timesteps[-1].action) + n_read)
                for index, n_read in slots
                for slot in [self._slots[index]]
            ]

        def alone(place: int) -> torch.Tensor:
            index, n_read = slots[place]
            return last_hidden(self.gato, concatenate([self.window(index), plain(self._slots[index].draft[:n_read])]))

        return [int(token) for token in self._sampler.choose(self.gato, hidden, ids, chances, alone)]

    def _counted(self, slot: int) -> str:
        """An episode by its place in the policy."""
        return f"slot {slot} {self._n_begun[slot]}"

    def _unfinished(
        self, rows: Sequence[int], allowed: Mapping[int, npt.NDArray[np.int32]]
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
            legal = slot.language.legal(action, allowed.get(index))
            if legal is not None:
                going.append(index)
                ids.append(legal)
                for n_read in range(1, len(slot.draft) + 1):
                    further = slot.language.legal([*action, *slot.draft[:n_read]], allowed.get(index))
                    assert further is not None  # a draft stops before the last token
                    ids.append(further)
                places += range(place, place + len(slot.draft) + 1)
            place += len(slot.draft) + 1
        return going, ids, places

    def _allowed(self, index: int, mask: Any) -> npt.NDArray[np.int32]:
        """Ids of the values of a Discrete action that `mask` allows."""
        language = self._slots[index].language
        try:
            return allowed_values(mask, language.action.space, language.ranges)
        except ValueError as error:
            raise self._error(index, str(error)) from None

    # -- setting up

    def _slot(self, seen: AnySpace, done: AnySpace, task: str | None, prompt: Sequence[Demonstration]) -> Slot:
        language = self._speaker.language(seen, done, task)
        prefix = self._speaker.prefix(language, prompt, self._decoder.context_length // 2)
        drafter = Drafter(LEAST_CHANCE_ALONE if self._decoder.n_row == 1 else LEAST_CHANCE)
        return Slot(language=language, prefix=prefix, task=task, drafter=drafter)

    def _per_slot_inputs(self, observation: Observation, action_mask: Any) -> tuple[list[Any], list[Any]]:
        if not self._listed:
            if observation is None:
                raise self._error(0, "expected an observation, got None")
            return [observation], [action_mask]
        if self._batched:
            observations = listed("observations", observation, self.n_slot, self._observation_batch)
        else:
            observations = listed("observations", observation, self.n_slot)
        masks = [None] * self.n_slot if action_mask is None else listed("action masks", action_mask, self.n_slot)
        return observations, masks
