"""What stands beside role and content is read, refused or remarked, and never dropped without a word."""

from __future__ import annotations

import json

import pytest

from sftspec import encode, load_conversations, render
from sftspec.conversation import ConversationError, check_conversation
from sftspec.formats import FORMATS, read_record
from sftspec.golden import small_tokenizer
from sftspec.jinja_templates import jinja_template
from sftspec.masking import IGNORE
from sftspec.spans import TemplateError

ASK = {"role": "user", "content": "Weather in Rome?"}
ANSWER = {"role": "assistant", "content": "21 degrees."}
MORE = [{"role": "user", "content": "More?"}, {"role": "assistant", "content": "No."}]


def record(*messages, **beside):
    return {"messages": list(messages), **beside}


def read(item, **options):
    return read_record(json.loads(json.dumps(item)), "data.jsonl:1", **options)


def trained(conversation, template="chatml/qwen2.5"):
    example = encode(conversation, template, small_tokenizer.load())
    return small_tokenizer.load().decode([t for t in example.labels if t != IGNORE], skip_special_tokens=False)


@pytest.mark.parametrize("flag", [
    {"loss_mask": 0}, {"loss": False}, {"trainable": False}, {"training": False}, {"masked": True}, {"weight": 0},
    {"weight": 0.0}, {"train": False}, {"loss_weight": 0}, {"train": 0}, {"train": False, "weight": 0},
])  # fmt: skip
def test_a_training_flag_of_any_trainer_is_read_on_a_message(flag):
    found = trained(read(record(ASK, {**ANSWER, **flag}, *MORE)))
    assert found == "No.<|im_end|>"
    assert trained(read({"conversations": [
        {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A", **flag}, {"from": "human", "value": "Q"},
        {"from": "gpt", "value": "No."}]})) == "No.<|im_end|>"  # fmt: skip


@pytest.mark.parametrize(
    "flag", [{"loss_mask": 1}, {"loss": True}, {"masked": False}, {"weight": 1.0}, {"train": None}]
)
def test_a_flag_that_states_the_default_changes_nothing(flag):
    assert trained(read(record(ASK, {**ANSWER, **flag}))) == "21 degrees.<|im_end|>"


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}, {"loss_mask": 0}, {"sample_weight": 0}])
def test_a_flag_of_a_record_covers_all_of_it_and_says_so(flag):
    found = read(record(ASK, ANSWER, **flag))
    assert trained(found) == "" and any("nothing of it is trained" in remark for remark in found.remarks)
    assert trained(read({"instruction": "Q", "output": "A", **flag})) == ""


