"""Weights of messages that are lost on the way, belong to another token, or are divided by another sum."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sftspec.collation import collate
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.masking import encode
from sftspec.step import IGNORE, sft_loss, sft_step
from sftspec.trainer import Pipeline


@dataclass(frozen=True)
class Weighing(Pipeline):
    """The reference, asked for weights as well; it claims what their jobs need and no more."""

    claims = frozenset({"padding", "packing", "accumulation", "weights", "report", "log"})


def weighed(change) -> Weighing:
    """The reference with other weights of an example's labels: change(weights, example) -> weights, or None."""

    def broken(messages, **options):
        example = encode(messages, **options)
        return example if example.weights is None else replace(example, weights=change(example.weights, example))

    return Weighing(encode=broken)


@killed_by("targets-weigh-as-declared")
@seen_in("subtle form of masking/weight-of-zero-ignored: a field that only the mask reads")
@effect("a turn of weight 0.1 is learnt like any other", fix="carry weights to the loss")
def weights_forgotten():
    """Messages weigh 1, or 0."""
    return weighed(lambda weights, example: None)


@killed_by("targets-weigh-as-declared")
@seen_in("subtle form of step/divided-twice: weights in the batch, and once more in the loss")
@effect("half a weight is a quarter", fix="multiply once")
def weights_squared():
    """Each loss is multiplied by its weight twice."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits, labels, num_targets, None if weights is None else weights * weights)

    return Weighing(loss=loss)


@killed_by("targets-weigh-as-declared")
@seen_in("subtle form of masking/weights-divided-by-count: a weighted sum over a plain count")
@effect("weights become a learning rate", fix="divide by what the targets of the step weigh together")
def weighted_step_divided_by_count():
    """The weighted losses of a step are divided by the number of its targets."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, *rest):
        count = sum(batch.num_targets for batch in batches)

        def by_count(logits, labels, num_targets=None, weights=None):
            return loss(logits, labels, count, weights)

        return sft_step(model, batches, optimizer, max_grad_norm, by_count, *rest)

    return Weighing(step=step)


@killed_by("targets-weigh-as-declared")
@seen_in("subtle form of huggingface/transformers#34191, in a loss with weights")
@effect("what a target weighs depends on its micro-batch", fix="add up weights over the step, divide once")
def weighted_mean_of_means():
    """A step is the mean of the weighted means of its micro-batches."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, *rest):
        def by_batch(logits, labels, num_targets=None, weights=None):
            return loss(logits, labels, None, weights) / len(batches)

        return sft_step(model, batches, optimizer, max_grad_norm, by_batch, *rest)

    return Weighing(step=step)


@killed_by("targets-weigh-as-declared")
@seen_in("subtle form of masking/not-shifted: labels are shifted, weights beside them are not")
@effect("the first token of a turn weighs what stood before it", fix="shift weights with their labels")
def weights_not_shifted():
    """A target has the weight of the token before it."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits, labels, num_targets, None if weights is None else weights.roll(1, dims=1))

    return Weighing(loss=loss)


@killed_by("targets-weigh-as-declared")
@seen_in("subtle form of masking/flag-ignored-beside-calls: a weight of the record, where each message has its own")
@effect("every answer weighs what the first one does", fix="read the weight of each message")
def first_weight_for_all():
    """All targets of a conversation weigh what the first of them does."""

    def first(weights, example):
        scored = [place for place, label in enumerate(example.labels) if label != IGNORE]
        return [weights[scored[0]] if place in scored else 0.0 for place in range(len(weights))] if scored else weights

    return weighed(first)


@killed_by("targets-weigh-as-declared")
@seen_in("subtle form of masking/mask-dropped-when-packed: packing copies ids and labels alone")
@effect("weights count until packing is turned on", fix="pack every column of labels")
def weights_lost_when_packed():
    """In packed rows every target weighs 1."""

    def broken(examples, bins=None, *, pad_token_id):
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        return batch if bins is None else replace(batch, weights=None)

    return Weighing(collate=broken)


@killed_by("targets-weigh-as-declared")
@seen_in("subtle form of step/weights-are-whole-numbers: weights kept in the dtype of ids")
@effect("a turn of weight 0.3 weighs a quarter", fix="weights are floats")
def weights_in_quarters():
    """Weights are rounded to quarters, as a table of bytes would hold them."""
    return weighed(lambda weights, example: [round(4 * weight) / 4 if weight > 0.125 else weight for weight in weights])
