"""Parts of trainers: the plain loop around them is right, a fault of a part is seen; a packer is asked elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sftspec.conformance.adapters.field.packers import Asked, PackerError, Packers
from sftspec.conformance.adapters.field.plain_loop import Loop, asks_and_answers
from sftspec.conformance.environments.lock import PinnedError
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.conformance.trial.selection import select

ASKED = ["masking/nothing-else-is-trained", "step/the-denominator-is-the-number-of-targets"]


@dataclass(frozen=True)
class Part(Loop):
    package = "torch"


@dataclass(frozen=True)
class PromptTrained(Part):
    def row(self, job, messages):
        ids, _ = super().row(job, messages)
        return ids, list(ids)


@dataclass(frozen=True)
class CountsRows(Part):
    def targets(self, batch):
        return len(batch["input_ids"])


@pytest.mark.parametrize(("part", "failing"), [(Part, set()), (PromptTrained, {ASKED[0]}), (CountsRows, {ASKED[1]})])
def test_the_loop_is_right_and_a_fault_of_a_part_is_seen(part, failing):
    scenarios = [item for item in SCENARIOS if item.name == "accumulation"]
    trial = put_on_trial(part(), select(ASKED), 0, scenarios)
    assert {item.property.id for item in trial.verdicts if item.status == "fail"} == failing
    assert failing or all(sum(item.evidence.values()) for item in trial.verdicts)


def test_only_who_asks_and_answers_is_taken():
    said = [{"role": role, "content": "A"} for role in ("system", "user", "assistant")]
    assert asks_and_answers(said) and asks_and_answers(said[1:])
    assert not asks_and_answers(said[:2]) and not asks_and_answers([*said, {"role": "tool", "content": "B"}])


def test_a_packer_is_asked_in_a_process_of_its_own():
    pytest.importorskip("trl")
    packer = Asked("trl")
    packs = packer([5, 5, 3, 3], 8)
    assert sorted(index for one in packs for index in one) == [0, 1, 2, 3] and len(packs) == 2
    with pytest.raises(PackerError, match="Error"):
        packer([0.5, -1], 8)


def test_a_packer_without_its_environment_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SFTSPEC_ENVS", str(tmp_path))
    with pytest.raises(PinnedError, match="sftspec env create verl"):
        Asked("verl")
    with pytest.raises(ValueError, match="known: llamafactory, ms-swift"):
        Packers(of="nobody")
