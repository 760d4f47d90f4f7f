"""Template properties beside the plain talk: tools, forms of a message, and what is a refusal."""

from __future__ import annotations

import pytest

from sftspec import encode, render
from sftspec.conformance.trial.template import TemplateOnTrial, put_template_on_trial
from sftspec.golden.generate import _trl
from sftspec.golden.oracles import JinjaOracle, Rejected
from sftspec.golden.reduced import hugging_face_tokenizer
from sftspec.golden.small_tokenizer import load
from sftspec.jinja_templates import jinja_template
from sftspec.properties import REGISTRY
from sftspec.properties.cases.conversations import HELLO, LATE_SYSTEM, THOUGHTS_BEFORE_EACH_CALL
from sftspec.properties.cases.template import answer_with_calls
from sftspec.spans import TemplateError, assemble
from sftspec.tests.seam_verdict import DoesNotHold, evidence, properties_of

RENDERING = [item for item in properties_of("template") if item.seam == "render"]
OURS = {"render": render, "encode": encode}
READ_CALLS = {
    "text-parts-are-rendered-as-one-content": "pass",
    "a-call-has-one-text-in-every-form": "not-measured",
    "no-call-thought-or-tool-becomes-a-control-token": "not-measured",
    "the-first-token-after-the-prompt-is-a-target": "pass",
}


def marking_tools(messages, template, add_generation_prompt=False, tools=None):
    rendered = render(messages, template, add_generation_prompt, tools)
    for each in tools or ():
        each["seen"] = True
    return rendered


def calls_changed(change):
    def broken(messages, template, *rest, **options):
        changed = [{**m, "tool_calls": change(m["tool_calls"])} if m.get("tool_calls") else m for m in messages]
        return render(changed, template, *rest, **options)

    return {"render": broken}


def flags_as_numbers(calls):
    """True is equal to 1, and is not 1."""
    arguments = calls[0]["function"]["arguments"]
    arguments = {key: 0 if value is False else value for key, value in arguments.items()}
    return [{"function": {**calls[0]["function"], "arguments": arguments}}, *calls[1:]]


def equal_calls_merged(calls):
    return [call for number, call in enumerate(calls) if call not in calls[:number]]


def no_prompt_after_an_answer(messages, template, add_generation_prompt=False, **options):
    return render(messages, template, add_generation_prompt and messages[-1]["role"] != "assistant", **options)


def parts_joined_in_place(messages, template, *rest, **options):
    rendered = render(messages, template, *rest, **options)
    for message in messages:
        if isinstance(message, dict) and isinstance(message["content"], list):
            message["content"] = "".join(part["text"] for part in message["content"])
    return rendered


def repaired(repair):
    def broken(messages, template, *rest, **options):
        return render([repair(message) for message in messages], template, *rest, **options)

    return {"render": broken}


def surrogate_replaced(message):
    content = message.get("content")
    return {**message, "content": content.encode("utf-8", "replace").decode()} if isinstance(content, str) else message


def role_in_small_letters(message):
    return {**message, "role": message["role"].lower()} if message["role"] else message


def third_result_opens_a_turn(messages, template, *rest, **options):
    """From the third on, results that follow each other are written as a user's message of their own."""
    text = render(messages, template, *rest, **options).text
    tag = "\n<tool_response>\n"
    head, *results = text.split(tag)
    joined = [
        ("<|im_end|>\n<|im_start|>user" if number == 2 else "") + tag + each for number, each in enumerate(results)
    ]
    is_list = any(message["role"] == "tool" for message in messages)
    return assemble([("content", 0, head + "".join(joined) if is_list else text)])


