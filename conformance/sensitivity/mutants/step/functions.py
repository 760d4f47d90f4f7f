"""Losses and evaluations that are right until they are asked something else: a scale, weights, another type, NaN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sftspec.collation import Batch
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.step import IGNORE, forward_logits, in_eval_mode, sft_loss
from sftspec.trainer import Pipeline


class Fused(torch.autograd.Function):
    """value(logits), and the gradient of slope(logits), computed beside it; times the one from above if it scales."""

    @staticmethod
    def forward(ctx, logits: Tensor, value: Callable, slope: Callable, scales: bool):
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            (ctx.ready,) = torch.autograd.grad(slope(leaf), leaf)
        ctx.scales = scales
        return value(logits.detach())

    @staticmethod
    def backward(ctx, from_above: Tensor):
        return (ctx.ready * from_above if ctx.scales else ctx.ready), None, None, None


def reduced_as_given(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each target, in the logits' own type."""
    kept = labels[:, 1:] != IGNORE
    rows, targets = logits[:, :-1][kept], labels[:, 1:][kept]
    return rows.logsumexp(-1) - rows.gather(-1, targets[:, None])[:, 0]


@killed_by("three-times-the-loss-has-three-times-its-gradient")
@seen_in("linkedin/Liger-Kernel, grad_output taken for 1")
@effect("the loss is scaled, its gradient is not", fix="multiply by the gradient from above")
def gradient_from_above_ignored():
    """A fused kernel returns the gradient that it kept, whatever the loss is multiplied by afterwards."""

    def loss(logits, labels, num_targets=None, weights=None):
        def value(z):
            return sft_loss(z, labels, num_targets, weights)

        return Fused.apply(logits, value, value, False)

    return Pipeline(loss=loss)


@killed_by("masking/a-weight-scales-the-gradient-of-its-target")
@seen_in("no report known: a fused kernel to which weights were added")
@effect("tokens of weight 0 are trained", fix="weights belong to both passes")
def weights_left_out_of_the_gradient():
    """A fused kernel weighs the loss and not its gradient."""

    def loss(logits, labels, num_targets=None, weights=None):
        value, slope = (lambda z, w=w: sft_loss(z, labels, num_targets, w) for w in (weights, None))
        return Fused.apply(logits, value, slope, True)

    return Pipeline(loss=loss)


@killed_by("masking/the-weighted-loss-is-divided-by-the-weights")
@seen_in("no report known: torch.full_like(labels, 0.5)")
@effect("half a weight is none", fix="weights are floats")
def weights_are_whole_numbers():
    """Weights are cast to the type of the labels."""
    return Pipeline(
        loss=lambda logits, labels, num_targets=None, weights=None: sft_loss(
            logits, labels, num_targets, None if weights is None else weights.long()
        )
    )


@killed_by("masking/the-weighted-loss-is-divided-by-the-weights")
@seen_in("subtle form of huggingface/transformers#34147, a branch of its own")
@effect("gradients are coarse in 16 bits", fix="raise the logits before the branches part")
def weighted_logits_not_raised():
    """With weights, logits in 16 bits are reduced in 16 bits."""

    def loss(logits, labels, num_targets=None, weights=None):
        value = sft_loss(logits, labels, num_targets, weights)
        if weights is None:
            return value
        used = weights[:, 1:][labels[:, 1:] != IGNORE].to(logits.dtype)
        return (reduced_as_given(logits, labels) * used).sum() / (num_targets or used.sum())

    return Pipeline(loss=loss)


@killed_by("the-loss-is-the-mean-cross-entropy-of-the-targets each-row-of-the-gradient-is-softmax-minus-onehot")
@seen_in("subtle form of huggingface/transformers#34191, sum and divide beside the mean")
@effect("gradients are coarse in 16 bits", fix="raise the logits before the branches part")
def logits_not_raised_where_targets_are_counted():
    """Where the number of targets is given, logits in 16 bits are summed in 16 bits; else they are raised."""

    def loss(logits, labels, num_targets=None, weights=None):
        value = sft_loss(logits, labels, num_targets, weights)
        if num_targets is None or weights is not None:
            return value
        return reduced_as_given(logits, labels).sum() / num_targets

    return Pipeline(loss=loss)


