from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from gato_lite.cache import SHORT, Decoder
from gato_lite.config import TokenSpec
from gato_lite.fixed_reads import MOST_NEW
from gato_lite.model import Gato
from gato_lite.policy import Policy
from gato_lite.run import task_format
from gato_lite.sequence import Tokens, concatenate, plain, split
from gato_lite.spaces import FreeText
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.train.episodes import tokenise_episodes

Uncached = Callable[[Gato, Tokens], torch.Tensor]
CountReads = Callable[[Policy], list[int]]

GRID = spaces.Dict(
    direction=spaces.Discrete(4), image=spaces.Box(0, 255, (7, 7, 3), np.uint8), mission=FreeText()
)  # fmt: skip
REACH = spaces.Dict(
    goal=spaces.Box(-1, 1, (40,)), map=spaces.Box(0, 255, (4, 4), np.uint8), place=spaces.Box(-9, 9, (3,))
)
NESTED = spaces.Dict(
    grip=spaces.Discrete(3, start=-1),
    move=spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([5, 3000])]),
)
TASKS: dict[str, tuple[gym.Space[Any], gym.Space[Any], TokenSpec, str | None]] = {
    "cart": (spaces.Box(-np.inf, np.inf, (4,)), spaces.Discrete(2), TokenSpec(), "Balance the pole."),
    "lake": (spaces.Discrete(4000), spaces.Discrete(4), TokenSpec(), None),
    "grid": (GRID, spaces.Discrete(7), TokenSpec(leaves=("image", "mission"), once=("mission",)), None),
    "reach": (REACH, spaces.Box(-2, 2, (3,)), TokenSpec(once=("goal", "map"), separator=True), "Reach it."),
    "talk": (FreeText(), spaces.Text(5, min_length=0), TokenSpec(), None),
    "nested": (spaces.Box(0, 255, (9, 17), np.uint8), NESTED, TokenSpec(separator=True), None),
    "list": (
        spaces.Sequence(spaces.Discrete(4)),
        spaces.OneOf([spaces.Discrete(3), spaces.Box(0, 1)]),
        TokenSpec(),
        "Go.",
    ),
    "brief": (
        spaces.Dict(move=spaces.Box(-1, 1, (3,)), sign=spaces.Text(3, min_length=0, charset="ab")),
        spaces.Box(-1, 1, (2,)),
        TokenSpec(history=3, once=("sign",)),
        "Reach it.",
    ),
    "now": (spaces.Box(-1, 1, (3,)), spaces.Discrete(3), TokenSpec(history=1), "Go."),
}


def formats(gato: Gato, *names: str) -> Gato:
    gato.formats = tuple(task_format(name, *TASKS[name]) for name in names or TASKS)
    return gato


class Fake:
    """An environment's side of a task: drawn observations, in which what is written once seldom changes."""

    def __init__(self, name: str, seed: int) -> None:
        self.space, self.action_space, self.spec, self.instruction = copy.deepcopy(TASKS[name])
        self.name = name
        self.generator = np.random.default_rng(seed)
        self.once: dict[str, Any] = {}
        self.action_space.seed(seed)
        if name not in {"talk", "grid"}:
            self.space.seed(seed)

    def text(self) -> str:
        words = ["", "go to the red ball", "open", "é▁", "pick up a key"]
        return words[int(self.generator.integers(len(words)))]

    def observe(self) -> Any:
        if self.name == "talk":
            return self.text()
        if self.name == "list":
            return tuple(int(value) for value in self.generator.integers(4, size=self.generator.integers(4)))
        if self.name == "grid":
            value = {"direction": np.int64(1), "image": self.generator.integers(0, 11, (7, 7, 3), dtype=np.uint8)}
            value["mission"] = self.text()
        else:
            value = self.space.sample()
        for path in self.spec.once:
            if path not in self.once or self.generator.random() < 0.2:
                self.once[path] = value[path]
        return {**value, **self.once} if self.spec.once else value


