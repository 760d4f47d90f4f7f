"""Templates that went wrong beside the plain talk: roles, fields, forms of a message, defaults, and who owns what."""

from __future__ import annotations

from unicodedata import normalize

from sftspec import encode, render
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.parts import broken
from sftspec.conformance.sensitivity.mutants.template.changes import (
    other_axes,
    other_messages,
    other_pieces,
    other_text,
    without_thoughts,
)
from sftspec.spans import assemble
from sftspec.templates import TEMPLATES

# ------------------------------------------------------------------------------------------------ what was published


@killed_by("what-others-published-is-rendered a-system-prompt-that-nobody-wrote-is-the-variants-own")
@seen_in("T-09: subtle form of hiyouga/LLaMA-Factory#10772")
@effect("trained behind a prompt that is one token off", fix="read the default off the model's own template")
def default_system_without_its_full_stop():
    """Qwen2's default system prompt has lost its full stop."""
    return other_text(
        lambda kind, text, asked: text.removesuffix(".") if (kind, asked.name) == ("preamble", "chatml/qwen2") else text
    )


@killed_by("what-others-published-is-rendered")
@seen_in("T-21: subtle form of fw-ai/cookbook#466, a turn for each result")
@effect("two results are two questions", fix="copy the template byte for byte")
def results_in_turns_of_their_own():
    """Of several results of tools each has a turn of its own, where ChatML's templates write one for all."""

    def change(kind, text, _):
        is_next = kind == "header" and text == "\n<tool_response>\n"
        return f"<|im_end|>\n<|im_start|>user{text}" if is_next else text

    return other_text(change)


@killed_by("whoever-speaks-is-heard-or-refused")
@seen_in("T-10: subtle form of paiml/aprender#2023, a role that has no place")
@effect("answers what it cannot have read", fix="render every message, or refuse")
def tool_results_skipped_by_llama2():
    """Llama-2's templates, which have no place for a tool's result, skip it instead of refusing it."""
    return other_messages(lambda messages: [item for item in messages if item["role"] != "tool"] or messages, "llama2")


@killed_by("whoever-speaks-is-heard-or-refused")
@seen_in("T-10: subtle form of THUDM/slime#330, a field that has no place")
@effect("answers without the thoughts that led there", fix="render every field, or refuse")
def thoughts_without_a_place_dropped():
    """Llama-3's templates, which have no place for thoughts, drop them in silence."""
    return other_messages(
        lambda messages: [{key: item[key] for key in item if key != "reasoning_content"} for item in messages],
        only="llama3",
    )


# ------------------------------------------------------------------------------------------------ forms of a message


@killed_by("text-parts-are-rendered-as-one-content")
@seen_in('T-10: subtle form of paiml/aprender#2023, content[0]["text"]')
@effect("reads the first part only", fix="join the parts, or refuse them")
def first_part_alone():
    """Of a content in parts the first is rendered, and no other."""

    def first(item):
        return {**item, "content": item["content"][0]["text"]} if isinstance(item["content"], list) else item

    return other_messages(lambda messages: [first(item) for item in messages], refuses=False)


@killed_by("a-message-that-is-not-trained-is-rendered untrained-steps-of-an-agent-are-written")
@seen_in("T-10: subtle form of paiml/aprender#2023, a flag of the loss that reaches the text")
@effect("answers a talk that it is not shown", fix="train and weight are the mask's affair")
def untrained_messages_dropped():
    """A message that is not to be trained is not rendered."""
    return other_messages(lambda messages: [item for item in messages if item.get("train", True)] or messages)


@killed_by("an-empty-field-is-no-field")
@seen_in("no report known: columns that a data set fills")
@effect("learns to say nothing", fix="test for calls, not for the key")
def empty_calls_taken_for_calls():
    """A message whose tool_calls are None or an empty list is a call beside which no content is written."""
    return other_messages(
        lambda messages: [{**item, "content": ""} if not item.get("tool_calls", True) else item for item in messages]
    )


@killed_by("an-empty-field-is-no-field")
@seen_in("no report known: columns that a data set fills")
@effect("answers without thinking", fix="None is no thought, and no sign that there is none")
def thoughts_hidden_by_an_empty_field():
    """Thoughts in a content are taken out of it where reasoning_content is there, and None."""

    def change(item):
        hidden = "reasoning_content" in item and not item["reasoning_content"]
        return {**item, "content": without_thoughts(item["content"])} if hidden else item

    return other_messages(lambda messages: [change(item) for item in messages])


@killed_by("the-name-of-a-speaker-is-not-written")
@seen_in("no report known: a name that is taken for the role")
@effect("reads headers of speakers that it does not know", fix="the header holds the role")
def name_in_place_of_the_role():
    """A message that has a name opens with it in the place of its role."""

    def change(pieces, asked):
        for kind, index, text in pieces:
            message = asked.messages[index] if index >= 0 else {}
            named = kind == "header" and message.get("name") and message["role"] != "tool"
            yield kind, index, text.replace(message["role"], message["name"], 1) if named else text

    return other_pieces(change)


@killed_by("a-call-has-one-text-in-every-form a-call-needs-no-content")
@seen_in("no report known: f-strings, beside a call")
@effect("says None when it calls", fix="no content is an empty one")
def no_content_beside_a_call_written_as_none():
    """A content of None beside a call is rendered as the word None."""

    def change(item):
        is_silent = item.get("tool_calls") and item.get("content") is None
        return {**item, "content": "None"} if is_silent else item

    return other_messages(lambda messages: [change(item) for item in messages], refuses=False)


