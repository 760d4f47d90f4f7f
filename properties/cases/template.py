"""Conversations that the template properties draw, and what the variants declare about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

from sftspec.golden.conversations import CONTROL
from sftspec.golden.loader import GoldenCase, load_cases
from sftspec.golden.small_tokenizer import load
from sftspec.properties.cases.conversations import BLANKS, EDGES, HELLO, RESULT, ROLES, TWO_TURNS, spoken
from sftspec.templates import TEMPLATES

IGNORE = -100
STRIPPED = ("llama2/meta", "llama2/hf", "llama3/meta", "llama3/hf", "llama3.1/hf")
# System prompts that a variant adds where the conversation has none; Llama-3.1's stands before a written one too.
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

    def __deepcopy__(self, memo: dict) -> Vocabulary:
        return self  # nothing changes it, and it may be large

    def id_of(self, token: str) -> int | None:
        return self.tokenizer.token_to_id(token)


SMALL = Vocabulary("small", load())

# Role and content of every turn of a family, a system block of the template's own included.
# Llama-2 has no such pattern: its system prompt stands inside the first user's turn.
TURN = {
    "chatml": re.compile(r"<\|im_start\|>(\w+)\n(?:<think>\n\n</think>\n\n)?(.*?)<\|im_end\|>(?:\n|\Z)", re.DOTALL),
    "llama3": re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>", re.DOTALL),
}

names = st.sampled_from(sorted(TEMPLATES))
preserving = st.sampled_from(sorted(name for name, template in TEMPLATES.items() if template.prefix_preserving))
plain_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<[|"), max_size=6)
hostile_pieces = st.sampled_from([*CONTROL, " ", "\n", "\r\n", "é", "{{ x }}", "]{"]) | plain_text
hostile_text = st.lists(hostile_pieces, max_size=4).map("".join)


def turns_in(text: str, template: str) -> list[tuple[str, str]]:
    """(role, content) of every turn in a text."""
    return TURN[template.split("/")[0].split(".")[0]].findall(text)


numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    plain_text | numbers | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
    max_leaves=6,
)


@cache  # arguments are drawn once for all that ask for the same strategy
def conversations(texts: st.SearchStrategy[str], ends_with: str = "") -> st.SearchStrategy[list[dict]]:
    """System or none, then user and assistant in turn; the last message from either, or as asked."""

    def build(system: str | None, contents: list[str]) -> list[dict]:
        messages = [] if system is None else [{"role": "system", "content": system}]
        if ends_with and (len(contents) % 2 == 0) != (ends_with == "assistant"):
            contents = [*contents, "z"]
        for index, content in enumerate(contents):
            messages.append({"role": ("user", "assistant")[index % 2], "content": content})
        return messages

    return st.builds(build, st.none() | texts, st.lists(texts, min_size=1, max_size=5))


def in_each(templates: Iterable[str], *messages: list[dict]) -> list[dict]:
    """Each of these conversations in each of these templates, as explicit arguments of a property."""
    return [{"messages": each, "template": name} for each in messages for name in templates]


in_any_order = st.lists(st.sampled_from(ROLES), min_size=1, max_size=12).map(spoken)
EVERY = sorted(TEMPLATES)
TAKE_A_LATE_SYSTEM = [name for name in EVERY if not name.startswith(("llama2", "chatml/qwen1"))]
IN_EVERY = in_each(EVERY, TWO_TURNS)
EDGES_IN_EVERY = in_each(EVERY, EDGES)
BLANK_IN_EVERY = in_each(EVERY, BLANKS)
# What most properties draw; who answers last is drawn too, unless the property is about an answer.
PLAIN = {"messages": conversations(plain_text), "template": names}
HOSTILE = {"messages": conversations(hostile_text), "template": names}
EACH_TEMPLATE = {"given": {"template": names}, "examples": [{"template": name} for name in EVERY]}
CALL_KEYS = {name: ["name", "arguments"] for name in ("chatml/qwen2.5", "chatml/qwen3", "chatml/qwen3-nothink")} | {
    "llama3/llama-models": ["type", "name", "parameters"],
    "llama3.1/hf": ["name", "parameters"],
}
ESCAPES_CALLS = "llama3/llama-models"  # what is not ASCII in them; the others write every letter as itself
TAKE_TOOLS = [name for name in EVERY if "tools" in TEMPLATES[name].places]
TAKE_THOUGHTS = [name for name in EVERY if "reasoning_content" in TEMPLATES[name].places]
IN_TAGS = [name for name in TAKE_TOOLS if name.startswith("chatml")]  # a tool's result is a user's turn there
RESULT_IN_EVERY = in_each(TAKE_A_LATE_SYSTEM, RESULT)


@cache
def published(template: str) -> tuple[GoldenCase, ...]:
    """The goldens of a variant; without thinking, Qwen3's text is the same where it is not a prompt."""
    if template == "chatml/qwen3-nothink":
        return tuple(case for case in published("chatml/qwen3") if not case.add_generation_prompt)
    return tuple(load_cases([template]))


