"""Templates that go wrong where an agent calls more than once: a state that is kept, or a history that is tidied."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import accumulate, groupby, pairwise

from sftspec import encode, render
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.parts import Parts, broken
from sftspec.conformance.sensitivity.mutants.template.changes import other_messages, other_pieces, without_thoughts
from sftspec.conversation import Conversation, check_conversation

TURN_BY_TURN = "every-turn-of-an-agent-is-written-as-the-first"


def groups_before(messages: list[dict]) -> list[int]:
    """How many groups of results end before each message."""
    roles = [item["role"] for item in messages]
    return list(accumulate((one == "tool" != other for one, other in pairwise(roles)), initial=0))


def other_results(change: Callable[[dict], dict]) -> Parts:
    """render and encode with the result of every call changed."""
    return other_messages(lambda messages: [change(item) if item["role"] == "tool" else item for item in messages])


def other_history(change: Callable[[dict], dict]) -> Parts:
    """render and encode with every calling message before the last question changed."""

    def changed(messages):
        last = max((place for place, item in enumerate(messages) if item["role"] == "user"), default=0)
        return [
            change(item) if item.get("tool_calls") and place < last else item for place, item in enumerate(messages)
        ]

    return other_messages(changed)


@killed_by(TURN_BY_TURN)
@seen_in("no report known: a flag of a template that is not taken back")
@effect("takes what its tools return for its own words", fix="a state that a turn opens is closed with it")
def second_group_of_results_without_header():
    """In ChatML's templates the first group of results alone opens a user's turn."""

    def change(pieces, asked):
        groups = groups_before(asked.messages)
        for kind, message, text in pieces:
            is_later = message >= 0 and groups[message] and asked.messages[message]["role"] == "tool"
            yield kind, message, text.removeprefix("<|im_start|>user") if is_later and kind == "header" else text

    return other_pieces(change)


@killed_by(TURN_BY_TURN)
@seen_in("no report known: a header that is chosen once")
@effect("reads later results as a speaker that it does not know", fix="the header depends on the role alone")
def ipython_in_the_first_group_alone():
    """Llama's templates call the role of results ipython until another message follows, and then tool."""

    def change(pieces, asked):
        groups = groups_before(asked.messages)
        for kind, message, text in pieces:
            is_later = message >= 0 and groups[message]
            yield kind, message, text.replace("ipython", "tool") if is_later and kind == "header" else text

    return other_pieces(change)


@killed_by(TURN_BY_TURN)
@seen_in("T-10: subtle form of paiml/aprender#2023, in history")
@effect("reads results of calls that it never made", fix="history is what was said")
def calls_of_history_cut_to_one():
    """Of several calls of a message before the last question the first is written."""
    return other_history(lambda item: {**item, "tool_calls": item["tool_calls"][:1]})


@killed_by(TURN_BY_TURN)
@seen_in("no report known: a branch for calls that forgets the content")
@effect("calls without a word where it has called before", fix="history is what was said")
def content_beside_calls_of_history_dropped():
    """What a message before the last question says beside its calls is dropped."""
    return other_history(lambda item: {**item, "content": ""})


@killed_by(TURN_BY_TURN)
@seen_in("no report known: a list of calls made a set of them")
@effect("does not ask again when it has to", fix="a call that is made twice is two calls")
def repeated_calls_dropped():
    """A message whose calls were all made before is written without them."""

    def change(messages):
        seen: set[str] = set()
        for item in messages:
            made = {json.dumps(call, sort_keys=True) for call in item.get("tool_calls") or ()}
            yield {**item, "tool_calls": []} if made and made <= seen else item
            seen |= made

    return other_messages(lambda messages: list(change(messages)))


@killed_by(TURN_BY_TURN)
@seen_in("no report known: neighbours of one role merged")
@effect("calls at once what has to be called in turn", fix="a message is a turn")
def calling_turns_joined():
    """Two messages in a row that call and say nothing are one, where a message may call twice."""

    def change(messages):
        joined: list[dict] = []
        for item in messages:
            both = [joined[-1], item] if joined else []
            if both and all(each.get("tool_calls") and not each["content"] for each in both):
                joined[-1] = {**joined[-1], "tool_calls": joined[-1]["tool_calls"] + item["tool_calls"]}
            else:
                joined.append(item)
        return joined

    return other_messages(change)