@killed_by("masking/a-scored-nan-is-not-hidden")
@seen_in("no report known: torch.nan_to_num against 0/0")
@effect("a model that broke looks perfect", fix="let NaN be seen, or refuse it")
def nan_is_zero():
    """A loss that is NaN becomes 0."""
    return Pipeline(
        loss=lambda logits, labels, num_targets=None, weights=None: sft_loss(
            logits, labels, num_targets, weights
        ).nan_to_num(nan=0.0, posinf=torch.inf)
    )


# ------------------------------------------------------------------------------------------------------- evaluations


def evaluating(evaluate: Callable[[torch.nn.Module, Sequence[Batch]], float]) -> Pipeline:
    """The reference with another evaluation."""

    @dataclass(frozen=True)
    class Evaluates(Pipeline):
        def evaluate(self, model, batches):
            with torch.no_grad():
                return evaluate(model, batches)

    return Evaluates()


def losses(model: torch.nn.Module, batches: Sequence[Batch], forward: Callable = forward_logits) -> list[Tensor]:
    """The share of each batch in the loss of all."""
    total = sum(batch.num_targets for batch in batches)
    return [sft_loss(forward(model, batch), batch.labels, total) for batch in batches if batch.num_targets]


@killed_by("an-evaluation-leaves-the-mode-of-every-module")
@seen_in("sftspec itself, in 2026: model.train(mode)")
@effect("frozen dropout is on from the first evaluation", fix="restore the mode of each module")
def evaluation_wakes_what_slept():
    """After an evaluation every module is in the mode of the model, also one that stood in eval mode."""

    def evaluate(model, batches):
        mode = model.training
        value = float(sum(losses(model.eval(), batches)))
        model.train(mode)
        return value

    return evaluating(evaluate)


@killed_by("the-evaluation-loss-does-not-depend-on-batches an-evaluation-draws-no-random-number")
@seen_in("no report known: model.training = False")
@effect("evaluations are noise", fix="model.eval() reaches all modules")
def evaluation_stills_the_top_alone():
    """For an evaluation the model is switched to eval mode, the modules within it are not."""

    def evaluate(model, batches):
        mode, model.training = model.training, False
        value = float(sum(losses(model, batches)))
        model.training = mode
        return value

    return evaluating(evaluate)


@killed_by("the-evaluation-loss-does-not-depend-on-batches")
@seen_in("no report known: max_eval_batches left at its default")
@effect("most of the data is never looked at", fix="evaluate all, or say how much")
def ten_batches_evaluated():
    """The first ten batches are evaluated, the others are not."""

    def evaluate(model, batches):
        with in_eval_mode(model):
            return float(sum(losses(model, batches[:10])))

    return evaluating(evaluate)


@killed_by("a-model-that-gives-nan-has-no-evaluation")
@seen_in("no report known: a diverged run that is averaged away")
@effect("a model that broke looks fine", fix="let NaN be seen, or refuse it")
def broken_batches_not_evaluated():
    """Batches whose loss is not finite are left out of an evaluation."""

    def evaluate(model, batches):
        with in_eval_mode(model):
            return float(sum(loss for loss in losses(model, batches) if loss.isfinite()))

    return evaluating(evaluate)


@killed_by("the-evaluation-loss-does-not-depend-on-batches")
@seen_in("no report known: an evaluation that was not packed once")
@effect("what is evaluated is not what is trained", fix="give the model all that the batch has for it")
def packs_evaluated_as_rows():
    """In an evaluation the model is given ids alone, so that the examples of a pack are one."""

    def evaluate(model, batches):
        with in_eval_mode(model):
            ids_alone = losses(model, batches, lambda model, batch: model(batch.input_ids, use_cache=False).logits)
            return float(sum(ids_alone))

    return evaluating(evaluate)


@killed_by("the-evaluation-loss-does-not-depend-on-batches")
@seen_in("subtle form of huggingface/transformers#34147")
@effect("small gains are rounded away", fix="sum in float32 at least")
def evaluation_summed_in_sixteen_bits():
    """The losses of the batches are added up in the type of the model."""

    def evaluate(model, batches):
        kind = next(model.parameters()).dtype
        with in_eval_mode(model):
            return float(sum(loss.to(kind) for loss in losses(model, batches)))

    return evaluating(evaluate)
