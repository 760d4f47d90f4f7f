"""Options of an encoder that hold in one template, or beside no other option, and are lost elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.masking import Conventions, Encoded, encode
from sftspec.step import IGNORE
from sftspec.trainer import Pipeline

PLAIN = "chatml/openai"


def with_options(change: Callable[[str, dict], dict]) -> Pipeline:
    """The reference, asked with other options: change(template, options) -> what is changed of them."""

    def broken(messages, template=PLAIN, **options) -> Encoded:
        return encode(messages, template, **options | change(template, options))

    return Pipeline(encode=broken)


def without_flags(concerns: Callable[[str, dict, dict], bool]) -> Pipeline:
    """The reference without the flags of messages that concern(template, options, message)."""

    def broken(messages, template=PLAIN, **options) -> Encoded:
        told = [
            {key: item[key] for key in item if key not in ("train", "weight")}
            if concerns(template, options, item)
            else item
            for item in messages
        ]
        return encode(told, template, **options)

    return Pipeline(encode=broken)


@killed_by("a-flag-untrains-its-own-message-alone")
@seen_in("no report known: a flag read by one of several renderers")
@effect("learns what was excluded", fix="read flags where labels are made, once for every template")
def flags_read_for_chatml_only():
    """In Llama's templates a message with `"train": false` is trained."""
    return without_flags(lambda template, options, item: template.startswith("llama"))


@killed_by("a-flag-untrains-its-own-message-alone")
@seen_in("no report known: every-token as a short cut past the mask")
@effect("learns what was excluded", fix="a flag holds whoever speaks")
def flag_of_a_user_ignored():
    """Under the policy "every-token" a user's message with `"train": false` is trained."""
    return without_flags(
        lambda template, options, item: options.get("policy") == "every-token" and item["role"] == "user"
    )


@killed_by("targets-spell-what-the-policy-trains")
@seen_in("subtle form of huggingface/trl#1282, one template's own encoder")
@effect("earlier answers are trained as well", fix="one policy for every template")
def policy_followed_in_one_template():
    """The policy "last" is that of "all" in every template but chatml/openai."""
    return with_options(
        lambda template, options: {"policy": "all"} if template != PLAIN and options.get("policy") == "last" else {}
    )


@killed_by("targets-spell-what-the-policy-trains")
@seen_in("no report known: conventions written for one family")
@effect("the mask is not what is declared", fix="conventions name parts of a turn, not strings")
def conventions_of_chatml_only():
    """In Llama's templates another convention than the usual one is not followed."""
    return with_options(
        lambda template, options: {"conventions": Conventions()} if template.startswith("llama") else {}
    )


@killed_by("targets-spell-what-the-policy-trains")
@seen_in("no report known: masks by message, and text that belongs to none")
@effect("cannot write its own system prompt", fix="every token is every token")
def own_system_turn_untrained():
    """Under the policy "every-token" a system turn that nobody wrote, but the template, is not trained."""

    def broken(messages, template=PLAIN, **options) -> Encoded:
        example = encode(messages, template, **options)
        if options.get("policy") != "every-token":
            return example
        spans = [example.rendered.spans[owner] for owner in example.owners]
        labels = [IGNORE if span.message < 0 else label for span, label in zip(spans, example.labels, strict=True)]
        return replace(example, labels=labels)

    return Pipeline(encode=broken)


@killed_by("a-cut-keeps-the-first-tokens-and-their-labels the-tokens-cut-off-are-counted")
@seen_in("no report known: a length counted before tools are listed")
@effect("runs out of memory where tools are long", fix="count what the model sees")
def tools_beyond_the_cut():
    """Tools come on top of max_length: what is cut is counted without them."""

    def broken(messages, template=PLAIN, max_length=None, tools=None, **options) -> Encoded:
        if not (max_length and tools):
            return encode(messages, template, max_length=max_length, tools=tools, **options)
        extra = len(encode(messages, template, tools=tools, **options)) - len(encode(messages, template, **options))
        return encode(messages, template, max_length=max_length + extra, tools=tools, **options)

    return Pipeline(encode=broken)
