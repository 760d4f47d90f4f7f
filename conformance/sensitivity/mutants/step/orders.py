"""Orders, windows, batch sizes and resumes that are not what the job asks for."""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import resumed_with, with_job, with_steps
from sftspec.step import StepReport, sft_step
from sftspec.trainer import Pipeline, interrupt


@killed_by("resuming-equals-not-stopping")
@seen_in("Lightning-AI/pytorch-lightning#4655")
@effect("moments restart", fix="save the optimizer")
def resume_forgets_the_optimizer():
    """A resumed run starts with a new optimizer."""
    return Pipeline(resume=lambda job, optimizer, rebuild: (interrupt(job, optimizer, rebuild), rebuild(job))[1])


@killed_by("resuming-equals-not-stopping")
@seen_in("pytorch/torchrec#664")
@effect("dropout repeats itself", fix="save the random state")
def resume_forgets_the_random_state():
    """A resumed run draws the dropout masks of another seed."""

    def resume(job, optimizer, rebuild):
        optimizer = interrupt(job, optimizer, rebuild)
        torch.manual_seed(1)
        return optimizer

    return Pipeline(resume=resume)


@killed_by("resuming-equals-not-stopping")
@seen_in("transformers#8878")
@effect("work is lost", fix="save, and load what was saved")
def never_saved():
    """Nothing is saved where the job is to be interrupted."""
    return Pipeline(resume=lambda job, optimizer, rebuild: optimizer)


@killed_by("the-same-job-gives-the-same-model")
@seen_in("no report known: unseeded samplers")
@effect("no run can be repeated", fix="seed the order")
def order_unseeded():
    """The order of the examples is drawn without a seed."""
    return Pipeline(order=lambda count, seed, epoch: random.SystemRandom().sample(range(count), count))


@killed_by("epochs-differ-in-order")
@seen_in("pytorch/torchtitan#2556")
@effect("batches are correlated over epochs", fix="reseed each epoch")
def epochs_repeat():
    """Every epoch has the same order."""

    def order(count, seed, epoch):
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()

    return Pipeline(order=order)


@killed_by("accumulation-makes-the-steps-asked-for")
@seen_in("huggingface/transformers#24088")
@effect("steps are larger than asked for", fix="one step a window")
def windows_merged():
    """The last, partial window is merged into the one before it."""

    def merge(steps, job):
        if len(steps) > 1 and len(steps[-1]) < len(steps[0]):
            steps[-2:] = [steps[-2] + steps[-1]]
        return steps

    return with_steps(merge)


@killed_by("steps-hold-the-examples-asked-for")
@seen_in("no report known: settings ignored")
@effect("another batch size, and with it another rate", fix="use the setting, or refuse it")
def batch_size_ignored():
    """Every example is a step of its own, whatever the batch size."""
    return with_job(lambda job: replace(job, batch_size=1, accumulation=1, world_size=1))


@killed_by("resuming-equals-not-stopping")
@seen_in("huggingface/transformers#8878")
@effect("data is seen twice, and some never", fix="go on where the run stopped")
def resume_begins_the_data_again():
    """A resumed run reads its data from the start."""
    return resumed_with(lambda steps, job: steps[: len(steps) - job.resume_at])


@killed_by("resuming-equals-not-stopping")
@seen_in("huggingface/accelerate#4071")
@effect("a batch is never seen", fix="count batches once")
def resume_skips_a_batch():
    """A resumed run skips one step's data."""
    return resumed_with(lambda steps, job: steps[job.resume_at + 1 :])


@killed_by("masking/every-conversation-with-a-target-is-trained")
@seen_in("modelscope/ms-swift, drop_last of windows")
@effect("the end of an epoch is never seen", fix="step on what there is")
def partial_window_dropped():
    """The last, partial accumulation window of an epoch makes no step."""
    return with_steps(lambda steps, job: [step for step in steps if len(step) == job.accumulation * job.world_size])


@killed_by("steps-hold-the-examples-asked-for")
@seen_in("no report known: batch size by device")
@effect("steps are larger than asked for", fix="batch_size is what a rank holds")
def batch_size_doubled():
    """Micro-batches hold twice the examples that were asked for."""
    return with_job(lambda job: replace(job, batch_size=2 * job.batch_size))


@killed_by("the-reported-loss-is-the-mean-over-targets")
@seen_in("huggingface/trl, sum reported")
@effect("curves depend on the batch", fix="log the mean")
def loss_reported_as_a_sum():
    """The reported loss is the sum over targets."""

    def step(model, batches, *rest) -> StepReport:
        report = sft_step(model, batches, *rest)
        return replace(report, loss=report.loss * report.num_targets)

    return Pipeline(step=step)
