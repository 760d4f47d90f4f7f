"""Best-of-N cases: rewards of every size and kind, and the forms in which they may be given."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import strategies as st

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
# Distinct rewards that a sigmoid in float32 (first) or bfloat16 (second) turns into ties.
SATURATED = [[18.0, 20.0, 25.0], [6.5, 7.0, 8.0]]


def types_that_hold(rewards) -> list[str]:
    """float64, unless integers were given, and the types of whole numbers that hold all of them."""
    table = np.array(rewards)
    given_whole = table.dtype.kind in "biu"
    if not given_whole and not (np.isfinite(table).all() and (table == np.trunc(table)).all()):
        return ["float64"]
    low, high = int(table.min()), int(table.max())
    whole = [name for name, (least, most) in WHOLE.items() if least <= low and high <= most]
    return whole if given_whole else ["float64", *whole]


def in_each_form(function, rewards, *rest, types=None, read=list):
    """(form, answer) for rewards as lists, and as arrays and tensors of these types, where those are not refused.

    types: None are all that hold them.
    """
    yield "lists", read(function(rewards, *rest))
    for name in types or types_that_hold(rewards):
        table = np.array(rewards, dtype=name)
        for form in (table, torch.from_numpy(table.copy())):
            try:
                answer = read(function(form, *rest))
            except Exception:
                continue
            yield f"{type(form).__name__} of {name}", answer
