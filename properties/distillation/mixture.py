"""Distillation: how the soft and the hard loss are mixed, and what they become at their limits."""

from __future__ import annotations

import math

import torch

from sftspec.properties import must
from sftspec.properties.cases.distillation import (
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
        {"case": UNEVEN, "temperature": 2.0, "alpha": 0.9},
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


def excluding(logits: list, tokens: dict[tuple[int, int], int]) -> list:
    """The logits with -inf at the token that is named for a place (b, t)."""
    return [
        [[-math.inf if v == tokens.get((b, t)) else z for v, z in enumerate(row)] for t, row in enumerate(rows)]
        for b, rows in enumerate(logits)
    ]


def labels_of(case: Case) -> dict[tuple[int, int], int]:
    return {(b, t): case.labels[b][t + 1] for b, t in case.rows}


some_case = {"given": {"case": cases("random")}, "examples": [{"case": ASYMMETRIC}]}


@must(seam="distillation_loss", laws="KD-MIX", floor=20, **some_case)
def at_alpha_zero_the_divergence_is_left_out(loss, case):
    """At alpha = 0 the loss is the cross-entropy, and its gradient is finite, also where the divergence is infinite.

    The student excludes with -inf a token, not the label, that the teacher writes. 0 * inf is NaN.
    """
    other = {place: (token + 1) % case.vocabulary for place, token in labels_of(case).items()}
    without = Case(excluding(case.student, other), case.teacher, case.labels)
    value, gradient = value_and_gradient(loss, without, 2.0, alpha=0.0)
    right = abs(value - hard_loss(without)) <= hard_bound(case) and bool(torch.isfinite(gradient).all())
    yield without, right, f"expected {hard_loss(without)!r}, seen {value!r}, gradient {gradient}"


@must(seam="distillation_loss", laws="KD-MIX", floor=20, **some_case)
def at_alpha_one_the_cross_entropy_is_left_out(loss, case):
    """At alpha = 1 it is all the same which token is the label: one that is there, or one that both models exclude.

    The cross-entropy of an excluded label is infinite, and 0 * inf is NaN.
    """
    label = labels_of(case)
    other = {place: (token + 1) % case.vocabulary for place, token in label.items()}
    pair = excluding(case.student, label), excluding(case.teacher, label)
    elsewhere = [
        [other.get((b, t - 1), token) if t else token for t, token in enumerate(row)]
        for b, row in enumerate(case.labels)
    ]
    (seen, _), (wanted, _) = (value_and_gradient(loss, Case(*pair, y), 2.0) for y in (case.labels, elsewhere))
    yield pair, seen == wanted or math.isnan(wanted), f"{wanted!r}, and {seen!r} where the label is excluded"


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
