"""Tables of losses: cross-entropy and distillation, value and gradient by textbook formula (no autograd)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from functools import partial

import mpmath
from exact import digits
from mpmath import mpf

IGNORE = -100
SHAPES = [(1, 2, 2), (2, 4, 3), (3, 5, 8), (2, 3, 33)]  # B, T, V


def logits_of(seed: int, shape: tuple[int, int, int], largest: int) -> list:
    draw, (batch, length, vocabulary) = random.Random(seed), shape
    pick = lambda: draw.randint(-8 * largest, 8 * largest) / 8  # noqa: E731
    return [[[pick() for _ in range(vocabulary)] for _ in range(length)] for _ in range(batch)]


def labels_of(seed: int, shape: tuple[int, int, int]) -> list:
    draw, (batch, length, vocabulary) = random.Random(seed), shape
    labels = [[draw.choice([IGNORE, draw.randrange(vocabulary)]) for _ in range(length)] for _ in range(batch)]
    labels[0][length - 1] = draw.randrange(vocabulary)
    return labels


def scored(labels: list) -> list[tuple[int, int]]:
    return [(b, t) for b, row in enumerate(labels) for t, label in enumerate(row[1:]) if label != IGNORE]


def softmax(row: list[float], temperature: float = 1.0) -> list[mpf]:
    weights = [mpmath.exp(mpf(z) / mpf(temperature)) for z in row]
    return [weight / mpmath.fsum(weights) for weight in weights]


def kl(p: list[mpf], q: list[mpf]) -> mpf:
    return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True) if a)


def over_targets(case: dict, row_loss: Callable[[int, int], tuple[mpf, list[mpf]]]) -> dict:
    """Mean value, and gradient (B, T, V) that is zero where there is no target, of a loss per scored position."""
    student, rows = case["student_logits"], scored(case["labels"])
    gradient = [[[mpf(0)] * len(row) for row in sequence] for sequence in student]
    values = []
    for b, t in rows:
        value, row = row_loss(b, t)
        values.append(value)
        gradient[b][t] = [entry / len(rows) for entry in row]
    return {"value": digits(mpmath.fsum(values) / len(rows)), "gradient": digits(gradient)}


def cross_entropy_row(case: dict, b: int, t: int) -> tuple[mpf, list[mpf]]:
    p, label = softmax(case["student_logits"][b][t]), case["labels"][b][t + 1]
    return -mpmath.log(p[label]), [entry - (v == label) for v, entry in enumerate(p)]


def soft_row(case: dict, b: int, t: int) -> tuple[mpf, list[mpf]]:
    """T**2 times the divergence, and its gradient at the student's logits (textbook formulas, no autograd)."""
    temperature, kind = mpf(case["temperature"]), case["divergence"]
    s, q = (softmax(case[name][b][t], temperature) for name in ("student_logits", "teacher_logits"))
    if kind == "forward_kl":
        value, gradient = kl(q, s), [a - c for a, c in zip(s, q, strict=True)]
    else:
        beta = mpf(case.get("beta", 1))
        m = q if kind == "reverse_kl" else [beta * c + (1 - beta) * a for a, c in zip(s, q, strict=True)]
        weight, inner = (mpf(1) if kind == "reverse_kl" else 1 - beta), kl(s, m)
        value = inner if kind == "reverse_kl" else beta * kl(q, m) + (1 - beta) * inner
        gradient = [weight * a * (mpmath.log(a / c) - inner) for a, c in zip(s, m, strict=True)]
    return temperature**2 * value, [temperature * entry for entry in gradient]


def top_k_row(case: dict, b: int, t: int) -> tuple[mpf, list[mpf]]:
    """T**2 KL over the teacher's k largest columns and one column for the rest."""
    temperature, k = mpf(case["temperature"]), case["top_k"]
    s, q = (softmax(case[name][b][t], temperature) for name in ("student_logits", "teacher_logits"))
    kept = sorted(range(len(q)), key=lambda v: -q[v])[:k]
    rest = [v for v in range(len(q)) if v not in kept]
    tail_s, tail_q = (mpmath.fsum(p[v] for v in rest) for p in (s, q))
    value = kl([q[v] for v in kept] + [tail_q], [s[v] for v in kept] + [tail_s])
    # d/dz_v of -sum_g Q_g log S_g, over groups g, is s_v - Q_g(v) s_v / S_g(v).
    target = [q[v] if v in kept else tail_q * s[v] / tail_s for v in range(len(q))]
    return temperature**2 * value, [temperature * (a - c) for a, c in zip(s, target, strict=True)]


def mixed_row(case: dict, b: int, t: int) -> tuple[mpf, list[mpf]]:
    alpha, soft, hard = mpf(case["alpha"]), soft_row(case, b, t), cross_entropy_row(case, b, t)
    return alpha * soft[0] + (1 - alpha) * hard[0], [
        alpha * x + (1 - alpha) * y for x, y in zip(soft[1], hard[1], strict=True)
    ]


def cross_entropy() -> list[dict]:
    """Mean over targets of lse(z) - z_y, and its gradient (softmax - onehot) / n."""
    cases = []
    for seed, (shape, largest) in enumerate(itertools.product(SHAPES, (1, 10, 1000))):
        case = {"student_logits": logits_of(seed, shape, largest), "labels": labels_of(seed, shape)}
        cases.append(case | over_targets(case, partial(cross_entropy_row, case)))
    return cases


def divergences(row_loss: Callable, **variants: list) -> list[dict]:
    """Two cases, of different shapes, for each combination of the variants."""
    combinations = [values for values in itertools.product(*variants.values()) for _ in range(2)]
    cases = []
    for seed, values in enumerate(combinations):
        shape = SHAPES[(seed // 2 + seed) % len(SHAPES)]
        case = {
            "student_logits": logits_of(1000 + seed, shape, 8),
            "teacher_logits": logits_of(2000 + seed, shape, 8),
            "labels": labels_of(seed, shape),
            **dict(zip(variants, values, strict=True)),
        }
        cases.append(case | over_targets(case, partial(row_loss, case)))
    return cases


def distillation() -> list[dict]:
    """alpha T^2 mean KL(teacher || student at T) + (1 - alpha) mean CE (Hinton 2015, equation 2)."""
    temperatures = [0.5, 1.0, 2.0, 4.0, 100.0, 10000.0]
    return divergences(mixed_row, temperature=temperatures, alpha=[0.0, 0.25, 1.0], divergence=["forward_kl"])


def reverse_kl() -> list[dict]:
    """T^2 mean KL(student || teacher at T), and its gradient T p_s (ln(p_s / p_t) - KL) / n."""
    return divergences(soft_row, temperature=[0.5, 1.0, 4.0], divergence=["reverse_kl"])


def jsd() -> list[dict]:
    """T^2 mean [b KL(p_t || m) + (1 - b) KL(p_s || m)], m = b p_t + (1 - b) p_s (GKD, equation 1)."""
    return divergences(soft_row, temperature=[1.0, 2.0], divergence=["jsd"], beta=[0.125, 0.25, 0.5, 0.75])


def top_k() -> list[dict]:
    """T^2 mean KL(teacher || student at T) over the teacher's k largest tokens and one bucket for the rest."""
    return divergences(top_k_row, temperature=[1.0, 2.0], divergence=["forward_kl"], top_k=[1, 2])
