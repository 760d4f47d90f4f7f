"""Run one property on one function, the way the judge does: explicit examples first, then drawn arguments."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from hypothesis import example, given, settings

from sftspec.properties import REGISTRY, Property


class DoesNotHold(AssertionError):
    """A piece of evidence that does not hold."""


def properties_in(*modules: ModuleType) -> list[Property]:
    names = {module.__name__ for module in modules}
    return [item for item in REGISTRY.values() if item.check.__module__ in names]


def reference(item: Property) -> Callable[..., Any]:
    """Our own function for the seam of a property."""
    return getattr(importlib.import_module(item.check.__module__), item.seam)


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
