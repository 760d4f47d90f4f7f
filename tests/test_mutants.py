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
from sftspec.properties.articles import articles

MUTANTS = load_mutants()
SLIPS = re.compile(r"raised (Attribute|Name|Type|Runtime|UnboundLocal)Error")


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mutant_is_killed_by_the_properties_it_names(mutant):
    row = kills(mutant)
    assert set(mutant.killed_by) - row.keys() == set()
    assert [mark.note for mark in row.values() if SLIPS.search(mark.note)] == [], "the mutant itself is broken"


def test_the_committed_matrix_has_a_row_for_each_mutant_and_a_mutant_for_each_property():
    rows = signatures.load()
    assert rows.keys() == {mutant.name for mutant in MUTANTS}, (
        "sftspec mutants --whole --json conformance/sensitivity/mutants/matrix.json"
    )
    assert matrix.survivors(rows) == {}
    assert matrix.idle(rows) == []


def test_a_mutant_says_what_it_breaks_and_how_to_mend_it():
    for mutant in MUTANTS:
        assert mutant.breaks.endswith(".") and mutant.seen_in and mutant.effect and mutant.fix


ISSUE, PAPER, CODE = r"[\w.-]+#\d+", r"arXiv:\d|\b[12]\d{3}\b", r"\w/\w"
UNREPORTED = 273  # may fall, and not rise: a new mutant names an issue, or the bug of which it is a subtle form


def source_of(seen_in):
    """'report', 'unreported', the mutant or trap of which it is a subtle form, or '' where it says nothing."""
    if seen_in.startswith("no report known: "):
        return "unreported"
    kin = re.search(r"subtle form of (?:trap )?(\S+?)(?=[:,]|$)", seen_in)
    if kin and not re.search(ISSUE, seen_in):
        return kin[1]
    return "report" if re.search(f"{ISSUE}|{PAPER}|{CODE}", seen_in) else ""


def test_a_mutant_says_where_it_was_seen_or_of_which_bug_it_is_a_subtle_form():
    sources = {mutant.name: source_of(mutant.seen_in) for mutant in MUTANTS}
    names = {"report", "unreported", *sources, *articles()}
    assert {name: source for name, source in sources.items() if source not in names} == {}
    assert list(sources.values()).count("unreported") <= UNREPORTED, "say `subtle form of AREA/NAME: how`"


@pytest.mark.parametrize(
    ("seen_in", "source"),
    [
        ("M-01: huggingface/trl#976", "report"),
        ("subtle form of trl#976, in packed rows", "report"),
        ("subtle form of step/scaled-twice", "step/scaled-twice"),
        ("subtle form of trap H22: rewards in bfloat16", "H22"),
        ("a default of somebody's", ""),
    ],
)
def test_what_a_mutant_is_seen_in_is_read(seen_in, source):
    assert source_of(seen_in) == source


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
