"""Distillation cases: student and teacher logits with labels, the loss by hand, and the roundings it may differ by.

The loss by hand is the formula in plain Python floats with exact sums (math.fsum): it shares no code, no order of
summation and no library with what it judges.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from hypothesis import strategies as st

IGNORE = -100
once = lru_cache(maxsize=4096)  # every function that is judged is given the same cases


@dataclass(frozen=True, eq=False)  # each is itself, and what was computed of it by hand is kept
class Case:
    """student and teacher: (B, T, V) nested lists; labels: (B, T), aligned with the ids, -100 ignored."""

    student: list
    teacher: list
    labels: list

    def __deepcopy__(self, memo: dict) -> Case:
        return self  # what is judged is given tensors, never these lists

    def tensors(self, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Student and teacher logits (leaves that want a gradient) and labels."""
        *logits, labels = self._exact
        student, teacher = (z.to(dtype, copy=True).requires_grad_() for z in logits)
        return student, teacher, labels.clone()

    @cached_property
    def _exact(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        student, teacher = (torch.tensor(z, dtype=torch.float64) for z in (self.student, self.teacher))
        return student, teacher, torch.tensor(self.labels)

    @cached_property
    def rows(self) -> list[tuple[int, int]]:
        """The scored positions: logits at t are scored against the label at t + 1."""
        return [(b, t) for b, row in enumerate(self.labels) for t, label in enumerate(row[1:]) if label != IGNORE]

    @cached_property
    def pairs(self) -> list[tuple[list[float], list[float]]]:
        """(student, teacher) logits of each scored position."""
        return [(self.student[b][t], self.teacher[b][t]) for b, t in self.rows]

    @property
    def vocabulary(self) -> int:
        return len(self.student[0][0])

    @cached_property
    def largest(self) -> float:
        """The largest magnitude M of a scored logit."""
        return max(abs(z) for pair in self.pairs for row in pair for z in row)


def random_case(seed: int, batch: int, length: int, vocabulary: int, kind: str) -> Case:
    """Logits that are multiples of 1/8 in [-8, 8], so that shifting them is exact; at least one target."""
    draw = random.Random(seed)

    def logits() -> list:
        return [[[draw.randint(-64, 64) / 8 for _ in range(vocabulary)] for _ in range(length)] for _ in range(batch)]

    def moved(row: list[float]) -> list[float]:
        shift = draw.randint(-8, 8)
        return [z + shift for z in row]

    def peaked(row: list[float]) -> list[float]:
        peak = draw.randrange(vocabulary)
        return [15.0 if v == peak else -15.0 for v in range(len(row))]

    student, teacher = logits(), logits()
    if kind == "shifted":
        teacher = [[moved(row) for row in rows] for rows in student]
    elif kind == "one-hot":
        teacher = [[peaked(row) for row in rows] for rows in teacher]
    labels = [[draw.choice([IGNORE, draw.randrange(vocabulary)]) for _ in range(length)] for _ in range(batch)]
    labels[draw.randrange(batch)][draw.randrange(1, length)] = draw.randrange(vocabulary)
    return Case(student, teacher, labels)


@functools.cache  # arguments are drawn once for all that ask for the same strategy
def cases(*kinds: str) -> st.SearchStrategy[Case]:
    """Random cases of the kinds named: "random", "shifted" (equal models, up to a constant per row), "one-hot"."""
    return st.builds(
        random_case,
        seed=st.integers(0, 2**16),
        batch=st.integers(1, 3),
        length=st.integers(2, 6),
        vocabulary=st.integers(2, 12) | st.just(64),
        kind=st.sampled_from(kinds or ("random", "shifted", "one-hot")),
    )


temperatures = st.sampled_from([0.5, 1.0, 1.5, 2.0, 4.0])
alphas = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])

# An asymmetric pair: KL(teacher || student) and KL(student || teacher) differ. Two targets, one ignored position.
ASYMMETRIC = Case(
    student=[[[0.0, 0.0, 0.0], [2.0, 0.0, -1.0], [1.0, 1.0, 1.0]]],
    teacher=[[[3.0, 0.0, -2.0], [-1.0, 0.5, 0.0], [9.0, 0.0, 0.0]]],
    labels=[[IGNORE, 0, 2]],
)
# Rows of unlike length and two sequences, so that B, B*T and the number of targets (4) all differ.
UNEVEN = Case(
    student=[[[0.0, 1.0], [2.0, 0.0], [0.5, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 3.0], [0.0, 0.0], [1.0, 1.0]]],
    teacher=[[[1.0, 0.0], [0.0, 0.0], [0.0, 2.0], [5.0, 0.0]], [[0.0, 1.0], [1.0, 0.0], [4.0, 0.0], [0.0, 0.0]]],
    labels=[[0, 1, 0, 1], [1, IGNORE, 1, IGNORE]],
)


