"""Distillation of logits in 16 or 32 bits: the loss is that of these very numbers, reduced in float32.

The same function is asked of the same numbers in float64. The value may differ by the roundings of float32, the
gradient by those and by the student's type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from hypothesis import strategies as st

from sftspec.properties import must, takes
from sftspec.properties.cases.distillation import ASYMMETRIC, Case, alphas, cases, once, padded, widths
from sftspec.properties.cases.distillation_by_hand import asked_of, distilled, option_sets, rounding

LOW = st.sampled_from([torch.bfloat16, torch.float16, torch.float32])
CLOSE = Case([[[8.0, 7.75, 6.0]] * 2], [[[8.0, 7.5, 6.0]] * 2], [[0, 1]])
FLOAT32 = 2.0**-24


@once
def in_both(case: Case, dtypes: tuple[torch.dtype, torch.dtype]) -> Case:
    """The case in numbers that the student's type holds, and the teacher's."""
    return Case(held_by(dtypes[0], case.student), held_by(dtypes[1], case.teacher), case.labels)


def held_by(dtype: torch.dtype, logits: list) -> list:
    """Multiples of 1/8 up to 16, which all types hold; for float32 numbers near them that no shorter type holds."""
    factor = 1 + 2.0**-9 + 2.0**-12 if dtype == torch.float32 else 1.0
    return [[[z * factor for z in row] for row in rows] for rows in logits]


low_precision = {
    "given": {
        "case": cases("random", "shifted"),
        "dtypes": st.tuples(LOW, LOW),
        "temperature": st.sampled_from([0.7, 2.0, 3.0]),
        "alpha": alphas,
        "options": option_sets,
        "wide": st.none() | widths,
    },
    "examples": [
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
}  # what is asked: student and teacher in types of their own, beside a denominator and columns that are cut off


def in_types(
    loss: Callable, dtypes: tuple, case: Case, temperature: float, alpha: float, options: Mapping[str, Any], wide
) -> tuple[Case, Mapping[str, Any], tuple[float, torch.Tensor], tuple[float, torch.Tensor]]:
    """(the case that both types hold, its options, (value, gradient) in these types, the same in float64)."""
    exact, asked = in_both(case, dtypes), asked_of(loss, options)
    if wide is not None and takes(loss, "vocab_size"):
        asked, exact = {**asked, "vocab_size": exact.vocabulary}, padded(exact, wide)

    def run(*types: torch.dtype) -> tuple[float, torch.Tensor]:
        student, teacher = (z.detach().to(dtype) for z, dtype in zip(exact.tensors(), types, strict=False))
        student.requires_grad_()
        value = loss(student, teacher, torch.tensor(case.labels), temperature=temperature, alpha=alpha, **asked)
        (gradient,) = torch.autograd.grad(value, student)
        return float(value.detach()), gradient.double()

    return exact, asked, run(*dtypes), run(torch.float64, torch.float64)


@must(seam="distillation_loss", laws=("KD-VAL", "KD-ZERO"), floor=40, **low_precision)
def the_loss_of_low_precision_logits_is_reduced_in_float32(loss, case, dtypes, temperature, alpha, options, wide):
    """Of logits in 16 or 32 bits the loss is that of these very numbers, within the roundings of float32.

    A log-softmax in bfloat16 makes a KL negative by cancellation (ms-swift#10156, EasyDeL#267), in the cross-entropy it
    is off by a percent, and so are logits that are divided by T before they are raised, unless T is a power of two; a
    teacher in float32 that is cast to the student's type is another teacher.
    """
    exact, asked, (seen, _), (expected, _) = in_types(loss, dtypes, case, temperature, alpha, options, wide)
    if math.isnan(expected):  # whatever makes it so, it is not the precision
        return
    bound, _ = rounding(exact, temperature, alpha, asked, unit=FLOAT32)
    yield (exact, dtypes), abs(seen - expected) <= bound, f"{dtypes}: expected {expected!r}, seen {seen!r}"


@must(seam="distillation_loss", laws=("KD-VAL", "KD-GRAD"), floor=40, **low_precision)
def the_gradient_of_low_precision_logits_is_reduced_in_float32(loss, case, dtypes, temperature, alpha, options, wide):
    """Of logits in 16 or 32 bits the gradient is that of these very numbers, within the roundings of float32 and of the
    student's type.

    Rounding of the gradient: one for each term by hand, and one for their sum, which may be larger where the loss is
    another; 2**-25 is half the least float16.
    """
    exact, asked, (_, gradient), (value, wanted) = in_types(loss, dtypes, case, temperature, alpha, options, wide)
    if math.isnan(value):
        return
    _, entry = rounding(exact, temperature, alpha, asked, unit=FLOAT32)
    unit = torch.finfo(dtypes[0]).eps / 2
    softs, hards = (rows_by_hand(exact, temperature, weight, frozenset(asked.items())) for weight in (1.0, 0.0))
    places = tuple(zip(*exact.rows, strict=True))
    seen, due = gradient[places], wanted[places]
    sizes = alpha * softs.abs() + (1 - alpha) * hards.abs() + due.abs().amax(-1, keepdim=True)
    close = ((seen - due).abs() <= entry + 3 * (unit * sizes + 2.0**-25)).all(-1).tolist()
    for row, (b, t) in enumerate(exact.rows):
        note = "" if close[row] else f"{dtypes}: expected gradient {due[row].tolist()}, seen {seen[row].tolist()}"
        yield (exact, dtypes, b, t), close[row], note


@once
def rows_by_hand(case: Case, temperature: float, alpha: float, chosen: frozenset) -> torch.Tensor:
    """(targets, V) float64: the gradient by hand at each scored position."""
    return torch.tensor(distilled(case, temperature, alpha, dict(chosen))[1], dtype=torch.float64)
