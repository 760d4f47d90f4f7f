"""Order statistics: what best-of-N is worth, estimated without bias from samples.

Expected values are enumerated in rational numbers, or closed forms; `rounding_of` counts what a float64 evaluation
of the estimate may cost (u = 2**-53), whichever way its weights are computed.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

from hypothesis import strategies as st

from sftspec.properties import must, number_or_nan
from sftspec.properties.cases.selection import INF, NAN, few, in_each_form

U = 2.0**-53
FLOAT64 = ("float64",)  # of a tensor of integers a number made with float32 is no mistake

sizes = {"min_size": 1, "max_size": 7}
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
def the_estimate_is_the_mean_over_all_subsets(estimate, rewards):
    """From m samples, best-of-n is the mean over all n-subsets of their maximum, so it is unbiased, also where they are
    integers or passes; the samples stay in their order.

    n = 1 is the mean, n = m the maximum, and 0/1 rewards give pass@n. The plug-in 1 - (1 - c/m)**n is biased, the
    maximum of the first n is one subset. OpenAI 2022; Chen et al. 2021 eq. 1. Samples that are sorted in place
    no longer belong to their completions; weights that are cast to the type of whole rewards are 0.
    """
    given = list(rewards)
    for n in range(1, len(given) + 1):
        (exact, bound), value = mean_of_maxima(given, n), float(estimate(rewards, n))
        yield (given, n), abs(Fraction(value) - exact) <= bound, f"expected {float(exact)!r}, seen {value!r}"
    n = (len(given) + 1) // 2
    exact, bound = mean_of_maxima(given, n)
    for form, value in in_each_form(estimate, rewards, n, types=FLOAT64, read=float):
        right = abs(Fraction(value) - exact) <= bound
        yield (form, given, n), right, f"{form}: expected {float(exact)!r}, seen {value!r}"
    yield given, rewards == given, f"the samples became {rewards}"


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

    Chen et al. write pass@n as 1 less a product, whose error is relative to 1. A sum in float32 (6e-8) is far beyond
    the bound at every m.
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
        value, bound = estimate(rewards, n), rounding_of(m) * (expected + (law == "0/1"))
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


@must(seam="expected_best_of_n", laws=("BN-EST", "BN-NAN"), floor=20,
      given={"row": st.lists(few, min_size=1, max_size=5), "place": st.integers(0, 5)},
      examples=[{"row": SAMPLE, "place": 2}])  # fmt: skip
def a_missing_reward_has_no_estimate(estimate, row, place):
    """A NaN among the samples is refused, or makes the estimate NaN; an infinite one is refused, makes it NaN, or
    counts as what it is.

    Dropped in silence it makes every estimate too high, because a broken candidate fills a place among the n without
    ever winning; counted as 0 it wins against negative rewards.
    """
    for reward in (NAN, INF, -INF):
        broken = [*row[:place], reward, *row[place:]]
        for n in range(1, len(broken) + 1):
            maxima = [max(subset) for subset in itertools.combinations(broken, n)]
            honest = NAN if reward != reward else math.fsum(maxima) / len(maxima)
            value = number_or_nan(estimate, broken, n)
            counted = value == honest or abs(value - honest) <= rounding_of(len(broken)) * max(map(abs, row))
            yield (broken, n), value != value or counted, f"expected {honest!r}, seen {value!r}"


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
    seam="pass_at_n",
    laws="BN-EST",
    floor=60,
    given={"m": st.integers(1, 7), "correct": st.integers(0, 7), "many": st.integers(20, 400)},
    examples=[{"m": 4, "correct": 1, "many": 200}, {"m": 6, "correct": 4, "many": 1000}],
)
def the_pass_rate_is_the_share_of_subsets_with_a_correct_one(pass_rate, m, correct, many):
    """From m samples of which c are correct, pass@n is the share of all n-subsets that hold a correct one, enumerated
    for few samples and counted for many: 1 - C(m-c, n) / C(m, n).

    1 - (1 - c/m)**n draws with replacement, and is too low. Chen et al. 2021 eq. 1, arXiv:2107.03374.
    """
    correct = min(m, correct)
    for n in range(1, m + 1):
        subsets = list(itertools.combinations(range(m), n))
        exact = Fraction(sum(min(subset) < correct for subset in subsets), len(subsets))
        value = float(pass_rate(m, correct, n))
        yield (m, correct, n), abs(Fraction(value) - exact) <= rounding_of(m), f"expected {exact}, seen {value!r}"
    for c, n in ((many // 10, 1 + correct), (1, many // 2), (many // 2, many // 3)):
        exact = 1 - Fraction(math.comb(many - c, n), math.comb(many, n))
        value = float(pass_rate(many, c, n))
        right = abs(Fraction(value) - exact) <= rounding_of(many)
        yield (many, c, n), right, f"expected {float(exact)!r}, seen {value!r}"


@must(seam="pass_at_n", laws="BN-EST", floor=5, given={"m": st.integers(1, 9)}, examples=[{"m": 1}, {"m": 4}])
def a_pass_rate_of_too_few_samples_is_refused(pass_rate, m):
    """m < n samples hold no n-subset, and more correct ones than samples are a mistake: an error or NaN.

    Chen et al. return 1 as soon as fewer than n are wrong, also where there are no n samples.
    """
    for correct, n in ((m, m + 1), (0, m + 1), (m + 1, 1), (-1, 1)):
        value = number_or_nan(pass_rate, m, correct, n)
        yield (m, correct, n), math.isnan(value), f"pass@{n} of {m} samples, {correct} correct: {value}"
