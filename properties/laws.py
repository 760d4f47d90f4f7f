"""Which law is enforced where: every law of LAWS.md is a property, or says there why it is none."""

from __future__ import annotations

from sftspec.properties.articles import Article, of_kind
from sftspec.properties.catalogue import catalogue

NO_PROPERTY = "no property"


def laws() -> dict[str, Article]:
    """All laws by id, in the order of LAWS.md."""
    return of_kind("law")


def coverage() -> dict[str, list[str] | str]:
    """For each law the ids of its properties, or the reason why it has none ("" where neither is given).

    >>> coverage()["ST-SHIFTINV"]
    ['step/a-constant-per-row-changes-nothing']
    """
    items = catalogue()
    return {
        name: [item.id for item in items if name in item.laws] or law.fields.get(NO_PROPERTY, "")
        for name, law in laws().items()
    }
