"""The table of old releases, the results that are committed, and what the command does with a result that is wrong."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from sftspec.conformance.commands.cli import main
from sftspec.conformance.commands.timemachine import outcome
from sftspec.conformance.timemachine.cases import CASES
from sftspec.conformance.timemachine.environments import PinsError, environment, installed, linked
from sftspec.conformance.timemachine.replay import ADAPTERS, replay
from sftspec.conformance.timemachine.results import RESULTS, is_current, page, read
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.properties.catalogue import catalogue

KNOWN = {item.id: item for item in catalogue()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_whole(case):
    file, _, name = case.adapter.partition(":")
    assert f"\nclass {name}" in (text := (ADAPTERS / file).read_text(encoding="utf-8")) or f"\ndef {name}" in text
    assert case.property in KNOWN
    assert (KNOWN[case.property].seam == "run") == (not case.inside) == bool(case.scenarios)
    assert set(case.scenarios) <= {item.name for item in SCENARIOS}
    for pins in (case.broken.pins, case.fixed.pins, *case.shared):
        assert all(pin.count("==") == 1 for pin in pins)
    broken, fixed = (release.pins[0].split("==")[0] for release, _ in case.releases)
    assert broken == fixed and case.name.startswith(broken.split("-")[0])


def test_names_are_unique_and_there_are_fifteen_cases():
    assert len({case.name for case in CASES}) == len(CASES) >= 15


def test_every_release_was_run_and_came_out_as_expected():
    records = read(RESULTS)
    for case in CASES:
        for release, expected in case.releases:
            record = records[case.name, release.name]
            assert is_current(case, release, expected, record)
            assert outcome(record) == 0 and record["status"] == expected
            assert record["evidence"] > 0 or record["found"]


def test_the_page_is_that_of_the_results():
    records = read(RESULTS)
    assert RESULTS.with_suffix(".md").read_text(encoding="utf-8") == page(CASES, records.values())


def test_a_release_that_is_judged_otherwise_is_a_failure(tmp_path, capsys):
    records = json.loads(RESULTS.read_text(encoding="utf-8"))
    path, name = tmp_path / "seen.json", CASES[0].name
    path.write_text(json.dumps(records), encoding="utf-8")
    assert main(["timemachine", name, "--json", str(path), "--at", str(tmp_path / "none")]) == 0
    (record,) = [item for item in records if (item["case"], item["expected"]) == (name, "fail")]
    record["status"] = "pass"
    path.write_text(json.dumps(records), encoding="utf-8")
    assert main(["timemachine", name, "--json", str(path), "--at", str(tmp_path / "none")]) == 1
    assert "expected fail" in capsys.readouterr().out


def test_a_release_on_which_there_is_no_verdict_is_none_and_is_asked_again():
    case = CASES[0]
    record = read(RESULTS)[case.name, case.broken.name]
    assert is_current(case, case.broken, "fail", record) and outcome(record) == 0
    undecided = record | {"status": "not-measured"}
    assert outcome(undecided) == 2 and not is_current(case, case.broken, "fail", undecided)
    assert outcome(record | {"version": "1.0"}) == 2, "another version was imported"
    assert not is_current(case, case.broken, "fail", record | {"pins": "others"})


def test_a_case_that_does_not_exist_is_refused(capsys):
    assert main(["timemachine", "trl-jsd-swaped"]) == 2
    assert "did you mean trl-jsd-swapped" in capsys.readouterr().err


def test_pins_that_cannot_be_installed_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(PinsError, match="nothing-of-this-name==1"):
        installed(("nothing-of-this-name==1",), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_environment_sees_torch_and_nothing_else_of_this_one(tmp_path):
    there = {path.name for path in linked("torch", tmp_path).iterdir()}
    assert {"torch", "numpy"} & there == {"torch"} and "transformers" not in there
    assert Path(linked("torch", tmp_path), "torch").is_dir()
    python = environment((), tmp_path)
    code = "import importlib.util as u; print([bool(u.find_spec(n)) for n in ('torch', 'transformers', 'hypothesis')])"
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert said.strip() == "[True, False, False]"


@pytest.mark.long
def test_two_releases_of_trl_are_installed_and_judged_now(tmp_path):
    """The smallest case, whole: two wheels of half a megabyte, which run beside the transformers that is here."""
    (case,) = [item for item in CASES if item.name == "trl-bfd-segment-tree"]
    for release, expected in case.releases:
        try:
            record = replay(case, release, expected, tmp_path).record()
        except PinsError as error:
            pytest.skip(f"no package registry here: {error}")
        assert outcome(record) == 0, record
        assert outcome(record | {"expected": "pass" if expected == "fail" else "fail"}) == 1