@killed_by(TURN_BY_TURN)
@seen_in("T-21: subtle form of fw-ai/cookbook#466, of results")
@effect("reads results that no tool gives", fix="a result is a text")
def results_read_as_json():
    """A result that is a JSON object is read and written again."""

    def change(item):
        is_object = re.fullmatch(r"\{.*\}", item["content"])
        return {**item, "content": json.dumps(json.loads(item["content"]))} if is_object else item

    return other_results(change)


@killed_by("names-and-ids-do-not-move-results")
@seen_in("no report known: results put in the order of their names")
@effect("takes one tool's result for another's", fix="results stand as they came")
def results_sorted_by_name():
    """Results that follow each other are sorted by the names that they have."""

    def name_of(item):
        return item["role"] == "tool" and item.get("name", "")

    def change(messages):
        for _, run in groupby(messages, lambda item: item["role"] == "tool"):
            yield from sorted(run, key=name_of)

    return other_messages(lambda messages: list(change(messages)))


@killed_by(TURN_BY_TURN)
@seen_in("T-12: subtle form of tinker-cookbook#837, the second result")
@effect("forgets why it asked the tool", fix="thoughts are kept after the last question")
def thoughts_lost_after_the_second_result():
    """Thoughts in a field of their own are dropped once there were two groups of results."""

    def change(messages):
        return [
            {**item, "reasoning_content": ""} if groups > 1 and item.get("reasoning_content") else item
            for item, groups in zip(messages, groups_before(messages), strict=True)
        ]

    return other_messages(change, "chatml/qwen3")


@killed_by("the-id-and-name-of-a-result-are-not-written")
@seen_in("no report known: a result that is printed as the API gave it")
@effect("looks for ids that nobody gives it", fix="write the content of a result")
def ids_of_results_written():
    """The id that a result has in the data is written before it."""

    def change(item):
        known = item.get("tool_call_id")
        return {**item, "content": f"{known}: {item['content']}"} if known else item

    return other_results(change)


@killed_by("nothing-that-was-said-is-lost")
@seen_in("subtle form of trl#6361: content.split('</think>')[-1] before the role is read")
@effect("does not read instructions about thoughts", fix="only an assistant thinks")
def think_tags_cut_from_every_role():
    """In Qwen3's templates what stands before </think> is cut from the contents of whoever speaks."""
    return other_messages(
        lambda messages: [
            item if item["role"] == "assistant" else {**item, "content": without_thoughts(item["content"])}
            for item in messages
        ],
        "chatml/qwen3",
    )


@killed_by("a-prompt-is-the-text-and-one-suffix")
@seen_in("T-06: subtle form of huggingface/search-and-learn#23, after a result")
@effect("writes its own header where a tool has answered", fix="the header does not depend on the last role")
def no_prompt_after_a_result():
    """The generation prompt is left out after the result of a call."""

    def change(pieces, asked):
        waits = asked.messages[-1]["role"] == "tool" and any(item.get("tool_calls") for item in asked.messages)
        return [piece for piece in pieces if piece[0] != "generation_prompt" or not waits]

    return other_pieces(change)


@killed_by("every-tool-is-listed-as-it-was-given")
@seen_in("no report known: a schema that is cleaned of its nulls")
@effect("is not told what it may leave out", fix="print tools as they were given")
def nulls_of_schemas_dropped():
    """Keys of a tool's schema that hold null are left out."""

    def cleaned(value):
        if isinstance(value, dict):
            return {key: cleaned(item) for key, item in value.items() if item is not None}
        return [cleaned(item) for item in value] if isinstance(value, list) else value

    def changed(messages, tools):
        talk = check_conversation(messages, tools=tools)
        return Conversation(talk, talk.source, cleaned(talk.tools))

    return broken(
        "template",
        render=lambda messages, *rest, tools=None, **options: render(changed(messages, tools), *rest, **options),
        encode=lambda messages, *rest, tools=None, **options: encode(changed(messages, tools), *rest, **options),
    )
