"""Distillation at the wrong places, or divided by the wrong number: KD code passes the model's own mask by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sftspec.collation import Batch, collate
from sftspec.conformance.sensitivity.mutants import mutant
from sftspec.conformance.sensitivity.mutants.distilling import Distiller, right, with_soft
from sftspec.distillation import distillation_loss
from sftspec.masking import IGNORE, Conventions, Encoded, encode
from sftspec.trainer import Pipeline

COMPLETION = Conventions(separator=True)


# ---------------------------------------------------------------------------------------------------- denominators


@mutant(
        "the-soft-gradient-is-t-times-the-gap-of-probabilities "
        "sequences-one-at-a-time-add-up-to-the-batch",
        "D-05: subtle form of huggingface/trl#4105, pytorch's batchmean on (B, T, V)", "long answers teach more",
        "divide by the targets")  # fmt: skip
def divided_by_rows():
    """The reduction "batchmean" divides by the first axis, the sequences."""
    return with_soft(lambda s, t, y, temperature, n: right(s, t, y, temperature, len(y)))


@mutant("positions-without-a-target-do-not-dilute", "D-08: modelscope/ms-swift#6600", "padding lowers the rate",
        "divide by the targets")  # fmt: skip
def divided_by_positions():
    """The divergence is divided by all positions, padding and prompts among them."""
    return with_soft(lambda s, t, y, temperature, n: right(s, t, y, temperature, y.numel()))


@mutant("the-soft-loss-is-the-mean-kl-from-teacher-to-student "
        "at-high-temperature-the-gradient-is-the-gap-of-logits",
        "D-08: modelscope/ms-swift#6663, the loss of a batch is its sum", "the rate grows with the batch",
        "divide by the targets")  # fmt: skip
def not_divided():
    """The divergence is summed over the targets and not divided."""
    return with_soft(lambda s, t, y, temperature, n: right(s, t, y, temperature, 1))


@mutant("sequences-one-at-a-time-add-up-to-the-batch "
        "sequences-packed-into-one-row-have-the-loss-of-the-batch",
        "D-07: modelscope/ms-swift#10076, by sequence",
        "short answers teach more", "divide by the targets of the step")  # fmt: skip
def mean_of_the_means_of_sequences():
    """Each sequence's mean divergence weighs the same."""

    def soft(s, t, y, temperature, n):
        rows = [row for row in range(len(y)) if (y[row, 1:] != IGNORE).any()]
        means = [
            distillation_loss(s[row : row + 1], t[row : row + 1], y[row : row + 1], temperature, 1.0) for row in rows
        ]
        return torch.stack(means).mean()

    return with_soft(soft)


@mutant("every-distilled-token-weighs-the-same", "D-07: huggingface/trl#4719", "short micro-batches teach more",
        "divide by the targets of the step")  # fmt: skip
def mean_of_the_means_of_micro_batches():
    """The step averages the means of its micro-batches."""
    return Distiller(denominator=lambda batch, batches: batch.num_targets * len(batches))


# -------------------------------------------------------------------------------------------------------- positions


def at(change: Callable[[Tensor], Tensor]) -> Distiller:
    """The reference with the divergence where change(labels) has targets."""
    return with_soft(lambda s, t, y, temperature, n: right(s, t, change(y), temperature, n))


@mutant("the-soft-loss-reads-the-positions-of-the-hard-loss "
        "logits-without-a-target-leave-the-loss-as-it-is",
        "D-10: modelscope/ms-swift#8436", "learns the token after each target",
        "one shift for both losses")  # fmt: skip
def labels_not_shifted():
    """The mask of the labels is laid on the logits without the shift."""
    return at(lambda labels: torch.nn.functional.pad(labels[:, :-1], (1, 0), value=IGNORE))


@mutant("the-soft-loss-reads-the-positions-of-the-hard-loss "
        "logits-without-a-target-leave-the-loss-as-it-is the-completion-is-distilled-and-nothing-else",
        "D-09: huggingface/trl#2058, the mask is not applied",
        "learns the teacher's prompts and padding", "the mask of the hard loss")  # fmt: skip
def mask_not_applied():
    """Every position is distilled."""
    return at(torch.zeros_like)


@mutant(
        "the-soft-loss-reads-the-positions-of-the-hard-loss "
        "logits-without-a-target-leave-the-loss-as-it-is",
        "D-09: subtle form of huggingface/trl#2058, masks with an epsilon", "prompts are distilled at a small weight",
        "use exact zeros")  # fmt: skip
def mask_is_soft():
    """Positions without a target weigh 1e-6 instead of nothing."""

    def soft(s, t, y, temperature, n):
        return right(s, t, y, temperature, n) + 1e-6 * right(s, t, torch.zeros_like(y), temperature, n)

    return with_soft(soft)


@mutant("a-batch-without-targets-trains-nothing", "D-09: subtle form of huggingface/trl#2058, the mean of nothing",
        "every weight is NaN", "refuse, or skip and count")  # fmt: skip
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


@mutant("the-completion-is-distilled-and-nothing-else", "D-09: huggingface/trl#2058, post-EOS tokens", "learns padding",
        "labels of padding are -100")  # fmt: skip
def padding_distilled():
    """Padding has labels, so that it is distilled."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        return replace(batch, labels=torch.where(batch.segment_ids < 0, pad_token_id, batch.labels))

    return batched(collate=broken)


@mutant("the-completion-is-distilled-and-nothing-else", "D-09: huggingface/trl#6006, prompts of the student's samples",
        "learns to write prompts", "mask the prompt")  # fmt: skip
def prompt_distilled():
    """Every token is a target, the prompt among them."""
    return batched(encode=lambda messages, **options: encode(messages, **{**options, "policy": "every-token"}))


@mutant("the-completion-is-distilled-and-nothing-else",
        "D-10: subtle form of modelscope/ms-swift#8436, a mask that begins one late", "answers begin badly",
        "one shift for both losses")  # fmt: skip
def first_token_not_distilled():
    """The first token of the answer is not distilled."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        first = next(position for position, label in enumerate(example.labels) if label != IGNORE)
        return replace(example, labels=[IGNORE if p == first else label for p, label in enumerate(example.labels)])

    return batched(encode=broken)
