"""Templates: the text that a conversation becomes.

A trainer that renders one newline wrong trains another model, and its loss looks the same: a wrong template cancels
between training and evaluation (trap H12). These properties read `render`, over every named variant: every message is
in the text, and can be told from the others by its markers. (Hugging Face, chat templating guide; OpenAI chatml.md;
Meta's Llama-2 and Llama-3 code.)
"""

from __future__ import annotations

from copy import deepcopy

from sftspec.counted import counted
from sftspec.properties import must, takes
from sftspec.properties.cases.conversations import (
    ALL_FIELDS,
    CALLED,
    LATE_SYSTEM,
    LONG,
    MANY_TURNS,
    ONE_FIELD,
    OUT_OF_ORDER,
    THINK_TAG_BESIDE_THOUGHTS,
    THINK_TAGS,
    THOUGHTS_ABOUT_A_RESULT,
    THOUGHTS_BEFORE_EACH_CALL,
)
from sftspec.properties.cases.template import (
    BLANK_IN_EVERY,
    DATES,
    EVERY,
    HOSTILE,
    IN_EVERY,
    OWN_SYSTEM,
    PLAIN,
    PUBLISHED,
    TAKE_A_LATE_SYSTEM,
    TAKE_THOUGHTS,
    in_any_order,
    in_each,
    names,
    norm,
    published,
    text_or_refusal,
    turns_in,
    words_of,
)


def as_llama2(messages: list[dict], template: str) -> str:
    """The text of a conversation in Llama-2's format, where the system prompt stands inside the first question."""
    said = [{**message, "content": norm(message["content"], template)} for message in messages]
    if said[0]["role"] == "system":
        system, first = (message["content"] for message in messages[:2])
        said[:2] = [{"role": "user", "content": f"<<SYS>>\n{system}\n<</SYS>>\n\n{first}".strip()}]
    turns = {"user": "<s>[INST] {} [/INST]", "assistant": " {} </s>"}
    return "".join(turns[message["role"]].format(message["content"]) for message in said)


def as_read(role: str, content: str, template: str) -> str:
    """A content as it is compared: Qwen3's templates take the newlines off the front of an answer."""
    return content.lstrip("\n") if template.startswith("chatml/qwen3") and role == "assistant" else content


@must(
    seam="render",
    laws=("TP-PARSE",),
    floor=50,
    given=PLAIN,
    examples=[
        *IN_EVERY,
        *BLANK_IN_EVERY,
        *in_each(EVERY, MANY_TURNS),
        *in_each(TAKE_A_LATE_SYSTEM, LATE_SYSTEM),
    ],
)
def what_was_said_can_be_read_back(render, messages, template):
    """Taken apart at its markers, the text gives every role and content back, after the declared trimming.

    A header without its newline (gorilla#430), a content stripped by a template that does not strip, a system message
    dropped (aprender#2023) or overwritten, newlines run together, an escape or a template's comment read as such, a
    window of the last messages.
    """
    text = render(messages, template).text
    if template.startswith("llama2"):
        expected = as_llama2(messages, template)
        yield template, text == expected, f"expected {expected!r}, found {text!r}"
        return
    turns = turns_in(text, template)
    if len(turns) > len(messages):  # a system block of the template's own
        yield template, turns[0][0] == "system", f"expected a system block first, found {turns[0]!r}"
        turns = turns[1:]
    yield (
        template,
        len(turns) == len(messages),
        f"{counted(len(turns), 'turn')} for {counted(len(messages), 'message')} in {text!r}",
    )
    for message, (role, content) in zip(messages, turns, strict=False):
        if template == "llama3.1/hf" and role == "system":  # its dates stand before what was written
            content = content.split("\n\n", 1)[-1]
        turn = message["role"], as_read(role, norm(message["content"], template), template)
        found = role, as_read(role, content, template)
        yield turn, found == turn, f"expected {turn!r}, found {found!r}"


@must(seam="render", laws=("TP-PARSE", "TP-GEN"), floor=30, **PUBLISHED)
def what_others_published_is_rendered(render, template, number):
    """A golden conversation is rendered, or refused, exactly as by the oracle of its variant.

    A template that is wrong everywhere cancels between training and evaluation (trap H12): only what others made of
    these conversations shows a role renamed, two turns merged, a default a full stop short (LlamaFactory#10769). Tools,
    results and thoughts are among them.
    """
    cases = published(template)
    if not cases:
        return
    case = cases[number % len(cases)]
    tools = {"tools": deepcopy(case.tools)} if case.tools else {}
    if tools and not takes(render, "tools"):
        return
    text, refusal = text_or_refusal(render, deepcopy(case.messages), template, case.add_generation_prompt, **tools)
    if text is None:
        yield case.id, case.rejected is not None, refusal
    else:
        yield case.id, text == case.text, f"expected {case.text or case.rejected!r}, found {text!r}"


