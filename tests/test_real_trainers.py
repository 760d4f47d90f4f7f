"""Verdicts on real trainers that were checked by hand: TRL 1.16.0 and transformers 5.23.0."""

from __future__ import annotations

import pytest

from sftspec import properties
from sftspec.conformance.adapters.transformers_trainer import TransformersTrainer
from sftspec.conformance.adapters.trl import TRL
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.trainer import Pipeline

pytest.importorskip("trl")
pytestmark = pytest.mark.long

AREAS = ("masking", "packing", "step")


def verdicts(trainer, *names: str, max_replays: int = 4) -> dict[str, str]:
    """Status by property id after the scenarios named (all that the trainer claims, if none is).

    max_replays: 0 where nothing is asked that calls made again show.
    """
    chosen = [item for item in properties.load(*AREAS) if item.seam == "run"]
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in names] if names else None
    trial = put_on_trial(trainer, chosen, scenarios=scenarios, areas=AREAS, max_replays=max_replays)
    assert not [run.error for run in trial.runs if run.error]
    return {verdict.property.id: verdict.status for verdict in trial.verdicts}


def failing(found: dict[str, str]) -> set[str]:
    return {identifier for identifier, status in found.items() if status in ("fail", "ambiguous", "error")}


@pytest.mark.parametrize(
    "trainer",
    [Pipeline(), TRL(), TRL(packing="bfd"), TransformersTrainer()],
    ids=["reference", "trl", "trl bfd", "transformers"],
)
def test_clean_settings_raise_no_alarm(trainer):
    found = verdicts(trainer)
    # A should: plain AdamW on bfloat16 weights rounds small updates away, which only the reference keeps in float32.
    rounded = set() if isinstance(trainer, Pipeline) else {"step/small-updates-arrive"}
    assert failing(found) <= rounded
    assert sum(status == "pass" for status in found.values()) >= 30


@pytest.mark.parametrize(
    "trainer",
    [TRL(padding_free=True), TRL(dataset="prompt-completion"), TransformersTrainer(collator="flattening")],
    ids=["trl padding-free", "trl prompt-completion", "transformers flattening"],
)
def test_other_clean_settings_raise_no_alarm(trainer):
    assert failing(verdicts(trainer, "plain", "learned positions", "accumulation", "clipping")) == set()


def test_best_fit_packing_of_trl_isolates_examples_and_wrapped_packing_does_not():
    isolation = "packing/examples-do-not-see-each-other"
    whole = "packing/packed-examples-are-whole"
    scenarios = ("packed", "packed, learned positions")
    best_fit, wrapped = verdicts(TRL(packing="bfd"), *scenarios), verdicts(TRL(packing="wrapped"), *scenarios)
    assert best_fit[isolation] == best_fit[whole] == "pass"
    assert wrapped[isolation] == wrapped[whole] == "fail"
    assert wrapped["masking/no-position-sees-what-follows-it"] == "blocked"


@pytest.mark.parametrize("trainer", [TRL(), TransformersTrainer()], ids=["trl", "transformers"])
def test_accumulation_is_a_token_mean_at_any_cut(trainer):
    found = verdicts(trainer, "accumulation", "one by one", "two epochs", max_replays=0)
    for name in ("every-target-of-a-step-weighs-the-same", "the-denominator-is-the-number-of-targets"):
        assert found[f"step/{name}"] == "pass"


def test_the_language_modeling_collator_trains_no_end_of_turn_when_it_is_also_the_pad():
    trainer = TransformersTrainer(collator="language-modeling")
    assert verdicts(trainer, "plain", "one by one", max_replays=0)["masking/end-of-turn-is-trained"] == "pass"
    assert verdicts(trainer, "pad is end-of-turn", max_replays=0)["masking/end-of-turn-is-trained"] == "fail"


def test_trainer_counts_the_first_label_for_gpt2_and_not_for_llama():
    """transformers 5.23.0, Trainer._loss_shifts_labels: GPT2LMHeadModel has no loss_type, so labels are not shifted."""
    trainer = TransformersTrainer(collator="language-modeling")
    name = "step/first-tokens-are-not-counted"
    assert verdicts(trainer, "plain", "one by one", max_replays=0)[name] == "pass"
    assert verdicts(trainer, "learned positions", "one by one", max_replays=0)[name] == "fail"


def test_dft_weighs_tokens_by_their_probability():
    found = verdicts(TRL(loss_type="dft"), "plain", max_replays=0)
    assert found["step/every-target-of-a-step-weighs-the-same"] == "fail"
    assert found["masking/nothing-else-is-trained"] == "pass"
