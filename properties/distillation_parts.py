"""Distillation: which positions and which tokens the loss reads, what it divides by, and how the teacher is read.

The soft loss reads exactly the positions of the hard loss and divides by their number: one shift, one mask, one
denominator. Positions without a target are compared exactly.
"""

from __future__ import annotations

import contextlib
import math
from types import SimpleNamespace

import torch
from hypothesis import strategies as st

from sftspec.distillation import distillation_loss, frozen_logits  # noqa: F401 (the judge binds the seams)
from sftspec.properties import must
from sftspec.properties.distillation_cases import (
    ASYMMETRIC,
    IGNORE,
    UNEVEN,
    Case,
    alphas,
    cases,
    hard_bound,
    kl,
    log_softmax,
    soft_bound,
    soft_gradient,
    soft_loss,
    temperatures,
    value_and_gradient,
    widened,
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
def logits_without_a_target_do_not_matter(loss, case, alpha, value):
    """Changing either model's logits at positions that are not scored leaves the loss bitwise as it was, also if they
    become NaN.

    A row of padding that attends to nothing is NaN, and a mask that multiplies keeps it: NaN * 0 is NaN (trap H21).
    """
    student, teacher, labels = case.tensors()
    before = loss(student, teacher, labels, temperature=2.0, alpha=alpha)
    ignored = torch.ones(labels.shape, dtype=torch.bool)
    for b, t in case.rows:
        ignored[b, t] = False
    with torch.no_grad():
        for logits in (student, teacher):
            logits[ignored] = torch.linspace(0, value, case.vocabulary, dtype=torch.float64)
    after = loss(student, teacher, labels, temperature=2.0, alpha=alpha)
    yield case, torch.equal(before, after), f"{before.tolist()} became {after.tolist()}"


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


@must(
    seam="distillation_loss",
    laws="KD-ACC",
    floor=40,
    given={"case": cases("random"), "alpha": alphas},
    examples=[{"case": UNEVEN, "alpha": 1.0}],
)
def the_cut_into_batches_does_not_matter(loss, case, alpha):
    """One sequence at a time, each weighted by its share of the targets, or all packed into one row with the first
    label of each ignored, the loss is that of the batch.

    A mean per micro-batch or per sequence is another loss as soon as targets are uneven (trl#4719, ms-swift#10076).
    """
    whole = value_and_gradient(loss, case, 2.0, alpha)[0]
    bound = 2 * (soft_bound(case, 2.0) + hard_bound(case))
    single = [Case([s], [t], [y]) for s, t, y in zip(case.student, case.teacher, case.labels, strict=True)]
    parts = [(len(each.rows), value_and_gradient(loss, each, 2.0, alpha)[0]) for each in single if each.rows]
    summed = math.fsum(n * value for n, value in parts) / len(case.rows)
    yield (case, "one at a time"), abs(summed - whole) <= bound, f"expected {whole!r}, seen {summed!r}"
    packed = Case(
        [[row for rows in case.student for row in rows]],
        [[row for rows in case.teacher for row in rows]],
        [[label for labels in case.labels for label in [IGNORE, *labels[1:]]]],
    )
    in_one = value_and_gradient(loss, packed, 2.0, alpha)[0]
    yield (case, "packed"), abs(in_one - whole) <= bound, f"expected {whole!r}, seen {in_one!r}"


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
    """A model whose forward pass shows whether dropout was on and whether a graph was built."""

    def __init__(self, dropout: float):
        super().__init__()
        self.head = torch.nn.Linear(4, 5)
        torch.nn.init.constant_(self.head.weight, 0.5)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, inputs: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.dropout(self.head(inputs)))


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

    Dropout on gives another target at each call (TaCL#11); eval() on a module shared with the student switches the
    student's dropout off; train() afterwards wakes parts that were meant to stay frozen; a parameter that is shared and
    frozen for good is no longer trained. Logits kept from another batch of the same shape are of other tokens.
    """
    teacher, inputs = Dropped(dropout).train(training), torch.arange(1.0, 13.0).reshape(3, 4)
    teacher.dropout.train(training and not frozen_part)
    teacher.head.bias.requires_grad_(not frozen_part)
    modes, state = _state(teacher), torch.get_rng_state()
    first, second = read(teacher, inputs=inputs), read(teacher, inputs=inputs)
    yield modes, torch.equal(first, teacher.head(inputs)) and torch.equal(first, second), "the logits change: dropout"
    yield modes, not first.requires_grad, "the logits carry a graph"
    other = read(teacher, inputs=inputs + 1)
    yield modes, torch.equal(other, teacher.head(inputs + 1)), "the logits are those of other inputs"
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
