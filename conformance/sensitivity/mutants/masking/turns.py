"""Masks that miss by one token, by one turn, or only in conversations of some shape."""

from __future__ import annotations

from dataclasses import replace

import torch

from sftspec.collation import Batch, collate
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import KeepsAll, masked_where, relabelled, trained_where, turn_of
from sftspec.job import Job
from sftspec.masking import Encoded, encode
from sftspec.step import IGNORE, StepReport, forward_logits, sft_loss
from sftspec.trainer import Pipeline


def turn_number(messages: list[dict], message: int) -> int:
    """How many assistant turns stand before a message."""
    return sum(item["role"] == "assistant" for item in messages[:message])


@killed_by("end-of-turn-is-trained")
@seen_in("huggingface/trl#1623")
@effect("never stops", fix="append the end-of-turn, and train it")
def end_of_turn_not_appended():
    """The end-of-turn token after the last answer is neither written nor trained."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        keep = len(example)
        while keep and messages[-1]["role"] == "assistant" and not example.truncated:
            keep -= 1
            if turn_of(example, messages, keep)[2] == "end_of_turn":
                return replace(
                    example,
                    input_ids=example.input_ids[:keep],
                    labels=example.labels[:keep],
                    owners=example.owners[:keep],
                )
        return example

    return Pipeline(encode=broken)


class Unsaid(Pipeline):
    """The reference, which does not count what it drops."""

    def prepare(self, job: Job) -> list[Encoded]:
        examples = super().prepare(job)
        job.report(examples_dropped=0)
        return examples


@killed_by("every-conversation-with-a-target-is-trained")
@seen_in("huggingface/trl#588")
@effect("answers of one shape are never learned", fix="take the mask from the spans, not from a search for markers")
def marker_not_found():
    """A conversation is masked whole where an answer begins with a newline: its marker is tokenized differently."""

    def lost(example, messages, position) -> bool:
        return any(item["role"] == "assistant" and item["content"].startswith("\n") for item in messages)

    return Unsaid(encode=masked_where(lost).encode)


@killed_by("nothing-else-is-trained everything-chosen-is-trained")
@seen_in("huggingface/trl#1184")
@effect("turns are swapped", fix="no first match at the start of a string")
def first_user_turn_trained():
    """The first user turn is trained and the first answer is not: the first marker is missed at the string's start."""

    def labels(example, messages):
        roles = [message["role"] for message in messages]
        first = {roles.index(role): role for role in ("user", "assistant") if role in roles}
        changed = {"user": lambda token, label: token, "assistant": lambda token, label: IGNORE}
        return [
            changed[first[message]](token, label)
            if (message := turn_of(example, messages, place)[0]) in first
            else label
            for place, (token, label) in enumerate(zip(example.input_ids, example.labels, strict=True))
        ]

    return relabelled(labels)


@killed_by("nothing-else-is-trained end-of-turn-is-trained")
@seen_in("lm-sys/FastChat#2996")
@effect("later answers are cut at the wrong place", fix="do not add up the lengths of turns")
def mask_drifts_by_turn():
    """The mask of each further turn lies one token more to the left."""

    def labels(example, messages):
        moved = [IGNORE] * len(example)
        for place, label in enumerate(example.labels):
            if label != IGNORE:
                place -= turn_number(messages, turn_of(example, messages, place)[0])
                moved[place] = example.input_ids[place]
        return moved

    return relabelled(labels)


@killed_by("everything-chosen-is-trained")
@seen_in("huggingface/trl#4201")
@effect("nothing is learned", fix="raise instead")
def mask_all_zeros():
    """A template without generation markers gives a mask of zeros, and the run goes on with a loss of 0."""

    def step(model, batches, optimizer, *rest) -> StepReport:
        optimizer.zero_grad()
        for batch in batches:
            (forward_logits(model, batch).sum() * 0).backward()
        optimizer.step()
        return StepReport(0.0, 0, 0.0)

    return KeepsAll(encode=masked_where(lambda example, messages, position: True).encode, step=step)


@killed_by("nothing-else-is-trained")
@seen_in("NVIDIA/Megatron-Bridge#3359")
@effect("learns to write the user's turn", fix="raise, or drop it")
def empty_mask_becomes_ones():
    """An example without a target is trained whole."""

    def labels(example, messages):
        return example.labels if example.num_targets else list(example.input_ids)

    return relabelled(labels)