PUBLISHED = {
    "given": {"template": names, "number": st.integers(0, 99)},
    "examples": [{"template": name, "number": number} for name in EVERY for number in range(len(published(name)))],
}


def norm(content: str, template: str) -> str:
    """A content, trimmed where the variant declares that it trims."""
    return content.strip() if template in STRIPPED else content


def text_or_refusal(render: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[str | None, str]:
    """The text that a function renders, or None and how it refuses: by any exception."""
    try:
        return render(*arguments, **options).text, ""
    except UnsatisfiedAssumption:  # hypothesis' own: these arguments are not judged
        raise
    except Exception as error:
        return None, f"refused: {type(error).__name__}: {error}"


def value_or_none(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a function returns, or None where it refuses, which it may do with a field that it has no place for."""
    try:
        return function(*arguments, **options)
    except Exception:
        return None


TOOL = "ns.findAll"


def with_field(messages: list[dict], place: int, *fields: dict) -> list[list[dict]]:
    """The conversation with each of these fields in its message at this place (modulo their number)."""
    place %= len(messages)
    return [[*messages[:place], {**messages[place], **field}, *messages[place + 1 :]] for field in fields]


def in_parts(message: dict, cut: int) -> dict:
    """The content of a message as three text parts, the second of one character."""
    content = message["content"]
    texts = content[:cut], content[cut : cut + 1], content[cut + 1 :]
    return {"content": [{"type": "text", "text": text} for text in texts]}


def tool(name: str, description: str = "", **more: Any) -> dict:
    return {"type": "function", "function": {"name": name, "description": description, "strict": True, **more}}


def answer_with_calls(arguments: dict, count: int = 1, content: str | None = "") -> dict:
    """A message that calls the tool TOOL so many times, with these arguments each time."""
    call = {"type": "function", "function": {"name": TOOL, "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [call] * count}


def in_fields(text: str, template: str) -> Iterator[tuple[list[dict], list[dict] | None]]:
    """A text in each field beside content that a variant has a place for: (messages, tools)."""
    if template in CALL_KEYS:
        yield [*HELLO, answer_with_calls({text: text})], None
    if template in TAKE_THOUGHTS:
        yield [*HELLO, {"role": "assistant", "content": "", "reasoning_content": text}], None
    if template in TAKE_TOOLS:
        yield HELLO, [tool("find", text)]


def words_of(message: dict) -> list[str]:
    """What a message says, in the order in which templates write it: thoughts, content, names and values of calls."""
    calls = [call["function"] for call in message.get("tool_calls", ())]
    parts = [message.get("reasoning_content", ""), message["content"]]
    return parts + [part for call in calls for part in (call["name"], *call["arguments"].values())]


def answers(messages: list[dict]) -> list[int]:
    return [index for index, message in enumerate(messages) if message["role"] == "assistant"]
