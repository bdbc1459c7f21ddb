"""Other ways of acting beside the one taken: what each is worth, and that it computes the same."""

# ruff: noqa: SLF001 - the policy's own parts are what is timed

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np
import torch

from gato_lite.attention import attend
from gato_lite.model import Gato
from gato_lite.run import PRECISIONS
from gato_lite.train.bench.measure import Timing, take_turns
from gato_lite.train.bench.rollout import BINS, MIXED, Arm, Players, fresh, make_of

CLOSE: Final = 1e-3
"""Largest difference of hidden states between ways, whose scale is 1."""
ROUNDED: Final = 0.1
"""The same where one way rounds to bfloat16; a twentieth was seen."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two ways or more, in turns."""

    what: str
    way: str
    timing: Timing
    """Of one step; the ratio is to the first way of the same comparison."""


def compare(rounds: int = 7, on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> list[Comparison]:
    """All comparisons.

    Raises:
        RuntimeError: two ways that should compute the same do not.
    """
    found = []
    ways: dict[str, Callable[[], dict[str, Callable[[], object]]]] = {
        "1 slot, 1,024 tokens": recomputing_or_cached,
        "32 slots of 1,024 tokens": shared_keys,
        "32 slots of 256 tokens": lambda: precisions(256),
        "32 slots of 1,024 tokens, 2 heads of keys": lambda: precisions(1024),
        "32 slots, one task or four": one_task_or_four,
        "six action tokens, 1 slot": lambda: drafts(1),
        "six action tokens, 32 slots": lambda: drafts(32),
    }
    for done, (what, variants) in enumerate(ways.items()):
        for way, timing in take_turns(variants(), rounds=rounds).items():
            found.append(Comparison(what=what, way=way, timing=timing))
        on_progress(done + 1, len(ways))
    return found


def recomputing_or_cached(context: int = 1024) -> dict[str, Callable[[], object]]:
    """The window computed anew for every step, and read on from the cache."""
    gato = fresh(context)
    players = Players(gato, [make_of("CartPole-v1")], spec=BINS)
    players.fill(context - 40 * players.tokens_per_step)
    decoder = players.policy._decoder
    window = players.policy.window()
    last = whole_window(gato, players)
    begun = decoder.read_documents([0], [window])[0]
    if (last - begun).abs().max() > CLOSE:
        raise RuntimeError("the cache and the whole window disagree, which is a mistake in gato_lite/cache.py")
    return {"recompute the window": lambda: whole_window(gato, players), "cache": players.step}


@torch.inference_mode()
def whole_window(gato: Gato, players: Players) -> torch.Tensor:
    """(D,) hidden state after the first slot's window, without a cache."""
    tokens = players.policy.window()
    offsets = np.array([0, len(tokens)])
    positions = torch.arange(len(tokens), device=gato.device)
    hidden = gato.hidden(
        gato.token_tensors(tokens), positions, lambda _layer, query, key, value: attend(query, key, value, offsets)
    )
    return hidden[-1]


def shared_keys(n_slot: int = 32, context: int = 1024) -> dict[str, Callable[[], object]]:
    """Models whose heads of queries share 4, 2 or 1 heads of keys."""
    variants: dict[str, Callable[[], object]] = {}
    for n_kv_head in (4, 2, 1):
        players = Players(fresh(context, n_kv_head=n_kv_head), [make_of("CartPole-v1")] * n_slot, spec=BINS)
        players.fill(context - 15 * players.tokens_per_step)
        variants[f"{n_kv_head} heads of keys" if n_kv_head > 1 else "1 head of keys"] = players.step
    return variants


def precisions(context: int, n_slot: int = 32) -> dict[str, Callable[[], object]]:
    """The same weights in float32 and in bfloat16."""
    variants: dict[str, Callable[[], object]] = {}
    last: list[torch.Tensor] = []
    for precision in PRECISIONS:
        players = Players(fresh(context, precision), [make_of("CartPole-v1")] * n_slot, spec=BINS, temperature=0.0)
        last.append(whole_window(players.policy.gato, players))
        players.fill(context - 15 * players.tokens_per_step)
        variants[precision] = players.step
    if (last[0] - last[1]).abs().max() > ROUNDED:
        raise RuntimeError("float32 and bfloat16 differ by more than rounding, which is a mistake in gato_lite")
    return variants


def one_task_or_four(n_slot: int = 32) -> dict[str, Callable[[], object]]:
    """One policy for each of four tasks in turn, and one for slots of all four."""
    gato = fresh(1024)
    alone = [Players(gato, [make_of(name)] * n_slot) for name in MIXED]
    mixed = Players(gato, [make_of(MIXED[slot % len(MIXED)]) for slot in range(n_slot)])
    for players in (*alone, mixed):
        players.fill(200)

    def each_alone() -> None:
        for players in alone:
            players.step()

    def all_mixed() -> None:
        for _ in alone:
            mixed.step()

    return {"each task alone": each_alone, "four tasks mixed": all_mixed}


def drafts(n_slot: int) -> dict[str, Callable[[], object]]:
    """Six action tokens: one at a time, and guessed where guesses always or never stand."""
    gato = fresh(1024)
    variants: dict[str, Callable[[], object]] = {}
    for way, draft, share in (
        ("one at a time", False, 0.0),
        ("drafts that all stand", True, 1.0),
        ("drafts of which half stand", True, 0.5),
        ("drafts that never stand", True, 0.0),
    ):
        players = Players(gato, [Arm] * n_slot, temperature=0.0, draft=draft)
        players.fill(200)
        variants[way] = agreeing(players, share)
    return variants


def agreeing(players: Players, share: float) -> Callable[[], None]:
    """Steps in which a token of the guess is what will be chosen with probability `share`.

    The sampler is made to choose what was guessed, so that guesses stand without a trained model. A choice that would
    have been the guess by itself, and is not to be, becomes its neighbour.
    """
    generator = np.random.default_rng(0)
    policy, choose = players.policy, players.policy._sampler.choose

    def agree(gato: Gato, hidden: torch.Tensor, ids: object, *_: object) -> np.ndarray:
        chosen = choose(gato, hidden, ids)  # type: ignore[arg-type]
        wanted: list[int] = []
        for slot in policy._slots:
            if len(slot.timesteps[-1].action) < len(slot.language.ranges or ()):  # it is being chosen for
                wanted += [*slot.draft, -1]
        guessed = np.array(wanted)
        stands = (guessed >= 0) & (generator.random(len(guessed)) < share)
        return np.where(stands, guessed, np.where(chosen == guessed, chosen ^ 1, chosen))

    policy._sampler.choose = agree  # type: ignore[method-assign, assignment]

    def several() -> None:
        for _ in range(8):
            players.step()

    for _ in range(6):
        several()  # so that a slot whose guesses do not pay has given them up
    return several


class Flatness(msgspec.Struct, frozen=True, kw_only=True):
    """One long episode."""

    steps: int
    context: int
    second_tenth_ms: float
    """Mean time of a step in the second tenth of the episode."""
    last_tenth_ms: float
    ratio: float
    """Of the last to the second."""


def measure_flatness(n_step: int, on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> Flatness:
    """One slot of a one-layer model with a context of 64 tokens, so that an episode is long many times over."""
    context = 64
    gato = fresh(context, n_layer=1, n_head=1, n_kv_head=1, d_model=64, d_ff=64)
    players = Players(gato, [make_of("CartPole-v1")], spec=BINS)
    tenths = []
    for tenth in range(10):
        start = time.perf_counter()
        for _ in range(n_step // 10):
            players.step()
        tenths.append(1e3 * (time.perf_counter() - start) / (n_step // 10))
        on_progress(tenth + 1, 10)
    return Flatness(
        steps=n_step,
        context=context,
        second_tenth_ms=tenths[1],
        last_tenth_ms=tenths[-1],
        ratio=tenths[-1] / tenths[1],
    )
