"""Divergences: the generalised JSD of rows of log-probabilities, compared with plain Python sums."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st

from sftspec.properties import must, number_or_nan, should
from sftspec.properties.cases.distillation import kl, log_softmax

pairs = st.integers(2, 9).flatmap(
    lambda size: st.tuples(
        *[st.lists(st.integers(-64, 64).map(lambda k: k / 8), min_size=size, max_size=size) for _ in range(2)]
    )
)
betas = st.sampled_from([0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9])
ASYMMETRIC_ROWS = ([2.0, 0.0, -1.0], [-1.0, 0.5, 0.0])


def bound(*rows: list[float], unit: float = 2.0**-53) -> float:
    """Roundings of a divergence of log-probabilities: (3V + 8) u of terms up to their largest magnitude, both ways."""
    largest = max(1.0, *(abs(a) for row in rows for a in row))
    return 2 * (3 * len(rows[0]) + 8) * unit * largest


def mixture(student: list[float], teacher: list[float], beta: float) -> list[float]:
    """Logs of m = beta teacher + (1 - beta) student."""
    return [math.log(beta * math.exp(t) + (1 - beta) * math.exp(s)) for s, t in zip(student, teacher, strict=True)]


def jsd_by_hand(student: list[float], teacher: list[float], beta: float) -> float:
    """beta KL(teacher || m) + (1 - beta) KL(student || m) with the mixture m."""
    mixed = mixture(student, teacher, beta)
    return beta * kl(teacher, mixed) + (1 - beta) * kl(student, mixed)


def gain(p: float, q: float) -> float:
    """p log(p / q), with 0 log 0 = 0; infinite where q alone is 0."""
    if p == 0:
        return 0.0
    return p * math.log(p / q) if q > 0 else math.inf


def jsd_cost(p: float, q: float, beta: float) -> float:
    """What a token adds to the JSD, with probability p for the student and q for the teacher."""
    mixed = beta * q + (1 - beta) * p
    return beta * gain(q, mixed) + (1 - beta) * gain(p, mixed)


def tensor(row: list[float]) -> torch.Tensor:
    return torch.tensor([row], dtype=torch.float64)


weighed: dict[str, Any] = {
    "given": {"rows": pairs, "beta": betas},
    "examples": [{"rows": ASYMMETRIC_ROWS, "beta": 0.25}, {"rows": ASYMMETRIC_ROWS, "beta": 0.75}],
}
DTYPES = st.sampled_from([torch.float64, torch.float32])


@must(
    seam="generalised_jsd",
    laws="KD-JSD",
    floor=20,
    given={"rows": pairs, "beta": betas, "dtype": DTYPES},
    examples=[
        {**example, "dtype": dtype} for example in weighed["examples"] for dtype in (torch.float64, torch.float32)
    ],
)
def the_mixture_weighs_the_teacher_by_beta(jsd, rows, beta, dtype):
    """JSD_beta is beta KL(teacher || m) + (1 - beta) KL(student || m), m being beta teacher + (1 - beta) student.

    In float64 and, of the same numbers rounded, in float32. Swapped weights are invisible at beta = 1/2 (trap H19;
    trl#3043, verl-recipe#151). Agarwal et al. 2023, eq. 1.
    """
    both = torch.tensor([log_softmax(row) for row in rows], dtype=dtype)
    slack = bound(*both.tolist(), unit=torch.finfo(dtype).eps / 2)
    for value, pair in zip(jsd(both, both.flip(0), beta).tolist(), (both, both.flip(0)), strict=True):
        expected = jsd_by_hand(pair[0].tolist(), pair[1].tolist(), beta)
        yield (rows, beta), abs(value - expected) <= slack, f"{dtype}: expected {expected!r}, seen {value!r}"


@must(
    seam="generalised_jsd",
    laws="KD-JSD",
    floor=20,
    given={"rows": pairs, "beta": betas},
    examples=[{"rows": ASYMMETRIC_ROWS, "beta": 0.25}, {"rows": ASYMMETRIC_ROWS, "beta": 0.75}],
)
def the_jsd_pulls_at_the_student(jsd, rows, beta):
    """The gradient at the student's logits is (1 - beta) p (log(p / m) - KL(p || m)), p the student and m the mixture.

    A student that is detached in its own KL gives the right loss and no such gradient (trap H16). (Detaching the
    mixture changes nothing: its part of the gradient is the sum of dm, which is 0.)
    """
    z = tensor(rows[0]).requires_grad_()
    (gradient,) = torch.autograd.grad(jsd(z.log_softmax(-1), tensor(log_softmax(rows[1])), beta).sum(), z)
    student, teacher = map(log_softmax, rows)
    mixed = mixture(student, teacher, beta)
    mean = kl(student, mixed)
    expected = [(1 - beta) * math.exp(s) * (s - m - mean) for s, m in zip(student, mixed, strict=True)]
    error = max(abs(x - y) for x, y in zip(gradient[0].tolist(), expected, strict=True))
    yield (rows, beta), error <= bound(student, teacher), f"expected {expected}, seen {gradient[0].tolist()}"


@must(
    seam="generalised_jsd",
    laws=("KD-JSD", "KD-VOCAB"),
    floor=40,
    given={"rows": pairs, "beta": betas},
    examples=[{"rows": ASYMMETRIC_ROWS, "beta": 0.25}],
)
def an_excluded_token_makes_no_nan(jsd, rows, beta):
    """A token that one model or both exclude with -inf adds what it costs, and no NaN, in value and in gradient.

    0 log 0 = 0. exp(log p) * (log p - log m) is 0 * (-inf) where p is 0; a padded head is -inf in both models.
    """
    for there in ((False, False), (True, False), (False, True)):
        wide = [[*row, row[0] if has_it else -math.inf] for row, has_it in zip(rows, there, strict=True)]
        z = tensor(wide[0]).requires_grad_()
        value = jsd(z.log_softmax(-1), tensor(wide[1]).log_softmax(-1), beta).sum()
        (gradient,) = torch.autograd.grad(value, z)
        logs, seen = [log_softmax(row) for row in wide], float(value.detach())
        probabilities = ([math.exp(a) for a in row] for row in logs)
        expected = math.fsum(jsd_cost(p, q, beta) for p, q in zip(*probabilities, strict=True))
        slack = bound(*([a for a in row if a > -math.inf] for row in logs))
        yield (wide, beta), abs(seen - expected) <= 2 * slack, f"expected {expected!r}, seen {seen!r}"
        yield (wide, beta), bool(torch.isfinite(gradient).all()), f"gradient {gradient[0].tolist()}"


within = {
    "given": {"rows": pairs, "beta": betas},
    "examples": [{"rows": ASYMMETRIC_ROWS, "beta": 0.01}, {"rows": ([30.0, 0.0], [0.0, 30.0]), "beta": 0.5}],
}


@must(seam="generalised_jsd", laws="KD-JSD", floor=20, **within)
def the_jsd_is_at_most_the_entropy_of_beta(jsd, rows, beta):
    """0 <= JSD_beta <= H(beta) <= ln 2, where H(beta) = -beta ln beta - (1 - beta) ln(1 - beta)."""
    student, teacher = map(log_softmax, rows)
    value, slack = float(jsd(tensor(student), tensor(teacher), beta)), bound(student, teacher)
    most = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    yield (rows, beta), -slack <= value <= most + slack, f"JSD {value!r}, at most {most!r}"


@must(seam="generalised_jsd", laws="KD-JSD", floor=20, **within)
def swapping_the_models_swaps_beta(jsd, rows, beta):
    """JSD_beta of student and teacher is JSD_(1 - beta) of teacher and student."""
    student, teacher = map(log_softmax, rows)
    value = float(jsd(tensor(student), tensor(teacher), beta))
    swapped = float(jsd(tensor(teacher), tensor(student), 1 - beta))
    yield (rows, beta), abs(value - swapped) <= 2 * bound(student, teacher), f"{value!r}, swapped {swapped!r}"


@must(seam="generalised_jsd", laws="KD-JSD", floor=20, **within)
def the_jsd_over_beta_is_nearly_the_forward_kl(jsd, rows, beta):
    """JSD_beta / beta lies between KL - ln(1 + beta chi2) and KL, both of the teacher from the student.

    The sandwich (Jensen below, m replaced by the student above) makes the forward KL the limit beta -> 0.
    """
    student, teacher = map(log_softmax, rows)
    value, slack = float(jsd(tensor(student), tensor(teacher), beta)) / beta, 2 * bound(student, teacher) / beta
    forward = kl(teacher, student)
    chi2 = math.fsum(math.exp(2 * t - s) for s, t in zip(student, teacher, strict=True)) - 1
    least = forward - math.log1p(beta * max(chi2, 0.0))
    yield (rows, beta), least - slack <= value <= forward + slack, f"{value!r}, from {least!r} to {forward!r}"


ends = {
    "given": {"rows": pairs, "beta": st.sampled_from([0.0, 1.0])},
    "examples": [{"rows": ASYMMETRIC_ROWS, "beta": beta} for beta in (0.0, 1.0)],
}


@should(seam="generalised_jsd", laws="KD-JSD", floor=20, **ends)
def at_its_ends_the_jsd_is_a_kl(jsd, rows, beta):
    """beta = 0 gives the forward KL(teacher || student), beta = 1 the reverse KL(student || teacher), in value and in
    gradient.

    GKD's convention. The formula itself vanishes there, which leaves nothing to learn (trl#3043). Reversed ends are
    another convention (ms-swift#10078). A token that both exclude costs nothing there.
    """
    student, teacher = map(log_softmax, rows)
    gap = [math.exp(s) - math.exp(t) for s, t in zip(student, teacher, strict=True)]
    reverse = kl(student, teacher)
    pull = [math.exp(s) * (s - t - reverse) for s, t in zip(student, teacher, strict=True)]
    expected, slope = (kl(teacher, student), gap) if beta == 0 else (reverse, pull)
    z, other = (tensor([*row, -math.inf]) for row in rows)
    value = jsd(z.requires_grad_().log_softmax(-1), other.log_softmax(-1), beta).sum()
    (gradient,) = torch.autograd.grad(value, z)
    slack, seen = bound(student, teacher), float(value.detach())
    right = abs(seen - expected) <= slack and bool(((gradient - tensor([*slope, 0.0])).abs() <= slack).all())
    yield (rows, beta), right, f"expected {expected!r}, gradient {slope}; seen {seen!r}, {gradient.tolist()}"


@should(seam="generalised_jsd", laws="KD-JSD", floor=20, **ends)
def at_its_ends_an_excluded_token_is_infinitely_dear(jsd, rows, beta):
    """At beta = 0 a token that the student alone excludes costs infinitely much, at beta = 1 one that the teacher does.

    Between the ends it does not.
    """
    excluding, other = tensor([-math.inf, *rows[0][1:]]).log_softmax(-1), tensor(log_softmax(rows[1]))
    value = float(jsd(*((excluding, other) if beta == 0 else (other, excluding)), beta))
    yield (rows, beta), value == math.inf, f"an excluded token costs {value!r}"


@should(
    seam="generalised_jsd",
    laws="KD-JSD",
    floor=20,
    given={"rows": pairs, "beta": st.sampled_from([-0.25, 1.25, math.nan])},
    examples=[{"rows": ASYMMETRIC_ROWS, "beta": beta} for beta in (-0.25, 1.25)],
)
def beyond_its_ends_beta_is_refused(jsd, rows, beta):
    """A beta outside [0, 1] is refused, or gives NaN."""
    value = number_or_nan(jsd, *map(tensor, map(log_softmax, rows)), beta)
    yield (rows, beta), math.isnan(value), f"beta {beta} gives {value!r}"
