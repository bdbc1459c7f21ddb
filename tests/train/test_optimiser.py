from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gato_lite.config import GatoConfig
from gato_lite.model import Gato, stream_tensors
from gato_lite.patches import LinearPatch
from gato_lite.sequence import Document, lay_out, plain
from gato_lite.train.optimiser import Muon, Optimiser, orthogonalise, schedule

CONFIG = GatoConfig(n_layer=2, n_head=2, d_model=32, d_ff=64, d_encoder=16, context_length=32)


def optimiser(gato: Gato, name: str = "muon") -> Optimiser:
    return Optimiser(gato, name=name, learning_rate=1e-2, matrix_learning_rate=2e-2, weight_decay=0.1)  # type: ignore[arg-type]


def train(gato: Gato, made: Optimiser, steps: int, first: int = 0) -> list[float]:
    """Losses of the steps from `first`, on sequences in which every other token repeats the one before."""
    losses = []
    for step in range(first, first + steps):
        ids = np.random.default_rng(step).integers(5120, 5124, 24).astype(np.int32)
        ids[1::2] = ids[::2]
        document = Document(tokens=plain(ids), target=np.arange(24) % 2 == 1, labels=ids)
        mean = gato.loss(stream_tensors(lay_out([document]), gato.vocabulary, None)).mean
        mean.backward()  # type: ignore[no-untyped-call]
        made.step(1.0)
        losses.append(float(mean.detach()))
    return losses


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16), (96, 32), (7, 50)])
def test_singular_values_end_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    (result,) = orthogonalise([matrix])
    assert result.shape == matrix.shape
    values = torch.linalg.svdvals(result)
    assert 0.3 < float(values.min())  # noqa: SIM300 - reads as an interval
    assert float(values.max()) < 1.3
    assert float(values.median()) == pytest.approx(1.0, abs=0.35)


def newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """The iteration as it is written down, on the matrix itself, in float64."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


@pytest.mark.parametrize("decades", [0.0, 3.0, 8.0])
def test_squares_give_what_the_matrices_would(decades: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for gradients that are nearly of low rank: singular values over so many decades."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(32, 96), (96, 32), (16, 16), (32, 32), (128, 32), (32, 96), (8, 40)]
    matrices = []
    for shape in shapes:
        u, _, v = torch.linalg.svd(torch.randn(*shape, generator=generator), full_matrices=False)
        matrices.append(u * 10 ** -torch.linspace(0, decades, min(shape)) @ v)
    together = orthogonalise(matrices)
    monkeypatch.setattr("gato_lite.train.optimiser.AT_ONCE", 2 * 32 * 96)
    for matrix, result, in_batches in zip(matrices, together, orthogonalise(matrices), strict=True):
        expected = newton_schulz(matrix)
        assert float((result - expected).norm() / expected.norm()) < 1e-3
        torch.testing.assert_close(in_batches, result, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16), (32, 96)])
def test_bfloat16_keeps_singular_values_in_their_bounds(shape: tuple[int, int]) -> None:
    """Of small matrices, whose squares rounding makes indefinite soonest: without new ones in between many explode."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(100, *shape, generator=generator), full_matrices=False)
    matrices = u * 10 ** -torch.linspace(0, 3, min(shape)) @ v
    for matrix, result in zip(matrices, orthogonalise(list(matrices), torch.bfloat16), strict=True):
        assert result.dtype is torch.float32
        assert float(torch.linalg.svdvals(result).max()) < 1.3
        expected = newton_schulz(matrix)
        assert float((result - expected).norm() / expected.norm()) < 0.7


def test_directions_are_kept() -> None:
    """Only the singular values change: the result is the polar factor, roughly."""
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    nearest = u @ v
    cosine = torch.nn.functional.cosine_similarity(orthogonalise([matrix])[0].flatten(), nearest.flatten(), dim=0)
    assert float(cosine) > 0.95


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_scale_does_not_matter(scale: float) -> None:
    matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(orthogonalise([matrix * scale])[0], orthogonalise([matrix])[0], atol=1e-2, rtol=1e-2)


def test_no_gradient_is_no_update() -> None:
    assert not orthogonalise([torch.zeros(4, 6)])[0].any()


def test_an_update_has_the_size_it_says() -> None:
    weight = torch.nn.Parameter(torch.zeros(48, 96))
    weight.grad = torch.randn(48, 96, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=0.5).step()
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.5 * 0.2, rel=0.25)


def test_weight_decay_is_decoupled() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 6))
    weight.grad = torch.zeros(4, 6)
    Muon([weight], lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 6), 0.95))
    untouched = torch.nn.Parameter(torch.ones(4, 6))
    Muon([untouched], lr=0.5, weight_decay=0.1).step()
    assert torch.equal(untouched.detach(), torch.ones(4, 6))


