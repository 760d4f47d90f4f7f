"""Distillation: what the loss makes of the teacher: logits over the shared vocabulary, no gradient, nothing changed."""

from __future__ import annotations

import math

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
from sftspec.properties.variations import leaves_alone


@must(
    seam="distillation_loss",
    laws="KD-NOTEACH",
    floor=20,
    given={"case": cases(), "temperature": temperatures, "alpha": alphas},
    examples=[{"case": ASYMMETRIC, "temperature": 1.0, "alpha": 1.0}],
)
def no_gradient_reaches_the_teacher(loss, case, temperature, alpha):
    """The teacher's logits get no gradient, or exactly zero (lightly-train#434)."""
    student, teacher, labels = case.tensors()
    loss(student, teacher, labels, temperature=temperature, alpha=alpha).backward()
    yield case, teacher.grad is None or not teacher.grad.any(), f"teacher gradient {teacher.grad}"


@must(
    seam="distillation_loss",
    laws="KD-NOTEACH",
    floor=20,
    given={"case": cases(), "alpha": alphas},
    examples=[{"case": ASYMMETRIC, "alpha": 0.5}],
)
def the_loss_leaves_its_arguments_as_they_are(loss, case, alpha):
    """The loss changes neither model's logits nor the labels that it is given.

    Logits that are divided by T in place are another model's for whatever reads them next.
    """
    student, teacher, labels = case.tensors()
    yield leaves_alone(loss, student.detach(), teacher.detach(), labels, temperature=2.0, alpha=alpha)


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
    """A wider student is refused, or compared over the shared columns, or over all of its own with a teacher that
    excludes the rest.

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
