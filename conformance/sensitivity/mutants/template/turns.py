"""Templates that join, move or leave out messages, as those do which allow for nothing but question and answer."""

from __future__ import annotations

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.template.changes import other_messages


@killed_by("what-others-published-is-rendered")
@seen_in("subtle form of template/calling-turns-joined: turns merged so that roles alternate")
@effect("two questions are one, as the model never sees them", fix="a turn for each message")
def questions_in_a_row_joined():
    """Messages of a user that follow one another are one turn; every letter is there."""

    def joined(messages):
        kept: list[dict] = []
        for message in messages:
            if kept and kept[-1]["role"] == message["role"] == "user":
                kept[-1] = {**message, "content": f"{kept[-1]['content']}\n{message['content']}"}
            else:
                kept.append(message)
        return kept

    return other_messages(joined)


@killed_by("whoever-speaks-is-heard-or-refused")
@seen_in("subtle form of template/llama2-loses-the-first-question: turns skipped until a user speaks")
@effect("an answer is never learned, and nobody is told", fix="render it, or refuse the conversation")
def opening_answer_skipped():
    """An answer that opens a conversation is left out in silence."""
    return other_messages(
        lambda messages: messages[1:] if len(messages) > 1 and messages[0]["role"] == "assistant" else messages
    )


@killed_by("a-longer-conversation-begins-with-the-shorter-one")
@seen_in("subtle form of template/system-glued-to-the-question: Llama-2's, in the last question")
@effect("history changes with every turn: what was trained is never met", fix="a message stays where it is")
def system_prompt_in_the_last_question():
    """The system prompt stands at the head of the last question, and moves on with each new one."""

    def moved(messages):
        if messages[0]["role"] != "system" or not any(item["role"] == "user" for item in messages):
            return messages
        system, *rest = (dict(item) for item in messages)
        last = max(place for place, item in enumerate(rest) if item["role"] == "user")
        rest[last]["content"] = system["content"] + rest[last]["content"]
        return rest

    return other_messages(moved)
