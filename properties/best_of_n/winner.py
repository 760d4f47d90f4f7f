"""Order statistics: how the winner is distributed, how far that is from the policy, and how often it wins.

The law of the winner is enumerated: every outcome of n draws, with its probability as a fraction.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

from hypothesis import strategies as st

from sftspec.properties import must, should

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
    """Probabilities that do not sum to 1, or of which one is negative, an outcome whose reward is NaN, and best-of-0
    have no law: an error or NaN, not that of another distribution."""
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


@must(
    seam="best_of_n_law",
    laws=("BN-KL", "BN-WIN"),
    floor=60,
    given={"space": spaces, "n": st.integers(1, 200)},
    examples=[{"space": [(1, 0), (1, 1)], "n": 200}, {"space": [(1, 0)], "n": 16}],
)
def selection_moves_no_further_than_its_bounds(law_of, space, n):
    """KL(best-of-n || base) is at most ln n - (n-1)/n and at most -ln min p; the winner beats a fresh draw, ties
    counted one half, at most n/(n+1) of the time and at least half.

    The first is an upper bound: on two equally likely outcomes the KL tends to ln 2 only. Beirami 2024, Theorem 3.1.
    """
    base, rewards = [float(p) for p in base_of(space)], [reward for _, reward in space]
    law = [float(mass) for mass in law_of(base, rewards, n)]
    kl = math.fsum(mass * math.log(mass / p) for mass, p in zip(law, base, strict=True) if mass > 0)
    rarest = min(p for p in base if p > 0)
    bound = min(math.log(n) - (n - 1) / n, -math.log(rarest))
    rounding = (n + 16) * U * (1 + math.log(1 / rarest))
    yield (space, n), abs(math.fsum(law) - 1) <= rounding, f"the law sums to {math.fsum(law)!r}"
    yield (space, n), -rounding <= kl <= bound + rounding, f"KL {kl!r}, bound {bound!r}"
    wins = math.fsum(
        mass * p * (0.5 if rewards[y] == rewards[x] else float(rewards[y] > rewards[x]))
        for y, mass in enumerate(law)
        for x, p in enumerate(base)
    )
    yield (space, n), 0.5 - rounding <= wins <= n / (n + 1) + rounding, f"wins {wins!r}"


@must(
    seam="best_of_n_kl_bound",
    laws="BN-KL",
    floor=5,
    given={"n": st.integers(1, 64) | st.integers(1, 10**6)},
    examples=[{"n": 1}, {"n": 2}, {"n": 64}, {"n": 1000}],
)
def the_bound_is_attained_by_rewards_that_never_tie(kl_bound, n):
    """On V equally likely outcomes with distinct rewards the KL lies under the bound, by at most 2n/V; in the limit it
    is the bound, ln n - (n-1)/n, within 4 roundings. For n = 0 there is none.

    Inside a cell (i-1, i] of the uniform law the winner's density n x**(n-1) varies by the factor (i/(i-1))**(n-1),
    which costs (n-1)/(i-1) nats there, n/V in the mean over the winner's law; twice that covers the first cells. The
    limit is E[ln n + (n-1) ln x] with x**n uniform: E[ln x] = -1/n.
    """
    limit = math.log(n) + (n - 1) * (-1 / n)
    yield n, abs(kl_bound(n) - limit) <= 4 * U * (1 + math.log(n)), f"expected {limit!r}, seen {kl_bound(n)!r}"
    try:
        none = float(kl_bound(0))
    except Exception as error:
        yield 0, True, f"refused: {error}"
    else:
        yield 0, not math.isfinite(none), f"n = 0: seen {none!r}"
    if n > 64:
        return
    size = 4096
    powers = [(i / size) ** n for i in range(size + 1)]
    masses = [b - a for a, b in itertools.pairwise(powers)]
    kl = math.fsum(mass * math.log(mass * size) for mass in masses if mass > 0)
    gap = kl_bound(n) - kl
    yield n, -size * U * 8 <= gap <= 2 * n / size, f"bound {kl_bound(n)!r}, KL {kl!r}"


@must(seam="win_rate", laws="BN-WIN", floor=6, given={"n": st.integers(1, 6) | st.integers(1, 10**6)},
      examples=[{"n": 1}, {"n": 4}, {"n": 1000}])  # fmt: skip
def the_best_loses_to_a_fresh_draw_once_in_n_plus_one(rate, n):
    """Without ties, the best of n beats an independent draw in n of n+1 cases: count the orders of n+1 draws (of many,
    the places that the fresh one can take)."""
    wins = Fraction(n, n + 1)
    if n <= 6:
        orders = list(itertools.permutations(range(n + 1)))
        wins = Fraction(sum(max(order[:n]) > order[n] for order in orders), len(orders))
    yield n, abs(Fraction(rate(n)) - wins) <= U, f"expected {wins}, seen {rate(n)!r}"
