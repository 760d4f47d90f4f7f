"""Conversations of a shape that somebody took for impossible: their turns are trained, or lost, in silence."""

from __future__ import annotations

from dataclasses import replace

from sftspec.conformance.sensitivity.mutants import mutant
from sftspec.conformance.sensitivity.mutants.breaking import masked_where, prepared, trained_where, turn_of
from sftspec.masking import Encoded, encode
from sftspec.step import IGNORE
from sftspec.trainer import Pipeline


@mutant("everything-chosen-is-trained", "subtle form of lm-sys/FastChat#2996",
        "what is said in two messages is half lost", "read roles, not pairs")  # fmt: skip
def second_of_two_answers_untrained():
    """An answer that follows an answer is masked: turns are taken for pairs."""

    def repeated(example, messages, position) -> bool:
        message, role, _ = turn_of(example, messages, position)
        return role == "assistant" and message > 0 and messages[message - 1]["role"] == "assistant"

    return masked_where(repeated)


@mutant("everything-chosen-is-trained", "subtle form of huggingface/trl#588", "answers of blanks are lost",
        "compare with None, not with blanks")  # fmt: skip
def blank_answers_untrained():
    """An answer that holds nothing but blanks is masked, its end-of-turn token with it."""

    def blank(example, messages, position) -> bool:
        message, role, _ = turn_of(example, messages, position)
        return role == "assistant" and messages[message]["content"].isspace()

    return masked_where(blank)


@mutant("nothing-else-is-trained", "subtle form of PrimeIntellect-ai/prime-rl#978",
        "learns to write its own instructions", "mask every role but the assistant")  # fmt: skip
def late_system_trained():
    """A system message in the middle of a conversation is trained as if the assistant had written it."""

    def late(example, messages, position) -> bool:
        message, role, kind = turn_of(example, messages, position)
        return role == "system" and message > 0 and kind == "content"

    return trained_where(late)


@mutant("nothing-else-is-trained", "subtle form of huggingface/trl#1282", "user turns are learnt",
        "let a flag take away, never add")  # fmt: skip
def flag_trains_the_user():
    """A user's message with `"train": true` is trained."""

    def flagged(example, messages, position) -> bool:
        message, role, kind = turn_of(example, messages, position)
        return role == "user" and messages[message].get("train") is True and kind == "content"

    return trained_where(flagged)


@mutant("nothing-else-is-trained", "subtle form of huggingface/trl#1282", "an answer that was taken out is replaced",
        "choose the last turn, then look at its flag")  # fmt: skip
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


@mutant("every-conversation-with-a-target-is-trained", "subtle form of huggingface/trl#4554", "examples vanish",
        "compare with > max_length")  # fmt: skip
def exact_length_dropped():
    """A conversation of exactly max_length tokens is taken for too long and left out."""
    return prepared(
        lambda kept, job: [item for item in kept if job.packing or item.truncated or len(item) != job.max_length]
    )


@mutant("every-conversation-with-a-target-is-trained", "subtle form of lm-sys/FastChat#2996",
        "what was repeated on purpose counts once", "leave the corpus as it is")  # fmt: skip
def repeated_conversations_merged():
    """A conversation that stands in the corpus twice is trained once."""
    return prepared(lambda kept, job: list({tuple(item.input_ids): item for item in kept}.values()))
