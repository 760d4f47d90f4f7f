"""Goldens on the witness: the reduced vocabularies are the real ones on these texts, and a broken trainer is seen."""

from __future__ import annotations

import pytest

from sftspec import properties
from sftspec.conformance.judge import put_on_trial
from sftspec.conformance.mutants import load_mutants
from sftspec.conformance.scenarios import GOLDENS, SCENARIOS
from sftspec.golden.reduced import REDUCED, goldens, hugging_face_tokenizer, whole_cases
from sftspec.golden.vocabularies import load_vocabulary
from sftspec.trainer import Pipeline

SEEN = "template/the-model-sees-the-published-tokens"
TRAINED = "template/the-published-targets-are-trained"
MUTANTS = {item.name: item for item in load_mutants()}


def statuses(trainer) -> dict[str, str]:
    chosen = [item for item in properties.load("template") if item.seam == "run"]
    jobs = [scenario for scenario in SCENARIOS if scenario.name in GOLDENS]
    return {item.property.id: item.status for item in put_on_trial(trainer, chosen, scenarios=jobs).verdicts}


@pytest.mark.parametrize("variant", REDUCED)
def test_the_reduced_tokenizer_gives_the_published_tokens(variant):
    """Truth: the goldens' ids, made by other implementations on the whole vocabularies."""
    tokenizer = hugging_face_tokenizer(variant)
    cases = goldens(variant)
    assert len(cases) >= 40 and len(tokenizer) < 1000
    for case in cases:
        assert tokenizer.encode(case.text, add_special_tokens=False) == case.input_ids, case.id


@pytest.mark.parametrize("variant", REDUCED)
def test_its_pieces_are_those_of_the_whole_vocabulary(variant):
    whole, tokenizer = load_vocabulary(REDUCED[variant].vocabulary), hugging_face_tokenizer(variant)
    for case, reduced in zip(whole_cases(variant), goldens(variant), strict=True):
        assert [whole.id_to_token(token) for token in case.input_ids] == tokenizer.convert_ids_to_tokens(
            reduced.input_ids
        )


def test_the_reference_trains_what_was_published():
    assert statuses(Pipeline()) == {SEEN: "pass", TRAINED: "pass"}


@pytest.mark.parametrize(
    ("name", "failing"),
    [
        ("masking/contents-stripped", SEEN),
        ("masking/contents-tokenized-by-letter", SEEN),
        ("masking/newline-of-the-template-lost", SEEN),
        ("masking/header-trained", TRAINED),
        ("masking/end-of-turn-masked", TRAINED),
        ("masking/last-answer-token-lost", TRAINED),
    ],
)
def test_a_broken_trainer_is_seen(name, failing):
    assert statuses(MUTANTS[name].make())[failing] == "fail"


def test_a_trainer_with_a_template_of_its_own_is_not_judged():
    class Own(Pipeline):
        claims = Pipeline.claims - {"chat-template"}

    assert set(statuses(Own()).values()) == {"not-claimed"}
