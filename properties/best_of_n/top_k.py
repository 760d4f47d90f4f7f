"""Best-of-N: the k best candidates of a prompt, best first.

Expected values come from sorting, never from the function that is judged.
"""

from __future__ import annotations

import math

from hypothesis import strategies as st

from sftspec.properties import must, should
from sftspec.properties.cases.selection import INF, NAN, finite, ranked_rewards, reward_at, rewards_row, ways_to_ask
from sftspec.properties.variations import leaves_alone


def counts(most: int) -> list[int]:
    """Some k from 1 to the most: the ends, their neighbours and the middle."""
    return sorted({1, min(2, most), (most + 1) // 2, max(1, most - 1), most})


@must(
    seam="top_k",
    laws="BN-TOPK",
    floor=60,
    given={"row": rewards_row, "broken": st.integers(0, 7)},
    examples=[
        {"row": [2.0, 5.0, 1.0, 5.0], "broken": 0},
        {"row": [-INF, 1.0], "broken": 1},
        {"row": [1.0, 3.0, 2.0], "broken": 3},
        {"row": [float(17 * place % 41) for place in range(40)], "broken": 9},
    ],
)
def the_k_best_are_the_k_largest(select_top, row, broken):
    """The k selected are the k largest rewards of their prompt, best first and each once, and no NaN is among them.

    Three prompts are asked together: the k best of all, or of the first, are not the k best of each.
    """
    rows = [row, row[::-1], [-reward if math.isfinite(reward) else reward for reward in row]]
    table = [[*each[:broken], NAN, *each[broken:]] for each in rows]
    for k in counts(len(row)):
        for rewards, chosen in zip(table, select_top(table, k), strict=True):
            found = [reward_at(rewards, index) for index in chosen]
            right = found == ranked_rewards(rewards)[:k] and len({*map(int, chosen)}) == k
            yield (rewards, k), right, f"k = {k}: selected {found}"


@should(
    seam="top_k",
    laws=("BN-TOPK", "BN-TIE"),
    floor=20,
    given={"row": st.lists(st.sampled_from([0.0, -0.0, 1.0, INF, -INF]), min_size=1, max_size=8)},
    examples=[{"row": [1.0, 1.0, 1.0]}, {"row": [0.0, INF, 1.0, INF]}, {"row": [1.0] * 40}],
)
def equal_rewards_rank_in_the_order_of_sampling(select_top, row):
    """For every k the larger reward ranks first, +inf the largest, and of equal rewards the one that was sampled first.

    A partial sort (topk, argpartition) keeps any of the equals at the cut: the best of the k best is then not the best
    of N.
    """
    expected = sorted(range(len(row)), key=lambda index: -row[index])
    for k in counts(len(row)):
        chosen = [int(index) for index in select_top([row], k)[0]]
        yield (row, k), chosen == expected[:k], f"expected {expected[:k]}, selected {chosen}"


SHORT = {
    "NaN": lambda row, missing: ([[NAN] * missing + row], missing + len(row)),
    "None": lambda row, missing: ([[None] * missing + row], missing + len(row)),
    "NaN beside": lambda row, missing: ([row, [NAN] * len(row)], len(row)),
    "k beyond": lambda row, missing: ([row], len(row) + missing),
    "k beyond a row": lambda row, missing: ([row, [*row, *[1.0] * missing]], len(row) + missing),
}


@must(
    seam="top_k",
    laws=("BN-TOPK", "BN-NAN"),
    floor=20,
    given={
        "row": st.lists(finite, min_size=1, max_size=7),
        "missing": st.integers(1, 4),
        "short": st.sampled_from(sorted(SHORT)),
    },
    examples=[
        {"row": row, "missing": missing, "short": short}
        for short in SHORT
        for row, missing in (([1.0], 1), ([2.0, -INF, 3.0], 2))
    ],
)
def fewer_rewards_than_k_are_refused_or_marked(select_top, row, missing, short):
    """Of fewer than k rewards all come first, then a negative index or None in each place left, or the table is
    refused."""
    table, k = SHORT[short](row, missing)
    for options in ways_to_ask(select_top):
        try:
            selected = [list(chosen) for chosen in select_top(table, k, **options)]
        except Exception as error:
            yield (table, k), not options or short != "NaN", f"{options} refused: {error}"
            continue
        for rewards, chosen in zip(table, selected, strict=True):
            expected = ranked_rewards(rewards)[:k]
            found = [reward_at(rewards, index) for index in chosen]
            once = len({*chosen[: len(expected)]}) == len(expected)
            right = found == [*expected, *[None] * (k - len(expected))] and once
            yield (rewards, k), right, f"{options}: expected {expected}, selected {chosen}"


@must(seam="top_k", laws="BN-TOPK", floor=20, given={"row": rewards_row}, examples=[{"row": [2.0, NAN, 3.0]}])
def ranking_leaves_the_rewards_as_they_are(select_top, row):
    """Ranking does not change the rewards that it is given."""
    yield leaves_alone(select_top, [row, row[::-1]], 1)