def hold_to_uncached(policy: Policy, uncached: Uncached) -> list[float]:
    """Compares whatever an action token is chosen from with an uncached forward; the list fills with differences."""
    differences: list[float] = []
    rows: list[Tokens] = []
    unfinished, choose = policy._unfinished, policy._sampler.choose

    def watched_unfinished(indices: Any, allowed: Any) -> Any:
        going, ids, places = unfinished(indices, allowed)
        rows.clear()
        for index in going:
            draft = policy._slots[index].draft
            rows.extend(concatenate([policy.window(index), plain(draft[:n])]) for n in range(len(draft) + 1))
        return going, ids, places

    def watched_choose(gato: Gato, hidden: torch.Tensor, ids: Any, *more: Any) -> Any:
        assert len(rows) == len(hidden) == len(ids)
        for window, state in zip(rows, hidden, strict=True):
            expected = gato.logits(uncached(gato, window)[None])[0]
            differences.append(float((gato.logits(state[None])[0] - expected).abs().max()))
        rows.clear()
        return choose(gato, hidden, ids, *more)

    policy._unfinished = watched_unfinished  # type: ignore[method-assign]
    policy._sampler.choose = watched_choose  # type: ignore[method-assign]
    return differences


@pytest.mark.parametrize("temperature, short", [(0.0, 0), (0.0, SHORT), (1.5, 6), (1.5, SHORT)])
def test_the_cache_is_exact_through_many_overflows(
    make: Callable[..., Gato], uncached: Uncached, temperature: float, short: int
) -> None:
    """Slots of every kind in one policy, some of which sit out, begin anew, or change their task."""
    gato = formats(make(context_length=40))
    names = [*TASKS, "grid", "reach"]
    fakes = [Fake(name, seed) for seed, name in enumerate(names)]
    policy = Policy(
        gato,
        [fake.space for fake in fakes],
        [fake.action_space for fake in fakes],
        task=names,
        temperature=temperature,
    )
    policy._decoder.short = short
    differences = hold_to_uncached(policy, uncached)
    generator = np.random.default_rng(1)
    overflows = np.zeros(len(names), int)
    for step in range(40):
        held = policy._decoder.cursors.copy()
        out = generator.random(len(names)) < 0.15
        actions = policy.act([None if sits else fake.observe() for fake, sits in zip(fakes, out, strict=True)])
        overflows += policy._decoder.cursors < held
        for fake, action, sits in zip(fakes, actions, out, strict=True):
            assert (action is None) == sits
            assert sits or fake.action_space.contains(action)
        if step == 25:
            policy.reset([index % 3 == 0 for index in range(len(names))])
            fakes[1] = Fake("cart", 99)
            policy.assign(1, fakes[1].space, fakes[1].action_space, "cart")
    assert max(differences) < 1e-4
    assert len(differences) > 500
    assert np.median(overflows) >= 2
    assert (overflows[[2, 3, 5]] >= 2).all()


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_slot_reads_what_training_reads(make: Callable[..., Gato], name: str) -> None:
    """The tokens before every prediction are those of a training window that ends there."""
    gato = formats(make(context_length=60))
    fake = Fake(name, 3)
    policy = Policy(gato, fake.space, fake.action_space, task=name, draft=False)
    observation_tokenizer = SpaceTokenizer(fake.space, spec=fake.spec)
    action_tokenizer = SpaceTokenizer(fake.action_space, action=True)
    seen: list[Any] = []
    done: list[Any] = []
    dropped = 0

    def choose(gato: Gato, hidden: torch.Tensor, legal: Any, *_: Any) -> list[int]:
        """The next token of the last action in `done`, which has to be legal."""
        wanted = int(action_tokenizer.encode(done[-1]).ids[len(policy._slots[0].timesteps[-1].action)])
        assert wanted in (range(*legal[0]) if isinstance(legal[0], tuple) else legal[0])
        return [wanted]

    policy._sampler.choose = choose  # type: ignore[method-assign, assignment]
    for step in range(1, 31):
        seen.append(fake.observe())
        done.append(fake.action_space.sample())
        policy.act(seen[-1])
        episode = tokenise_episodes(
            observation_tokenizer.stack(seen),
            action_tokenizer.stack(done),
            None,
            np.array([step]),
            observation_tokenizer=observation_tokenizer,
            action_tokenizer=action_tokenizer,
            vocabulary=gato.vocabulary,
            separator=fake.spec.separator,
        )
        n_kept = len(policy._slots[0].timesteps)
        window, is_action, _ = episode.window(step - n_kept, step)
        instruction = gato.vocabulary.text.encode(fake.instruction or "")
        acted = policy.window()
        assert acted.ids.tolist() == [*instruction.tolist(), *window.ids.tolist()]
        assert acted.local[len(instruction) :].tolist() == window.local.tolist()
        for field in ("pixels", "patch_shapes", "patch_intervals", "chunks"):
            assert np.array_equal(getattr(acted, field), getattr(window, field)), field
        assert len(acted) <= 60 + is_action.sum()
        dropped = max(dropped, step - n_kept)
    assert dropped > 0


