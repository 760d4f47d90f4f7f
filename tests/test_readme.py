"""What the READMEs show is true: the trainer passes, and the claims are the scenarios'."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sftspec import properties
from sftspec.conformance.adapters import resolve
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.scenarios import SCENARIOS

README = Path(__file__).parents[1] / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="installed without the README")


def readme_trainer() -> str:
    found = re.search(r"```python\n(# my_trainer\.py.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert found is not None
    return found.group(1)


def test_the_trainer_of_the_readme_conforms(tmp_path):
    path = tmp_path / "my_trainer.py"
    path.write_text(readme_trainer(), encoding="utf-8")
    trial = put_on_trial(resolve(str(path)).trainer, properties.load("masking", "packing", "step"))
    assert not [run.error for run in trial.runs if run.error]
    found = {verdict.property.id: verdict.status for verdict in trial.verdicts}
    assert [identifier for identifier, status in found.items() if status in ("fail", "ambiguous", "error")] == []
    assert sum(status == "pass" for status in found.values()) >= 30


def test_every_claim_of_a_scenario_is_explained():
    text = (README.parent / "conformance" / "README.md").read_text(encoding="utf-8")
    for claim in set().union(*(scenario.claims for scenario in SCENARIOS)) | {"log", "report", "padding"}:
        assert f"`{claim}`" in text
