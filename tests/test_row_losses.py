"""Losses over scored rows: piece by piece as all at once, in any dtype, asked twice, and differentiated twice."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from sftspec import row_losses
from sftspec.distillation import distillation_loss, most_likely, softened
from sftspec.divergences import generalised_jsd, with_tail_bucket
from sftspec.row_losses import sum_over_rows
from sftspec.step import cross_entropies, sft_loss

V = 300


@pytest.fixture(params=[1, 3 * V * 4, 1 << 30], ids=["a row", "three rows", "all rows"])
def pieces(request, monkeypatch):
    """How many bytes a piece has."""
    monkeypatch.setattr(row_losses, "_CPU_BYTES", request.param)


def batch(dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    logits, teacher = (3 * torch.randn(2, 8, V, generator=draw) for _ in range(2))
    labels = torch.randint(0, V, (2, 8), generator=draw)
    labels[0, 2:5] = -100
    return logits.to(dtype).requires_grad_(), teacher.to(dtype), labels


def plain(logits, labels):
    """torch's own, over the selected rows."""
    chosen = labels[:, 1:] != -100
    return F.cross_entropy(logits[:, :-1][chosen].to(torch.promote_types(logits.dtype, torch.float32)),
                           labels[:, 1:][chosen])  # fmt: skip


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_value_and_gradient_are_those_of_torch_in_every_dtype(dtype):
    logits, _, labels = batch(dtype)
    exact = logits.detach().double().requires_grad_()
    (want,) = torch.autograd.grad(plain(exact, labels), exact)
    loss = sft_loss(logits, labels)
    (got,) = torch.autograd.grad(loss, logits)
    assert got.dtype == dtype and loss.dtype == torch.promote_types(dtype, torch.float32)
    assert float((got.double() - want).norm() / want.norm()) <= 4 * torch.finfo(dtype).eps
    assert float(loss.detach()) == pytest.approx(float(plain(exact, labels).detach()), rel=1e-6)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize(
    "setting", [{}, {"divergence": "reverse_kl"}, {"divergence": "jsd", "beta": 0.3}, {"top_k": 7}], ids=str
)
def test_distillation_by_pieces_is_bit_for_bit_that_of_each_row_alone(setting, monkeypatch):
    logits, teacher, labels = batch()
    (found,) = torch.autograd.grad(distillation_loss(logits, teacher, labels, 2.0, 0.5, **setting), logits)
    monkeypatch.setattr(row_losses, "_CPU_BYTES", 1)
    (alone,) = torch.autograd.grad(distillation_loss(logits, teacher, labels, 2.0, 0.5, **setting), logits)
    assert torch.equal(found, alone)


def test_a_gradient_may_be_asked_for_twice_and_scaled():
    logits, _, labels = batch(torch.float64)
    loss = sft_loss(logits, labels)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(loss, logits, torch.tensor(3.0, dtype=torch.float64), retain_graph=True)
    torch.testing.assert_close(second, 3 * first, rtol=1e-14, atol=0)
    loss.backward()
    assert torch.equal(logits.grad, first)


def test_first_and_second_derivatives_are_those_of_finite_differences():
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 4, 5, dtype=torch.float64, generator=draw).requires_grad_()
    teacher, labels = torch.randn(1, 4, 5, dtype=torch.float64, generator=draw), torch.tensor([[0, 3, -100, 1]])
    for setting in ({"divergence": "forward_kl"}, {"divergence": "jsd"}, {"top_k": 2}):
        loss = partial(distillation_loss, teacher_logits=teacher, labels=labels, temperature=1.5, **setting)
        assert torch.autograd.gradcheck(loss, (logits,)) and torch.autograd.gradgradcheck(loss, (logits,))


def test_what_is_not_scored_or_not_wanted_costs_no_gradient():
    logits, _, labels = batch()
    with torch.no_grad():
        assert not sft_loss(logits, labels).requires_grad
    assert not sft_loss(logits.detach(), labels).requires_grad
    nothing = sft_loss(logits, torch.full_like(labels, -100), num_targets=3)
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert float(nothing.detach()) == 0 and not gradient.any()
    broken = logits.detach().clone()
    broken[0, 3] = float("nan")  # scored against labels[0, 4], which is ignored
    (gradient,) = torch.autograd.grad(sft_loss(broken.requires_grad_(), labels), broken)
    assert gradient.isfinite().all()


def test_a_small_gradient_in_float16_survives_until_it_is_scaled():
    """p/n is far below float16's smallest number here; a loss scaler multiplies by 2**16 what has come back."""
    logits = torch.zeros(1, 2, 60_000, dtype=torch.float16).requires_grad_()
    labels = torch.tensor([[-100, 0]])
    (gradient,) = torch.autograd.grad(sft_loss(logits, labels, num_targets=1000) * 2.0**16, logits)
    assert float(gradient[0, 0, 1]) == pytest.approx(2.0**16 / 60_000 / 1000, rel=1e-2)


def test_of_equals_the_smaller_ids_are_kept():
    draw = torch.Generator().manual_seed(2)
    rows = torch.cat([
        torch.randint(0, 4, (50, 20), generator=draw).float(), torch.randn(50, 20, generator=draw),
        torch.zeros(1, 20), torch.full((1, 20), float("-inf")),
    ])  # fmt: skip
    for k in (1, 3, 19, 20):
        want = rows.sort(dim=-1, descending=True, stable=True).indices[:, :k]
        assert torch.equal(most_likely(rows, k).sort(-1).values, want.sort(-1).values)


def test_the_formulas_are_those_of_all_rows_at_once():
    logits, teacher, labels = batch(torch.float64)
    s, t = softened(logits, labels, 2.0), softened(teacher, labels, 2.0)
    kept = most_likely(t, 5)
    n, chosen = len(s), labels[:, 1:] != -100
    hard = cross_entropies(logits[:, :-1][chosen], labels[:, 1:][chosen])
    for setting, soft in (
        ({"divergence": "jsd", "beta": 0.3}, generalised_jsd(s, t, 0.3)),
        ({"top_k": 5, "divergence": "jsd"}, generalised_jsd(with_tail_bucket(s, kept), with_tail_bucket(t, kept))),
    ):
        whole = (0.5 * 4 * soft.sum() + 0.5 * hard.sum()) / n
        found = distillation_loss(logits, teacher, labels, 2.0, 0.5, **setting)
        assert float(found.detach()) == pytest.approx(float(whole.detach()), rel=1e-14)
        ours, theirs = torch.autograd.grad(found, logits)[0], torch.autograd.grad(whole, logits, retain_graph=True)[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-18)


def test_a_loss_of_ones_own_is_summed_over_the_rows_named():
    logits = torch.arange(12.0).reshape(2, 2, 3).requires_grad_()
    places = torch.tensor([0, 1]), torch.tensor([1, 0])
    total = sum_over_rows(lambda rows, _: rows.square().sum(-1), logits, places)
    (gradient,) = torch.autograd.grad(total, logits)
    assert float(total.detach()) == sum(x * x for x in range(3, 9))
    assert torch.equal(gradient, torch.tensor([[[0, 0, 0], [6, 8, 10]], [[12, 14, 16], [0, 0, 0]]]).float())
