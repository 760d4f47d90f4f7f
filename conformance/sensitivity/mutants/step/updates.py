"""Clips and optimizers that are not what the job asks for."""

from __future__ import annotations

from dataclasses import replace

import torch

from sftspec.conformance.sensitivity.mutants import mutant
from sftspec.conformance.sensitivity.mutants.breaking import (
    around,
)
from sftspec.step import StepReport, clip_gradients, forward_logits, sft_loss, sft_step
from sftspec.trainer import Pipeline, make_optimizer


@mutant("clipping-is-by-the-norm-of-the-whole-gradient every-gradient-is-scaled-by-one-factor", "pytorch/pytorch#72548",
        "directions change", "one norm over all parameters")  # fmt: skip
def clipped_per_parameter():
    """Each parameter is clipped by its own norm."""

    def clip(parameters, limit):
        return max(clip_gradients([parameter], limit) for parameter in parameters)

    return Pipeline(clip=clip)


@mutant("clipping-is-by-the-norm-of-the-whole-gradient", "huggingface/accelerate#999", "accumulation changes the clip",
        "clip the accumulated gradient, once")  # fmt: skip
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


@mutant("clipping-is-by-the-norm-of-the-whole-gradient", "no report known: a branch without the clip",
        "spikes pass under AdamW", "clip whatever the optimizer")  # fmt: skip
def not_clipped_with_adamw():
    """The gradient is clipped with SGD and not with AdamW."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        limit = None if isinstance(optimizer, torch.optim.AdamW) else max_grad_norm
        return sft_step(model, batches, optimizer, limit, loss, clip)

    return Pipeline(step=step)


@mutant("a-gradient-below-the-limit-is-not-scaled a-gradient-below-the-limit-keeps-its-bits",
        "no report known: normalised gradients", "every step is equally long",
        "scale only above the limit")  # fmt: skip
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


@mutant("inf-or-nan-in-a-gradient-is-refused", "milesial/Pytorch-UNet#470", "NaN in every parameter",
        "raise, and change nothing")  # fmt: skip
def infinite_gradient_applied():
    """A norm that is not finite is used like any other."""
    return Pipeline(clip=lambda parameters, limit: float(torch.nn.utils.clip_grad_norm_(list(parameters), limit)))


@mutant("sgd-subtracts-rate-times-gradient", "no report known: decay left on", "weights shrink",
        "set weight_decay to what was asked for")  # fmt: skip
def sgd_decays():
    """SGD decays the weights although no decay was asked for."""

    def optimizer(job):
        made = make_optimizer(job)
        if job.optimizer == "sgd":
            made.param_groups[0]["weight_decay"] = 0.01
        return made

    return Pipeline(optimizer=optimizer)


@mutant("adamw-decays-and-corrects", "Loshchilov and Hutter 2019, section 1", "decay is scaled by the gradient",
        "decouple the decay")  # fmt: skip
def adam_with_l2():
    """AdamW's decay is put into the gradient: Adam with L2."""

    def optimizer(job):
        if job.optimizer != "adamw":
            return make_optimizer(job)
        return torch.optim.Adam(job.model.parameters(), lr=job.learning_rate, weight_decay=job.weight_decay)

    return Pipeline(optimizer=optimizer)


@mutant("adamw-decays-and-corrects", "no report known: settings not passed on", "weights are not decayed",
        "pass weight_decay on")  # fmt: skip
def adamw_does_not_decay():
    """AdamW is given no weight decay."""

    def optimizer(job):
        return make_optimizer(replace(job, weight_decay=0.0))

    return Pipeline(optimizer=optimizer)


@mutant("the-learning-rate-is-the-jobs", "huggingface/accelerate#963", "the rate decays too early",
        "step the scheduler once an optimizer step")  # fmt: skip
def rate_decays():
    """The learning rate shrinks by a tenth at every step."""

    def decay(model, optimizer) -> None:
        optimizer.param_groups[0]["lr"] *= 0.9

    return around(after=decay)


