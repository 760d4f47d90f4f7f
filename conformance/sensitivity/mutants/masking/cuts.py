"""Where text is cut: into tokens, and at the beginning of a row."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import with_messages
from sftspec.masking import Encoded, encode
from sftspec.step import IGNORE
from sftspec.trainer import Pipeline


@killed_by("text-is-cut-into-tokens-as-declared")
@seen_in("Lightning-AI/litgpt#1567")
@effect("first tokens that inference never makes", fix="encode once, or declare tokenization='answers'")
def prompt_and_answer_encoded_apart():
    """Prompt and answer are encoded apart, and it is declared nowhere."""

    def broken(messages, **options) -> Encoded:
        return encode(messages, **options | {"tokenization": "answers"})

    return Pipeline(encode=broken)


@killed_by("text-is-cut-into-tokens-as-declared")
@seen_in("pytorch/torchtitan#4504")
@effect("words break at the wrong place", fix="segments as declared, and the same at inference")
def headers_encoded_apart():
    """Headers, contents and ends of turns are encoded apart, and it is declared nowhere."""

    def broken(messages, **options) -> Encoded:
        return encode(messages, **options | {"tokenization": "segmented"})

    return Pipeline(encode=broken)


@killed_by("a-left-cut-keeps-the-last-tokens every-conversation-with-a-target-is-trained")
@seen_in("verl 0.9.1, utils/dataset/multiturn_sft_dataset.py: `truncation: left` without padding")
@effect("keeps questions and loses answers", fix="cut where it is asked, in every layout")
def left_cut_on_the_right():
    """Asked to cut on the left it cuts on the right."""

    def broken(messages, **options) -> Encoded:
        return encode(messages, **options | {"truncation_side": "right"})

    return Pipeline(encode=broken)


@killed_by("every-conversation-with-a-target-is-trained")
@seen_in("instructlab-training 0.16.2, training/data_process.py: `<` in the filter, `>` in the count")
@effect("what was cut to the limit before is lost", fix="keep what fits")
def full_length_is_lost():
    """A conversation of exactly max_length tokens is dropped, and not counted."""

    @dataclass(frozen=True)
    class Filters(Pipeline):
        def prepare(self, job):
            return [item for item in super().prepare(job) if item.truncated or len(item) != job.max_length]

    return Filters()


def from_token(example: Encoded, first: int) -> Encoded:
    """The example without its first tokens."""
    return replace(
        example, input_ids=example.input_ids[first:], labels=example.labels[first:], owners=example.owners[first:]
    )


@killed_by("a-row-begins-with-its-conversations-first-token")
@seen_in("no report known: a limit on prompts (max_prompt_length) that nobody set")
@effect("answers questions that it did not see", fix="cut at the end, as asked, or refuse")
def long_prompts_lose_their_beginning():
    """Of a prompt over 512 tokens the beginning is cut off, and every target is trained."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        first = next((place for place, label in enumerate(example.labels) if label != IGNORE), 0)
        return from_token(example, max(0, first - 512))

    return Pipeline(encode=broken)


@killed_by("a-row-begins-with-its-conversations-first-token")
@seen_in("no report known: a window of history (max_history) that is on by default")
@effect("forgets how a conversation began", fix="keep all turns, or refuse")
def only_the_last_turns_are_kept():
    """Of more than twenty messages the last twenty are kept."""
    return with_messages(lambda messages: messages[-20:])
