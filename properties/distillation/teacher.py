"""Distillation: what is read of the teacher: logits over the shared vocabulary, no gradient, in eval mode."""

from __future__ import annotations

import contextlib
import math
from types import SimpleNamespace

import torch
from hypothesis import strategies as st

from sftspec.properties import must
from sftspec.properties.cases.distillation import (
    ASYMMETRIC,
    Case,
    alphas,
    cases,
    hard_bound,
    kl,
    log_softmax,
    soft_bound,
    soft_loss,
    temperatures,
    value_and_gradient,
    widened,
)


@must(
    seam="distillation_loss",
    laws="KD-NOTEACH",
    floor=20,
    given={"case": cases(), "temperature": temperatures, "alpha": alphas},
    examples=[{"case": ASYMMETRIC, "temperature": 1.0, "alpha": 1.0}],
)
def the_teacher_receives_no_gradient(loss, case, temperature, alpha):
    """The teacher's logits get no gradient, or exactly zero, and are not changed (lightly-train#434)."""
    student, teacher, labels = case.tensors()
    before = teacher.detach().clone()
    loss(student, teacher, labels, temperature=temperature, alpha=alpha).backward()
    untouched = teacher.grad is None or not teacher.grad.any()
    yield case, untouched and torch.equal(teacher.detach(), before), f"teacher gradient {teacher.grad}"


@must(
    seam="distillation_loss",
    laws="KD-VOCAB",
    floor=40,
    given={"case": cases("random"), "padding": st.integers(1, 5), "alpha": alphas},
    examples=[{"case": ASYMMETRIC, "padding": 2, "alpha": 1.0}],
)
def padding_columns_carry_no_mass(loss, case, padding, alpha):
    """Columns that both models exclude with -inf leave loss and gradient as they were, with no NaN from inf - inf.

    "mean" over the vocabulary fails as well: V is no denominator (trl#4105).
    """
    student, teacher = (widened(logits, padding, -math.inf) for logits in (case.student, case.teacher))
    before, gradient = value_and_gradient(loss, case, 2.0, alpha)
    after, wide_gradient = value_and_gradient(loss, Case(student, teacher, case.labels), 2.0, alpha)
    bound = soft_bound(case, 2.0) + hard_bound(case)
    yield case, abs(before - after) <= bound, f"{before!r} became {after!r}"
    difference = float((wide_gradient[..., : case.vocabulary] - gradient).abs().max())
    yield case, difference <= bound and not wide_gradient[..., case.vocabulary :].any(), f"differs by {difference!r}"


@must(
    seam="distillation_loss",
    laws="KD-VOCAB",
    floor=20,
    given={"case": cases("random"), "padding": st.integers(1, 5)},
    examples=[{"case": ASYMMETRIC, "padding": 3}],
)
def a_wider_teacher_is_refused_or_cut(loss, case, padding):
    """A teacher with more columns than the student is an error, or compared over the shared columns, renormalised.

    Padding the student with zero logits, or cutting after the softmax, puts mass on tokens that do not exist
    (trl#6252, torchtune#2119, LMOps#331).
    """
    wide = Case(case.student, widened(case.teacher, padding), case.labels)
    try:
        value, _ = value_and_gradient(loss, wide, 2.0)
    except Exception as error:
        yield case, True, f"refused: {error}"
    else:
        expected = soft_loss(case, 2.0)
        yield case, abs(value - expected) <= soft_bound(case, 2.0), f"expected {expected!r}, seen {value!r}"


@must(
    seam="distillation_loss",
    laws="KD-VOCAB",
    floor=20,
    given={"case": cases("random"), "padding": st.integers(1, 5)},
    examples=[{"case": ASYMMETRIC, "padding": 3}],
)
def a_wider_student_is_refused_or_cut(loss, case, padding):
    """A student with more columns than the teacher is an error, or compared over the shared columns, or over all of its
    own with a teacher that excludes the rest.

    A teacher that is padded with zero logits teaches tokens that it does not have.
    """
    wide = Case(widened(case.student, padding), case.teacher, case.labels)
    none = Case(wide.student, widened(case.teacher, padding, -math.inf), case.labels)
    try:
        value, _ = value_and_gradient(loss, wide, 2.0)
    except Exception as error:
        yield case, True, f"refused: {error}"
        return
    logs = [[log_softmax(row, 2.0) for row in pair] for pair in none.pairs]
    over_all = [kl(teacher[: case.vocabulary], student[: case.vocabulary]) for student, teacher in logs]
    expected = soft_loss(case, 2.0), 4 * math.fsum(over_all) / len(over_all)
    bound = soft_bound(wide, 2.0)
    yield case, min(abs(value - each) for each in expected) <= bound, f"expected one of {expected}, seen {value!r}"


