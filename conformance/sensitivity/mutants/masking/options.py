"""Options of an encoder that hold in one template, or beside no other option, and are lost elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sftspec.conformance.sensitivity.mutants import mutant
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


@mutant("a-flag-untrains-its-own-message-alone", "no report known: a flag read by one of several renderers",
        "learns what was excluded", "read flags where labels are made, once for every template")  # fmt: skip
def flags_read_for_chatml_only():
    """In Llama's templates a message with `"train": false` is trained."""
    return without_flags(lambda template, options, item: template.startswith("llama"))


@mutant("a-flag-untrains-its-own-message-alone", "no report known: every-token as a short cut past the mask",
        "learns what was excluded", "a flag holds whoever speaks")  # fmt: skip
def flag_of_a_user_ignored():
    """Under the policy "every-token" a user's message with `"train": false` is trained."""
    return without_flags(
        lambda template, options, item: options.get("policy") == "every-token" and item["role"] == "user"
    )


@mutant("targets-spell-what-the-policy-trains", "subtle form of huggingface/trl#1282, one template's own encoder",
        "earlier answers are trained as well", "one policy for every template")  # fmt: skip
def policy_followed_in_one_template():
    """The policy "last" is that of "all" in every template but chatml/openai."""
    return with_options(
        lambda template, options: {"policy": "all"} if template != PLAIN and options.get("policy") == "last" else {}
    )


@mutant("targets-spell-what-the-policy-trains", "no report known: conventions written for one family",
        "the mask is not what is declared", "conventions name parts of a turn, not strings")  # fmt: skip
def conventions_of_chatml_only():
    """In Llama's templates another convention than the usual one is not followed."""
    return with_options(
        lambda template, options: {"conventions": Conventions()} if template.startswith("llama") else {}
    )


@mutant("targets-spell-what-the-policy-trains", "no report known: masks by message, and text that belongs to none",
        "cannot write its own system prompt", "every token is every token")  # fmt: skip
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


@mutant("a-cut-keeps-the-first-tokens-and-their-labels the-tokens-cut-off-are-counted",
        "no report known: a length counted before tools are listed", "runs out of memory where tools are long",
        "count what the model sees")  # fmt: skip
def tools_beyond_the_cut():
    """Tools come on top of max_length: what is cut is counted without them."""

    def broken(messages, template=PLAIN, max_length=None, tools=None, **options) -> Encoded:
        if not (max_length and tools):
            return encode(messages, template, max_length=max_length, tools=tools, **options)
        extra = len(encode(messages, template, tools=tools, **options)) - len(encode(messages, template, **options))
        return encode(messages, template, max_length=max_length + extra, tools=tools, **options)

    return Pipeline(encode=broken)
