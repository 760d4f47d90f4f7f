"""Orders, windows, batch sizes and resumes that are not what the job asks for."""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from sftspec.conformance.sensitivity.mutants import mutant
from sftspec.conformance.sensitivity.mutants.breaking import resumed_with, with_job, with_steps
from sftspec.step import StepReport, sft_step
from sftspec.trainer import Pipeline, interrupt


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


@mutant("the-same-job-gives-the-same-model", "no report known: unseeded samplers", "no run can be repeated",
        "seed the order")  # fmt: skip
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

    def merge(steps, job):
        if len(steps) > 1 and len(steps[-1]) < len(steps[0]):
            steps[-2:] = [steps[-2] + steps[-1]]
        return steps

    return with_steps(merge)


@mutant("steps-hold-the-examples-asked-for", "no report known: settings ignored",
        "another batch size, and with it another rate", "use the setting, or refuse it")  # fmt: skip
def batch_size_ignored():
    """Every example is a step of its own, whatever the batch size."""
    return with_job(lambda job: replace(job, batch_size=1, accumulation=1, world_size=1))


@mutant("resuming-equals-not-stopping", "huggingface/transformers#8878", "data is seen twice, and some never",
        "go on where the run stopped")  # fmt: skip
def resume_begins_the_data_again():
    """A resumed run reads its data from the start."""
    return resumed_with(lambda steps, job: steps[: len(steps) - job.resume_at])


@mutant("resuming-equals-not-stopping", "huggingface/accelerate#4071", "a batch is never seen", "count batches once")
def resume_skips_a_batch():
    """A resumed run skips one step's data."""
    return resumed_with(lambda steps, job: steps[job.resume_at + 1 :])


@mutant("masking/every-conversation-with-a-target-is-trained", "modelscope/ms-swift, drop_last of windows",
        "the end of an epoch is never seen", "step on what there is")  # fmt: skip
def partial_window_dropped():
    """The last, partial accumulation window of an epoch makes no step."""
    return with_steps(lambda steps, job: [step for step in steps if len(step) == job.accumulation * job.world_size])


@mutant("steps-hold-the-examples-asked-for", "no report known: batch size by device", "steps are larger than asked for",
        "batch_size is what a rank holds")  # fmt: skip
def batch_size_doubled():
    """Micro-batches hold twice the examples that were asked for."""
    return with_job(lambda job: replace(job, batch_size=2 * job.batch_size))


@mutant("the-reported-loss-is-the-mean-over-targets", "huggingface/trl, sum reported", "curves depend on the batch",
        "log the mean")  # fmt: skip
def loss_reported_as_a_sum():
    """The reported loss is the sum over targets."""

    def step(model, batches, *rest) -> StepReport:
        report = sft_step(model, batches, *rest)
        return replace(report, loss=report.loss * report.num_targets)

    return Pipeline(step=step)
