"""Clips and losses that are right on what is usual: a list of parameters, finite gradients, a whole vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn.functional import log_softmax, one_hot

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.parts import Parts
from sftspec.step import IGNORE, clip_gradients, count_targets, sft_loss
from sftspec.trainer import Pipeline


@killed_by("every-gradient-is-scaled-by-one-factor")
@seen_in("no report known: model.parameters() read twice")
@effect("clipping is off, and the log shows a norm", fix="make a list of the parameters first")
def parameters_exhausted():
    """The clip goes over the parameters twice, and a generator has none left to scale."""

    def clip(parameters, limit):
        squares = [float(item.grad.double().pow(2).sum()) for item in parameters if item.grad is not None]
        norm = math.sqrt(math.fsum(squares))
        if not math.isfinite(norm):
            raise ValueError(f"the gradient norm is {norm}")
        if norm > limit:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(limit / norm)
        return norm

    return Pipeline(clip=clip)


@killed_by("inf-or-nan-in-a-gradient-is-refused")
@seen_in("subtle form of milesial/Pytorch-UNet#470")
@effect("NaN in every parameter", fix="look at the norm of all gradients together")
def last_gradient_alone_checked():
    """Only the last parameter's gradient is looked at for inf and NaN."""

    def clip(parameters, limit):
        gradients = [item.grad for item in parameters if item.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        if not gradients[-1].isfinite().all():
            raise ValueError("the last gradient is not finite")
        for gradient in gradients if not norm <= limit else ():
            gradient.mul_(limit / norm)
        return float(norm)

    return Pipeline(clip=clip)


@killed_by("clipping-gives-no-gradient-to-those-without")
@seen_in("no report known: gradients filled up before a reduction")
@effect("parameters that nobody trains decay", fix="leave None where it is")
def missing_gradients_are_zero():
    """A parameter without a gradient gets one of zero, by which an optimizer with decay moves it."""

    def clip(parameters, limit):
        parameters = list(parameters)
        for parameter in parameters:
            if parameter.grad is None and parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        return clip_gradients(parameters, limit)

    return Pipeline(clip=clip)


@killed_by("equal-logits-cost-the-logarithm-of-their-number an-excluded-target-costs-infinity")
@seen_in("no report known: one-hot times log-softmax")
@effect("NaN where a padded vocabulary is masked", fix="gather the target's logarithm")
def multiplied_by_one_hot():
    """Logarithms of all tokens are multiplied by a one-hot row and summed: 0 * inf where a token is excluded."""

    def loss(logits, labels, num_targets=None, weights=None):
        if weights is not None or not (num_targets or count_targets(labels)):
            return sft_loss(logits, labels, num_targets, weights)
        kept = labels[:, 1:] != IGNORE
        rows = logits[:, :-1][kept]
        logarithms = log_softmax(rows if rows.dtype == torch.float64 else rows.float(), -1)
        hot = one_hot(labels[:, 1:][kept], logits.shape[-1]).to(logarithms.dtype)
        return -(hot * logarithms).sum() / (num_targets or len(rows))

    return Pipeline(loss=loss)


@killed_by("each-row-of-the-gradient-is-softmax-minus-onehot")
@seen_in("no report known: a detached copy in 16 bits")
@effect("half the rate in bfloat16", fix="compare gradients in every type")
def gradient_halved_in_sixteen_bits():
    """Of bfloat16 logits only half carries a gradient; the loss is what it should be."""

    def loss(logits, labels, num_targets=None, weights=None):
        half = logits if logits.dtype != torch.bfloat16 else (logits + logits.detach()) / 2
        return sft_loss(half, labels, num_targets, weights)

    return Pipeline(loss=loss)


# ------------------------------------------------------------------------------------- functions alone: no trainer runs


def function(**parts: Callable) -> Parts:
    return Parts(parts, frozenset({"step"}))


@killed_by("no-loss-is-negative")
@seen_in("no report known: a loss shown as the gain over a uniform guess")
@effect("its curve says nothing of the model", fix="nats per target, and nothing subtracted")
def loss_less_ln_v():
    """The loss of a uniform guess, ln V, is subtracted."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits, labels, num_targets, weights) - math.log(logits.shape[-1])

    return function(loss=loss)


@killed_by("a-refused-clip-changes-no-gradient")
@seen_in("subtle form of milesial/Pytorch-UNet#470, an error that comes too late")
@effect("NaN in every parameter of a trainer that goes on", fix="look at the norm before scaling")
def norm_checked_after_scaling():
    """Gradients are scaled by a norm that is not finite, and then it is refused."""

    def clip(parameters, limit):
        gradients = [item.grad for item in parameters if item.grad is not None]
        norm = math.sqrt(math.fsum(float(gradient.double().pow(2).sum()) for gradient in gradients))
        for gradient in gradients if not norm <= limit else ():
            gradient.mul_(limit / norm)
        if not math.isfinite(norm):
            raise ValueError(f"the gradient norm is {norm}")
        return norm

    return function(clip=clip)


@killed_by("clipping-twice-is-clipping-once")
@seen_in("no report known: a smooth limit in place of a hard one")
@effect("all its steps are too short", fix="min(1, limit / norm)")
def soft_limit():
    """Gradients are scaled by limit / (limit + norm), whatever their norm."""

    def clip(parameters, limit):
        parameters = list(parameters)
        norm = clip_gradients(parameters, math.inf)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(limit / (limit + norm))
        return norm

    return function(clip=clip)
