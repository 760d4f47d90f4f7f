"""Losses that are not the mean cross-entropy over the targets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn.functional import cross_entropy

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.step import IGNORE, StepReport, count_targets, forward_logits, sft_loss, sft_step
from sftspec.trainer import Pipeline


@killed_by("the-denominator-is-the-number-of-targets padding-at-the-right-changes-nothing")
@seen_in("no report known: mean over all positions")
@effect("padding and prompts lower the rate", fix="divide by targets")
def divided_by_positions():
    """The summed loss is divided by the number of positions, padding and prompts among them."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits, labels, labels.numel(), weights)

    return Pipeline(loss=loss)


@killed_by("the-denominator-is-the-number-of-targets the-loss-is-the-mean-cross-entropy-of-the-targets")
@seen_in("no report known: batch means")
@effect("long rows count for more", fix="divide by targets, not by rows")
def divided_by_rows():
    """The summed loss is divided by the number of rows."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits, labels, len(labels), weights)

    return Pipeline(loss=loss)


@killed_by("the-losses-of-micro-batches-add-up the-gradients-of-micro-batches-add-up")
@seen_in("no report known: mean reduction inside the model")
@effect("num_items_in_batch is ignored", fix="pass it through")
def count_of_the_step_ignored():
    """The loss divides by its own targets, whatever the step's number is."""
    return Pipeline(loss=lambda logits, labels, num_targets=None, weights=None: sft_loss(logits, labels, None, weights))


@killed_by(
    "the-loss-is-cross-entropy each-row-of-the-gradient-is-softmax-minus-onehot excluded-tokens-have-no-gradient"
)
@seen_in("Liger-Kernel#243")
@effect("probabilities are flat", fix="pass the option on, or refuse it")
def labels_smoothed():
    """A tenth of the target's probability is spread over the vocabulary."""

    def loss(logits, labels, num_targets=None, weights=None):
        value = cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), label_smoothing=0.1, reduction="sum"
        )
        return value / (num_targets or count_targets(labels))

    return Pipeline(loss=loss)


@killed_by("the-loss-is-cross-entropy a-constant-per-row-changes-nothing")
@seen_in("Modalities#464")
@effect("gradients are coarse", fix="reduce in float32")
def reduced_in_bfloat16():
    """Logits are rounded to bfloat16 before the loss."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits.bfloat16(), labels, num_targets, weights)

    return Pipeline(loss=loss)


@killed_by(
    "equal-logits-cost-the-logarithm-of-their-number the-loss-is-the-mean-cross-entropy-of-the-targets "
    "the-gradient-is-the-slope"
)
@seen_in("no report known: units mixed up")
@effect("another learning rate", fix="nats in the loss")
def loss_in_bits():
    """The value of the loss is in bits, its gradient in nats."""

    def loss(logits, labels, num_targets=None, weights=None):
        value = sft_loss(logits, labels, num_targets, weights)
        return value + (value / 0.6931471805599453 - value).detach()

    return Pipeline(loss=loss)


@killed_by("the-loss-is-convex the-loss-is-cross-entropy")
@seen_in("no report known: logit caps")
@effect("logits stop moving", fix="cap in the model or not at all")
def logits_capped():
    """Logits are capped at 3 by a tanh before the loss."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(3 * torch.tanh(logits / 3), labels, num_targets, weights)

    return Pipeline(loss=loss)


@killed_by("every-target-of-a-step-weighs-the-same")
@seen_in("no report known: focal losses")
@effect("sure tokens count less", fix="plain cross-entropy")
def focal():
    """Losses are weighted by (1 - p)^2, as the focal loss does."""

    def loss(logits, labels, num_targets=None, weights=None):
        rows, targets = logits[:, :-1][labels[:, 1:] != IGNORE].float(), labels[:, 1:][labels[:, 1:] != IGNORE]
        values = cross_entropy(rows, targets, reduction="none")
        return (values * (1 - (-values).exp()) ** 2).sum() / (num_targets or len(targets))

    return Pipeline(loss=loss)


@killed_by("the-order-of-tokens-is-arbitrary the-loss-falls-as-the-target-rises")
@seen_in("no report known: token id 0 special-cased")
@effect("token 0 is never learned", fix="no special ids")
def token_zero_ignored():
    """Targets with id 0 cost nothing."""

    def loss(logits, labels, num_targets=None, weights=None):
        count = num_targets or count_targets(labels)
        kept = torch.where(labels == 0, IGNORE, labels)
        return sft_loss(logits, kept, count, weights) if count_targets(kept) else logits.sum() * 0

    return Pipeline(loss=loss)


@killed_by("the-evaluation-loss-does-not-depend-on-batches")
@seen_in("huggingface/transformers#39241")
@effect("evaluations cannot be compared", fix="sum over batches, divide once")
def evaluation_averages_batches():
    """The evaluation loss is the mean of the means of its batches."""

    @dataclass(frozen=True)
    class Averages(Pipeline):
        def evaluate(self, model, batches):
            used = [batch for batch in batches if batch.num_targets]
            return sum(super(Averages, self).evaluate(model, [batch]) for batch in used) / len(used)

    return Averages()