BROKEN = [
    ("rendering-changes-no-tool", {"render": marking_tools}),
    ("each-call-is-json-with-the-keys-of-its-variant", calls_changed(flags_as_numbers)),
    ("each-call-is-json-with-the-keys-of-its-variant", calls_changed(equal_calls_merged)),
    ("a-prompt-is-the-text-and-one-suffix", {"render": no_prompt_after_an_answer}),
    ("rendering-changes-no-message", {"render": parts_joined_in_place}),
    ("a-broken-message-is-refused", repaired(surrogate_replaced)),
    ("a-broken-message-is-refused", repaired(role_in_small_letters)),
    ("a-broken-message-is-refused", repaired(lambda message: {"content": "", **message})),
    ("results-are-a-users-message-in-tags", {"render": third_result_opens_a_turn}),
]


@pytest.mark.parametrize(("name", "functions"), BROKEN, ids=[str(number) for number in range(len(BROKEN))])
def test_it_fails_for_a_broken_one(name, functions):
    with pytest.raises(DoesNotHold):
        evidence(REGISTRY[f"template/{name}"], functions["render"])


def test_a_renderer_that_changes_tools_spoils_no_golden():
    for name in ("what-others-published-is-rendered", "tokens-spell-the-published-text"):
        item = REGISTRY[f"template/{name}"]

        def marking(messages, template, *rest, item=item, **options):
            result = OURS[item.seam](messages, template, *rest, **options)
            for each in options.get("tools") or ():
                each["seen"] = True
            return result

        assert evidence(item, marking) == evidence(item, OURS[item.seam])


def test_a_template_without_a_place_for_calls_is_not_asked_about_them():
    template = jinja_template(hugging_face_tokenizer("chatml/qwen2.5").chat_template)
    assert not template.places
    chosen = [REGISTRY[f"template/{name}"] for name in READ_CALLS]
    trial = put_template_on_trial(TemplateOnTrial("mine", template, "chatml/qwen2.5", load()), chosen)
    assert [verdict.status for verdict in trial.verdicts] == [*READ_CALLS.values()]


def refusing_in_other_words(messages, template, *rest, **options):
    try:
        return render(messages, template, *rest, **options)
    except ValueError as error:
        raise RuntimeError(str(error).replace("message ", "turn #")) from error


@pytest.mark.parametrize("item", RENDERING, ids=lambda item: item.id)
def test_any_exception_that_says_the_number_of_the_message_is_a_refusal(item):
    assert evidence(item, refusing_in_other_words) >= item.floor


VENDORS = {"chatml/qwen2.5": "qwen2_5", "chatml/qwen3": "qwen3", "llama3/hf": "llama3", "llama3.1/hf": "llama3_1"}
CALL = answer_with_calls({"place": "K\u00f6ln"})
WITH_ID = {**CALL, "tool_calls": [{**CALL["tool_calls"][0], "id": "call_1"}]}
RESULT = {"role": "tool", "content": " 21\n"}
AROUND_CALLS = [
    LATE_SYSTEM,
    [*HELLO, RESULT],
    [*HELLO, {"role": "assistant", "content": "Hm."}, RESULT],
    *([*HELLO, call] for call in (CALL, WITH_ID, answer_with_calls({}, 2), answer_with_calls({}, 2, " Look:\n"))),
    *([*HELLO, {**CALL, "content": content}, RESULT] for content in ("", " ", " Look:\n")),
    [{**HELLO[0], "name": "ann"}, CALL, RESULT],
]


@pytest.mark.parametrize("name", VENDORS)
def test_what_stands_around_calls_is_what_the_vendors_templates_write(name):
    """What is asked beyond the goldens is not ours: TRL's copies write it so, or refuse it, or ours does."""
    pytest.importorskip("trl")
    bos = "<|begin_of_text|>" if name.startswith("llama") else ""
    vendor = JinjaOracle(name, "", _trl(VENDORS[name]), None, bos, "", "")
    thoughts = [THOUGHTS_BEFORE_EACH_CALL] if name == "chatml/qwen3" else []
    answered = 0
    for talk in [*AROUND_CALLS, *thoughts]:
        try:
            ours, theirs = render(talk, name).text, vendor.text(talk, False, None)
        except (TemplateError, Rejected):
            continue
        assert ours == theirs
        answered += 1
    assert answered >= 3
