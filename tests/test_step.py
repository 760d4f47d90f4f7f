"""The loss, the clip and the step at their edges: what is refused, what is left alone, what is reported."""

from __future__ import annotations

import math
from contextvars import Context
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from sftspec.collation import collate
from sftspec.conformance.witness.model import make_model
from sftspec.properties.cases.step import Example, FirstAndLast
from sftspec.step import RANK, NoTargetsError, clip_gradients, count_targets, forward_logits, sft_loss, sft_step

LOGITS = torch.zeros(2, 3, 5)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [((2, 3), (2, 3)), ((2, 3, 5, 1), (2, 3)), ((2, 3, 5), (2, 4)), ((2, 4, 5), (2, 3)), ((2, 3, 5), (3,))],
)
def test_shapes_that_do_not_fit_are_named(logits, labels):
    with pytest.raises(ValueError, match=r"do not fit labels \(.*\); want \(B, T, V\), \(B, T\)") as raised:
        sft_loss(torch.zeros(logits), torch.zeros(labels, dtype=torch.int64))
    assert str(raised.value).startswith(f"logits {logits} do not fit labels {labels};")


@pytest.mark.parametrize("label", [5, 6, -1, -99, -101])
@pytest.mark.parametrize("other", [0, -100])
def test_a_label_that_is_no_token_is_a_target_and_refused(label, other):
    labels = torch.tensor([[-100, other, -100], [-100, -100, label]])
    assert count_targets(labels) == 1 + (other == 0)
    with pytest.raises(ValueError, match="outside the vocabulary of 5; -100 marks what is ignored"):
        sft_loss(LOGITS, labels)


@pytest.mark.parametrize("label", [0, 4])
def test_the_first_and_the_last_token_of_the_vocabulary_are_labels(label):
    assert float(sft_loss(LOGITS, torch.full((2, 3), label))) == pytest.approx(math.log(5), rel=1e-6)


@pytest.mark.parametrize("count", [0, -1, math.nan])
def test_a_denominator_that_is_not_positive_is_refused(count):
    labels = torch.tensor([[0, 1, 2], [0, 1, -100]])
    with pytest.raises(NoTargetsError):
        sft_loss(LOGITS, labels, num_targets=count)
    with pytest.raises(NoTargetsError):
        sft_loss(LOGITS, labels, weights=torch.full((2, 3), count / 3))


def test_without_a_gradient_the_norm_is_zero():
    assert clip_gradients([torch.nn.Parameter(torch.ones(2))], 1.0) == 0.0
    assert clip_gradients([], 1.0) == 0.0


def test_a_zero_gradient_stays_zero_at_limit_zero():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.zeros(2)
    assert clip_gradients([parameter], 0.0) == 0.0 and parameter.grad.tolist() == [0.0, 0.0]


def batch(*labels: list[int]):
    return collate([Example([max(label, 0) for label in row], row) for row in labels], pad_token_id=0)


class Partly(FirstAndLast):
    """A table that is used, and a parameter that is not."""

    def __init__(self):
        super().__init__(4, 0, 0.0)
        self.unused = torch.nn.Parameter(torch.ones(3))


@pytest.mark.parametrize("batches", [[], [batch([-100, -100], [1, -100])]])
def test_a_step_without_a_target_changes_nothing_and_says_so(batches):
    model = Partly()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    report = sft_step(model, batches, optimizer)
    assert math.isnan(report.loss) and (report.num_targets, report.grad_norm, report.skipped) == (0, 0.0, True)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def test_a_step_on_one_target_is_a_step():
    """One target over two batches, the first of which has none: SGD on torch's own cross-entropy."""
    model, other = Partly(), Partly()
    report = sft_step(model, [batch([-100, -100]), batch([-100, 2])], torch.optim.SGD(model.parameters(), lr=0.5))
    # The token before the target is the first as well: its row counts twice.
    loss = torch.nn.functional.cross_entropy(2 * other.table[0], torch.tensor(2))
    loss.backward()
    assert (report.num_targets, report.skipped) == (1, False)
    assert report.loss == pytest.approx(loss.item())
    assert report.grad_norm == pytest.approx(other.table.grad.norm().item())
    assert torch.allclose(model.table, other.table - 0.5 * other.table.grad, rtol=0, atol=1e-15)
    with pytest.raises(FrozenInstanceError):
        report.loss = 0.0  # type: ignore[misc]


def test_a_parameter_that_the_step_does_not_reach_is_left_alone():
    """A gradient from before is none: not moved by it, and not by decay or momentum either."""
    model = Partly()
    model.unused.grad = torch.ones(3)
    sft_step(model, [batch([0, 1, 2])], torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5))
    assert model.unused.grad is None and model.unused.tolist() == [1.0, 1.0, 1.0]


def test_the_model_keeps_no_cache_and_computes_no_loss_of_its_own():
    model, seen = make_model(), []
    model.register_forward_hook(lambda module, given, output: seen.append(output))
    logits = forward_logits(model, batch([1, 2, 3]))
    assert logits is seen[0].logits and seen[0].past_key_values is None and seen[0].loss is None


def test_the_rank_is_the_batchs_and_zero_where_no_batch_was():
    assert Context().run(RANK.get) == 0
    other = Context()
    other.run(forward_logits, Partly(), replace(batch([1, 2]), rank=3))
    assert other.run(RANK.get) == 3
