"""Distillation: what the options of a loss make of it.

An option that the function under test does not have is not asked of it, and the property is then not measured. Where it
is there, the loss is compared with the formula in plain Python, as in `distillation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from hypothesis import strategies as st

from sftspec.properties import must, number_or_nan, should, takes
from sftspec.properties.cases.distillation import (
    ASYMMETRIC,
    IGNORE,
    MANY,
    UNEVEN,
    WIDE,
    Case,
    alphas,
    cases,
    once,
    padded,
    temperatures,
    widened,
    widths,
)
from sftspec.properties.cases.distillation_by_hand import asked_of, distilled, option_sets, rounding


def value_of(loss, case: Case, temperature: float, alpha: float = 1.0, **options) -> float:
    student, teacher, labels = case.tensors()
    return float(loss(student, teacher, labels, temperature=temperature, alpha=alpha, **options).detach())


# The logits (student, teacher) of one more column: both models have its token, neither has, one has.
BOTH, NEITHER, TEACHER_ONLY, STUDENT_ONLY = (0.0, 0.0), (-math.inf, -math.inf), (-math.inf, 0.0), (0.0, -math.inf)
last_columns = st.sampled_from([BOTH, NEITHER, TEACHER_ONLY, STUDENT_ONLY])


@once
def with_column(case: Case, logits: tuple[float, float]) -> Case:
    return Case(widened(case.student, 1, logits[0]), widened(case.teacher, 1, logits[1]), case.labels)


def as_by_hand(
    loss: Callable,
    case: Case,
    temperature: float,
    alpha: float,
    options: Mapping[str, Any],
    last: tuple[float, float] = BOTH,
    beyond: tuple[int, int] | None = None,
) -> Iterator[tuple]:
    """Evidence: the case with that last column has the value and the gradient by hand, and the teacher has none.

    beyond: columns of padding behind it, for student and teacher, which vocab_size= then cuts off.
    A divergence that is infinite may be refused instead.
    """
    case, finite = with_column(case, last), with_column(case, BOTH)
    if beyond is not None:
        options = {**options, "vocab_size": case.vocabulary}
        case = padded(case, beyond)
    expected, rows = distilled(case, temperature, alpha, options)
    bound, gradient_bound = rounding(finite, temperature, alpha, options)
    subject, (student, teacher, labels) = (case, options), case.tensors()
    try:
        value = loss(student, teacher, labels, temperature=temperature, alpha=alpha, **options)
    except Exception as error:
        if rows is not None:
            raise
        yield subject, True, f"refused: {error}"
        return
    seen = float(value.detach())
    if rows is None:
        yield subject, seen == expected, f"{options}: expected {expected!r}, seen {seen!r}"
        return
    yield subject, abs(seen - expected) <= bound, f"{options}: expected {expected!r}, seen {seen!r}"
    gradient, of_teacher = torch.autograd.grad(value, (student, teacher), allow_unused=True)
    found = gradient.tolist()
    for (b, t), row in zip(case.rows, rows, strict=True):
        close = all(abs(x - y) <= gradient_bound for x, y in zip(found[b][t], row, strict=True))
        yield (*subject, b, t), close, "" if close else f"{options}: expected gradient {row}, seen {found[b][t]}"
    yield subject, of_teacher is None or not of_teacher.any(), f"{options}: teacher gradient {of_teacher}"


@must(
    seam="distillation_loss",
    laws=("KD-ACC", "KD-RED"),
    floor=20,
    given={"case": cases("random"), "alpha": alphas, "more": st.integers(1, 40)},
    examples=[{"case": UNEVEN, "alpha": alpha, "more": 3} for alpha in (0.0, 0.5, 1.0)],
)
def both_terms_have_the_denominator_that_is_given(loss, case, alpha, more):
    """With num_targets= the summed soft and hard losses are divided by that number, which is the whole step's.

    One term that divides by the targets of its micro-batch all the same is a mean of means (trl#4719, ms-swift#10076),
    and at alpha = 1 the other hides it.
    """
    if takes(loss, "num_targets"):
        options = {"num_targets": len(case.rows) + more}
        value = value_of(loss, case, 2.0, alpha, **options)
        (expected, _), (bound, _) = distilled(case, 2.0, alpha, options), rounding(case, 2.0, alpha, options)
        yield case, abs(value - expected) <= bound, f"expected {expected!r}, seen {value!r}"


@must(
    seam="distillation_loss",
    laws=("KD-ACC", "KD-RED"),
    floor=20,
    given={"case": cases("random"), "alpha": alphas, "more": st.integers(1, 40)},
    examples=[{"case": UNEVEN, "alpha": alpha, "more": 3} for alpha in (0.0, 0.5, 1.0)],
)
def a_micro_batch_without_targets_adds_nothing(loss, case, alpha, more):
    """With num_targets= a micro-batch without targets has a loss and a gradient of 0.

    One that is refused, or is 0/0, ends a step that has targets.
    """
    if takes(loss, "num_targets"):
        student, teacher, labels = case.tensors()
        labels = torch.full_like(labels, IGNORE)
        empty = loss(student, teacher, labels, temperature=2.0, alpha=alpha, num_targets=more)
        if empty.requires_grad:
            empty.backward()
        untrained = student.grad is None or not student.grad.any()
        yield case, float(empty.detach()) == 0 and untrained, f"loss {empty}, gradient {student.grad}"


NAMED: tuple[dict[str, Any], ...] = ({}, {"divergence": "reverse_kl"}, {"divergence": "jsd", "beta": 0.25})


@must(
    seam="distillation_loss",
    laws=("KD-DIR", "KD-JSD", "KD-MIX", "KD-NOTEACH"),
    floor=40,
    given={
        "case": cases("random", "shifted"),
        "temperature": temperatures,
        "alpha": alphas,
        "options": option_sets,
        "last": last_columns,
        "beyond": st.none() | widths,
    },
    examples=[
        {"case": case, "temperature": 2.0, "alpha": alpha, "options": {**named, **others}, "last": last, "beyond": wide}
        for named in NAMED
        for case, alpha, others, last, wide in (
            (ASYMMETRIC, 1.0, {}, BOTH, None),
            (ASYMMETRIC, 0.25, {"top_k": 2, "num_targets": 5}, NEITHER, (2, 3)),
            (ASYMMETRIC, 1.0, {}, TEACHER_ONLY, None),
            (ASYMMETRIC, 1.0, {}, STUDENT_ONLY, (1, 0)),
            (MANY, 1.0, {} if named else {"top_k": 2}, BOTH, None),
        )
    ],
)
def a_named_divergence_is_trained(loss, case, temperature, alpha, options, last, beyond):
    """divergence= trains T**2 times the mean of the divergence that it names, in value and in gradient, beside every
    other option.

    "reverse_kl" is KL(student || teacher), "jsd" the JSD with this beta.
    Both directions under one name, beta lost or swapped on the way from the option to the formula (trl#3043, H19); a
    student that is detached in one factor (H16); alpha, num_targets, top_k, vocab_size, the last chunk of a path in
    chunks or the teacher's detach, kept for the forward KL alone; 0 * (-inf) at a padding column. A token that one
    model alone excludes costs the other infinitely much under a KL, and finitely under a JSD.
    """
    if not takes(loss, "divergence"):
        return
    beyond = beyond if takes(loss, "vocab_size") else None
    yield from as_by_hand(loss, case, temperature, alpha, asked_of(loss, options), last, beyond)


@must(
    seam="distillation_loss",
    laws="KD-DIR",
    floor=20,
    given={"case": cases("random", "shifted"), "name": st.sampled_from(["", "kl", "FORWARD_KL", "no such divergence"])},
    examples=[{"case": ASYMMETRIC, "name": "no such divergence"}],
)
def an_unknown_divergence_is_refused(loss, case, name):
    """A divergence= whose name is unknown is refused."""
    if takes(loss, "divergence"):
        value = number_or_nan(value_of, loss, case, 2.0, divergence=name)
        yield (case, name), math.isnan(value), f"an unknown divergence gives {value!r}"


@should(
    seam="distillation_loss",
    laws="KD-JSD",
    floor=40,
    given={"case": cases("random"), "alpha": alphas, "top_k": st.none() | st.integers(1, 2)},
    examples=[{"case": ASYMMETRIC, "alpha": 1.0, "top_k": None}, {"case": ASYMMETRIC, "alpha": 0.5, "top_k": 2}],
)
def the_named_jsd_ends_in_the_two_kls(loss, case, alpha, top_k):
    """divergence="jsd" trains the forward KL at beta = 0 and the reverse KL at beta = 1, in value and in gradient.

    GKD's convention, as for the function by itself; a loss that computes its JSD in another place has other ends: 0, or
    the two KLs reversed (ms-swift#10078).
    """
    for beta in (0.0, 1.0):
        options = {"divergence": "jsd", "beta": beta, **({} if top_k is None else {"top_k": top_k})}
        asked = asked_of(loss, options)
        if "divergence" in asked:
            yield from as_by_hand(loss, case, 2.0, alpha, asked)


@must(
    seam="distillation_loss",
    laws="KD-TOPK",
    floor=40,
    given={"case": cases("random"), "temperature": temperatures, "alpha": alphas},
    examples=[
        {"case": ASYMMETRIC, "temperature": 2.0, "alpha": 1.0},
        {"case": UNEVEN, "temperature": 2.0, "alpha": 0.5},
        {"case": WIDE, "temperature": 2.0, "alpha": 1.0},
    ],
)
def the_top_k_of_the_teacher_and_a_bucket_are_compared(loss, case, temperature, alpha):
    """With top_k= the KL is over the teacher's k most likely tokens and one bucket for the rest, in value and gradient.

    For every k; the cross-entropy beside it has all tokens. Wrong are the student's top k, one token fewer, kept
    columns renormalised or the rest left out (verl#7856, verl#7806), and a bucket that is detached, so that no token of
    the tail is trained.
    """
    if not takes(loss, "top_k"):
        return
    for k in sorted({1, 2, case.vocabulary * 5 // 8, case.vocabulary}):
        yield from as_by_hand(loss, case, temperature, alpha, {"top_k": k}, NEITHER)


@must(
    seam="distillation_loss",
    laws="KD-VOCAB",
    floor=40,
    given={"case": cases("random"), "alpha": alphas, "wide": widths},
    examples=[{"case": ASYMMETRIC, "alpha": alpha, "wide": (2, 3)} for alpha in (0.0, 0.5, 1.0)],
)
def columns_beyond_the_vocabulary_are_cut_off_in_both_terms(loss, case, alpha, wide):
    """With vocab_size= the loss is that of the first columns of both models, and no gradient reaches the others.

    Cut after the softmax, or in one term only, the padding of a head keeps its mass (trl#6252, torchtune#2119).
    """
    if takes(loss, "vocab_size"):
        yield from as_by_hand(loss, case, 2.0, alpha, {}, beyond=wide)


@must(
    seam="distillation_loss",
    laws="KD-VOCAB",
    floor=20,
    given={"case": cases("random"), "wide": widths},
    examples=[{"case": ASYMMETRIC, "wide": (2, 3)}],
)
def a_label_beyond_the_shared_vocabulary_is_refused(loss, case, wide):
    """With vocab_size= a label beyond it is refused where the cross-entropy reads it.

    A label that is ignored because no column is left for it is lost data.
    """
    if takes(loss, "vocab_size"):
        b, t = case.rows[0]
        beyond = [list(row) for row in case.labels]
        beyond[b][t + 1] = case.vocabulary
        wider = padded(Case(case.student, case.teacher, beyond), wide)
        seen = number_or_nan(value_of, loss, wider, 2.0, 0.5, vocab_size=case.vocabulary)
        yield beyond, math.isnan(seen), f"a label beyond the vocabulary gives {seen!r}"
