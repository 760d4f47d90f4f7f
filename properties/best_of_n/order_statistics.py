"""Order statistics: what best-of-N is worth, estimated without bias from samples.

Expected values are enumerated in rational numbers, or closed forms; `rounding_of` counts what a float64 evaluation
of the estimate may cost (u = 2**-53), whichever way its weights are computed.
"""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from sftspec.counted import counted
from sftspec.properties import must, number_or_nan
from sftspec.properties.cases.selection import INF, NAN, few
from sftspec.properties.variations import leaves_alone

U = 2.0**-53

sizes: dict[str, Any] = {"min_size": 1, "max_size": 7}
samples = st.one_of(
    st.lists(st.integers(-64, 64).map(lambda k: k / 16) | st.sampled_from([0.0, 1.0]), **sizes),
    st.lists(st.integers(-4, 4), **sizes),
    st.lists(st.booleans(), **sizes),
)
# The largest sample comes late, and rewards repeat.
SAMPLE = [0.0, 1.0, 0.0, 5.0, 1.0]


def rounding_of(m: int) -> float:
    """What float64 may cost in an estimate from m samples, relative to the same mean of |rewards|.

    A weight C(i-1, n-1) / C(m, n) is a product of at most m factors of 2 roundings each, or exp of six log-factorials,
    each at most m ln m and off by 2 roundings; m terms are summed; 12 are left for the inputs and the result
    (BOUND-ESTIMATE).
    """
    return U * (3 * m + 12 * m * math.log(m) + 12)


def mean_of_maxima(rewards: list, n: int) -> tuple[Fraction, float]:
    """The mean over all n-subsets of their maximum, and the rounding error of an estimate of it."""
    maxima = [Fraction(max(subset)) for subset in itertools.combinations(rewards, n)]
    size = math.fsum(abs(largest) for largest in maxima) / len(maxima)
    return Fraction(sum(maxima)) / len(maxima), rounding_of(len(rewards)) * size


@must(
    seam="expected_best_of_n",
    laws="BN-EST",
    floor=60,
    given={"rewards": samples},
    examples=[
        {"rewards": SAMPLE},
        {"rewards": [0.0, 0.0, 1.0, 0.0]},
        {"rewards": [0, 1, 1, 0]},
        {"rewards": [False, True, False]},
        {"rewards": [-1.0, 2.0]},
    ],
)
def the_estimate_is_the_mean_of_all_maxima(estimate, rewards):
    """From m samples, best-of-n is the mean over all n-subsets of their maximum, also where they are integers or
    passes.

    So it is unbiased: n = 1 is the mean, n = m the maximum, and 0/1 rewards give pass@n. The plug-in 1 - (1 - c/m)**n
    is biased, the maximum of the first n is one subset; weights that are cast to the type of whole rewards are 0.
    OpenAI 2022; Chen et al. 2021 eq. 1.
    """
    for n in range(1, len(rewards) + 1):
        (exact, bound), value = mean_of_maxima(rewards, n), float(estimate([*rewards], n))
        yield (rewards, n), abs(Fraction(value) - exact) <= bound, f"expected {float(exact)!r}, seen {value!r}"


@must(seam="expected_best_of_n", laws="BN-EST", floor=20, given={"rewards": samples}, examples=[{"rewards": SAMPLE}])
def estimating_leaves_the_samples_as_they_are(estimate, rewards):
    """An estimate does not change the samples that it is given: sorted in place, they belong to other completions."""
    yield leaves_alone(estimate, rewards, 1)


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
    rounding = 2 * rounding_of(len(rewards)) * max(map(abs, rewards))
    steps = [after - before for before, after in itertools.pairwise(values)]
    yield rewards, min(steps) >= -rounding, f"by n: {values}"
    yield rewards, all(b <= a + 2 * rounding for a, b in itertools.pairwise(steps)), f"by n: {values}"


@functools.lru_cache(maxsize=1024)
def known_law(name: str, m: int, n: int, correct: int) -> tuple[list[float], float]:
    """(m expected order statistics of a law, the expected maximum of n of its draws)."""
    if name == "uniform":
        return [i / (m + 1) for i in range(1, m + 1)], n / (n + 1)
    if name == "passes":
        exact = 1 - Fraction(math.comb(m - correct, n), math.comb(m, n))
        return [1.0] * correct + [0.0] * (m - correct), float(exact)
    return [math.fsum(1 / k for k in range(m - i, m + 1)) for i in range(m)], math.fsum(1 / k for k in range(1, n + 1))


KNOWN = ("uniform", "exponential", "passes")


@must(
    seam="expected_best_of_n",
    laws="BN-OTHER",
    floor=60,
    given={"law": st.sampled_from(KNOWN), "m": st.integers(1, 300), "share": st.floats(0, 1)},
    examples=[
        {"law": law, "m": m, "share": share} for law in KNOWN for m, share in ((1, 0.0), (300, 0.3), (2000, 0.4))
    ],
)
def known_laws_give_their_known_maxima(estimate, law, m, share):
    """From the expected order statistics of a uniform or an exponential law, or from passes, comes the known expected
    maximum.

    n/(n+1) for the uniform law, the harmonic number H_n for Exp(1), 1 - C(m-c, n) / C(m, n) for c passes. Chen et al.
    write pass@n as 1 less a product, whose error is relative to 1. A sum in float32 is far beyond the bound at every m.
    """
    n = 1 + int(share * (m - 1))
    rewards, expected = known_law(law, m, n, int(share * m))
    value, bound = float(estimate([*rewards], n)), rounding_of(m) * (expected + (law == "passes"))
    yield (law, m, n), abs(value - expected) <= bound, f"expected {expected!r}, seen {value!r}"