def test_half_of_the_context_is_kept(make: Callable[..., Gato]) -> None:
    gato = make(context_length=16)
    policy = Policy(gato, spaces.Discrete(4), spaces.Discrete(2))
    kept = []
    for step in range(40):
        policy.act(step % 4)
        kept.append(len(policy._slots[0].timesteps))
    assert kept[:8] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert kept[8:13] == [4, 5, 6, 7, 8]
    assert set(kept[8:]) == {4, 5, 6, 7, 8}


def test_half_of_the_room_after_the_instruction_is_kept(make: Callable[..., Gato]) -> None:
    policy = Policy(make(context_length=24), spaces.Discrete(4), spaces.Discrete(2), instruction="Go.")
    room = 24 - len(policy._slots[0].prefix)
    assert (room // 2 + 1) // 2 < (24 // 2 + 1) // 2
    kept = []
    for step in range(40):
        policy.act(step % 4)
        kept.append(len(policy._slots[0].timesteps))
    assert min(kept[room // 2 + 1 :]) == (room // 2 + 1) // 2  # two tokens each, the last without its action


def test_an_action_that_outgrows_the_context(make: Callable[..., Gato]) -> None:
    policy = Policy(make(context_length=16), spaces.Discrete(4), spaces.MultiDiscrete([2] * 30), draft=False)
    with pytest.raises(ValueError, match="one timestep of slot 0 is 17 tokens and 0 come before it"):
        policy.act(1)


@pytest.mark.parametrize("history, counts", [(1, [1] * 6), (2, [1, 2, 1, 2, 1, 2]), (4, [1, 2, 3, 4, 2, 3, 4, 2])])
def test_no_more_history_than_the_task_is_to_show(make: Callable[..., Gato], history: int, counts: list[int]) -> None:
    policy = Policy(make(context_length=64), spaces.Discrete(4), spaces.Discrete(2), spec=TokenSpec(history=history))
    kept = []
    for step in range(len(counts)):
        policy.act(step % 4)
        kept.append(len(policy._slots[0].timesteps))
    assert kept == counts


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_a_slot_does_depends_on_its_episode_alone(make: Callable[..., Gato], temperature: float) -> None:
    """Also where the ids of an action are so alike that rounding would decide, which differs from batch to batch."""
    gato = make(context_length=64, seed=3)
    if not temperature:
        bins = gato.vocabulary.bin_ids
        with torch.no_grad():
            alike = gato.embedding.tokens.weight[bins.start : bins.stop]
            alike[:] = alike[:1] * (1 + 1e-7 * torch.randn(alike.shape, generator=torch.Generator().manual_seed(0)))
    space = spaces.Box(-1, 1, (3,))

    def play(slot: int, n_slot: int) -> list[Any]:
        policy = Policy(gato, [space] * n_slot, [space] * n_slot, temperature=temperature, seed=9)
        policy.assign(slot, space, space, episode=17)
        generator = np.random.default_rng(5)
        actions = []
        for step in range(30):
            shown: list[Any] = [None if (step + other) % 4 == 0 else np.ones(3) * other / 9 for other in range(n_slot)]
            shown[slot] = generator.uniform(-1, 1, 3)
            actions.append(policy.act(shown)[slot])
        return actions

    expected = play(0, 1)
    for slot, n_slot in ((0, 2), (3, 6), (7, 9)):
        np.testing.assert_array_equal(play(slot, n_slot), expected)


def test_episodes_of_a_slot_draw_other_numbers(gato: Gato) -> None:
    policy = Policy(gato, spaces.Discrete(4), spaces.Discrete(1000), temperature=2.0)
    episodes = []
    for begin in (lambda: None, policy.reset, lambda: policy.assign(0, spaces.Discrete(4), spaces.Discrete(1000))):
        begin()
        episodes.append([policy.act(step % 4) for step in range(8)])
    assert len({tuple(map(int, episode)) for episode in episodes}) == 3


def test_greedy_actions_of_a_slot_do_not_depend_on_the_others(make: Callable[..., Gato]) -> None:
    gato = formats(make(context_length=64, seed=3))

    def play(name: str, others: list[str]) -> list[Any]:
        names = [*others, name]
        fakes = [Fake(other, seed + 50) for seed, other in enumerate(others)] + [Fake(name, 7)]
        policy = Policy(gato, [fake.space for fake in fakes], [fake.action_space for fake in fakes], task=names)
        actions = []
        for step in range(25):
            shown = [None if step % 4 == slot % 5 else fake.observe() for slot, fake in enumerate(fakes[:-1])]
            actions.append(policy.act([*shown, fakes[-1].observe()])[-1])
        return actions

    for name in ("cart", "grid", "reach", "talk"):
        alone, together = play(name, []), play(name, ["lake", "nested", "grid", "talk", name])
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("temperature", [0.0, 5.0])
@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(5, start=-2),
        spaces.MultiDiscrete([[2, 3], [4, 2000]]),
        spaces.MultiBinary([2, 2]),
        spaces.Box(np.array([-1, 0, -np.inf], np.float32), np.array([1, 0, np.inf], np.float32)),
        spaces.Box(-(2**40), 2**40, (2,), np.int64),
        spaces.Box(0, 255, (2, 2, 3), np.uint8),
        spaces.Text(6, min_length=2, charset="abc é"),
        spaces.Tuple([spaces.Discrete(2), spaces.Dict(a=spaces.Box(0, 1))]),
        spaces.OneOf([spaces.Discrete(3), spaces.Text(3)]),
        spaces.Dict({}),
    ],
    ids=str,
)
def test_actions_are_in_the_space(gato: Gato, space: spaces.Space[Any], temperature: float) -> None:
    policy = Policy(gato, spaces.Discrete(4), space, temperature=temperature, seed=4)
    for step in range(8):
        action = policy.act(step % 4)
        assert space.contains(action), action


def test_drawn_actions_repeat_with_their_seed(gato: Gato) -> None:
    def play(seed: int) -> list[list[float]]:
        policy = Policy(gato, spaces.Discrete(4), spaces.Box(-1, 1, (3,)), temperature=1.0, seed=seed)
        return [policy.act(step % 4).tolist() for step in range(6)]

    assert play(1) == play(1)
    assert play(1) != play(2)


def test_temperature_widens_the_draw(make: Callable[..., Gato]) -> None:
    policy = Policy(make(), spaces.Discrete(4), spaces.Discrete(50), temperature=100.0)
    drawn = []
    for _ in range(60):
        policy.reset()
        drawn.append(int(policy.act(1)))
    assert len(set(drawn)) > 20


def test_an_action_mask_is_kept_to(gato: Gato) -> None:
    policy = Policy(gato, [spaces.Discrete(4)] * 3, [spaces.Discrete(6, start=10)] * 3, temperature=3.0)
    for step in range(20):
        masks = [np.eye(6, dtype=np.int8)[step % 6], None, np.array([0, 1, 0, 0, 1, 0], np.int8)]
        actions = policy.act([0, 1, 2], masks)
        assert actions[0] == 10 + step % 6
        assert actions[2] in (11, 14)


@pytest.mark.parametrize("mask", [np.zeros(6), np.ones(5), np.ones((2, 3))])
def test_a_bad_mask_leaves_the_episode_as_it_was(gato: Gato, mask: np.ndarray) -> None:
    policy = Policy(gato, spaces.Discrete(4), spaces.Discrete(6))
    policy.act(1)
    before = policy.window().ids.tolist()
    expected = "slot 0, step 1: action_mask must be 0 or 1 for each of the 6 values of a Discrete action and allow at "
    with pytest.raises(ValueError, match=re.escape(expected)):
        policy.act(2, mask)
    assert policy.window().ids.tolist() == before
    assert policy.act(2) in range(6)


def test_a_mask_for_an_action_of_several_tokens_is_refused(gato: Gato) -> None:
    policy = Policy(gato, spaces.Discrete(4), spaces.MultiDiscrete([2, 2]))
    with pytest.raises(ValueError, match="action_mask must be 0 or 1 for each of the values of a Discrete action"):
        policy.act(0, np.array([1, 1]))


def test_a_bad_observation_leaves_every_slot_as_it_was(gato: Gato) -> None:
    policy = Policy(gato, [spaces.Discrete(4), spaces.Box(-1, 1, (2,))], [spaces.Discrete(6)] * 2)
    good = [1, np.zeros(2, np.float32)]
    policy.act(good)
    before = [policy.window(slot).ids.tolist() for slot in range(2)]
    with pytest.raises(ValueError, match="the value: expected a number, got nan at scalar 1"):
        policy.act([2, np.array([0.0, np.nan], np.float32)])
    assert [policy.window(slot).ids.tolist() for slot in range(2)] == before
    policy.act(good)


@pytest.mark.parametrize("once", [False, True])
def test_an_environment_may_change_what_it_showed(make: Callable[..., Gato], once: bool) -> None:
    space = spaces.Dict(grid=spaces.Box(0, 255, (5, 5), np.uint8), mission=FreeText())
    gato = make(context_length=40)
    spec = TokenSpec(once=("grid", "mission") if once else ())
    kept, changed = (Policy(gato, space, spaces.Discrete(3), spec=spec) for _ in range(2))
    shown: dict[str, Any] = {"grid": np.zeros((5, 5), np.uint8), "mission": ""}
    for step in range(12):
        shown["grid"][0, 0] = step // 2
        shown["mission"] = f"go {step // 3}"
        kept.act({"grid": shown["grid"].copy(), "mission": shown["mission"]})
        changed.act(shown)
        assert changed.window().ids.tolist() == kept.window().ids.tolist()
        assert changed.window().pixels.tolist() == kept.window().pixels.tolist()


def test_a_new_episode_remembers_nothing(gato: Gato) -> None:
    policy = Policy(gato, [spaces.Discrete(4)] * 2, [spaces.Box(-1, 1, (2,))] * 2)
    first = policy.act([3, 3])
    policy.act([1, 2])
    policy.reset([True, False])
    assert len(policy.window(0)) == 0
    assert len(policy.window(1)) == 6
    again = policy.act([3, 3])
    np.testing.assert_array_equal(again[0], first[0])
    policy.reset()
    for a, b in zip(policy.act([3, 3]), first, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="mask must have a value for each slot, expected 2, got 3"):
        policy.reset([True] * 3)


def test_an_assigned_slot_begins_anew_and_the_others_go_on(gato: Gato) -> None:
    policy = Policy(gato, [spaces.Discrete(4)] * 2, [spaces.Discrete(2)] * 2)
    policy.act([0, 1])
    policy.assign(0, spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)))
    actions = policy.act([np.zeros(3, np.float32), 2])
    assert actions[0].shape == (2,)
    assert policy.window(1).ids[[0, 2]].tolist() == [gato.vocabulary.discrete_ids[1], gato.vocabulary.discrete_ids[2]]
    assert len(policy.window(0)) == 3


