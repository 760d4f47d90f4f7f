"""The table of which scenarios show a property is that of the reference, and names what there is."""

from __future__ import annotations

from sftspec import properties
from sftspec.conformance.trial.evidence import QUICK, evidence, listed, scenarios_of
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.trainer import Pipeline

LOOKED_AT = ("two epochs", "truncation", "rate zero", "clipping out of reach", "packed, last turn only")


def test_the_table_is_what_the_reference_shows():
    chosen = [item for item in properties.load() if item.seam == "run"]
    trial = put_on_trial(Pipeline(), chosen, scenarios=[item for item in SCENARIOS if item.name in LOOKED_AT])
    for verdict in trial.verdicts:
        if verdict.property.id not in evidence():  # read off every scenario
            continue
        expected = set(evidence()[verdict.property.id]) & set(LOOKED_AT)
        assert set(verdict.evidence) == expected, (
            f"{verdict.property.id}: write the table anew with python -m sftspec.conformance.trial.evidence"
        )


def test_it_names_what_there_is():
    names = {item.name for item in SCENARIOS}
    assert evidence().keys() <= {item.id for item in properties.load() if item.seam == "run"}
    assert set().union(*evidence().values()) | QUICK <= names


def test_a_property_without_an_entry_is_read_off_every_scenario():
    assert scenarios_of(["step/what-nobody-has-seen"], SCENARIOS) == list(SCENARIOS)
    new = [item.name for item in SCENARIOS if item.name not in listed()]
    found = [item.name for item in scenarios_of(["step/rate-zero-changes-nothing"], SCENARIOS) if item.name not in new]
    assert found == ["rate zero"]
    assert len(scenarios_of(["step"], SCENARIOS)) < len(SCENARIOS) == len(scenarios_of([], SCENARIOS))
