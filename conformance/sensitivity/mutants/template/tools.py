"""Templates that went wrong with tools: how they are listed, and how the results of calls come back."""

from __future__ import annotations

import re
from dataclasses import replace

from sftspec import render
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.parts import broken
from sftspec.conformance.sensitivity.mutants.template.calls import other_calls
from sftspec.conformance.sensitivity.mutants.template.changes import (
    other_messages,
    other_pieces,
    other_templates,
    other_text,
    without_thoughts,
)
from sftspec.conversation import Conversation
from sftspec.spans import assemble
from sftspec.templates import TEMPLATES


@killed_by("every-tool-is-listed-as-it-was-given")
@seen_in("T-21: subtle form of fw-ai/cookbook#466, tools[0]")
@effect("calls tools that it was not told of", fix="list every tool")
def first_tool_listed_alone():
    """Of several tools the first is listed, and no other."""

    def change(pieces, _):
        first = next((piece for piece in pieces if piece[0] == "tools"), None)
        return [piece for piece in pieces if piece[0] != "tools" or piece is first]

    return other_pieces(change)


@killed_by("the-list-of-tools-stands-beside-any-system-prompt")
@seen_in("T-09: subtle form of hiyouga/LLaMA-Factory#2987, the branch of an empty prompt")
@effect("the list of tools begins elsewhere", fix="test for None, not for truth")
def tools_glued_to_an_empty_system():
    """The blank line before the list of tools is left out where the system prompt is empty."""

    def change(kind, text, asked):
        empty = asked.messages[0]["role"] == "system" and not asked.messages[0]["content"]
        return text.removeprefix("\n\n") if kind == "preamble" and empty else text

    return other_text(change)


@killed_by("every-tool-is-listed-as-it-was-given")
@seen_in("no report known: a schema that is copied key by key")
@effect("is not told what a tool demands", fix="print tools as they were given")
def unknown_keys_of_tools_dropped():
    """Of a tool the keys that are known are listed; strict, which came later, is left out."""
    return other_text(lambda kind, text, _: re.sub(r',\s*"strict": true', "", text) if kind == "tools" else text)


@killed_by("a-prompt-beside-tools-has-the-same-suffix")
@seen_in("T-06: subtle form of huggingface/search-and-learn#23, the branch of tools")
@effect("writes its own header where it has tools", fix="the header does not depend on tools")
def no_prompt_beside_tools():
    """The generation prompt is left out where tools are listed."""
    return other_pieces(
        lambda pieces, asked: [
            piece for piece in pieces if piece[0] != "generation_prompt" or not getattr(asked.messages, "tools", None)
        ]
    )


@killed_by("results-are-a-users-message-in-tags")
@seen_in("T-12: subtle form of tinker-cookbook#837")
@effect("forgets why it asked the tool", fix="a message in the tags of a result is no question")
def written_result_is_a_question():
    """Qwen3's templates take a user's message in the tags of a result for a new question: thoughts before it vanish."""

    def veiled(item):
        return {**item, "content": f"\0{item['content']}"} if item["role"] == "user" else item

    def change(name):
        variant = TEMPLATES[name]
        if not name.startswith("chatml/qwen3"):
            return variant

        def pieces(messages, add_generation_prompt):
            told = Conversation(map(veiled, messages), messages.source, messages.tools)
            for kind, index, text in variant.pieces(told, add_generation_prompt):
                is_veiled = kind == "content" and messages[index]["role"] == "user"
                yield kind, index, text[1:] if is_veiled else text

        return replace(variant, pieces=pieces)

    return other_templates(change)


@killed_by("a-message-with-one-tag-is-a-question")
@seen_in("subtle form of tinker-cookbook#837, startswith alone")
@effect("keeps thoughts that belong to an earlier question", fix="test for both tags")
def opening_tag_makes_a_result():
    """Qwen3's templates take a user's message that begins with the opening tag of a result for a result."""
    opening, closing = "<tool_response>", "</tool_response>"

    def closed(item):
        is_open = item["role"] == "user" and item["content"].startswith(opening) and closing not in item["content"]
        return {**item, "content": f"{item['content']}\0{closing}"} if is_open else item

    def change(name):
        variant = TEMPLATES[name]
        if not name.startswith("chatml/qwen3"):
            return variant

        def pieces(messages, add_generation_prompt):
            told = Conversation(map(closed, messages), messages.source, messages.tools)
            for kind, index, text in variant.pieces(told, add_generation_prompt):
                yield kind, index, text.removesuffix(f"\0{closing}")

        return replace(variant, pieces=pieces)

    return other_templates(change)


# --------------------------------------------------------------------------------- beside the rest of the conversation


@killed_by("tools-are-spelt-without-escapes")
@seen_in("no report known: Jinja's own tojson")
@effect("reads descriptions full of escapes", fix="write JSON as Hugging Face's tojson does")
def tools_escaped_for_html():
    """In the definitions of tools <, >, & and ' are escaped, as Jinja's own tojson does for HTML."""
    escapes = str.maketrans({letter: f"\\u{ord(letter):04x}" for letter in "<>&'"})
    return other_text(lambda kind, text, _: text.translate(escapes) if kind == "tools" else text)


