"""The forms in which people keep conversations, read into one.

    messages         {"messages": [{"role", "content"}], "tools"?}              OpenAI, Hugging Face
    ShareGPT         {"conversations": [{"from", "value"}], "system"?, "tools"?} Vicuna, LLaMA-Factory
    Alpaca           {"instruction", "input"?, "output", "system"?, "history"?} Stanford Alpaca, Self-Instruct
    Dolly            {"instruction", "context"?, "response", "category"?}       Databricks
    prompt           {"prompt", "completion"}: two strings, or two lists of messages   TRL
    LLM Foundry      {"prompt", "response"}: two strings                         MosaicML, Databricks
    query            {"query", "response", "system"?, "history"?}               ms-swift
    question         {"question", "answer" or "response", "system_prompt"?}     GSM8K, OpenOrca
    Gemini           {"contents": [{"role", "parts": [{"text"}]}], "systemInstruction"?}  Vertex AI
    pairs            {"conversation": [{"input", "output", "system"?}]}         XTuner; ms-swift: {"human", "assistant"}

Rule of this file: a record is read in the form whose keys it has, and refused when it has those of none or of two.
What stands beside these keys (system prompts, tools, flags of training, template arguments, media) is read, refused or
remarked as fields.py says. An input or a context follows the instruction on a new line of the same user's message
(LLaMA-Factory data/README.md: "instruction\\ninput").
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sftspec import fields
from sftspec.conversation import Conversation, ConversationError, check_conversation, shown, what_to_write
from sftspec.weights import weighing

SHAREGPT_ROLES = {
    "system": "system",
    "human": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant", "function_call": "assistant",
    "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip


# Of a record that is no conversation: what it is, and what to do.
OTHER_RECORDS = {
    ("input_ids",): "a prepared row: audit it with --prepared",
    ("chosen", "rejected"): "a preference: write the chosen answer as messages",
    ("preferred_output",): "a preference (OpenAI's form): write the preferred answer as messages",
    ("segments",): "text with labels and without roles (axolotl's input_output): audit its rows with --prepared",
    ("custom_id", "body"): "a request of a batch: write its messages with their answer as messages",
    ("message_id", "role"): "one message of a tree (Open Assistant): write each path from its root as messages",
    ("data",): "records inside an object: write the list under data alone",
    ("rows",): "records inside an object: write the list under rows alone",
    ("text",): "text without roles, so that nobody can tell what is to be trained: write messages",
}


@dataclass(frozen=True)
class Format:
    """A form: the keys that it must have, and how its record is read into (messages, tools).

    reads  the keys beside these that it reads itself
    """

    name: str
    keys: tuple[str, ...]
    read: Callable[[Mapping, str], tuple[list, Any]]
    reads: tuple[str, ...] = ()


def read_record(record: Any, source: str, drop_nulls: bool = False) -> Conversation:
    """One record of a file as a Conversation.

    `drop_nulls` leaves out nulls in tool calls and tools. Raises ConversationError with the source, and what to do.

    >>> read_record({"prompt": "2+2?", "completion": "4"}, "data.jsonl:1")[1]
    {'role': 'assistant', 'content': '4'}
    """
    if isinstance(record, list):
        return check_conversation(record, source)
    if not isinstance(record, Mapping):
        raise ConversationError(f"{source}: expected an object or a list of messages, found {shown(record)}")
    record = {key: value for key, value in record.items() if value is not None or key in KEYS}
    form = _form_of(record, source)
    messages, tools = form.read(record, source)
    if len(record) == len(form.keys) and not drop_nulls:
        return check_conversation(messages, source, tools)
    return _with_what_stands_beside(record, form, messages, tools, source, drop_nulls)


def _form_of(record: Mapping, source: str) -> Format:
    fitting = [form for form in FORMATS if all(key in record for key in form.keys)]
    if len(fitting) > 1:  # Arrow puts null where another row has the key
        fitting = [form for form in fitting if all(record[key] is not None for key in form.keys)] or fitting
    if len(fitting) == 1:
        return fitting[0]
    found = f"found the keys {', '.join(map(str, record))}"[:200]
    known = "; ".join(f"{form.name}: {', '.join(form.keys)}" for form in FORMATS)
    what = next((what for keys, what in OTHER_RECORDS.items() if all(key in record for key in keys)), "")
    fault = " and ".join(form.name for form in fitting) + " at once" if fitting else "no known form of conversation"
    raise ConversationError(f"{source}: {fault} ({found}); {what or f'forms and their keys are {known}'}")


def _with_what_stands_beside(
    record: Mapping, form: Format, messages: Any, tools: Any, source: str, drop_nulls: bool
) -> Conversation:
    """The conversation with its record's system prompt, flags and template arguments, or an error."""
    refuse = partial(_error, source)
    beside = {key: value for key, value in record.items() if key not in (*form.keys, *form.reads)}
    fields.refuse_media(beside, refuse)
    remarks: list[str] = []
    arguments = beside.get("chat_template_kwargs")
    if not fields.is_void(arguments) and not isinstance(arguments, Mapping):
        raise refuse(f"chat_template_kwargs is {shown(arguments)}, not an object")
    if arguments and (taken := {"messages", "tools", "documents", "add_generation_prompt"} & arguments.keys()):
        raise refuse(f"chat_template_kwargs has {min(taken)}, which is not read there; write it beside the messages")
    for key in fields.ARGUMENTS:
        if key in beside and not (key == "thinking" and isinstance(beside[key], str)):
            raise refuse(f"{key} changes what a template renders; write it into chat_template_kwargs")
    for key in (*fields.THOUGHTS, *fields.OTHER_THOUGHTS):
        if key in beside and fields.carries_text(beside[key]):
            raise refuse(f"{key} beside the messages belongs to one of them; write it there, as reasoning_content")
    if beside.get("label") is False:
        raise refuse(
            "label is false: an answer that is not wanted (KTO); leave it out, or it is trained as one that is"
        )
    mask = beside.get("mask")
    if isinstance(mask, str) and mask.lower() in ("user", "human"):  # NeMo: the speaker who is not trained
        beside = {key: value for key, value in beside.items() if key != "mask"}
    weight = fields.read_weight(beside, refuse)
    if isinstance(messages, list):
        messages = [*_missing_system(beside, messages, refuse), *messages]
        if weight == 0:
            messages = [{**item, "train": False} if isinstance(item, Mapping) else item for item in messages]
            remarks.append("a flag of the record says that nothing of it is trained")
        if drop_nulls:
            messages = [_without_nulls(item) if isinstance(item, Mapping) else item for item in messages]
    tools = fields.without_nulls(tools) if drop_nulls else tools
    read = {*fields.METADATA, *fields.SYSTEMS, *fields.TOOLS, "chat_template_kwargs"}
    remarks += [f"{key} of a record is not read" for key in fields.unread(beside, read)]
    conversation = check_conversation(messages, source, tools)
    if weight not in (None, 0, 1):
        weighed = weighing(conversation, weight)
        conversation = Conversation(weighed, source, conversation.tools, None, conversation.remarks)
        remarks.append("a weight of the record weighs the loss of all of it")
    remarks += conversation.remarks
    return Conversation(conversation, source, conversation.tools, dict(arguments) if arguments else None, remarks)