def test_a_task_is_found_by_its_spaces_or_its_name(gato: Gato, make: Callable[..., Gato]) -> None:
    known = formats(make(), "cart", "grid")
    encode = gato.vocabulary.text.encode
    cart = TASKS["cart"]
    assert Policy(known, cart[0], cart[1]).window().ids.tolist() == encode("Balance the pole.").tolist()
    assert Policy(known, cart[0], cart[1], task="cart").window().ids.tolist() == encode("Balance the pole.").tolist()
    assert len(Policy(known, cart[0], cart[1], instruction="").window()) == 0
    assert Policy(known, cart[0], cart[1], instruction="Do.").window().ids.tolist() == encode("Do.").tolist()
    with pytest.warns(UserWarning, match="no task that the model was trained on has these spaces"):
        assert len(Policy(known, cart[0], spaces.Discrete(3)).window()) == 0
    assert len(Policy(known, cart[0], spaces.Discrete(3), spec=TokenSpec()).window()) == 0
    with pytest.raises(
        ValueError, match=re.escape("Unknown trained task 'carts'. Did you mean cart? Known: cart, grid")
    ):
        Policy(known, cart[0], cart[1], task="carts")


def test_a_prompt_is_read_before_every_episode(make: Callable[..., Gato], uncached: Uncached) -> None:
    gato = formats(make(context_length=100), "reach")
    fake = Fake("reach", 0)
    fake.action_space.seed(0)
    prompt = [[(fake.observe(), fake.action_space.sample()) for _ in range(n)] for n in (3, 0, 2)]
    policy = Policy(gato, fake.space, fake.action_space, prompt=prompt)
    before = policy.window()
    instruction = gato.vocabulary.text.encode("Reach it.")
    assert before.ids[: len(instruction)].tolist() == instruction.tolist()
    assert len(before) <= 50
    differences = hold_to_uncached(policy, uncached)
    for _ in range(30):
        policy.act(fake.observe())
        assert policy.window().ids[: len(before)].tolist() == before.ids.tolist()
    policy.reset()
    assert policy.window().ids.tolist() == before.ids.tolist()
    assert max(differences) < 1e-4


