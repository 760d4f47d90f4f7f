"""Distillation: what the student's loss and gradient are.

The function under test is loss(student_logits, teacher_logits, labels, temperature=T, alpha=a), with labels aligned
with the ids. It is run in float64 and compared with the formula in plain Python (`cases/distillation`), within a bound
that counts roundings. Which positions and tokens it reads stands in `positions`.
"""

from __future__ import annotations

import math

from hypothesis import strategies as st

from sftspec.properties import must
from sftspec.properties.cases.distillation import (
    ASYMMETRIC,
    IGNORE,
    MANY,
    UNEVEN,
    WIDE,
    Case,
    cases,
    soft_bound,
    soft_gradient,
    soft_gradient_bound,
    soft_loss,
    temperatures,
    value_and_gradient,
)


def centred(row: list[float]) -> list[float]:
    mean = math.fsum(row) / len(row)
    return [z - mean for z in row]


@must(
    seam="distillation_loss",
    laws=("KD-VAL", "KD-DIR", "KD-RED"),
    floor=20,
    given={"case": cases(), "temperature": temperatures},
    examples=[
        {"case": ASYMMETRIC, "temperature": 1.0},
        {"case": ASYMMETRIC, "temperature": 100.0},
        {"case": UNEVEN, "temperature": 2.0},
        {"case": MANY, "temperature": 2.0},
        {"case": WIDE, "temperature": 2.0},
    ],
)
def the_soft_loss_is_the_mean_kl_from_teacher_to_student(loss, case, temperature):
    """With alpha = 1 the loss is T**2 times the mean, over the targets, of KL(teacher at T || student at T).

    Swapped arguments (aprender#2153, trl#3043) show on a pair that is not symmetric; the reduction "mean" divides by V
    as well (trl#4105); the teacher's entropy left out gives a cross-entropy (distillm#7); a path in chunks of targets
    or of tokens loses the last one (which shows only on more of them than a chunk holds). Hinton et al. 2015.
    """
    value, _ = value_and_gradient(loss, case, temperature)
    expected = soft_loss(case, temperature)
    yield case, abs(value - expected) <= soft_bound(case, temperature), f"expected {expected!r}, seen {value!r}"


@must(
    seam="distillation_loss",
    laws=("KD-GRAD", "KD-RED"),
    floor=20,
    given={"case": cases(), "temperature": temperatures},
    examples=[{"case": ASYMMETRIC, "temperature": 4.0}, {"case": UNEVEN, "temperature": 0.5}],
)
def the_soft_gradient_is_t_times_the_gap_of_probabilities(loss, case, temperature):
    """The gradient at a target's logits is T (p_student - p_teacher) / n; of three times the loss it is three times
    that.

    A fused kernel that keeps its gradient and does not multiply it by the one from above forgets every scale behind
    it. Without T**2 it is T**2 times too small (distiller#122), and a teacher that is compared with itself, or never
    reaches the loss, gives none (labml#66, atropos#456). Hinton et al. 2015, equation 2, times T**2.
    """
    bound = soft_gradient_bound(case, temperature)
    for scale in (1.0, 3.0):
        _, gradient = value_and_gradient(loss, case, temperature, scale=scale)
        for (b, t), expected in soft_gradient(case, temperature).items():
            seen = gradient[b, t].tolist()
            error = max(abs(x - scale * y) for x, y in zip(seen, expected, strict=True))
            yield (case, b, t), error <= scale * bound, f"expected {scale} times {expected}, seen {seen}"


# Logits of which the largest decides how hot is hot enough: T = times * max(1, max|c|).
hot = {
    "given": {"case": cases("random"), "times": st.sampled_from([4.0, 32.0, 256.0])},
    "examples": [{"case": ASYMMETRIC, "times": 4.0}, {"case": UNEVEN, "times": 256.0}],
}


def centred_pairs(case: Case) -> list[tuple[list[float], list[float]]]:
    return [(centred(student), centred(teacher)) for student, teacher in case.pairs]


def hot_temperature(case: Case, times: float) -> float:
    return times * max(1.0, *(abs(c) for pair in centred_pairs(case) for row in pair for c in row))


