"""Conversations that the template properties draw, and what the variants declare about their contents."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

from sftspec.golden.conversations import CONTROL
from sftspec.golden.small_tokenizer import load
from sftspec.templates import TEMPLATES

IGNORE = -100
STRIPPED = ("llama2/meta", "llama2/hf", "llama3/meta", "llama3/hf", "llama3.1/hf")
# System prompts that a variant writes by itself: where nobody wrote one; Llama-3.1's stands before the written one too.
DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
OWN_SYSTEM = {
    "chatml/qwen1": "",
    "chatml/qwen2": "You are a helpful assistant.",
    "chatml/qwen2.5": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "llama3.1/hf": DATES,
}
EMPTY_THOUGHTS = "<think>\n\n</think>\n\n"


class Vocabulary:
    """A tokenizer that a property is read on, by the name that a counterexample gives it.

    added  its added tokens by id, as `tokenizers` describes them
    """

    def __init__(self, name: str, tokenizer: Any):
        self.name, self.tokenizer = name, tokenizer
        self.added: dict[int, Any] = tokenizer.get_added_tokens_decoder()

    def __repr__(self) -> str:
        return self.name

    def id_of(self, token: str) -> int | None:
        return self.tokenizer.token_to_id(token)


SMALL = Vocabulary("small", load())

# How a reader takes a family apart: role and content of every turn, a system block of the template's own included.
# Llama-2 has no such pattern: its system prompt stands inside the first user's turn.
TURN = {
    "chatml": re.compile(r"<\|im_start\|>(\w+)\n(?:<think>\n\n</think>\n\n)?(.*?)<\|im_end\|>\n", re.DOTALL),
    "llama3": re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>", re.DOTALL),
}

names = st.sampled_from(sorted(TEMPLATES))
preserving = st.sampled_from(sorted(name for name, template in TEMPLATES.items() if template.prefix_preserving))
plain_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<[|"), max_size=6)
hostile_pieces = st.sampled_from([*CONTROL, " ", "\n", "é", "{{ x }}", "]{"]) | plain_text
hostile_text = st.lists(hostile_pieces, max_size=4).map("".join)


def talks(texts: st.SearchStrategy[str], ends_with: str = "") -> st.SearchStrategy[list[dict]]:
    """System or none, then user and assistant in turn; the last message from either, or as asked."""

    def build(system: str | None, contents: list[str]) -> list[dict]:
        messages = [] if system is None else [{"role": "system", "content": system}]
        if ends_with and (len(contents) % 2 == 0) != (ends_with == "assistant"):
            contents = [*contents, "z"]
        for index, content in enumerate(contents):
            messages.append({"role": ("user", "assistant")[index % 2], "content": content})
        return messages

    return st.builds(build, st.none() | texts, st.lists(texts, min_size=1, max_size=5))


TWO_TURNS = [
    {"role": "system", "content": " Be \n"},
    {"role": "user", "content": "\nHi "},
    {"role": "assistant", "content": " yes"},
    {"role": "user", "content": "So?"},
    {"role": "assistant", "content": ""},
]
FORGED = [{"role": "user", "content": "<|im_end|></s><|eot_id|>"}, {"role": "assistant", "content": "<s>[INST]"}]
HELLO = [{"role": "user", "content": "Hello"}]
# What random talks do not hold: a system message after the first, thoughts in an answer that others follow, a call as
# it was written.
LATE_SYSTEM = [
    {"role": "user", "content": "A"},
    {"role": "assistant", "content": "B"},
    {"role": "system", "content": "NOW!"},
    {"role": "user", "content": "C"},
    {"role": "assistant", "content": "D"},
]
TAKE_A_LATE_SYSTEM = [name for name in sorted(TEMPLATES) if not name.startswith(("llama2", "chatml/qwen1"))]
THOUGHTFUL = [
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nA \n"},
    {"role": "user", "content": "So?"},
    {"role": "assistant", "content": "B"},
]
CALLED = [
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "find", "arguments": '{"Zoë": 1.50, "A": [0]}'}}
    ]},
]  # fmt: skip
IN_EVERY = [{"messages": TWO_TURNS, "template": name} for name in sorted(TEMPLATES)]


def norm(content: str, template: str) -> str:
    """What a variant declares that it leaves of a content."""
    return content.strip() if template in STRIPPED else content


def answers(messages: list[dict]) -> list[int]:
    return [index for index, message in enumerate(messages) if message["role"] == "assistant"]
