"""Best-of-N cases: rewards of every size and kind."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from sftspec.properties import takes

INF, NAN = math.inf, math.nan

few = st.integers(-4, 4).map(float)  # small integers, so that ties are common
finite = st.floats(allow_nan=False, allow_infinity=False) | few | st.sampled_from([0.0, -0.0, 5e-324, 1e308])
rewards_row = st.lists(finite | st.just(-INF), min_size=1, max_size=7)
distinct_row = st.lists(st.integers(-200, 200), min_size=2, max_size=7, unique=True).map(
    lambda eighths: [k / 8 for k in eighths]
)
tables = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(finite | st.just(-INF), min_size=n, max_size=n), min_size=1, max_size=4)
)

WHOLE = {"bool": (0, 1), "uint8": (0, 255), "int8": (-128, 127), "int64": (-(2**63), 2**63 - 1)}
# Neighbours that are one float64; and the ends of the types of integers.
whole_rows = st.one_of(
    st.lists(st.integers(-4, 4).map(lambda k: 2**53 + k), min_size=2, max_size=6),
    *(
        st.lists(st.sampled_from([low, low + 1, 0, 1, high - 1, high]), min_size=2, max_size=6)
        for low, high in WHOLE.values()
    ),
)

# Two prompts, one of them twice, and rewards that say which prompt and which candidate they belong to.
PAIRED = [[1.0, 2.0, 3.0], [30.0, 10.0, 20.0], [1.0, 2.0, 3.0]]
NEIGHBOURS = [[1.0, 1.0 + 2.0**-52], [-(2.0**-1074), 0.0], [-1.0, -1.0 + 2.0**-53]]  # no double lies between
# Neighbours of float32, of float16 and of bfloat16: a type that is coarser takes them for equal, and so does the type
# itself after a shift, such as by the mean of a row that holds a reward far below.
NEIGHBOURS_OF_FLOATS = [[*far, 1.0, 1.0 + 2.0**-bits] for bits in (23, 10, 7) for far in ([], [-1000.0])]
# More prompts than a block holds, with winners in turn at every place.
MANY_PROMPTS = [[float((place + prompt) % 5) for place in range(5)] for prompt in range(40)]
# Distinct rewards that a sigmoid in float32 (first) or bfloat16 (second) turns into ties.
SATURATED = [[18.0, 20.0, 25.0], [6.5, 7.0, 8.0]]


def ranked_rewards(rewards: list) -> list:
    """The rewards that there are, the largest first."""
    return sorted((reward for reward in rewards if reward is not None and reward == reward), reverse=True)


def reward_at(row: list, index) -> float | None:
    """The reward of a candidate; None for a mark (None, a negative index), or where no candidate stands."""
    return row[int(index)] if index is not None and 0 <= int(index) < len(row) else None


def ways_to_ask(function) -> list[dict]:
    """Without options, and to skip a prompt whose rewards are too few, where the function can be asked to."""
    return [{}, *[{"on_unranked": "skip"}] * takes(function, "on_unranked")]
