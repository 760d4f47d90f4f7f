"""Distillation: which positions and which tokens the loss reads, what it divides by, and how the teacher is read.

The soft loss reads exactly the positions of the hard loss and divides by their number: one shift, one mask, one
denominator. Positions without a target are compared exactly.
"""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st

from sftspec.properties import must, number_or_nan
from sftspec.properties.cases.distillation import (
    ASYMMETRIC,
    IGNORE,
    UNEVEN,
    Case,
    alphas,
    cases,
    hard_bound,
    soft_bound,
    soft_gradient,
    temperatures,
    value_and_gradient,
)


@must(
    seam="distillation_loss",
    laws="KD-MASK",
    floor=60,
    given={"case": cases("random"), "temperature": temperatures, "alpha": alphas},
    examples=[
        {"case": UNEVEN, "temperature": 1.0, "alpha": 1.0},
        {"case": ASYMMETRIC, "temperature": 2.0, "alpha": 0.5},
    ],
)
def the_soft_loss_reads_the_positions_of_the_hard_loss(loss, case, temperature, alpha):
    """Position t has a gradient if, and only if, the label at t + 1 is a target: exactly zero elsewhere.

    KD code that bypasses the model's own shift is off by one (ms-swift#8436); without the mask the student learns the
    teacher's prompt and padding (trl#2058).
    """
    _, gradient = value_and_gradient(loss, case, temperature, alpha)
    scored = soft_gradient(case, temperature)
    for b, labels in enumerate(case.labels):
        for t in range(len(labels)):
            reached = bool(gradient[b, t].any())
            if (b, t) not in scored:
                yield (case, b, t), not reached, f"no target, gradient {gradient[b, t].tolist()}"
            elif alpha < 1 or max(map(abs, scored[b, t])) > 1e-9:  # else the models agree, up to rounding
                yield (case, b, t), reached, "a target, but the gradient is zero"


@must(
    seam="distillation_loss",
    laws="KD-MASK",
    floor=20,
    given={"case": cases("random"), "alpha": alphas, "value": st.sampled_from([0.0, -7.0, 1e30, math.nan])},
    examples=[{"case": UNEVEN, "alpha": alpha, "value": value} for alpha in (0.0, 1.0) for value in (1e30, math.nan)],
)
def logits_without_a_target_leave_the_loss_as_it_is(loss, case, alpha, value):
    """Changing either model's logits where no target is scored leaves the loss bitwise as it was, also if they become
    NaN.

    A row of padding that attends to nothing is NaN, and a mask that multiplies keeps it: NaN * 0 is NaN (trap H21).
    """
    student, teacher, labels = case.tensors()
    before = loss(student, teacher, labels, temperature=2.0, alpha=alpha)
    ignored = torch.ones(labels.shape, dtype=torch.bool)
    ignored[tuple(zip(*case.rows, strict=True))] = False
    with torch.no_grad():
        for logits in (student, teacher):
            logits[ignored] = torch.linspace(0, value, case.vocabulary, dtype=torch.float64)
    after = loss(student, teacher, labels, temperature=2.0, alpha=alpha)
    yield case, torch.equal(before, after), f"{before.tolist()} became {after.tolist()}"


@must(
    seam="distillation_loss",
    laws="KD-MASK",
    floor=20,
    given={"case": cases("random"), "alpha": alphas, "model": st.sampled_from(["student", "teacher"])},
    examples=[{"case": UNEVEN, "alpha": 1.0, "model": model} for model in ("student", "teacher")],
)
def nan_at_a_target_is_not_hidden(loss, case, alpha, model):
    """NaN logits at a target, of a model that the loss reads, make it NaN, or are refused.

    A loss that replaces NaN reports a model that broke as one that has nothing to learn.
    """
    if model == "teacher" and alpha == 0:  # the cross-entropy alone reads no teacher
        return
    student, teacher, labels = case.tensors()
    with torch.no_grad():
        (student if model == "student" else teacher)[case.rows[-1]] = math.nan
    value = number_or_nan(lambda: loss(student, teacher, labels, temperature=2.0, alpha=alpha).detach())
    yield case, math.isnan(value), f"{model} NaN at a target, the loss is {value}"


