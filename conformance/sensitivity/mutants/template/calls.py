"""Calls of tools that are written wrong: under other keys, with other arguments, joined, or with more than they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from sftspec.conformance.sensitivity.mutants import mutant
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


@mutant("each-call-is-json-with-the-keys-of-its-variant",
        "T-24: subtle form of hiyouga/LLaMA-Factory#10769, the keys of a neighbour",
        "writes calls that no parser reads", "copy the template byte for byte")  # fmt: skip
def calls_with_the_keys_of_a_neighbour():
    """Llama's calls have their arguments under "arguments", as Qwen's do, and not under "parameters"."""
    return other_text(
        lambda kind, text, _: text.replace('"parameters": ', '"arguments": ', 1) if kind == "tool_call" else text
    )


@mutant("each-call-is-json-with-the-keys-of-its-variant", "T-21: subtle form of fw-ai/cookbook#466, sort_keys=True",
        "writes arguments in an order that nobody gave", "pass arguments on in their order")  # fmt: skip
def arguments_sorted():
    """The arguments of a call, given as an object, are sorted by their names."""
    return other_arguments(lambda arguments: dict(sorted(arguments.items())))


@mutant("arguments-are-spelt-as-by-their-variant", "T-21: subtle form of fw-ai/cookbook#466, json.dumps",
        "writes escapes where it was taught letters", "ensure_ascii=False, where the variant has it")  # fmt: skip
def arguments_escaped_as_ascii():
    """What is not ASCII in a call is escaped by every template."""
    return other_text(
        lambda kind, text, _: (
            re.sub(r"[^\0-\x7f]", lambda found: json.dumps(found[0])[1:-1], text) if kind == "tool_call" else text
        )
    )


@mutant("each-call-is-json-with-the-keys-of-its-variant",
        "T-21: subtle form of fw-ai/cookbook#466, a printer of numbers", "copies numbers wrongly",
        "pass arguments on as they are")  # fmt: skip
def numbers_of_arguments_rounded():
    """Numbers in the arguments of a call are rounded to six digits."""

    def rounded(value):
        return float(f"{value:g}") if isinstance(value, float) else value

    return other_arguments(lambda arguments: {name: rounded(value) for name, value in arguments.items()})


@mutant("each-call-is-json-with-the-keys-of-its-variant", "T-10: subtle form of paiml/aprender#2023, tool_calls[0]",
        "reads results of calls that it never made", "write every call, or refuse")  # fmt: skip
def first_call_alone():
    """Of several calls of a message Llama-3.1's template, which has a place for one, writes the first in silence."""
    return other_calls(lambda calls: calls[:1], "llama3.1")


@mutant("calls-beside-a-content-are-those-without-one",
        "no report known: a newline that hangs on the content, not on the call before",
        "a parser takes two calls for one", "a newline before each call but the first")  # fmt: skip
def second_call_joined_to_the_first():
    """In ChatML's templates no newline stands between two calls of a message without content."""

    def change(pieces, asked):
        silent = {index for index, message in enumerate(asked.messages) if not message["content"]}
        for kind, message, text in pieces:
            opens = text.endswith("<tool_call>\n") and message in silent
            yield kind, message, text.removeprefix("\n") if opens else text

    return other_pieces(change)


@mutant("a-call-has-one-text-in-every-form", "no report known: a call that is printed as the API gave it",
        "invents ids that nobody reads", "write the keys that the variant's models learnt")  # fmt: skip
def ids_of_calls_written():
    """The id that a call has in the data stands in its JSON."""

    def change(pieces, asked):
        ids = iter([call.get("id") for message in asked.messages for call in message.get("tool_calls") or ()])
        for kind, message, text in pieces:
            known = next(ids) if kind == "tool_call" else None
            yield kind, message, f'{text[:-1]}, "id": "{known}"}}' if known else text

    return other_pieces(change)


@mutant("what-is-said-around-a-call-stands-as-it-is", "no report known: a branch for calls that tidies",
        "speaks otherwise where it calls", "one rule for contents, with a call or without")  # fmt: skip
def content_stripped_beside_a_call():
    """White space around a content is taken away where the message calls a tool."""

    def change(pieces, asked):
        calling = {index for index, message in enumerate(asked.messages) if message.get("tool_calls")}
        return [
            (kind, message, text.strip() if kind == "content" and message in calling else text)
            for kind, message, text in pieces
        ]

    return other_pieces(change)
