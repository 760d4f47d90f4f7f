"""Templates: what is asked at inference is the text that was trained, and rendering is a function of the messages.

A prompt that differs from the training text by one newline asks the model for something that it never saw.
"""

from __future__ import annotations

import re
from copy import deepcopy

from hypothesis import strategies as st

from sftspec.properties import must, takes
from sftspec.properties.cases.conversations import (
    ALL_FIELDS,
    HELLO,
    ONE_FIELD,
    RESULT,
    SYSTEM_ONLY,
    THOUGHTFUL,
)
from sftspec.properties.cases.template import (
    CALL_KEYS,
    EDGES_IN_EVERY,
    EMPTY_THOUGHTS,
    IGNORE,
    IN_EVERY,
    RESULT_IN_EVERY,
    SMALL,
    TAKE_A_LATE_SYSTEM,
    TAKE_TOOLS,
    answer_with_calls,
    hostile_text,
    names,
    plain_text,
    talks,
    text_or_refusal,
    tool,
    value_or_none,
)
from sftspec.templates import TEMPLATES

TEXT, IMAGE = {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "a.png"}}
ROLES = ("bot", "developer", "function", "User", None)
CONTENTS = (None, 1234, [TEXT, IMAGE], "\ud800", ...)  # ...: the message has no such key
NOTHING = {"tool_calls": None}, {"tool_calls": []}, {"reasoning_content": None}  # as a column of a data set is filled
FAULTS = [*({"role": role} for role in ROLES), *({"content": content} for content in CONTENTS)]


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
      given={"messages": talks(hostile_text), "template": names},
      examples=[*IN_EVERY, *RESULT_IN_EVERY,
                *({"messages": SYSTEM_ONLY, "template": name} for name in TAKE_A_LATE_SYSTEM),
                *({"messages": HELLO, "template": name} for name in TAKE_TOOLS),
                *({"messages": ONE_FIELD[1][:3], "template": name} for name in sorted(CALL_KEYS))])  # fmt: skip
def the_generation_prompt_is_one_constant_suffix(render, messages, template):
    """A prompt is the training text and one suffix, the same for every conversation, also beside tools, after an answer
    and after the result of a call, if it is not refused there; no training text ends with it.

    A suffix that depends on the last role or on tools, or a training text with a dangling header of a turn that nobody
    wrote (the first published Llama-3 template). In Llama-2 the suffix is empty: " [/INST]" belongs to the user's turn.
    """
    bare = render(HELLO, template).text
    suffix = render(HELLO, template, add_generation_prompt=True).text[len(bare) :]
    yield template, bool(suffix) != template.startswith("llama2"), f"the generation prompt is {suffix!r}"
    offers = template in TAKE_TOOLS and takes(render, "tools")
    for options in ({}, {"tools": [tool("find")]}) if offers else ({},):
        text, _ = text_or_refusal(render, messages, template, **options)
        prompt, refusal = text_or_refusal(render, messages, template, add_generation_prompt=True, **options)
        if text is None or prompt is None:
            calls = any("tool_calls" in message for message in messages)
            yield messages, bool(options) or calls or messages[-1]["role"] == "assistant", refusal
            continue
        yield messages, prompt == text + suffix, f"expected {suffix!r} at the end, found {prompt[-40:]!r}"
        yield messages, not suffix or not text.endswith(suffix), f"the training text ends with {suffix!r}"


THOUGHTS_AND_CALLS = [
    *({"messages": talk, "template": "chatml/qwen3"} for talk in (ALL_FIELDS[:2], ONE_FIELD[0])),
    *({"messages": ONE_FIELD[1][:2], "template": name} for name in sorted(CALL_KEYS)),
]


@must(seam="encode", laws=("TP-TRAININF",), floor=50,
      given={"messages": talks(hostile_text, "assistant"), "template": names,
             "tokenization": st.sampled_from(["whole", "segmented"])},
      examples=[{**arguments, "tokenization": axis} for axis in ("whole", "segmented")
                for arguments in (*IN_EVERY, *THOUGHTS_AND_CALLS)])  # fmt: skip
def the_prompt_at_inference_is_the_prefix_that_was_trained(encode, messages, template, tokenization, vocabulary=SMALL):
    """The tokens of the prompt are the tokens before the answer's first target, one for one, and from there on each
    token is a target up to the last, thoughts and calls included; so too where the last answer alone is trained.

    Another template, another flag or another way of cutting at inference, and the model is asked what it was never
    taught (souprise#17, LLaMA-Factory#10769). Whole text can merge the prompt's last newline with the answer's first:
    then there is no such prefix, so an answer with white space in front is asked by segments only.
    """
    content = messages[-1]["content"]
    if tokenization == "whole" and content[:1].isspace():
        return
    tokenizer = vocabulary.tokenizer
    axes = {"template": template, "tokenizer": tokenizer, "special_tokens": "literal", "tokenization": tokenization}
    prompt = encode(messages[:-1], add_generation_prompt=True, **axes).input_ids
    is_plain = messages[-1].keys() == {"role", "content"}
    example = encode(messages, **axes) if is_plain else value_or_none(encode, messages, **axes)
    if example is None:
        return
    yield messages, example.input_ids[: len(prompt)] == prompt, "the prompt's tokens are not those before the answer"
    yield messages, example.labels[len(prompt)] != IGNORE, "the first token after the prompt is no target"
    last = max(place for place, label in enumerate(example.labels) if label != IGNORE)
    trained, written = (row[len(prompt) : last + 1] for row in (example.labels, example.input_ids))
    yield messages, trained == written, "a token that the model writes in its answer is no target"
    if takes(encode, "policy"):
        alone = encode(messages, policy="last", **axes).labels
        expected = [IGNORE] * len(prompt) + example.labels[len(prompt) :]
        yield messages, alone == expected, "the policy last trains other targets than those of the last answer"


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


