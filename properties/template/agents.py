"""Templates of agents: a talk that calls tools more than once, and goes on.

A template keeps a state while it writes: is a group of results open, was a call written, where is the last question.
What goes wrong there does not show in one question, one call and one result.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

from hypothesis import strategies as st

from sftspec.properties import must
from sftspec.properties.cases.agent_conversations import STEPS, TALKS, spelt_talk, talk_of
from sftspec.properties.cases.conversations import HELLO, SYSTEM_ONLY
from sftspec.properties.cases.template import CALL_KEYS, value_or_none


def _named(message: dict, number: int) -> dict:
    """Results say whose they are, and neither their names nor their ids are in order."""
    who = {"name": f"t{-number % 9}", "tool_call_id": f"call_{-number % 9}"}
    return message | who if message["role"] == "tool" else message


def _thinking_aloud(message: dict, number: int) -> dict:
    """Thoughts stand in the content."""
    if "reasoning_content" not in message:
        return message
    content = f"<think>\n{message['reasoning_content']}\n</think>\n\n{message['content']}"
    return {key: value for key, value in message.items() if key != "reasoning_content"} | {"content": content}


FORMS: dict[str, Callable[[dict, int], dict]] = {
    "as it is": lambda message, number: message,
    "with names and ids": _named,
    "with thoughts in contents": _thinking_aloud,
    "untrained": lambda message, number: message | ({"train": False} if message["role"] == "assistant" else {}),
}


@must(seam="render", laws=("TP-PARSE", "TP-PRES"), floor=50,
      given={"template": st.sampled_from(sorted(CALL_KEYS)),
             "steps": st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=7), "has_system": st.booleans()},
      examples=[{"template": name, "steps": steps, "has_system": "instruction" in steps} for name in sorted(CALL_KEYS)
                for steps in (*TALKS, ["call", "instruction", "answer"])])  # fmt: skip
def an_agents_talk_is_written_turn_by_turn(render, template, steps, has_system):
    """However often tools are called, every turn is written as the first of its kind: each group of results in its own
    turn, each result as it came back, every call of every message, also one that was made before, and what was said
    beside it. Thoughts are kept after the last question, as many results as there may be, and not before it. Who
    answers, by name or by id, changes nothing, nor does a message that is not to be trained, or it is refused.

    A flag that is not taken back leaves the second group of results without its header; a template tried on one call
    drops the calls or contents of history, joins two calling turns, takes a repeated call for a copy, or gathers the
    system's messages; a result that is read as JSON comes back with other blanks or another order. The agent then reads
    what its tools never said.
    """
    talk, system = talk_of(steps, template), SYSTEM_ONLY if has_system else []
    opening = render([*system, *HELLO], template).text.removesuffix(spelt_talk(HELLO, template))
    expected = opening + spelt_talk(talk, template)
    for name, form in FORMS.items():
        messages = [*system, *(form(message, number) for number, message in enumerate(talk))]
        rendered = value_or_none(render, deepcopy(messages), template)
        if rendered is not None:
            yield messages, rendered.text == expected, f"{name}: expected {expected!r}, found {rendered.text!r}"
