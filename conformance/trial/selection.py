"""Which properties are judged: areas and ids, and everything that these need to be read.

A property whose prerequisite was not looked at would fail where it ought to say `blocked`, so prerequisites come along.
An id that does not exist is refused: a typo never checks less than was asked.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from sftspec import properties
from sftspec.properties import AREAS, REGISTRY, Property


class SelectionError(ValueError):
    """An area or a property that does not exist; says what does."""


def named(name: str) -> list[Property]:
    """The properties of an area, or the one with this id. Raises SelectionError."""
    area = name.partition("/")[0]
    if area not in AREAS:
        raise SelectionError(f"unknown area {area!r}; known: {', '.join(AREAS)}")
    found = properties.load(area)
    if name == area:
        return found
    ids = [item.id for item in found]
    if name not in ids:
        close = difflib.get_close_matches(name, ids, 1, 0.5)
        meant = f"; did you mean {close[0]}?" if close else f"; `sftspec list {area}` shows what there is"
        raise SelectionError(f"unknown property {name!r}{meant}")
    return [found[ids.index(name)]]


def select(names: Sequence[str]) -> list[Property]:
    """The properties of these areas and ids (all without a name) and those that they need, area by area."""
    wanted = [item for name in names or AREAS for item in named(name)]
    chosen: dict[str, Property] = {}
    while wanted:
        item = wanted.pop()
        if item.id not in chosen:
            chosen[item.id] = item
            wanted += [needed for name in item.needs for needed in named(name)]
    order = {name: place for place, name in enumerate(REGISTRY)}
    return sorted(chosen.values(), key=lambda item: (AREAS.index(item.area), order[item.id]))
