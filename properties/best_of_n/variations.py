"""Best-of-N: in how many ways the same rewards may be given, none of which may matter.

Rewards go into a type only where it holds all of them exactly. A form or a type may be refused, an answer may not
change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from sftspec.properties.variations import NotAsked, Variation, both, form, tensor, vary

ARRAYS = ("float64", "float32", "float16", "int64", "int8", "uint8", "bool")
TENSORS = ("float64", "float32", "float16", "bfloat16", "int64", "uint8", "bool")
MANY = 40  # prompts: more than a block or a batch holds


def of_objects(rows: list) -> np.ndarray:
    table = np.array(rows, dtype=object)
    if table.ndim != 1 + isinstance(rows[0], list):
        raise ValueError("an array has rows of one length")
    return table


def array(rows: Any, dtype: str) -> np.ndarray:
    """An array of its own, of this type."""
    return tensor(rows, dtype).numpy().copy()


def in_forms(
    arrays: tuple[str, ...] = ARRAYS,
    tensors: tuple[str, ...] = TENSORS,
    count: int = 1,
    read: Callable[[Any], Any] = lambda answer: answer,
    scalars: str | None = None,
) -> list[Variation]:
    """The first `count` arguments as arrays, tensors (and scalar tensors) of these types, and in other nested forms."""

    def of_each(name: str, convert: Callable[[Any], Any]) -> Variation:
        return form(name, lambda *given: [*map(convert, given[:count]), *given[count:]], read)

    return [
        *(of_each(f"as an array of {name}", partial(array, dtype=name)) for name in arrays),
        *(of_each(f"as a tensor of {name}", partial(tensor, dtype=name)) for name in tensors),
        of_each("as an array of objects", of_objects),
        of_each("as an array in the order of columns", lambda rows: np.asfortranarray(tensor(rows, "float64").numpy())),
        of_each("as lists of scalars of NumPy", lambda rows: nested(rows, list, lambda reward: np.array(reward)[()])),
        of_each("as lists of scalar tensors", lambda rows: nested(rows, list, lambda reward: tensor(reward, scalars))),
        of_each("as tuples", lambda rows: nested(rows, tuple)),
    ]


def nested(rows: list, kind: type, scalar: Callable[[Any], Any] = lambda reward: reward) -> Any:
    """Rows of scalars, or one row, as lists or tuples; a None stays one."""
    return kind(
        nested(row, kind, scalar) if isinstance(row, list) else None if row is None else scalar(row) for row in rows
    )


def each_alone(read: Callable[[Any], Any]) -> Variation:
    """Each prompt as its row (N,), which may be refused, and nothing beside it."""

    def ask(select, rows, *rest, **options):
        try:
            return [read(select(row, *rest, **options)) for row in rows]
        except Exception as error:
            raise NotAsked(f"a row alone refused: {error}") from error

    return Variation("each row alone", ask)


def many_prompts(select, rows, *rest, **options):
    """The prompts again and again; of the answers those to the last of them."""
    times = 1 + MANY // len(rows)
    answers = list(select(rows * times, *rest, **options))
    return answers[-len(rows) :] if len(answers) == times * len(rows) else answers


def beside_a_short_one(select, rows, *rest, **options):
    """After the prompts comes one with a single candidate; of the answers those to the prompts."""
    try:
        answers = list(select([*rows, rows[0][:1]], *rest, **options))
    except Exception as error:
        raise NotAsked(f"rows of unequal length refused: {error}") from error
    return answers[:-1] if len(answers) == len(rows) + 1 else answers


def after_another(select, rows, *rest, **options):
    """The second call: the first was about other rewards of the same shape."""
    with suppress(Exception):
        select([row[::-1] for row in rows], *rest, **options)
    return select(rows, *rest, **options)


def of_selection(read: Callable[[Any], Any]) -> list[Variation]:
    forms = in_forms()
    alone, many = each_alone(read), Variation(f"among {MANY} prompts", many_prompts)
    in_two = [item for item in forms if item.name in ("as an array of float64", "as a tensor of float32")]
    return [
        *forms,
        *(alone, many, *(both(outer, inner) for outer in (alone, many) for inner in in_two)),
        Variation("beside a prompt of one candidate", beside_a_short_one),
        Variation("after another call", after_another),
    ]


vary("best_of_n", *of_selection(int))
vary("top_k", *of_selection(list))

# Of samples the type is float64: of a tensor of integers a number made with float32 is no mistake.
FLOAT64 = ("float64",)


def of_two_prompts(which: str, place: int) -> Variation:
    """Every row beside its own reverse, as the rewards of two prompts."""

    def convert(*given: Any) -> list[Any]:
        return [[row, row[::-1]][:: 1 - 2 * place] if isinstance(row, list) else row for row in given]

    return form(f"as the {which} of two prompts", convert, lambda values: float(values[place]))


def after_the_reverse(function, *given, **options):
    """The second call: the first was about the same numbers in another order."""
    with suppress(Exception):
        function(*(row[::-1] if isinstance(row, list) else row for row in given), **options)
    return function(*given, **options)


def of_samples(count: int) -> list[Variation]:
    return [
        *in_forms(FLOAT64, FLOAT64, count, float, "float64"),
        of_two_prompts("first", 0),
        of_two_prompts("second", 1),
        Variation("after another call", after_the_reverse),
    ]


vary("expected_best_of_n", *of_samples(1))
vary("expected_gold", *of_samples(2))
vary(
    "best_of_n_law", *in_forms(FLOAT64, FLOAT64, 2, list, "float64"), Variation("after another call", after_the_reverse)
)

numbers_of_numpy = form("as integers of NumPy", lambda *counts: [*tensor(counts, "int64").numpy()], float)
for seam in ("pass_at_n", "best_of_n_kl_bound", "win_rate"):
    vary(seam, numbers_of_numpy)


def one_of(values: Any, *place: int) -> float:
    """The value at this place of an array, which has a place for each count."""
    values = np.asarray(values, dtype=np.float64)
    return float(values[place]) if values.ndim == len(place) else math.nan


vary(
    "expected_max_normal",
    numbers_of_numpy,
    form("in an array of counts", lambda n: [np.array([2, n, 4])], lambda values: one_of(values, 1)),
    form("in a table of counts", lambda n: [np.array([[2, 3], [n, 4], [n, 5]])], lambda values: one_of(values, 2, 0)),
)


def after_another_round(run_round, prompts, sample, reward, n, *rest, **options):
    """The second round of a process: the first was about the same prompts, with other completions and rewards."""
    with suppress(Exception):
        list(run_round(prompts, lambda prompt, number, seed: ["x"] * number, lambda conversation: 0.0, n))
    return run_round(prompts, sample, reward, n, *rest, **options)


vary("rejection_sample", Variation("after another round", after_another_round))
