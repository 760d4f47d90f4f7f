"""Order statistics: what best-of-N is worth, and what it does to the distribution.

Expected values are enumerated in rational numbers, or closed forms; each bound counts the roundings of the float64
sum that it allows (u = 2**-53).
"""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction
from importlib import resources

import numpy as np
from hypothesis import strategies as st

from sftspec.properties import must

U = 2.0**-53
NAN = math.nan

few = st.integers(-4, 4).map(float)  # small integers, so that ties are common

# E[max of N standard normals]: closed forms (David & Nagaraja), then the golden table (mpmath at 60 digits).
NUMERIC = resources.files("sftspec.golden") / "numeric"
TABLE = json.loads((NUMERIC / "expected_max_normal.json").read_text(encoding="utf-8"))["cases"]
EXPECTED_MAXIMA = {case["n"]: float(case["value"]) for case in TABLE} | {
    1: 0.0,
    2: 1 / math.sqrt(math.pi),
    3: 1.5 / math.sqrt(math.pi),
    4: 6 * math.atan(math.sqrt(2)) / math.pi**1.5,
    5: 5 / (4 * math.sqrt(math.pi)) + 7.5 * math.asin(1 / 3) / math.pi**1.5,
}


@must(seam="expected_max_normal", laws="BN-EMAX", floor=12, given={"n": st.sampled_from(sorted(EXPECTED_MAXIMA))},
      examples=[{"n": n} for n in EXPECTED_MAXIMA])  # fmt: skip
def the_expected_maximum_is_exact(expected_max, n):
    """E[max of n] equals the closed form for n <= 5 and the table beyond, within 8 roundings; an array of counts, where
    it is not refused, gives each its own."""
    expected, value = EXPECTED_MAXIMA[n], expected_max(n)
    yield n, abs(value - expected) <= 8 * U * expected, f"expected {expected!r}, seen {value!r}"
    counts = np.array([2, n, 4])
    try:
        values = [float(each) for each in expected_max(counts)]
    except Exception as error:
        yield n, True, f"refused: {error}"
    else:
        alone = [expected_max(int(count)) for count in counts]
        yield n, values == alone, f"{counts}: expected {alone}, seen {values}"


@must(
    seam="expected_max_normal",
    laws=("BN-ASYM", "BN-HD", "BN-CONC"),
    floor=60,
    given={"n": st.integers(2, 10**6)},
    examples=[{"n": 2}, {"n": 1024}, {"n": 10**6}],
)
def the_expected_maximum_grows_slowly(expected_max, n):
    """E[max] increases with n, by ever less, and stays under sqrt(2 ln n) and under (n-1) / sqrt(2n-1).

    sqrt(2 ln n) is 15 % too high at n = 1024, sqrt(ln n) 19 % too low: neither is the value. Hartley & David 1954.
    """
    before, here, after = (expected_max(k) for k in (n - 1, n, n + 1))
    rounding = 8 * U * after
    yield n, before < here < after, f"{before!r}, {here!r}, {after!r}"
    yield n, after - here <= here - before + 2 * rounding, f"grew by {here - before!r}, then by {after - here!r}"
    yield n, here <= min(math.sqrt(2 * math.log(n)), (n - 1) / math.sqrt(2 * n - 1)) + rounding, f"seen {here!r}"


samples = st.lists(st.integers(-64, 64).map(lambda k: k / 16) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=7)
# The largest sample comes late, and rewards repeat.
SAMPLE = [0.0, 1.0, 0.0, 5.0, 1.0]


