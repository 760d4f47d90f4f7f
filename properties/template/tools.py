"""Templates: tools that are listed, called, and answer.

Qwen's and Llama's variants write them each in their own way. A model that was trained on another one calls tools that
nobody offered, in words that no parser reads (cookbook#466, tinker-cookbook#837).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import reduce

from hypothesis import strategies as st

from sftspec.golden.oracles import common_prefix
from sftspec.properties import must, takes
from sftspec.properties.cases.conversations import (
    BLANKS,
    HELLO,
    LATE_SYSTEM,
    ONE_FIELD,
    RESULT,
    TWO_TURNS,
)
from sftspec.properties.cases.template import (
    CALL_KEYS,
    ESCAPES_CALLS,
    IN_TAGS,
    TAKE_A_LATE_SYSTEM,
    TAKE_TOOLS,
    TOOL,
    answer_with_calls,
    hostile_text,
    json_values,
    norm,
    plain_text,
    talks,
    text_or_refusal,
    tool,
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
    tool("bare", ESCAPED)["function"],
]
NO_SYSTEM, EMPTY_SYSTEM = TWO_TURNS[1:], [{"role": "system", "content": ""}, *HELLO]
BESIDE_TOOLS = [TWO_TURNS, NO_SYSTEM, EMPTY_SYSTEM, BLANKS, LATE_SYSTEM, RESULT, ONE_FIELD[1]]


@must(seam="render", laws=("TP-PARSE", "TP-PRES"), floor=20,
      given={"messages": talks(hostile_text), "template": st.sampled_from(TAKE_TOOLS), "count": st.integers(1, 3)},
      examples=[{"messages": messages, "template": name, "count": 1 + number % 3} for name in TAKE_TOOLS
                for number, messages in enumerate(BESIDE_TOOLS)])  # fmt: skip
def every_tool_is_listed_beside_any_system_prompt(render, messages, template, count):
    """All tools are listed as they were given, in order and with every letter as itself, in a text that the contents do
    not change but by standing in it; without that list it is the text without tools. They are not changed.

    The first tool alone, or a list that is glued to an empty prompt: the model is asked for calls that it was not told
    of (cookbook#466). Letters that are escaped as for HTML; a schema without its nulls or its empty parameters, or with
    its values sorted; a message that is lost, or stripped no longer, in a branch of the template for tools.
    """
    if not takes(render, "tools") or template not in TAKE_TOOLS:
        return
    given, marks = deepcopy(TOOLS[:count]), {"system": "MARK", "user": "MARK"}
    marked = [{**message, "content": marks.get(message["role"], message["content"])} for message in messages]
    text, refusal = text_or_refusal(render, messages, template, tools=given)
    if text is None:
        yield messages, count == len(TOOLS), refusal  # one of them has no "function"
        return
    listing = render(marked, template, tools=given).text
    parts = added(render(marked, template).text, listing, TEMPLATES[template].end_of_turn)
    opening = listing[: listing.rindex(parts[-1]) + len(parts[-1])]
    opening = opening.replace("MARK", norm(messages[0]["content"], template))
    yield messages, text.startswith(opening), f"expected to begin with {opening!r}, found {text!r}"
    rest = reduce(lambda text, part: text.replace(part, "", 1), parts, text)
    bare = render(messages, template).text
    yield messages, rest == bare, f"expected {bare!r} beside the list, found {rest!r}"
    found = list(objects_in("".join(parts)))
    yield given, json.dumps(found) == json.dumps(TOOLS[:count]), f"found {found} in {parts}"
    yield given, json.dumps(ESCAPED, ensure_ascii=False) in "".join(parts), f"{ESCAPED!r} is not spelt in {parts}"
    yield TOOLS[:count], given == TOOLS[:count], f"the tools were changed to {given!r}"


NESTED = {"z": {"b": 1, "a": [0.5, True, {}]}, "y": 1.123456789, "x": 2**60 + 1, "w": False, "Zoë": "", "a": None}


@must(seam="render", laws=("TP-PARSE",), floor=20,
      given={"arguments": st.dictionaries(plain_text, json_values, max_size=3),
             "template": st.sampled_from(sorted(CALL_KEYS)), "count": st.integers(1, 3)},
      examples=[{"arguments": NESTED, "template": name, "count": count} for name in sorted(CALL_KEYS)
                for count in (1, 2)])  # fmt: skip
def a_call_is_json_with_the_keys_of_its_variant(render, arguments, template, count):
    """Each call stands in the text as JSON under the keys that its variant's models learnt, and its arguments can be
    read back, value for value and in the order in which they were given, in its variant's spelling; beside a content
    calls are written as without one. Several calls of one message may be refused.

    "arguments" for "parameters", arguments that were sorted or rounded on the way, the second of two calls left out or
    joined to the first, a name in small letters: calls that no parser of this model reads, or that nobody made.
    """
    if template not in CALL_KEYS:
        return
    text, refusal = text_or_refusal(render, [*HELLO, answer_with_calls(arguments, count)], template)
    if text is None:
        yield arguments, count > 1, refusal
        return
    call = {key: {"type": "function", "name": TOOL}.get(key, arguments) for key in CALL_KEYS[template]}
    expected, found = json.dumps([call] * count), json.dumps(list(objects_in(text)))
    # As JSON again, because == does not tell True from 1 and knows no order of keys.
    yield arguments, found == expected, f"expected the calls {expected}, found {found} in {text!r}"
    spelt = json.dumps(arguments, ensure_ascii=template == ESCAPES_CALLS)
    yield arguments, spelt in text, f"{spelt} is not spelt in {text!r}"
    beside, _ = text_or_refusal(render, [*HELLO, answer_with_calls(arguments, count, "Look:")], template)
    if beside is not None:
        calls = beside.partition("Look:")[2].removeprefix("\n")
        same = text.endswith(calls) and json.dumps(list(objects_in(calls))) == expected
        yield arguments, same, f"after a content the calls are {calls!r}, and without one {text!r}"


@must(seam="render", laws=("TP-PARSE", "TP-PRES"), floor=20,
      given={"content": plain_text, "result": plain_text, "template": st.sampled_from(TAKE_A_LATE_SYSTEM)},
      examples=[{"content": content, "result": "21", "template": name} for content in ("", "Look:\n")
                for name in TAKE_A_LATE_SYSTEM])  # fmt: skip
def what_is_said_around_a_call_stands_as_it_is(render, content, result, template):
    """A content beside a call, and the call's result, are written with the blanks around them, or trimmed where the
    variant declares it; a content beside a call may be refused.

    A branch of the template for calls or for results that tidies: what a turn says depends on whether it calls.
    """
    if not takes(render, "tools"):
        return

    def talk(content: str, result: str) -> list[dict]:
        calls = answer_with_calls({"place": "A"}) if template in CALL_KEYS else {"role": "assistant"}
        return [*HELLO, {**calls, "content": content}, {"role": "tool", "content": result}]

    said = f" {content}", f" {result}\n"
    text, refusal = text_or_refusal(render, talk(*said), template)
    if text is None:
        yield said, template in CALL_KEYS, refusal
        return
    expected = render(talk("MARK", "RESULT"), template).text
    for mark, part in zip(("MARK", "RESULT"), said, strict=True):
        expected = expected.replace(mark, norm(part, template))
    yield said, text == expected, f"expected {expected!r}, found {text!r}"


@must(seam="render", laws=("TP-PARSE",), floor=20,
      given={"contents": st.lists(plain_text, min_size=1, max_size=4), "thoughts": plain_text,
             "template": st.sampled_from(IN_TAGS)},
      examples=[{"contents": contents, "thoughts": "Hm.", "template": name} for contents in (["1"], ["1", "2", "3"])
                for name in IN_TAGS])  # fmt: skip
def a_result_is_a_users_turn_in_tags(render, contents, thoughts, template):
    """The results of tools, and the same written into a user's message with their tags, give one text, also before the
    user's next message and straight after one; a message with one of the two tags is a question like any other.

    Qwen's templates have no turn for results; one that takes such a message for a new question forgets the thoughts
    before it (tinker-cookbook#837), and one that takes a question about tags for a result keeps them.
    """
    if template not in IN_TAGS:
        return

    look = "assistant", f"<think>\n{thoughts}\n</think>\n\nLook."

    def text(*messages: tuple[str, str], before: tuple = (look,)) -> str:
        said = [{"role": role, "content": content} for role, content in (*before, *messages, ("assistant", "So."))]
        return render([*HELLO, *said], template).text

    opening, closing = "<tool_response>\n", "\n</tool_response>"
    results = [("tool", content) for content in contents]
    written = "user", "\n".join(opening + content + closing for content in contents)
    for before, next_turn in (((look,), ()), ((look,), (("user", "And?"),)), ((), ())):
        one, other = (text(*turns, *next_turn, before=before) for turns in (results, (written,)))
        yield contents, one == other, f"as results {one!r}, as a message {other!r}"
    plain = text(("user", "MARK"))
    for question in (opening + contents[0], contents[0] + closing):
        expected, found = plain.replace("MARK", question), text(("user", question))
        yield question, found == expected, f"expected {expected!r}, found {found!r}"