@must(
    seam="distillation_loss",
    laws=("KD-RED", "KD-ACC"),
    floor=40,
    given={"case": cases(), "alpha": alphas, "extra": st.integers(1, 4)},
    examples=[{"case": UNEVEN, "alpha": 1.0, "extra": 3}],
)
def positions_without_a_target_do_not_dilute(loss, case, alpha, extra):
    """Padding on the right and a sequence without targets leave the loss as it was: the mean is over targets only.

    Dividing by B ("batchmean" of three axes) or by B*T lets padding lower the loss (ms-swift#6600).
    """
    padding = [[0.0] * case.vocabulary] * extra
    longer = Case(
        [rows + padding for rows in case.student],
        [rows + padding for rows in case.teacher],
        [labels + [IGNORE] * extra for labels in case.labels],
    )
    more = Case([*case.student, case.teacher[0]], [*case.teacher, case.student[0]], [*case.labels])
    more.labels.append([IGNORE] * len(case.labels[0]))
    bound = soft_bound(case, 2.0) + hard_bound(case)
    before = value_and_gradient(loss, case, 2.0, alpha)[0]
    for name, changed in (("padding", longer), ("a sequence without targets", more)):
        after = value_and_gradient(loss, changed, 2.0, alpha)[0]
        yield (case, name), abs(before - after) <= bound, f"{name}: {before!r} became {after!r}"


in_parts = {"given": {"case": cases("random"), "alpha": alphas}, "examples": [{"case": UNEVEN, "alpha": 1.0}]}


@must(seam="distillation_loss", laws="KD-ACC", floor=20, **in_parts)
def sequences_one_at_a_time_add_up_to_the_batch(loss, case, alpha):
    """One sequence at a time, each weighted by its share of the targets, adds up to the loss of the batch.

    A mean per micro-batch or per sequence is another loss as soon as targets are uneven (trl#4719, ms-swift#10076).
    """
    whole = value_and_gradient(loss, case, 2.0, alpha)[0]
    single = [Case([s], [t], [y]) for s, t, y in zip(case.student, case.teacher, case.labels, strict=True)]
    parts = [(len(each.rows), value_and_gradient(loss, each, 2.0, alpha)[0]) for each in single if each.rows]
    summed = math.fsum(n * value for n, value in parts) / len(case.rows)
    bound = 2 * (soft_bound(case, 2.0) + hard_bound(case))
    yield case, abs(summed - whole) <= bound, f"expected {whole!r}, seen {summed!r}"


@must(seam="distillation_loss", laws="KD-ACC", floor=20, **in_parts)
def sequences_packed_into_one_row_have_the_loss_of_the_batch(loss, case, alpha):
    """Sequences that are packed into one row, with the first label of each ignored, have the loss of the batch."""
    packed = Case(
        [[row for rows in case.student for row in rows]],
        [[row for rows in case.teacher for row in rows]],
        [[label for labels in case.labels for label in [IGNORE, *labels[1:]]]],
    )
    whole, in_one = (value_and_gradient(loss, each, 2.0, alpha)[0] for each in (case, packed))
    bound = 2 * (soft_bound(case, 2.0) + hard_bound(case))
    yield case, abs(in_one - whole) <= bound, f"expected {whole!r}, seen {in_one!r}"


@must(
    seam="distillation_loss",
    laws="KD-MASK",
    floor=4,
    given={"length": st.integers(2, 5), "alpha": alphas},
    examples=[{"length": 2, "alpha": 1.0}, {"length": 3, "alpha": 0.5}],
)
def a_batch_without_targets_trains_nothing(loss, length, alpha):
    """Without a target the loss is refused, or finite with a gradient of exactly zero: never NaN."""
    row = [[0.5, -1.0, 2.0]] * length
    case = Case([row], [[[1.0, 0.0, 0.0]] * length], [[1] + [IGNORE] * (length - 1)])
    try:
        value, gradient = value_and_gradient(loss, case, 2.0, alpha)
    except Exception as error:
        yield case, True, f"refused: {error}"
    else:
        yield case, math.isfinite(value) and not gradient.any(), f"loss {value}, gradient {gradient}"
