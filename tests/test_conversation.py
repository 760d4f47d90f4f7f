"""Conversations are read whole or refused with their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftspec.conversation import ConversationError, check_conversation, load_conversations
from sftspec.formats import FORMATS, SHAREGPT_ROLES

HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def calling(arguments):
    return [{"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": arguments}]}]


def written(folder: Path, text: str | bytes, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return path


def load_one(folder, record):
    return load_conversations(written(folder, json.dumps(record)))[0]


FORMS = {
    "messages": {"messages": HELLO, "id": 7},
    "bare list": HELLO,
    "ShareGPT": {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]},
    "ShareGPT with roles": {"conversations": HELLO},
    "Alpaca": {"instruction": "Hello", "input": "", "output": "Hi"},
    "Dolly": {"instruction": "Hello", "context": "", "response": "Hi", "category": "chat"},
    "prompt": {"prompt": "Hello", "completion": "Hi"},
    "prompt lists": {"prompt": HELLO[:1], "completion": HELLO[1:]},
    "text parts": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": t} for t in ("Hel", "lo")]}, HELLO[1]]
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_conversation(tmp_path, form):
    line = json.dumps(FORMS[form])
    conversations = load_conversations(written(tmp_path, f"{line}\n\n{line}"))
    assert conversations == [HELLO, HELLO]
    assert [conversation.source for conversation in conversations] == ["data.jsonl:1", "data.jsonl:3"]


def test_a_json_document_is_a_list_of_records_or_one(tmp_path):
    records = [FORMS["messages"], FORMS["Alpaca"]]
    many = load_conversations(written(tmp_path, json.dumps(records, indent=2), "data.json"))
    assert many == [HELLO, HELLO] and many[1].source == "data.json, record 1"
    assert load_conversations(written(tmp_path, json.dumps(records[0], indent=2), "one.json")) == [HELLO]
    assert load_conversations(written(tmp_path, json.dumps(HELLO), "bare.json")) == [HELLO]
    assert (
        load_conversations(written(tmp_path, "\n".join(json.dumps(HELLO) for _ in "ab"), "lists.jsonl")) == [HELLO] * 2
    )


def test_system_prompts_inputs_history_and_tools_are_kept(tmp_path):
    alpaca = {"instruction": "Sum", "input": "1 2", "output": "3", "system": "S", "history": [["a", "b"]]}
    assert [(m["role"], m["content"]) for m in load_one(tmp_path, alpaca)] == [
        ("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "Sum\n1 2"), ("assistant", "3"),
    ]  # fmt: skip
    tool = {"name": "f", "parameters": {}}
    talk = {"conversations": [{"from": "function_call", "value": "{}"}], "system": "S", "tools": json.dumps([tool])}
    shared = load_one(tmp_path, talk)
    assert [m["role"] for m in shared] == ["system", "assistant"] and shared.tools == [tool]


def test_what_stands_in_the_prompt_is_not_trained(tmp_path):
    read = load_one(tmp_path, {"prompt": HELLO, "completion": HELLO})
    assert [message.get("train") for message in read] == [None, False, None, None]


def test_openai_weights_become_train(tmp_path):
    read = load_one(tmp_path, {"messages": [HELLO[0], {**HELLO[1], "weight": 0}, {**HELLO[1], "weight": 1}]})
    assert [message.get("train") for message in read] == [None, False, True] and "weight" not in read[1]


def test_empty_contents_and_any_order_are_legal():
    messages = [{"role": "assistant", "content": ""}, {"role": "user", "content": ""}, {"role": "user", "content": " "}]
    assert check_conversation(messages) == messages


def test_a_content_may_be_missing_beside_tool_calls():
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert check_conversation([message])[0]["content"] is None
    del message["content"]
    assert check_conversation([message])[0]["content"] is None


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "no message"),
        ("hello", "expected a list of messages, found str"),
        (["hello"], "message 0: expected an object"),
        ([HELLO[0], {"role": "bot", "content": ""}], "message 1: unknown role 'bot'; write assistant; known roles are"),
        ([{"content": "x"}], "message 0: unknown role None"),
        ([{"role": ["user"], "content": "x"}], "unknown role"),
        ([{"role": "user"}], 'message 0: content is None, not a string; write ""'),
        ([{"role": "user", "content": 3}], "content is 3"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "content part 0: only"),
        ([{"role": "user", "content": "a\ud800b"}], "character 1 is a lone surrogate"),
        ([{"role": "assistant", "content": "", "train": "no"}], "train is 'no'; write true or false"),
        ([{"role": "assistant", "content": "", "weight": -0.5}], "weight is -0.5; a weight of a loss is a finite"),
        ([{"role": "assistant", "content": "", "weight": float("nan")}], "weight is nan; a weight of a loss"),
        ([{"role": "assistant", "content": "", "function_call": {"name": "f"}}], "write tool_calls"),
        ([{"role": "assistant", "content": "", "reasoning_content": 1}], "reasoning_content is 1"),
        ([{"role": "user", "content": "", "tool_calls": [CALL]}], "only an assistant calls tools"),
        ([{"role": "assistant", "content": "", "tool_calls": "f()"}], "tool_calls is 'f()', not a list"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"function": {}}]}], "tool call 0: expected"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}], "arguments is None; write an object"),
        (calling({"x": float("nan")}), "nan is no JSON number"),
        (calling({1: 1}), "key 1 is not a string"),
        (calling({"x": {1}}), "{1} is a set, which JSON cannot say"),
        ({"messages": {"messages": HELLO}}, "expected a list of messages, found dict"),
        ({"messages": HELLO, "tools": "f"}, "tools is 'f'"),
        ({"messages": HELLO, "tools": [{"description": "?"}]}, "tool 0: expected"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_message(messages, words):
    with pytest.raises(ConversationError) as raised:
        check_conversation(messages, "data.jsonl:3")
    assert str(raised.value).startswith("data.jsonl:3") and words in str(raised.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "data.jsonl: the file holds no conversation"),
        ("\n \n", "holds no conversation"),
        ('{"messages": [', "data.jsonl:1, column 15: not valid JSON"),
        ('{"messages": []}', "data.jsonl:1: the conversation has no message"),
        (json.dumps(FORMS["messages"]) + "\n{oops}", "data.jsonl:2, column 2: not valid JSON"),
        ('{"text": "hello"}', "no known form of conversation (found the keys text)"),
        ('{"messages": [], "prompt": "", "completion": ""}', "messages and prompt at once"),
        ("3", "data.jsonl:1: expected an object or a list of messages, found 3"),
        ('{"messages": null}', "expected a list of messages, found NoneType"),
        ('{"conversations": {}}', "conversations is {}, not a list"),
        ('{"conversations": [{"from": "alien", "value": ""}]}', "message 0: unknown speaker 'alien'"),
        ('{"conversations": [{"value": ""}]}', "message 0: expected an object with from and value"),
        ('{"conversations": [], "tools": "[oops"}', "tools is a string, but not of JSON"),
        ('{"instruction": null, "output": ""}', "instruction is None, not a string"),
        ('{"instruction": "", "output": "", "history": [["a"]]}', "history 0: expected [question, answer]"),
        ('{"prompt": "x", "completion": []}', "two strings or two lists"),
        ('{"messages": [], "messages": []}', "the key 'messages' is there twice"),
        ('{"messages": [{"role": "user", "content": NaN}]}', "NaN is no JSON number"),
        ('{"messages": [{"role": "user", "content": -Infinity}]}', "-Infinity is no JSON number"),
        (r'{"messages": [{"role": "user", "content": "\ud800"}]}', "data.jsonl:1, message 0: character 0 is a lone"),
        ('{"messages": ' + "[" * 100_000, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ('{"messages": ' + "1" * 10_000 + "}", "data.jsonl:1"),
        (b'{"messages": "\xff"}', "byte 14 is not UTF-8; save the file as UTF-8"),
        ("\ufeff[]".encode("utf-16"), "not UTF-8"),
        ('{"messages": [{"role": "user", "content": "a\x00b"}]}', "not valid JSON"),
        ("[]", "holds no conversation"),
        ("[3]", "record 0: expected an object"),
    ],
    ids=range(28),
)  # fmt: skip
def test_a_broken_file_is_named_with_its_line(tmp_path, content, words):
    with pytest.raises(ConversationError) as raised:
        load_conversations(written(tmp_path, content))
    assert "data.jsonl" in str(raised.value) and words in str(raised.value)
    assert len(str(raised.value)) < 700


def test_a_duplicate_among_many_keys_is_found_in_one_pass(tmp_path):
    keys = [str(number) for number in range(100_000)]
    content = "{" + ", ".join(f'"{key}": 1' for key in [*keys, keys[-1]]) + "}"
    with pytest.raises(ConversationError, match=r"data\.jsonl:1: the key '99999' is there twice, and one value"):
        load_conversations(written(tmp_path, content))


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert load_conversations(written(tmp_path, "\ufeff" + json.dumps(FORMS["messages"]))) == [HELLO]


def test_line_separators_inside_strings_are_no_line_ends(tmp_path):
    """str.splitlines would cut at U+2028 and at a vertical tab."""
    messages = [{"role": "user", "content": "a\u2028b\x0bc\x85d\re"}]
    raw = json.dumps({"messages": messages}, ensure_ascii=False)
    assert load_conversations(written(tmp_path, raw)) == [messages]


def test_messages_of_ten_megabytes_are_read(tmp_path):
    huge = [{"role": "user", "content": "é" * 5_000_000}, {"role": "assistant", "content": "x" * 10_000_000}]
    path = written(tmp_path, json.dumps({"messages": huge}, ensure_ascii=False))
    assert load_conversations(path)[0][1]["content"] == huge[1]["content"]


def test_deep_arguments_are_refused():
    deep: dict = {}
    for _ in range(500):
        deep = {"x": deep}
    with pytest.raises(ConversationError, match="more than 64 levels"):
        check_conversation(calling(deep))
    with pytest.raises(ConversationError, match="content is"):
        check_conversation([{"role": "user", "content": deep}])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "role", "content", "from", "value", "tool_calls", "tools"]), inner
        )
    ),
    max_leaves=8,
)
keys = st.sampled_from(
    ["messages", "conversations", "prompt", "completion", "instruction", "output", "tools", "system"]
)


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(record=st.dictionaries(keys, json_values) | json_values)
def test_any_json_is_a_conversation_or_a_clear_error(tmp_path_factory, record):
    path = written(tmp_path_factory.mktemp("fuzz"), json.dumps(record))
    try:
        (conversation,) = load_conversations(path)
    except ConversationError as error:
        assert "data.jsonl" in str(error)
    else:
        assert check_conversation(conversation) == conversation


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(cut=st.integers(0, 10**6), insert=st.binary(max_size=3))
def test_any_damaged_file_is_read_or_a_clear_error(tmp_path_factory, cut, insert):
    whole = "\n".join(json.dumps(FORMS[form]) for form in FORMS).encode()
    cut %= len(whole)
    path = written(tmp_path_factory.mktemp("damaged"), whole[:cut] + insert + whole[cut + len(insert) :])
    try:
        load_conversations(path)
    except ConversationError as error:
        assert str(error).startswith("data.jsonl")


def test_the_forms_and_speakers_are_those_of_the_table():
    assert [form.name for form in FORMATS] == [
        "messages", "ShareGPT", "Alpaca", "Dolly", "prompt", "LLM Foundry",
        "query", "question", "OpenOrca", "Gemini", "pairs",
    ]  # fmt: skip
    assert set(SHAREGPT_ROLES.values()) == {"system", "user", "assistant", "tool"}


@pytest.mark.parametrize("history", ["true", "3", "1.5", '"x"'])
def test_a_history_that_is_no_list_is_refused(tmp_path, history):
    path = tmp_path / "talks.jsonl"
    path.write_text(f'{{"instruction": "a", "output": "b", "history": {history}}}\n')
    with pytest.raises(ConversationError, match=r"talks\.jsonl:1, history: expected a list"):
        load_conversations(path)
