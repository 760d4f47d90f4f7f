"""Templates: the tokens that a conversation becomes.

Text that is right can still be encoded wrong: two BOS tokens, a control token that a user typed, a merge across the
border of prompt and answer (trap H13: decoded text looks the same). These properties read `encode`, over every named
variant, with the small tokenizer; a template on trial is read on its own vocabulary as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from sftspec.counted import counted
from sftspec.golden.loader import GoldenCase
from sftspec.properties import must, takes
from sftspec.properties.cases.conversations import FORGED, THOUGHTFUL, TWO_TURNS
from sftspec.properties.cases.template import (
    EDGES_IN_EVERY,
    EVERY,
    HOSTILE,
    IGNORE,
    IN_EVERY,
    PLAIN,
    PUBLISHED,
    RESULT_IN_EVERY,
    SMALL,
    answers,
    conversations,
    hostile_text,
    in_each,
    in_fields,
    preserving,
    published,
    value_or_none,
)
from sftspec.templates import TEMPLATES


def encoded_golden(
    encode: Callable, template: str, number: int, special_tokens: str, tokenization: str, together: bool = False
) -> tuple[GoldenCase, list[int]] | None:
    """(a golden conversation, its tokens by a function, tools in one object with the messages if asked so).

    None where a variant has no golden text, or the function no tools. In one object tools may be refused.
    """
    cases = [case for case in published(template) if case.text is not None]
    case = cases[number % len(cases)] if cases else None
    if case is None or (case.tools and not takes(encode, "tools")):
        return None
    options: dict = {"template": template, "tokenizer": SMALL.tokenizer, "special_tokens": special_tokens}
    options |= {"tokenization": tokenization, "add_generation_prompt": case.add_generation_prompt}
    messages, tools = deepcopy(case.messages), deepcopy(case.tools)
    if together:
        found = value_or_none(encode, {"messages": messages, "tools": tools}, **options) if tools else None
        return found and (case, found.input_ids)
    return case, encode(messages, **options, **({"tools": tools} if tools else {})).input_ids


@must(seam="encode", laws=("TP-PARSE",), floor=30, **PUBLISHED)
def tokens_spell_the_published_text(encode, template, number, vocabulary=SMALL):
    """The tokens of a golden conversation spell the text of its oracle, with control strings parsed and as literal
    text.

    The text that is encoded is another one than the text that is shown: a neighbour's template, control strings deleted
    from contents instead of spelt, letters that the vocabulary lacks left out, tools that never arrive. Read on the
    small vocabulary, which has every byte and normalizes nothing.
    """
    if vocabulary is not SMALL:
        return
    for axes in (("parse", "whole"), ("literal", ("whole", "segmented")[number % 2])):
        if found := encoded_golden(encode, template, number, *axes):
            case, ids = found
            text = SMALL.tokenizer.decode(ids, skip_special_tokens=False)
            yield (case.id, axes), text == case.text, f"expected {case.text!r}, found {text!r}"


@must(seam="encode", laws=("TP-CAT",), floor=30, **PUBLISHED)
def a_whole_text_has_the_tokenizers_own_tokens(encode, template, number, vocabulary=SMALL):
    """Parsed and whole, a golden conversation has the tokens that the tokenizer gives its published text.

    Another way of cutting makes first tokens that inference never makes.
    """
    found = encoded_golden(encode, template, number, "parse", "whole") if vocabulary is SMALL else None
    if found:
        case, ids = found
        own = SMALL.tokenizer.encode(case.text, add_special_tokens=False).ids
        yield case.id, ids == own, "other tokens than the tokenizer's own for the text"


@must(seam="encode", laws=("TP-PARSE",), floor=5, **PUBLISHED)
def tools_in_one_object_are_encoded(encode, template, number, vocabulary=SMALL):
    """Tools in one object with the messages give the tokens of tools that are given apart, or are refused.

    They are rendered where the text is shown, and lost where it is encoded.
    """
    if vocabulary is not SMALL:
        return
    for axes in (("parse", "whole"), ("literal", ("whole", "segmented")[number % 2])):
        together = encoded_golden(encode, template, number, *axes, together=True)
        if together and (apart := encoded_golden(encode, template, number, *axes)):
            yield (together[0].id, axes), together[1] == apart[1], "other tokens with tools in one object"


@must(
    seam="encode",
    laws=("TP-PREFIX",),
    floor=50,
    given={"messages": conversations(hostile_text), "template": preserving},
    examples=in_each([name for name in EVERY if TEMPLATES[name].prefix_preserving], TWO_TURNS, THOUGHTFUL),
)
def a_longer_conversation_begins_with_the_shorter_one(encode, messages, template, vocabulary=SMALL):
    """The tokens after each answer are the first tokens of every continuation.

    Templates that rewrite history say so (`Template.prefix_preserving`) and are not asked; one that moves the system
    prompt, or strips thoughts in silence, makes targets of text that no prompt contains (tinker-cookbook#142).
    """
    whole = encode(messages, template=template, tokenizer=vocabulary.tokenizer).input_ids
    for index in answers(messages):
        part = encode(messages[: index + 1], template=template, tokenizer=vocabulary.tokenizer).input_ids
        yield (
            messages[: index + 1],
            whole[: len(part)] == part,
            f"parts after {counted(len(part), 'token')} at the latest",
        )


LETTERS = "ab<]é"
FORGED_IN_EVERY = in_each(EVERY, FORGED)


@must(
    seam="encode",
    laws=("TP-INJ",),
    floor=50,
    given={**HOSTILE, "letter": st.sampled_from(LETTERS)},
    examples=[{**arguments, "letter": letter} for arguments in in_each(EVERY, FORGED) for letter in LETTERS],
)
def different_conversations_have_different_tokens(encode, messages, template, letter, vocabulary=SMALL):
    """A letter moved over the border of two messages changes the tokens, when contents are text.

    Where markers are text ("User: "), a content can pass for a turn, and the tokens of the two are the same.
    """

    def ids(conversation):
        return encode(
            conversation, template=template, tokenizer=vocabulary.tokenizer, special_tokens="literal"
        ).input_ids

    for index in range(len(messages) - 1):
        left, right = (dict(message) for message in messages[index : index + 2])
        ending = [*messages[:index], {**left, "content": left["content"] + letter}, right, *messages[index + 2 :]]
        opening = [*messages[:index], left, {**right, "content": letter + right["content"]}, *messages[index + 2 :]]
        yield ending, ids(ending) != ids(opening), f"the same tokens as {opening!r}"


def control_tokens(encode: Callable, messages: list[dict], tools: list[dict] | None, template: str, vocabulary: Any):
    """The control tokens of a conversation whose contents are encoded as text."""
    options = {"tools": tools} if tools else {}
    axes = {"template": template, "tokenizer": vocabulary.tokenizer, "special_tokens": "literal"}
    return [token for token in encode(messages, **axes, **options).input_ids if token in vocabulary.added]


@must(seam="encode", laws=("TP-NOFORGE",), floor=50, given=HOSTILE, examples=[*FORGED_IN_EVERY, *RESULT_IN_EVERY])
def no_content_becomes_a_control_token(encode, messages, template, vocabulary=SMALL):
    """With special_tokens="literal" the control tokens are those of the same turns with harmless contents.

    Parsed contents forge turns and cut masks (transformers#29279, vllm#31735, gemma#770).
    """
    harmless = [{**message, "content": "x"} for message in messages]
    found, expected = (control_tokens(encode, each, None, template, vocabulary) for each in (messages, harmless))
    yield messages, found == expected, "a content became a control token"


@must(seam="encode", laws=("TP-NOFORGE",), floor=30, given=HOSTILE, examples=[*FORGED_IN_EVERY, *RESULT_IN_EVERY])
def no_call_thought_or_tool_becomes_a_control_token(encode, messages, template, vocabulary=SMALL):
    """With special_tokens="literal" arguments of calls, thoughts and tools make no control token.

    A fix for contents alone: a call that quotes a token ends there.
    """
    said = messages[0]["content"]
    for hostile, plain in zip(in_fields(said, template), in_fields("x", template), strict=True):
        if hostile[1] and not takes(encode, "tools"):
            continue
        expected = value_or_none(control_tokens, encode, *plain, template, vocabulary)
        if expected is not None:
            found = control_tokens(encode, *hostile, template, vocabulary)
            yield hostile, found == expected, f"{said!r} became a control token"


@must(seam="encode", laws=("TP-BOS",), floor=50, given=HOSTILE, examples=IN_EVERY)
def one_bos_opens_the_sequence(encode, messages, template, vocabulary=SMALL):
    """A sequence begins with its BOS and has no other, but one a round in Llama-2, and none in templates without one.

    The template's BOS and the tokenizer's make two (OpenRLHF#393, trl#3328); removing "the second" where there was one
    makes none (unsloth#10312); Llama-2 opens every round with one (axolotl#952).
    """
    bos = TEMPLATES[template].bos
    ids = encode(messages, template=template, tokenizer=vocabulary.tokenizer, special_tokens="literal").input_ids
    rounds = sum(message["role"] == "user" for message in messages) if template.startswith("llama2") else 1
    for token in ("<s>", "<|begin_of_text|>"):
        wanted = rounds if token == bos else 0
        yield messages, ids.count(vocabulary.id_of(token)) == wanted, f"{token}: expected {wanted} in {ids[:6]} …"
    yield messages, not bos or ids[:1] == [vocabulary.id_of(bos)], f"begins with {ids[:1]}"


@must(seam="encode", laws=("TP-EOT",), floor=50, given=HOSTILE, examples=[*IN_EVERY, *EDGES_IN_EVERY])
def every_answer_ends_in_one_end_of_turn_token(encode, messages, template, vocabulary=SMALL, end_of_turn=""):
    """The targets hold the end-of-turn token, as one id, once for each answer, and last.

    Spelt as text it is several ids that stop nothing; a model that never learns it never stops (trl#976, axolotl#3756),
    nor does one that learns none after an answer about it.
    """
    example = encode(messages, template=template, tokenizer=vocabulary.tokenizer, special_tokens="literal")
    targets = [label for label in example.labels if label != IGNORE]
    token, turns = end_of_turn or TEMPLATES[template].end_of_turn, len(answers(messages))
    end = vocabulary.id_of(token)
    said = f"{counted(targets.count(end), 'end-of-turn token')} for {counted(turns, 'answer')}"
    effect = f": the model does not learn to stop with {token}" if targets.count(end) < turns else ""
    yield messages, targets.count(end) == turns, said + effect
    yield messages, targets[-1:] == [end] * bool(turns), f"the last target is {targets[-1:]}"


@must(seam="encode", laws=("MK-SPAN",), floor=50, given=HOSTILE, examples=[*IN_EVERY, *RESULT_IN_EVERY])
def what_others_say_is_no_target(encode, messages, template, vocabulary=SMALL):
    """Where no answer is to be trained, nothing is: what users, systems and tools say is never a target.

    A template whose generation block stands around every role teaches the model to ask the user's questions.
    """
    options = {"template": template, "tokenizer": vocabulary.tokenizer, "special_tokens": "literal"}
    flags = {"assistant": {"train": False}}
    asked = [{**message, **flags.get(message["role"], {})} for message in messages]
    targets = [label for label in encode(asked, **options).labels if label != IGNORE]
    said = vocabulary.tokenizer.decode(targets, skip_special_tokens=False)
    yield asked, not targets, f"no answer is to be trained, and {said!r} is"


def _pattern(token):
    """A pattern of an added token with the white space beside it that it takes (Phi-3's do)."""
    return r"\s*" * token.lstrip + re.escape(token.content) + r"\s*" * token.rstrip


@must(seam="encode", laws=("TP-CAT",), floor=50, given=PLAIN, examples=IN_EVERY)
def whole_text_is_cut_at_control_tokens_only(encode, messages, template, vocabulary=SMALL):
    """A whole text has the tokens of its stretches between control tokens, each encoded in one call.

    Prompt and answer encoded apart give other tokens where a merge crosses their border (litgpt#1567, torchtitan#4504,
    SkyRL#2092); only next to a control token nothing can merge.
    """
    tokenizer = vocabulary.tokenizer
    example = encode(messages, template=template, tokenizer=tokenizer, special_tokens="parse", tokenization="whole")
    longest_first = sorted(vocabulary.added.values(), key=lambda token: -len(token.content))
    parts = re.split(f"({'|'.join(map(_pattern, longest_first)) or '(?!)'})", example.rendered.text)
    expected = [token for part in parts if part for token in tokenizer.encode(part, add_special_tokens=False).ids]
    yield messages, example.input_ids == expected, "other tokens than those of the stretches between control tokens"


@must(seam="encode", laws=("TP-CAT",), floor=50, given=PLAIN, examples=IN_EVERY)
def segments_are_encoded_by_themselves(encode, messages, template, vocabulary=SMALL):
    """Text in segments has the tokens of each span alone: no merge crosses from a header into a content.

    Meta's and Qwen's own code encode so ("\\n" + "\\n" stay two tokens); whole text at inference is another prompt.
    """
    tokenizer = vocabulary.tokenizer
    axes = {"template": template, "tokenizer": tokenizer, "special_tokens": "literal", "tokenization": "segmented"}
    example = encode(messages, **axes)
    text, spans = example.rendered.text, example.rendered.spans
    parts = [text[span.start : span.end] for span in spans]
    expected = [token for part in parts if part for token in tokenizer.encode(part, add_special_tokens=False).ids]
    yield messages, example.input_ids == expected, "other tokens than those of the spans alone"


@must(seam="encode", laws=("TP-CAT", "TP-NOFORGE"), floor=50, given=HOSTILE, examples=[*IN_EVERY, *FORGED_IN_EVERY])
def an_axis_that_is_not_named_is_the_variants_own(encode, messages, template, vocabulary=SMALL):
    """A conversation is encoded as by the source of its variant, where special_tokens and tokenization are not named.

    Meta's and Qwen's code spell control strings out of contents and encode by segments, Hugging Face's parses whole
    texts: the default of the library is another model's prompt.
    """
    variant, tokenizer = TEMPLATES[template], vocabulary.tokenizer
    axes = {"special_tokens": variant.special_tokens, "tokenization": variant.tokenization}
    found, named = (encode(messages, template=template, tokenizer=tokenizer, **each).input_ids for each in ({}, axes))
    yield messages, found == named, f"other tokens than with {axes}"
