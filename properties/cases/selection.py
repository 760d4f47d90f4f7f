"""Best-of-N cases: rewards of every size and kind, and the forms in which they may be given."""

from __future__ import annotations

import math

import numpy as np
import torch
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

FLOATS = ("float64", "float32", "float16", "bfloat16")
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
# Neighbours of float32, of float16 and of bfloat16: a type that is coarser takes them for equal.
NEIGHBOURS_OF_FLOATS = [[1.0, 1.0 + 2.0**-bits] for bits in (23, 10, 7)]
# More prompts than a block holds, with winners in turn at every place.
MANY_PROMPTS = [[float((place + prompt) % 5) for place in range(5)] for prompt in range(40)]
# Distinct rewards that a sigmoid in float32 (first) or bfloat16 (second) turns into ties.
SATURATED = [[18.0, 20.0, 25.0], [6.5, 7.0, 8.0]]


def types_that_hold(rewards) -> list[str]:
    """The types of whole numbers that hold all rewards and, unless integers were given, those of floats."""
    table = np.array(rewards)
    given_whole = table.dtype.kind in "biu"
    floats = [] if given_whole else [name for name in FLOATS if _holds(name, table)]
    if not given_whole and not (np.isfinite(table).all() and (table == np.trunc(table)).all()):
        return floats
    low, high = int(table.min()), int(table.max())
    return floats + [name for name, (least, most) in WHOLE.items() if least <= low and high <= most]


def _holds(name: str, table: np.ndarray) -> bool:
    return np.array_equal(torch.tensor(table).to(getattr(torch, name)).double().numpy(), table, equal_nan=True)


def in_each_form(function, rewards, *rest, types=None, read=list):
    """(form, answer) for rewards as lists, and in the other forms where those are not refused."""
    yield "lists", read(function(rewards, *rest))
    yield from where_not_refused(lambda form: read(function(form, *rest)), forms_of(rewards, types))


def each_alone(function, rewards, *rest, read=int):
    """(form, an answer for each prompt) where each is asked alone, as its row (N,), in every form not refused."""
    forms = {"lists": rewards, **forms_of(rewards)}
    yield from where_not_refused(lambda form: [read(function(row, *rest)) for row in form],
                                 {f"each of {name}": form for name, form in forms.items()})  # fmt: skip


def forms_of(rewards, types=None) -> dict:
    """Rewards as arrays, tensors and lists of tensors of these types; None are all that hold them."""
    forms = {}
    for name in types or types_that_hold(rewards):
        tensor = torch.tensor(rewards, dtype=getattr(torch, name))
        forms[f"a tensor of {name}"] = tensor
        if name != "bfloat16":
            forms[f"an array of {name}"] = tensor.numpy().copy()
        if tensor.ndim == 2:
            forms[f"lists of tensors of {name}"] = [[*row] for row in tensor]
    return forms


def left_as_given(function, rewards, *rest):
    """(form, whether the rewards are what they were) after a call, in each of the forms."""
    for name, form in {"lists": [[*row] for row in rewards], **forms_of(rewards)}.items():
        before = as_doubles(form).copy()
        if [*where_not_refused(lambda given: function(given, *rest), {name: form})]:
            yield name, np.array_equal(before, as_doubles(form), equal_nan=True)


def as_doubles(rewards) -> np.ndarray:
    return torch.as_tensor(rewards, dtype=torch.float64).numpy()


def ways_to_ask(function) -> list[dict]:
    """Without options, and to skip a prompt whose rewards are too few, where the function can be asked to."""
    return [{}, *[{"on_unranked": "skip"}] * takes(function, "on_unranked")]


def where_not_refused(ask, forms):
    """(form, answer) for each of the forms that is not refused."""
    for name, form in forms.items():
        try:
            answer = ask(form)
        except Exception:
            continue
        yield name, answer
