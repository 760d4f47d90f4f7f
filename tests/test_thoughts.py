"""A training job whose template handles thoughts: what a trainer does with them is one of four words, or a failure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from sftspec import encode, properties
from sftspec.conformance.sensitivity.mutants.masking.thoughts import thoughts_lost_at_load
from sftspec.conformance.trial.corpora import Writer, thoughtful_conversations
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.scenarios import SCENARIOS, scenarios_for
from sftspec.golden.reduced import hugging_face_tokenizer
from sftspec.trainer import Pipeline

JOB = next(scenario for scenario in SCENARIOS if scenario.name == "thoughts")
VARIANT = JOB.settings["template"]
AS_RENDERED = "masking/conversations-stand-as-rendered"
EACH_TRAINED = "masking/every-conversation-with-a-target-is-trained"


@pytest.mark.parametrize("seed", range(3))
def test_the_job_is_rendered_alike_by_hugging_face_and_by_us(seed):
    tokenizer = hugging_face_tokenizer(VARIANT)
    texts = []
    for talk in thoughtful_conversations(Writer(seed)):
        found = tokenizer.apply_chat_template(list(talk), return_dict=True, return_assistant_tokens_mask=True)
        ours = encode(talk, VARIANT, tokenizer)
        assert ours.rendered.text == tokenizer.apply_chat_template(list(talk), tokenize=False)
        assert ours.input_ids == found["input_ids"]
        assert [int(label != -100) for label in ours.labels] == found["assistant_masks"]
        texts.append(ours.rendered.text)
    # Counted by hand: the last answers of nine talks and one before a tool's result think, two of them nothing.
    assert sum(text.count("assistant\n<think>\n") for text in texts) == 10
    assert sum(text.count("<think>\n\n</think>") for text in texts) == 2


def test_only_who_renders_the_tokenizers_template_is_asked():
    claims = Pipeline.claims - {"chat-template"}
    assert JOB in scenarios_for(Pipeline.claims)
    assert not any("template" in scenario.settings for scenario in scenarios_for(claims))


def has_a_field(talk):
    return any(message.get("reasoning_content") for message in talk)


@dataclass(frozen=True)
class Drops(Pipeline):
    """The reference without the conversations that have thoughts in a field; counts: and says so."""

    counts: bool = False

    def train(self, job):
        kept = [talk for talk in job.conversations if not has_a_field(talk)]
        super().train(replace(job, conversations=kept))
        if self.counts:
            job.report(examples_dropped=len(job.conversations) - len(kept))


@dataclass(frozen=True)
class Refuses(Pipeline):
    name: str = field(default="refuses")

    def accepts(self, talk):
        return not has_a_field(talk)


@pytest.mark.parametrize(
    ("trainer", "word", "failing"),
    [
        (Refuses(), "refused", set()),
        (Drops(counts=True), "dropped, counted", set()),
        (Drops(), "dropped in silence", {EACH_TRAINED}),
        (thoughts_lost_at_load(), "rewritten", {AS_RENDERED, EACH_TRAINED}),
    ],
    ids=["refused", "counted", "in silence", "rewritten"],
)
def test_what_becomes_of_thoughts(trainer, word, failing):
    chosen = [item for item in properties.load("masking") if item.seam == "run" and item.level == "must"]
    trial = put_on_trial(trainer, chosen, scenarios=[JOB])
    assert word in [item.how for item in trial.runs[0].untaken]
    assert failing <= {verdict.property.id for verdict in trial.verdicts if verdict.status == "fail"}
    assert failing or not [item for item in trial.verdicts if item.status in ("fail", "ambiguous", "error")]
