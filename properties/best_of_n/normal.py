"""Order statistics: the expected maximum of normal rewards, in units of their standard deviation.

Expected values are closed forms and the golden table. The bound is that of a sound quadrature: a sum of up to 512 terms
of one sign costs 511 roundings at worst, whatever is summed (u = 2**-53).
"""

from __future__ import annotations

import json
import math
from importlib import resources

from hypothesis import strategies as st

from sftspec.properties import must, number_or_nan, should

U = 2.0**-53
QUADRATURE = 512 * U  # BOUND-EMAX

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


@must(
    seam="expected_max_normal",
    laws="BN-EMAX",
    floor=12,
    given={"n": st.sampled_from(sorted(EXPECTED_MAXIMA))},
    examples=[{"n": n} for n in EXPECTED_MAXIMA],
)
def the_expected_maximum_is_exact(expected_max, n):
    """E[max of n] equals the closed form for n <= 5 and the table beyond, within 512 roundings.

    An asymptote is off by percents, a table of digits by its last one; a quadrature of 512 nodes is not. E[max of 1] is
    0, and a sum that has to cancel to it is held to the spread of the rewards, 1.
    """
    expected, value = EXPECTED_MAXIMA[n], float(expected_max(n))
    yield n, abs(value - expected) <= QUADRATURE * (expected or 1), f"expected {expected!r}, seen {value!r}"


@should(seam="expected_max_normal", laws="BN-EMAX", floor=1)
def no_rewards_have_no_maximum(expected_max):
    """The expected maximum of no rewards is refused, or is -inf or NaN."""
    value = number_or_nan(expected_max, 0)
    yield 0, value != value or value == -math.inf, f"seen {value!r}"


@should(seam="expected_max_normal", laws="BN-EMAX", floor=2, given={"n": st.integers(1, 1000)}, examples=[{"n": 2}])
def a_fraction_of_a_count_is_not_cut_off(expected_max, n):
    """n + 1/2 rewards are refused, or have an expected maximum between that of n and that of n + 1."""
    value, low, high = number_or_nan(expected_max, n + 0.5), expected_max(n), expected_max(n + 1)
    yield n + 0.5, value != value or low < value < high, f"seen {value!r}, from {low!r} to {high!r}"


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
    rounding = QUADRATURE * after
    yield n, before < here < after, f"{before!r}, {here!r}, {after!r}"
    yield n, after - here <= here - before + 4 * rounding, f"grew by {here - before!r}, then by {after - here!r}"
    yield n, here <= min(math.sqrt(2 * math.log(n)), (n - 1) / math.sqrt(2 * n - 1)) + rounding, f"seen {here!r}"