@killed_by("an-evaluation-leaves-the-mode-of-every-module")
@seen_in("yxuansu/TaCL#11")
@effect("training loses its dropout", fix="restore the mode")
def evaluation_leaves_the_mode():
    """After an evaluation the model stays in evaluation mode."""

    @dataclass(frozen=True)
    class Leaves(Pipeline):
        def evaluate(self, model, batches):
            loss = super().evaluate(model, batches)
            model.eval()
            return loss

    return Leaves()


@killed_by("the-reported-loss-is-the-mean-over-targets")
@seen_in("volcengine/verl#102")
@effect("curves mislead", fix="log what is optimised")
def loss_reported_per_micro_batch():
    """The reported loss is divided by the number of micro-batches."""

    def step(model, batches, *rest) -> StepReport:
        report = sft_step(model, batches, *rest)
        return replace(report, loss=report.loss / len(batches))

    return Pipeline(step=step)


@killed_by("the-loss-is-the-mean-cross-entropy-of-the-targets")
@seen_in("huggingface/transformers#34147")
@effect("gradients are coarse in 16 bits", fix="reduce in float32 whatever the logits")
def sixteen_bits_not_raised():
    """Logits in bfloat16 are reduced in bfloat16; those in float32 are not touched."""

    def loss(logits, labels, num_targets=None, weights=None):
        if logits.dtype != torch.bfloat16:
            return sft_loss(logits, labels, num_targets, weights)
        kept = labels[:, 1:] != IGNORE
        values = cross_entropy(logits[:, :-1][kept], labels[:, 1:][kept], reduction="sum")
        return values / (num_targets or count_targets(labels))

    return Pipeline(loss=loss)


@killed_by("masking/everything-chosen-is-trained a-doubled-batch-costs-the-same the-order-of-rows-is-arbitrary")
@seen_in("linkedin/Liger-Kernel#968")
@effect("the end of a batch is never learned", fix="the last chunk counts as well")
def last_chunk_lost():
    """The loss is computed in chunks of 32 targets, and the last, smaller chunk is lost."""

    def loss(logits, labels, num_targets=None, weights=None):
        count = num_targets or count_targets(labels)
        places = (labels[:, 1:] != IGNORE).flatten().nonzero().flatten()
        kept = places[: len(places) // 32 * 32] if len(places) >= 32 else places
        shifted = torch.full_like(labels[:, 1:].flatten(), IGNORE)
        shifted[kept] = labels[:, 1:].flatten()[kept]
        cut = torch.cat([labels[:, :1], shifted.view_as(labels[:, 1:])], 1)
        return sft_loss(logits, cut, count, weights)

    return Pipeline(loss=loss)


@killed_by("the-loss-is-the-mean-cross-entropy-of-the-targets")
@seen_in("subtle form of linkedin/Liger-Kernel#968")
@effect("the end of a long row is never learned", fix="the number of chunks follows from the targets")
def third_chunk_lost():
    """The loss is computed in chunks of 4,096 targets, and there are never more than two."""

    def loss(logits, labels, num_targets=None, weights=None):
        targets = labels[:, 1:] != IGNORE
        beyond = targets.flatten().cumsum(0).view_as(targets) > 2 * 4096
        cut = labels.clone()
        cut[:, 1:][beyond] = IGNORE
        return sft_loss(logits, cut, num_targets or (count_targets(labels) if beyond.any() else None), weights)

    return Pipeline(loss=loss)


@killed_by("the-loss-is-the-mean-cross-entropy-of-the-targets")
@seen_in("subtle form of linkedin/Liger-Kernel#968, the last block of columns")
@effect("rare tokens are not pushed down", fix="the last block counts as well")
def last_block_of_the_vocabulary_lost():
    """The softmax is computed in blocks of 1,024 tokens, and the last, smaller block is left out of its sum."""

    def loss(logits, labels, num_targets=None, weights=None):
        whole = logits.shape[-1] // 1024 * 1024
        if whole in (0, logits.shape[-1]):
            return sft_loss(logits, labels, num_targets, weights)
        kept = labels[:, 1:] != IGNORE
        rows, targets = logits[:, :-1][kept], labels[:, 1:][kept]
        values = rows[:, :whole].logsumexp(-1) - rows.gather(1, targets[:, None])[:, 0]
        return values.sum() / (num_targets or len(targets))

    return Pipeline(loss=loss)


@killed_by("the-loss-is-cross-entropy the-loss-is-the-mean-cross-entropy-of-the-targets")
@seen_in("bigscience-workshop/Megatron-DeepSpeed#394")
@effect("tokens of other shards are not pushed down", fix="sum the powers over all shards")
def softmax_of_a_shard():
    """The vocabulary is split over two ranks, and the softmax is taken over the shard of the target alone."""

    def loss(logits, labels, num_targets=None, weights=None):
        values = [part.logsumexp(-1) for part in shards_of(logits)]
        return over_shards(logits, labels, num_targets, lambda upper: torch.where(upper, values[1], values[0]))

    return Pipeline(loss=loss)


@killed_by("the-loss-is-cross-entropy each-row-of-the-gradient-is-softmax-minus-onehot the-gradient-is-the-slope")
@seen_in("modelscope/ms-swift#9947")
@effect("half of the vocabulary gets no gradient", fix="reduce by a function that knows its way back")
def no_gradient_of_the_other_shard():
    """The vocabulary is split over two ranks; the value is right, and the shard without the target is not trained."""

    def loss(logits, labels, num_targets=None, weights=None):
        low, high = (part.logsumexp(-1) for part in shards_of(logits))

        def whole(upper):
            return torch.where(upper, torch.logaddexp(low.detach(), high), torch.logaddexp(low, high.detach()))

        return over_shards(logits, labels, num_targets, whole)

    return Pipeline(loss=loss)


def shards_of(logits):
    """Both halves of the vocabulary, of the positions that precede another: (B, T - 1, V/2) each."""
    return logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32)).tensor_split(2, dim=-1)


