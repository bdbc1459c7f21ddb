from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from gato_lite import head
from gato_lite.bins import smoothed
from gato_lite.head import cross_entropy


def drawn(n_row: int, n_class: int = 40, width: int = 8, n_more: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n_row)
    states = torch.randn(n_row + n_more, width, generator=generator, requires_grad=True)
    table = torch.randn(n_class, width, generator=generator, requires_grad=True)
    return states, table, torch.randint(n_class, (n_row,), generator=generator)


@pytest.fixture(params=["one group", "many groups"])
def _groups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many groups":
        monkeypatch.setitem(head.SCORES_AT_ONCE, "cpu", 1)  # 64 rows, the least


@pytest.mark.usefixtures("_groups")
@pytest.mark.parametrize("n_row", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("n_more", [0, 30, 70])
def test_it_is_the_cross_entropy_with_its_gradient(n_row: int, n_more: int) -> None:
    states, table, classes = drawn(n_row, n_more=n_more)
    total, losses = cross_entropy(states, table, classes)
    (total * 0.5).backward()
    own = [part.detach().double().requires_grad_() for part in (states, table)]
    each = F.cross_entropy(own[0][:n_row] @ own[1].T, classes, reduction="none")
    (each.sum() * 0.5).backward()
    torch.testing.assert_close(losses.double(), each.detach(), atol=1e-5, rtol=1e-5)
    assert total.item() == pytest.approx(each.sum().item(), rel=1e-6)
    for part, exact in zip((states, table), own, strict=True):
        assert part.grad is not None
        assert exact.grad is not None
        torch.testing.assert_close(part.grad.double(), exact.grad, atol=1e-5, rtol=1e-5)
    assert states.grad is not None
    assert not states.grad[n_row:].any()


@pytest.mark.usefixtures("_groups")
def test_smoothed_targets_are_told_the_loss_of_the_very_class() -> None:
    states, table, classes = drawn(150)
    total, losses = cross_entropy(states, table, classes, smooth=True)
    total.backward()
    own = [part.detach().double().requires_grad_() for part in (states, table)]
    scores = (own[0] @ own[1].T).log_softmax(-1)
    exact = -(smoothed(classes, 40).double() * scores).sum()
    exact.backward()
    assert total.item() == pytest.approx(exact.item(), rel=1e-6)
    torch.testing.assert_close(losses.double(), -scores.detach().gather(1, classes[:, None])[:, 0])
    for part, other in zip((states, table), own, strict=True):
        assert part.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(part.grad.double(), other.grad, atol=1e-5, rtol=1e-5)


def test_smoothed_targets_far_off_have_their_loss() -> None:
    """Also where the very class has no chance that float32 could tell from none."""
    table = torch.arange(40.0)[:, None] * 20
    total, losses = cross_entropy(torch.ones(1, 1), table, torch.tensor([5]), smooth=True)
    exact = -(smoothed(torch.tensor([5]), 40).double() * table[:, 0].double().log_softmax(-1)).sum()
    assert total.item() == pytest.approx(exact.item(), rel=1e-5)
    assert losses.item() == pytest.approx(85.2, abs=0.1)  # of the very class it is in truth 680


def test_losses_have_no_gradient_and_nothing_is_kept_where_none_is_asked_for() -> None:
    states, table, classes = drawn(5)
    assert not cross_entropy(states, table, classes)[1].requires_grad
    with torch.no_grad():
        assert not cross_entropy(states, table, classes)[0].requires_grad


def test_products_follow_autocast_and_sums_do_not() -> None:
    states, table, classes = drawn(300, n_class=500, width=64)
    exact, each = cross_entropy(states, table, classes)
    exact.backward()
    expected = table.grad
    table.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        total, losses = cross_entropy(states, table, classes)
    total.backward()
    assert total.dtype == losses.dtype == torch.float32
    assert total.item() == pytest.approx(exact.item(), rel=2e-3)
    assert not torch.equal(losses, each)
    assert table.grad is not None
    assert expected is not None
    assert table.grad.dtype == torch.float32
    assert float((table.grad - expected).norm() / expected.norm()) < 0.02


def test_scores_of_any_size_give_finite_losses() -> None:
    states = torch.tensor([[1e4, 0.0], [0.0, 3e4]], requires_grad=True)
    table = torch.eye(2)
    total, losses = cross_entropy(states, table, torch.tensor([0, 0]))
    assert losses.tolist() == pytest.approx([0.0, 85.2], abs=0.1)  # the second is in truth 30,000
    total.backward()
    torch.testing.assert_close(states.grad, torch.tensor([[0.0, 0.0], [-1.0, 1.0]]))


def test_what_is_no_number_is_no_loss() -> None:
    states = torch.tensor([[float("nan"), 0.0]])
    assert cross_entropy(states, torch.eye(2), torch.tensor([0]))[0].isnan()
