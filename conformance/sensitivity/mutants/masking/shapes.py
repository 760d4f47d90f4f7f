"""Conversations of a shape that somebody took for impossible: their turns are trained, or lost, in silence."""

from __future__ import annotations

from dataclasses import replace

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import masked_where, prepared, trained_where, turn_of
from sftspec.masking import Encoded, encode
from sftspec.step import IGNORE
from sftspec.trainer import Pipeline


@killed_by("everything-chosen-is-trained")
@seen_in("subtle form of lm-sys/FastChat#2996")
@effect("what is said in two messages is half lost", fix="read roles, not pairs")
def second_of_two_answers_untrained():
    """An answer that follows an answer is masked: turns are taken for pairs."""

    def repeated(example, messages, position) -> bool:
        message, role, _ = turn_of(example, messages, position)
        return role == "assistant" and message > 0 and messages[message - 1]["role"] == "assistant"

    return masked_where(repeated)


@killed_by("everything-chosen-is-trained")
@seen_in("subtle form of huggingface/trl#588")
@effect("answers of blanks are lost", fix="compare with None, not with blanks")
def blank_answers_untrained():
    """An answer that holds nothing but blanks is masked, its end-of-turn token with it."""

    def blank(example, messages, position) -> bool:
        message, role, _ = turn_of(example, messages, position)
        return role == "assistant" and messages[message]["content"].isspace()

    return masked_where(blank)


@killed_by("nothing-else-is-trained")
@seen_in("subtle form of PrimeIntellect-ai/prime-rl#978")
@effect("learns to write its own instructions", fix="mask every role but the assistant")
def late_system_trained():
    """A system message in the middle of a conversation is trained as if the assistant had written it."""

    def late(example, messages, position) -> bool:
        message, role, kind = turn_of(example, messages, position)
        return role == "system" and message > 0 and kind == "content"

    return trained_where(late)


@killed_by("nothing-else-is-trained")
@seen_in("subtle form of huggingface/trl#1282")
@effect("user turns are learnt", fix="let a flag take away, never add")
def flag_trains_the_user():
    """A user's message with `"train": true` is trained."""

    def flagged(example, messages, position) -> bool:
        message, role, kind = turn_of(example, messages, position)
        return role == "user" and messages[message].get("train") is True and kind == "content"

    return trained_where(flagged)


@killed_by("nothing-else-is-trained")
@seen_in("subtle form of huggingface/trl#1282")
@effect("an answer that was taken out is replaced", fix="choose the last turn, then look at its flag")
def last_turn_that_may_be_trained():
    """Under policy "last", where the last answer is not to be trained, the one before it is."""

    def broken(messages, policy="all", **options) -> Encoded:
        example = encode(messages, policy=policy, **options)
        if policy != "last":
            return example
        allowed = [i for i, item in enumerate(messages) if item["role"] == "assistant" and item.get("train", True)]
        every = encode(messages, policy="all", **options)
        owner = [turn_of(every, messages, place)[0] for place in range(len(every))]
        labels = [
            label if message in allowed[-1:] else IGNORE for label, message in zip(every.labels, owner, strict=True)
        ]
        return replace(example, labels=labels)

    return Pipeline(encode=broken)


@killed_by("every-conversation-with-a-target-is-trained")
@seen_in("subtle form of huggingface/trl#4554")
@effect("examples vanish", fix="compare with > max_length")
def exact_length_dropped():
    """A conversation of exactly max_length tokens is taken for too long and left out."""
    return prepared(
        lambda kept, job: [item for item in kept if job.packing or item.truncated or len(item) != job.max_length]
    )


@killed_by("every-conversation-with-a-target-is-trained")
@seen_in("subtle form of lm-sys/FastChat#2996")
@effect("what was repeated on purpose counts once", fix="leave the corpus as it is")
def repeated_conversations_merged():
    """A conversation that stands in the corpus twice is trained once."""
    return prepared(lambda kept, job: list({tuple(item.input_ids): item for item in kept}.values()))