def over_shards(logits, labels, num_targets, logsumexp):
    """Cross-entropy with logsumexp(is the target in the upper half? (B, T - 1)) in the place of its own."""
    targets, scores = labels[:, 1:], torch.cat(shards_of(logits), -1)
    kept = targets != IGNORE
    upper = targets >= shards_of(logits)[0].shape[-1]
    own = scores.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return (logsumexp(upper) - own)[kept].sum() / (num_targets or count_targets(labels))


@killed_by("the-loss-is-cross-entropy")
@seen_in("no report known: z-loss left on")
@effect("logits are pulled to a sum of 1", fix="no term that nobody asked for")
def z_loss_added():
    """A thousandth of the squared logarithm of the partition function is added."""

    def loss(logits, labels, num_targets=None, weights=None):
        kept = labels[:, 1:] != IGNORE
        z = torch.logsumexp(logits[:, :-1][kept].float(), -1)
        return sft_loss(logits, labels, num_targets, weights) + 1e-3 * (z**2).sum() / (num_targets or len(z))

    return Pipeline(loss=loss)


@killed_by("every-target-of-a-step-weighs-the-same")
@seen_in("huggingface/trl, dft")
@effect("rare tokens are not learned", fix="plain cross-entropy unless asked")
def weighted_by_probability():
    """Each target is weighted by its own probability, which nobody asked for."""

    def loss(logits, labels, num_targets=None, weights=None):
        kept = labels[:, 1:] != IGNORE
        values = cross_entropy(logits[:, :-1][kept].float(), labels[:, 1:][kept], reduction="none")
        return (values * (-values).exp().detach()).sum() / (num_targets or len(values))

    return Pipeline(loss=loss)


@killed_by("every-target-of-a-step-weighs-the-same")
@seen_in("no report known: means over sequences")
@effect("tokens of short answers weigh more", fix="divide by targets, not by rows")
def each_row_weighs_the_same():
    """A micro-batch's loss is the mean of the means of its rows, times its targets."""

    def loss(logits, labels, num_targets=None, weights=None):
        counts = (labels[:, 1:] != IGNORE).sum(1)
        rows = [sft_loss(logits[r : r + 1], labels[r : r + 1]) for r in range(len(labels)) if counts[r]]
        share = float(counts.sum()) / (num_targets or float(counts.sum()))
        return torch.stack(rows).mean() * share

    return Pipeline(loss=loss)


@killed_by("the-evaluation-loss-does-not-depend-on-batches")
@seen_in("huggingface/transformers#35078")
@effect("evaluations are off by a factor", fix="a loss is not multiplied at evaluation")
def evaluation_multiplied():
    """The evaluation loss is multiplied by the number of batches."""

    @dataclass(frozen=True)
    class Multiplies(Pipeline):
        def evaluate(self, model, batches):
            return super().evaluate(model, batches) * len(batches)

    return Multiplies()


@killed_by("the-evaluation-loss-does-not-depend-on-batches")
@seen_in("no report known: dropout at evaluation")
@effect("evaluations are noise", fix="eval() before, train() after")
def evaluation_with_dropout():
    """The model is evaluated in training mode."""

    @dataclass(frozen=True)
    class Trains(Pipeline):
        @torch.no_grad()
        def evaluate(self, model, batches):
            total = sum(batch.num_targets for batch in batches)
            return sum(
                float(self.loss(forward_logits(model, batch), batch.labels, num_targets=total))
                for batch in batches
                if batch.num_targets
            )

    return Trains()


@killed_by("an-evaluation-changes-no-parameter-or-gradient")
@seen_in("no report known: evaluation in mid-window")
@effect("micro-batches are lost without a word", fix="leave gradients alone")
def evaluation_clears_the_gradient():
    """An evaluation sets the gradients to zero."""

    @dataclass(frozen=True)
    class Clears(Pipeline):
        def evaluate(self, model, batches):
            model.zero_grad()
            return super().evaluate(model, batches)

    return Clears()
