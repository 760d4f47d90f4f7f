"""A bug that shipped: the release that has it, the release that fixed it, and the property that tells them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

Pins = tuple[str, ...]


@dataclass(frozen=True)
class Release:
    """What is installed, and how it is set.

    pins      packages in exact versions; the first one is the release on trial
    settings  of the adapter, for this release alone
    """

    pins: Pins
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Such as "trl 0.15.2"."""
        return self.pins[0].replace("==", " ")


@dataclass(frozen=True)
class Case:
    """One bug.

    name       of the case: the package, and what went wrong
    bug        in a sentence, as the release's source has it
    issue      where it was reported or repaired
    property   that has to fail on the broken release, and to pass on the fixed one
    adapter    a file in `adapters`, and the class in it
    broken     the last release that has the bug, or the one that was looked at
    fixed      the first release without it, or the one that was looked at
    shared     layers of pins that both releases stand on
    scenarios  that are run; a property of a function needs none
    settings   of the adapter, for both
    real       which part of the release is run: the whole trainer, or what is put into a plain loop
    inside     it is a function that is judged, in the release's own interpreter, with the suite beside it
    """

    name: str
    bug: str
    issue: str
    property: str
    adapter: str
    broken: Release
    fixed: Release
    shared: tuple[Pins, ...] = ()
    scenarios: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    real: str = "the whole trainer"
    inside: bool = False

    @cached_property
    def releases(self) -> tuple[tuple[Release, str], ...]:
        """Both, each with the status that is expected of the property."""
        return (self.broken, "fail"), (self.fixed, "pass")
