"""Divergences of two distributions that are cut down to some tokens and one bucket for the rest, against plain sums."""

from __future__ import annotations

import math

import torch

from sftspec.properties import must
from sftspec.properties.cases.distillation import kl, log_softmax
from sftspec.properties.distillation.divergences import ASYMMETRIC_ROWS, bound, pairs, tensor

kept_of = {
    "given": {"rows": pairs},
    "examples": [{"rows": ASYMMETRIC_ROWS}, {"rows": ([30.0, 0.0, 0.0], [30.0, 0.0, 0.0])}],
}


def coarse_rows(with_bucket, rows, k: int) -> list[list[float]]:
    """Student's and teacher's log-probabilities of the teacher's k largest tokens and, last, of the rest."""
    student, teacher = (tensor(log_softmax(row)) for row in rows)
    kept = teacher.topk(k, dim=-1).indices
    return [with_bucket(row, kept)[0].tolist() for row in (student, teacher)]


@must(seam="with_tail_bucket", laws="KD-TOPK", floor=60, **kept_of)
def k_tokens_and_the_rest_sum_to_one(with_bucket, rows):
    """Over the teacher's k largest tokens and one bucket for all others, both models still sum to 1.

    Without the bucket the truncated sum is negative at times (verl#7856: most steps without gradient).
    """
    slack = 2 * bound(*map(log_softmax, rows))
    for k in range(1, len(rows[0]) + 1):
        for row, name in zip(coarse_rows(with_bucket, rows, k), ("student", "teacher"), strict=True):
            total = math.fsum(map(math.exp, row))
            yield (rows, k), abs(total - 1) <= slack, f"the {name} sums to {total!r}"


@must(seam="with_tail_bucket", laws="KD-TOPK", floor=60, **kept_of)
def the_kl_over_k_tokens_grows_to_the_full_kl(with_bucket, rows):
    """The KL over k tokens and the rest does not fall as k grows, and is the full KL at k = V.

    A coarser view never increases a divergence. Renormalising the kept tokens alone biases it (verl#7856).
    """
    student, teacher = map(log_softmax, rows)
    full, slack, before = kl(teacher, student), 2 * bound(student, teacher), 0.0
    for k in range(1, len(student) + 1):
        coarse = coarse_rows(with_bucket, rows, k)
        with_mass = [(t, s) for s, t in zip(*coarse, strict=True) if t > -math.inf]  # at k = V the bucket is empty
        value = math.fsum(math.exp(t) * (t - s) for t, s in with_mass)
        least = before if k < len(student) else full
        yield (rows, k), least - slack <= value <= full + slack, f"k-1: {before!r}, k: {value!r}, full: {full!r}"
        before = value


@must(
    seam="with_tail_bucket",
    laws="KD-TOPK",
    floor=60,
    given={"rows": pairs},
    examples=[{"rows": ASYMMETRIC_ROWS}, {"rows": ([3.0, 0.0, 0.0], [0.0, 0.0, 2.0])}],
)
def each_row_keeps_its_own_columns_and_trains_its_tail(with_bucket, rows):
    """Of each row's own columns, the KL's gradient is p - t at a kept token, and p - p T/P at any other.

    At the student's logits; P and T are the tails' masses. The first row's top k for all; a bucket that is detached:
    the loss is right, and no token of the tail is trained.
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
            wanted = tail_gradient(student, teacher, kept[row].tolist())
            error = max(abs(x - y) for x, y in zip(seen, wanted, strict=True))
            yield (rows, k, row), error <= slack, f"expected {wanted}, seen {seen}"


def tail_gradient(student: list[float], teacher: list[float], kept: list[int]) -> list[float]:
    tail = [v for v in range(len(student)) if v not in kept]
    ratio = math.fsum(teacher[v] for v in tail) / math.fsum(student[v] for v in tail) if tail else 1.0
    return [p - (p * ratio if v in tail else teacher[v]) for v, p in enumerate(student)]


@must(seam="with_tail_bucket", laws="KD-TOPK", floor=20, **kept_of)
def an_empty_tail_makes_no_nan(with_bucket, rows):
    """Where nothing but excluded tokens is left for the bucket, the gradient is finite.

    The log of an empty tail has a gradient of NaN.
    """
    z = torch.cat((tensor(rows[0]), tensor([-math.inf] * 2)), -1).requires_grad_()
    p = with_bucket(z.log_softmax(-1), torch.arange(len(rows[0]))[None])
    (gradient,) = torch.autograd.grad(p[..., :-1].sum(), z)
    yield rows, bool(torch.isfinite(gradient).all()), f"a tail of padding: gradient {gradient[0].tolist()}"