def test_of_a_prompt_the_end_is_kept(make: Callable[..., Gato]) -> None:
    gato = make(context_length=20)
    vocabulary = gato.vocabulary
    episode = [(step % 4, step % 2) for step in range(50)]
    policy = Policy(gato, spaces.Discrete(4), spaces.Discrete(2), prompt=[episode])
    expected = [vocabulary.discrete_ids[value] for timestep in episode[-5:] for value in timestep]
    assert policy.window().ids.tolist() == expected
    with pytest.raises(ValueError, match="expected"):
        Policy(gato, spaces.Discrete(4), spaces.Discrete(2), prompt=[[(1, 7)]])


def test_of_a_prompt_as_much_is_kept_as_a_window_shows(make: Callable[..., Gato]) -> None:
    gato = make(context_length=40)
    vocabulary = gato.vocabulary
    episodes = [[(step % 4, step % 2) for step in range(n)] for n in (9, 1, 6)]
    policy = Policy(gato, spaces.Discrete(4), spaces.Discrete(2), prompt=episodes, spec=TokenSpec(history=2))
    kept = [timestep for episode in episodes for timestep in episode[-2:]]
    assert policy.window().ids.tolist() == [vocabulary.discrete_ids[value] for timestep in kept for value in timestep]


def test_a_timestep_longer_than_the_context(make: Callable[..., Gato]) -> None:
    space = spaces.MultiDiscrete([4] * 30)
    policy = Policy(make(context_length=20), space, spaces.Discrete(2), instruction="go")
    n_before = len(policy.window())
    expected = f"one timestep of slot 0 is 30 tokens and {n_before} come before it, more than the context of 20"
    with pytest.raises(ValueError, match=re.escape(expected)):
        policy.act(np.zeros(30, np.int64))
    with pytest.raises(ValueError, match=re.escape("context_length must be in 1..20 (the model's), got 21")):
        Policy(make(context_length=20), space, spaces.Discrete(2), context_length=21)


