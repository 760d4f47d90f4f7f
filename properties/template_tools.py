"""Templates: tools that are listed, called, and answer.

Qwen's and Llama's variants write them each in their own way. A model that was trained on another one calls tools that
nobody offered, in words that no parser reads (cookbook#466, tinker-cookbook#837).
"""

from __future__ import annotations

import json
from copy import deepcopy

from hypothesis import strategies as st

from sftspec.properties import must, takes
from sftspec.properties.template_cases import (
    CALL_KEYS,
    HELLO,
    IN_TAGS,
    TAKE_TOOLS,
    answer_with_calls,
    json_values,
    norm,
    plain_text,
    text_or_refusal,
    tool,
)


@must(seam="render", laws=("TP-PARSE", "TP-PRES"), floor=20,
      given={"content": plain_text, "template": st.sampled_from(TAKE_TOOLS), "count": st.integers(1, 3)},
      examples=[{"content": text, "template": name, "count": 2} for text in ("", " S") for name in TAKE_TOOLS]
      )  # fmt: skip
def every_tool_is_listed_beside_any_system_prompt(render, content, template, count):
    """All tools are listed, in order, in a text that the system prompt does not change but by standing in it; and they
    are not changed.

    The first tool alone, or a list that is glued to an empty prompt: the model is asked for calls that it was not told
    of (cookbook#466).
    """
    if not takes(render, "tools") or template not in TAKE_TOOLS:
        return
    tools = [tool(f"tool_{number}") for number in range(count)]
    before = deepcopy(tools)

    def text(system: str) -> str:
        return render([{"role": "system", "content": system}, *HELLO], template, tools=tools).text

    found, marked = text(content), text("MARK")
    expected = marked.replace("MARK", norm(content, template))
    yield content, found == expected, f"expected {expected!r}, found {found!r}"
    places = [marked.find(f'"tool_{number}"') for number in range(count)]
    yield tools, -1 not in places and places == sorted(places), f"tools at {places} of {marked!r}"
    yield before, tools == before, f"the tools were changed to {tools!r}"


def calls_in(text: str, template: str) -> list[dict]:
    """The calls that stand in a text: the JSON objects that open with the first of the variant's keys."""
    found, start, opening = [], 0, f'{{"{CALL_KEYS[template][0]}": '
    while (start := text.find(opening, start)) >= 0:
        call, start = json.JSONDecoder().raw_decode(text, start)
        found.append(call)
    return found


NESTED = {"z": {"b": 1, "a": [0.5, True, {}]}, "y": 1.123456789, "x": 2**60 + 1, "w": False, "Zoë": "", "a": None}


@must(seam="render", laws=("TP-PARSE",), floor=20,
      given={"arguments": st.dictionaries(plain_text, json_values, max_size=3),
             "template": st.sampled_from(sorted(CALL_KEYS)), "count": st.integers(1, 3)},
      examples=[{"arguments": NESTED, "template": name, "count": count} for name in sorted(CALL_KEYS)
                for count in (1, 2)])  # fmt: skip
def a_call_is_json_with_the_keys_of_its_variant(render, arguments, template, count):
    """Each call stands in the text as JSON under the keys that its variant's models learnt, and its arguments can be
    read back, value for value and in the order in which they were given; several calls of one message may be refused.

    "arguments" for "parameters", arguments that were sorted or rounded on the way, the second of two calls left out:
    calls that no parser of this model reads, or that nobody made.
    """
    if template not in CALL_KEYS:
        return
    text, refusal = text_or_refusal(render, [*HELLO, answer_with_calls(arguments, count)], template)
    if text is None:
        yield arguments, count > 1, refusal
        return
    call = {key: {"type": "function", "name": "find"}.get(key, arguments) for key in CALL_KEYS[template]}
    expected, found = json.dumps([call] * count), json.dumps(calls_in(text, template))
    # As JSON again, because == does not tell True from 1 and knows no order of keys.
    yield arguments, found == expected, f"expected the calls {expected}, found {found} in {text!r}"


@must(seam="render", laws=("TP-PARSE",), floor=20,
      given={"contents": st.lists(plain_text, min_size=1, max_size=4), "thoughts": plain_text,
             "template": st.sampled_from(IN_TAGS)},
      examples=[{"contents": contents, "thoughts": "Hm.", "template": name} for contents in (["1"], ["1", "2", "3"])
                for name in IN_TAGS])  # fmt: skip
def a_result_is_a_users_turn_in_tags(render, contents, thoughts, template):
    """The results of tools, and the same written into a user's message with their tags, give one text; a message with
    one of the two tags is a question like any other.

    Qwen's templates have no turn for results; one that takes such a message for a new question forgets the thoughts
    before it (tinker-cookbook#837), and one that takes a question about tags for a result keeps them.
    """
    if template not in IN_TAGS:
        return

    def text(*messages: tuple[str, str]) -> str:
        before = [*HELLO, {"role": "assistant", "content": f"<think>\n{thoughts}\n</think>\n\nLook."}]
        said = [{"role": role, "content": content} for role, content in (*messages, ("assistant", "So."))]
        return render([*before, *said], template).text

    opening, closing = "<tool_response>\n", "\n</tool_response>"
    one = text(*(("tool", content) for content in contents))
    other = text(("user", "\n".join(opening + content + closing for content in contents)))
    yield contents, one == other, f"as results {one!r}, as a message {other!r}"
    plain = text(("user", "MARK"))
    for question in (opening + contents[0], contents[0] + closing):
        expected, found = plain.replace("MARK", question), text(("user", question))
        yield question, found == expected, f"expected {expected!r}, found {found!r}"
