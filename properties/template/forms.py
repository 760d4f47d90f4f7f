"""Templates: one message in several forms.

Data sets fill columns with None, cut a content into parts, hang ids on calls, and flag what is not to be trained. Each
form has the text of the plain message, or is refused; none is read as something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from sftspec.properties import must, takes
from sftspec.properties.cases.conversations import HELLO, RESULT, THOUGHTFUL, TWO_TURNS
from sftspec.properties.cases.template import (
    CALL_KEYS,
    EVERY,
    HOSTILE,
    IN_EVERY,
    PLAIN,
    TAKE_A_LATE_SYSTEM,
    TAKE_TOOLS,
    answer_with_calls,
    conversations,
    in_each,
    in_parts,
    plain_text,
    tool,
    value_or_none,
    with_field,
)

PLACED = [
    *({**arguments, "place": 0} for arguments in IN_EVERY),
    *({**arguments, "place": 1} for arguments in in_each(EVERY, THOUGHTFUL[:2])),
]
CUT = [*({**arguments, "cut": 2} for arguments in PLACED), *({**arguments, "cut": 9} for arguments in PLACED)]
AT_A_PLACE = {**PLAIN, "place": st.integers(0, 9)}

FLAGS = {"train": False}, {"weight": 0}
# As a column of a data set is filled.
EMPTY: tuple[dict, ...] = {"tool_calls": None}, {"tool_calls": []}, {"reasoning_content": None}
NAME = {"name": "ann"}
CALLED = [*HELLO, answer_with_calls({"place": "A"})]
CALLS = CALLED[-1]["tool_calls"]
FORMS_OF_A_CALL = with_field(
    CALLED,
    -1,
    {"content": None},
    {"tool_calls": [call["function"] for call in CALLS]},  # name and arguments alone
    {"tool_calls": [{**call, "id": "call_1"} for call in CALLS]},
)
RESULT_WITH_ID = [*RESULT[:2], {**RESULT[2], "tool_call_id": "call_1", "name": "find"}]
IN_ONE_OBJECT = {"messages": HELLO, "tools": [tool("find")]}


def alike(render: Callable, template: str, expected: str, forms: Any) -> Iterator[tuple]:
    """Evidence that each form has the expected text, or is refused."""
    for form in forms:
        found = value_or_none(render, deepcopy(form), template)
        yield form, found is None or found.text == expected, f"expected {expected!r}, found {found and found.text!r}"


@must(seam="render", laws=("TP-PRES",), floor=50, given={**AT_A_PLACE, "cut": st.integers(0, 6)}, examples=CUT)
def text_parts_are_rendered_as_one_content(render, messages, template, place, cut):
    """A content in text parts is rendered as their concatenation, or refused.

    Parts are otherwise printed as Python prints a list, or all but the first are left out.
    """
    parts = in_parts(messages[place % len(messages)], cut)
    yield from alike(render, template, render(messages, template).text, with_field(messages, place, parts))


@must(seam="render", laws=("TP-PRES",), floor=50, given=AT_A_PLACE, examples=PLACED)
def a_message_that_is_not_trained_is_rendered(render, messages, template, place):
    """A message with `"train": false` or `"weight": 0` is rendered all the same, or refused.

    Context otherwise vanishes with its flag: the answer after it is trained on a conversation that has a hole.
    """
    yield from alike(render, template, render(messages, template).text, with_field(messages, place, *FLAGS))


@must(seam="render", laws=("TP-PRES",), floor=50, given=AT_A_PLACE, examples=PLACED)
def an_empty_field_is_no_field(render, messages, template, place):
    """A field that holds None or an empty list changes nothing, or is refused.

    A None that is rendered, or a column of them that is taken for calls and thoughts.
    """
    yield from alike(render, template, render(messages, template).text, with_field(messages, place, *EMPTY))


@must(seam="render", laws=("TP-PRES",), floor=50, given=AT_A_PLACE, examples=PLACED)
def the_name_of_a_speaker_is_not_written(render, messages, template, place):
    """The name of who speaks is not written, or is refused.

    A name stands in the place of the role. None of the named variants writes names; other templates may.
    """
    if takes(render, "tools"):
        yield from alike(render, template, render(messages, template).text, with_field(messages, place, NAME))


@must(
    seam="render",
    laws=("TP-PRES",),
    floor=3,
    given={"template": st.sampled_from(sorted(CALL_KEYS))},
    examples=[{"template": name} for name in sorted(CALL_KEYS)],
)
def a_call_has_one_text_in_every_form(render, template):
    """A call has one text, with content None or empty, with or without an id, with or without "function", unless it is
    refused.

    The word None is rendered, ids are printed that the model is to invent, a call in its short form is skipped.
    """
    called = value_or_none(render, CALLED, template) if template in CALL_KEYS else None
    if called is not None:
        yield from alike(render, template, called.text, FORMS_OF_A_CALL)


@must(
    seam="render",
    laws=("TP-PRES",),
    floor=3,
    given={"template": st.sampled_from(TAKE_A_LATE_SYSTEM)},
    examples=[{"template": name} for name in TAKE_A_LATE_SYSTEM],
)
def the_id_and_name_of_a_result_are_not_written(render, template):
    """The id and the name on a tool's result are not written, or are refused.

    The model is to look for ids that it is never given.
    """
    known = template in TAKE_A_LATE_SYSTEM and takes(render, "tools")
    result = value_or_none(render, RESULT, template) if known else None
    if result is not None:
        yield from alike(render, template, result.text, [RESULT_WITH_ID])


@must(
    seam="render",
    laws=("TP-PRES",),
    floor=2,
    given={"template": st.sampled_from(TAKE_TOOLS)},
    examples=[{"template": name} for name in TAKE_TOOLS],
)
def tools_in_one_object_are_listed(render, template):
    """Tools in one object with the messages are listed as tools that are given apart, or refused.

    A data set holds both in a row; a renderer that reads the messages alone asks for calls of tools it never named.
    """
    if template in TAKE_TOOLS and takes(render, "tools"):
        apart = render(HELLO, template, tools=[tool("find")]).text
        yield from alike(render, template, apart, [IN_ONE_OBJECT])


@must(
    seam="render",
    laws=("TP-PRES",),
    floor=20,
    given={"messages": conversations(plain_text), "template": st.sampled_from(TAKE_TOOLS)},
    examples=in_each(TAKE_TOOLS, TWO_TURNS),
)
def an_empty_list_of_tools_lists_nothing(render, messages, template):
    """An empty list of tools is the same as none.

    A data set without tools in a row holds []; the instructions for calls are then trained without any tool.
    """
    if template in TAKE_TOOLS and takes(render, "tools"):
        expected, found = render(messages, template).text, render(messages, template, tools=[]).text
        yield messages, found == expected, f"expected {expected!r}, found {found!r}"


@must(
    seam="render",
    laws=("TP-DET", "TP-PRES"),
    floor=50,
    given={**HOSTILE, "place": st.integers(0, 9), "cut": st.integers(0, 6)},
    examples=CUT,
)
def rendering_changes_no_message(render, messages, template, place, cut):
    """Messages are left as they were by rendering, in whatever form they are given.

    A template that works in place strips a content once more in the second epoch.
    """
    fields = in_parts(messages[place % len(messages)], cut), *FLAGS, *EMPTY
    forms = [messages, *with_field(messages, place, *fields), *FORMS_OF_A_CALL, RESULT_WITH_ID, IN_ONE_OBJECT]
    for before, form in zip(forms, deepcopy(forms), strict=True):
        value_or_none(render, form, template)
        yield before, form == before, f"it was changed to {form!r}"