def test_a_convolution_is_a_matrix_with_a_row_for_each_output() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(8, 3, 3, 3, generator=generator)
    kernel, matrix = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((8, 3, 3, 3), (8, 27)))
    kernel.grad, matrix.grad = gradient, gradient.flatten(1)
    Muon([kernel], lr=0.1).step()
    Muon([matrix], lr=0.1).step()
    assert torch.equal(kernel.detach().flatten(1), matrix.detach())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_weight_is_trained_once(name: str) -> None:
    gato = Gato(CONFIG)
    made = optimiser(gato, name)
    groups = [group for part in made._optimisers for group in part.param_groups]
    trained = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(trained) == sorted(map(id, gato.parameters()))
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    layers = (torch.nn.Linear, torch.nn.Conv2d, LinearPatch)
    assert decayed == {id(module.weight) for module in gato.modules() if isinstance(module, layers)}
    assert {id(p) for p in gato.transformer.parameters() if p.ndim == 2} < decayed  # the encoders' are more
    assert id(gato.embedding.tokens.weight) not in decayed
    matrices = [group for part in made._optimisers if isinstance(part, Muon) for group in part.param_groups]
    assert bool(matrices) == (name == "muon")


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_goes_on_where_it_was(name: str) -> None:
    whole, first, second = (Gato(CONFIG) for _ in range(3))
    straight = train(whole, optimiser(whole, name), 6)
    before = optimiser(first, name)
    train(first, before, 4)
    second.load_state_dict(first.state_dict())
    after = optimiser(second, name)
    after.load({key: value.clone() for key, value in before.tensors().items()})
    assert set(after.tensors()) == set(before.tensors())
    assert train(second, after, 2, first=4) == straight[4:]
    for key, tensor in whole.state_dict().items():
        assert torch.equal(second.state_dict()[key], tensor), key


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_losses_fall(name: str) -> None:
    gato = Gato(CONFIG)
    losses = train(gato, optimiser(gato, name), 60)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_a_step_at_no_rate_changes_nothing_but_the_state() -> None:
    gato = Gato(CONFIG)
    before = {key: tensor.clone() for key, tensor in gato.state_dict().items()}
    made = optimiser(gato)
    loss = gato.loss(
        stream_tensors(
            lay_out(
                [Document(tokens=plain([1, 2]), target=np.array([False, True]), labels=np.array([1, 2], np.int32))]
            ),
            gato.vocabulary,
            None,
        )
    )
    loss.mean.backward()  # type: ignore[no-untyped-call]
    made.step(0.0)
    assert all(torch.equal(tensor, before[key]) for key, tensor in gato.state_dict().items())
    assert all(parameter.grad is None for parameter in gato.parameters())


def test_state_of_another_optimiser_or_model() -> None:
    gato = Gato(CONFIG)
    muon = optimiser(gato)
    train(gato, muon, 1)
    with pytest.raises(ValueError, match="resume with the optimizer of the run"):
        optimiser(Gato(CONFIG), "adamw").load(muon.tensors())
    with pytest.raises(
        ValueError, match=re.escape("the optimizer state has parameters that this model lacks: ['nobody']")
    ):
        muon.load({"nobody:exp_avg": torch.zeros(1)})


def test_the_schedule_at_its_ends() -> None:
    assert schedule(0.0, 0, 10) == pytest.approx(0.1)
    assert schedule(0.0, 9, 10) == 1.0
    assert schedule(0.5, 500, 10) == pytest.approx(0.5)
    assert schedule(1.0, 1000, 10) == pytest.approx(0.0)
    assert schedule(1.7, 1000, 10) == pytest.approx(0.0)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000), st.integers(0, 200))
def test_the_schedule_falls_after_the_rise(a: float, b: float, step: int, warmup: int) -> None:
    early, late = sorted((a, b))
    assert 0.0 <= schedule(late, step, warmup) <= schedule(early, step, warmup) <= 1.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_goes_on_where_it_was_on_cuda(name: str) -> None:
    gato = Gato(CONFIG).cuda()
    made = optimiser(gato, name)

    def step(trained: Optimiser) -> None:
        hidden = gato.logits(gato.transformer.norm(gato.embedding.tokens.weight[:8]), slice(0, 8))
        hidden.square().sum().backward()
        trained.step(1.0)

    step(made)
    again = optimiser(gato, name)
    again.load({key: value.cpu() for key, value in made.tensors().items()})
    step(again)
    for value in again.tensors().values():
        assert value.is_cuda
