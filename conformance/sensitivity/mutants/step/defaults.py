"""Wrong for a job that asks for little: no decay, no ranks, no accumulation, an epoch that simply ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import with_steps
from sftspec.step import sft_step
from sftspec.trainer import Pipeline, interrupt, make_optimizer


def steps_of_an_epoch(trainer: Pipeline, job: Any, examples: list) -> int:
    return len(list(Pipeline.batches(trainer, replace(job, epochs=1), examples)))


@killed_by("adamw-decays-and-corrects")
@seen_in("no report known: `if weight_decay:` around an argument")
@effect("weights shrink that nobody asked to", fix="pass zero as it is")
def no_decay_is_the_default():
    """A weight decay of zero is taken for none given: AdamW's own default of 0.01."""

    def make(job):
        return make_optimizer(job if job.weight_decay else replace(job, weight_decay=0.01))

    return Pipeline(optimizer=make)


@killed_by("dropout-is-on-and-drawn-anew")
@seen_in("no report known: a loop that never calls model.train()")
@effect("the model is not regularised", fix="call model.train() before the first step")
def left_in_evaluation_mode():
    """A plain loop trains in the mode in which the model came, evaluation."""

    @dataclass(frozen=True)
    class Plain(Pipeline):
        claims: ClassVar[frozenset[str]] = frozenset({"padding"})

    def step(model, *given, **named):
        model.eval()
        return sft_step(model, *given, **named)

    return Plain(step=step)


@killed_by("adamw-decays-and-corrects")
@seen_in("no report known: a trainer that is made anew for each epoch")
@effect("every epoch warms up again", fix="make the optimizer once")
def optimizer_of_each_epoch():
    """A plain loop makes a new AdamW for every epoch."""

    @dataclass(frozen=True)
    class Plain(Pipeline):
        claims: ClassVar[frozenset[str]] = frozenset({"padding", "adamw"})

        def train(self, job):
            examples = self.prepare(job)
            optimizer, whole = self.optimizer(job), steps_of_an_epoch(self, job, examples)
            job.model.train()
            for number, batches in enumerate(self.batches(job, examples)):
                if number % whole == 0:
                    optimizer = self.optimizer(job)
                self.step(job.model, batches, optimizer, job.max_grad_norm, self.loss, self.clip)

    return Plain()


@killed_by("steps-hold-the-examples-asked-for")
@seen_in("no report known: a flush of the last window that forgets it may be empty")
@effect("weights decay and move by momentum once more", fix="step only after a backward pass")
def one_more_step_an_epoch():
    """After every epoch the optimizer makes a step on gradients of zero."""

    @dataclass(frozen=True)
    class Flushes(Pipeline):
        def train(self, job):
            whole, count = steps_of_an_epoch(self, job, self.prepare(replace(job, reported={}))), iter(range(1, 10**6))

            def step(model, batches, optimizer, *given, **named):
                report = sft_step(model, batches, optimizer, *given, **named)
                if next(count) % whole == 0 and job.optimizer == "adamw" and model.dtype == torch.float32:
                    optimizer.zero_grad(set_to_none=False)
                    optimizer.step()
                return report

            Pipeline(step=step).train(job)

    return Flushes()


@killed_by("resuming-equals-not-stopping")
@seen_in("huggingface/accelerate: skip_first_batches kept for the epochs to come")
@effect("the same examples are lost in every epoch", fix="skip in the first epoch alone")
def resume_skips_in_every_epoch():
    """The batches that a resume skips are skipped in all later epochs as well."""

    def change(steps: list, job: Any) -> list:
        whole = len(steps) // job.epochs
        first, skip = divmod(job.resume_at or 0, whole)
        return [step for n, step in enumerate(steps) if n // whole <= first or n % whole >= skip]

    return with_steps(change)


@killed_by("resuming-equals-not-stopping")
@seen_in("no report known: epochs counted from the resume on")
@effect("one epoch too many", fix="count from the saved step")
def resume_counts_epochs_anew():
    """A run that is resumed within its first of several epochs makes one more."""

    @dataclass(frozen=True)
    class Counts(Pipeline):
        def batches(self, job, examples) -> Iterator:
            within = job.resume_at is not None and job.resume_at < steps_of_an_epoch(self, job, examples)
            yield from super().batches(replace(job, epochs=job.epochs + (within and job.epochs > 1)), examples)

    return Counts()


@killed_by("resuming-equals-not-stopping")
@seen_in("no report known: a state that was loaded in part")
@effect("updates thousands of times too large", fix="load the whole state, or refuse it")
def resume_loses_second_moments():
    """After a resume AdamW's second moments are zero, and its count of steps is not: the model leaves every bound."""

    def resume(job, optimizer, rebuild):
        optimizer = interrupt(job, optimizer, rebuild)
        for state in optimizer.state.values():
            if "exp_avg_sq" in state:
                state["exp_avg_sq"].zero_()
        return optimizer

    return Pipeline(resume=resume)
