"""Masks and labels that went wrong on the way to the loss."""

from __future__ import annotations

from dataclasses import replace

import torch

from sftspec.collation import Batch, collate
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import (
    masked_where,
    trained_where,
    turn_of,
)
from sftspec.masking import Conventions, Encoded, encode
from sftspec.step import IGNORE, sft_loss
from sftspec.trainer import Pipeline


@killed_by("nothing-else-is-trained targets-spell-what-the-policy-trains")
@seen_in("karpathy/nanochat#582")
@effect("learns to write the user's turn", fix="keep the mask that render returns")
def mask_dropped():
    """Every token is trained."""
    return trained_where(lambda example, messages, position: True)


@killed_by("nothing-else-is-trained")
@seen_in("PrimeIntellect-ai/prime-rl#978")
@effect("invents tool results", fix="mask role tool as well")
def tool_results_trained():
    """What a tool returned is trained as if the assistant had written it."""
    return trained_where(lambda example, messages, position: turn_of(example, messages, position)[1] == "tool")


@killed_by("nothing-else-is-trained")
@seen_in("maxtext#3284")
@effect("wastes targets on headers", fix="measure the prompt with its header")
def header_trained():
    """The assistant's header is trained."""
    return trained_where(lambda e, m, position: turn_of(e, m, position)[1:] == ("assistant", "header"))


@killed_by("nothing-else-is-trained")
@seen_in("no report known: soft masks")
@effect("prompts are trained at a small weight", fix="use exact zeros")
def mask_is_soft():
    """Masked positions are scored at a weight of 1e-6 instead of 0."""

    def loss(logits, labels, num_targets=None, weights=None):
        value = sft_loss(logits, labels, num_targets, weights)
        return value + 1e-6 * torch.logsumexp(logits[:, :-1].float(), -1).mean()

    return Pipeline(loss=loss)


@killed_by("everything-chosen-is-trained")
@seen_in("modelscope/ms-swift#7838")
@effect("half the supervision is lost", fix="train every turn")
def only_the_last_turn():
    """Only the last assistant turn is trained although all are to be."""

    def broken(messages, **options) -> Encoded:
        return encode(messages, **{**options, "policy": "last" if options["policy"] == "all" else options["policy"]})

    return Pipeline(encode=broken)


@killed_by("everything-chosen-is-trained")
@seen_in("lm-sys/FastChat#2494")
@effect("later answers lose tokens", fix="do not recompute lengths")
def third_turn_lost():
    """The third assistant turn of a conversation is masked."""

    def third(example, messages, position) -> bool:
        message, role, _ = turn_of(example, messages, position)
        return role == "assistant" and sum(item["role"] == "assistant" for item in messages[:message]) == 2

    return masked_where(third)


@killed_by("first-token-of-an-answer-is-trained")
@seen_in("volcengine/verl#3287")
@effect("answers start badly", fix="shift the mask as well")
def first_answer_token_lost():
    """The first token of each answer is masked: the mask was not shifted with the labels."""
    return masked_where(lambda e, m, p: p > 0 and e.labels[p] != IGNORE and e.labels[p - 1] == IGNORE)


@killed_by("end-of-turn-is-trained targets-spell-what-the-policy-trains template/the-published-targets-are-trained")
@seen_in("axolotl-ai-cloud/axolotl#3754")
@effect("never stops", fix="find the end by the template, not by eos_token_id")
def end_of_turn_masked():
    """The end-of-turn token is no target."""
    return masked_where(lambda e, m, position: turn_of(e, m, position)[2] == "end_of_turn")


@killed_by("end-of-turn-is-trained")
@seen_in("huggingface/trl#976")
@effect("never stops", fix="mask padding by position, not by id")
def pads_masked_by_id():
    """Labels are ignored wherever the id is the pad's, which is the end-of-turn's in many set-ups."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        return replace(batch, labels=batch.labels.masked_fill(batch.input_ids == pad_token_id, IGNORE))

    return Pipeline(collate=broken)


@killed_by("end-of-turn-is-trained")
@seen_in("subtle form of huggingface/trl#976")
@effect("never stops when packed", fix="mask by position")
def packed_pads_masked_by_id():
    """Labels are ignored wherever the id is the pad's, in packed rows only."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        if bins is None:
            return batch
        return replace(batch, labels=batch.labels.masked_fill(batch.input_ids == pad_token_id, IGNORE))

    return Pipeline(collate=broken)


