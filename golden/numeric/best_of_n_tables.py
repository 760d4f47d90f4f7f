"""Tables of best-of-N: expected maxima, the estimator, the winner's law and its KL."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import mpmath
from exact import digits
from mpmath import mpf


def expected_max(n: int) -> mpf:
    """E[max of n normals] as the integral of x n phi(x) Phi(x)**(n-1), checked against the integral of 1 - F."""
    middle = mpmath.sqrt(2 * mpmath.log(max(n, 2)))
    cuts = [-16, *(middle + mpf(k) / 4 for k in range(-16, 40)), middle + 20]
    density = mpmath.quad(lambda x: x * n * mpmath.npdf(x) * mpmath.ncdf(x) ** (n - 1), cuts)

    def tails(x):
        below = mpmath.ncdf(-x)
        return -mpmath.expm1(n * mpmath.log1p(-below)) - below**n

    distribution = mpmath.quad(tails, [0, *(cut for cut in cuts if cut > 0)])
    assert abs(density - distribution) < mpf(10) ** -42, (n, density, distribution)
    return density


def expected_max_normal() -> list[dict]:
    """E[max of n standard normals]."""
    pi = mpmath.pi
    closed = {
        1: mpf(0),
        2: 1 / mpmath.sqrt(pi),
        3: 3 / (2 * mpmath.sqrt(pi)),
        4: 6 * mpmath.atan(mpmath.sqrt(2)) / pi**1.5,
        5: 5 / (4 * mpmath.sqrt(pi)) + 15 * mpmath.asin(mpf(1) / 3) / (2 * pi ** mpf(1.5)),
    }
    cases = []
    for n in [*range(1, 11), 16, 20, 32, 50, 64, 100, 128, 256, 1000, 1024, 4096, 16384, 65536, 10**6, 10**9, 10**12]:
        value = expected_max(n)
        assert n not in closed or abs(value - closed[n]) < mpf(10) ** -42, n
        cases.append({"n": n, "value": digits(closed.get(n, value))})
    return cases


def rewards_of(m: int) -> list[float]:
    """m <= 16381 distinct rewards in no order, multiples of 1/8."""
    return [(7919 * i % 16381 - 8000) / 8 for i in range(m)]


def estimate(rewards: list[float], n: int) -> Fraction:
    """Sum over i = n..m of C(i-1, n-1) / C(m, n) r_(i), with r_(1) <= ... <= r_(m)."""
    ordered, m, subsets, total = sorted(map(Fraction, rewards)), len(rewards), 1, Fraction(0)
    for i in range(n, m + 1):
        total += subsets * ordered[i - 1]
        subsets = subsets * i // (i - n + 1)
    return total / math.comb(m, n)


def best_of_n_estimator() -> list[dict]:
    """Mean over all n-subsets of the maximum: of (7919 i mod 16381 - 8000) / 8 for i < m, or of c ones, m - c zeros."""
    cases = []
    for m in [1, 2, 5, 8, 11]:
        for n in range(1, m + 1):
            rewards = rewards_of(m)
            subsets = [Fraction(max(subset)) for subset in itertools.combinations(rewards, n)]
            assert estimate(rewards, n) == sum(subsets) / len(subsets)
            cases.append({"m": m, "n": n, "value": digits(estimate(rewards, n))})
    for m, n in [(64, 16), (400, 7), (2000, 1000), (10000, 2), (10000, 64), (10000, 5000), (10000, 9999)]:
        cases.append({"m": m, "n": n, "value": digits(estimate(rewards_of(m), n))})
    correct = [(10, 3, 4), (200, 1, 100), (200, 199, 2), (10000, 7, 500)]
    for m, c, n in correct:  # pass@n: all the ways to miss
        missed = Fraction(math.comb(m - c, n), math.comb(m, n))
        assert estimate([1.0] * c + [0.0] * (m - c), n) == 1 - missed
        cases.append({"correct": c, "m": m, "n": n, "value": digits(1 - missed)})
    return cases


def best_of_n_law() -> list[dict]:
    """The winner's law by counting tuples of equally likely draws, its KL from the base, and the bound."""
    spaces = [
        ([1, 1], [0, 1]),
        ([1, 1, 2], [0, 1, 1]),
        ([1, 2, 5, 8], [3, 0, 1, 2]),
        ([3, 1, 4], [0, 0, 0]),
        ([1, 7], [1, 0]),
    ]
    cases = []
    for (weights, rewards), n in itertools.product(spaces, [1, 2, 4, 16, 1024]):
        base = [Fraction(weight, sum(weights)) for weight in weights]
        law = []
        for y, reward in enumerate(rewards):
            below = sum(p for p, r in zip(base, rewards, strict=True) if r < reward)
            level = sum(p for p, r in zip(base, rewards, strict=True) if r == reward)
            law.append(base[y] / level * ((below + level) ** n - below**n))
        if n <= 4:
            counted = [Fraction(0)] * len(weights)
            for draws in itertools.product(range(len(weights)), repeat=n):
                counted[max(draws, key=lambda v: rewards[v])] += math.prod(base[v] for v in draws)
            assert counted == law
        divergence = mpmath.fsum(
            mpf(p.numerator) / p.denominator * mpmath.log(mpf((p / q).numerator) / (p / q).denominator)
            for p, q in zip(law, base, strict=True)
            if p
        )
        bound = mpmath.log(n) - mpf(n - 1) / n
        assert divergence <= bound + mpf(10) ** -50
        case = {"weights": weights, "rewards": rewards, "n": n}
        cases.append(case | {"law": digits(law), "kl": digits(divergence), "kl_bound": digits(bound)})
    return cases