@must(seam="distillation_loss", laws=("KD-LIM", "KD-T2"), floor=20, **hot)
def at_high_temperature_the_gradient_is_the_gap_of_logits(loss, case, times):
    """As T grows, the gradient at a target tends to (c_s - c_t) / (nV), where c are centred logits.

    For T >= 4 max|c| an entry's error is at most (max c_s**2 + max c_t**2) / (VT) before dividing by n. Hinton et al.
    2015, equation 4. Blind at T = 1 (trap H18).
    """
    temperature, n, v = hot_temperature(case, times), len(case.rows), case.vocabulary
    _, gradient = value_and_gradient(loss, case, temperature)
    rounding = n * soft_gradient_bound(case, temperature)
    for (b, t), (student, teacher) in zip(case.rows, centred_pairs(case), strict=True):
        bound = (max(map(abs, student)) ** 2 + max(map(abs, teacher)) ** 2) / (v * temperature)
        limits = [(s - q) / v for s, q in zip(student, teacher, strict=True)]
        error = max(abs(g * n - limit) for g, limit in zip(gradient[b, t].tolist(), limits, strict=True))
        yield (case, b, t), error <= bound + rounding, f"off by {error!r}, bound {bound!r}"


@must(seam="distillation_loss", laws=("KD-LIM", "KD-T2"), floor=20, **hot)
def at_high_temperature_the_loss_is_the_square_of_the_gap(loss, case, times):
    """As T grows, the loss tends to the mean over the targets of |c_s - c_t|**2 / (2V), where c are centred logits.

    Along the line from teacher to student the bound of the gradient's error bounds the loss, too.
    """
    temperature, n, v = hot_temperature(case, times), len(case.rows), case.vocabulary
    value, _ = value_and_gradient(loss, case, temperature)
    limit, slack = 0.0, soft_bound(case, temperature)
    for student, teacher in centred_pairs(case):
        gaps = [s - q for s, q in zip(student, teacher, strict=True)]
        limit += math.fsum(gap**2 for gap in gaps) / (2 * v * n)
        slack += 2 * max(map(abs, student + teacher)) ** 2 / (v * temperature) * math.fsum(map(abs, gaps)) / n
    yield case, abs(value - limit) <= slack, f"expected {limit!r} within {slack!r}, seen {value!r}"


at_any_temperature = {
    "given": {"case": cases("random", "one-hot"), "temperature": st.sampled_from([0.25, 1.0, 3.0, 30.0, 300.0])},
    "examples": [{"case": ASYMMETRIC, "temperature": 300.0}],
}


@must(seam="distillation_loss", laws=("KD-BOUND", "KD-T2"), floor=20, **at_any_temperature)
def no_temperature_inflates_the_gradient(loss, case, temperature):
    """At every T the norm of the gradient at a target is at most |c_s - c_t| / (2n), where c are centred logits.

    That the gradient is "the same at every T" holds only in the limit; this holds always (softmax is 1/2-Lipschitz).
    T**4, or T**2 on unsoftened models, exceeds it.
    """
    _, gradient = value_and_gradient(loss, case, temperature)
    n, rounding = len(case.rows), case.vocabulary * soft_gradient_bound(case, temperature)
    for (b, t), (student, teacher) in zip(case.rows, case.pairs, strict=True):
        gaps = centred([s - q for s, q in zip(student, teacher, strict=True)])
        seen, most = float(gradient[b, t].norm()), math.sqrt(math.fsum(gap**2 for gap in gaps)) / (2 * n)
        yield (case, b, t), seen <= most + rounding, f"gradient {seen!r}, at most {most!r}"


@must(seam="distillation_loss", laws=("KD-BOUND", "KD-T2"), floor=20, **at_any_temperature)
def no_temperature_inflates_the_loss_itself(loss, case, temperature):
    """At every T the loss is at most the mean of |c_s - c_t|**2 / 4, and that of range(z_s - z_t)**2 / 8.

    The first integrates the bound of the gradient, the second is Hoeffding's lemma.
    """
    value, _ = value_and_gradient(loss, case, temperature)
    rows = [[s - q for s, q in zip(student, teacher, strict=True)] for student, teacher in case.pairs]
    bounds = [min(math.fsum(gap**2 for gap in centred(gaps)) / 4, (max(gaps) - min(gaps)) ** 2 / 8) for gaps in rows]
    most = math.fsum(bounds) / len(bounds)
    yield case, value <= most + soft_bound(case, temperature), f"loss {value!r}, at most {most!r}"