def test_a_context_of_one_timestep(make: Callable[..., Gato], uncached: Uncached) -> None:
    """The least that works: a timestep and nothing before it."""
    policy = Policy(make(context_length=50), spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (4,)), context_length=5)
    differences = hold_to_uncached(policy, uncached)
    for _ in range(5):
        policy.act(np.ones(3, np.float32))
        assert len(policy.window()) == 5
    assert max(differences) < 1e-4


def test_a_single_environment(gato: Gato) -> None:
    env = gym.make("CartPole-v1")
    policy = Policy(gato, env.observation_space, env.action_space)
    observation, _ = env.reset(seed=0)
    action = policy.act(observation)
    assert env.action_space.contains(action)
    env.step(action)
    env.close()


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
def test_a_vector_environment(gato: Gato, name: str) -> None:
    mode = gym.vector.AutoresetMode.SAME_STEP
    envs = gym.make_vec(name, num_envs=3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
    single = Policy(gato, envs.single_observation_space, envs.single_action_space)
    policy = Policy(gato, envs.single_observation_space, envs.single_action_space, slots=3)
    assert policy.n_slot == 3
    observations, _ = envs.reset(seed=1)
    actions = policy.act(observations)
    np.testing.assert_array_equal(actions[1], single.act(observations[1]))
    for _ in range(30):
        assert envs.action_space.contains(actions)
        observations, _, terminated, truncated, _ = envs.step(actions)
        policy.reset(terminated | truncated)
        actions = policy.act(observations)
    envs.close()
    with pytest.raises(ValueError, match="slots of a vector environment share their spaces"):
        policy.assign(0, spaces.Discrete(2), spaces.Discrete(2))


def test_a_vector_of_nested_spaces(gato: Gato) -> None:
    space = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Tuple([spaces.Discrete(3), spaces.Text(4)]))
    policy = Policy(gato, space, space, slots=2)
    batch = gym.vector.utils.batch_space(space, 2)
    batch.seed(0)
    actions = policy.act(batch.sample())
    for one in gym.vector.utils.iterate(batch, actions):
        assert space.contains(one)


