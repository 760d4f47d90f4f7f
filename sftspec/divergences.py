"""Divergences between the teacher's and the student's next-token distribution, row by row.

The rule. Every function reads normalised log-probabilities (..., V) and returns nats (...). A token that a model
excludes has log-probability -inf, and 0 log 0 = 0 in the value and in the gradient; a token that only the second
distribution excludes costs infinitely much, as it does in truth.

Why trainers get it wrong: `F.kl_div(a, b)` is KL(b || a), and with log_target it forms exp(b) * (b - a), which is NaN
where both are -inf; a mixture with swapped weights looks right at beta = 1/2; a truncated sum over the top k is no
divergence, and may be negative.
"""

from __future__ import annotations

import torch
from torch import Tensor


def forward_kl(student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """KL(teacher || student) of each row, in nats: the student pays wherever it misses the teacher's mass.

    (..., V) normalised log-probabilities, -inf allowed; returns (...).

    >>> even, sure = torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log()
    >>> forward_kl(even, sure)  # ln 2
    tensor(0.6931)
    """
    # KD-DIR: the expectation is the teacher's.
    return _kl(teacher_log_probs, student_log_probs)


def reverse_kl(student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """KL(student || teacher) of each row, in nats: the student pays wherever it puts mass that the teacher has not.

    >>> even, sure = torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log()
    >>> reverse_kl(even, sure)
    tensor(inf)
    """
    return _kl(student_log_probs, teacher_log_probs)


def generalised_jsd(student_log_probs: Tensor, teacher_log_probs: Tensor, beta: float = 0.5) -> Tensor:
    """beta KL(teacher || m) + (1 - beta) KL(student || m) of each row, with m = beta teacher + (1 - beta) student.

    GKD (Agarwal et al. 2023, arXiv:2306.13649, eq. 1). As written it vanishes at both ends, JSD_beta / beta tending to
    the forward KL as beta -> 0 and JSD_beta / (1 - beta) to the reverse KL as beta -> 1. GKD's convention, which this
    follows, puts these limits at the ends: beta = 0 *is* the forward, beta = 1 the reverse KL (a jump, by convention).
    (..., V) normalised log-probabilities, -inf allowed; returns (...). Raises ValueError for beta outside [0, 1].

    >>> even, sure = torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log()
    >>> generalised_jsd(even, sure, beta=0.5)
    tensor(0.2158)
    >>> generalised_jsd(even, sure, beta=0)  # the forward KL
    tensor(0.6931)
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta {beta}: the teacher's weight in the mixture lies in [0, 1]")
    if beta in (0, 1):
        # The limits: the formula itself vanishes at both ends, and would teach nothing.
        return (forward_kl, reverse_kl)[int(beta)](student_log_probs, teacher_log_probs)
    # KD-JSD: beta weighs the teacher, in the mixture as before its KL.
    mixture = _log(beta * teacher_log_probs.exp() + (1 - beta) * student_log_probs.exp())
    return beta * _kl(teacher_log_probs, mixture) + (1 - beta) * _kl(student_log_probs, mixture)


def with_tail_bucket(log_probs: Tensor, kept: Tensor) -> Tensor:
    """The columns `kept` of each row and, last, one column for all the rest: (..., V) and (..., k) -> (..., k + 1).

    A coarser view of two distributions never increases their divergence, so a top-k loss with a tail bucket lies in
    [0, full loss], grows with k and is zero for equal models. Without the bucket the truncated sum may be negative, and
    renormalising the kept columns trains the student to a biased teacher (verl#7856).

    >>> with_tail_bucket(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0]])).exp()
    tensor([[0.5000, 0.5000]])
    """
    # Summed, not 1 minus the kept: that cancels where the tail is small, and may be negative.
    rest = log_probs.exp().scatter(-1, kept, 0.0).sum(-1, keepdim=True)
    return torch.cat((log_probs.gather(-1, kept), _log(rest)), dim=-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    p = log_p.exp()
    # 0 log 0 = 0. The gap is masked before the product: 0 * (-inf) is NaN in the value, and again in the gradient.
    gap = torch.where(p > 0, log_p - log_q, 0.0)
    return (p * gap).sum(-1)


def _log(probabilities: Tensor) -> Tensor:
    """log with log 0 = -inf, and gradient 0 there instead of 0 * inf."""
    positive = probabilities > 0
    return torch.where(positive, torch.where(positive, probabilities, 1.0).log(), float("-inf"))
