"""Guessed actions are those that would have been chosen, and as often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from gato_lite.config import TokenSpec
from gato_lite.drafts import LEAST_CHANCE, LEAST_CHANCE_ALONE, TRY_EVERY, WORTH, Drafter
from gato_lite.model import Gato
from gato_lite.policy import Policy
from gato_lite.sequence import Tokens, concatenate, plain

CountReads = Callable[[Policy], list[int]]

ARM = spaces.Box(-1, 1, (6,))
MANY = spaces.MultiDiscrete([5, 3, 1500])
SPACES: list[Any] = [ARM, spaces.Discrete(3), MANY, ARM, spaces.Text(3, min_length=0)]


@pytest.mark.parametrize("context_length", [23, 200])
def test_greedy_actions_are_the_same_through_overflows(
    make: Callable[..., Gato], count_reads: CountReads, context_length: int
) -> None:
    gato = make(context_length=context_length)
    with_drafts, without = (
        Policy(gato, [spaces.Discrete(4)] * 5, SPACES, draft=draft) for draft in (True, False)
    )  # fmt: skip
    reads, reads_without = count_reads(with_drafts), count_reads(without)
    for slot in (0, 2, 3):
        with_drafts._slots[slot].drafter.least_chance = 0.0  # always on
    generator = np.random.default_rng(0)
    for step in range(60):
        mask = np.eye(3, dtype=np.int8)[step % 3]
        shown = [None if generator.random() < 0.1 else step // 20 for _ in range(5)]
        for actions in zip(
            with_drafts.act(shown, [None, mask, None, None, None]),
            without.act(shown, [None, mask, None, None, None]),
            strict=True,
        ):
            for a, b in zip(*actions, strict=True) if isinstance(actions[0], tuple) else [actions]:
                np.testing.assert_array_equal(a, b)
        for slot in range(5):
            assert with_drafts.window(slot).ids.tolist() == without.window(slot).ids.tolist()
            assert with_drafts._decoder.cursors[slot] == without._decoder.cursors[slot]
    assert with_drafts._slots[0].drafter.n_guessed > 0
    assert len(reads) <= len(reads_without)


def test_an_action_that_comes_again_takes_one_forward(gato: Gato, count_reads: CountReads) -> None:
    policy = Policy(gato, spaces.Discrete(4), ARM)
    twin = Policy(gato, spaces.Discrete(4), ARM)
    policy.act(0)
    twin.act(0)
    policy._slots[0].drafter.previous = policy._slots[0].language.action.encode(twin.act(0)).ids.tolist()
    reads = count_reads(policy)
    policy.act(0)
    assert reads == [2 + 5]
    assert policy._slots[0].drafter.n_stood == 5
    assert policy._decoder.cursors.tolist() == twin._decoder.cursors.tolist()


def test_an_action_is_guessed_where_the_window_is_one_timestep(gato: Gato, count_reads: CountReads) -> None:
    spec = TokenSpec(history=1)
    policy, twin = (
        Policy(gato, spaces.Discrete(4), ARM, spec=spec, instruction="Go.", draft=draft) for draft in (True, False)
    )  # fmt: skip
    assert np.array_equal(policy.act(0), twin.act(0))  # which is the guess, and what is seen is the same again
    reads = count_reads(policy)
    assert np.array_equal(policy.act(0), twin.act(0))
    assert reads == [1 + 5]
    assert policy.window().ids.tolist() == twin.window().ids.tolist()


def test_what_was_drawn_after_a_wrong_guess_is_the_next_guess(gato: Gato) -> None:
    slot = Policy(gato, spaces.Discrete(4), ARM)._slots[0]
    slot.timesteps = slot.language.timesteps([0])
    slot.drafter.finish([1, 2, 3, 4, 5, 6])
    slot.draft = [1, 2, 3]
    assert slot.take([1, 9, 8, 7]) == 2
    assert slot.timesteps[0].action == [1, 9]
    assert slot.drafter.guess([1, 9], 40) == [8, 7, 5]
    slot.draft = [8, 7]
    assert slot.take([8, 7, 0]) == 0
    assert slot.timesteps[0].action == [1, 9, 8, 7, 0]
    assert slot.drafter.previous == [1, 2, 8, 7, 5, 6]


def test_a_slot_alone_guesses_where_fewer_guesses_stand(gato: Gato) -> None:
    alone, together = (Policy(gato, [spaces.Discrete(4)] * n, [ARM] * n)._slots[0].drafter for n in (1, 2))
    for drafter in (alone, together):
        drafter.finish([1, 2, 3])
        drafter.chance = (LEAST_CHANCE + LEAST_CHANCE_ALONE) / 2
    assert alone.guess([], 9) == [1, 2]
    assert together.guess([], 9) == []


@pytest.mark.parametrize("chance", [0.11, 0.3, 0.5, 0.8, 1.0])
def test_as_many_tokens_are_guessed_as_are_likely_to_stand(chance: float) -> None:
    drafter = Drafter(LEAST_CHANCE_ALONE, list(range(50)), chance)
    n_guessed = len(drafter.guess([], 40))
    assert n_guessed == 40 if chance == 1.0 else chance ** (n_guessed + 1) < WORTH <= chance**n_guessed


@pytest.mark.parametrize("chance", [0.2, 0.6, 0.9])
def test_how_likely_a_guess_stands_is_learnt_whatever_is_guessed(chance: float) -> None:
    drafter, generator = Drafter(0.0), np.random.default_rng(0)
    seen = []
    for _ in range(4000):
        n_guessed = int(generator.integers(1, 7))
        stands = generator.random(n_guessed) < chance
        drafter.record(n_guessed, n_guessed if stands.all() else int(stands.argmin()))
        seen.append(drafter.chance)
    assert np.mean(seen[1000:]) == pytest.approx(chance, abs=0.03)


@pytest.mark.parametrize("guess", [[0, 0, 0], [1, 2, 1], None])
def test_draws_are_distributed_as_without_drafts(
    make: Callable[..., Gato], uncached: Callable[[Gato, Tokens], torch.Tensor], guess: list[int] | None
) -> None:
    """Chi-square of 4,000 drawn actions against the products of their tokens' probabilities."""
    gato, space, n_slot = make(), spaces.MultiDiscrete([3, 3, 2]), 200
    policy = Policy(gato, [spaces.Discrete(4)] * n_slot, [space] * n_slot, temperature=3.0, seed=1)
    first = gato.vocabulary.discrete_ids.start
    counts = np.zeros((3, 3, 2))
    for _ in range(20):
        policy.reset()
        for slot in policy._slots:
            slot.drafter.chance = 1.0
            slot.language.values.clear()
        policy._decoder.read(range(n_slot), plain([7] * n_slot), [1] * n_slot)
        for index, slot in enumerate(policy._slots):
            previous = guess or [index % 3, index // 3 % 3, index % 2]
            slot.drafter.previous = [first + value for value in previous]
        for action in policy.act([2] * n_slot):
            counts[tuple(action)] += 1
    stood = sum(slot.drafter.n_stood for slot in policy._slots)
    assert 0 < stood < sum(slot.drafter.n_guessed for slot in policy._slots)
    expected = np.zeros((3, 3, 2))
    seen = concatenate([plain([7]), policy._slots[0].timesteps[0].observation])

    @torch.inference_mode()
    def probabilities(prefix: list[int], n_value: int) -> np.ndarray:
        hidden = uncached(gato, concatenate([seen, plain([first + value for value in prefix])]))
        return (gato.logits(hidden[None], slice(first, first + n_value))[0].double() / 3.0).softmax(-1).numpy()

    for a, p_a in enumerate(probabilities([], 3)):
        for b, p_b in enumerate(probabilities([a], 3)):
            expected[a, b] = p_a * p_b * probabilities([a, b], 2)
    assert counts.sum() == 4000
    chi_square = float(((counts - 4000 * expected) ** 2 / (4000 * expected)).sum())
    assert chi_square < 40.8  # 17 degrees of freedom: exceeded once in a thousand


def test_guesses_that_do_not_stand_are_given_up_and_tried_again() -> None:
    drafter = Drafter()
    assert drafter.guess([], 9) == []
    drafter.finish([1, 2, 3])
    assert drafter.guess([], 9) == [1, 2]
    assert drafter.guess([1], 9) == [2]
    assert drafter.guess([1, 2], 9) == drafter.guess([], 0) == []
    while drafter.chance >= LEAST_CHANCE:
        drafter.record(2, 0)
    n_tried = 0
    for _ in range(10 * TRY_EVERY):
        drafter.finish([1, 2, 3])
        if drafter.guess([], 9):
            n_tried += 1
            drafter.record(2, 0)
    assert n_tried == 10
    for _ in range(40):
        drafter.record(2, 2)
    assert drafter.guess([], 9) == [1, 2]