@must(seam="render", laws=("TP-PRES", "TP-DET"), floor=50,
      given={"messages": talks(plain_text), "template": names, "place": st.integers(0, 9), "cut": st.integers(0, 6)},
      examples=[*({**arguments, "place": 0, "cut": 2} for arguments in IN_EVERY),
                *({"messages": THOUGHTFUL[:2], "template": name, "place": 1, "cut": 9} for name in sorted(TEMPLATES))]
      )  # fmt: skip
def the_form_of_a_message_changes_nothing(render, messages, template, place, cut):
    """A content in text parts is their concatenation, a message that is not to be trained is rendered all the same, a
    field that holds nothing is no field, no content beside a call is an empty one, a call is one without "function" as
    well, its id, the id on its result and the name of who speaks are not written, and tools in one object with the
    messages are tools: or these forms are refused. None is changed.

    Parts printed as Python prints a list, or all but the first left out; context that vanishes with its `train` flag; a
    None that is rendered, or a column of them that is taken for calls and thoughts; ids that the model is to invent; a
    name in the place of the role; tools that nobody looked for. Another template than ours may write names.
    """
    place %= len(messages)
    message, text = messages[place], render(messages, template).text
    content, is_ours = message["content"], takes(render, "tools")
    parts = [{"type": "text", "text": part} for part in (content[:cut], content[cut : cut + 1], content[cut + 1 :])]
    fields = {"content": parts}, {"train": False}, {"weight": 0}, *NOTHING, *([{"name": "ann"}] if is_ours else [])
    forms = [([*messages[:place], {**message, **field}, *messages[place + 1 :]], text) for field in fields]
    if template in CALL_KEYS:
        called = [*HELLO, answer_with_calls({"place": "A"})]
        bare = {**called[-1], "tool_calls": [call["function"] for call in called[-1]["tool_calls"]]}
        rendered = value_or_none(render, called, template)
        silent = {**called[-1], "content": None}
        known = {**called[-1], "tool_calls": [{**call, "id": "call_1"} for call in called[-1]["tool_calls"]]}
        forms += [([*HELLO, form], rendered.text) for form in (silent, bare, known) if rendered]
    if template in TAKE_A_LATE_SYSTEM and is_ours:
        known = [*RESULT[:2], {**RESULT[2], "tool_call_id": "call_1", "name": "find"}]
        rendered = value_or_none(render, RESULT, template)
        forms += [(known, rendered.text)] if rendered else []
    if template in TAKE_TOOLS and is_ours:
        tools = [tool("find")]
        forms.append(({"messages": HELLO, "tools": tools}, render(HELLO, template, tools=tools).text))
        yield messages, render(messages, template, tools=[]).text == text, "an empty list of tools is taken for tools"
    for form, expected in forms:
        before = deepcopy(form)
        found = value_or_none(render, form, template)
        yield before, found is None or found.text == expected, f"expected {expected!r}, found {found and found.text!r}"
        yield before, form == before, f"it was changed to {form!r}"


@must(seam="render", laws=("TP-BOS",), floor=50, given={"messages": talks(hostile_text), "template": names},
      examples=[*IN_EVERY, *EDGES_IN_EVERY])  # fmt: skip
def the_first_bos_has_one_owner(render, messages, template):
    """With bos="tokenizer" the text is the same without the BOS that opens it; those inside stay, and what was said.

    Both owners make two (OpenRLHF#393, trl#3328), none makes none (unsloth#10312), and Llama-2's rounds keep theirs
    (axolotl#952): no tokenizer adds those.
    """
    if not takes(render, "bos"):
        return
    text, rest = (render(messages, template, bos=owner).text for owner in ("template", "tokenizer"))
    yield messages, TEMPLATES[template].bos + rest == text, f"expected {text!r} without its first BOS, found {rest!r}"


@must(seam="render", laws=("TP-ERR",), floor=20,
      given={"messages": talks(plain_text), "template": names,
             "fault": st.sampled_from(FAULTS), "place": st.integers(0, 9)},
      examples=[{**arguments, "fault": fault, "place": place}
                for arguments in IN_EVERY for place in (0, 4) for fault in FAULTS])  # fmt: skip
def what_cannot_be_rendered_is_refused(render, messages, template, fault, place):
    """A role that is not system, user, assistant or tool, and a content that is missing or no text, are refused with an
    error that says the number of the message, counted from 0 or from 1. A conversation without messages and a template
    that does not exist are refused.

    Skipped messages are lost data; a None that is rendered trains the word "None"; an image that is left out leaves the
    question about it.
    """
    place %= len(messages)
    faulty = {key: value for key, value in {**messages[place], **fault}.items() if value is not ...}
    broken = [*messages[:place], faulty, *messages[place + 1 :]]
    text, refusal = text_or_refusal(render, broken, template)
    yield broken, text is None, f"rendered as {text!r}"
    numbers = re.findall(r"\d+", refusal)
    named = not {str(place), str(place + 1)}.isdisjoint(numbers)
    yield broken, named, f"the error does not say which message: {refusal}"
    for nothing in (([], template), (messages, f"{template}/unknown")):
        text, _ = text_or_refusal(render, *nothing)
        yield nothing, text is None, f"rendered as {text!r}"
