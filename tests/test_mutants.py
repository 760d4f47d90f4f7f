"""Every planted bug is killed by the properties that it names, every property kills one, no known bug is forgotten."""

from __future__ import annotations

import re

import pytest

from sftspec import properties
from sftspec.conformance.sensitivity import matrix, signatures
from sftspec.conformance.sensitivity.kill_checks import kills
from sftspec.conformance.sensitivity.mutants import AREAS, load_mutants
from sftspec.conformance.sensitivity.mutants.bug_catalogue import NOT_PLANTED, PLANTED, ROWS
from sftspec.conformance.sensitivity.mutants.distilling import Distiller
from sftspec.conformance.sensitivity.mutants.parts import REFERENCE, broken
from sftspec.conformance.trial.judge import judge

MUTANTS = load_mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mutant_is_killed_by_the_properties_it_names(mutant):
    survived = [identifier for identifier, scenario in kills(mutant).items() if not scenario]
    assert not survived


def test_the_committed_matrix_has_a_row_for_each_mutant_and_a_mutant_for_each_property():
    rows = signatures.load()
    assert rows.keys() == {mutant.name for mutant in MUTANTS}, (
        "sftspec mutants --json conformance/sensitivity/mutants/matrix.json"
    )
    assert matrix.survivors(rows) == {}
    assert matrix.idle(rows) == []


def test_a_mutant_says_what_it_breaks_and_how_to_mend_it():
    for mutant in MUTANTS:
        assert mutant.breaks.endswith(".") and mutant.seen_in and mutant.effect and mutant.fix


def test_the_trainer_that_distils_is_right_where_nothing_is_broken():
    distiller = Distiller()
    statuses = {item.id: judge(item, distiller, []).status for item in properties.load() if item.seam == "distil"}
    assert len(statuses) == 12 and set(statuses.values()) == {"pass"}


def test_every_bug_of_the_catalogue_is_planted_or_has_a_reason():
    rows = {f"{letter}-{number}" for letter, numbers in ROWS.items() for number in numbers.split()}
    planted = {row for mutant in MUTANTS for row in re.findall(r"^[A-Z]-\d\d(?=: )", mutant.seen_in)} | PLANTED.keys()
    named = {name for names in PLANTED.values() for name in names.split()}
    assert named <= {mutant.name for mutant in MUTANTS}
    assert planted | NOT_PLANTED.keys() == rows and not planted & NOT_PLANTED.keys()


def test_a_part_that_an_area_does_not_have_is_refused():
    assert broken("template").parts == REFERENCE["template"]
    with pytest.raises(ValueError, match=r"template has no function loss; known: render, encode"):
        broken("template", loss=print)


def test_the_areas_are_those_of_the_properties():
    assert set(AREAS) == {item.area for item in properties.load()}