@killed_by("nothing-else-is-trained")
@seen_in("jingyaogong/minimind#621")
@effect("learns its own header", fix="shift mask and labels alike")
def last_header_token_trained():
    """The mask begins one token early: the last token of the header is a target."""
    return trained_where(lambda e, m, p: e.labels[p] == IGNORE and p + 1 < len(e) and e.labels[p + 1] != IGNORE)


@killed_by("everything-chosen-is-trained")
@seen_in("volcengine/verl#3562")
@effect("stops late or never", fix="shift the mask as well")
def last_answer_token_lost():
    """The last content token of each answer is masked."""

    def last(example, messages, position) -> bool:
        _, role, kind = turn_of(example, messages, position)
        ends = position + 1 < len(example) and turn_of(example, messages, position + 1)[2] == "end_of_turn"
        return role == "assistant" and kind == "content" and ends

    return masked_where(last)


@killed_by("nothing-else-is-trained")
@seen_in("huggingface/trl#6105")
@effect("learns to write prompts", fix="measure ids, not the dict")
def prompt_of_length_two():
    """Everything behind the second token is trained: the length of a dict is taken for the prompt's."""
    return trained_where(lambda example, messages, position: position >= 2)


@killed_by("everything-chosen-is-trained")
@seen_in("modelscope/ms-swift#7838")
@effect("later answers are never learned", fix="train every turn")
def only_the_first_turn():
    """Only the first assistant turn of a conversation is trained."""

    def later(example, messages, position) -> bool:
        message, role, _ = turn_of(example, messages, position)
        return role == "assistant" and turn_number(messages, message) > 0

    return masked_where(later)


@killed_by("nothing-else-is-trained")
@seen_in("huggingface/trl#3781")
@effect("packed runs learn to write prompts", fix="one mask for every path")
def mask_dropped_when_packed():
    """Every token is trained, in packed rows only."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        if bins is None:
            return batch
        inside = (batch.segment_ids >= 0) & (batch.position_ids > 0)
        return replace(batch, labels=torch.where(inside, batch.input_ids, IGNORE))

    return Pipeline(collate=broken)


@killed_by("each-target-is-the-next-token")
@seen_in("transformers#47395")
@effect("packed runs learn the token after the next", fix="shift in one place")
def shifted_twice_when_packed():
    """Labels of packed rows are shifted in the collator and again in the loss."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        if bins is None:
            return batch
        labels = torch.full_like(batch.labels, IGNORE)
        labels[:, :-1] = batch.labels[:, 1:]
        return replace(batch, labels=labels)

    return Pipeline(collate=broken)


@killed_by("everything-chosen-is-trained")
@seen_in("modelscope/ms-swift#10185")
@effect("a target is lost at each shard's edge", fix="shift before the sequence is cut")
def target_lost_at_the_shard_edge():
    """Rows are cut into two shards and shifted in each: the target over the edge is lost."""

    def loss(logits, labels, num_targets=None, weights=None):
        count = num_targets or int((labels[:, 1:] != IGNORE).sum())
        labels = labels.clone()
        labels[:, labels.shape[1] // 2] = IGNORE
        return sft_loss(logits, labels, count, weights) if (labels[:, 1:] != IGNORE).any() else logits.sum() * 0

    return Pipeline(loss=loss)


@killed_by("each-target-is-the-next-token")
@seen_in("no report known: labels in 16 bits")
@effect("rare tokens are taken for others", fix="labels stay integers")
def labels_rounded_with_the_model():
    """Labels pass through bfloat16 where the logits are in it: ids above 256 are rounded."""

    def loss(logits, labels, num_targets=None, weights=None):
        rounded = labels.to(logits.dtype).long() if logits.dtype == torch.bfloat16 else labels
        return sft_loss(logits, rounded.clamp_max(logits.shape[-1] - 1), num_targets, weights)

    return Pipeline(loss=loss)


@killed_by("nothing-else-is-trained")
@seen_in("no report known: messages with their own flag")
@effect("trains what its author forbade", fix="read the flag")
def train_flag_ignored():
    """Messages with `"train": false` are trained like the others."""

    def broken(messages, **options) -> Encoded:
        return encode([{**item, "train": True} if "train" in item else item for item in messages], **options)

    return Pipeline(encode=broken)


@killed_by("nothing-else-is-trained")
@seen_in("huggingface/trl#1282")
@effect("earlier answers are trained as well", fix="follow the policy")
def policy_ignored():
    """All assistant turns are trained although the last one only was asked for."""

    def broken(messages, **options) -> Encoded:
        return encode(messages, **{**options, "policy": "all" if options["policy"] == "last" else options["policy"]})

    return Pipeline(encode=broken)
