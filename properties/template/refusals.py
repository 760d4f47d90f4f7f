"""Templates: what cannot be rendered is refused, and the error says where it stands.

Skipped messages are lost data; a None that is rendered trains the word "None"; an image that is left out leaves the
question about it.
"""

from __future__ import annotations

import re

from hypothesis import strategies as st

from sftspec.properties import must
from sftspec.properties.cases.template import EACH_TEMPLATE, IN_EVERY, PLAIN, text_or_refusal

TEXT, IMAGE = {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "a.png"}}
ROLES = ("bot", "developer", "function", "User", None)
CONTENTS = (None, 1234, [TEXT, IMAGE], "\ud800", ...)  # ...: the message has no such key
FAULTS = [*({"role": role} for role in ROLES), *({"content": content} for content in CONTENTS)]
FAULTY = {
    "given": {**PLAIN, "fault": st.sampled_from(FAULTS), "place": st.integers(0, 9)},
    "examples": [
        {**arguments, "fault": fault, "place": place} for arguments in IN_EVERY for place in (0, 4) for fault in FAULTS
    ],
}


def with_fault(messages: list[dict], fault: dict, place: int) -> list[dict]:
    """The conversation with a fault in the message at this place; an ellipsis takes the key away."""
    faulty = {key: value for key, value in {**messages[place], **fault}.items() if value is not ...}
    return [*messages[:place], faulty, *messages[place + 1 :]]


@must(seam="render", laws=("TP-ERR",), floor=20, **FAULTY)
def a_broken_message_is_refused(render, messages, template, fault, place):
    """A role that is not system, user, assistant or tool, and a content that is missing or no text, are refused.

    Skipped, the message is lost data (aprender#2023); a None that is rendered is a word.
    """
    broken = with_fault(messages, fault, place % len(messages))
    text, _ = text_or_refusal(render, broken, template)
    yield broken, text is None, f"rendered as {text!r}"


@must(seam="render", laws=("TP-ERR",), floor=20, **FAULTY)
def the_error_says_which_message(render, messages, template, fault, place):
    """The error about a broken message says its number, counted from 0 or from 1.

    In a file of a million conversations an error without a place is looked for by hand.
    """
    place %= len(messages)
    broken = with_fault(messages, fault, place)
    text, refusal = text_or_refusal(render, broken, template)
    if text is None:
        named = not {str(place), str(place + 1)}.isdisjoint(re.findall(r"\d+", refusal))
        yield broken, named, f"the error does not say which message: {refusal}"


@must(seam="render", laws=("TP-ERR",), floor=2, **EACH_TEMPLATE)
def a_conversation_without_messages_is_refused(render, template):
    """A conversation without messages is refused.

    It is a row that was read wrong; rendered, it is a default system prompt that is trained on nothing.
    """
    text, _ = text_or_refusal(render, [], template)
    yield template, text is None, f"rendered as {text!r}"


@must(seam="render", laws=("TP-ERR",), floor=2, given=PLAIN, examples=IN_EVERY)
def an_unknown_template_is_refused(render, messages, template):
    """A template that does not exist is refused.

    A default in its place is another model's format, in every conversation.
    """
    text, _ = text_or_refusal(render, messages, f"{template}/unknown")
    yield template, text is None, f"rendered as {text!r}"
