"""Clipping, optimizers, orders and resumes that are not what the job asks for."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch

from sftspec.conformance.mutants import mutant
from sftspec.conformance.mutants.breaking import (
    around,
)
from sftspec.step import StepReport, clip_gradients, forward_logits, sft_loss, sft_step
from sftspec.trainer import Pipeline, interrupt, make_optimizer


@mutant("clipping-is-by-the-norm-of-the-whole-gradient one-factor-for-all-parameters", "pytorch/pytorch#72548",
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


@mutant("clipping-is-by-the-norm-of-the-whole-gradient", "a branch without the clip", "spikes pass under AdamW",
        "clip whatever the optimizer")  # fmt: skip
def not_clipped_with_adamw():
    """The gradient is clipped with SGD and not with AdamW."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        limit = None if isinstance(optimizer, torch.optim.AdamW) else max_grad_norm
        return sft_step(model, batches, optimizer, limit, loss, clip)

    return Pipeline(step=step)


@mutant("a-gradient-below-the-limit-is-not-scaled below-the-limit-not-a-bit-changes", "normalised gradients",
        "every step is equally long", "scale only above the limit")  # fmt: skip
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


@mutant("a-gradient-that-is-not-finite-is-refused", "milesial/Pytorch-UNet#470", "NaN in every parameter",
        "raise, and change nothing")  # fmt: skip
def infinite_gradient_applied():
    """A norm that is not finite is used like any other."""
    return Pipeline(clip=lambda parameters, limit: float(torch.nn.utils.clip_grad_norm_(list(parameters), limit)))


@mutant(
    "sgd-subtracts-rate-times-gradient", "decay left on", "weights shrink", "set weight_decay to what was asked for"
)
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


@mutant("adamw-decays-and-corrects", "settings not passed on", "weights are not decayed", "pass weight_decay on")
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


@mutant("rate-zero-changes-nothing parameters-change-in-the-step-alone", "16-bit weights", "updates are rounded",
        "keep master weights")  # fmt: skip
def weights_rounded():
    """Parameters are rounded to bfloat16 after each step."""

    def round_all(model, optimizer) -> None:
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().to(parameter.dtype))

    return around(after=round_all)


@mutant("resuming-equals-not-stopping", "Lightning-AI/pytorch-lightning#4655", "moments restart", "save the optimizer")
def resume_forgets_the_optimizer():
    """A resumed run starts with a new optimizer."""
    return Pipeline(resume=lambda job, optimizer, rebuild: (interrupt(job, optimizer, rebuild), rebuild(job))[1])


@mutant("resuming-equals-not-stopping", "pytorch/torchrec#664", "dropout repeats itself", "save the random state")
def resume_forgets_the_random_state():
    """A resumed run draws the dropout masks of another seed."""

    def resume(job, optimizer, rebuild):
        optimizer = interrupt(job, optimizer, rebuild)
        torch.manual_seed(1)
        return optimizer

    return Pipeline(resume=resume)


@mutant("resuming-equals-not-stopping", "transformers#8878", "work is lost", "save, and load what was saved")
def never_saved():
    """Nothing is saved where the job is to be interrupted."""
    return Pipeline(resume=lambda job, optimizer, rebuild: optimizer)


@mutant("the-same-job-gives-the-same-model", "unseeded samplers", "no run can be repeated", "seed the order")
def order_unseeded():
    """The order of the examples is drawn without a seed."""
    return Pipeline(order=lambda count, seed, epoch: random.SystemRandom().sample(range(count), count))


@mutant("epochs-differ-in-order", "pytorch/torchtitan#2556", "batches are correlated over epochs", "reseed each epoch")
def epochs_repeat():
    """Every epoch has the same order."""

    def order(count, seed, epoch):
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()

    return Pipeline(order=order)


@mutant("accumulation-makes-the-steps-asked-for", "huggingface/transformers#24088", "steps are larger than asked for",
        "one step a window")  # fmt: skip
def windows_merged():
    """The last, partial window is merged into the one before it."""

    @dataclass(frozen=True)
    class Merges(Pipeline):
        def batches(self, job, examples):
            steps = list(super().batches(job, examples))
            if len(steps) > 1 and len(steps[-1]) < len(steps[0]):
                steps[-2:] = [steps[-2] + steps[-1]]
            yield from steps

    return Merges()


@mutant("steps-hold-the-examples-asked-for", "settings ignored", "another batch size, and with it another rate",
        "use the setting, or refuse it")  # fmt: skip
def batch_size_ignored():
    """Every example is a step of its own, whatever the batch size."""

    @dataclass(frozen=True)
    class OneByOne(Pipeline):
        def train(self, job) -> None:
            super().train(replace(job, batch_size=1, accumulation=1, world_size=1))

    return OneByOne()
