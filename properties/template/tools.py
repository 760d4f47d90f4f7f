"""Templates: tools that are listed.

Qwen's and Llama's variants list them each in their own way, beside a system prompt or in the first question. A model
that was trained on another list calls tools that were never offered (cookbook#466).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import reduce
from typing import NamedTuple

from hypothesis import strategies as st

from sftspec.golden.oracles import common_prefix
from sftspec.properties import must, takes
from sftspec.properties.cases.conversations import BLANKS, HELLO, LATE_SYSTEM, ONE_FIELD, RESULT, TWO_TURNS
from sftspec.properties.cases.template import (
    TAKE_TOOLS,
    conversations,
    hostile_text,
    norm,
    tool,
    value_or_none,
)
from sftspec.templates import TEMPLATES


def objects_in(text: str) -> Iterator[dict]:
    """The JSON objects that stand in a text, those inside others left out."""
    start = text.find("{")
    while start >= 0:
        try:
            found, start = json.JSONDecoder().raw_decode(text, start)
            yield found
        except ValueError:
            start += 1
        start = text.find("{", start)


def added(before: str, after: str, end: str) -> list[str]:
    """What a text has that it did not have before: one stretch, or one for each turn up to the token that ends it."""
    start = len(common_prefix(before, after))
    if after.endswith(before[start:]):
        return [after[start : len(after) - len(before) + start]]
    (one, _, rest), (other, found, longer) = before.partition(end), after.partition(end)
    return added(one, other, end) + added(rest, longer, end) if found else [after]


# What a printer of JSON may escape and need not: letters of HTML, as Jinja's own does, and what is not ASCII.
ESCAPED = "<b> & it's \u00e9 \u2028"
# What a copier of schemas leaves out, or puts in order: a default of null, values in no order, no parameters at all.
CHOICE = {"type": "object", "properties": {"u": {"enum": ["b", "a"], "default": None}}, "required": ["u"]}
NOTHING = {"type": "object", "properties": {}}
TOOLS = [
    tool("first", ESCAPED, parameters=CHOICE),
    tool("second", parameters=NOTHING),
    tool("bare", ESCAPED)["function"],  # it has no "function", and may be refused
]
NO_SYSTEM, EMPTY_SYSTEM = TWO_TURNS[1:], [{"role": "system", "content": ""}, *HELLO]
BESIDE_TOOLS = [TWO_TURNS, NO_SYSTEM, EMPTY_SYSTEM, BLANKS, LATE_SYSTEM, RESULT, ONE_FIELD[1]]
DRAWN = {
    "given": {
        "messages": conversations(hostile_text),
        "template": st.sampled_from(TAKE_TOOLS),
        "count": st.integers(1, 3),
    },
    "examples": [
        {"messages": messages, "template": name, "count": 1 + number % 3}
        for name in TAKE_TOOLS
        for number, messages in enumerate(BESIDE_TOOLS)
    ],
}


class Listed(NamedTuple):
    """A conversation beside tools.

    text    its text with the list
    bare    its text without tools
    before  the text up to the end of the list, as other contents have it
    parts   the list: one stretch, or one for each turn
    """

    text: str
    bare: str
    before: str
    parts: list[str]


def listed(render: Callable, messages: list[dict], template: str, count: int) -> Listed | None:
    """The conversation beside the first tools; None where the function does not take tools, or may refuse one."""
    if not takes(render, "tools") or template not in TAKE_TOOLS:
        return None
    ask = value_or_none if count == len(TOOLS) else lambda function, *given, **options: function(*given, **options)
    rendered = ask(render, messages, template, tools=deepcopy(TOOLS[:count]))
    if rendered is None:
        return None
    marks = {"system": "MARK", "user": "MARK"}  # contents that no list holds
    marked = [{**message, "content": marks.get(message["role"], message["content"])} for message in messages]
    with_list = render(marked, template, tools=deepcopy(TOOLS[:count])).text
    parts = added(render(marked, template).text, with_list, TEMPLATES[template].end_of_turn)
    before = with_list[: with_list.rindex(parts[-1]) + len(parts[-1])]
    return Listed(rendered.text, render(messages, template).text, before, parts)


@must(seam="render", laws=("TP-PARSE", "TP-PRES"), floor=20, **DRAWN)
def every_tool_is_listed_as_it_was_given(render, messages, template, count):
    """All tools are listed as JSON, in order, each with every key and value in its own order.

    The first tool alone, or a schema without its nulls or its empty parameters, or with its values sorted: the model is
    asked for calls that it was not told of (cookbook#466).
    """
    if found := listed(render, messages, template, count):
        tools = list(objects_in("".join(found.parts)))
        # As JSON again, because == does not tell True from 1 and knows no order of keys.
        yield TOOLS[:count], json.dumps(tools) == json.dumps(TOOLS[:count]), f"found {tools} in {found.parts}"


@must(seam="render", laws=("TP-PARSE", "TP-PRES"), floor=20, **DRAWN)
def tools_are_spelt_without_escapes(render, messages, template, count):
    """In the list of tools every letter stands as itself.

    Letters are escaped as for HTML by Jinja's own tojson, or as ASCII by Python's json.
    """
    if found := listed(render, messages, template, count):
        spelt = json.dumps(ESCAPED, ensure_ascii=False) in "".join(found.parts)
        yield TOOLS[:count], spelt, f"{ESCAPED!r} is not spelt in {found.parts}"


@must(seam="render", laws=("TP-PARSE", "TP-PRES"), floor=20, **DRAWN)
def the_list_of_tools_stands_beside_any_system_prompt(render, messages, template, count):
    """A text with tools begins with the same list beside every system prompt, which stands in its own place.

    A list is glued to an empty prompt, or a prompt is lost beside it.
    """
    if found := listed(render, messages, template, count):
        expected = found.before.replace("MARK", norm(messages[0]["content"], template))
        yield messages, found.text.startswith(expected), f"expected to begin with {expected!r}, found {found.text!r}"


@must(seam="render", laws=("TP-PARSE", "TP-PRES"), floor=20, **DRAWN)
def tools_add_their_list_and_nothing_else(render, messages, template, count):
    """Without its list of tools, a text with tools is the text without them.

    A message is lost, or stripped no longer, in a branch of the template for tools.
    """
    if found := listed(render, messages, template, count):
        rest = reduce(lambda text, part: text.replace(part, "", 1), found.parts, found.text)
        yield messages, rest == found.bare, f"expected {found.bare!r} beside the list, found {rest!r}"


@must(seam="render", laws=("TP-PRES",), floor=20, **DRAWN)
def rendering_changes_no_tool(render, messages, template, count):
    """Tools are left as they were by rendering.

    What a renderer takes off a schema is gone from every conversation after it.
    """
    if takes(render, "tools") and template in TAKE_TOOLS:
        given = deepcopy(TOOLS[:count])
        value_or_none(render, messages, template, tools=given)
        yield TOOLS[:count], given == TOOLS[:count], f"the tools were changed to {given!r}"
