"""Templates: the text that a conversation becomes.

A trainer that renders one newline wrong trains another model, and its loss looks the same: a wrong template cancels
between training and evaluation (bugs.md H12). These properties read `render`, over every named variant: whatever people
write, it is there, it can be told from the structure, and prompt and answer together are the training text. (Hugging
Face, chat templating guide; OpenAI chatml.md; Meta's Llama-2 and Llama-3 code.) What becomes of the tokens is in
template_tokens.
"""

from __future__ import annotations

import json
from copy import deepcopy

from hypothesis import strategies as st

from sftspec.properties import must, takes
from sftspec.properties.template_cases import (
    ALL_FIELDS,
    BLANK_IN_EVERY,
    CALL_KEYS,
    CALLED,
    DATES,
    EACH_PUBLISHED,
    HELLO,
    IN_EVERY,
    IN_TAGS,
    LATE_SYSTEM,
    LONG,
    ONE_FIELD,
    OUT_OF_ORDER,
    OWN_SYSTEM,
    TAKE_A_LATE_SYSTEM,
    TAKE_TOOLS,
    TURN,
    hostile_text,
    in_any_order,
    names,
    norm,
    plain_text,
    published,
    talks,
    words_of,
)
from sftspec.templates import TEMPLATES


@must(seam="render", laws=("TP-PARSE",), floor=50, given={"messages": talks(plain_text), "template": names},
      examples=[*IN_EVERY, *BLANK_IN_EVERY])  # fmt: skip
def what_was_said_can_be_read_back(render, messages, template):
    """Taken apart at its markers, the text gives every role and content back, after the declared trimming.

    A header without its newline (gorilla#430), a content stripped by a template that does not strip, a system message
    dropped (aprender#2023) or overwritten.
    """
    text = render(messages, template).text
    if template.startswith("llama2"):
        spoken = [{**message, "content": norm(message["content"], template)} for message in messages]
        if spoken[0]["role"] == "system":
            system, first = (message["content"] for message in messages[:2])
            together = f"<<SYS>>\n{system}\n<</SYS>>\n\n{first}".strip()
            spoken[:2] = [{"role": "user", "content": together}]
        expected = "".join(
            f"<s>[INST] {message['content']} [/INST]" if message["role"] == "user" else f" {message['content']} </s>"
            for message in spoken
        )
        yield template, text == expected, f"expected {expected!r}, found {text!r}"
        return
    turns = TURN[template.split("/")[0].split(".")[0]].findall(text)
    if len(turns) > len(messages):  # a system block of the template's own
        yield template, turns[0][0] == "system", f"expected a system block first, found {turns[0]!r}"
        turns = turns[1:]
    yield template, len(turns) == len(messages), f"{len(turns)} turns for {len(messages)} messages in {text!r}"
    for message, (role, content) in zip(messages, turns, strict=False):
        if template == "llama3.1/hf" and role == "system":
            content = content.split("\n\n", 1)[-1]
        wanted = norm(message["content"], template)
        if template.startswith("chatml/qwen3") and role == "assistant":
            wanted, content = wanted.lstrip("\n"), content.lstrip("\n")
        turn = message["role"], wanted
        yield turn, (role, content) == turn, f"expected {turn!r}, found {(role, content)!r}"


@must(seam="render", laws=("TP-PARSE", "TP-GEN"), floor=30,
      given={"template": names, "number": st.integers(0, 99)}, examples=EACH_PUBLISHED)  # fmt: skip
def what_others_published_is_rendered(render, template, number):
    """A golden conversation is rendered character for character as by the oracle of its variant, tools, results and
    thoughts included; one that the oracle refuses is refused.

    A template that is wrong everywhere cancels between training and evaluation (trap H12): only what others made of
    these conversations shows a role renamed, two turns merged, a default a full stop short (LlamaFactory#10769).
    """
    cases = published(template)
    if not cases:
        return
    case = cases[number % len(cases)]
    tools = {"tools": case.tools} if case.tools else {}
    if tools and not takes(render, "tools"):
        return
    try:
        text = render(deepcopy(case.messages), template, case.add_generation_prompt, **tools).text
    except ValueError as error:
        yield case.id, case.rejected is not None, f"refused: {error}"
    else:
        yield case.id, text == case.text, f"expected {case.text or case.rejected!r}, found {text!r}"


@must(seam="render", laws=("TP-ERR", "TP-PRES"), floor=50, given={"messages": in_any_order, "template": names},
      examples=[{"messages": talk, "template": name} for name in sorted(TEMPLATES)
                for talk in (*OUT_OF_ORDER, ALL_FIELDS, *ONE_FIELD)])  # fmt: skip
def whoever_speaks_is_heard_or_refused(render, messages, template):
    """Whatever the order of the roles, every message is rendered in its place with its thoughts and calls, or the
    conversation is refused.

    Consecutive messages of a role, an answer that comes first, a tool's result, a system message in the middle are
    skipped, or overwritten by the next, where a renderer looks for pairs (aprender#2023); a field that it does not
    know is dropped (slime#330).
    """
    try:
        text = render(messages, template).text
    except ValueError as error:
        yield messages, True, f"refused: {error}"
        return
    place = 0
    for message in messages:
        for part in words_of(message):
            found = text.find(part, place)
            yield message, found >= 0, f"{part!r} does not stand after {text[:place]!r} in {text!r}"
            place = found + len(part)


@must(seam="render", laws=("TP-PARSE", "TP-DET"), floor=30, given={"messages": talks(plain_text), "template": names},
      examples=IN_EVERY)  # fmt: skip