@mutant("rate-zero-changes-nothing parameters-change-in-the-step-alone", "no report known: 16-bit weights",
        "updates are rounded", "keep master weights")  # fmt: skip
def weights_rounded():
    """Parameters are rounded to bfloat16 after each step."""

    def round_all(model, optimizer) -> None:
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().to(parameter.dtype))

    return around(after=round_all)


@mutant("clipping-is-by-the-norm-of-the-whole-gradient", "milesial/Pytorch-UNet#470",
        "the limit is a thousandth of itself", "unscale, then clip")  # fmt: skip
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


@mutant("clipping-is-by-the-norm-of-the-whole-gradient", "no report known: max_grad_norm not passed on", "spikes pass",
        "pass it on")  # fmt: skip
def never_clipped():
    """max_grad_norm is ignored."""
    return Pipeline(clip=lambda parameters, limit: clip_gradients(parameters, float("inf")))


@mutant("the-denominator-is-the-number-of-targets", "no report known: a default of 1.0",
        "large gradients are cut unasked", "no default that nobody asked for")  # fmt: skip
def clipped_unasked():
    """The gradient is clipped to a norm of 1 although no limit was given."""
    return Pipeline(clip=lambda parameters, limit: clip_gradients(parameters, min(limit, 1.0)))


@mutant("clipping-is-by-the-norm-of-the-whole-gradient every-gradient-is-scaled-by-one-factor",
        "no report known: values clipped instead of the norm", "directions change", "one factor for all")  # fmt: skip
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


@mutant(
    "clipping-is-by-the-norm-of-the-whole-gradient the-clip-reports-the-norm-before-it",
    "pytorch/pytorch#170862",
    "the clip is too weak",
    "the norm of all shards together",
)
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


@mutant("sgd-subtracts-rate-times-gradient", "no report known: momentum left on", "steps run on",
        "momentum only where asked for")  # fmt: skip
def sgd_with_momentum():
    """SGD has a momentum of 0.9, which nobody asked for."""

    def optimizer(job):
        made = make_optimizer(job)
        if job.optimizer == "sgd":
            made.param_groups[0]["momentum"] = 0.9
        return made

    return Pipeline(optimizer=optimizer)


@mutant("adamw-decays-and-corrects", "no report known: Adam without its correction",
        "the first steps are three times too long", "correct both moments for their start")  # fmt: skip
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


@mutant("the-learning-rate-is-the-jobs", "huggingface/accelerate#963, variant", "the rate decays with accumulation",
        "step the scheduler once an optimizer step")  # fmt: skip
def rate_decays_with_micro_batches():
    """The scheduler is stepped once for every micro-batch beyond the first of a step."""

    def step(model, batches, optimizer, *rest) -> StepReport:
        report = sft_step(model, batches, optimizer, *rest)
        optimizer.param_groups[0]["lr"] *= 0.98 ** (len(batches) - 1)
        return report

    return Pipeline(step=step)


@mutant("the-learning-rate-is-the-jobs", "no report known: the linear scaling rule, applied unasked",
        "ranks change the rate", "the rate that was asked for")  # fmt: skip
def rate_grows_with_ranks():
    """The learning rate is multiplied by the number of ranks."""

    def optimizer(job):
        return make_optimizer(replace(job, learning_rate=job.learning_rate * job.world_size))

    return Pipeline(optimizer=optimizer)


@mutant("sgd-subtracts-rate-times-gradient", "no report known: optimizer.step called by trainer and engine",
        "steps are twice as long", "step in one place")  # fmt: skip
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


@mutant("small-updates-arrive", "arXiv:2010.06192", "most of the model stays as it was",
        "keep float32 copies of the weights")  # fmt: skip
def updated_in_bfloat16():
    """Weights in bfloat16 are updated themselves, without copies in float32."""

    def optimizer(job):
        trained = [item for item in job.model.parameters() if item.requires_grad]
        if job.optimizer == "sgd":
            return make_optimizer(job)
        return torch.optim.AdamW(trained, lr=job.learning_rate, weight_decay=job.weight_decay)

    return Pipeline(optimizer=optimizer)
