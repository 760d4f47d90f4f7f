"""Templates, best-of-N, distillation: each planted bug is killed by what it names, and each property kills one.

And no bug of the catalogue is forgotten: it is planted, or there is a reason why it is not.
"""

from __future__ import annotations

import importlib
import re

import pytest

from sftspec import properties
from sftspec.conformance import mutants
from sftspec.conformance.judge import judge
from sftspec.conformance.kills import kills
from sftspec.conformance.mutants.distilling import Distiller
from sftspec.conformance.mutants.not_planted import NOT_PLANTED, ROWS
from sftspec.conformance.mutants.parts import REFERENCE, broken

AREAS = ("template", "best_of_n", "distillation")
MODULES = (
    "template", "template_tokens", "best_of_n", "best_of_n_samples", "best_of_n_values", "distillation",
    "distillation_positions", "distillation_teachers",
)  # fmt: skip
mutants.AREAS = tuple(dict.fromkeys((*mutants.AREAS, *AREAS)))
for module in MODULES:
    importlib.import_module(f"sftspec.conformance.mutants.{module}")
MUTANTS = [mutant for name, mutant in mutants.MUTANTS.items() if name.startswith(AREAS)]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mutant_is_killed_by_the_properties_it_names(mutant):
    assert [identifier for identifier, found in kills(mutant).items() if not found] == []


def test_every_property_of_these_areas_that_reads_a_function_kills_one():
    named = {identifier for mutant in MUTANTS for identifier in mutant.killed_by}
    assert {item.id for item in properties.load(*AREAS) if item.seam != "run"} == named


def test_the_trainer_that_distils_is_right_where_nothing_is_broken():
    distiller = Distiller()
    statuses = {item.id: judge(item, distiller, []).status for item in properties.load() if item.seam == "distil"}
    assert len(statuses) == 4 and set(statuses.values()) == {"pass"}


def test_every_bug_of_the_catalogue_is_planted_or_has_a_reason():
    rows = {f"{letter}-{number}" for letter, numbers in ROWS.items() for number in numbers.split()}
    planted = {row for mutant in MUTANTS for row in re.findall(r"^[A-Z]-\d\d(?=: )", mutant.seen_in)}
    assert planted | NOT_PLANTED.keys() <= rows and not planted & NOT_PLANTED.keys()
    assert {row for row in rows if row[0] in "TBD"} <= planted | NOT_PLANTED.keys()


def test_a_mutant_says_what_it_breaks_and_how_to_mend_it():
    for mutant in MUTANTS:
        assert mutant.breaks.endswith(".") and mutant.seen_in and mutant.effect and mutant.fix


def test_a_part_that_an_area_does_not_have_is_refused():
    assert broken("template").parts == REFERENCE["template"]
    with pytest.raises(ValueError, match=r"template has no function loss; known: render, encode"):
        broken("template", loss=print)