@must(
    seam="distillation_loss",
    laws=("KD-ZERO", "KD-SHIFT"),
    floor=40,
    given={"case": cases("shifted"), "temperature": temperatures},
    examples=[{"case": Case([[[1.0, 2.0], [0.0, 0.0]]], [[[4.0, 5.0], [0.0, 9.0]]], [[0, 1]]), "temperature": 2.0}],
)
def equal_models_have_nothing_to_learn(loss, case, temperature):
    """Where the teacher's logits are the student's, up to a constant per position, loss and gradient are 0 at every T.

    A teacher softened at another T than the student (slime#2085, verl#7769), logits compared instead of distributions,
    and a cross-entropy in place of the KL (distillm#7) fail.
    """
    value, gradient = value_and_gradient(loss, case, temperature)
    yield case, abs(value) <= soft_bound(case, temperature), f"loss {value!r}"
    largest = float(gradient.abs().max())
    yield case, largest <= soft_gradient_bound(case, temperature), f"gradient up to {largest!r}"


@must(
    seam="distillation_loss",
    laws="KD-SHIFT",
    floor=20,
    given={
        "case": cases("random"),
        "temperature": temperatures,
        "shift": st.integers(-50, 50) | st.integers(-1000, 1000),
    },
    examples=[{"case": ASYMMETRIC, "temperature": 2.0, "shift": shift} for shift in (50, 1000)],
)
def a_constant_on_all_logits_changes_nothing(loss, case, temperature, shift):
    """Adding a constant to all of a model's logits at a position leaves the loss as it was."""

    def add(logits: list, constant: int) -> list:
        return [[[z + constant for z in row] for row in rows] for rows in logits]

    moved = Case(add(case.student, shift // 2), add(case.teacher, shift), case.labels)
    before, after = (value_and_gradient(loss, each, temperature)[0] for each in (case, moved))
    bound = soft_bound(case, temperature) + soft_bound(moved, temperature)
    yield case, abs(before - after) <= bound, f"{before!r} became {after!r}"


missed = {
    "given": {"size": st.integers(2, 9), "gap": st.integers(12, 30), "temperature": st.sampled_from([1.0, 2.0])},
    "examples": [{"size": 3, "gap": 14, "temperature": 1.0}],
}


def sure_of_another(size: int, gap: int) -> tuple[list[float], list[float]]:
    """(student, teacher): the student is sure of token 1, the teacher of token 0."""
    return [0.0, float(gap)] + [0.0] * (size - 2), [float(gap), 0.0] + [0.0] * (size - 2)


@must(seam="distillation_loss", laws="KD-DIR", floor=20, **missed)
def a_missed_token_pulls_at_full_strength(loss, size, gap, temperature):
    """Where the teacher is sure of a token that the student all but excludes, the gradient there is nearly -T.

    Under the reverse KL it vanishes with the student's probability: the student never learns what it never says
    (mode seeking). The pull is T (p_student - p_teacher), and both are within size * exp(-gap / T) of 0 and 1.
    """
    student, teacher = sure_of_another(size, gap)
    case = Case([[student, student]], [[teacher, teacher]], [[IGNORE, 0]])
    _, gradient = value_and_gradient(loss, case, temperature)
    pull, slack = float(gradient[0, 0, 0]), temperature * 2 * size * math.exp(-gap / temperature)
    yield (size, gap), abs(pull + temperature) <= slack + 1e-12, f"expected {-temperature}, seen {pull!r}"


@must(seam="distillation_loss", laws="KD-DIR", floor=20, **missed)
def a_token_of_the_teacher_that_the_student_excludes_is_infinitely_dear(loss, size, gap, temperature):
    """Where the student excludes with -inf a token of the teacher, the loss is infinite, or refused.

    An infinity that is masked, or clamped to a large number, hides that nothing is learned.
    """
    student, teacher = sure_of_another(size, gap)
    never = Case([[[-math.inf, *student[1:]]] * 2], [[teacher, teacher]], [[IGNORE, 1]])
    try:
        value, _ = value_and_gradient(loss, never, temperature)
    except Exception as error:
        yield (size, gap), True, f"refused: {error}"
    else:
        yield (size, gap), value == math.inf, f"a token of the teacher that the student excludes costs {value!r}"