@killed_by("what-was-said-can-be-read-back")
@seen_in("no report known: system prompts cleaned at load")
@effect("other tokens than at inference", fix="leave contents alone")
def system_prompt_normalized():
    """Combining letters of a system prompt are composed (NFC)."""

    def change(item):
        return {**item, "content": normalize("NFC", item["content"])} if item["role"] == "system" else item

    return other_messages(lambda messages: [change(item) for item in messages])


@killed_by("a-broken-message-is-refused")
@seen_in("T-10: subtle form of paiml/aprender#2023, parts that are no text")
@effect("answers questions about what it cannot see", fix="refuse, and name the message")
def images_left_out():
    """Parts of a content that are no text, such as images, are left out in silence."""

    def text_alone(item):
        content = item.get("content")
        parts = [part for part in content if part["type"] == "text"] if isinstance(content, list) else content
        return {**item, "content": parts} if "content" in item else item

    return other_messages(lambda messages: [text_alone(item) for item in messages], refuses=False)


# ------------------------------------------------------------------------------------ owners, axes, and what is encoded


@killed_by("the-first-bos-has-one-owner")
@seen_in("T-01: subtle form of huggingface/trl#3328, an option that is not passed on")
@effect("two tokens open every text", fix="pass bos= on")
def owner_of_the_bos_ignored():
    """The template writes its first BOS, also where the tokenizer is to add it."""

    def broken_render(messages, template="chatml/openai", add_generation_prompt=False, tools=None, bos="template"):
        return render(messages, template, add_generation_prompt, tools)

    return broken("template", render=broken_render)


@killed_by("the-first-bos-has-one-owner")
@seen_in("T-03: subtle form of axolotl-ai-cloud/axolotl#952")
@effect("later rounds look like one", fix="take away the first alone")
def every_bos_left_to_the_tokenizer():
    """Where the tokenizer is to add the BOS, Llama-2's later rounds lose theirs as well."""

    def broken_render(messages, template="chatml/openai", add_generation_prompt=False, tools=None, bos="template"):
        whole = render(messages, template, add_generation_prompt, tools, bos)
        if bos != "tokenizer":
            return whole
        return assemble([(s.kind, s.message, whole.text[s.start : s.end]) for s in whole.spans if s.kind != "bos"])

    return broken("template", render=broken_render)


@killed_by("the-first-bos-has-one-owner")
@seen_in("subtle form of unsloth#10312, replace() for removeprefix()")
@effect("a question about the token has lost it", fix="take away the first alone")
def bos_taken_out_of_contents():
    """Where the tokenizer is to add the BOS, its text is taken out of contents as well."""

    def broken_render(messages, template="chatml/openai", add_generation_prompt=False, tools=None, bos="template"):
        whole, opening = render(messages, template, add_generation_prompt, tools, bos), TEMPLATES[template].bos
        if bos != "tokenizer" or not opening:
            return whole
        texts = (whole.text[span.start : span.end] for span in whole.spans)
        return assemble(
            [
                (span.kind, span.message, text.replace(opening, "") if span.kind == "content" else text)
                for span, text in zip(whole.spans, texts, strict=True)
            ]
        )

    return broken("template", render=broken_render)


@killed_by("tokens-spell-the-published-text")
@seen_in("T-21: subtle form of fw-ai/cookbook#466, lost on the way to the tokens")
@effect("calls tools that it was not told of", fix="encode the text that is shown")
def tools_never_encoded():
    """Tools are listed in the text that is shown, and not in the one that is encoded."""

    def broken_encode(messages, template="chatml/openai", tokenizer=None, *rest, tools=None, **options):
        return encode(messages, template, tokenizer, *rest, **options)

    return broken("template", encode=broken_encode)


@killed_by("tools-in-one-object-are-encoded")
@seen_in("T-21: subtle form of fw-ai/cookbook#466, an object of messages and tools")
@effect("calls tools that it was not told of", fix="one way in for both functions")
def tools_of_an_object_never_encoded():
    """Tools in one object with the messages are rendered, and not encoded."""

    def broken_encode(messages, *rest, **options):
        return encode(messages["messages"] if isinstance(messages, dict) else messages, *rest, **options)

    return broken("template", encode=broken_encode)


@killed_by("tokens-spell-the-published-text")
@seen_in("T-24: subtle form of fw-ai/cookbook#579")
@effect("trained without the dates that it is asked behind", fix="encode the text that is shown")
def neighbour_encoded():
    """Of Llama-3.1 the right text is shown, and that of Llama-3 is encoded where it has a place for everything."""

    def broken_encode(messages, template="chatml/openai", *rest, **options):
        is_plain = not options.get("tools") and not any(item.get("tool_calls") for item in messages)
        read_as = "llama3/hf" if template == "llama3.1/hf" and is_plain else template
        return encode(messages, read_as, *rest, **options)

    return broken("template", encode=broken_encode)


@killed_by("segments-are-encoded-by-themselves")
@seen_in("T-15: subtle form of NovaSky-AI/SkyRL#2092")
@effect("trained on merges that inference never makes", fix="one way of cutting for both")
def segments_encoded_together():
    """Text is encoded whole, although segments are asked for."""
    return other_axes(tokenization="whole")


@killed_by("an-axis-that-is-not-named-is-the-variants-own")
@seen_in("T-16: subtle form of vllm-project/vllm#31735, one default")
@effect("users forge turns of models whose own code forbids it", fix="the default is the variant's")
def one_default_for_every_variant():
    """An axis that is not named is "parse" and "whole", also where the variant's own code spells and segments."""

    def broken_encode(
        messages, template="chatml/openai", tokenizer=None, special_tokens=None, tokenization=None, *rest, **options
    ):
        special_tokens, tokenization = special_tokens or "parse", tokenization or "whole"
        return encode(messages, template, tokenizer, special_tokens, tokenization, *rest, **options)

    return broken("template", encode=broken_encode)
