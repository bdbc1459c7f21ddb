"""Reads of fixed shapes beside the ordinary ones."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces

from gato_lite import policy as policy_module
from gato_lite.cache import Decoder
from gato_lite.config import TokenSpec
from gato_lite.exchange import picture_tokens
from gato_lite.fixed_reads import MOST_NEW
from gato_lite.model import Gato
from gato_lite.policy import Policy
from gato_lite.sequence import Tokens, concatenate, plain

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
Reads = list[tuple[list[int], list[int]]]
N_ROW = 5
READS: Reads = [
    ([0, 1, 2, 3, 4], [1, 1, 1, 1, 1]),
    ([0, 1, 2, 3, 4], [3, 3, 3, 3, 3]),
    ([4, 1], [5, 2]),  # some rows, in another order, of unequal counts
    ([2], [MOST_NEW]),
    ([0, 1, 2, 3, 4], [4, 1, 7, 2, 1]),
    ([0, 3], [1, MOST_NEW + 1]),  # too long for a fixed shape: both ways into one cache
    ([0, 1, 2, 3, 4], [1, 1, 1, 1, 1]),
    ([3, 1], [60, 2]),
    ([0, 1, 2, 3, 4], [2, 2, 2, 2, 2]),  # of which one is beyond the first 64 positions
]


def drawn(n: int, generator: np.random.Generator) -> Tokens:
    return plain(generator.integers(0, 6000, n).astype(np.int32))


def states_of(decoder: Decoder, reads: Reads) -> list[torch.Tensor]:
    """Hidden states of every new token; documents come first, and one row begins anew after half of the reads."""
    generator = np.random.default_rng(0)
    found = [decoder.read_documents([0, 1], [drawn(9, generator), drawn(4, generator)])]
    for index, (rows, counts) in enumerate(reads):
        if index == len(reads) // 2:
            decoder.forget([1])
        news = [drawn(count, generator) for count in counts]
        found.append(decoder.read(rows, concatenate(news), counts, counts))
    return found


@pytest.mark.parametrize("changes", [{}, {"n_head": 4, "n_kv_head": 2}, {"token_shift": False, "head_norm": False}])
def test_fixed_reads_are_ordinary_reads(make: Callable[..., Gato], changes: dict[str, object]) -> None:
    gato = make(**changes)
    ordinary, fixed = (Decoder(gato, N_ROW, 100, fixed=chosen) for chosen in (False, True))
    for one, other in zip(states_of(ordinary, READS), states_of(fixed, READS), strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    assert ordinary.cursors.tolist() == fixed.cursors.tolist()
    assert fixed._fixed is not None
    assert fixed._fixed.n_shape == 6  # (1, 64), (4, 64), (6, 64), (16, 64), (8, 64), (2, 100)
    held = fixed._keys[:, :N_ROW]
    for row, cursor in enumerate(ordinary.cursors):
        torch.testing.assert_close(held[:, row, :, :cursor], ordinary._keys[:, row, :, :cursor], atol=1e-5, rtol=1e-5)


def test_rows_that_do_not_read_are_left_alone(gato: Gato) -> None:
    decoder = Decoder(gato, 3, 16, fixed=True)
    generator = np.random.default_rng(0)
    decoder.read([0, 1, 2], drawn(9, generator), [3, 3, 3])
    before = [part.clone() for part in (decoder._keys[:, ::2], decoder._values[:, ::2], decoder._vectors[::2])]
    decoder.read([1], drawn(4, generator), [4])
    after = [decoder._keys[:, ::2], decoder._values[:, ::2], decoder._vectors[::2]]
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)


def test_a_cpu_keeps_the_shapes_that_it_had(gato: Gato) -> None:
    decoder = Decoder(gato, 3, 16)
    assert decoder._fixed is None
    assert decoder._keys.shape[1] == 3


def test_pictures_and_what_was_said(gato: Gato) -> None:
    shown = picture_tokens(np.arange(7 * 7 * 3, dtype=np.uint8).reshape(7, 7, 3), gato.vocabulary)
    found = []
    for fixed in (False, True):
        decoder = Decoder(gato, 2, 64, fixed=fixed)
        decoder.read([0, 1], plain([1, 2, 3, 4]), [2, 2])
        found.append(decoder.read([0, 1], concatenate([plain([5]), shown, shown]), [2, 1]))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)


def test_what_is_recorded_asks_the_device_for_no_number(make: Callable[..., Gato]) -> None:
    """On a device that has none, and so could not answer."""
    decoder = Decoder(make().to("meta"), 3, 64, fixed=True)
    assert decoder._fixed is not None
    x, where = torch.empty(6, 32, device="meta"), torch.empty(2, 6, dtype=torch.int64, device="meta")
    with torch.inference_mode():
        hidden = decoder._fixed._forward(x, where, 2, 64)
    assert hidden.shape == (6, 32)
    assert hidden.device.type == "meta"


def hidden_states(
    gato: Gato, *, fixed: bool, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[torch.Tensor], list[object]]:
    """Of many steps of slots with a context that overflows, in which actions of several tokens are guessed."""
    monkeypatch.setattr(policy_module, "Decoder", functools.partial(Decoder, fixed=fixed))
    seen, done = spaces.Box(-1, 1, (3,)), spaces.MultiDiscrete([4, 5])
    policy = Policy(gato, [seen] * 3, [done] * 3, context_length=24, spec=TokenSpec(kinds=(("", "bins"),)))
    states: list[torch.Tensor] = []
    read = policy._decoder.read

    def kept(*arguments: object) -> torch.Tensor:
        states.append(read(*arguments))  # type: ignore[arg-type]
        return states[-1]

    policy._decoder.read = kept  # type: ignore[method-assign, assignment]
    generator = np.random.default_rng(0)
    actions = []
    for step in range(20):
        if step == 7:
            policy.reset([False, True, False])
        actions += policy.act(list(generator.uniform(-1, 1, (3, 3)).astype(np.float32)))
    return states, actions


def test_a_policy_acts_the_same_also_after_an_overflow(gato: Gato, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary, actions = hidden_states(gato, fixed=False, monkeypatch=monkeypatch)
    fixed, same = hidden_states(gato, fixed=True, monkeypatch=monkeypatch)
    assert len(ordinary) == len(fixed) > 20
    for one, other in zip(ordinary, fixed, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    for one, other in zip(actions, same, strict=True):
        np.testing.assert_array_equal(other, one)


@needs_cuda
def test_graphs_are_ordinary_reads(make: Callable[..., Gato]) -> None:
    """Twice: the second decoder's graphs are recorded after the first's weights have moved."""
    gato = make(d_model=128, n_head=2)
    for _ in range(2):
        expected = states_of(Decoder(gato.cpu(), N_ROW, 100, fixed=False), READS)
        decoder = Decoder(gato.cuda(), N_ROW, 100)
        for one, other in zip(expected, states_of(decoder, READS), strict=True):
            torch.testing.assert_close(other.cpu(), one, atol=1e-3, rtol=1e-3)
        assert decoder._fixed is not None
        assert len(decoder._fixed._recorded) == decoder._fixed.n_shape == 6


@needs_cuda
def test_a_graph_reads_the_weights_of_now(make: Callable[..., Gato]) -> None:
    gato = make().cuda()
    decoder = Decoder(gato, 2, 16)
    decoder.read([0, 1], plain([1, 2]), [1, 1])
    with torch.no_grad():
        for parameter in gato.parameters():
            parameter.mul_(0.5)
    decoder.forget([0, 1])
    ordinary = Decoder(gato, 2, 16, fixed=False)
    one, other = (each.read([0, 1], plain([1, 2]), [1, 1]) for each in (ordinary, decoder))
    torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)