def _without_nulls(message: Mapping) -> dict:
    calls = message.get("tool_calls")
    kept = {key: value for key, value in message.items() if value is not None or key == "content"}
    return kept | {"tool_calls": fields.without_nulls(calls)} if calls else kept


def _missing_system(record: Mapping, messages: list, refuse: fields.Refuse) -> list:
    """The system prompt that stands beside the messages, where they do not begin with it."""
    system = _system(record, refuse)
    first = messages[0] if messages and isinstance(messages[0], Mapping) else {}
    if not system or first.get("role") != "system":
        return system
    if first.get("content") != system[0]["content"]:
        raise refuse("a system prompt stands beside the messages and another in them; keep one")
    return []


def _messages(record: Mapping, source: str) -> tuple[list, Any]:
    return record["messages"], _tools(record, source)


def _sharegpt(record: Mapping, source: str) -> tuple[list, Any]:
    turns = record["conversations"]
    if not isinstance(turns, list):
        raise ConversationError(f"{source}: conversations is {shown(turns)}, not a list{what_to_write(turns)}")
    messages = []
    for index, turn in enumerate(turns):
        place = f"{source}, message {index}"
        if isinstance(turn, Mapping) and "role" in turn:
            messages.append(turn)
            continue
        if not isinstance(turn, Mapping) or "from" not in turn or "value" not in turn:
            raise ConversationError(f"{place}: expected an object with from and value, found {shown(turn)}")
        speaker = turn["from"]
        if not isinstance(speaker, str) or speaker.lower() not in SHAREGPT_ROLES:  # NeMo writes User
            raise ConversationError(f"{place}: unknown speaker {shown(speaker)}; known are {', '.join(SHAREGPT_ROLES)}")
        others = {key: value for key, value in turn.items() if key not in ("from", "value")}
        messages.append({"role": SHAREGPT_ROLES[speaker.lower()], "content": turn["value"], **others})
    return messages, _tools(record, source)


def _instruction(question: str, extra: str, answer: str) -> Callable[[Mapping, str], tuple[list, Any]]:
    def read(record: Mapping, source: str) -> tuple[list, Any]:
        asked, more = _text(record, question, source), _text(record, extra, source, optional=True)
        messages = []
        history = record.get("history") or []
        if not isinstance(history, list):
            raise ConversationError(f"{source}, history: expected a list of [question, answer], found {shown(history)}")
        for number, pair in enumerate(history):
            if not isinstance(pair, list) or len(pair) != 2:
                raise ConversationError(f"{source}, history {number}: expected [question, answer], found {shown(pair)}")
            messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        messages.append({"role": "user", "content": f"{asked}\n{more}" if more else asked})
        messages.append({"role": "assistant", "content": _text(record, answer, source)})
        return messages, _tools(record, source)

    return read


