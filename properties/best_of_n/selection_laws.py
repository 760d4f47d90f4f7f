"""Best-of-N: what leaves the choice as it is, what it is worth, and which candidates are the k best.

Expected values come from sorting and from enumeration, never from the function that is judged.
"""

from __future__ import annotations

import itertools
import math
import random

from hypothesis import strategies as st

from sftspec.order_statistics import expected_max_normal
from sftspec.properties import must, should
from sftspec.properties.cases.selection import (
    INF,
    NAN,
    each_alone,
    in_each_form,
    left_as_given,
    rewards_row,
    ways_to_ask,
)


@must(
    seam="best_of_n",
    laws="BN-MONO",
    floor=60,
    given={"row": st.lists(st.integers(-64, 64).map(lambda k: k / 8), min_size=1, max_size=7)},
    examples=[{"row": [0.125, 0.25, 0.0]}, {"row": [5.0, 7.0, 6.0]}],
)
def only_the_order_of_rewards_matters(select, row):
    """A strictly increasing function of the rewards leaves the winner where it was, also if each prompt has its own.

    All functions here are exact in float32. Whitening over prompts, a global top-k, softmax sampling and rounding
    before ranking fail (ms-swift#6683, LMFlow#293).
    """
    order = sorted(set(row))
    changed = [[2 * r for r in row], [r + 2.0**17 for r in row], [float(order.index(r)) for r in row]]
    expected = int(select([row])[0])
    for new, winner in zip(changed, select(changed), strict=True):
        yield (row, new), int(winner) == expected, f"expected {expected}, selected {int(winner)}"


@must(
    seam="best_of_n",
    laws="BN-SUB",
    floor=40,
    given={"row": rewards_row},
    examples=[{"row": [3.0]}, {"row": [2.0, 1.0, 4.0, 3.0]}],
)
def more_candidates_never_make_the_winner_worse(select, row):
    """Best of one is that one, and the best of N + M is at least the best of N."""
    best = [row[int(select([row[:n]])[0])] for n in range(1, len(row) + 1)]
    yield row, best[0] == row[0]
    for fewer, more in itertools.pairwise(best):
        yield row, more >= fewer, f"winners' rewards with growing N: {best}"


@must(
    seam="best_of_n",
    laws="BN-ARGMAX",
    floor=20,
    given={"row": rewards_row, "cut": st.integers(1, 6)},
    examples=[{"row": [1.0, 9.0, 2.0, 8.0], "cut": 2}],
)
def selection_does_not_depend_on_sharding(select, row, cut):
    """The winner among the winners of shards is the winner of all (ms-swift#10205: statistics per worker)."""
    shards = [shard for shard in (row[:cut], row[cut:]) if shard]
    best = [shard[int(select([shard])[0])] for shard in shards]
    yield row, best[int(select([best])[0])] == row[int(select([row])[0])]


@must(
    seam="best_of_n",
    laws="BN-EMAX",
    floor=5,
    given={"n": st.sampled_from([2, 4, 16]), "seed": st.integers(0, 9)},
    examples=[{"n": 4, "seed": 0}],
)
def the_best_of_normal_rewards_is_their_expected_maximum(select, n, seed):
    """Over 2,000 prompts with independent N(0, 1) rewards, the winners' mean is E[max of n] within five errors.

    The maximum is a 1-Lipschitz function of n normals, so its variance is at most 1 (Poincaré): five standard errors
    are 5 / sqrt(2000).
    """
    draw = random.Random(seed)
    rewards = [[draw.gauss(0, 1) for _ in range(n)] for _ in range(2000)]
    mean = math.fsum(row[int(winner)] for row, winner in zip(rewards, select(rewards), strict=True)) / 2000
    expected = float(expected_max_normal(n))
    yield n, abs(mean - expected) <= 5 / math.sqrt(2000), f"expected {expected:.4f}, mean {mean:.4f}"