def widened(logits: list[list[list[float]]], columns: int, value: float = 8.0) -> list[list[list[float]]]:
    """The same (B, T, V) logits with more columns of this value."""
    return [[[*row, *[value] * columns] for row in rows] for rows in logits]


@once
def padded(case: Case, columns: tuple[int, int]) -> Case:
    """The case with as many columns of padding for the student and the teacher, which are likelier than most tokens."""
    return Case(widened(case.student, columns[0]), widened(case.teacher, columns[1]), case.labels)


widths = st.tuples(st.integers(0, 4), st.integers(0, 4))  # of that padding

# More targets than a chunk of a fused path holds, in no multiple of a power of two.
MANY = random_case(0, 3, 801, 3, "random")
# More tokens than a block of columns holds, in no multiple of a power of two.
WIDE = random_case(0, 1, 3, 1100, "random")


def value_and_gradient(
    loss, case: Case, temperature: float = 1.0, alpha: float = 1.0, scale: float = 1.0
) -> tuple[float, torch.Tensor]:
    """The loss, and the gradient of `scale` times it at the student's logits (B, T, V)."""
    student, teacher, labels = case.tensors()
    value = loss(student, teacher, labels, temperature=temperature, alpha=alpha)
    (gradient,) = torch.autograd.grad(scale * value, student)
    return float(value.detach()), gradient


def log_softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    top = max(row)
    log_sum = math.log(math.fsum(math.exp((z - top) / temperature) for z in row))
    return [(z - top) / temperature - log_sum for z in row]


def kl(log_p: list[float], log_q: list[float]) -> float:
    """KL(p || q) = sum of p (log p - log q), in nats."""
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True))


@once
def soft_loss(case: Case, temperature: float) -> float:
    """T**2 times the mean over targets of KL(teacher at T || student at T)."""
    terms = [kl(log_softmax(t, temperature), log_softmax(s, temperature)) for s, t in case.pairs]
    return temperature**2 * math.fsum(terms) / len(terms)


@once
def hard_loss(case: Case) -> float:
    """Mean over targets of -log p_student(label)."""
    terms = [-log_softmax(case.student[b][t])[case.labels[b][t + 1]] for b, t in case.rows]
    return math.fsum(terms) / len(terms)


@once
def soft_gradient(case: Case, temperature: float) -> dict[tuple[int, int], list[float]]:
    """T (p_student - p_teacher) / n at each scored position; everywhere else it is zero (Hinton 2015, eq. 2)."""
    gradient = {}
    for (b, t), (student, teacher) in zip(case.rows, case.pairs, strict=True):
        p, q = ([math.exp(a) for a in log_softmax(row, temperature)] for row in (student, teacher))
        gradient[b, t] = [temperature * (x - y) / len(case.rows) for x, y in zip(p, q, strict=True)]
    return gradient


def soft_bound(case: Case, temperature: float, unit: float = 2.0**-53) -> float:
    """Rounding error of a soft loss with unit roundoff `unit`, and as much again for the loss by hand (BOUND-KD).

    Each log-probability errs by e = u (V + 6 + 4 ln V + 4M/T); KL by 2e + 2u (2M/T + ln V) + uV * 2M/T; the sum of n
    terms, each at most 2M/T, by n u * 2M/T more; all of it times T**2.
    """
    v, m = case.vocabulary, case.largest / temperature
    error = unit * (v + 6 + 4 * math.log(v) + 4 * m)
    term = 2 * error + 2 * unit * (2 * m + math.log(v)) + unit * v * 2 * m
    return 2 * temperature**2 * (term + len(case.rows) * unit * 2 * m)


def soft_gradient_bound(case: Case, temperature: float, unit: float = 2.0**-53) -> float:
    """Rounding error of an entry of the soft gradient: T (2e + 2u) / n, twice."""
    v, m = case.vocabulary, case.largest / temperature
    error = unit * (v + 6 + 4 * math.log(v) + 4 * m)
    return 2 * temperature * (2 * error + 2 * unit) / len(case.rows)


def hard_bound(case: Case, unit: float = 2.0**-53) -> float:
    """Rounding error of a mean cross-entropy: u (V + 4 + 5 ln V + 3M + n (2M + ln V)), twice."""
    v, m = case.vocabulary, case.largest
    return 2 * unit * (v + 4 + 5 * math.log(v) + 3 * m + len(case.rows) * (2 * m + math.log(v)))