@pytest.mark.parametrize(("item", "words"), [
    (record(ASK, {**ANSWER, "train": 0.5}), "message 1: train is 0.5; write 0 or 1, or a fraction as weight"),
    (record(ASK, {**ANSWER, "loss": False, "loss_scale": 0.5}), "loss and loss_scale contradict"),
    (record(ASK, {**ANSWER, "weight": -1}), "message 1: weight is -1"),
    (record(ASK, {**ANSWER, "loss_mask": [0, 1]}), "message 1: loss_mask is [0, 1]; write true or false"),
    (record(ASK, {**ANSWER, "loss": "no"}), "message 1: loss is 'no'"),
    (record(ASK, {**ANSWER, "train": True, "loss_mask": 0}), "train and loss_mask contradict"),
    (record(ASK, {**ANSWER, "no_loss": True}), "no_loss looks like a flag of training"),
    (record(ASK, {**ANSWER, "mask": True}), "mask looks like a flag of training"),
    (record(ASK, {**ANSWER, "mask": 1}), "mask looks like a flag of training"),
    (record(ASK, {**ANSWER, "learnable": False}), "learnable looks like a flag of training"),
    (record(ASK, ANSWER, weight=-0.5), "data.jsonl:1: weight is -0.5"),
    (record(ASK, ANSWER, loss_mask=[0, 1]), "loss_mask is [0, 1]"),
    (record(ASK, ANSWER, weights=[0, 1]), "weights looks like a flag"),
    (record(ASK, ANSWER, loss_mask=0.1), "loss_mask is 0.1"),
    (record(ASK, ANSWER, images=["a.png"]), "images: only text"),
    (record(ASK, ANSWER, audio={"path": "x.wav"}), "audio: only text"),
    (record({**ASK, "images": ["a.png"]}, ANSWER), "message 0: images: only text"),
    (record({**ASK, "content": [{"type": "image"}, {"type": "text", "text": "?"}]}, ANSWER), "content part 0: only"),
    (record({**ASK, "content": ["a", "b"]}, ANSWER), "content part 0: only"),
    (record(ASK, {**ANSWER, "content": [{"type": "tool_use", "id": "1", "input": {}}]}), "into tool_calls"),
    (record({**ASK, "content": [{"type": "tool_result", "content": "x"}]}, ANSWER), "a message from tool"),
    (record(ASK, {**ANSWER, "content": [{"type": "text", "text": "a", "weight": 0}]}), "every part of the content"),
    (record(ASK, {**ANSWER, "thought": "hm"}), "thought is not read; write the thought as reasoning_content"),
    (record(ASK, {**ANSWER, "reasoning": "a", "thinking": "b"}), "say different things"),
    (record({**ASK, "reasoning": "a"}, ANSWER), "only an assistant thinks"),
    (record(ASK, ANSWER, reasoning="because"), "reasoning beside the messages"),
    ({"instruction": "Q", "output": "A", "thinking": "because"}, "thinking beside the messages"),
    (record(ASK, ANSWER, enable_thinking=False), "write it into chat_template_kwargs"),
    (record(ASK, ANSWER, chat_template_kwargs="x"), "not an object"),
    (record(ASK, ANSWER, chat_template_kwargs={"tools": []}), "write it beside the messages"),
    (record({"role": "system", "content": "A"}, ASK, ANSWER, system="B"), "another in them"),
    (record(ASK, ANSWER, system="A", system_prompt="B"), "say different things"),
    (record({**ASK, "tools": [{"name": "f"}]}, ANSWER), "beside the messages, as tools"),
    (record(ASK, {**ANSWER, "refusal": "No."}), "refusal in a message"),
    (record({"role": "developer", "content": "Short."}, ASK, ANSWER), "write system"),
    (record(ASK, {"role": "function", "name": "f", "content": "1"}), "write tool"),
    (record(ASK, {"role": "ipython", "content": "1"}), "write tool"),
    ({"text": "hello"}, "text without roles"),
    ({"messages": json.dumps([ASK])}, "JSON in a string: parse it first"),
    ({"prompt": "q", "completion": "a", "label": False}, "not wanted (KTO)"),
    (record(ASK, {**ANSWER, "ignore": True}), "ignore looks like a flag of training"),
    ({"input_ids": [1, 2]}, "--prepared"),
    ({"prompt": [ASK], "chosen": [ANSWER], "rejected": [ANSWER]}, "a preference"),
    ({"contents": [{"role": "user", "parts": [{"inlineData": {"data": "x"}}]}]}, "content part 0"),
])  # fmt: skip
def test_what_cannot_be_read_exactly_is_refused_with_its_place(item, words):
    with pytest.raises(ConversationError) as raised:
        read(item)
    assert str(raised.value).startswith("data.jsonl:1") and words in str(raised.value)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_under_other_names_is_a_thought(name):
    found = read(record(ASK, {"role": "assistant", "content": "21.", name: "Rome is warm."}))
    assert trained(found, "chatml/qwen3") == "<think>\nRome is warm.\n</think>\n\n21.<|im_end|>"
    assert bool(found.remarks) == (name != "reasoning_content")


@pytest.mark.parametrize("thinking", ["Rome is warm.", [{"type": "text", "text": "Rome is warm."}]])
def test_a_thought_that_is_a_part_of_the_content_is_a_thought(thinking):
    parts = [{"type": "thinking", "thinking": thinking}, {"type": "text", "text": "21."}]
    found = trained(read(record(ASK, {"role": "assistant", "content": parts})), "chatml/qwen3")
    assert found == "<think>\nRome is warm.\n</think>\n\n21.<|im_end|>"