@must(
    seam="top_k",
    laws="BN-TOPK",
    floor=60,
    given={"row": rewards_row, "broken": st.integers(0, 7), "times": st.just(1)},
    examples=[
        {"row": [2.0, 5.0, 1.0, 5.0], "broken": 0, "times": 1},
        {"row": [-INF, 1.0], "broken": 1, "times": 1},
        {"row": [1.0, 3.0, 2.0], "broken": 3, "times": 13},
        {"row": [float(17 * place % 41) for place in range(40)], "broken": 9, "times": 1},
    ],
)
def the_k_best_are_the_k_largest(select_top, row, broken, times):
    """The k selected are the k largest rewards of their prompt, best first and each once, and no NaN is among them.

    Three prompts are asked together, in lists, an array and a tensor, and each alone, as a row: the k best of all, or
    of the first, are not the k best of each. Many candidates, or prompts (the three, many times), are no other case.
    """
    rows = [row, row[::-1], [-reward if math.isfinite(reward) else reward for reward in row]] * times
    table = [[*each[:broken], NAN, *each[broken:]] for each in rows]
    for k in range(1, len(row) + 1):
        for form, selected in (*in_each_form(select_top, table, k), *each_alone(select_top, table, k, read=list)):
            for rewards, chosen in zip(table, selected, strict=True):
                indices = [int(index) for index in chosen]
                found, ranked = [rewards[index] for index in indices], ranked_rewards(rewards)
                yield (form, rewards, k), found == ranked[:k] and len(set(indices)) == k, f"selected {found}"
    for form, kept in left_as_given(select_top, table, 1):
        yield (form, table), kept, "the rewards that were given are other ones after the call"


@should(
    seam="top_k",
    laws=("BN-TOPK", "BN-TIE"),
    floor=20,
    given={"row": st.lists(st.sampled_from([0.0, -0.0, 1.0, INF, -INF]), min_size=1, max_size=8)},
    examples=[{"row": [1.0, 1.0, 1.0]}, {"row": [0.0, INF, 1.0, INF]}, {"row": [1.0] * 40}],
)
def equal_rewards_rank_in_the_order_of_sampling(select_top, row):
    """Of equal rewards the one sampled first ranks first, so that the k best are the first k of the N best for every k;
    +inf is the largest.

    A partial sort (topk, argpartition) keeps any of the equals at the cut.
    """
    expected = sorted(range(len(row)), key=lambda index: -row[index])
    for k in range(1, len(row) + 1):
        chosen = [int(index) for index in select_top([row], k)[0]]
        yield (row, k), chosen == expected[:k], f"expected {expected[:k]}, selected {chosen}"


@must(
    seam="top_k",
    laws=("BN-TOPK", "BN-NAN"),
    floor=20,
    given={"row": rewards_row, "missing": st.integers(1, 4)},
    examples=[{"row": [1.0], "missing": 1}, {"row": [2.0, -INF, 3.0], "missing": 2}],
)
def fewer_rewards_than_k_are_refused_or_marked(select_top, row, missing):
    """Where fewer than k candidates of a prompt have a reward (NaN, None or a shorter row), selection raises, or those
    that have one take the first of its k places, best first, and a negative index or None stands in the others, which
    they do where such prompts are to be skipped; beside it, other prompts keep their k best."""
    broken, unscored = [NAN] * missing + row, [None] * missing + row
    beyond = [([broken], len(broken) + 1), ([row], len(row) + 1), ([row, [*row, *row]], len(row) + 1)]
    tables = [([broken], len(broken)), ([unscored], len(broken)), ([row, broken], len(row)), *beyond]
    for (table, k), options in itertools.product(tables, ways_to_ask(select_top)):
        try:
            selected = [list(chosen) for chosen in select_top(table, k, **options)]
        except Exception as error:
            # A None, or rows that differ in length, may be refused all the same.
            plain = table == [broken] and k == len(broken)
            yield (table, k), not (options and plain), f"{options} refused: {error}"
            continue
        for rewards, chosen in zip(table, selected, strict=True):
            ranked = ranked_rewards(rewards)[:k]
            kept = [int(index) for index in chosen[: len(ranked)] if index is not None]
            marks = [index is None or int(index) < 0 for index in chosen]
            first = marks == [False] * len(ranked) + [True] * (k - len(ranked)) and max(kept) < len(rewards)
            right = first and len({*kept}) == len(kept) and [rewards[index] for index in kept] == ranked
            yield (rewards, k), right, f"{options}: expected {ranked}, selected {chosen}"


def ranked_rewards(rewards: list[float | None]) -> list[float]:
    """The rewards that there are, the largest first."""
    return sorted((reward for reward in rewards if reward is not None and reward == reward), reverse=True)