@killed_by("end-of-turn-is-trained")
@seen_in("subtle form of axolotl#3754")
@effect("does not stop after long answers", fix="no special cases")
def end_of_last_turn_masked():
    """Only the last end-of-turn token of a conversation of several turns is no target."""

    def last(example, messages, position) -> bool:
        message, _, kind = turn_of(example, messages, position)
        return kind == "end_of_turn" and message == len(messages) - 1 and len(messages) > 3

    return masked_where(last)


@killed_by("each-target-is-the-next-token")
@seen_in("huggingface/transformers#46898")
@effect("learns the token after the next", fix="shift in one place")
def shifted_twice():
    """Labels are shifted in the collator and again in the loss."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        labels = torch.full_like(batch.labels, IGNORE)
        labels[:, :-1] = batch.labels[:, 1:]
        return replace(batch, labels=labels)

    return Pipeline(collate=broken)


@killed_by(
    "each-target-is-the-next-token logits-are-scored-against-the-next-label rows-without-a-target-have-no-gradient"
)
@seen_in("huggingface/transformers#17987")
@effect("learns to copy", fix="shift before the loss")
def not_shifted():
    """Logits are scored against the token that they have just read."""

    def loss(logits, labels, num_targets=None, weights=None):
        shifted = torch.nn.functional.pad(labels, (1, 0), value=IGNORE)
        return sft_loss(torch.nn.functional.pad(logits, (0, 0, 0, 1)), shifted, num_targets, weights)

    return Pipeline(loss=loss)


@killed_by("padding-is-never-trained nothing-else-is-trained")
@seen_in("NVIDIA/Megatron-Bridge#3359")
@effect("learns to write padding", fix="labels of padding are -100")
def padding_trained():
    """Padding is labelled with the pad's id."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        return replace(batch, labels=torch.where(batch.segment_ids < 0, pad_token_id, batch.labels))

    return Pipeline(collate=broken)


@killed_by("the-weighted-loss-is-divided-by-the-weights weights-of-zero-and-one-are-a-mask")
@seen_in("no report known: token weights")
@effect("weights become a learning rate", fix="divide by the sum of weights")
def weights_divided_by_count():
    """Weighted losses are divided by the number of targets."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits, labels, num_targets or int((labels[:, 1:] != IGNORE).sum()), weights)

    return Pipeline(loss=loss)


UNDECLARED = Conventions(separator=True)


@killed_by("nothing-else-is-trained")
@seen_in("jingyaogong/minimind#636")
@effect("trains a token it never writes", fix="declare it, or mask it")
def separator_trained_undeclared():
    """The newline after the end-of-turn token is trained, and not declared."""

    def broken(messages, **options) -> Encoded:
        return encode(messages, **{**options, "conventions": UNDECLARED})

    return Pipeline(encode=broken)


@killed_by("a-label-outside-the-vocabulary-is-refused")
@seen_in("no report known: tokens added to the tokenizer and not to the model")
@effect("another token is trained", fix="refuse it, and resize the embeddings")
def label_clamped():
    """A label beyond the vocabulary is taken for its last token."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits, labels.clamp(max=logits.shape[-1] - 1), num_targets, weights)

    return Pipeline(loss=loss)


@killed_by("a-cut-keeps-the-first-tokens-and-their-labels")
@seen_in("no report known: an end-of-turn put at the cut, in one family of templates")
@effect("stops in the middle of a sentence", fix="put nothing in place of what was cut")
def end_of_turn_at_the_cut():
    """Llama-3's end-of-turn token replaces the last token of an example that was cut."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        if not example.truncated or "<|eot_id|>" not in example.rendered.text:
            return example
        last = encode(messages, **{**options, "max_length": None}).input_ids[-1]
        return replace(example, input_ids=[*example.input_ids[:-1], last], labels=[*example.labels[:-1], last])

    return Pipeline(encode=broken)


@killed_by("a-flag-untrains-its-own-message-alone")
@seen_in("no report known: OpenAI's field read by nobody")
@effect("learns an answer that was taken out", fix="read weight as train")
def weight_of_zero_ignored():
    """A message with `"weight": 0` is trained like any other."""

    def broken(messages, **options) -> Encoded:
        return encode([{key: message[key] for key in message.keys() - {"weight"}} for message in messages], **options)

    return Pipeline(encode=broken)


@killed_by("a-token-belongs-to-the-span-it-starts-in")
@seen_in("subtle form of FastChat#2996, offsets that are one token off")
@effect("a mask that is made of the owners begins a token late", fix="a token is owned where it starts")
def owners_one_token_late():
    """The owner that is told of each token is that of the token before it."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        return replace(example, owners=[*example.owners[:1], *example.owners[:-1]])

    return Pipeline(encode=broken)
