"""The forms in which people keep conversations, read into one.

    messages         {"messages": [{"role", "content"}], "tools"?}              OpenAI, Hugging Face
    ShareGPT         {"conversations": [{"from", "value"}], "system"?, "tools"?} Vicuna, LLaMA-Factory
    Alpaca           {"instruction", "input"?, "output", "system"?, "history"?} Stanford Alpaca, Self-Instruct
    Dolly            {"instruction", "context"?, "response", "category"?}       Databricks
    prompt           {"prompt", "completion"}: two strings, or two lists of messages   TRL

Rule of this file: a record is read in the form whose keys it has, and refused when it has those of none or of two.
Keys beside these (id, split, category …) are not training text. An input or a context follows the instruction on a new
line of the same user's message (LLaMA-Factory data/README.md: "instruction\\ninput").
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sftspec.conversation import Conversation, ConversationError, check_conversation, shown

SHAREGPT_ROLES = {
    "system": "system",
    "human": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant", "function_call": "assistant",
    "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip


@dataclass(frozen=True)
class Format:
    """A form: the keys that it must have, and how its record is read into (messages, tools)."""

    name: str
    keys: tuple[str, ...]
    read: Callable[[Mapping, str], tuple[list, Any]]


def read_record(record: Any, source: str) -> Conversation:
    """One record of a file as a Conversation.

    Raises ConversationError with the source, and what to do.
    """
    if isinstance(record, list):
        return check_conversation(record, source)
    if not isinstance(record, Mapping):
        raise ConversationError(f"{source}: expected an object or a list of messages, found {shown(record)}")
    fitting = [form for form in FORMATS if all(key in record for key in form.keys)]
    if len(fitting) != 1:
        found = f"found the keys {', '.join(map(str, record))}"[:200]
        known = "; ".join(f"{form.name}: {', '.join(form.keys)}" for form in FORMATS)
        fault = "no known form of conversation" if not fitting else f"{' and '.join(f.name for f in fitting)} at once"
        raise ConversationError(f"{source}: {fault} ({found}); forms and their keys are {known}")
    messages, tools = fitting[0].read(record, source)
    return check_conversation(messages, source, tools)


def _messages(record: Mapping, source: str) -> tuple[list, Any]:
    return record["messages"], _tools(record, source)


def _sharegpt(record: Mapping, source: str) -> tuple[list, Any]:
    turns = record["conversations"]
    if not isinstance(turns, list):
        raise ConversationError(f"{source}: conversations is {shown(turns)}, not a list")
    messages = _system(record, source)
    for index, turn in enumerate(turns):
        place = f"{source}, message {index}"
        if isinstance(turn, Mapping) and "role" in turn:
            messages.append(turn)
            continue
        if not isinstance(turn, Mapping) or "from" not in turn or "value" not in turn:
            raise ConversationError(f"{place}: expected an object with from and value, found {shown(turn)}")
        speaker = turn["from"]
        if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
            raise ConversationError(f"{place}: unknown speaker {shown(speaker)}; known are {', '.join(SHAREGPT_ROLES)}")
        others = {key: value for key, value in turn.items() if key not in ("from", "value")}
        messages.append({"role": SHAREGPT_ROLES[speaker], "content": turn["value"], **others})
    return messages, _tools(record, source)


def _instruction(extra: str, answer: str) -> Callable[[Mapping, str], tuple[list, Any]]:
    def read(record: Mapping, source: str) -> tuple[list, Any]:
        instruction, more = _text(record, "instruction", source), _text(record, extra, source, optional=True)
        messages = _system(record, source)
        history = record.get("history") or []
        if not isinstance(history, list):
            raise ConversationError(f"{source}, history: expected a list of [question, answer], found {shown(history)}")
        for number, pair in enumerate(history):
            if not isinstance(pair, list) or len(pair) != 2:
                raise ConversationError(f"{source}, history {number}: expected [question, answer], found {shown(pair)}")
            messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        messages.append({"role": "user", "content": f"{instruction}\n{more}" if more else instruction})
        messages.append({"role": "assistant", "content": _text(record, answer, source)})
        return messages, _tools(record, source)

    return read


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


def _system(record: Mapping, source: str) -> list:
    system = _text(record, "system", source, optional=True)
    return [{"role": "system", "content": system}] if system else []


def _tools(record: Mapping, source: str) -> Any:
    """Tool definitions; ShareGPT keeps them as a JSON string."""
    tools = record.get("tools") or None
    if not isinstance(tools, str):
        return tools
    try:
        return json.loads(tools) or None
    except (ValueError, RecursionError):
        raise ConversationError(f"{source}: tools is a string, but not of JSON: {shown(tools)}") from None


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
    Format("Alpaca", ("instruction", "output"), _instruction("input", "output")),
    Format("Dolly", ("instruction", "response"), _instruction("context", "response")),
    Format("prompt", ("prompt", "completion"), _prompt_completion),
)
