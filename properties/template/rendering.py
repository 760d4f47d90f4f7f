"""Templates: the text that a conversation becomes.

A trainer that renders one newline wrong trains another model, and its loss looks the same: a wrong template cancels
between training and evaluation (trap H12). These properties read `render`, over every named variant: whatever people
write, it is there, it can be told from the structure, and prompt and answer together are the training text. (Hugging
Face, chat templating guide; OpenAI chatml.md; Meta's Llama-2 and Llama-3 code.) What becomes of the tokens is in
template_tokens, and tools are in template_tools.
"""

from __future__ import annotations

from copy import deepcopy

from hypothesis import strategies as st

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
    EACH_PUBLISHED,
    IN_EVERY,
    OWN_SYSTEM,
    TAKE_A_LATE_SYSTEM,
    TAKE_THOUGHTS,
    TURN,
    hostile_text,
    in_any_order,
    names,
    norm,
    plain_text,
    published,
    talks,
    text_or_refusal,
    words_of,
)
from sftspec.templates import TEMPLATES


@must(seam="render", laws=("TP-PARSE",), floor=50, given={"messages": talks(plain_text), "template": names},
      examples=[*IN_EVERY, *BLANK_IN_EVERY, *({"messages": MANY_TURNS, "template": name} for name in sorted(TEMPLATES)),
                *({"messages": LATE_SYSTEM, "template": name} for name in TAKE_A_LATE_SYSTEM)])  # fmt: skip
def what_was_said_can_be_read_back(render, messages, template):
    """Taken apart at its markers, the text gives every role and content back, after the declared trimming.

    A header without its newline (gorilla#430), a content stripped by a template that does not strip, a system message
    dropped (aprender#2023) or overwritten, newlines run together, an escape or a template's comment read as such, a
    window of the last messages.
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
    tools = {"tools": deepcopy(case.tools)} if case.tools else {}
    if tools and not takes(render, "tools"):
        return
    text, refusal = text_or_refusal(render, deepcopy(case.messages), template, case.add_generation_prompt, **tools)
    if text is None:
        yield case.id, case.rejected is not None, refusal
    else:
        yield case.id, text == case.text, f"expected {case.text or case.rejected!r}, found {text!r}"


@must(seam="render", laws=("TP-ERR", "TP-PRES"), floor=50, given={"messages": in_any_order, "template": names},
      examples=[*({"messages": talk, "template": name} for name in sorted(TEMPLATES)
                  for talk in (*OUT_OF_ORDER, ALL_FIELDS, *ONE_FIELD)),
                *({"messages": talk, "template": name} for name in TAKE_THOUGHTS for talk in
                  (THINK_TAG_BESIDE_THOUGHTS, THOUGHTS_ABOUT_A_RESULT, THOUGHTS_BEFORE_EACH_CALL))])  # fmt: skip
def whoever_speaks_is_heard_or_refused(render, messages, template):
    """Whatever the order of the roles, every message is rendered in its place with its thoughts and calls, or the
    conversation is refused.

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


@must(seam="render", laws=("TP-PARSE", "TP-DET"), floor=30, given={"messages": talks(plain_text), "template": names},
      examples=[*IN_EVERY, *BLANK_IN_EVERY])  # fmt: skip
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
                *({"messages": THINK_TAGS[:3], "template": name} for name in sorted(TEMPLATES)),
                *({"messages": THINK_TAGS, "template": name} for name in TAKE_A_LATE_SYSTEM),
                {"messages": CALLED, "template": "chatml/qwen3"}])  # fmt: skip
def nothing_that_was_said_is_lost(render, messages, template):
    """Every character of every content and tool call stands in the text, in order, white space aside.

    A later system message dropped (Rapid-MLX#1765), arguments that were text read and written again (cookbook#466), a
    message cut with its neighbour, at a length, or after a tag that ends thoughts where nobody thought.
    """
    letters = iter(render(messages, template).text)
    for message in messages:
        called = "".join(call["function"]["arguments"] for call in message.get("tool_calls", ()))
        said = message["content"] + called
        yield message, all(letter in letters for letter in "".join(said.split())), f"{said!r} is not all there"
