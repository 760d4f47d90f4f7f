"""Distillation: what the options of a loss make of it.

An option that the function under test does not have is not asked of it, and the property is then not measured. Where it
is there, the loss is compared with the formula in plain Python, as in `distillation`.
"""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st

from sftspec.properties import must, takes
from sftspec.properties.distillation_cases import (
    ASYMMETRIC,
    UNEVEN,
    Case,
    alphas,
    cases,
    hard_bound,
    hard_loss,
    kl,
    log_softmax,
    soft_bound,
    soft_loss,
    temperatures,
    widened,
)
from sftspec.properties.divergences import betas, jsd_by_hand


def value_of(loss, case: Case, temperature: float, alpha: float = 1.0, **options) -> float:
    student, teacher, labels = case.tensors()
    return float(loss(student, teacher, labels, temperature=temperature, alpha=alpha, **options).detach())


def mean_of(case: Case, temperature: float, divergence) -> float:
    """T**2 times the mean over targets of divergence(log student, log teacher), both at T."""
    terms = [divergence(log_softmax(s, temperature), log_softmax(t, temperature)) for s, t in case.pairs]
    return temperature**2 * math.fsum(terms) / len(terms)


@must(
    seam="distillation_loss",
    laws=("KD-ACC", "KD-RED"),
    floor=20,
    given={"case": cases("random"), "alpha": alphas, "more": st.integers(1, 40)},
    examples=[{"case": UNEVEN, "alpha": alpha, "more": 3} for alpha in (0.0, 0.5, 1.0)],
)
def both_terms_divide_by_the_denominator_that_is_given(loss, case, alpha, more):
    """With num_targets= the summed soft and hard losses are divided by that number, which is the whole step's.

    One term that divides by the targets of its micro-batch all the same is a mean of means (trl#4719, ms-swift#10076),
    and at alpha = 1 the other hides it.
    """
    if not takes(loss, "num_targets"):
        return
    n = len(case.rows)
    value = value_of(loss, case, 2.0, alpha, num_targets=n + more)
    expected = (alpha * soft_loss(case, 2.0) + (1 - alpha) * hard_loss(case)) * n / (n + more)
    bound = soft_bound(case, 2.0) + hard_bound(case) + 2.0**-50 * abs(expected)
    yield case, abs(value - expected) <= bound, f"expected {expected!r}, seen {value!r}"


@must(
    seam="distillation_loss",
    laws=("KD-DIR", "KD-JSD"),
    floor=40,
    given={"case": cases("random", "shifted"), "temperature": temperatures, "beta": betas},
    examples=[{"case": ASYMMETRIC, "temperature": 2.0, "beta": 0.25}],
)
def the_divergence_that_is_named_is_trained(loss, case, temperature, beta):
    """divergence="reverse_kl" is T**2 times the mean KL(student || teacher), "jsd" that of the JSD with this beta; a
    name that is unknown is refused.

    Both directions under one name, beta lost or swapped on the way from the option to the formula (trl#3043, H19).

    Rounding: a JSD is a convex sum of two KLs, whose mixture errs by no more than its parts and three roundings.
    """
    if not takes(loss, "divergence"):
        return
    bound = 2 * soft_bound(case, temperature)
    wanted = {"reverse_kl": kl, "jsd": lambda student, teacher: jsd_by_hand(student, teacher, beta)}
    for name, divergence in wanted.items():
        options = {"divergence": name} | ({"beta": beta} if name == "jsd" else {})
        value, expected = value_of(loss, case, temperature, **options), mean_of(case, temperature, divergence)
        yield (case, name), abs(value - expected) <= bound, f"{name}: expected {expected!r}, seen {value!r}"
    try:
        value = value_of(loss, case, temperature, divergence="no such divergence")
    except Exception as error:
        yield case, True, f"refused: {error}"
    else:
        yield case, False, f"an unknown divergence gives {value!r}"


def coarse_kl(student: list[float], teacher: list[float], k: int) -> float:
    """KL over the teacher's k largest tokens (of equals the first) and one bucket for the rest."""
    order = sorted(range(len(teacher)), key=lambda v: -teacher[v])
    rows = [[row[v] for v in order[:k]] for row in (teacher, student)]
    if k < len(teacher):
        for coarse, row in zip(rows, (teacher, student), strict=True):
            coarse.append(math.log(math.fsum(math.exp(row[v]) for v in order[k:])))
    return kl(*rows)


@must(
    seam="distillation_loss",
    laws="KD-TOPK",
    floor=40,
    given={"case": cases("random"), "temperature": temperatures},
    examples=[{"case": ASYMMETRIC, "temperature": 2.0}],
)
def the_top_k_of_the_teacher_and_a_bucket_are_compared(loss, case, temperature):
    """With top_k= the KL is that over the teacher's k most likely tokens and one bucket for the rest, for every k.

    The student's top k, one token fewer, kept columns renormalised or the rest left out (verl#7856, verl#7806).
    """
    if not takes(loss, "top_k"):
        return
    for k in range(1, min(case.vocabulary, 6) + 1):
        value = value_of(loss, case, temperature, top_k=k)
        expected = mean_of(case, temperature, lambda student, teacher, k=k: coarse_kl(student, teacher, k))
        bound = 2 * soft_bound(case, temperature)
        yield (case, k), abs(value - expected) <= bound, f"k = {k}: expected {expected!r}, seen {value!r}"


@must(
    seam="distillation_loss",
    laws="KD-VOCAB",
    floor=40,
    given={"case": cases("random"), "alpha": alphas, "wide": st.tuples(st.integers(0, 4), st.integers(0, 4))},
    examples=[{"case": ASYMMETRIC, "alpha": alpha, "wide": (2, 3)} for alpha in (0.0, 0.5, 1.0)],
)
def columns_beyond_the_shared_vocabulary_are_cut_off(loss, case, alpha, wide):
    """With vocab_size= the loss is that of the first columns of both models, in both terms, and no gradient reaches the
    others; a label beyond them is refused where it is read.

    Cut after the softmax, or in one term only, the padding of a head keeps its mass (trl#6252, torchtune#2119); a label
    that is ignored because no column is left for it is lost data.
    """
    if not takes(loss, "vocab_size"):
        return
    padded = [widened(logits, extra) for logits, extra in zip((case.student, case.teacher), wide, strict=True)]
    student, teacher, labels = Case(*padded, case.labels).tensors()
    value = loss(student, teacher, labels, temperature=2.0, alpha=alpha, vocab_size=case.vocabulary)
    (gradient,) = torch.autograd.grad(value, student)
    expected = alpha * soft_loss(case, 2.0) + (1 - alpha) * hard_loss(case)
    bound = soft_bound(case, 2.0) + hard_bound(case) + 2.0**-51 * abs(expected)
    error = abs(float(value.detach()) - expected)
    yield case, error <= bound, f"expected {expected!r}, seen {float(value.detach())!r}"
    yield case, not gradient[..., case.vocabulary :].any(), "padding columns have a gradient"
    b, t = case.rows[0]
    beyond = [list(row) for row in case.labels]
    beyond[b][t + 1] = case.vocabulary
    try:
        seen = value_of(loss, Case(*padded, beyond), 2.0, 0.5, vocab_size=case.vocabulary)
    except Exception as error:
        yield beyond, True, f"refused: {error}"
    else:
        yield beyond, False, f"a label beyond the vocabulary gives {seen!r}"
