"""Divergences: the generalised JSD, and the teacher cut down to its top k.

Both read rows of log-probabilities and are compared with plain Python sums.
"""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st

from sftspec.divergences import generalised_jsd, with_tail_bucket  # noqa: F401 (the judge binds the seams)
from sftspec.properties import must, should
from sftspec.properties.distillation_cases import kl, log_softmax

pairs = st.integers(2, 9).flatmap(
    lambda size: st.tuples(
        *[st.lists(st.integers(-64, 64).map(lambda k: k / 8), min_size=size, max_size=size) for _ in range(2)]
    )
)
betas = st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.75, 0.9])
ASYMMETRIC_ROWS = ([2.0, 0.0, -1.0], [-1.0, 0.5, 0.0])


def bound(*rows: list[float]) -> float:
    """Roundings of a divergence of log-probabilities: (3V + 8) u of terms up to their largest magnitude, both ways."""
    largest = max(1.0, *(abs(a) for row in rows for a in row))
    return 2 * (3 * len(rows[0]) + 8) * 2.0**-53 * largest


def jsd_by_hand(student: list[float], teacher: list[float], beta: float) -> float:
    """beta KL(teacher || m) + (1 - beta) KL(student || m), m = beta teacher + (1 - beta) student."""
    mixed = [math.log(beta * math.exp(t) + (1 - beta) * math.exp(s)) for s, t in zip(student, teacher, strict=True)]
    return beta * kl(teacher, mixed) + (1 - beta) * kl(student, mixed)


def tensor(row: list[float]) -> torch.Tensor:
    return torch.tensor([row], dtype=torch.float64)


@must(
    seam="generalised_jsd",
    laws="KD-JSD",
    floor=20,
    given={"rows": pairs, "beta": betas},
    examples=[{"rows": ASYMMETRIC_ROWS, "beta": 0.25}, {"rows": ASYMMETRIC_ROWS, "beta": 0.75}],
)
def the_mixture_weighs_the_teacher_by_beta(jsd, rows, beta):
    """JSD_beta = beta KL(teacher || m) + (1 - beta) KL(student || m) with m = beta teacher + (1 - beta) student.

    Swapped weights are invisible at beta = 1/2 (trap H19; trl#3043, verl-recipe#151). Agarwal et al. 2023, eq. 1.
    """
    student, teacher = map(log_softmax, rows)
    expected, value = jsd_by_hand(student, teacher, beta), float(jsd(tensor(student), tensor(teacher), beta))
    yield (rows, beta), abs(value - expected) <= bound(student, teacher), f"expected {expected!r}, seen {value!r}"


@must(
    seam="generalised_jsd",
    laws="KD-JSD",
    floor=60,
    given={"rows": pairs, "beta": betas},
    examples=[{"rows": ASYMMETRIC_ROWS, "beta": 0.01}, {"rows": ([30.0, 0.0], [0.0, 30.0]), "beta": 0.5}],
)
def the_jsd_lies_between_its_limits(jsd, rows, beta):
    """0 <= JSD_beta <= H(beta) <= ln 2; swapping the models swaps beta and 1 - beta; and JSD_beta / beta lies between
    KL - ln(1 + beta chi2) and KL, the forward KL and chi2 being of the teacher from the student.

    The sandwich (Jensen below, m replaced by the student above) makes the forward KL the limit beta -> 0.
    """
    student, teacher = map(log_softmax, rows)
    slack = bound(student, teacher)
    value = float(jsd(tensor(student), tensor(teacher), beta))
    most = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    yield (rows, beta), -slack <= value <= most + slack, f"JSD {value!r}, at most {most!r}"
    swapped = float(jsd(tensor(teacher), tensor(student), 1 - beta))
    yield (rows, beta), abs(value - swapped) <= 2 * slack, f"{value!r}, swapped {swapped!r}"
    forward = kl(teacher, student)
    chi2 = math.fsum(math.exp(2 * t - s) for s, t in zip(student, teacher, strict=True)) - 1
    least = forward - math.log1p(beta * max(chi2, 0.0))
    yield (rows, beta), least - 2 * slack / beta <= value / beta <= forward + 2 * slack / beta, f"{value / beta!r}"


@should(
    seam="generalised_jsd",
    laws="KD-JSD",
    floor=40,
    given={"rows": pairs},
    examples=[{"rows": ASYMMETRIC_ROWS}],
)
def the_ends_of_beta_are_the_two_kls(jsd, rows):
    """beta = 0 gives the forward KL(teacher || student), beta = 1 the reverse KL(student || teacher): GKD's convention.

    The formula itself vanishes there, which leaves nothing to learn (trl#3043). Reversed ends are another convention
    (ms-swift#10078).
    """
    student, teacher = map(log_softmax, rows)
    for beta, expected in ((0.0, kl(teacher, student)), (1.0, kl(student, teacher))):
        value = float(jsd(tensor(student), tensor(teacher), beta))
        yield (rows, beta), abs(value - expected) <= bound(student, teacher), f"expected {expected!r}, seen {value!r}"


@must(
    seam="with_tail_bucket",
    laws="KD-TOPK",
    floor=60,
    given={"rows": pairs},
    examples=[{"rows": ASYMMETRIC_ROWS}, {"rows": ([30.0, 0.0, 0.0], [30.0, 0.0, 0.0])}],
)
def a_bucket_for_the_tail_keeps_the_loss_honest(with_bucket, rows):
    """Over the teacher's k largest tokens and one bucket for all others, both models still sum to 1, and the KL lies
    between 0 and the full KL, does not fall as k grows, and is the full KL at k = V.

    Without the bucket the truncated sum is negative at times, and renormalising the teacher alone biases it
    (verl#7856: most steps without gradient). A coarser view never increases a divergence.
    """
    student, teacher = map(log_softmax, rows)
    full, slack, before = kl(teacher, student), 2 * bound(student, teacher), 0.0
    for k in range(1, len(student) + 1):
        kept = tensor(teacher).topk(k, dim=-1).indices
        coarse = [with_bucket(tensor(row), kept)[0].tolist() for row in (student, teacher)]
        for row, name in zip(coarse, ("student", "teacher"), strict=True):
            total = math.fsum(map(math.exp, row))
            yield (rows, k), abs(total - 1) <= slack, f"the {name} sums to {total!r}"
        with_mass = [(t, s) for s, t in zip(*coarse, strict=True) if t > -math.inf]  # at k = V the bucket is empty
        value = math.fsum(math.exp(t) * (t - s) for t, s in with_mass)
        yield (rows, k), before - slack <= value <= full + slack, f"k-1: {before!r}, k: {value!r}, full: {full!r}"
        before = value
    yield rows, abs(before - full) <= slack, f"k = V: {before!r}, full: {full!r}"
