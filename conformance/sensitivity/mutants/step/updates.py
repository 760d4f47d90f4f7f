"""Clips and optimizers that are not what the job asks for."""

from __future__ import annotations

from dataclasses import replace

import torch

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import (
    around,
)
from sftspec.step import StepReport, clip_gradients, forward_logits, sft_loss, sft_step
from sftspec.trainer import Pipeline, make_optimizer


@killed_by("clipping-is-by-the-norm-of-the-whole-gradient every-gradient-is-scaled-by-one-factor")
@seen_in("pytorch/pytorch#72548")
@effect("directions change", fix="one norm over all parameters")
def clipped_per_parameter():
    """Each parameter is clipped by its own norm."""

    def clip(parameters, limit):
        return max(clip_gradients([parameter], limit) for parameter in parameters)

    return Pipeline(clip=clip)


@killed_by("clipping-is-by-the-norm-of-the-whole-gradient")
@seen_in("huggingface/accelerate#999")
@effect("accumulation changes the clip", fix="clip the accumulated gradient, once")
def clipped_per_micro_batch():
    """The gradient is clipped after each micro-batch."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        optimizer.zero_grad()
        count = sum(batch.num_targets for batch in batches)
        total = 0.0
        for batch in batches:
            if batch.num_targets:
                part = loss(forward_logits(model, batch), batch.labels, num_targets=count)
                part.backward()
                total += float(part.detach())
                norm = clip(model.parameters(), max_grad_norm or float("inf"))
        optimizer.step()
        return StepReport(total, count, norm)

    return Pipeline(step=step)


@killed_by("clipping-is-by-the-norm-of-the-whole-gradient")
@seen_in("no report known: a branch without the clip")
@effect("spikes pass under AdamW", fix="clip whatever the optimizer")
def not_clipped_with_adamw():
    """The gradient is clipped with SGD and not with AdamW."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        limit = None if isinstance(optimizer, torch.optim.AdamW) else max_grad_norm
        return sft_step(model, batches, optimizer, limit, loss, clip)

    return Pipeline(step=step)


@killed_by("a-gradient-below-the-limit-is-not-scaled a-gradient-below-the-limit-keeps-its-bits")
@seen_in("no report known: normalised gradients")
@effect("every step is equally long", fix="scale only above the limit")
def always_normalised():
    """The gradient is scaled to the limit also when it is below."""

    def clip(parameters, limit):
        parameters = list(parameters)
        norm = clip_gradients(parameters, float("inf"))
        for parameter in parameters:
            if parameter.grad is not None and limit < float("inf") and norm:
                parameter.grad.mul_(limit / norm)
        return norm

    return Pipeline(clip=clip)


@killed_by("inf-or-nan-in-a-gradient-is-refused")
@seen_in("milesial/Pytorch-UNet#470")
@effect("NaN in every parameter", fix="raise, and change nothing")
def infinite_gradient_applied():
    """A norm that is not finite is used like any other."""
    return Pipeline(clip=lambda parameters, limit: float(torch.nn.utils.clip_grad_norm_(list(parameters), limit)))


@killed_by("sgd-subtracts-rate-times-gradient")
@seen_in("no report known: decay left on")
@effect("weights shrink", fix="set weight_decay to what was asked for")
def sgd_decays():
    """SGD decays the weights although no decay was asked for."""

    def optimizer(job):
        made = make_optimizer(job)
        if job.optimizer == "sgd":
            made.param_groups[0]["weight_decay"] = 0.01
        return made

    return Pipeline(optimizer=optimizer)


@killed_by("adamw-decays-and-corrects")
@seen_in("Loshchilov and Hutter 2019, section 1")
@effect("decay is scaled by the gradient", fix="decouple the decay")
def adam_with_l2():
    """AdamW's decay is put into the gradient: Adam with L2."""

    def optimizer(job):
        if job.optimizer != "adamw":
            return make_optimizer(job)
        return torch.optim.Adam(job.model.parameters(), lr=job.learning_rate, weight_decay=job.weight_decay)

    return Pipeline(optimizer=optimizer)


@killed_by("adamw-decays-and-corrects")
@seen_in("no report known: settings not passed on")
@effect("weights are not decayed", fix="pass weight_decay on")
def adamw_does_not_decay():
    """AdamW is given no weight decay."""

    def optimizer(job):
        return make_optimizer(replace(job, weight_decay=0.0))

    return Pipeline(optimizer=optimizer)


@killed_by("the-learning-rate-is-the-jobs")
@seen_in("huggingface/accelerate#963")
@effect("the rate decays too early", fix="step the scheduler once an optimizer step")
def rate_decays():
    """The learning rate shrinks by a tenth at every step."""

    def decay(model, optimizer) -> None:
        optimizer.param_groups[0]["lr"] *= 0.9

    return around(after=decay)


@killed_by("rate-zero-changes-nothing parameters-change-in-the-step-alone")
@seen_in("no report known: 16-bit weights")
@effect("updates are rounded", fix="keep master weights")
def weights_rounded():
    """Parameters are rounded to bfloat16 after each step."""

    def round_all(model, optimizer) -> None:
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().to(parameter.dtype))

    return around(after=round_all)


@killed_by("clipping-is-by-the-norm-of-the-whole-gradient")
@seen_in("milesial/Pytorch-UNet#470")
@effect("the limit is a thousandth of itself", fix="unscale, then clip")
def clipped_before_unscaling():
    """Gradients are clipped while the loss scale of 1024 is still on them."""

    def clip(parameters, limit):
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            parameter.grad.mul_(1024.0)
        norm = clip_gradients(parameters, limit)
        for parameter in parameters:
            parameter.grad.div_(1024.0)
        return norm

    return Pipeline(clip=clip)