@must(
    seam="expected_best_of_n",
    laws="BN-EST",
    floor=60,
    given={"rewards": samples},
    examples=[{"rewards": SAMPLE}, {"rewards": [0.0, 0.0, 1.0, 0.0]}, {"rewards": [-1.0, 2.0]}],
)
def the_estimate_is_the_mean_over_all_subsets(estimate, rewards):
    """From m samples, best-of-n is the mean over all n-subsets of their maximum, so it is unbiased.

    n = 1 is the mean, n = m the maximum, and 0/1 rewards give pass@n. The plug-in 1 - (1 - c/m)**n is biased, the
    maximum of the first n is one subset. OpenAI 2022; Chen et al. 2021 eq. 1. Bound: 8 roundings of the same sum.
    """
    for n in range(1, len(rewards) + 1):
        maxima = [Fraction(max(subset)) for subset in itertools.combinations(rewards, n)]
        size = math.fsum(abs(largest) for largest in maxima) / len(maxima)
        exact, value = Fraction(sum(maxima)) / len(maxima), estimate(rewards, n)
        error = float(abs(Fraction(value) - exact))
        yield (rewards, n), error <= 8 * U * size, f"expected {float(exact)!r}, seen {value!r}"


@must(
    seam="expected_best_of_n",
    laws=("BN-CONC", "BN-GOODHART"),
    floor=60,
    given={"rewards": st.lists(few, min_size=2, max_size=30)},
    examples=[{"rewards": SAMPLE}],
)
def the_proxy_never_loses_by_more_candidates(estimate, rewards):
    """The value of best-of-n under the reward that selects increases with n, by ever less."""
    values = [estimate(rewards, n) for n in range(1, len(rewards) + 1)]
    rounding = 16 * U * max(map(abs, rewards))
    steps = [after - before for before, after in itertools.pairwise(values)]
    yield rewards, min(steps) >= -rounding, f"by n: {values}"
    yield rewards, all(b <= a + 2 * rounding for a, b in itertools.pairwise(steps)), f"by n: {values}"


@must(
    seam="expected_best_of_n",
    laws="BN-OTHER",
    floor=60,
    given={"m": st.integers(1, 300), "share": st.floats(0, 1)},
    examples=[{"m": 1, "share": 0.0}, {"m": 300, "share": 0.3}, {"m": 2000, "share": 0.4}],
)
def known_laws_give_their_known_maxima(estimate, m, share):
    """Expected order statistics of m in, expected maximum of n out: n/(n+1) for the uniform law, the harmonic number
    H_n for Exp(1); and 0/1 rewards give pass@n = 1 - C(m-c, n) / C(m, n).

    Bound: 3 roundings of the inputs, 8 of the estimate, one of the expected value; and for pass@n, which Chen et al.
    write as 1 less a product of at most m factors, 2 of each factor and one of the difference.
    """
    n, correct = 1 + int(share * (m - 1)), int(share * m)
    harmonic = math.fsum(1 / k for k in range(1, n + 1))
    cases = {
        "uniform": ([i / (m + 1) for i in range(1, m + 1)], n / (n + 1)),
        "exponential": ([math.fsum(1 / k for k in range(m - i + 1, m + 1)) for i in range(1, m + 1)], harmonic),
        "0/1": (
            [1.0] * correct + [0.0] * (m - correct),
            float(1 - Fraction(math.comb(m - correct, n), math.comb(m, n))),
        ),
    }
    for law, (rewards, expected) in cases.items():
        value, bound = estimate(rewards, n), 12 * U * expected + (2 * m + 1) * U * (law == "0/1")
        yield (law, m, n), abs(value - expected) <= bound, f"expected {expected!r}, seen {value!r}"


@must(
    seam="expected_best_of_n",
    laws="BN-EST",
    floor=20,
    given={"rows": st.integers(1, 6).flatmap(
        lambda m: st.lists(st.lists(few, min_size=m, max_size=m), min_size=1, max_size=3))},
    examples=[{"rows": [SAMPLE, SAMPLE[::-1], [9.0] * 5]}],
)  # fmt: skip
def each_prompt_has_an_estimate_of_its_own(estimate, rows):
    """Of several prompts the estimates are those of each alone, or the table is refused: samples are not pooled."""
    for n in range(1, len(rows[0]) + 1):
        try:
            values = [float(value) for value in estimate(rows, n)]
        except Exception as error:
            yield (rows, n), True, f"refused: {error}"
            continue
        alone = [float(estimate(row, n)) for row in rows]
        yield (rows, n), values == alone, f"expected {alone}, seen {values}"


