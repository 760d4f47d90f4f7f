"""Conversations of an agent: put together from steps, and spelt by hand as the variants that take calls write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from itertools import groupby
from typing import NamedTuple

from sftspec.properties.cases.conversations import HELLO
from sftspec.properties.cases.template import EMPTY_THOUGHTS, IN_TAGS, TAKE_THOUGHTS

FIND, GO = ({"function": {"name": name, "arguments": {"place": place}}} for name, place in (("find", "A"), ("go", "B")))


def _answer(content: str, *calls: dict, thoughts: str = "") -> dict:
    fields = {"tool_calls": list(calls), "reasoning_content": thoughts}
    return {"role": "assistant", "content": content} | {key: value for key, value in fields.items() if value}


def _results(*contents: str) -> list[dict]:
    return [{"role": "tool", "content": content} for content in contents]


# Results that a tidy renderer tidies: JSON without blanks and out of order, tags of thoughts.
STEPS = {
    "question": [{"role": "user", "content": "And?"}],
    "answer": [_answer("One.")],
    "thoughts": [_answer("Two.", thoughts="So.")],
    "call": [_answer("", GO), *_results('{"b":1,"a":2}')],
    "thoughts and call": [_answer("", FIND, thoughts="Ah."), *_results("3")],
    "words and calls": [_answer("Look:", FIND, GO, thoughts="Hm."), *_results("1", "<think>2</think> 3")],
    "call without result": [_answer("", FIND)],
    "instruction": [{"role": "system", "content": "Be brief."}],
}
# Two groups of results and a call that is made again; a question after all that; conversations that end in calls.
AGENTS = [
    ["words and calls", "thoughts and call", "call", "answer"],
    ["words and calls", "thoughts", "question", "call", "words and calls", "thoughts and call", "thoughts"],
    ["answer", "question", "call without result"],
    ["thoughts and call", "question", "words and calls", "call without result", "call without result"],
]


class Spelling(NamedTuple):
    """How a variant writes a turn.

    between    what stands between the content and the calls
    separator  what follows the end of the turn, never trained
    """

    header: str
    call: str
    between: str
    end_of_turn: str
    separator: str


LLAMA = "<|start_header_id|>{}<|end_header_id|>\n\n"
TAGGED = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'
TYPED = '{{"type": "function", "name": "{}", "parameters": {}}}'
SPELT = {
    **{name: Spelling("<|im_start|>{}\n", TAGGED, "\n", "<|im_end|>", "\n") for name in IN_TAGS},
    "llama3/llama-models": Spelling(LLAMA, TYPED, "", "<|eot_id|>", ""),
    "llama3.1/hf": Spelling(LLAMA, TYPED.replace('"type": "function", ', ""), "", "<|eot_id|>", ""),
}


def conversation_of(steps: Sequence[str], template: str) -> list[dict]:
    """The steps, without what the variant has no place for: thoughts, and in Llama-3.1 what stands beside a call."""
    conversation = [deepcopy(message) for message in (*HELLO, *(item for step in steps for item in STEPS[step]))]
    for message in conversation:
        if template not in TAKE_THOUGHTS:
            message.pop("reasoning_content", None)
        if template == "llama3.1/hf" and "tool_calls" in message:
            message |= {"content": "", "tool_calls": message["tool_calls"][:1]}
    return conversation


def spelt_answer(conversation: list[dict], place: int, template: str) -> tuple[str, str]:
    """(what the model is given between its header and its answer, the answer that it writes, with its end of turn).

    Thoughts are kept after the last question; a last answer without any has empty ones, which the model is given where
    it is not to think.
    """
    spelling, message = SPELT[template], conversation[place]
    calls = [call["function"] for call in message.get("tool_calls", ())]
    written = [spelling.call.format(call["name"], json.dumps(call["arguments"])) for call in calls]
    said = spelling.between.join([*filter(None, [message["content"]]), *written]) + spelling.end_of_turn
    question = max(index for index, earlier in enumerate(conversation) if earlier["role"] == "user")
    if template not in TAKE_THOUGHTS or place < question:
        return "", said
    if thoughts := message.get("reasoning_content"):
        return "", f"<think>\n{thoughts}\n</think>\n\n{said}"
    empty = EMPTY_THOUGHTS if place == len(conversation) - 1 else ""
    return (empty, said) if template == "chatml/qwen3-nothink" else ("", empty + said)


def spelt_conversation(conversation: list[dict], template: str) -> str:
    """All turns from the first question on. Results that follow each other are one user's turn in tags, or a turn each
    of "ipython", which Llama-3.1 quotes."""
    spelling, text = SPELT[template], ""
    for role, group in groupby(range(len(conversation)), lambda place: conversation[place]["role"]):
        places = list(group)
        contents = [conversation[place]["content"] for place in places]
        ends = [spelling.end_of_turn] * len(places)
        if role == "assistant":
            contents, ends = (
                ["".join(spelt_answer(conversation, place, template)) for place in places],
                [""] * len(places),
            )
        elif role == "tool" and template in IN_TAGS:
            role, contents = "user", ["\n".join(f"<tool_response>\n{each}\n</tool_response>" for each in contents)]
        elif role == "tool":
            quotes = template == "llama3.1/hf"
            role, contents = "ipython", [json.dumps(each) if quotes else each for each in contents]
        turns = zip(contents, ends, strict=False)
        text += "".join(spelling.header.format(role) + said + end + spelling.separator for said, end in turns)
    return text
