"""What trains: adapters, a frozen head, nothing at all; each is judged on what does train."""

from __future__ import annotations

import pytest

from sftspec.conformance.ledger.recording import load_run, save_run
from sftspec.conformance.sensitivity.kill_checks import kills
from sftspec.conformance.sensitivity.mutants import load_mutants
from sftspec.conformance.sensitivity.mutants.step.adapters import Adapted
from tests.loops import FrozenHead, Loop, Lora
from tests.on_trial import found, not_passed, trial_of

MUTANTS = [item for item in load_mutants() if item.make.__module__.endswith("step.adapters")]
ADAPTERS = {
    "only-adapters-and-saved-modules-move", "adapters-learn", "new-adapters-change-nothing",
    "adapters-are-scaled-as-declared",
}  # fmt: skip


class Various(Lora):
    def __init__(self, **options):
        self.options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "r": 16},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"], "target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["q_proj", "lm_head", "embed_tokens"]},
        {"init_lora_weights": "pissa"},
    ],
    ids=["plain", "rslora", "dora", "head saved", "head and embedding", "pissa"],
)
def test_adapters_are_judged_on_what_trains(options):
    trial = trial_of(Various(**options), "two epochs", "step", "masking")
    assert not_passed(trial) == {}
    passed = found(trial, "pass")
    assert passed >= {f"step/{name}" for name in ADAPTERS}
    assert passed >= {"step/every-parameter-gets-its-gradient", "step/every-target-of-a-step-weighs-the-same"}


def test_dropout_before_an_adapter_is_dropout():
    trial = trial_of(Various(lora_dropout=0.2), "two epochs", "step")
    assert not_passed(trial) == {}
    assert "step/dropout-is-on-and-drawn-anew" in found(trial, "pass")
    assert "step/every-parameter-gets-its-gradient" in found(trial, "not-measured")


def test_adapters_of_a_kind_that_is_not_known_are_not_measured():
    class Scaling(Loop):
        def prepare(self, job):
            from peft import IA3Config, get_peft_model

            chosen = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
            return get_peft_model(job.model, IA3Config(task_type="CAUSAL_LM", **chosen))

    trial = trial_of(Scaling(), "two epochs", "step", "masking")
    assert not_passed(trial) == {}
    (verdict,) = [item for item in trial.verdicts if item.property.id == "step/every-parameter-gets-its-gradient"]
    assert verdict.status == "not-measured" and "how it enters the weights is not known" in verdict.reason


def test_a_head_frozen_by_the_trainer_fails_no_must():
    trial = trial_of(FrozenHead(), "two epochs; accumulation", "step")
    assert set(not_passed(trial)) == {"step/what-came-trainable-is-trained"}
    assert "step/the-denominator-is-the-number-of-targets" in found(trial, "pass")


def test_a_lost_micro_batch_is_seen_beside_a_frozen_head():
    class Erased(FrozenHead):
        def backward(self, loss):
            for item in self.model.parameters():
                item.grad = None
            super().backward(loss)

        def prepare(self, job):
            self.model = super().prepare(job)
            return self.model

    assert "step/the-gradient-is-that-of-the-step" in found(trial_of(Erased(), "accumulation", "step"), "fail")


def test_the_adapted_reference_passes():
    assert not_passed(trial_of(Adapted(end=lambda model: model.merge_and_unload()), "plain", "step", "packing")) == {}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda item: item.name)
def test_a_bug_in_adapters_is_killed(mutant):
    assert kills(mutant).keys() == set(mutant.killed_by)


def test_adapters_are_recorded(tmp_path):
    run = trial_of(Lora(), "two epochs", "step").runs[0]
    save_run(run, tmp_path / "run")
    again = load_run(tmp_path / "run")
    assert again.adapters == run.adapters and again.saved == run.saved == ()
    compared = [[(name, *sizes) for _, name, *sizes in one.oracle.compare_gradients()] for one in (run, again)]
    assert compared[0] == compared[1]
