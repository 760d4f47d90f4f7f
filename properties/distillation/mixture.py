"""Distillation: how the soft and the hard loss are mixed, and what they become at their limits."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st

from sftspec.properties import must, takes
from sftspec.properties.cases.distillation import (
    ASYMMETRIC,
    UNEVEN,
    Case,
    alphas,
    cases,
    hard_bound,
    hard_loss,
    log_softmax,
    padded,
    soft_bound,
    soft_gradient_bound,
    soft_loss,
    temperatures,
    value_and_gradient,
    widths,
)
from sftspec.properties.cases.distillation_by_hand import asked_of, distilled, option_sets, rounding


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


@must(
    seam="distillation_loss",
    laws="KD-MIX",
    floor=20,
    given={"case": cases("random")},
    examples=[{"case": ASYMMETRIC}],
)
def a_term_of_weight_zero_is_left_out(loss, case):
    """At alpha = 0 a divergence that is infinite does not reach the loss, nor a cross-entropy that is infinite at
    alpha = 1: the loss is the other term, and no NaN.

    The student excludes with -inf a token, not the label, that the teacher writes; or both exclude the label. 0 * inf
    is NaN.
    """
    label = {(b, t): case.labels[b][t + 1] for b, t in case.rows}
    other = {place: (token + 1) % case.vocabulary for place, token in label.items()}
    without = Case(excluding(case.student, other), case.teacher, case.labels)
    value, gradient = value_and_gradient(loss, without, 2.0, alpha=0.0)
    expected = hard_loss(without)
    yield without, abs(value - expected) <= hard_bound(case), f"expected {expected!r}, seen {value!r}"
    yield without, bool(torch.isfinite(gradient).all()), f"gradient {gradient}"
    # At alpha = 1 it is all the same which token is the label: one that is there, or the one that both exclude.
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


LOW = st.sampled_from([torch.bfloat16, torch.float16, torch.float32])
CLOSE = Case([[[8.0, 7.75, 6.0]] * 2], [[[8.0, 7.5, 6.0]] * 2], [[0, 1]])


def held_by(dtype: torch.dtype, logits: list) -> list:
    """Multiples of 1/8 up to 16, which all types hold; for float32 numbers near them that no shorter type holds."""
    factor = 1 + 2.0**-9 + 2.0**-12 if dtype == torch.float32 else 1.0
    return [[[z * factor for z in row] for row in rows] for rows in logits]


@must(
    seam="distillation_loss",
    laws=("KD-VAL", "KD-ZERO"),
    floor=40,
    given={
        "case": cases("random", "shifted"),
        "dtypes": st.tuples(LOW, LOW),
        "temperature": st.sampled_from([0.7, 2.0, 3.0]),
        "alpha": alphas,
        "options": option_sets,
        "wide": st.none() | widths,
    },
    examples=[
        {"case": case, "dtypes": dtypes, "temperature": temperature, "alpha": alpha, "options": options, "wide": wide}
        for case, dtypes, temperature, options, wide in (
            (CLOSE, (torch.bfloat16, torch.bfloat16), 2.0, {}, None),
            (CLOSE, (torch.bfloat16, torch.bfloat16), 2.0, {"num_targets": 2}, None),
            (ASYMMETRIC, (torch.bfloat16, torch.float32), 3.0, {}, None),
            (ASYMMETRIC, (torch.bfloat16, torch.float32), 3.0, {}, (0, 2)),
            (ASYMMETRIC, (torch.float32, torch.bfloat16), 0.7, {}, None),
        )
        for alpha in (1.0, 0.5)
    ],
)
def low_precision_logits_are_reduced_in_float32(loss, case, dtypes, temperature, alpha, options, wide):
    """Of logits in bfloat16 or float16 the loss is that of these very numbers in float64, within the roundings of
    float32, and so is the gradient, rounded to the student's type; also where the teacher's is another, where a
    denominator is given, and where columns are cut off.

    A log-softmax in bfloat16 makes a KL negative by cancellation (ms-swift#10156, EasyDeL#267), in the cross-entropy it
    is off by a percent, and so are logits that are divided by T before they are raised, unless T is a power of two; a
    teacher in float32 that is cast to the student's type is another teacher.

    Rounding of the gradient: one for each term by hand, and one for their sum, which may be larger where the loss is
    another; 2**-25 is half the least float16.
    """
    exact = Case(held_by(dtypes[0], case.student), held_by(dtypes[1], case.teacher), case.labels)
    asked = asked_of(loss, options)
    if wide is not None and takes(loss, "vocab_size"):
        asked, exact = {**asked, "vocab_size": exact.vocabulary}, padded(exact, wide)

    def run(*dtypes: torch.dtype) -> tuple[float, torch.Tensor]:
        student, teacher = (z.detach().to(dtype) for z, dtype in zip(exact.tensors(), dtypes, strict=False))
        student.requires_grad_()
        value = loss(student, teacher, torch.tensor(case.labels), temperature=temperature, alpha=alpha, **asked)
        (gradient,) = torch.autograd.grad(value, student)
        return float(value.detach()), gradient.double()

    (seen, gradient), (expected, wanted) = run(*dtypes), run(torch.float64, torch.float64)
    if math.isnan(expected):  # whatever makes it so, it is not the precision
        return
    bound, entry = rounding(exact, temperature, alpha, asked, unit=2.0**-24)
    yield (exact, dtypes), abs(seen - expected) <= bound, f"{dtypes}: expected {expected!r}, seen {seen!r}"
    unit = torch.finfo(dtypes[0]).eps / 2
    terms = [distilled(exact, temperature, weight, asked)[1] for weight in (1.0, 0.0)]
    for (b, t), soft, hard in zip(exact.rows, *terms, strict=True):
        sizes = torch.tensor([alpha * abs(s) + (1 - alpha) * abs(h) for s, h in zip(soft, hard, strict=True)]).double()
        sizes += wanted[b, t].abs().max()
        close = (gradient[b, t] - wanted[b, t]).abs() <= entry + 3 * (unit * sizes + 2.0**-25)
        note = f"{dtypes}: expected gradient {wanted[b, t].tolist()}, seen {gradient[b, t].tolist()}"
        yield (exact, dtypes, b, t), bool(close.all()), note
