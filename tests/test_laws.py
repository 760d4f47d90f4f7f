"""Every law is a property or has a reason why it is none."""

from __future__ import annotations

from sftspec import properties
from sftspec.properties.laws import coverage


def test_every_law_is_enforced_or_excused():
    assert [law for law, found in coverage().items() if not found] == []


def test_no_property_cites_a_law_that_does_not_exist():
    laws = set(coverage())
    assert {law for item in properties.load() for law in item.laws} <= laws


def test_every_property_opens_with_a_sentence():
    for item in properties.load():
        assert item.sentence.endswith((".", ":")) or item.sentence[-1] in ".)…", item.id
        assert item.check.__doc__, item.id
