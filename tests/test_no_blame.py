"""What is lost is told by what it has in common, weights by the rule that they follow, and a guess has no name."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from sftspec.conformance.sensitivity import signatures
from sftspec.conformance.sensitivity.diagnosis import diagnose, diagnose_trial
from sftspec.conformance.sensitivity.signatures import Mark
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.properties import load
from sftspec.tests.loops import Loop
from sftspec.tests.test_conventions import failing, tried

SEEN = "masking/every-conversation-with-a-target-is-trained"


class Choosy(Loop):
    """Conversations are dropped in silence by a trait of theirs."""

    def __init__(self, keeps):
        self.keeps = keeps

    def train(self, job):
        job.conversations = [talk for talk in job.conversations if self.keeps(talk)]
        super().train(job)


DROPPED = {
    "a turn of role 'tool'": lambda talk: all(message["role"] != "tool" for message in talk),
    "a turn of role 'system'": lambda talk: all(message["role"] != "system" for message in talk),
    "two turns of one role in a row": lambda talk: all(one["role"] != two["role"] for one, two in pairwise(talk)),
    "more than 5 messages": lambda talk: len(talk) <= 5,
}


@pytest.mark.parametrize("trait", DROPPED)
def test_lost_conversations_are_told_by_what_they_have_in_common(trait):
    found = failing(tried(Choosy(DROPPED[trait]), "odd turns", "masking"))
    assert list(found) == [SEEN]
    assert found[SEEN].startswith("the whole conversation is lost, as ")
    assert found[SEEN].endswith(f"all of them, and no other, have {trait}")


def test_of_conversations_that_have_nothing_in_common_nothing_is_said():
    gone = iter([True, False, False, True, False, False, False, True] * 9)
    found = failing(tried(Choosy(lambda talk: not next(gone)), "odd turns", "masking"))
    assert "the whole conversation is lost" in found[SEEN]
    assert "all of them" not in found[SEEN]


class PutIn(Loop):
    """A system prompt that nobody wrote stands before each conversation, and is not trained."""

    def tokenize(self, job, conversation):
        ids, labels = super().tokenize(job, conversation)
        before = job.tokenizer("<|im_start|>system\nthinking off<|im_end|>\n").input_ids
        return before + ids, [-100] * len(before) + labels


@pytest.mark.parametrize("job", ["plain", "odd turns"])
def test_a_system_prompt_that_was_put_in_is_one_failure(job):
    """Its last tokens are no cut conversation's, and positions behind it are not counted anew."""
    found = failing(tried(PutIn(), job, "masking packing step"))
    assert [name for name, said in found.items() if not said.startswith("needs ")] == [
        "masking/every-position-has-an-origin"
    ]


class HeadLost(Loop):
    """No gradient of the head reaches the optimizer."""

    def step(self, job, model, optimizer):
        model.get_output_embeddings().weight.grad = torch.zeros_like(model.get_output_embeddings().weight)
        super().step(job, model, optimizer)


def test_targets_of_which_nothing_arrives_do_not_weigh_unlike():
    found = failing(tried(HeadLost(), "plain", "step"))
    assert list(found) == ["step/the-denominator-is-the-number-of-targets"]


class MeanOfMeans(Loop):
    """Each micro-batch is divided by its own targets, and by the micro-batches that were asked for."""

    def loss(self, logits, labels, count):
        return super().loss(logits, labels, max(1, int((labels[:, 1:] != -100).sum())) * self.window)

    def train(self, job):
        self.window = job.accumulation
        super().train(job)


def test_a_mean_of_means_is_known_in_a_trainer_whose_last_window_is_short_and_whose_data_are_unlike():
    trial = tried(MeanOfMeans(), "accumulation; clipping", "step")
    found = failing(trial)
    assert found["step/every-target-of-a-step-weighs-the-same"].endswith("weighs the same, whatever it holds")
    assert [item.mutant.name for item in diagnose_trial(trial, signatures.load())][:1] == ["step/mean-of-means"]


def test_one_property_that_measures_nothing_gives_no_likeness():
    """An average that is written back at the end fails one property, like weights that are rounded at the start."""
    note = "after the last step: lm_head.weight, model.embed_tokens.weight changed"
    found = {
        "step/parameters-change-in-the-step-alone": Mark({"plain": 0.2, "two epochs": 0.1111}, {"": 1.0}, {}, note)
    }
    asked = [item.id for item in load("step") if item.seam == "run"]
    assert diagnose(found, asked, [item.name for item in SCENARIOS], signatures.load()) == []
