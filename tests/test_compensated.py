"""Products, sums and weights of best-of-N against exact integers, at the bounds that are derived beside them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from sftspec.compensated import accurate_sum, product_errors, ratio_products
from sftspec.order_statistics import expected_best_of_n, expected_gold, subset_weights

U = Fraction(1, 2**53)


def test_the_error_of_a_product_is_exact():
    draw = np.random.default_rng(0)
    a, b = (draw.normal(size=1000) * 10.0 ** draw.integers(-90, 90, 1000) for _ in range(2))
    for x, y, error in zip(a.tolist(), b.tolist(), product_errors(a, b, a * b).tolist(), strict=True):
        assert Fraction(x) * Fraction(y) == Fraction(x * y) + Fraction(error)


@pytest.mark.parametrize(("m", "n"), [(7, 1), (25, 3), (400, 400), (3000, 1500), (8000, 2), (8000, 1000)])
def test_weights_are_ratios_of_binomials_within_the_derived_bound(m, n):
    total, exact = math.comb(m, n), 1  # of integers, one by one
    for i, weight in enumerate(subset_weights(m, n).tolist(), 1):
        if i < n:
            assert weight == 0
            continue
        true = Fraction(exact, total)
        exact = exact * i // (i - n + 1)
        assert abs(Fraction(weight) - true) <= U * true * (1 + 3 * m**2 * U) + Fraction(1, 2**1074)


@pytest.mark.parametrize("n", [1, 2, 64, 512])
def test_weights_of_a_million_samples_are_those_of_integers(n):
    m, weights = 10**6, subset_weights(10**6, n)
    total = math.comb(m, n)
    for i in (n, m // 2, m - 50_000, m - 1000, m - 1, m):
        true = Fraction(math.comb(i - 1, n - 1), total)
        assert abs(Fraction(float(weights[i - 1])) - true) <= U * true * (1 + 3 * m**2 * U) + Fraction(1, 2**1074)
    assert math.fsum(weights) == pytest.approx(1, abs=4e-16)


def test_products_that_underflow_are_zero_and_no_warning(recwarn):
    under = np.arange(200_000, 100_000, -1.0)
    assert ratio_products(under - 90_000, under)[-1] == 0 and not recwarn.list


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, 4097])
def test_a_sum_is_that_of_fractions(size):
    draw = np.random.default_rng(size)
    terms = draw.normal(size=size) * 10.0 ** draw.integers(-12, 12, size)
    true, whole = sum(map(Fraction, terms.tolist()), Fraction()), sum(map(Fraction, abs(terms).tolist()), Fraction())
    bound = U * abs(true) + 2 * (math.log2(max(size, 2)) + 1) ** 2 * U * U * whole
    assert abs(Fraction(accurate_sum(terms)) - true) <= bound


@pytest.mark.parametrize("levels", [1, 2, 5, 40, 200, 10**9], ids=lambda levels: f"{levels} levels")
@pytest.mark.parametrize("n", [1, 3, 50])
def test_tied_candidates_share_their_weights_whatever_their_number(levels, n):
    """By hand: a level of ranks a..b has the weight (C(b, n) - C(a - 1, n)) / C(m, n)."""
    m = 300
    proxy = np.random.default_rng(levels).integers(0, levels, m).astype(np.float64)
    gold = np.random.default_rng(levels + 1).normal(size=m)
    for worth, found in ((gold, expected_gold(proxy, gold, n)), (proxy, expected_best_of_n(proxy, n))):
        true = Fraction()
        for level in np.unique(proxy):
            below, here = int((proxy < level).sum()), worth[proxy == level].tolist()
            share = Fraction(math.comb(below + len(here), n) - math.comb(below, n), math.comb(m, n))
            true += share * sum(map(Fraction, here)) / len(here)
        size = float(np.sum(subset_weights(m, n) * np.abs(np.sort(worth)).max()))
        assert abs(Fraction(found) - true) <= 5 * U * Fraction(size)