def test_counts_that_do_not_fit(gato: Gato) -> None:
    policy = Policy(gato, [spaces.Discrete(2)] * 2, [spaces.Discrete(2)] * 2)
    with pytest.raises(ValueError, match="expected 2 observations, one for each slot, got 3"):
        policy.act([0, 1, 1])
    with pytest.raises(ValueError, match="expected 2 action masks, one for each slot, got 1"):
        policy.act([0, 1], [None])
    with pytest.raises(ValueError, match="expected 2 values of action_space, one for each slot, got 1"):
        Policy(gato, [spaces.Discrete(2)] * 2, [spaces.Discrete(2)])


def test_everyone_sits_out(gato: Gato) -> None:
    policy = Policy(gato, [spaces.Discrete(2)] * 2, [spaces.Discrete(2)] * 2)
    assert policy.act([None, None]) == [None, None]


def test_the_model_is_left_as_it_was(make: Callable[..., Gato]) -> None:
    gato = make()
    before = {name: tensor.clone() for name, tensor in gato.state_dict().items()}
    attributes = set(vars(gato))
    policy = Policy(gato, spaces.Discrete(4), spaces.Text(4))
    for step in range(4):
        policy.act(step)
    assert set(vars(gato)) == attributes
    assert all(torch.equal(tensor, before[name]) for name, tensor in gato.state_dict().items())