@must(
    seam="expected_best_of_n",
    laws="BN-EST",
    floor=20,
    given={
        "rows": st.integers(1, 6).flatmap(
            lambda m: st.lists(st.lists(few, min_size=m, max_size=m), min_size=1, max_size=3)
        )
    },
    examples=[{"rows": [SAMPLE, SAMPLE[::-1], [9.0] * 5]}],
)
def each_prompt_has_an_estimate_of_its_own(estimate, rows):
    """Of several prompts the estimates are those of each alone, or the table is refused: samples are not pooled."""
    bound = 2 * rounding_of(len(rows[0])) * max(abs(reward) for row in rows for reward in row)
    for n in range(1, len(rows[0]) + 1):
        try:
            values = [float(value) for value in estimate(rows, n)]
        except Exception as error:
            yield (rows, n), True, f"refused: {error}"
            continue
        alone = [float(estimate(row, n)) for row in rows]
        right = len(values) == len(alone) and all(abs(a - b) <= bound for a, b in zip(values, alone, strict=True))
        yield (rows, n), right, f"expected {alone}, seen {values}"


with_one_broken = {
    "given": {"row": st.lists(few, min_size=1, max_size=5), "place": st.integers(0, 5)},
    "examples": [{"row": SAMPLE, "place": 2}],
}


@must(seam="expected_best_of_n", laws=("BN-EST", "BN-NAN"), floor=20, **with_one_broken)
def samples_without_a_reward_have_no_estimate(estimate, row, place):
    """A NaN among the samples is refused, or makes the estimate NaN.

    Dropped in silence it makes every estimate too high, because a broken candidate fills a place among the n without
    ever winning; counted as 0 it wins against negative rewards.
    """
    broken = [*row[:place], NAN, *row[place:]]
    for n in range(1, len(broken) + 1):
        value = number_or_nan(estimate, broken, n)
        yield (broken, n), value != value, f"seen {value!r}"


@must(seam="expected_best_of_n", laws=("BN-EST", "BN-NAN"), floor=20, **with_one_broken)
def an_infinite_sample_counts_as_what_it_is(estimate, row, place):
    """An infinite reward among the samples is refused, makes the estimate NaN, or counts as what it is."""
    for reward in (INF, -INF):
        broken = [*row[:place], reward, *row[place:]]
        for n in range(1, len(broken) + 1):
            maxima = [max(subset) for subset in itertools.combinations(broken, n)]
            exact, value = math.fsum(maxima) / len(maxima), number_or_nan(estimate, broken, n)
            counted = value == exact or abs(value - exact) <= rounding_of(len(broken)) * max(map(abs, row))
            yield (broken, n), value != value or counted, f"expected {exact!r}, seen {value!r}"


@must(seam="expected_best_of_n", laws="BN-EST", floor=5, given={"m": st.integers(1, 5)}, examples=[{"m": 3}])
def fewer_samples_than_n_are_refused(estimate, m):
    """Fewer than n samples hold no unbiased estimate of best-of-n, nor is there a best of none: both are an error."""
    for n in (m + 1, 0):
        try:
            value = estimate([float(i) for i in range(m)], n)
        except Exception as error:
            yield (m, n), True, f"refused: {error}"
        else:
            yield (m, n), False, f"best of {n} from {counted(m, 'sample')}: {value}"


@must(
    seam="pass_at_n",
    laws="BN-EST",
    floor=60,
    given={"m": st.integers(1, 7) | st.integers(20, 400), "share": st.floats(0, 1), "draws": st.floats(0, 1)},
    examples=[
        {"m": m, "share": share, "draws": draws}
        for m, share, draws in ((4, 0.25, 0.5), (6, 0.7, 0.5), (200, 0.1, 0.01), (1000, 0.1, 0.01), (1000, 0.01, 0.5))
    ],
)
def the_pass_rate_is_the_share_of_subsets_with_a_correct_one(pass_rate, m, share, draws):
    """From m samples of which c are correct, pass@n is the share of all n-subsets that hold a correct one.

    Few are enumerated, many are counted: 1 - C(m-c, n) / C(m, n). 1 - (1 - c/m)**n draws with replacement, and is too
    low. Chen et al. 2021 eq. 1, arXiv:2107.03374.
    """
    correct, n = round(share * m), max(1, round(draws * m))
    exact = 1 - Fraction(math.comb(m - correct, n), math.comb(m, n))
    if m <= 7:
        subsets = list(itertools.combinations(range(m), n))
        exact = Fraction(sum(min(subset) < correct for subset in subsets), len(subsets))
    value = float(pass_rate(m, correct, n))
    right = abs(Fraction(value) - exact) <= rounding_of(m)
    yield (m, correct, n), right, f"expected {float(exact)!r}, seen {value!r}"


@must(seam="pass_at_n", laws="BN-EST", floor=5, given={"m": st.integers(1, 9)}, examples=[{"m": 1}, {"m": 4}])
def a_pass_rate_of_too_few_samples_is_refused(pass_rate, m):
    """m < n samples hold no n-subset, and more correct ones than samples are a mistake: an error or NaN.

    Chen et al. return 1 as soon as fewer than n are wrong, also where there are no n samples.
    """
    for correct, n in ((m, m + 1), (0, m + 1), (m + 1, 1), (-1, 1)):
        value = number_or_nan(pass_rate, m, correct, n)
        yield (m, correct, n), math.isnan(value), f"pass@{n} of {counted(m, 'sample')}, {correct} correct: {value}"
