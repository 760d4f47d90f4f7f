"""Templates: calls of tools, what is said around them, and their results.

A call is read by a parser that knows the format of one variant; in another format it is words (tinker-cookbook#837).
"""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis import strategies as st

from sftspec.properties import NotMeasuredError, must, should, takes
from sftspec.properties.cases.conversations import HELLO
from sftspec.properties.cases.template import (
    CALL_KEYS,
    ESCAPES_CALLS,
    IN_TAGS,
    TAKE_A_LATE_SYSTEM,
    TOOL,
    answer_with_calls,
    json_values,
    norm,
    plain_text,
    text_or_refusal,
    value_or_none,
)
from sftspec.properties.template.tools import objects_in

NESTED = {"z": {"b": 1, "a": [0.5, True, {}]}, "y": 1.123456789, "x": 2**60 + 1, "w": False, "Zoë": "", "a": None}
DRAWN = {
    "given": {
        "arguments": st.dictionaries(plain_text, json_values, max_size=3),
        "template": st.sampled_from(sorted(CALL_KEYS)),
        "count": st.integers(1, 3),
    },
    "examples": [
        {"arguments": NESTED, "template": name, "count": count} for name in sorted(CALL_KEYS) for count in (1, 2)
    ],
}


def called(render: Callable, arguments: dict, template: str, count: int, content: str = "") -> str | None:
    """The text of an answer that calls so many times; None where the variant has no calls, or may refuse several."""
    messages = [*HELLO, answer_with_calls(arguments, count, content)]
    if template not in CALL_KEYS:
        return None
    rendered = value_or_none(render, messages, template) if count > 1 or content else render(messages, template)
    return rendered and rendered.text


def calls_in(text: str) -> str:
    """The JSON objects of a text, as JSON again: == does not tell True from 1, and knows no order of keys."""
    return json.dumps(list(objects_in(text)))


def expected_calls(arguments: dict, template: str, count: int) -> str:
    """So many calls with the keys that the variant's models learnt."""
    call = {key: {"type": "function", "name": TOOL}.get(key, arguments) for key in CALL_KEYS[template]}
    return json.dumps([call] * count)


@must(seam="render", laws=("TP-PARSE",), floor=20, **DRAWN)
def each_call_is_json_with_the_keys_of_its_variant(render, arguments, template, count):
    """Each call is JSON with the keys of its variant, and holds its arguments, value for value and in order.

    "arguments" for "parameters", arguments that were sorted or rounded on the way, the second of two calls left out, a
    name in small letters: calls that no parser of this model reads, or that were never made. A variant with a place for
    one call may refuse several.
    """
    text = called(render, arguments, template, count)
    if text is not None:
        expected, found = expected_calls(arguments, template, count), calls_in(text)
        yield arguments, found == expected, f"expected the calls {expected}, found {found} in {text!r}"


@must(seam="render", laws=("TP-PARSE",), floor=20, **DRAWN)
def arguments_are_spelt_as_by_their_variant(render, arguments, template, count):
    """The arguments of a call are spelt as its variant spells them: escaped as ASCII, or every letter as itself.

    Equal JSON in other letters is other tokens. Llama-3 in llama-models escapes, the others do not.
    """
    text = called(render, arguments, template, count)
    if text is not None:
        spelt = json.dumps(arguments, ensure_ascii=template == ESCAPES_CALLS)
        yield arguments, spelt in text, f"{spelt} is not spelt in {text!r}"


@must(seam="render", laws=("TP-PARSE",), floor=20, **DRAWN)
def calls_beside_a_content_are_those_without_one(render, arguments, template, count):
    """Calls beside a content are written as without one, or the content is refused.

    A newline that hangs on the content joins two calls to one that no parser reads.
    """
    text, beside = (called(render, arguments, template, count, content) for content in ("", "Look:"))
    if text is not None and beside is not None:
        calls = beside.partition("Look:")[2].removeprefix("\n")
        same = text.endswith(calls) and calls_in(calls) == expected_calls(arguments, template, count)
        yield arguments, same, f"after a content the calls are {calls!r}, and without one {text!r}"


# Of each a text that no model's parser of JSON reads, where Python prints it.
PYTHONS = {"None": None, "True": True, "False": [False], "{'": {"a": 1}}
CALLS_OF_EACH = {
    "given": {"template": st.sampled_from(sorted(CALL_KEYS)), "count": st.integers(1, 2)},
    "examples": [{"template": name, "count": count} for name in sorted(CALL_KEYS) for count in (1, 2)],
}


@must(seam="render", laws=("TP-PRES",), floor=1, **CALLS_OF_EACH)
def a_call_needs_no_content(render, template, count):
    """A call whose content is None is written as one whose content is empty.

    It is the usual form of a call: a template that adds None to a text breaks off, and one that prints it teaches the
    model to say "None".
    """
    calling = {content: [*HELLO, answer_with_calls({"place": "A"}, count, content)] for content in ("", None)}
    expected = value_or_none(render, calling[""], template)
    if template in CALL_KEYS and expected is not None:
        text, refusal = text_or_refusal(render, calling[None], template)
        yield calling[None], text == expected.text, refusal or f"expected {expected.text!r}, found {text!r}"


