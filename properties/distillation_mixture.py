"""Distillation: how the soft and the hard loss are mixed, and what they become at their limits."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st

from sftspec.properties import must
from sftspec.properties.distillation_cases import (
    ASYMMETRIC,
    UNEVEN,
    Case,
    alphas,
    cases,
    hard_bound,
    hard_loss,
    log_softmax,
    soft_bound,
    soft_gradient_bound,
    soft_loss,
    temperatures,
    value_and_gradient,
)


def centred(row: list[float]) -> list[float]:
    mean = math.fsum(row) / len(row)
    return [z - mean for z in row]


@must(
    seam="distillation_loss",
    laws="KD-MIX",
    floor=40,
    given={"case": cases(), "temperature": temperatures, "alpha": alphas},
    examples=[
        {"case": ASYMMETRIC, "temperature": 4.0, "alpha": 0.25},
        {"case": UNEVEN, "temperature": 2.0, "alpha": 0.0},
    ],
)
def alpha_mixes_the_soft_and_the_hard_loss(loss, case, temperature, alpha):
    """The loss is alpha times the soft loss plus (1 - alpha) times the cross-entropy, which has no T and no T**2.

    alpha = 0 is plain SFT. Swapped weights, and T**2 on the cross-entropy, fail away from alpha = 1/2 and T = 1.
    """
    value, _ = value_and_gradient(loss, case, temperature, alpha)
    expected = alpha * soft_loss(case, temperature) + (1 - alpha) * hard_loss(case)
    bound = alpha * soft_bound(case, temperature) + (1 - alpha) * hard_bound(case) + 2.0**-51 * abs(expected)
    yield case, abs(value - expected) <= bound, f"expected {expected!r}, seen {value!r}"


@must(
    seam="distillation_loss",
    laws="KD-MIX",
    floor=20,
    given={"case": cases("random")},
    examples=[{"case": ASYMMETRIC}],
)
def a_term_of_weight_zero_is_left_out(loss, case):
    """At alpha = 0 a divergence that is infinite does not reach the loss, which is the cross-entropy and no NaN.

    The student excludes with -inf a token, not the label, that the teacher writes: 0 * inf is NaN.
    """
    label = {(b, t): case.labels[b][t + 1] for b, t in case.rows}
    student = [
        [
            [-math.inf if v == (label.get((b, t), 0) + 1) % len(row) else z for v, z in enumerate(row)]
            for t, row in enumerate(rows)
        ]
        for b, rows in enumerate(case.student)
    ]
    without = Case(student, case.teacher, case.labels)
    value, gradient = value_and_gradient(loss, without, 2.0, alpha=0.0)
    expected = hard_loss(without)
    yield without, abs(value - expected) <= hard_bound(case), f"expected {expected!r}, seen {value!r}"
    yield without, bool(torch.isfinite(gradient).all()), f"gradient {gradient}"


@must(
    seam="distillation_loss",
    laws="KD-CE",
    floor=40,
    given={"case": cases("random", "one-hot")},
    examples=[{"case": ASYMMETRIC}],
)
def at_temperature_one_it_is_cross_entropy_with_soft_labels(loss, case):
    """At T = 1 the loss is the soft-label cross-entropy less the teacher's entropy, and the gradients are equal.

    Soft-label cross-entropy is torch's own, with class probabilities as targets.
    """
    value, gradient = value_and_gradient(loss, case)
    rows = torch.tensor([student for student, _ in case.pairs], dtype=torch.float64, requires_grad=True)
    logs = [log_softmax(teacher) for _, teacher in case.pairs]
    soft = torch.nn.functional.cross_entropy(rows, torch.tensor(logs, dtype=torch.float64).exp())
    (soft_label_gradient,) = torch.autograd.grad(soft, rows)
    entropy = -math.fsum(math.exp(a) * a for row in logs for a in row) / len(logs)
    expected = float(soft.detach()) - entropy
    yield case, abs(value - expected) <= soft_bound(case, 1.0), f"expected {expected!r}, seen {value!r}"
    error = max(float((gradient[b, t] - soft_label_gradient[i]).abs().max()) for i, (b, t) in enumerate(case.rows))
    yield case, error <= soft_gradient_bound(case, 1.0), f"gradients differ by {error!r}"


@must(
    seam="distillation_loss",
    laws="KD-HARD",
    floor=20,
    given={"case": cases("random")},
    examples=[{"case": UNEVEN}],
)
def a_sure_teacher_is_a_label(loss, case):
    """A teacher that puts all its mass on the label gives the cross-entropy, and no NaN from 0 * log 0.

    Its other logits are -inf.
    """
    label = {(b, t): case.labels[b][t + 1] for b, t in case.rows}
    teacher = [
        [[0.0 if v == label.get((b, t), 0) else -math.inf for v in range(case.vocabulary)] for t in range(len(rows))]
        for b, rows in enumerate(case.student)
    ]
    value, gradient = value_and_gradient(loss, Case(case.student, teacher, case.labels))
    yield case, abs(value - hard_loss(case)) <= hard_bound(case), f"expected {hard_loss(case)!r}, seen {value!r}"
    yield case, bool(torch.isfinite(gradient).all()), f"gradient {gradient}"


@must(
    seam="distillation_loss",
    laws=("KD-VAL", "KD-ZERO"),
    floor=40,
    given={
        "case": cases("random", "shifted"),
        "dtype": st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    },
    examples=[{"case": Case([[[8.0, 7.75, 6.0]] * 2], [[[8.0, 7.5, 6.0]] * 2], [[0, 1]]), "dtype": torch.bfloat16}],
)
def low_precision_logits_are_reduced_in_float32(loss, case, dtype):
    """Of logits in bfloat16 or float16 the loss is that of these very numbers, within the roundings of float32.

    A log-softmax in bfloat16 makes a KL negative by cancellation (ms-swift#10156, EasyDeL#267). The logits here are
    multiples of 1/8 up to 16, which all these types hold exactly.
    """
    student, teacher, labels = case.tensors(dtype)
    value = float(loss(student, teacher, labels, temperature=2.0, alpha=1.0).detach())
    expected, bound = soft_loss(case, 2.0), soft_bound(case, 2.0, unit=2.0**-24)
    yield case, abs(value - expected) <= bound, f"expected {expected!r}, seen {value!r}"
    yield case, value >= -bound, f"a negative divergence: {value!r}"
