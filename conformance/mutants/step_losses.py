"""Losses that are not the mean cross-entropy over the targets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn.functional import cross_entropy

from sftspec.conformance.mutants import mutant
from sftspec.step import IGNORE, StepReport, count_targets, sft_loss, sft_step
from sftspec.trainer import Pipeline


@mutant("the-denominator-is-the-number-of-targets padding-and-copies-change-nothing",
        "mean over all positions", "padding and prompts lower the rate", "divide by targets")  # fmt: skip
def divided_by_positions():
    """The summed loss is divided by the number of positions, padding and prompts among them."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits, labels, labels.numel(), weights)

    return Pipeline(loss=loss)


@mutant("the-denominator-is-the-number-of-targets the-loss-is-the-mean-over-targets",
        "batch means", "long rows count for more", "divide by targets, not by rows")  # fmt: skip
def divided_by_rows():
    """The summed loss is divided by the number of rows."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits, labels, len(labels), weights)

    return Pipeline(loss=loss)


@mutant("micro-batches-add-up", "mean reduction inside the model", "num_items_in_batch is ignored", "pass it through")
def count_of_the_step_ignored():
    """The loss divides by its own targets, whatever the step's number is."""
    return Pipeline(loss=lambda logits, labels, num_targets=None, weights=None: sft_loss(logits, labels, None, weights))


@mutant("the-loss-is-cross-entropy the-gradient-is-softmax-minus-onehot", "Liger-Kernel#243", "probabilities are flat",
        "pass the option on, or refuse it")  # fmt: skip
def labels_smoothed():
    """A tenth of the target's probability is spread over the vocabulary."""

    def loss(logits, labels, num_targets=None, weights=None):
        value = cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), label_smoothing=0.1, reduction="sum"
        )
        return value / (num_targets or count_targets(labels))

    return Pipeline(loss=loss)


@mutant("the-loss-is-cross-entropy a-constant-per-row-changes-nothing", "Modalities#464", "gradients are coarse",
        "reduce in float32")  # fmt: skip
def reduced_in_bfloat16():
    """Logits are rounded to bfloat16 before the loss."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits.bfloat16(), labels, num_targets, weights)

    return Pipeline(loss=loss)


@mutant("equal-logits-cost-ln-v the-loss-is-the-mean-over-targets the-gradient-is-the-slope", "units mixed up",
        "another learning rate", "nats in the loss")  # fmt: skip
def loss_in_bits():
    """The value of the loss is in bits, its gradient in nats."""

    def loss(logits, labels, num_targets=None, weights=None):
        value = sft_loss(logits, labels, num_targets, weights)
        return value + (value / 0.6931471805599453 - value).detach()

    return Pipeline(loss=loss)


@mutant("the-loss-is-convex-and-falls-with-the-target the-loss-is-cross-entropy", "logit caps", "logits stop moving",
        "cap in the model or not at all")  # fmt: skip
def logits_capped():
    """Logits are capped at 3 by a tanh before the loss."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(3 * torch.tanh(logits / 3), labels, num_targets, weights)

    return Pipeline(loss=loss)


@mutant("every-target-of-a-step-weighs-the-same", "focal losses", "sure tokens count less", "plain cross-entropy")
def focal():
    """Losses are weighted by (1 - p)^2, as the focal loss does."""

    def loss(logits, labels, num_targets=None, weights=None):
        rows, targets = logits[:, :-1][labels[:, 1:] != IGNORE].float(), labels[:, 1:][labels[:, 1:] != IGNORE]
        values = cross_entropy(rows, targets, reduction="none")
        return (values * (1 - (-values).exp()) ** 2).sum() / (num_targets or len(targets))

    return Pipeline(loss=loss)


@mutant(
    "order-of-rows-and-of-tokens-is-arbitrary", "token id 0 special-cased", "token 0 is never learned", "no special ids"
)
def token_zero_ignored():
    """Targets with id 0 cost nothing."""

    def loss(logits, labels, num_targets=None, weights=None):
        count = num_targets or count_targets(labels)
        kept = torch.where(labels == 0, IGNORE, labels)
        return sft_loss(logits, kept, count, weights) if count_targets(kept) else logits.sum() * 0

    return Pipeline(loss=loss)


@mutant("evaluation-neither-depends-on-batches-nor-leaves-a-trace", "huggingface/transformers#39241",
        "evaluations cannot be compared", "sum over batches, divide once")  # fmt: skip
def evaluation_averages_batches():
    """The evaluation loss is the mean of the means of its batches."""

    @dataclass(frozen=True)
    class Averages(Pipeline):
        def evaluate(self, model, batches):
            used = [batch for batch in batches if batch.num_targets]
            return sum(super(Averages, self).evaluate(model, [batch]) for batch in used) / len(used)

    return Averages()


@mutant("evaluation-neither-depends-on-batches-nor-leaves-a-trace", "yxuansu/TaCL#11", "training loses its dropout",
        "restore the mode")  # fmt: skip
def evaluation_leaves_the_mode():
    """After an evaluation the model stays in evaluation mode."""

    @dataclass(frozen=True)
    class Leaves(Pipeline):
        def evaluate(self, model, batches):
            loss = super().evaluate(model, batches)
            model.eval()
            return loss

    return Leaves()


@mutant("the-reported-loss-is-the-mean-over-targets", "volcengine/verl#102", "curves mislead", "log what is optimised")
def loss_reported_per_micro_batch():
    """The reported loss is divided by the number of micro-batches."""

    def step(model, batches, *rest) -> StepReport:
        report = sft_step(model, batches, *rest)
        return replace(report, loss=report.loss / len(batches))

    return Pipeline(step=step)
