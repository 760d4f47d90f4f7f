"""Templates: the tokens that a conversation becomes.

Text that is right can still be encoded wrong: two BOS tokens, a control token that somebody typed, a merge across the
border of prompt and answer (trap H13: decoded text looks the same). These properties read `encode`, over every named
variant, with the small tokenizer; a template on trial is read on its own vocabulary as well.
"""

from __future__ import annotations

import re
from copy import deepcopy

from hypothesis import strategies as st

from sftspec.properties import must, takes
from sftspec.properties.cases.conversations import (
    FORGED,
    THOUGHTFUL,
    TWO_TURNS,
)
from sftspec.properties.cases.template import (
    EACH_PUBLISHED,
    EDGES_IN_EVERY,
    IGNORE,
    IN_EVERY,
    RESULT_IN_EVERY,
    SMALL,
    answers,
    hostile_text,
    in_fields,
    names,
    plain_text,
    preserving,
    published,
    talks,
    value_or_none,
)
from sftspec.templates import TEMPLATES


@must(seam="encode", laws=("TP-PARSE", "TP-CAT"), floor=30,
      given={"template": names, "number": st.integers(0, 99)}, examples=EACH_PUBLISHED)  # fmt: skip
def the_tokens_spell_the_published_text(encode, template, number, vocabulary=SMALL):
    """Of a golden conversation the tokens spell the text of its oracle; parsed and whole, they are the tokenizer's own
    for that text.

    The text that is encoded is another one than the text that is shown: a neighbour's template, control strings deleted
    from contents instead of spelt, letters that the vocabulary lacks left out, tools that never arrive, alone or in one
    object with the messages. Read on the small vocabulary, which has every byte and normalizes nothing.
    """
    cases = [case for case in published(template) if case.text is not None]
    if not cases or vocabulary is not SMALL:
        return
    case = cases[number % len(cases)]
    if case.tools and not takes(encode, "tools"):
        return
    tokenizer, prompt = vocabulary.tokenizer, case.add_generation_prompt
    for axes in (("parse", "whole"), ("literal", ("whole", "segmented")[number % 2])):
        tools = {"tools": deepcopy(case.tools)} if case.tools else {}
        options = {"template": template, "tokenizer": tokenizer, "special_tokens": axes[0], "tokenization": axes[1],
                   "add_generation_prompt": prompt}  # fmt: skip
        ids = encode(deepcopy(case.messages), **options, **tools).input_ids
        text = tokenizer.decode(ids, skip_special_tokens=False)
        yield (case.id, axes), text == case.text, f"expected {case.text!r}, found {text!r}"
        own = axes[0] == "literal" or ids == tokenizer.encode(case.text, add_special_tokens=False).ids
        yield (case.id, axes), own, "other tokens than the tokenizer's own for the text"
        if tools:
            together = {"messages": deepcopy(case.messages), "tools": deepcopy(case.tools)}
            same = value_or_none(encode, together, **options)
            yield (case.id, axes), same is None or same.input_ids == ids, "other tokens with tools in one object"


@must(seam="encode", laws=("TP-PREFIX",), floor=50, given={"messages": talks(hostile_text), "template": preserving},
      examples=[{"messages": talk, "template": name} for talk in (TWO_TURNS, THOUGHTFUL)
                for name, template in sorted(TEMPLATES.items()) if template.prefix_preserving])  # fmt: skip
def a_longer_conversation_begins_with_the_shorter_one(encode, messages, template, vocabulary=SMALL):
    """The tokens after each answer are the first tokens of every continuation.

    Templates that rewrite history say so (`Template.prefix_preserving`) and are not asked; one that moves the system
    prompt, or strips thoughts in silence, makes targets of text that no prompt contains (tinker-cookbook#142).
    """
    whole = encode(messages, template=template, tokenizer=vocabulary.tokenizer).input_ids
    for index in answers(messages):
        part = encode(messages[: index + 1], template=template, tokenizer=vocabulary.tokenizer).input_ids
        yield messages[: index + 1], whole[: len(part)] == part, f"parts after {len(part)} tokens at the latest"


LETTERS = "ab<]é"


@must(seam="encode", laws=("TP-INJ",), floor=50,
      given={"messages": talks(hostile_text), "template": names, "letter": st.sampled_from(LETTERS)},
      examples=[{"messages": FORGED, "template": name, "letter": letter}
                for name in sorted(TEMPLATES) for letter in LETTERS])  # fmt: skip
def different_conversations_have_different_tokens(encode, messages, template, letter, vocabulary=SMALL):
    """A letter moved over the border of two messages changes the tokens, when contents are text.

    Where markers are text ("User: "), a content can pass for a turn, and nobody can tell the two from the tokens.
    """

    def ids(talk):
        return encode(talk, template=template, tokenizer=vocabulary.tokenizer, special_tokens="literal").input_ids

    for index in range(len(messages) - 1):
        left, right = (dict(message) for message in messages[index : index + 2])
        ending = [*messages[:index], {**left, "content": left["content"] + letter}, right, *messages[index + 2 :]]
        opening = [*messages[:index], left, {**right, "content": letter + right["content"]}, *messages[index + 2 :]]
        yield ending, ids(ending) != ids(opening), f"the same tokens as {opening!r}"


@must(seam="encode", laws=("TP-NOFORGE",), floor=50, given={"messages": talks(hostile_text), "template": names},
      examples=[*({"messages": FORGED, "template": name} for name in sorted(TEMPLATES)), *RESULT_IN_EVERY])  # fmt: skip
