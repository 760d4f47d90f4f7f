"""Every planted bug is killed by the properties that it names, and every property kills one."""

from __future__ import annotations

import pytest

from sftspec import properties
from sftspec.conformance.kills import kills
from sftspec.conformance.mutants import AREAS, load_mutants

MUTANTS = load_mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mutant_is_killed_by_the_properties_it_names(mutant):
    survived = [identifier for identifier, scenario in kills(mutant).items() if not scenario]
    assert not survived


def test_every_property_that_the_mutants_concern_kills_one():
    named = {identifier for mutant in MUTANTS for identifier in mutant.killed_by}
    # The packer and the collator as functions are held against broken ones in test_packing and test_collation.
    own = {item.id for item in properties.load("packing") if item.seam in ("pack", "collate")}
    assert {item.id for item in properties.load(*AREAS)} - own == named


def test_a_mutant_says_what_it_breaks_and_how_to_mend_it():
    for mutant in MUTANTS:
        assert mutant.breaks.endswith(".") and mutant.seen_in and mutant.effect and mutant.fix
