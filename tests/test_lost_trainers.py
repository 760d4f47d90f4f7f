"""However a trainer ends, its scenario is named with what happened, and the others are judged.

Two trials, in which every second scenario goes wrong in another way (`lost_trainers.ACTS`); the limit of time is short
in the one that runs into it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sftspec import properties
from sftspec.conformance.report.document import make_document
from sftspec.conformance.report.outcome import exit_code
from sftspec.conformance.trial.corpora import few_conversations
from sftspec.conformance.trial.process import Limits
from sftspec.conformance.trial.scenarios import Scenario
from sftspec.conformance.trial.two_processes import put_on_trial_apart, stage_of

FILE = Path(__file__).with_name("lost_trainers.py")
ASKED = "masking/every-conversation-with-a-target-is-trained"


def names() -> dict[str, str]:
    """What is done, and what has to be said of it; read off the table, not imported: it is for another process."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("lost_trainers", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: said for name, (_, said) in module.ACTS.items()}


def scenario(name: str, seed: int) -> Scenario:
    settings = {"seed": seed, "batch_size": 1}
    return Scenario(name, frozenset(), few_conversations, {}, settings, areas=frozenset({"masking"}))


LATE = {"sleeps", "stopped"}  # these run to the limit


def put_on_trial(numbers: dict[str, int], seconds: float) -> dict:
    asked = []
    for name, number in numbers.items():
        asked += [scenario(name, number), scenario(f"after {name}", 0)]
    properties.load()
    with stage_of(str(FILE), {}, limits=Limits(seconds, gigabytes=3.0)) as stage:
        trainer = stage.trainer()
        trial = put_on_trial_apart(stage, trainer, [properties.REGISTRY[ASKED]], asked, max_replays=0)
        return make_document(trial, stage.said["identity"], "sftspec check", 0)


@pytest.fixture(scope="module")
def documents():
    numbers = {name: number for number, name in enumerate(names(), 1)}
    late = {name: numbers.pop(name) for name in LATE}
    return {True: put_on_trial(late, seconds=15.0), False: put_on_trial(numbers, seconds=50.0)}


@pytest.mark.long
@pytest.mark.parametrize("name", names())
def test_a_lost_trainer_is_named_and_the_next_scenario_is_judged(name, documents):
    document = documents[name in LATE]
    found = {item["name"]: item for item in document["scenarios"]}
    assert names()[name] in found[name]["error"]
    assert found[f"after {name}"]["error"] == ""
    evidence = document["verdicts"][0]["evidence"]
    assert evidence.get(f"after {name}", 0) > 0 and name not in evidence
    assert exit_code(document) == 2