@killed_by("clipping-is-by-the-norm-of-the-whole-gradient")
@seen_in("no report known: max_grad_norm not passed on")
@effect("spikes pass", fix="pass it on")
def never_clipped():
    """max_grad_norm is ignored."""
    return Pipeline(clip=lambda parameters, limit: clip_gradients(parameters, float("inf")))


@killed_by("the-denominator-is-the-number-of-targets")
@seen_in("no report known: a default of 1.0")
@effect("large gradients are cut unasked", fix="no default that nobody asked for")
def clipped_unasked():
    """The gradient is clipped to a norm of 1 although no limit was given."""
    return Pipeline(clip=lambda parameters, limit: clip_gradients(parameters, min(limit, 1.0)))


@killed_by("clipping-is-by-the-norm-of-the-whole-gradient every-gradient-is-scaled-by-one-factor")
@seen_in("no report known: values clipped instead of the norm")
@effect("directions change", fix="one factor for all")
def clipped_by_value():
    """Every entry of the gradient is cut to the limit divided by a hundred."""

    def clip(parameters, limit):
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        norm = clip_gradients(parameters, float("inf"))
        if limit < float("inf") and norm > limit:
            for parameter in parameters:
                parameter.grad.clamp_(-limit / 100, limit / 100)
        return norm

    return Pipeline(clip=clip)


@killed_by("clipping-is-by-the-norm-of-the-whole-gradient the-clip-reports-the-norm-before-it")
@seen_in("pytorch/pytorch#170862")
@effect("the clip is too weak", fix="the norm of all shards together")
def clipped_by_the_largest_parameter():
    """The norm is that of the largest single gradient instead of all together."""

    def clip(parameters, limit):
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        norm = max(float(parameter.grad.norm()) for parameter in parameters)
        if norm > limit:
            for parameter in parameters:
                parameter.grad.mul_(limit / norm)
        return norm

    return Pipeline(clip=clip)


@killed_by("sgd-subtracts-rate-times-gradient")
@seen_in("no report known: momentum left on")
@effect("steps run on", fix="momentum only where asked for")
def sgd_with_momentum():
    """SGD has a momentum of 0.9, which nobody asked for."""

    def optimizer(job):
        made = make_optimizer(job)
        if job.optimizer == "sgd":
            made.param_groups[0]["momentum"] = 0.9
        return made

    return Pipeline(optimizer=optimizer)


@killed_by("adamw-decays-and-corrects")
@seen_in("no report known: Adam without its correction")
@effect("the first steps are three times too long", fix="correct both moments for their start")
def moments_not_corrected():
    """AdamW's moments are not corrected for their start at zero."""

    class Uncorrected(torch.optim.AdamW):
        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is None:
                        continue
                    state = self.state[parameter]
                    for name, beta, value in (("m", 0.9, parameter.grad), ("v", 0.999, parameter.grad**2)):
                        state[name] = beta * state.get(name, torch.zeros_like(parameter)) + (1 - beta) * value
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(group["lr"] * state["m"] / (state["v"].sqrt() + group["eps"]))

    def optimizer(job):
        if job.optimizer != "adamw":
            return make_optimizer(job)
        return Uncorrected(job.model.parameters(), lr=job.learning_rate, weight_decay=job.weight_decay)

    return Pipeline(optimizer=optimizer)


@killed_by("the-learning-rate-is-the-jobs")
@seen_in("huggingface/accelerate#963, variant")
@effect("the rate decays with accumulation", fix="step the scheduler once an optimizer step")
def rate_decays_with_micro_batches():
    """The scheduler is stepped once for every micro-batch beyond the first of a step."""

    def step(model, batches, optimizer, *rest) -> StepReport:
        report = sft_step(model, batches, optimizer, *rest)
        optimizer.param_groups[0]["lr"] *= 0.98 ** (len(batches) - 1)
        return report

    return Pipeline(step=step)


@killed_by("the-learning-rate-is-the-jobs")
@seen_in("no report known: the linear scaling rule, applied unasked")
@effect("ranks change the rate", fix="the rate that was asked for")
def rate_grows_with_ranks():
    """The learning rate is multiplied by the number of ranks."""

    def optimizer(job):
        return make_optimizer(replace(job, learning_rate=job.learning_rate * job.world_size))

    return Pipeline(optimizer=optimizer)


@killed_by("sgd-subtracts-rate-times-gradient")
@seen_in("no report known: optimizer.step called by trainer and engine")
@effect("steps are twice as long", fix="step in one place")
def stepped_twice():
    """The update of every step is applied twice."""

    class Twice(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            super().step()
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.sub_(group["lr"] * parameter.grad)

    def optimizer(job):
        return make_optimizer(job) if job.optimizer != "sgd" else Twice(job.model.parameters(), lr=job.learning_rate)

    return Pipeline(optimizer=optimizer)


@killed_by("small-updates-arrive")
@seen_in("arXiv:2010.06192")
@effect("most of the model stays as it was", fix="keep float32 copies of the weights")
def updated_in_bfloat16():
    """Weights in bfloat16 are updated themselves, without copies in float32."""

    def optimizer(job):
        trained = [item for item in job.model.parameters() if item.requires_grad]
        if job.optimizer == "sgd":
            return make_optimizer(job)
        return torch.optim.AdamW(trained, lr=job.learning_rate, weight_decay=job.weight_decay)

    return Pipeline(optimizer=optimizer)
