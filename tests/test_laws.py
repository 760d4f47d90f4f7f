"""Every law is a property or has a reason why it is none."""

from __future__ import annotations

from sftspec import properties
from sftspec.properties.catalogue import catalogue
from sftspec.properties.laws import coverage


def test_every_law_is_enforced_or_excused():
    assert [law for law, found in coverage().items() if not found] == []


def test_no_property_cites_a_law_that_does_not_exist():
    laws = set(coverage())
    assert {law for item in properties.load() for law in item.laws} <= laws


def test_every_property_opens_with_a_sentence():
    for item in properties.load():
        assert item.sentence.endswith((".", ")")), item.id


def test_the_catalogue_states_what_the_registry_holds():
    registered = {item.id: item for item in properties.load()}
    entries = {entry.id: entry for entry in catalogue()}
    assert entries.keys() == registered.keys()
    for identifier, entry in entries.items():
        item = registered[identifier]
        for name in ("area", "level", "seam", "floor", "claim", "laws", "needs", "sentence", "why"):
            assert getattr(entry, name) == getattr(item, name), (identifier, name)
