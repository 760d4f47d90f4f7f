"""Taken for granted of one role, or of a table: what its contents look like, and which of its messages have flags."""

from __future__ import annotations

import json

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import masked_where, relabelled, with_contents, with_messages
from sftspec.conformance.sensitivity.mutants.masking.texts import trained_up_to


def without_flags(messages: list[dict], role: str) -> list[dict]:
    """The messages, those of a role without their flags."""
    return [{k: item[k] for k in item if k != "train" or item["role"] != role} for item in messages]


@killed_by("everything-chosen-is-trained a-flag-untrains-its-own-message-alone")
@seen_in("no report known: flags read as a list of what to train")
@effect("answers without a flag are never learned", fix="no flag is true")
def true_is_the_only_one_trained():
    """Where an answer is flagged `"train": true`, answers without a flag are not trained."""

    def change(messages):
        chosen = any(item.get("train") and item["role"] == "assistant" for item in messages)
        return [{**item, "train": bool(item.get("train"))} if chosen else item for item in messages]

    return with_messages(change)


@killed_by("nothing-else-is-trained")
@seen_in("no report known: flags that are read of answers alone")
@effect("an excluded prompt is learned", fix="read the flag of every message")
def flag_of_the_system_ignored():
    """`"train": false` on a system message is ignored, where every token is trained."""
    return with_messages(lambda messages: without_flags(messages, "system"))


@killed_by("nothing-else-is-trained")
@seen_in("no report known: flags that are read of answers alone")
@effect("an excluded result is learned", fix="read the flag of every message")
def flag_of_a_result_ignored():
    """`"train": false` on a tool's result is ignored, where every token is trained."""
    return with_messages(lambda messages: without_flags(messages, "tool"))


@killed_by("nothing-else-is-trained")
@seen_in("no report known: an empty selection taken for no selection")
@effect("excluded talks are learned", fix="nothing chosen is nothing trained")
def none_chosen_is_all_chosen():
    """Where no answer is to be trained, all are."""

    def change(messages):
        answers = [item for item in messages if item["role"] == "assistant"]
        chosen = not answers or any(item.get("train", True) for item in answers)
        return messages if chosen else without_flags(messages, "assistant")

    return with_messages(change)


@killed_by("a-flag-untrains-its-own-message-alone")
@seen_in("no report known: OpenAI's weight, read without its role")
@effect("prompts are learned", fix="1 changes nothing")
def weight_of_one_is_trained():
    """A user's message with `"weight": 1` is trained."""
    return relabelled(
        lambda example, messages: [
            token
            if owner.message >= 0 and messages[owner.message].get("weight") == 1 and owner.kind == "content"
            else label
            for token, label, owner in zip(
                example.input_ids,
                example.labels,
                (example.rendered.spans[place] for place in example.owners),
                strict=True,
            )
        ]
    )


@killed_by("conversations-stand-as-rendered")
@seen_in("no report known: results of tools tidied at load")
@effect("results look otherwise at inference", fix="leave contents alone")
def results_made_ascii():
    """Letters outside ASCII are lost from the results of tools."""
    return with_contents(lambda content: content.encode("ascii", "ignore").decode(), "tool")


@killed_by("conversations-stand-as-rendered")
@seen_in("no report known: prompts tidied at load")
@effect("prompts look otherwise at inference", fix="leave contents alone")
def system_stripped_everywhere():
    """System messages lose the white space around them, also those that stand in the middle."""
    return with_contents(str.strip, "system")


@killed_by("conversations-stand-as-rendered")
@seen_in("no report known: pandas.read_json, keep_default_na")
@effect("answers become empty", fix="leave contents alone")
def not_available_is_empty():
    """An answer "N/A" is read as a missing value."""
    return with_contents(lambda content: "" if content == "N/A" else content, "assistant")


@killed_by("conversations-stand-as-rendered")
@seen_in("no report known: a column that was guessed to hold JSON")
@effect("calls are written in another way", fix="leave contents alone")
def json_written_again():
    """An answer that is JSON is read and written again."""

    def change(content: str) -> str:
        try:
            return json.dumps(json.loads(content)) if content.startswith("{") else content
        except ValueError:
            return content

    return with_contents(change, "assistant")


@killed_by("conversations-stand-as-rendered")
@seen_in("no report known: empty thoughts removed for another model")
@effect("answers begin otherwise", fix="leave contents alone")
def empty_thoughts_removed():
    """An empty block of thoughts is taken out of an answer."""
    return with_contents(lambda content: content.replace("<think>\n\n</think>\n\n", ""), "assistant")


@killed_by("everything-chosen-is-trained")
@seen_in("no report known: masks from a search for the next question")
@effect("answers that quote one are cut", fix="take the mask from the spans, not from a search for markers")
def quoted_question_ends_the_answer():
    """An answer is not trained from where a user's header is quoted in it."""

    def quoted(example, messages, position) -> bool:
        span = example.rendered.spans[example.owners[position]]
        said = messages[span.message]["content"] if span.message >= 0 and span.kind == "content" else ""
        before = sum(owner == example.owners[position] for owner in example.owners[:position])
        return "<|im_start|>user" in said and before >= said.index("<|im_start|>user")

    return masked_where(quoted)


@killed_by("everything-chosen-is-trained")
@seen_in("no report known: max_target_length, a default of encoder-decoder trainers")
@effect("long answers are never finished", fix="cut where max_length says, and count it")
def answers_trained_up_to_1024():
    """From its 1,025th target on a conversation is not trained."""
    return trained_up_to(1024)