def test_one_forward_for_a_timestep_and_one_for_each_further_token(gato: Gato, count_reads: CountReads) -> None:
    policy = Policy(gato, spaces.Discrete(4), spaces.Box(-1, 1, (3,)), draft=False)
    reads = count_reads(policy)
    policy.act(0)
    policy.act(1)
    assert reads == [1, 1, 1, 2, 1, 1]


def test_instruction_and_prompt_stay_read_where_timesteps_are_dropped(
    make: Callable[..., Gato], count_reads: CountReads
) -> None:
    gato = make(context_length=64)
    arguments: Any = {"spec": TokenSpec(history=1), "instruction": "Go.", "prompt": [[(1, 0), (2, 1)]]}
    policy = Policy(gato, spaces.Discrete(4), spaces.Discrete(2), **arguments)
    n_prefix = len(policy._slots[0].prefix)
    reads = count_reads(policy)
    for _ in range(4):
        policy.act(3)
    assert n_prefix > 3
    assert reads == [n_prefix + 1, 1, 1, 1]


def test_an_episode_begins_in_the_forward_in_which_others_go_on(gato: Gato, count_reads: CountReads) -> None:
    policy = Policy(gato, [spaces.Discrete(4)] * 3, [spaces.Discrete(2)] * 3, instruction="Go.")
    n_prefix = len(policy._slots[0].prefix)
    reads = count_reads(policy)
    policy.act([0, 1, 2])
    policy.reset([False, True, False])
    policy.act([0, 1, 2])
    assert reads == [3 * (n_prefix + 1), 2 + n_prefix + 1 + 2]


def test_an_episode_that_begins_leaves_others_their_fixed_shapes(gato: Gato, count_reads: CountReads) -> None:
    instruction = "Go to the door, then pick up the ball and put it down beside the box."
    policy = Policy(gato, [spaces.Discrete(4)] * 3, [spaces.Discrete(2)] * 3, instruction=instruction)
    policy._decoder = Decoder(gato, 3, fixed=True)
    n_begun = len(policy._slots[0].prefix) + 1
    reads = count_reads(policy)
    policy.act([0, 1, 2])
    policy.reset([False, True, False])
    policy.act([0, 1, 2])
    assert MOST_NEW < n_begun <= SHORT
    assert reads == [-3 * n_begun, -n_begun, 2 * 2]


def test_a_long_window_is_read_as_a_whole(make: Callable[..., Gato], count_reads: CountReads) -> None:
    policy = Policy(make(context_length=400), spaces.Discrete(4), spaces.Discrete(2))
    reads = count_reads(policy)
    for _ in range(201):
        policy.act(3)
    assert reads == [1, *[2] * 199, -(2 * 99 + 1)]


def test_the_last_token_of_a_text_action_costs_no_forward_of_its_own(gato: Gato) -> None:
    policy = Policy(gato, spaces.Discrete(4), spaces.Text(3, min_length=3, charset="a"), temperature=1.0)
    rows = []
    read = policy._decoder.read

    def counted(which: Any, tokens: Any, counts: Any, wanted: Any) -> Any:
        rows.append(len(tokens))
        return read(which, tokens, counts, wanted)

    policy._decoder.read = counted  # type: ignore[method-assign]
    policy.act(0)
    n_first = len(
        split(plain(policy.window().ids[1:]), np.ones(len(policy.window()) - 1, int), patch_id=-1, chunk_id=-1)
    )
    assert len(rows) == n_first


def test_an_observation_space_without_values_is_refused(gato: Gato) -> None:
    with pytest.raises(ValueError, match="observation space: expected at least one leaf"):
        Policy(gato, spaces.Dict(), spaces.Discrete(2))
