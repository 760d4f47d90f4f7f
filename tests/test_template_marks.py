"""What a template marks is what is trained, as in transformers; what ends its turns is read off what it renders."""

from __future__ import annotations

import pytest

from sftspec import encode, properties, render
from sftspec.conformance.trial.template import TemplateOnTrial, put_template_on_trial
from sftspec.conformance.trial.template_ends import turn_end_of, what_changes
from sftspec.conformance.trial.template_traits import variant_of
from sftspec.golden.small_tokenizer import load
from sftspec.jinja_templates import jinja_template
from sftspec.masking import IGNORE

EVERY_ROLE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% generation %}{{ m.content + '<|im_end|>' }}"
    "{% endgeneration %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = {
    "every role": EVERY_ROLE,
    "users alone": EVERY_ROLE.replace("{% generation %}", "{% if m.role == 'user' %}{% generation %}").replace(
        "{% endgeneration %}", "{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}"
    ),
    "blocks that touch": (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
        "{% generation %}{{ '<|im_end|>' }}{% endgeneration %}"
    ),
    "one block around all": (
        "{% generation %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        "{% endfor %}{% endgeneration %}"
    ),
    "half of each content": (
        "{% for m in messages %}{{ m.role + ':' + m.content[:2] }}{% generation %}{{ m.content[2:] + '<|im_end|>' }}"
        "{% endgeneration %}{% endfor %}"
    ),
    "a line without a speaker": (
        "{% generation %}{{ 'Welcome.' }}{% endgeneration %}{% for m in messages %}{{ '<|im_start|>' + m.content }}"
        "{% endfor %}"
    ),
    "in a macro, with signs": (
        "{% macro turn(m) %}{%- generation -%}{{ m.content | trim }}{%- endgeneration -%}{% endmacro %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{{ turn(m) if m.role != 'system' else m.content }}"
        "{{ '<|im_end|>' }}{% endfor %}"
    ),
}
TALKS = {
    "two rounds": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": "Hi you"},
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": "Warm. <|im_end|>"},
    ],
    "answers in a row": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "One."},
        {"role": "assistant", "content": "Two."},
    ],
    "no answer": [{"role": "user", "content": "Hello there"}],
    "a result": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Look."},
        {"role": "tool", "content": "21 degrees"},
        {"role": "assistant", "content": "Warm."},
    ],
}


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=load())


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", MARKED)
def test_the_mask_is_that_of_transformers(name, talk, tokenizer):
    """Independent: apply_chat_template(return_assistant_tokens_mask=True) of transformers 5.23, token for token."""
    theirs = tokenizer.apply_chat_template(
        TALKS[talk], chat_template=MARKED[name], return_dict=True, return_assistant_tokens_mask=True
    )
    ours = encode(TALKS[talk], jinja_template(MARKED[name], name), load())
    assert ours.input_ids == list(theirs["input_ids"])
    assert [int(label != IGNORE) for label in ours.labels] == list(theirs["assistant_masks"])


def test_marks_of_messages_that_touch_belong_to_their_own():
    rendered = render(TALKS["answers in a row"], jinja_template(MARKED["blocks that touch"], "touch"))
    assert rendered.of("content", 1) == ["One."] and rendered.of("content", 2) == ["Two."]
    flagged = [*TALKS["answers in a row"][:2], {**TALKS["answers in a row"][2], "train": False}]
    example = encode(flagged, jinja_template(MARKED["blocks that touch"], "touch"), load())
    assert load().decode([label for label in example.labels if label != IGNORE]) == "HelloOne."


def test_what_is_marked_of_others_is_not_trained_where_they_say_so():
    template = jinja_template(EVERY_ROLE, "every")
    asked = [{**message, "train": message["role"] == "assistant"} for message in TALKS["two rounds"][1:3]]
    example = encode(asked, template, load())
    assert load().decode([label for label in example.labels if label != IGNORE], False) == "Hi you<|im_end|>"


OTHERS = "template/what-others-say-is-no-target"


def status(source: str, identifier: str, **variables: str):
    template = jinja_template(source, "mine", **variables)
    candidate = TemplateOnTrial("mine", template, variant_of(template), load())
    chosen = [item for item in properties.load("template") if item.id == identifier]
    return put_template_on_trial(candidate, chosen, max_examples=60).verdicts[0]


@pytest.mark.parametrize("name", ["every role", "users alone", "one block around all", "half of each content"])
def test_a_template_that_marks_others_fails(name):
    found = status(MARKED[name], OTHERS)
    assert found.status == "fail" and "no answer is to be trained" in found.counterexample["note"]


def test_a_template_that_marks_answers_alone_passes():
    right = EVERY_ROLE.replace("{% generation %}", "{% if m.role == 'assistant' %}{% generation %}").replace(
        "{% endgeneration %}", "{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}"
    )
    assert status(right, OTHERS).status == "pass"


# --- what ends a turn, where no named variant declares it ---

END = "template/every-answer-ends-in-one-end-of-turn-token"
LAST_ONLY = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% if loop.last %}{{ eos_token }}{% endif %}{% endgeneration %}{{ '\n' }}{% else %}{{ m.content + '\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GEMMA = (
    "{% for m in messages %}{{ '<start_of_turn>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content | trim + '<end_of_turn>' }}{% endgeneration %}{% else %}{{ m.content | trim + '<end_of_turn>' }}"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>assistant\n' }}{% endif %}"
)
OUTSIDE = GEMMA.replace(
    "{{ m.content | trim + '<end_of_turn>' }}{% endgeneration %}",
    "{{ m.content | trim }}{% endgeneration %}{{ '<end_of_turn>' }}",
)
TWO_ENDS = GEMMA.replace(
    "'<end_of_turn>' }}{% endgeneration %}",
    "('<return>' if loop.last else '<end_of_turn>') }}{% endgeneration %}",
)
NO_END = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "token", "expected"),
    [
        (GEMMA, "<end_of_turn>", "pass"),
        (OUTSIDE, "<end_of_turn>", "fail"),
        (LAST_ONLY, "</s>", "fail"),
        (LAST_ONLY.replace("{% if loop.last %}", "{% if true %}"), "</s>", "pass"),
        (TWO_ENDS, "", "not-measured"),
        (NO_END, "", "not-measured"),
    ],
)
def test_the_end_of_a_turn_is_read_off_what_is_rendered(source, token, expected):
    template = jinja_template(source, "mine", eos_token="</s>")
    assert variant_of(template) == "" and turn_end_of(template).token == token
    verdict = status(source, END, eos_token="</s>")
    assert verdict.status == expected
    if expected == "fail":
        assert f"does not learn to stop with {token}" in verdict.counterexample["note"]
    if expected == "not-measured":
        assert "last answer" in verdict.reason


def test_history_is_said_to_be_rewritten_only_where_it_is():
    said = what_changes(jinja_template(LAST_ONLY, "mine", eos_token="</s>"))
    assert said.startswith("'</s>\\n' gives way to '\\n<|user")
    assert what_changes(jinja_template(THOUGHTS_FORGOTTEN, "mine")) == "it rewrites history (thoughts of earlier turns)"


THOUGHTS_FORGOTTEN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ (m.content if loop.last else m.content.split('</think>')[-1]) + '<|im_end|>\n' }}{% endfor %}"
)