@should(seam="render", laws=("TP-PARSE",), floor=4, **CALLS_OF_EACH)
def no_argument_is_written_as_python_prints_it(render, template, count):
    """Nulls, booleans, lists and objects in the arguments of a call are not written as Python prints them.

    The model learns to write None, which its parser takes for a word. Raises NotMeasuredError where a call is itself
    Python (LFM2, Llama-4), which None belongs to.
    """
    arguments = dict(zip("pqrs", PYTHONS.values(), strict=True))
    harmless = called(render, dict.fromkeys(arguments, "x"), template, count)
    if harmless is not None:
        if "(p=" in harmless:
            raise NotMeasuredError("its calls are written as Python's, f(p=1), where None and True are right")
        text, refusal = text_or_refusal(render, [*HELLO, answer_with_calls(arguments, count)], template)
        for printed in PYTHONS:
            is_harmless = text is not None and text.count(printed) == harmless.count(printed)
            yield printed, is_harmless, refusal or f"{printed!r} stands in {text!r}"


@must(
    seam="render",
    laws=("TP-PARSE", "TP-PRES"),
    floor=20,
    given={"content": plain_text, "result": plain_text, "template": st.sampled_from(TAKE_A_LATE_SYSTEM)},
    examples=[
        {"content": content, "result": "21", "template": name}
        for content in ("", "Look:\n")
        for name in TAKE_A_LATE_SYSTEM
    ],
)
def what_is_said_around_a_call_stands_as_it_is(render, content, result, template):
    """A content beside a call and the call's result keep their blanks, unless the variant trims; such a content may be
    refused.

    A branch of the template for calls or for results that tidies: what a turn says depends on whether it calls.
    """
    if not takes(render, "tools"):
        return

    def conversation(content: str, result: str) -> list[dict]:
        calls = answer_with_calls({"place": "A"}) if template in CALL_KEYS else {"role": "assistant"}
        return [*HELLO, {**calls, "content": content}, {"role": "tool", "content": result}]

    said = f" {content}", f" {result}\n"
    text, refusal = text_or_refusal(render, conversation(*said), template)
    if text is None:
        yield said, template in CALL_KEYS, refusal
        return
    expected = render(conversation("MARK", "RESULT"), template).text
    for mark, part in zip(("MARK", "RESULT"), said, strict=True):
        expected = expected.replace(mark, norm(part, template))
    yield said, text == expected, f"expected {expected!r}, found {text!r}"


OPENING, CLOSING = "<tool_response>\n", "\n</tool_response>"
RESULTS = {
    "given": {
        "contents": st.lists(plain_text, min_size=1, max_size=4),
        "thoughts": plain_text,
        "template": st.sampled_from(IN_TAGS),
    },
    "examples": [
        {"contents": contents, "thoughts": "Hm.", "template": name}
        for contents in (["1"], ["1", "2", "3"])
        for name in IN_TAGS
    ],
}


def text_around(render: Callable, template: str, thoughts: str | None, *turns: tuple[str, str]) -> str:
    """A question, an answer with thoughts (none: left out), these turns, and a last answer."""
    look = [("assistant", f"<think>\n{thoughts}\n</think>\n\nLook.")] if thoughts is not None else []
    said = [{"role": role, "content": content} for role, content in (*look, *turns, ("assistant", "So."))]
    return render([*HELLO, *said], template).text


@must(seam="render", laws=("TP-PARSE",), floor=20, **RESULTS)
def results_are_a_users_message_in_tags(render, contents, thoughts, template):
    """Results of tools, and the same in a user's message with their tags, give one text.

    Qwen's templates have no turn for results; one that takes such a message for a new question forgets the thoughts
    before it (tinker-cookbook#837). Results are read before the user's next message too, and straight after one.
    """
    if template not in IN_TAGS:
        return
    results = [("tool", content) for content in contents]
    message = "user", "\n".join(OPENING + content + CLOSING for content in contents)
    for before, after in ((thoughts, ()), (thoughts, [("user", "And?")]), (None, ())):
        one, other = (text_around(render, template, before, *turns, *after) for turns in (results, [message]))
        yield contents, one == other, f"as results {one!r}, as a message {other!r}"


@must(seam="render", laws=("TP-PARSE",), floor=20, **RESULTS)
def a_message_with_one_tag_is_a_question(render, contents, thoughts, template):
    """A user's message with one of the two tags of a result is a question like any other.

    A template that takes a question about tags for a result keeps thoughts that belong to the question before.
    """
    if template not in IN_TAGS:
        return
    plain = text_around(render, template, thoughts, ("user", "MARK"))
    for question in (OPENING + contents[0], contents[0] + CLOSING):
        expected = plain.replace("MARK", question)
        found = text_around(render, template, thoughts, ("user", question))
        yield question, found == expected, f"expected {expected!r}, found {found!r}"