class Dropped(torch.nn.Module):
    """A model whose forward pass shows whether dropout was on and whether a graph was built, and with what else beside
    its inputs it was asked.

    Attention drops by the function, which asks its own module's mode; the rest by a module, as deep as in a layer.
    """

    def __init__(self, dropout: float):
        super().__init__()
        self.head = torch.nn.Linear(4, 5)
        torch.nn.init.constant_(self.head.weight, 0.5)
        deep = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Dropout(dropout)))
        self.rate, self.layers = dropout, torch.nn.Sequential(deep)

    def forward(self, inputs: torch.Tensor, **beside: torch.Tensor) -> SimpleNamespace:
        self.beside = beside
        kept = torch.nn.functional.dropout(inputs, self.rate, self.training)
        return SimpleNamespace(logits=self.layers(self.head(kept)))


@must(
    seam="frozen_logits",
    laws="KD-NOTEACH",
    floor=20,
    given={"dropout": st.sampled_from([0.25, 0.5]), "training": st.booleans(), "frozen_part": st.booleans()},
    examples=[{"dropout": 0.5, "training": True, "frozen_part": True}],
)
def the_teacher_is_read_in_eval_mode_and_left_as_it_was(read, dropout, training, frozen_part):
    """The teacher's forward pass has dropout off and builds no graph; every module's mode is as before, also when the
    pass raised, and so is what its parameters want, the random state and whether gradients are on.

    Dropout on, be it deep inside, gives another target at each call (TaCL#11); eval() on a module shared with the
    student switches the student's dropout off; train() afterwards wakes parts that were meant to stay frozen; a
    parameter that is shared and frozen for good is no longer trained. Logits kept from another batch of the same shape
    are of other tokens; those of a pass that got no attention mask, or no positions, are of another context.
    """
    teacher, inputs = Dropped(dropout).train(training), torch.arange(1.0, 13.0).reshape(3, 4)
    teacher.layers.train(training and not frozen_part)
    teacher.head.bias.requires_grad_(not frozen_part)
    modes, state = _state(teacher), torch.get_rng_state()
    first, second = read(teacher, inputs=inputs), read(teacher, inputs=inputs)
    yield modes, torch.equal(first, teacher.head(inputs)) and torch.equal(first, second), "the logits change: dropout"
    yield modes, not first.requires_grad, "the logits carry a graph"
    other = read(teacher, inputs=inputs + 1)
    yield modes, torch.equal(other, teacher.head(inputs + 1)), "the logits are those of other inputs"
    beside = {name: inputs > row for row, name in enumerate(("attention_mask", "position_ids", "segment_ids"))}
    read(teacher, inputs=inputs, **beside)
    lost = [name for name, value in beside.items() if not torch.equal(teacher.beside.get(name, inputs), value)]
    yield modes, not lost, f"the teacher was asked without {lost}"
    yield modes, _state(teacher) == modes, f"modes, wishes for a gradient before {modes}, after {_state(teacher)}"
    yield modes, torch.equal(torch.get_rng_state(), state), "the random state has changed"
    enabled = torch.is_grad_enabled()
    torch.set_grad_enabled(True)  # whatever was left behind, for the properties that follow
    yield modes, enabled, "gradients are off for whatever follows"
    with contextlib.suppress(Exception):
        read(teacher, inputs=inputs[:, :3])
    torch.set_grad_enabled(True)
    yield modes, _state(teacher) == modes, f"a pass that raised: before {modes}, after {_state(teacher)}"


def _state(model: torch.nn.Module) -> tuple[list[bool], list[bool]]:
    return [part.training for part in model.modules()], [item.requires_grad for item in model.parameters()]
