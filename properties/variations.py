"""Variations: the harmless changes under which every law of a function holds, listed once for each function.

A law asks a function in the plainest way: lists of Python's numbers, one call. A variation asks the same in another way
(as a tensor, in float16, each row alone, after another call) and gives the law the answer as if it had been asked
plainly. The judge asks each law plainly, then under each variation of its seam, and a failure says under which.

A fault of a form, a type or a second call thus needs no law of its own, and a new form is one line for all laws.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


class NotAsked(BaseException):
    """The arguments do not go into this form, or the form is refused. No law's `except Exception` takes it for a
    refusal of the arguments themselves."""


class Changed(NotAsked):
    """The function changed what it was given: the one law about that fails (`leaves_alone`), and no other."""


@dataclass(frozen=True)
class Variation:
    """One harmless change.

    name  says what is changed: "as a tensor of float16"
    ask   ask(function, *arguments, **options) -> the answer, as if the function had been asked plainly
    """

    name: str
    ask: Callable[..., Any]

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, asked in this way; it shows the same options."""
        return functools.wraps(function)(functools.partial(self.ask, function))


def both(outer: Variation, inner: Variation) -> Variation:
    """Asked in two ways at once: the outer one asks a function that is asked in the inner one."""
    return Variation(
        f"{outer.name}, {inner.name}", lambda f, *given, **options: outer.ask(inner.of(f), *given, **options)
    )


VARIATIONS: dict[str, tuple[Variation, ...]] = {}
"""The variations of each seam, in the order in which they are asked."""


def vary(seam: str, *variations: Variation) -> None:
    """Declare under which changes all laws of a seam hold."""
    VARIATIONS[seam] = variations


def form(name: str, convert: Callable[..., Sequence[Any]], read: Callable[[Any], Any] = lambda answer: answer):
    """The arguments in another form; a function may refuse the form, and may not change what it is given.

    convert  the plain arguments -> those of this form; raises an error where the form cannot hold them exactly
    read     the answer -> the plain one
    """

    def ask(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            given = convert(*arguments)
            before = [copied(value) for value in given]
            answer = read(function(*given, **options))
        except Exception as error:
            raise NotAsked(f"{name} refused: {error}") from error
        if not all(map(same, given, before)):
            raise Changed(f"given {name}: {before}, and {given} after the call")
        return answer

    return Variation(name, ask)


def leaves_alone(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, bool, str]:
    """Evidence: a call leaves its arguments as they were, be they plain or in a form."""
    before = deepcopy(arguments)
    try:
        function(*arguments, **options)
    except Changed as change:
        return arguments, False, str(change)
    alike = same(arguments, before)
    return before, alike, "" if alike else f"{before} became {arguments}"


def copied(value: Any) -> Any:
    """A copy of an array, a tensor, or lists of numbers."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return type(value)(map(copied, value)) if isinstance(value, list | tuple) else copy(value)


def same(one: Any, other: Any) -> bool:
    """Equal in type, shape and every value; NaN equals NaN."""
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and (bool(np.all(one == other)) or same(one.tolist(), other.tolist()))
    if isinstance(one, torch.Tensor):
        both_nan = (one != one) & (other != other)
        return one.dtype == other.dtype and one.shape == other.shape and bool(((one == other) | both_nan).all())
    return one == other or (one != one and other != other)


def tensor(values: Any, dtype: str | None) -> torch.Tensor:
    """A tensor of this type (None: the widest of its kind) that holds every value exactly; raises an error where there
    is none."""
    plain = torch.from_numpy(np.array(values))
    held = plain.to(getattr(torch, dtype)) if dtype else plain
    if held.tolist() != values and not same(held.tolist(), values):
        raise ValueError(f"{held.dtype} does not hold {values}")
    return held