FORMS = {
    "system": record(ASK, ANSWER, system="S"),
    "system parts": record(ASK, ANSWER, system=[{"text": "S"}]),
    "the same twice": record({"role": "system", "content": "S"}, ASK, ANSWER, system="S"),
    "system_prompt": {"conversations": [ASK, ANSWER], "system_prompt": "S"},
    "prompt": {"prompt": ASK["content"], "completion": ANSWER["content"], "system": "S"},
    "query": {"query": ASK["content"], "response": ANSWER["content"], "system": "S"},
    "question": {"question": ASK["content"], "answer": ANSWER["content"], "system": "S"},
    "OpenOrca": {"question": ASK["content"], "response": ANSWER["content"], "system_prompt": "S"},
    "pairs": {"conversation": [{"system": "S", "input": ASK["content"], "output": ANSWER["content"]}]},
    "ms-swift pairs": {"conversation": [{"human": ASK["content"], "assistant": ANSWER["content"]}], "system": "S"},
    "Gemini": {
        "systemInstruction": {"role": "system", "parts": [{"text": "S"}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Weather in "}, {"text": "Rome?"}]},
            {"role": "model", "parts": [{"text": "21 degrees."}]},
        ],
    },
    "Arrow": record(ASK, ANSWER, system="S", prompt=None, completion=None, images=None, weight=None, tools=None),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_system_prompt_is_read_wherever_it_stands(name):
    assert [dict(item) for item in read(FORMS[name])] == [{"role": "system", "content": "S"}, ASK, ANSWER]
    assert not read(FORMS[name]).remarks


def test_speakers_are_read_in_any_case_and_a_mask_that_names_them():
    turns = [{"from": "User", "value": ASK["content"]}, {"from": "Assistant", "value": ANSWER["content"]}]
    found = read({"mask": "User", "system": "", "conversations": turns, "type": "VALUE_TO_TEXT"})
    assert [dict(item) for item in found] == [ASK, ANSWER] and not found.remarks


def test_functions_are_tools():
    function = {"name": "f", "parameters": {"type": "object"}}
    assert read(record(ASK, ANSWER, functions=[function])).tools == [{"type": "function", "function": function}]


def test_what_is_not_read_is_remarked_and_metadata_is_not():
    found = read(record({**ASK, "mood": "grim", "id": "7"}, ANSWER, notes="see below", id=7, score=0.3, extra=None))
    assert found.remarks == ("notes of a record is not read", "mood of a message is not read, unless the template does")
    for field in ({"name": "Bob"}, {"prefix": True}, {"is_target": False}):
        said = f"{next(iter(field))} of a message is not read, unless the template does"
        assert read(record({**ASK, **field}, ANSWER)).remarks == (said,)
    assert read(record({**ASK, "train": True}, ANSWER)).remarks[0].startswith("train is true on a message from user")


@pytest.mark.parametrize(("arguments", "remarked"), [('{"a": 1}', False), ('{"a": 1', True), ("", True), ("[1]", True)])
def test_arguments_that_are_no_json_are_trained_as_they_are_and_remarked(arguments, remarked):
    calling = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    found = read(record(ASK, calling))
    assert any("no JSON object" in remark for remark in found.remarks) == remarked
    assert f'"arguments": {arguments}}}' in render(found, "chatml/qwen3").text


def test_shares_keys_under_another_name_are_told_what_to_do():
    with pytest.raises(ConversationError, match="from and value are ShareGPT's; write role and content"):
        read({"messages": [{"from": "human", "value": "Hi"}]})


def test_template_arguments_choose_what_is_rendered():
    asked = record(ASK, ANSWER, chat_template_kwargs={"enable_thinking": False})
    assert trained(read(asked), "chatml/qwen3") == "21 degrees.<|im_end|>"
    assert render(read(asked), "chatml/qwen3").text == render([ASK, ANSWER], "chatml/qwen3-nothink").text
    with pytest.raises(TemplateError, match="reads no template argument enable_thinking=False"):
        render(read(asked), "chatml/qwen2.5")
    source = "{% for m in messages %}{{ m.role ~ mood ~ m.content }}{% endfor %}"
    template = jinja_template(source, mood="?")
    moody = read(record(ASK, chat_template_kwargs={"mood": "!"}))
    assert render(moody, template).text == "user!Weather in Rome?"
    assert render(check_conversation(moody), template).text == "user!Weather in Rome?"


def test_nulls_of_arrow_can_be_dropped(tmp_path):
    call = {"function": {"name": "f", "arguments": {"place": "Rome", "unit": None, "in": {"x": None, "y": [1]}}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"a": None, "b": {}}}}]
    item = record({**ASK, "name": None}, {"role": "assistant", "content": None, "tool_calls": [call]}, tools=tools)
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(item))
    kept, dropped = load_conversations(path)[0], load_conversations(path, drop_nulls=True)[0]
    assert '"unit": null' in render(kept, "chatml/qwen2.5").text
    assert dropped[1]["tool_calls"][0]["function"]["arguments"] == {"place": "Rome", "in": {"y": [1]}}
    assert dropped[1]["content"] is None and "name" not in dropped[0]
    assert dropped.tools == [{"type": "function", "function": {"name": "f", "parameters": {"b": {}}}}]


def test_a_line_with_many_keys_is_read_in_linear_time(tmp_path):
    import time

    def seconds(keys):
        path = tmp_path / "keys.jsonl"
        path.write_text("{" + ", ".join(f'"k{n}": 1' for n in [*range(keys), keys - 1]) + "}")
        started = time.process_time()
        with pytest.raises(ConversationError, match=f"the key 'k{keys - 1}' is there twice"):
            load_conversations(path)
        return time.process_time() - started

    seconds(1000)
    assert seconds(80_000) < 2  # quadratic it took over a minute


def test_every_form_names_keys_of_its_own():
    keys = [form.keys for form in FORMATS]
    assert len(set(keys)) == len(keys)