def a_system_prompt_that_nobody_wrote_is_the_variants_own(render, messages, template):
    """The system prompt is the one that was written, be it empty; where none was, the variant's own, or none.

    A default where the variant has none, or a neighbour's (LlamaFactory#2987, #10772), the default in place of an empty
    prompt, today's date where the variant's is pinned (sglang#3296): a persona that nobody asked for.
    """
    if template.startswith("llama2"):
        return  # it has no system turn, and what-was-said-can-be-read-back compares its whole text
    turns = TURN[template.split("/")[0].split(".")[0]].findall(render(messages, template).text)
    written = [norm(message["content"], template) for message in messages if message["role"] == "system"]
    expected = written or [OWN_SYSTEM[name] for name in (template,) if name in OWN_SYSTEM]
    if template == "llama3.1/hf":
        expected = [DATES + "".join(written)]
    found = [content for role, content in turns if role == "system"]
    yield template, found == expected, f"expected {expected!r}, found {found!r}"


@must(seam="render", laws=("TP-PRES",), floor=50, given={"messages": talks(hostile_text), "template": names},
      examples=[*IN_EVERY, *({"messages": LATE_SYSTEM, "template": name} for name in TAKE_A_LATE_SYSTEM),
                *({"messages": LONG, "template": name} for name in sorted(TEMPLATES)),
                {"messages": CALLED, "template": "chatml/qwen3"}])  # fmt: skip
def nothing_that_was_said_is_lost(render, messages, template):
    """Every character of every content and tool call stands in the text, in order, white space aside.

    A later system message dropped (Rapid-MLX#1765), arguments that were text read and written again (cookbook#466), a
    message cut with its neighbour, or at a length.
    """
    letters = iter(render(messages, template).text)
    for message in messages:
        called = "".join(call["function"]["arguments"] for call in message.get("tool_calls", ()))
        said = message["content"] + called
        yield message, all(letter in letters for letter in "".join(said.split())), f"{said!r} is not all there"


@must(seam="render", laws=("TP-PARSE", "TP-PRES"), floor=20,
      given={"content": plain_text, "template": st.sampled_from(TAKE_TOOLS), "count": st.integers(1, 3)},
      examples=[{"content": text, "template": name, "count": 2} for text in ("", " S") for name in TAKE_TOOLS]
      )  # fmt: skip
def every_tool_is_listed_beside_any_system_prompt(render, content, template, count):
    """All tools are listed, in order, in a text that the system prompt does not change but by standing in it.

    The first tool alone, or a list that is glued to an empty prompt: the model is asked for calls that it was not told
    of (cookbook#466).
    """
    if not takes(render, "tools") or template not in TAKE_TOOLS:
        return
    tools = [{"type": "function", "function": {"name": f"tool_{number}"}} for number in range(count)]

    def text(system: str) -> str:
        return render([{"role": "system", "content": system}, *HELLO], template, tools=tools).text

    found, marked = text(content), text("MARK")
    expected = marked.replace("MARK", norm(content, template))
    yield content, found == expected, f"expected {expected!r}, found {found!r}"
    places = [marked.find(f'"tool_{number}"') for number in range(count)]
    yield tools, -1 not in places and places == sorted(places), f"tools at {places} of {marked!r}"


@must(seam="render", laws=("TP-PARSE",), floor=20,
      given={"arguments": st.dictionaries(plain_text, plain_text | st.integers() | st.none(), max_size=3),
             "template": st.sampled_from(sorted(CALL_KEYS))},
      examples=[{"arguments": {"z": "Zoë", "a": None}, "template": name} for name in sorted(CALL_KEYS)])  # fmt: skip
def a_call_is_json_with_the_keys_of_its_variant(render, arguments, template):
    """A call stands in the text as JSON under the keys that its variant's models learnt, and its arguments can be read
    back, in the order in which they were given.

    "arguments" for "parameters", or arguments that were sorted on the way: calls that no parser of this model reads.
    """
    if template not in CALL_KEYS:
        return
    call = {"type": "function", "function": {"name": "find", "arguments": arguments}}
    text = render([*HELLO, {"role": "assistant", "content": "", "tool_calls": [call]}], template).text
    start = text.rfind(f'{{"{CALL_KEYS[template][0]}": ')
    if start < 0:
        yield arguments, False, f"no call begins with the key {CALL_KEYS[template][0]!r} in {text!r}"
        return
    found, _ = json.JSONDecoder().raw_decode(text, start)
    yield arguments, list(found) == CALL_KEYS[template], f"keys {list(found)}, expected {CALL_KEYS[template]}"
    read = found.get(CALL_KEYS[template][-1])
    same = isinstance(read, dict) and list(read.items()) == list(arguments.items())
    yield arguments, found.get("name") == "find" and same, f"called with {arguments}, found {found}"


@must(seam="render", laws=("TP-PARSE",), floor=20,
      given={"content": plain_text, "thoughts": plain_text, "template": st.sampled_from(IN_TAGS)},
      examples=[{"content": "1", "thoughts": "Hm.", "template": name} for name in IN_TAGS])  # fmt: skip
def a_result_is_a_users_turn_in_tags(render, content, thoughts, template):
    """A tool's result, and the same written into a user's message with its tags, give one text.

    Qwen's templates have no turn for results; one that takes such a message for a new question forgets the thoughts
    before it (tinker-cookbook#837).
    """
    if template not in IN_TAGS:
        return
    before = [*HELLO, {"role": "assistant", "content": f"<think>\n{thoughts}\n</think>\n\nLook."}]
    forms = [("tool", content), ("user", f"<tool_response>\n{content}\n</tool_response>")]
    one, other = (
        render([*before, {"role": role, "content": text}, {"role": "assistant", "content": "So."}], template).text
        for role, text in forms
    )
    yield content, one == other, f"as a result {one!r}, as a message {other!r}"