@must(
    seam="render",
    laws=("TP-ERR", "TP-PRES"),
    floor=50,
    given={"messages": in_any_order, "template": names},
    examples=[
        *in_each(EVERY, *OUT_OF_ORDER, ALL_FIELDS, *ONE_FIELD),
        *in_each(TAKE_THOUGHTS, THINK_TAG_BESIDE_THOUGHTS, THOUGHTS_ABOUT_A_RESULT, THOUGHTS_BEFORE_EACH_CALL),
    ],
)
def whoever_speaks_is_heard_or_refused(render, messages, template):
    """In any order of roles every message is rendered in its place with its thoughts and calls, or the conversation is
    refused.

    Consecutive messages of a role, an answer that comes first, a tool's result, a system message in the middle are
    skipped, or overwritten by the next, where a renderer looks for pairs (aprender#2023); a field that it does not
    know is dropped (slime#330), thoughts are trimmed, forgotten when a result comes, or what looks like thoughts is
    taken out beside thoughts.
    """
    text, refusal = text_or_refusal(render, messages, template)
    if text is None:
        yield messages, True, refusal
        return
    place = 0
    for message in messages:
        for part in words_of(message):
            found = text.find(part, place)
            yield message, found >= 0, f"{part!r} does not stand after {text[:place]!r} in {text!r}"
            place = found + len(part)


@must(
    seam="render",
    laws=("TP-PARSE", "TP-DET"),
    floor=30,
    given=PLAIN,
    examples=[*IN_EVERY, *BLANK_IN_EVERY],
)
def a_system_prompt_that_nobody_wrote_is_the_variants_own(render, messages, template):
    """The system prompt is the written one, even an empty one; without one it is the variant's own, or none.

    A default where the variant has none, or a neighbour's (LlamaFactory#2987, #10772), the default in place of an empty
    prompt, today's date where the variant's is pinned (sglang#3296): a persona that the data does not hold.
    """
    if template.startswith("llama2"):
        return  # it has no system turn, and what-was-said-can-be-read-back compares its whole text
    written = [norm(message["content"], template) for message in messages if message["role"] == "system"]
    expected = written or [OWN_SYSTEM[name] for name in (template,) if name in OWN_SYSTEM]
    if template == "llama3.1/hf":
        expected = [DATES + "".join(written)]
    found = [content for role, content in turns_in(render(messages, template).text, template) if role == "system"]
    yield template, found == expected, f"expected {expected!r}, found {found!r}"


@must(
    seam="render",
    laws=("TP-PRES",),
    floor=50,
    given=HOSTILE,
    examples=[
        *IN_EVERY,
        *in_each(TAKE_A_LATE_SYSTEM, LATE_SYSTEM),
        *in_each(EVERY, LONG, THINK_TAGS[:3]),
        *in_each(TAKE_A_LATE_SYSTEM, THINK_TAGS),
        *in_each(["chatml/qwen3"], CALLED),
    ],
)
def nothing_that_was_said_is_lost(render, messages, template):
    """Every character of every content and tool call stands in the text, in order, white space aside.

    A later system message dropped (Rapid-MLX#1765), arguments that were text read and written again (cookbook#466), a
    message cut with its neighbour, at a length, or after a tag that ends thoughts in a message without thoughts.
    """
    letters = iter(render(messages, template).text)
    for message in messages:
        called = "".join(call["function"]["arguments"] for call in message.get("tool_calls", ()))
        said = message["content"] + called
        # The iterator goes on behind what it has found, so the order is checked as well.
        yield message, all(letter in letters for letter in "".join(said.split())), f"{said!r} is not all there"


@must(seam="render", laws=("TP-DET",), floor=50, given=HOSTILE, examples=IN_EVERY)
def the_same_conversation_has_the_same_text(render, messages, template):
    """The same conversation, rendered twice, gives the same text.

    A date in the system prompt (sglang#3296) changes tokens overnight.
    """
    first, second = (render(messages, template).text for _ in range(2))
    yield messages, first == second, f"first {first!r}, then {second!r}"


@must(seam="render", laws=("TP-DET",), floor=50, given=HOSTILE, examples=IN_EVERY)
def the_order_of_keys_changes_nothing(render, messages, template):
    """The order of the keys in a message does not change the text."""
    turned = [dict(reversed(message.items())) for message in messages]
    one, other = (render(each, template).text for each in (messages, turned))
    yield messages, one == other, f"expected {one!r}, with the keys in another order {other!r}"
