"""Thoughts that a trainer handles otherwise than the template: only a job whose template handles some can show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import masked_where, turn_of
from sftspec.masking import Encoded, encode
from sftspec.step import IGNORE
from sftspec.trainer import Pipeline

PUBLISHED = "template/the-model-sees-the-published-tokens"


def where_thoughts_are(change: Callable[[list[dict], dict], Encoded]) -> Pipeline:
    """The reference with other examples where the template handles thoughts: change(messages, options)."""

    def broken(messages, **options) -> Encoded:
        return change(messages, options) if options["template"] == "chatml/qwen3" else encode(messages, **options)

    return Pipeline(encode=broken)


@killed_by(f"conversations-stand-as-rendered {PUBLISHED}")
@seen_in("T-12: THUDM/slime#330")
@effect("answers without thinking", fix="hand every field of a message to the template")
def thoughts_lost_at_load():
    """Of a message its role and content are kept, and the thoughts in a field of their own are lost."""
    return where_thoughts_are(
        lambda messages, options: encode(
            [{key: item[key] for key in ("role", "content")} for item in messages], **options
        )
    )


@killed_by(f"conversations-stand-as-rendered {PUBLISHED}")
@seen_in("T-12: verl-project/verl#6854")
@effect("sees thoughts in its history that no prompt holds", fix="render the whole conversation at once")
def each_answer_rendered_as_the_last():
    """A conversation is put together of messages rendered one by one, and each answer has a think block."""

    def joined(messages, options) -> Encoded:
        question = [{"role": "user", "content": ""}]
        ids: list[int] = []
        labels: list[int] = []
        for message in messages:
            before = question if message["role"] == "assistant" else []
            example = encode([*before, message], **options)
            start = len(encode(before, **options)) if before else 0
            ids, labels = ids + example.input_ids[start:], labels + example.labels[start:]
        whole = encode(messages, **options)
        return replace(whole, input_ids=ids, labels=labels, owners=[0] * len(ids))

    return where_thoughts_are(joined)


@killed_by("nothing-else-is-trained template/the-published-targets-are-trained")
@seen_in("T-12: huggingface/trl#6361")
@effect("learns to ask", fix="take the mask from the text that is tokenized")
def answers_found_by_rendering_again():
    """An answer's targets are counted on the conversation up to it, where the template still keeps its thoughts."""

    def found(messages, options) -> Encoded:
        example = encode(messages, **options)
        labels = [IGNORE] * len(example)
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                start = len(encode(messages[:place], **{**options, "add_generation_prompt": True})) if place else 0
                stop = len(encode(messages[: place + 1], **options)) - 1  # without the newline
                labels[start:stop] = example.input_ids[start:stop]
        return replace(example, labels=labels)

    return where_thoughts_are(found)


@killed_by("everything-chosen-is-trained template/the-published-targets-are-trained")
@seen_in("T-13: subtle form of thinking-machines-lab/tinker-cookbook#176")
@effect("thinks where it need not", fix="what the model writes is a target, an empty think block too")
def empty_think_block_untrained():
    """A think block with nothing in it is masked, as if it had been given to the model."""

    def is_empty(example, messages, position) -> bool:
        message, _, kind = turn_of(example, messages, position)
        spans = example.rendered.spans
        says = any(span.kind == "reasoning" and span.message == message and span.start < span.end for span in spans)
        return kind == "generated" and not says

    return masked_where(is_empty)
