"""Distillation by hand for every set of options: the loss, and its gradient at the student's logits.

Plain probabilities in plain Python floats, one position at a time, as in `cases/distillation`. A divergence is a table
row: what a token costs, and how the cost changes with the student's probability of it (its slope). With p = softmax(z /
T) the gradient at z is p (slope - mean slope under p) / T; a constant that is added to every slope changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

from sftspec.properties import takes
from sftspec.properties.cases.distillation import Case, hard_bound, log_softmax, once, soft_bound, soft_gradient_bound
from sftspec.properties.distillation.divergences import betas, gain, jsd_cost

# A term of the loss: its value, and its gradient at each scored position (None where the value is infinite).
Term = tuple[float, list[list[float]] | None]


# By name (cost, slope) of a token with probability p for the student and q for the teacher. A slope is asked for where
# p > 0 and the cost is finite.
DIVERGENCES: dict[str, tuple[Callable[..., float], Callable[..., float]]] = {
    "forward_kl": (lambda p, q, beta: gain(q, p), lambda p, q, beta: -q / p),
    "reverse_kl": (lambda p, q, beta: gain(p, q), lambda p, q, beta: math.log(p / q)),
    "jsd": (jsd_cost, lambda p, q, beta: (1 - beta) * math.log(p / (beta * q + (1 - beta) * p))),
}
ENDS_OF_BETA = {0.0: "forward_kl", 1.0: "reverse_kl"}


def soft_term(case: Case, temperature: float, options: Mapping[str, Any]) -> Term:
    """T**2 times the divergence that the options name, summed over the targets."""
    name, beta = options.get("divergence", "forward_kl"), options.get("beta", 0.5)
    cost, slope = DIVERGENCES[ENDS_OF_BETA.get(beta, name) if name == "jsd" else name]
    costs, gradient = [], []
    for rows in case.pairs:
        p, q = ([math.exp(a) for a in log_softmax(row, temperature)] for row in rows)
        groups = told_apart(rows[1], options.get("top_k"))
        pooled = [tuple(math.fsum(x[v] for v in group) for x in (p, q)) for group in groups]
        costs.append(math.fsum(cost(*pair, beta) for pair in pooled))
        if costs[-1] < math.inf:
            slopes = {
                v: slope(*pair, beta) for group, pair in zip(groups, pooled, strict=True) for v in group if pair[0] > 0
            }
            mean = math.fsum(p[v] * each for v, each in slopes.items())
            gradient.append([temperature * p[v] * (slopes.get(v, mean) - mean) for v in range(len(p))])
    value = temperature**2 * math.fsum(costs)
    return value, gradient if value < math.inf else None


def told_apart(teacher: list[float], top_k: int | None) -> list[list[int]]:
    """The tokens that are compared as one: each by itself, or the teacher's k largest (of equals the first) and the
    rest."""
    order = sorted(range(len(teacher)), key=lambda v: -teacher[v])
    kept, rest = order[:top_k], order[len(order) if top_k is None else top_k :]
    return [[v] for v in kept] + ([rest] if rest else [])


def hard_term(case: Case) -> Term:
    """-log p(label) of the student, summed over the targets."""
    value, gradient = [], []
    for (b, t), (student, _) in zip(case.rows, case.pairs, strict=True):
        label, logs = case.labels[b][t + 1], log_softmax(student)
        value.append(-logs[label])
        gradient.append([math.exp(a) - (v == label) for v, a in enumerate(logs)])
    return math.fsum(value), gradient


def distilled(case: Case, temperature: float, alpha: float, options: Mapping[str, Any]) -> Term:
    """The loss and its gradient at each scored position."""
    return _distilled(case, temperature, alpha, frozenset(options.items()))


@once
def _distilled(case: Case, temperature: float, alpha: float, chosen: frozenset[tuple[str, Any]]) -> Term:
    """alpha * soft + (1 - alpha) * hard, over the denominator; a term of weight 0 is left out, and so are the columns
    beyond the vocabulary, whose gradient is 0."""
    options, whole = dict(chosen), case
    case = shared(whole, options)
    terms = [(alpha, soft_term(case, temperature, options)), (1 - alpha, hard_term(case))]
    terms = [(weight / denominator(case, options), term) for weight, term in terms if weight > 0]
    value = math.fsum(weight * term[0] for weight, term in terms)
    if value == math.inf:
        return value, None
    slopes = [(weight, slope) for weight, (_, slope) in terms if slope is not None]
    return value, [
        [math.fsum(each) for each in zip(*([weight * g for g in slope[i]] for weight, slope in slopes), strict=True)]
        + [0.0] * (whole.vocabulary - case.vocabulary)
        for i in range(len(case.rows))
    ]


def shared(case: Case, options: Mapping[str, Any]) -> Case:
    """The columns of the shared vocabulary."""
    size = options.get("vocab_size")
    if size is None:
        return case
    student, teacher = ([[row[:size] for row in rows] for rows in z] for z in (case.student, case.teacher))
    return Case(student, teacher, case.labels)


def denominator(case: Case, options: Mapping[str, Any]) -> int:
    return options.get("num_targets", len(case.rows))


def rounding(
    case: Case, temperature: float, alpha: float, options: Mapping[str, Any], unit: float = 2.0**-53
) -> tuple[float, float]:
    """Rounding errors of the loss and of an entry of its gradient, for a case of finite logits.

    The value is twice that of a KL, as a JSD is a convex sum of two, whose mixture errs by no more than its parts and
    three roundings. A slope is at most 4m in magnitude, m = M/T, and errs by 2e where a probability errs by e of
    itself: an entry errs by T (4e + 12me) / n, which is (2 + 6m) times the error of a gap of probabilities.
    """
    case = shared(case, options)
    n, m = len(case.rows), case.largest / temperature
    value = alpha * 2 * soft_bound(case, temperature, unit) + (1 - alpha) * 2 * hard_bound(case, unit)
    entry = alpha * (2 + 6 * m) * soft_gradient_bound(case, temperature, unit)
    entry += (1 - alpha) * soft_gradient_bound(case, 1.0, unit)
    return value * n / denominator(case, options), entry * n / denominator(case, options)


# ------------------------------------------------------------------------------------------------------ sets of options


def option_set(divergence: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    return {**divergence, **{name: value for name, value in others.items() if value is not None}}


divergences: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}), st.just({"divergence": "reverse_kl"}), betas.map(lambda beta: {"divergence": "jsd", "beta": beta})
)
soft_options = st.builds(option_set, divergences, top_k=st.none() | st.integers(1, 2))
option_sets = st.builds(option_set, soft_options, num_targets=st.none() | st.integers(1, 40))


def asked_of(loss: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that this function has; a JSD whose beta cannot be told is none of them."""
    missing = {name for name in options if not takes(loss, name)}
    if missing & {"divergence", "beta"}:
        missing |= {"divergence", "beta"}
    return {name: value for name, value in options.items() if name not in missing}
