"""Order statistics: what the choice of a proxy is worth under the reward that is meant, the gold reward.

Expected values count subsets in rational numbers; the bound is that of the estimate, `order_statistics.rounding_of`.
"""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import strategies as st

from sftspec.counted import counted
from sftspec.properties import must, number_or_nan
from sftspec.properties.best_of_n.order_statistics import rounding_of
from sftspec.properties.cases.selection import NAN, few
from sftspec.properties.variations import leaves_alone

# Three levels of the proxy among twelve candidates, in no order, and gold rewards that fall where it rises.
TWELVE = [(float(5 * i % 3), float(4 - (7 * i % 9))) for i in range(12)]


def gold_by_counting(pairs: list[tuple[float, float]], n: int) -> Fraction:
    """Of the C(m, n) subsets, C(up to a level, n) - C(below it, n) have their best on that level of the proxy, and any
    candidate on it is the choice as often as another."""
    value = Fraction(0)
    for level in {proxy for proxy, _ in pairs}:
        below = sum(proxy < level for proxy, _ in pairs)
        here = [Fraction(gold) for proxy, gold in pairs if proxy == level]
        value += (math.comb(below + len(here), n) - math.comb(below, n)) * sum(here, Fraction(0)) / len(here)
    return value / math.comb(len(pairs), n)


judged_twice = st.one_of(
    *(st.lists(st.tuples(each, each), min_size=1, max_size=20) for each in (few, st.integers(-4, 4)))
)


@must(
    seam="expected_gold",
    laws=("BN-ESTTRUE", "BN-GOODHART"),
    floor=60,
    given={"pairs": judged_twice},
    examples=[
        {"pairs": [(0.0, 3.0), (1.0, 2.0), (2.0, 1.0), (3.0, 0.0)]},  # the proxy's favourites are worth least
        {"pairs": [(1.0, 0.0), (1.0, 4.0), (0.0, 9.0)]},
        {"pairs": [(1, 1), (2, 0), (3, 1)]},
        {"pairs": TWELVE},
    ],
)
def the_gold_value_is_that_of_the_choice_of_the_proxy(gold_value, pairs):
    """The gold value of a proxy's best-of-n is the mean, over all n-subsets, of the gold of the proxy's choice.

    Candidates that tie in the proxy count equally. Sorting by the gold reward instead hides over-optimisation: with
    gold = -proxy the true value falls in n. OpenAI 2022; Gao et al. 2022, arXiv:2210.10760.
    """
    proxy, gold = map(list, zip(*pairs, strict=True))
    bound = rounding_of(len(pairs)) * max(map(abs, [*proxy, *gold]))
    for n in range(1, len(pairs) + 1):
        exact, value = gold_by_counting(pairs, n), float(gold_value([*proxy], [*gold], n))
        yield (pairs, n), abs(Fraction(value) - exact) <= bound, f"expected {float(exact)!r}, seen {value!r}"


@must(seam="expected_gold", laws="BN-ESTTRUE", floor=20, given={"pairs": judged_twice}, examples=[{"pairs": TWELVE}])
def a_gold_value_leaves_both_rewards_as_they_are(gold_value, pairs):
    """A gold value does not change the rewards that it is given, neither the proxy's nor the gold ones."""
    yield leaves_alone(gold_value, *map(list, zip(*pairs, strict=True)), 1)


@must(seam="expected_gold", laws="BN-ESTTRUE", floor=5, given={"m": st.integers(1, 5)}, examples=[{"m": 3}])
def a_gold_value_without_enough_samples_is_refused(gold_value, m):
    """Fewer than n samples, n = 0, or a sample that lacks one of its two rewards hold no estimate: an error or NaN."""
    row, broken = [float(i) for i in range(m)], [NAN, *range(1, m)]
    counts = [(row, row, m + 1), (row, row, 0)]
    for proxy, gold, n in [*counts, (broken, row, 1), (row, broken, 1), (row, [*row, 9.0], 1), ([*row, 9.0], row, 1)]:
        value = number_or_nan(gold_value, proxy, gold, n)
        yield (proxy, gold, n), math.isnan(value), f"best of {n} from {counted(m, 'sample')}: {value}"
