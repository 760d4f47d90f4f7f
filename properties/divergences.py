"""Divergences: the generalised JSD, and the teacher cut down to its top k.

Both read rows of log-probabilities and are compared with plain Python sums.
"""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st

from sftspec.properties import must, should
from sftspec.properties.distillation_cases import kl, log_softmax

pairs = st.integers(2, 9).flatmap(
    lambda size: st.tuples(
        *[st.lists(st.integers(-64, 64).map(lambda k: k / 8), min_size=size, max_size=size) for _ in range(2)]
    )
)
betas = st.sampled_from([0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9])
ASYMMETRIC_ROWS = ([2.0, 0.0, -1.0], [-1.0, 0.5, 0.0])


def bound(*rows: list[float]) -> float:
    """Roundings of a divergence of log-probabilities: (3V + 8) u of terms up to their largest magnitude, both ways."""
    largest = max(1.0, *(abs(a) for row in rows for a in row))
    return 2 * (3 * len(rows[0]) + 8) * 2.0**-53 * largest


def mixture(student: list[float], teacher: list[float], beta: float) -> list[float]:
    """Logs of m = beta teacher + (1 - beta) student."""
    return [math.log(beta * math.exp(t) + (1 - beta) * math.exp(s)) for s, t in zip(student, teacher, strict=True)]


def jsd_by_hand(student: list[float], teacher: list[float], beta: float) -> float:
    """beta KL(teacher || m) + (1 - beta) KL(student || m) with the mixture m."""
    mixed = mixture(student, teacher, beta)
    return beta * kl(teacher, mixed) + (1 - beta) * kl(student, mixed)


def jsd_of_probabilities(student: list[float], teacher: list[float], beta: float) -> float:
    """The same of probabilities, where 0 log 0 = 0."""
    terms = []
    for p, q in zip(student, teacher, strict=True):
        mixed = beta * q + (1 - beta) * p
        terms += [weight * x * math.log(x / mixed) for weight, x in ((beta, q), (1 - beta, p)) if x > 0]
    return math.fsum(terms)


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
    both = torch.cat((tensor(student), tensor(teacher))), torch.cat((tensor(teacher), tensor(student)))
    for value, *pair in zip(jsd(*both, beta).tolist(), (student, teacher), (teacher, student), strict=True):
        expected = jsd_by_hand(*pair, beta)
        yield (rows, beta), abs(value - expected) <= bound(student, teacher), f"expected {expected!r}, seen {value!r}"


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
    """A token that one model or both exclude with -inf adds what it costs in truth, and no NaN: 0 log 0 = 0, in the
    value and in the gradient.

    exp(log p) * (log p - log m) is 0 * (-inf) where p is 0; a padded head is -inf in both models.
    """
    for there in ((False, False), (True, False), (False, True)):
        wide = [[*row, row[0] if has_it else -math.inf] for row, has_it in zip(rows, there, strict=True)]
        z = tensor(wide[0]).requires_grad_()
        value = jsd(z.log_softmax(-1), tensor(wide[1]).log_softmax(-1), beta).sum()
        (gradient,) = torch.autograd.grad(value, z)
        logs, seen = [log_softmax(row) for row in wide], float(value.detach())
        expected = jsd_of_probabilities(*([math.exp(a) for a in row] for row in logs), beta)
        slack = bound(*([a for a in row if a > -math.inf] for row in logs))
        yield (wide, beta), abs(seen - expected) <= 2 * slack, f"expected {expected!r}, seen {seen!r}"
        yield (wide, beta), bool(torch.isfinite(gradient).all()), f"gradient {gradient[0].tolist()}"


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


@must(
    seam="with_tail_bucket",
    laws="KD-TOPK",
    floor=60,
    given={"rows": pairs},
    examples=[{"rows": ASYMMETRIC_ROWS}, {"rows": ([3.0, 0.0, 0.0], [0.0, 0.0, 2.0])}],
)
def every_row_is_cut_to_its_own_and_the_tail_is_trained(with_bucket, rows):
    """Of several rows each keeps its own columns; and the KL's gradient at the student's logits is p - t at a kept
    token, p - p T / P at any other, P and T being the tails' masses: finite also where no tail is left.

    The first row's top k for all; a bucket that is detached (the loss is right, no token of the tail is trained); the
    log of an empty tail, whose gradient is NaN.
    """
    both, slack = (log_softmax(rows[0]), log_softmax(rows[1])), 4 * bound(*map(log_softmax, rows))
    for k in range(1, len(rows[0]) + 1):
        z = torch.cat([tensor(row) for row in rows]).requires_grad_()
        teachers = torch.cat([tensor(row) for row in both[::-1]])
        kept = teachers.topk(k, dim=-1).indices
        p, q = with_bucket(z.log_softmax(-1), kept), with_bucket(teachers, kept)
        (gradient,) = torch.autograd.grad(-(q.exp() * p)[q > -math.inf].sum(), z)
        for row, seen in enumerate(gradient.tolist()):
            student, teacher = ([math.exp(a) for a in both[each]] for each in (row, 1 - row))
            tail = [v for v in range(len(seen)) if v not in kept[row].tolist()]
            ratio = math.fsum(teacher[v] for v in tail) / math.fsum(student[v] for v in tail) if tail else 1.0
            pull = [student[v] * ratio if v in tail else teacher[v] for v in range(len(seen))]
            wanted = [s - t for s, t in zip(student, pull, strict=True)]
            error = max(abs(x - y) for x, y in zip(seen, wanted, strict=True))
            yield (rows, k, row), error <= slack, f"expected {wanted}, seen {seen}"
    z = torch.cat((tensor(rows[0]), tensor([-math.inf] * 2)), -1).requires_grad_()
    p = with_bucket(z.log_softmax(-1), torch.arange(len(rows[0]))[None])
    (gradient,) = torch.autograd.grad(p[..., :-1].sum(), z)
    yield rows, bool(torch.isfinite(gradient).all()), f"a tail of padding: gradient {gradient[0].tolist()}"