@must(seam="expected_best_of_n", laws=("BN-EST", "BN-NAN"), floor=20,
      given={"row": st.lists(few, min_size=1, max_size=5), "place": st.integers(0, 5)},
      examples=[{"row": SAMPLE, "place": 2}])  # fmt: skip
def a_missing_reward_has_no_estimate(estimate, row, place):
    """A NaN among the samples is refused, or makes the estimate NaN.

    Dropped in silence it makes every estimate too high, because a broken candidate fills a place among the n without
    ever winning; counted as 0 it wins against negative rewards.
    """
    broken = [*row[:place], NAN, *row[place:]]
    for n in range(1, len(broken) + 1):
        try:
            value = float(estimate(broken, n))
        except Exception as error:
            yield (broken, n), True, f"refused: {error}"
        else:
            yield (broken, n), value != value, f"seen {value!r}"


@must(seam="expected_best_of_n", laws="BN-EST", floor=5, given={"m": st.integers(1, 5)}, examples=[{"m": 3}])
def fewer_samples_than_n_are_refused(estimate, m):
    """m < n samples hold no unbiased estimate of best-of-n: an error, not the maximum of what is there; nor is there a
    best of none."""
    for n in (m + 1, 0):
        try:
            value = estimate([float(i) for i in range(m)], n)
        except Exception as error:
            yield (m, n), True, f"refused: {error}"
        else:
            yield (m, n), False, f"best of {n} from {m} samples: {value}"


@must(
    seam="expected_gold",
    laws=("BN-ESTTRUE", "BN-GOODHART"),
    floor=60,
    given={"pairs": st.lists(st.tuples(few, few), min_size=1, max_size=6)},
    examples=[
        {"pairs": [(0.0, 3.0), (1.0, 2.0), (2.0, 1.0), (3.0, 0.0)]},  # the proxy's favourites are worth least
        {"pairs": [(1.0, 0.0), (1.0, 4.0), (0.0, 9.0)]},
    ],
)
def the_gold_value_follows_the_choice_of_the_proxy(gold_value, pairs):
    """The gold value of a proxy's best-of-n is the mean, over all n-subsets, of the gold of the proxy's choice.

    Candidates that tie in the proxy count equally. Sorting by the gold reward instead hides over-optimisation: with
    gold = -proxy the true value falls in n. OpenAI 2022; Gao et al. 2022, arXiv:2210.10760.
    """
    proxy, gold = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    for n in range(1, len(pairs) + 1):
        worth = []
        for subset in itertools.combinations(pairs, n):
            tied = [Fraction(g) for p, g in subset if p == max(subset)[0]]
            worth.append(sum(tied) / len(tied))
        exact, value = sum(worth) / len(worth), gold_value(proxy, gold, n)
        bound = 8 * U * max(map(abs, gold))
        yield (pairs, n), abs(Fraction(value) - exact) <= bound, f"expected {float(exact)!r}, seen {value!r}"


@must(seam="expected_gold", laws="BN-ESTTRUE", floor=5, given={"m": st.integers(1, 5)}, examples=[{"m": 3}])
def a_gold_value_without_enough_samples_is_refused(gold_value, m):
    """m < n samples, or a reward that is NaN on either side, hold no estimate: an error or NaN."""
    row, broken = [float(i) for i in range(m)], [NAN, *range(1, m)]
    for proxy, gold, n in ((row, row, m + 1), (broken, row, 1), (row, broken, 1)):
        try:
            value = float(gold_value(proxy, gold, n))
        except Exception as error:
            yield (proxy, gold, n), True, f"refused: {error}"
        else:
            yield (proxy, gold, n), n <= m and value != value, f"best of {n} from {m} samples: {value}"
