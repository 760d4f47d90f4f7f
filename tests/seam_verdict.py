"""Run one property on one function, as the judge does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sftspec import properties
from sftspec.conformance.trial.functions import draw, part_of
from sftspec.properties import Property
from sftspec.trainer import Pipeline


class DoesNotHold(AssertionError):
    """A piece of evidence that does not hold."""


def properties_of(area: str, *seams: str) -> list[Property]:
    """The properties of an area that read these functions (without a name: that draw arguments)."""
    return [item for item in properties.load(area) if (item.seam in seams if seams else item.given)]


def reference(item: Property) -> Callable[..., Any]:
    """Our own function for the seam of a property."""
    return part_of(Pipeline(), item)


def evidence(item: Property, function: Callable[..., Any], max_examples: int = 40) -> int:
    """Number of pieces of evidence that hold; raises DoesNotHold with the smallest one that does not."""
    found = draw(item, function, max_examples)
    if found.counterexample is not None:
        raise DoesNotHold(f"{item.id}: {found.counterexample['subject']!r} {found.counterexample['note']}")
    return found.held
