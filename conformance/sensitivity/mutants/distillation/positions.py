"""Distillation at the wrong places, or divided by the wrong number: KD code passes the model's own mask by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sftspec.collation import Batch, collate
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.distilling import Distiller, right, with_soft
from sftspec.distillation import distillation_loss
from sftspec.masking import IGNORE, Conventions, Encoded, encode
from sftspec.trainer import Pipeline

COMPLETION = Conventions(separator=True)


# ---------------------------------------------------------------------------------------------------- denominators


@killed_by("the-soft-gradient-is-t-times-the-gap-of-probabilities sequences-one-at-a-time-add-up-to-the-batch")
@seen_in("D-05: subtle form of huggingface/trl#4105, pytorch's batchmean on (B, T, V)")
@effect("long answers teach more", fix="divide by the targets")
def divided_by_rows():
    """The reduction "batchmean" divides by the first axis, the sequences."""
    return with_soft(lambda s, t, y, temperature, n: right(s, t, y, temperature, len(y)))


@killed_by("positions-without-a-target-do-not-dilute")
@seen_in("D-08: modelscope/ms-swift#6600")
@effect("padding lowers the rate", fix="divide by the targets")
def divided_by_positions():
    """The divergence is divided by all positions, padding and prompts among them."""
    return with_soft(lambda s, t, y, temperature, n: right(s, t, y, temperature, y.numel()))


@killed_by("the-soft-loss-is-the-mean-kl-from-teacher-to-student at-high-temperature-the-gradient-is-the-gap-of-logits")
@seen_in("D-08: modelscope/ms-swift#6663, the loss of a batch is its sum")
@effect("the rate grows with the batch", fix="divide by the targets")
def not_divided():
    """The divergence is summed over the targets and not divided."""
    return with_soft(lambda s, t, y, temperature, n: right(s, t, y, temperature, 1))


@killed_by("sequences-one-at-a-time-add-up-to-the-batch sequences-packed-into-one-row-have-the-loss-of-the-batch")
@seen_in("D-07: modelscope/ms-swift#10076, by sequence")
@effect("short answers teach more", fix="divide by the targets of the step")
def mean_of_the_means_of_sequences():
    """Each sequence's mean divergence weighs the same."""

    def soft(s, t, y, temperature, n):
        rows = [row for row in range(len(y)) if (y[row, 1:] != IGNORE).any()]
        means = [
            distillation_loss(s[row : row + 1], t[row : row + 1], y[row : row + 1], temperature, 1.0) for row in rows
        ]
        return torch.stack(means).mean()

    return with_soft(soft)


@killed_by("every-distilled-token-weighs-the-same")
@seen_in("D-07: huggingface/trl#4719")
@effect("short micro-batches teach more", fix="divide by the targets of the step")
def mean_of_the_means_of_micro_batches():
    """The step averages the means of its micro-batches."""
    return Distiller(denominator=lambda batch, batches: batch.num_targets * len(batches))


# -------------------------------------------------------------------------------------------------------- positions


def at(change: Callable[[Tensor], Tensor]) -> Distiller:
    """The reference with the divergence where change(labels) has targets."""
    return with_soft(lambda s, t, y, temperature, n: right(s, t, change(y), temperature, n))


@killed_by("the-soft-loss-reads-the-positions-of-the-hard-loss logits-without-a-target-leave-the-loss-as-it-is")
@seen_in("D-10: modelscope/ms-swift#8436")
@effect("learns the token after each target", fix="one shift for both losses")
def labels_not_shifted():
    """The mask of the labels is laid on the logits without the shift."""
    return at(lambda labels: torch.nn.functional.pad(labels[:, :-1], (1, 0), value=IGNORE))


@killed_by(
    "the-soft-loss-reads-the-positions-of-the-hard-loss logits-without-a-target-leave-the-loss-as-it-is "
    "the-completion-is-distilled-and-nothing-else"
)
@seen_in("D-09: huggingface/trl#2058, the mask is not applied")
@effect("learns the teacher's prompts and padding", fix="the mask of the hard loss")
def mask_not_applied():
    """Every position is distilled."""
    return at(torch.zeros_like)


@killed_by("the-soft-loss-reads-the-positions-of-the-hard-loss logits-without-a-target-leave-the-loss-as-it-is")
@seen_in("D-09: subtle form of huggingface/trl#2058, masks with an epsilon")
@effect("prompts are distilled at a small weight", fix="use exact zeros")
def mask_is_soft():
    """Positions without a target weigh 1e-6 instead of nothing."""

    def soft(s, t, y, temperature, n):
        return right(s, t, y, temperature, n) + 1e-6 * right(s, t, torch.zeros_like(y), temperature, n)

    return with_soft(soft)


@killed_by("a-batch-without-targets-trains-nothing")
@seen_in("D-09: subtle form of huggingface/trl#2058, the mean of nothing")
@effect("every weight is NaN", fix="refuse, or skip and count")
def nan_without_targets():
    """A batch without a target is 0/0."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, num_targets=None):
        if (labels[:, 1:] != IGNORE).any():
            return distillation_loss(student, teacher, labels, temperature, alpha, num_targets=num_targets)
        return student.sum() * 0.0 / 0.0

    return Distiller(loss=loss)


def batched(**stages) -> Distiller:
    """The reference with other stages before its step."""
    return Distiller(pipeline=Pipeline(conventions=COMPLETION, **stages))


@killed_by("the-completion-is-distilled-and-nothing-else")
@seen_in("D-09: huggingface/trl#2058, post-EOS tokens")
@effect("learns padding", fix="labels of padding are -100")
def padding_distilled():
    """Padding has labels, so that it is distilled."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        return replace(batch, labels=torch.where(batch.segment_ids < 0, pad_token_id, batch.labels))

    return batched(collate=broken)


@killed_by("the-completion-is-distilled-and-nothing-else")
@seen_in("D-09: huggingface/trl#6006, prompts of the student's samples")
@effect("learns to write prompts", fix="mask the prompt")
def prompt_distilled():
    """Every token is a target, the prompt among them."""
    return batched(encode=lambda messages, **options: encode(messages, **{**options, "policy": "every-token"}))


@killed_by("the-completion-is-distilled-and-nothing-else")
@seen_in("D-10: subtle form of modelscope/ms-swift#8436, a mask that begins one late")
@effect("answers begin badly", fix="one shift for both losses")
def first_token_not_distilled():
    """The first token of the answer is not distilled."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        first = next(position for position, label in enumerate(example.labels) if label != IGNORE)
        return replace(example, labels=[IGNORE if p == first else label for p, label in enumerate(example.labels)])

    return batched(encode=broken)