def contents_make_no_control_token(encode, messages, template, vocabulary=SMALL):
    """With special_tokens="literal" the control tokens are those of the same turns with harmless contents, and with
    harmless arguments of calls, thoughts and tools.

    Parsed contents forge turns and cut masks (transformers#29279, vllm#31735, gemma#770).
    """

    def control(talk, tools=None):
        options = {"tools": tools} if tools else {}
        example = encode(talk, template=template, tokenizer=vocabulary.tokenizer, special_tokens="literal", **options)
        return [token for token in example.input_ids if token in vocabulary.added]

    harmless = [{**message, "content": "x"} for message in messages]
    yield messages, control(messages) == control(harmless), "a content became a control token"
    said = messages[0]["content"]
    for hostile, plain in zip(in_fields(said, template), in_fields("x", template), strict=True):
        expected = value_or_none(control, *plain) if hostile[1] is None or takes(encode, "tools") else None
        if expected is not None:
            yield hostile, control(*hostile) == expected, f"{said!r} became a control token"


@must(seam="encode", laws=("TP-BOS",), floor=50, given={"messages": talks(hostile_text), "template": names},
      examples=IN_EVERY)  # fmt: skip
def one_bos_opens_the_sequence(encode, messages, template, vocabulary=SMALL):
    """A sequence begins with its BOS and has no other; Llama-2 has one for each round; without a BOS there is none.

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


@must(seam="encode", laws=("TP-EOT",), floor=50, given={"messages": talks(hostile_text), "template": names},
      examples=[*IN_EVERY, *EDGES_IN_EVERY])  # fmt: skip
def every_answer_ends_in_one_end_of_turn_token(encode, messages, template, vocabulary=SMALL):
    """Among the targets stands the end-of-turn token, as one id, once for each answer, and last.

    Spelt as text it is several ids that stop nothing; a model that never learns it never stops (trl#976, axolotl#3756),
    nor one that learns none after an answer about it.
    """
    example = encode(messages, template=template, tokenizer=vocabulary.tokenizer, special_tokens="literal")
    targets = [label for label in example.labels if label != IGNORE]
    end, turns = vocabulary.id_of(TEMPLATES[template].end_of_turn), len(answers(messages))
    yield messages, targets.count(end) == turns, f"{targets.count(end)} end-of-turn tokens for {turns} answers"
    yield messages, targets[-1:] == [end] * bool(turns), f"the last target is {targets[-1:]}"


def _pattern(token):
    """What an added token takes of the text: some take the white space beside them (Phi-3's do)."""
    return r"\s*" * token.lstrip + re.escape(token.content) + r"\s*" * token.rstrip


@must(seam="encode", laws=("TP-CAT",), floor=50, given={"messages": talks(plain_text), "template": names},
      examples=IN_EVERY)  # fmt: skip
def whole_text_is_cut_at_control_tokens_only(encode, messages, template, vocabulary=SMALL):
    """Encoded whole, the tokens are those of the stretches between control tokens, each encoded in one call.

    Prompt and answer encoded apart give other tokens where a merge crosses their border (litgpt#1567, torchtitan#4504,
    SkyRL#2092); only next to a control token nothing can merge.
    """
    tokenizer = vocabulary.tokenizer
    example = encode(messages, template=template, tokenizer=tokenizer, special_tokens="parse", tokenization="whole")
    longest_first = sorted(vocabulary.added.values(), key=lambda token: -len(token.content))
    parts = re.split(f"({'|'.join(map(_pattern, longest_first)) or '(?!)'})", example.rendered.text)
    expected = [token for part in parts if part for token in tokenizer.encode(part, add_special_tokens=False).ids]
    yield messages, example.input_ids == expected, "other tokens than those of the stretches between control tokens"


@must(seam="encode", laws=("TP-CAT",), floor=50, given={"messages": talks(plain_text), "template": names},
      examples=IN_EVERY)  # fmt: skip
def segments_are_encoded_by_themselves(encode, messages, template, vocabulary=SMALL):
    """Encoded by segments, the tokens are those of each span alone: no merge crosses from a header into a content.

    Meta's and Qwen's own code encode so ("\\n" + "\\n" stay two tokens); whole text at inference is another prompt.
    """
    tokenizer = vocabulary.tokenizer
    axes = {"template": template, "tokenizer": tokenizer, "special_tokens": "literal", "tokenization": "segmented"}
    example = encode(messages, **axes)
    text, spans = example.rendered.text, example.rendered.spans
    parts = [text[span.start : span.end] for span in spans]
    expected = [token for part in parts if part for token in tokenizer.encode(part, add_special_tokens=False).ids]
    yield messages, example.input_ids == expected, "other tokens than those of the spans alone"


@must(seam="encode", laws=("TP-CAT", "TP-NOFORGE"), floor=50,
      given={"messages": talks(hostile_text), "template": names},
      examples=[*IN_EVERY, *({"messages": FORGED, "template": name} for name in sorted(TEMPLATES))])  # fmt: skip
def an_axis_that_is_not_named_is_the_variants_own(encode, messages, template, vocabulary=SMALL):
    """Without special_tokens or tokenization a conversation is encoded as the source of its variant encodes it.

    Meta's and Qwen's code spell control strings out of contents and encode by segments, Hugging Face's parses whole
    texts: the default of the library is another model's prompt.
    """
    variant, tokenizer = TEMPLATES[template], vocabulary.tokenizer
    axes = {"special_tokens": variant.special_tokens, "tokenization": variant.tokenization}
    found, named = (encode(messages, template=template, tokenizer=tokenizer, **each).input_ids for each in ({}, axes))
    yield messages, found == named, f"other tokens than with {axes}"
