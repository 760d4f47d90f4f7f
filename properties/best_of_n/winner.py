"""Order statistics: how the winner is distributed, how far that is from the policy, and how often it wins.

The law of the winner is enumerated: every outcome of n draws, with its probability as a fraction.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

from hypothesis import strategies as st

from sftspec.properties import must, number_or_nan, should
from sftspec.properties.variations import leaves_alone

U = 2.0**-53
INF, NAN = math.inf, math.nan

# Outcomes that never happen, rewards of both signs, -inf and +inf are among them.
spaces = st.lists(
    st.tuples(st.integers(0, 8), st.integers(-2, 2) | st.sampled_from([-INF, INF])), min_size=1, max_size=4
).filter(lambda space: any(weight for weight, _ in space))


def base_of(space: list[tuple[int, int]]) -> list[Fraction]:
    """Probabilities proportional to the first entries of (weight, reward) pairs."""
    total = sum(weight for weight, _ in space)
    return [Fraction(weight, total) for weight, _ in space]


@must(
    seam="best_of_n_law",
    laws="BN-LAW",
    floor=60,
    given={"space": spaces, "n": st.integers(1, 4)},
    examples=[
        {"space": [(1, 0), (1, 1)], "n": 2},
        {"space": [(2, 1), (3, 1), (5, 0)], "n": 3},
        {"space": [(0, 2), (1, -2), (1, -INF), (0, -3)], "n": 2},
        {"space": [(1, 1), (1, INF)], "n": 2},
    ],
)
def the_law_of_the_winner_is_the_enumerated_one(law_of, space, n):
    """The distribution of the winner is that of the first maximum over all n-tuples of draws, enumerated.

    pi_n(y) = F(y)**n - F^-(y)**n; ties share by the base probabilities. Beirami 2024, Lemma 1. Bound: n + 8 roundings.
    """
    base, rewards = base_of(space), [reward for _, reward in space]
    exact = [Fraction(0)] * len(space)
    for draws in itertools.product(range(len(space)), repeat=n):
        exact[max(draws, key=lambda y: rewards[y])] += math.prod(base[y] for y in draws)
    law = law_of([float(p) for p in base], rewards, n)
    for y, (value, true) in enumerate(zip(law, exact, strict=True)):
        yield (space, n, y), abs(Fraction(float(value)) - true) <= (n + 8) * U, f"expected {float(true)}, seen {value}"


@should(
    seam="best_of_n_law",
    laws="BN-LAW",
    floor=20,
    given={"space": spaces, "n": st.integers(1, 4)},
    examples=[{"space": [(1, 0), (1, 1)], "n": 2}],
)
def what_is_no_distribution_has_no_winner(law_of, space, n):
    """What is no distribution, a reward that is NaN, and best-of-0 have no law of the winner: an error or NaN."""
    base, rewards = [float(p) for p in base_of(space)], [float(reward) for _, reward in space]
    cases = {
        "a sum below 1": ([p / 2 for p in base], rewards, n),
        "a sum above 1": ([*base, 0.25], [*rewards, 0.0], n),
        "a negative probability": ([*base, 0.5, -0.5], [*rewards, 0.0, 1.0], n),
        "a negative probability beside a distribution": ([*base, -0.5], [*rewards, 0.0], n),
        "a reward that is NaN": ([*(p / 2 for p in base), 0.5], [*rewards, NAN], n),
        "no draw": (base, rewards, 0),
    }
    for case, arguments in cases.items():
        try:
            law = [float(mass) for mass in law_of(*arguments)]
        except Exception as error:
            yield (case, *arguments), True, f"refused: {error}"
        else:
            yield (case, *arguments), any(mass != mass for mass in law), f"{case}: {law}"


chosen = {
    "given": {"space": spaces, "n": st.integers(1, 200)},
    "examples": [{"space": [(1, 0), (1, 1)], "n": 200}, {"space": [(1, 0)], "n": 16}],
}


def law_and_rounding(law_of, space: list[tuple[int, int]], n: int) -> tuple[list[float], list[float], float]:
    """(base, law of the winner, what float64 may cost)."""
    base = [float(p) for p in base_of(space)]
    law = [float(mass) for mass in law_of(base, [reward for _, reward in space], n)]
    return base, law, (n + 16) * U * (1 + math.log(1 / min(p for p in base if p > 0)))


@must(seam="best_of_n_law", laws="BN-LAW", floor=20, **chosen)
def the_law_of_the_winner_sums_to_one(law_of, space, n):
    """The probabilities of the winner are not negative, and sum to 1."""
    _, law, rounding = law_and_rounding(law_of, space, n)
    yield (space, n), min(law) >= 0 and abs(math.fsum(law) - 1) <= rounding, f"{law} sums to {math.fsum(law)!r}"


@must(seam="best_of_n_law", laws="BN-KL", floor=20, **chosen)
def the_kl_of_the_winner_is_within_its_bounds(law_of, space, n):
    """KL(best-of-n || base) is at least 0, at most ln n - (n-1)/n, and at most -ln min p.

    The second is an upper bound: on two equally likely outcomes the KL tends to ln 2 only. Beirami 2024, Theorem 3.1.
    """
    base, law, rounding = law_and_rounding(law_of, space, n)
    kl = math.fsum(mass * math.log(mass / p) for mass, p in zip(law, base, strict=True) if mass > 0)
    bound = min(math.log(n) - (n - 1) / n, -math.log(min(p for p in base if p > 0)))
    yield (space, n), -rounding <= kl <= bound + rounding, f"KL {kl!r}, bound {bound!r}"


@must(seam="best_of_n_law", laws="BN-WIN", floor=20, **chosen)
def the_winner_beats_a_fresh_draw_at_most_as_often_as_without_ties(law_of, space, n):
    """The winner beats a fresh draw, ties counted one half, at least half of the time and at most n/(n+1)."""
    base, law, rounding = law_and_rounding(law_of, space, n)
    worth = lambda ours, other: 0.5 if ours == other else float(ours > other)  # noqa: E731
    pairs = itertools.product(zip(law, space, strict=True), zip(base, space, strict=True))
    wins = math.fsum(mass * p * worth(ours[1], other[1]) for (mass, ours), (p, other) in pairs)
    yield (space, n), 0.5 - rounding <= wins <= n / (n + 1) + rounding, f"wins {wins!r}"


@must(seam="best_of_n_law", laws="BN-LAW", floor=20, **chosen)
def the_law_of_the_winner_leaves_its_arguments_as_they_are(law_of, space, n):
    """The law of the winner does not change the probabilities and rewards that it is given."""
    yield leaves_alone(law_of, [float(p) for p in base_of(space)], [float(reward) for _, reward in space], n)


@must(
    seam="best_of_n_kl_bound",
    laws="BN-KL",
    floor=5,
    given={"n": st.integers(1, 64) | st.integers(1, 10**6)},
    examples=[{"n": 1}, {"n": 2}, {"n": 64}, {"n": 1000}],
)
def the_kl_bound_is_ln_n_less_a_share(kl_bound, n):
    """The bound of the KL is ln n - (n-1)/n, within 4 roundings.

    It is the limit of V equally likely outcomes: E[ln n + (n-1) ln x] with x**n uniform, and E[ln x] = -1/n.
    """
    limit = math.log(n) + (n - 1) * (-1 / n)
    yield n, abs(kl_bound(n) - limit) <= 4 * U * (1 + math.log(n)), f"expected {limit!r}, seen {kl_bound(n)!r}"


@must(seam="best_of_n_kl_bound", laws="BN-KL", floor=1)
def best_of_none_has_no_kl_bound(kl_bound):
    """For n = 0 there is no bound of the KL: an error, or no finite number."""
    yield 0, not math.isfinite(number_or_nan(kl_bound, 0)), f"n = 0: seen {number_or_nan(kl_bound, 0)!r}"


@must(seam="best_of_n_kl_bound", laws="BN-KL", floor=5, given={"n": st.integers(1, 64)}, examples=[{"n": 2}, {"n": 64}])
def the_kl_bound_is_nearly_attained_without_ties(kl_bound, n):
    """On V equally likely outcomes with distinct rewards the KL lies under the bound, by at most 2n/V.

    Inside a cell (i-1, i] of the uniform law the winner's density n x**(n-1) varies by the factor (i/(i-1))**(n-1),
    which costs (n-1)/(i-1) nats there, n/V in the mean over the winner's law; twice that covers the first cells.
    """
    size = 4096
    masses = [b - a for a, b in itertools.pairwise((i / size) ** n for i in range(size + 1))]
    gap = kl_bound(n) - math.fsum(mass * math.log(mass * size) for mass in masses if mass > 0)
    yield n, -size * U * 8 <= gap <= 2 * n / size, f"the bound is {gap!r} above the KL"


@must(
    seam="win_rate",
    laws="BN-WIN",
    floor=6,
    given={"n": st.integers(1, 6) | st.integers(1, 10**6)},
    examples=[{"n": 1}, {"n": 4}, {"n": 1000}],
)
def the_best_loses_to_a_fresh_draw_once_in_n_plus_one(rate, n):
    """Without ties, the best of n beats an independent draw in n of n+1 cases.

    Few draws are enumerated: all orders of n+1 of them. Of many, the fresh one is the largest once in n+1.
    """
    wins = Fraction(n, n + 1)
    if n <= 6:
        orders = list(itertools.permutations(range(n + 1)))
        wins = Fraction(sum(max(order[:n]) > order[n] for order in orders), len(orders))
    yield n, abs(Fraction(float(rate(n))) - wins) <= U, f"expected {wins}, seen {rate(n)!r}"
