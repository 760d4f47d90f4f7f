"""Templates of agents: a conversation that calls tools more than once, and goes on.

A template keeps a state while it writes: is a group of results open, was a call written, where is the last question.
What goes wrong there does not show in one question, one call and one result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

from hypothesis import strategies as st

from sftspec.properties import must
from sftspec.properties.cases.agent_conversations import AGENTS, STEPS, conversation_of, spelt_conversation
from sftspec.properties.cases.conversations import HELLO, SYSTEM_ONLY
from sftspec.properties.cases.template import CALL_KEYS, value_or_none

DRAWN = {
    "given": {
        "template": st.sampled_from(sorted(CALL_KEYS)),
        "steps": st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=7),
        "has_system": st.booleans(),
    },
    "examples": [
        {"template": name, "steps": steps, "has_system": "instruction" in steps}
        for name in sorted(CALL_KEYS)
        for steps in (*AGENTS, ["call", "instruction", "answer"])
    ],
}


def spelt(
    render: Callable,
    template: str,
    steps: list[str],
    has_system: bool,
    form: Callable[[dict, int], dict] = lambda message, number: message,
) -> Iterator[tuple]:
    """Evidence that an agent's conversation, each message in this form, has the text that is spelt by hand.

    A form that the template refuses gives no evidence.
    """
    conversation, system = conversation_of(steps, template), SYSTEM_ONLY if has_system else []
    opening = render([*system, *HELLO], template).text.removesuffix(spelt_conversation(HELLO, template))
    expected = opening + spelt_conversation(conversation, template)
    messages = [*system, *(form(message, number) for number, message in enumerate(conversation))]
    rendered = value_or_none(render, deepcopy(messages), template)
    if rendered is not None:
        yield messages, rendered.text == expected, f"expected {expected!r}, found {rendered.text!r}"


@must(seam="render", laws=("TP-PARSE", "TP-PRES"), floor=50, **DRAWN)
def every_turn_of_an_agent_is_written_as_the_first(render, template, steps, has_system):
    """Every turn of an agent's conversation is written as the first of its kind, and thoughts are kept after the last
    question.

    A flag that is not taken back leaves the second group of results without its header; a template tried on one call
    drops the calls or contents of history, joins two calling turns, takes a repeated call for a copy, or gathers the
    system's messages; a result that is read as JSON comes back with other blanks or another order. The agent then reads
    what its tools never said.
    """
    yield from spelt(render, template, steps, has_system)


def _named(message: dict, number: int) -> dict:
    """Neither the names on results nor their ids are in order."""
    who = {"name": f"t{-number % 9}", "tool_call_id": f"call_{-number % 9}"}
    return message | who if message["role"] == "tool" else message


@must(seam="render", laws=("TP-PARSE", "TP-PRES"), floor=50, **DRAWN)
def names_and_ids_do_not_move_results(render, template, steps, has_system):
    """Names and ids on an agent's results change neither their text nor their order, or are refused.

    Results that are put in the order of their names are taken for one another's.
    """
    yield from spelt(render, template, steps, has_system, _named)


def _thinking_aloud(message: dict, number: int) -> dict:
    """Thoughts stand in the content."""
    if "reasoning_content" not in message:
        return message
    content = f"<think>\n{message['reasoning_content']}\n</think>\n\n{message['content']}"
    return {key: value for key, value in message.items() if key != "reasoning_content"} | {"content": content}


@must(seam="render", laws=("TP-PARSE", "TP-PRES"), floor=50, **DRAWN)
def thoughts_in_a_content_are_thoughts(render, template, steps, has_system):
    """An agent's thoughts between tags in a content are written as those in a field of their own, or refused.

    What is forgotten, and what is kept after the last question, otherwise depends on how a data set stores it.
    """
    yield from spelt(render, template, steps, has_system, _thinking_aloud)


def _untrained(message: dict, number: int) -> dict:
    return message | ({"train": False} if message["role"] == "assistant" else {})


@must(seam="render", laws=("TP-PARSE", "TP-PRES"), floor=50, **DRAWN)
def untrained_steps_of_an_agent_are_written(render, template, steps, has_system):
    """An agent's answers that are not to be trained are written like the others, or refused.

    The results of a call that was left out answer nothing.
    """
    yield from spelt(render, template, steps, has_system, _untrained)
