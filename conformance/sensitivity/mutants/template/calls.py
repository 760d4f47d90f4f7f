"""Calls of tools that are written wrong: under other keys, with other arguments, joined, or with more than they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.parts import Parts
from sftspec.conformance.sensitivity.mutants.template.changes import other_messages, other_pieces, other_text


def other_calls(change: Callable[[list[dict]], list[dict]], only: str = "") -> Parts:
    """render and encode with the calls of every message changed, in the templates whose name begins with `only`."""
    return other_messages(
        lambda messages: [
            {**item, "tool_calls": change(item["tool_calls"])} if item.get("tool_calls") else item for item in messages
        ],
        only,
    )


def other_arguments(change: Callable[[dict], dict]) -> Parts:
    """render and encode with the arguments of every call changed that are given as an object."""

    def again(call):
        function = call.get("function") or call
        arguments = function["arguments"]
        changed = arguments if isinstance(arguments, str) else change(arguments)
        return {**call, "function": {**function, "arguments": changed}}

    return other_calls(lambda calls: [again(call) for call in calls])


@killed_by("each-call-is-json-with-the-keys-of-its-variant")
@seen_in("T-24: subtle form of hiyouga/LLaMA-Factory#10769, the keys of a neighbour")
@effect("writes calls that no parser reads", fix="copy the template byte for byte")
def calls_with_the_keys_of_a_neighbour():
    """Llama's calls have their arguments under "arguments", as Qwen's do, and not under "parameters"."""
    return other_text(
        lambda kind, text, _: text.replace('"parameters": ', '"arguments": ', 1) if kind == "tool_call" else text
    )


@killed_by("each-call-is-json-with-the-keys-of-its-variant")
@seen_in("T-21: subtle form of fw-ai/cookbook#466, sort_keys=True")
@effect("writes arguments in an order that nobody gave", fix="pass arguments on in their order")
def arguments_sorted():
    """The arguments of a call, given as an object, are sorted by their names."""
    return other_arguments(lambda arguments: dict(sorted(arguments.items())))


@killed_by("arguments-are-spelt-as-by-their-variant")
@seen_in("T-21: subtle form of fw-ai/cookbook#466, json.dumps")
@effect("writes escapes where it was taught letters", fix="ensure_ascii=False, where the variant has it")
def arguments_escaped_as_ascii():
    """What is not ASCII in a call is escaped by every template."""
    return other_text(
        lambda kind, text, _: (
            re.sub(r"[^\0-\x7f]", lambda found: json.dumps(found[0])[1:-1], text) if kind == "tool_call" else text
        )
    )


@killed_by("each-call-is-json-with-the-keys-of-its-variant")
@seen_in("T-21: subtle form of fw-ai/cookbook#466, a printer of numbers")
@effect("copies numbers wrongly", fix="pass arguments on as they are")
def numbers_of_arguments_rounded():
    """Numbers in the arguments of a call are rounded to six digits."""

    def rounded(value):
        return float(f"{value:g}") if isinstance(value, float) else value

    return other_arguments(lambda arguments: {name: rounded(value) for name, value in arguments.items()})


@killed_by("each-call-is-json-with-the-keys-of-its-variant")
@seen_in("T-10: subtle form of paiml/aprender#2023, tool_calls[0]")
@effect("reads results of calls that it never made", fix="write every call, or refuse")
def first_call_alone():
    """Of several calls of a message Llama-3.1's template, which has a place for one, writes the first in silence."""
    return other_calls(lambda calls: calls[:1], "llama3.1")


@killed_by("no-argument-is-written-as-python-prints-it")
@seen_in(
    "subtle form of template/no-content-beside-a-call-written-as-none: the values of arguments, in 41 public templates"
)
@effect("writes words where its parser wants values", fix="tojson for every argument that is no text")
def arguments_as_python_prints_them():
    """A null or a boolean in the arguments of a call is written as Python prints it."""
    printed = {"null": "None", "true": "True", "false": "False"}
    value = re.compile(r"(?<=[:\[,] )(null|true|false)(?=[,}\]])")
    return other_text(
        lambda kind, text, _: value.sub(lambda found: printed[found[0]], text) if kind == "tool_call" else text
    )


@killed_by("calls-beside-a-content-are-those-without-one")
@seen_in("no report known: a newline that hangs on the content, not on the call before")
@effect("a parser takes two calls for one", fix="a newline before each call but the first")
def second_call_joined_to_the_first():
    """In ChatML's templates no newline stands between two calls of a message without content."""

    def change(pieces, asked):
        silent = {index for index, message in enumerate(asked.messages) if not message["content"]}
        for kind, message, text in pieces:
            opens = text.endswith("<tool_call>\n") and message in silent
            yield kind, message, text.removeprefix("\n") if opens else text

    return other_pieces(change)


@killed_by("a-call-has-one-text-in-every-form")
@seen_in("no report known: a call that is printed as the API gave it")
@effect("invents ids that nobody reads", fix="write the keys that the variant's models learnt")
def ids_of_calls_written():
    """The id that a call has in the data stands in its JSON."""

    def change(pieces, asked):
        ids = iter([call.get("id") for message in asked.messages for call in message.get("tool_calls") or ()])
        for kind, message, text in pieces:
            known = next(ids) if kind == "tool_call" else None
            yield kind, message, f'{text[:-1]}, "id": "{known}"}}' if known else text

    return other_pieces(change)


@killed_by("what-is-said-around-a-call-stands-as-it-is")
@seen_in("no report known: a branch for calls that tidies")
@effect("speaks otherwise where it calls", fix="one rule for contents, with a call or without")
def content_stripped_beside_a_call():
    """White space around a content is taken away where the message calls a tool."""

    def change(pieces, asked):
        calling = {index for index, message in enumerate(asked.messages) if message.get("tool_calls")}
        return [
            (kind, message, text.strip() if kind == "content" and message in calling else text)
            for kind, message, text in pieces
        ]

    return other_pieces(change)
