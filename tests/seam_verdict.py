"""Run one property on one function, the way the judge does: explicit examples first, then drawn arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import example, given, settings
from sftspec.properties import Property


class DoesNotHold(AssertionError):
    """A piece of evidence that does not hold."""


def evidence(item: Property, function: Callable[..., Any], max_examples: int = 40) -> int:
    """Number of pieces of evidence that hold; raises DoesNotHold with the smallest one that does not."""
    held = 0

    def drawn(**arguments: Any) -> None:
        nonlocal held
        for subject, holds, *note in item.check(function, **arguments):
            if not holds:
                raise DoesNotHold(f"{item.id}: {subject!r} {note}")
            held += 1

    assert item.given, f"{item.id} draws no argument"
    test = given(**item.given)(drawn)
    for arguments in item.examples:
        test = example(**arguments)(test)
    settings(max_examples=max_examples, derandomize=True, deadline=None, database=None)(test)()
    return held