def _gemini(record: Mapping, source: str) -> tuple[list, Any]:
    messages = []
    for index, turn in enumerate(_list(record, "contents", source)):
        place = f"{source}, message {index}"
        if not isinstance(turn, Mapping) or not isinstance(turn.get("parts"), list):
            raise ConversationError(f"{place}: expected an object with role and parts, found {shown(turn)}")
        role = {"model": "assistant", None: "user"}.get(turn.get("role"), turn.get("role"))
        messages.append({"role": role, "content": turn["parts"]})
    return messages, _tools(record, source)


def _pairs(record: Mapping, source: str) -> tuple[list, Any]:
    messages: list = []
    for index, pair in enumerate(_list(record, "conversation", source)):
        place = f"{source}, pair {index}"
        keys = [keys for keys in (("input", "output"), ("human", "assistant"))
                if isinstance(pair, Mapping) and all(key in pair for key in keys)]  # fmt: skip
        if len(keys) != 1:
            raise ConversationError(f"{place}: expected an object with input and output, found {shown(pair)}")
        messages += _system(pair, partial(_error, place))
        asked, answer = (_text(pair, key, place, optional=key == "input") for key in keys[0])
        if asked:
            messages.append({"role": "user", "content": asked})
        others = {key: value for key, value in pair.items() if key not in (*keys[0], *fields.SYSTEMS)}
        messages.append({"role": "assistant", "content": answer, **others})
    return messages, _tools(record, source)


def _error(place: str, said: str) -> ConversationError:
    return ConversationError(f"{place}: {said}")


def _list(record: Mapping, key: str, source: str) -> list:
    if not isinstance(record[key], list):
        raise ConversationError(f"{source}: {key} is {shown(record[key])}, not a list{what_to_write(record[key])}")
    return record[key]


def _prompt_completion(record: Mapping, source: str) -> tuple[list, Any]:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        # What stands in the prompt is given, also an assistant's earlier answer (TRL: completion_only_loss).
        given = [
            {**message, "train": False}
            if isinstance(message, Mapping) and message.get("role") == "assistant"
            else message
            for message in prompt
        ]
        return given + completion, _tools(record, source)
    if isinstance(prompt, str) and isinstance(completion, str):
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        return messages, _tools(record, source)
    raise ConversationError(f"{source}: prompt and completion have to be two strings or two lists of messages")


def _system(record: Mapping, refuse: fields.Refuse) -> list:
    """The system prompt of a record: a text, a list of text parts (Bedrock), or {"parts": …} (Gemini)."""
    texts = {}
    for key in fields.SYSTEMS:
        value = record.get(key)
        if isinstance(value, Mapping):
            value = value.get("parts")
        if isinstance(value, list):
            value = fields.read_parts(value, refuse)[0]
        if value is not None and not isinstance(value, str):
            raise refuse(f'{key} is {shown(value)}, not a string; write "" where it is empty')
        if value:
            texts[key] = value
    if len(set(texts.values())) > 1:
        raise refuse(f"{' and '.join(texts)} say different things; keep one")
    return [{"role": "system", "content": text} for text in list(texts.values())[:1]]


def _tools(record: Mapping, source: str) -> Any:
    """Tool definitions; ShareGPT keeps them as a JSON string, OpenAI's older form calls them functions."""
    tools, functions = (_json(record, key, source) for key in fields.TOOLS)
    if tools and functions:
        raise ConversationError(f"{source}: tools and functions at once; keep tools")
    if isinstance(functions, list):
        return [{"type": "function", "function": function} for function in functions]
    return tools or functions


def _json(record: Mapping, key: str, source: str) -> Any:
    value = record.get(key) or None
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) or None
    except (ValueError, RecursionError):
        raise ConversationError(f"{source}: {key} is a string, but not of JSON: {shown(value)}") from None


def _text(record: Mapping, key: str, source: str, optional: bool = False) -> str:
    text = record.get(key)
    if text is None and optional:
        return ""
    if not isinstance(text, str):
        raise ConversationError(f'{source}: {key} is {shown(text)}, not a string; write "" where it is empty')
    return text


FORMATS = (
    Format("messages", ("messages",), _messages),
    Format("ShareGPT", ("conversations",), _sharegpt),
    Format("Alpaca", ("instruction", "output"), _instruction("instruction", "input", "output"), ("input", "history")),
    Format(
        "Dolly", ("instruction", "response"), _instruction("instruction", "context", "response"), ("context", "history")
    ),
    Format("prompt", ("prompt", "completion"), _prompt_completion),
    Format("LLM Foundry", ("prompt", "response"), _instruction("prompt", "", "response")),
    Format("query", ("query", "response"), _instruction("query", "", "response"), ("history",)),
    Format("question", ("question", "answer"), _instruction("question", "", "answer"), ("history",)),
    Format("OpenOrca", ("question", "response"), _instruction("question", "", "response"), ("history",)),
    Format("Gemini", ("contents",), _gemini),
    Format("pairs", ("conversation",), _pairs),
)
KEYS = frozenset(key for form in FORMATS for key in form.keys)
