"""What a chat template declares by what it does: the named variant that it is a copy of, and its habits.

Tried on one conversation, never read off a name or a source: a template that is called ChatML may be another.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

from sftspec import render
from sftspec.masking import IGNORE, Encoded
from sftspec.spans import Rendered, TemplateError
from sftspec.templates import TEMPLATES, Template

PROBE = [{"role": "user", "content": " Query "}, {"role": "assistant", "content": " Reply "}]
MARKERS = ("<|im_start|>", "<|start_header_id|>", "[INST]")
TRAINS_SEPARATOR = "trains the newline after the end-of-turn"
DROPS_EMPTY_SYSTEM = "leaves an empty system message out"


ROUNDS = [{"role": role, "content": role.title()} for role in ("system", "user", "assistant", "user", "assistant")]


def traits(template: Template) -> tuple:
    """What tells families apart: markers, trimming, thoughts, dates, what stands around what is said.

    Where markers are text (Llama-2), the text, of two rounds too: one round with spaces around what is said is also
    Mistral's.
    """
    text = render(PROBE, template).text
    prompt = render(PROBE[:1], template, add_generation_prompt=True).text
    marker = next((marker for marker in MARKERS if marker in text), "")
    thoughts = [re.findall(r"</?think>\s*", part) for part in (prompt, text)]
    exact = (text, rounds_of(template)) if marker == "[INST]" else " Query " in text
    return marker, exact, *map(tuple, thoughts), "Cutting Knowledge" in text, around_what_is_said(text, marker)


def rounds_of(template: Template) -> str:
    try:
        return render(ROUNDS, template).text
    except TemplateError:
        return ""


def around_what_is_said(text: str, marker: str) -> str:
    """The text from the question's turn to the answer's last word, without white space and thoughts: other roles or
    words there are another family's, and white space may be a fault."""
    start = text.rfind(marker, 0, text.find("Query")) if marker else -1
    stop = text.find("Reply") + len("Reply")
    return re.sub(r"\s|</?think>", "", text[max(start, 0) : stop])


@cache
def traits_of_variants() -> dict[str, tuple[tuple, str]]:
    return {name: (traits(template), render(PROBE, template).text) for name, template in TEMPLATES.items()}


def variant_of(template: Template) -> str:
    """The named variant that a template is a copy of, or ""; among several that fit, one of the same text."""
    if template.name in TEMPLATES:
        return template.name
    found, text = traits(template), render(PROBE, template).text
    fitting = [name for name, (known, _) in traits_of_variants().items() if known == found and found[0]]
    known = traits_of_variants()
    return min(fitting, key=lambda name: (known[name][1] != text, not name.endswith("/hf")), default="")


def why_nothing_can_be_read(template: Template) -> str:
    """ "" where a plain conversation is rendered with what it says; else what happens to it."""
    try:
        text = render(PROBE, template).text
    except TemplateError as error:
        return f"it renders no plain conversation: {error}"
    lost = [message["content"].strip() for message in PROBE if message["content"].strip() not in text]
    if lost:
        return "contents that are strings are not rendered: it wants lists of parts, as templates of vision models do"
    return ""


def habits_of(template: Template) -> Iterator[str]:
    """What a template does that the specification leaves to it (templates.md M1, C3)."""
    rendered = render(PROBE, template)
    if separators(rendered):
        yield TRAINS_SEPARATOR
    silent = [{"role": "system", "content": ""}, *PROBE]
    try:
        if render(silent, template).text == rendered.text:
            yield DROPS_EMPTY_SYSTEM
    except TemplateError:
        return


FIND = {"type": "function", "function": {"name": "find_mark", "description": "Finds.", "parameters": {}}}
ASK, DONE = {"role": "user", "content": "Query"}, {"role": "assistant", "content": "Done"}


def _calls(*places: str) -> dict:
    called = [{"name": "find_mark", "arguments": {"place": place}} for place in places]
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": each} for each in called],
    }


TOLD = {"role": "tool", "content": "MARK"}
# What a template may take beside contents: what has to stand in the text, and conversations that say it.
FIELDS: dict[str, tuple[Any, ...]] = {
    "tools": (("find_mark",), [ASK]),
    "calls": (("MARK",), [ASK, _calls("MARK")]),
    "parallel calls": (("MARK", "OTHER"), [ASK, _calls("MARK", "OTHER")]),
    "results": (("MARK",), [ASK, _calls("A"), TOLD, DONE], [ASK, DONE, TOLD, DONE]),
    "thoughts": (("MARK",), [ASK, {**DONE, "reasoning_content": "MARK"}]),
}


def fields_of(template: Template) -> list[str]:
    """What a template writes beside contents, each tried beside a tool and without one."""
    return [
        name
        for name, (marks, *talks) in FIELDS.items()
        if any(_writes(template, talk, tools, marks) for talk in talks for tools in ([FIND], None))
    ]


def _writes(template: Template, talk: list[dict], tools: list[dict] | None, marks: tuple[str, ...]) -> bool:
    try:
        text = render(talk, template, tools=tools).text
    except TemplateError:
        return False
    return all(mark in text for mark in marks)


def has_empty_system(messages: list[dict]) -> bool:
    return any(message["role"] == "system" and not message["content"].strip() for message in messages)


def separators(rendered: Rendered) -> list[int]:
    """The spans of white space that a template lets the model write after its end-of-turn."""
    spans = rendered.spans
    return [
        index + 1
        for index, (left, right) in enumerate(pairwise(spans))
        if (left.kind, right.kind) == ("end_of_turn", "generated")
        and left.message == right.message
        and rendered.text[right.start : right.end].isspace()
    ]


def without_separators(example: Encoded) -> Encoded:
    """The labels, without what was trained after the end of a turn."""
    after = frozenset(separators(example.rendered))
    pairs = zip(example.labels, example.owners, strict=True)
    return dataclasses.replace(example, labels=[IGNORE if owner in after else label for label, owner in pairs])
