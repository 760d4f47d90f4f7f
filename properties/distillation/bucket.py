"""Divergences of two distributions that are cut down to some tokens and one bucket for the rest, against plain sums."""

from __future__ import annotations

import math

import torch

from sftspec.properties import must
from sftspec.properties.cases.distillation import kl, log_softmax
from sftspec.properties.distillation.divergences import ASYMMETRIC_ROWS, bound, pairs, tensor


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