@killed_by("the-list-of-tools-stands-beside-any-system-prompt")
@seen_in("subtle form of Rapid-MLX#1765, the branch of tools")
@effect("an instruction given later is never read", fix="the branch of tools writes the list, and no messages")
def late_system_dropped_beside_tools():
    """In ChatML's templates a system message after the first is dropped where there are tools."""

    def change(pieces, asked):
        late = {
            index
            for index, message in enumerate(asked.messages)
            if index and message["role"] == "system" and asked.messages.tools and asked.name.startswith("chatml")
        }
        return [piece for piece in pieces if piece[1] not in late]

    return other_pieces(change)


@killed_by("tools-add-their-list-and-nothing-else")
@seen_in("no report known: a first message written in a branch of its own")
@effect("questions begin differently beside tools", fix="one macro for a turn")
def first_question_unstripped_beside_tools():
    """Llama-3.1's template, which strips contents, leaves the first user's message as it is where tools are in it."""

    def change(pieces, asked):
        listed = {message for kind, message, _ in pieces if kind == "tools" and asked.name.startswith("llama")}
        return [
            (kind, message, asked.messages[message]["content"] if kind == "content" and message in listed else text)
            for kind, message, text in pieces
        ]

    return other_pieces(change)


@killed_by("results-are-a-users-message-in-tags")
@seen_in("no report known: neighbours of one role merged")
@effect("a question is part of a result", fix="only results share a turn")
def result_joined_with_the_next_question():
    """In ChatML's templates a result that the user's message follows does not end its turn: both are the user's."""

    def change(pieces, asked):
        roles = [message["role"] for message in asked.messages] + [""]
        for kind, message, text in pieces:
            before, role, after = (roles[message + step] for step in (-1, 0, 1)) if message >= 0 else ("", "", "")
            if not asked.name.startswith("chatml/qwen"):
                yield kind, message, text
            elif (before, role, kind) == ("tool", "user", "header"):
                yield kind, message, "\n"
            elif (role, after, kind) == ("tool", "user", "end_of_turn"):
                yield kind, message, text.removesuffix("<|im_end|>")
            elif (role, after, kind) != ("tool", "user", "separator"):
                yield kind, message, text

    return other_pieces(change)


@killed_by("whoever-speaks-is-heard-or-refused thoughts-in-a-content-are-thoughts")
@seen_in("subtle form of tinker-cookbook#837")
@effect("forgets why it asked the tool", fix="thoughts are kept after the last question, not in the last answer alone")
def thoughts_of_the_last_answer_alone():
    """Of several answers after a question Qwen3's templates keep thoughts that stand in contents in the last alone."""

    def change(messages):
        answers = [index for index, item in enumerate(messages) if item["role"] == "assistant"]
        return [
            {**item, "content": without_thoughts(item["content"])}
            if index in answers[:-1] and item.get("reasoning_content") is None
            else item
            for index, item in enumerate(messages)
        ]

    return other_messages(change, "chatml/qwen3")


@killed_by("a-call-has-one-text-in-every-form")
@seen_in("subtle form of paiml/aprender#2023, a call in its short form")
@effect("reads results of calls that it never made", fix="write every call, or refuse")
def calls_without_function_skipped():
    """A call that is given as name and arguments, without "function" around them, is skipped."""
    return other_calls(lambda calls: [call for call in calls if "function" in call])


@killed_by("rendering-changes-no-tool")
@seen_in("no report known: a schema that is cleaned in place")
@effect("is told of fewer keys in the second text", fix="copy before changing")
def tools_cleaned_in_place():
    """Rendering takes the key strict off the caller's tools, after it has listed them."""

    def broken_render(messages, *rest, tools=None, **options):
        rendered = render(messages, *rest, tools=tools, **options)
        for each in tools or ():
            each.get("function", each).pop("strict", None)
        return rendered

    return broken("template", render=broken_render)


@killed_by("tools-in-one-object-are-listed")
@seen_in("T-21: subtle form of fw-ai/cookbook#466, an object of messages and tools")
@effect("calls tools that it was not told of", fix="read both keys of the object")
def tools_of_an_object_not_listed():
    """Of an object of messages and tools the messages alone are rendered."""

    def broken_render(messages, *rest, **options):
        return render(messages["messages"] if isinstance(messages, dict) else messages, *rest, **options)

    return broken("template", render=broken_render)


@killed_by("an-empty-list-of-tools-lists-nothing")
@seen_in("T-09: subtle form of hiyouga/LLaMA-Factory#2987, empty is not missing, and not given either")
@effect("is told to call tools, and of none", fix="test for tools, not for the list")
def instructions_beside_an_empty_list_of_tools():
    """Beside an empty list of tools stands the text around the list, without a tool in it."""

    def broken_render(messages, template="chatml/openai", add_generation_prompt=False, tools=None, **options):
        if tools != []:
            return render(messages, template, add_generation_prompt, tools, **options)
        whole = render(messages, template, add_generation_prompt, [{"name": "any"}], **options)
        return assemble([(s.kind, s.message, whole.text[s.start : s.end]) for s in whole.spans if s.kind != "tools"])

    return broken("template", render=broken_render)
