"""Templates: the text that a conversation becomes.

A trainer that renders one newline wrong trains another model, and its loss looks the same: a wrong template cancels
between training and evaluation (bugs.md H12). These properties read `render`, over every named variant: whatever people
write, it is there, it can be told from the structure, and prompt and answer together are the training text. (Hugging
Face, chat templating guide; OpenAI chatml.md; Meta's Llama-2 and Llama-3 code.) What becomes of the tokens is in
template_tokens.
"""

from __future__ import annotations

from hypothesis import strategies as st

from sftspec.properties import must
from sftspec.properties.template_cases import (
    CALLED,
    DATES,
    EMPTY_THOUGHTS,
    HELLO,
    IN_EVERY,
    LATE_SYSTEM,
    OWN_SYSTEM,
    TAKE_A_LATE_SYSTEM,
    TURN,
    hostile_text,
    names,
    norm,
    plain_text,
    talks,
)
from sftspec.templates import TEMPLATES


@must(seam="render", laws=("TP-PARSE",), floor=50, given={"messages": talks(plain_text), "template": names},
      examples=IN_EVERY)  # fmt: skip
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
                {"messages": CALLED, "template": "chatml/qwen3"}])  # fmt: skip
def nothing_that_was_said_is_lost(render, messages, template):
    """Every character of every content and tool call stands in the text, in order, white space aside.

    A later system message dropped (Rapid-MLX#1765), arguments that were text read and written again (cookbook#466), a
    message cut with its neighbour.
    """
    letters = iter(render(messages, template).text)
    for message in messages:
        called = "".join(call["function"]["arguments"] for call in message.get("tool_calls", ()))
        said = message["content"] + called
        yield message, all(letter in letters for letter in "".join(said.split())), f"{said!r} is not all there"


@must(seam="render", laws=("TP-GEN",), floor=50, given={"messages": talks(plain_text, "assistant"), "template": names},
      examples=IN_EVERY)  # fmt: skip
def the_prompt_and_the_answer_are_the_training_text(render, messages, template):
    """After the prompt for a turn the training text goes on with the answer, and one token ends the turn.

    A generation prompt with another newline or space, or one that is missing (search-and-learn#23, instructlab#232):
    the model then writes its own header.
    """
    prompt = render(messages[:-1], template, add_generation_prompt=True).text
    text = render(messages, template).text
    yield messages, text.startswith(prompt), f"the prompt {prompt[-40:]!r} is not the beginning of {text[-80:]!r}"
    thoughts = EMPTY_THOUGHTS if template == "chatml/qwen3" else ""
    said = thoughts + messages[-1]["content"] + TEMPLATES[template].end_of_turn
    rest = text[len(prompt) :]
    yield messages, "".join(rest.split()) == "".join(said.split()), f"expected {said!r}, found {rest!r}"
    yield messages, rest.rstrip("\n").endswith(TEMPLATES[template].end_of_turn), f"the turn ends with {rest[-12:]!r}"


@must(seam="render", laws=("TP-GENSUF", "TP-NOGENTRAIN"), floor=50,
      given={"messages": talks(hostile_text, "user"), "template": names})  # fmt: skip
def the_generation_prompt_is_one_constant_suffix(render, messages, template):
    """A prompt is the training text and one suffix, the same for every conversation; no training text ends with it.

    A suffix that depends on the last role, or a training text with a dangling header of a turn that nobody wrote (the
    first published Llama-3 template). In Llama-2 the suffix is empty: " [/INST]" belongs to the user's turn.
    """
    bare = render(HELLO, template).text
    suffix = render(HELLO, template, add_generation_prompt=True).text[len(bare) :]
    text, prompt = render(messages, template).text, render(messages, template, add_generation_prompt=True).text
    yield template, bool(suffix) != template.startswith("llama2"), f"the generation prompt is {suffix!r}"
    yield messages, prompt == text + suffix, f"expected {suffix!r} at the end, found {prompt[-40:]!r}"
    yield messages, not suffix or not text.endswith(suffix), f"the training text ends with {suffix!r}"


@must(seam="render", laws=("TP-DET",), floor=50, given={"messages": talks(hostile_text), "template": names},
      examples=IN_EVERY)  # fmt: skip
def rendering_is_a_function(render, messages, template):
    """The same conversation gives the same text, whatever the order of its keys; and it is not changed.

    A date in the system prompt (sglang#3296) changes tokens overnight.
    """
    before = [dict(message) for message in messages]
    text = render(messages, template).text
    turned = [dict(reversed(message.items())) for message in messages]
    yield messages, render(turned, template).text == text, "another text when the keys stand in another order"
    yield messages, render(messages, template).text == text, "another text the second time"
    yield before, messages == before, f"the messages were changed to {messages!r}"


@must(seam="render", laws=("TP-ERR",), floor=20,
      given={"messages": talks(plain_text), "template": names,
             "fault": st.sampled_from([{"role": "bot"}, {"role": None}, {"content": None}, {"content": 3}]),
             "place": st.integers(0, 9)},
      examples=[{"messages": HELLO, "template": "chatml/openai", "fault": {"role": "bot"}, "place": 0}])  # fmt: skip
def what_cannot_be_rendered_is_refused(render, messages, template, fault, place):
    """An unknown role or a missing content is an error that names the message.

    Skipped messages are lost data; a None that is rendered trains the word "None".
    """
    place %= len(messages)
    broken = [*messages[:place], {**messages[place], **fault}, *messages[place + 1 :]]
    try:
        text = render(broken, template).text
    except ValueError as error:
        yield broken, f"message {place}" in str(error), f"the error does not say which message: {error}"
    else:
        yield broken, False, f"rendered as {text!r}"
