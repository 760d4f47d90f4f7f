"""Jobs that are not done as they were given: rewritten on the way in, or wrong where two of their settings meet."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import before_training, prepared, with_steps
from sftspec.trainer import Pipeline, epoch_order, interrupt


@killed_by("the-denominator-is-the-number-of-targets")
@seen_in("no report known: defaults filled in place")
@effect("clipped, and nobody asked for it", fix="None means: do not clip")
def limit_filled_in():
    """Where the job does not ask to clip, a limit of 0.5 is written into it and applied."""

    def fill_in(job):
        job.max_grad_norm = job.max_grad_norm or 0.5

    return before_training(fill_in)


@killed_by("sgd-subtracts-rate-times-gradient the-learning-rate-is-the-jobs")
@seen_in("no report known: the linear scaling rule, applied unasked")
@effect("another rate than the one that was tuned", fix="leave the job as it is")
def rate_scaled_in_place():
    """The learning rate is multiplied by the batch size, in the job itself."""

    def scale(job):
        job.learning_rate *= job.batch_size

    return before_training(scale)


@killed_by("adamw-decays-and-corrects")
@seen_in("no report known: groups by dim >= 2 and by name")
@effect("biases stay as they were", fix="put every parameter into one group")
def biases_in_no_group():
    """The optimizer gets matrices and norms; a bias is in neither group."""

    def make(job):
        named = [(name, item) for name, item in job.model.named_parameters() if not name.endswith("bias")]
        kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[job.optimizer]
        return kind([item for _, item in named], lr=job.learning_rate, weight_decay=job.weight_decay)

    return Pipeline(optimizer=make)


@killed_by("resuming-equals-not-stopping")
@seen_in("subtle form of Lightning-AI/pytorch-lightning#4655")
@effect("weights grow after a resume", fix="load the groups with the state")
def resume_forgets_the_decay():
    """After a resume the weights do not decay any more."""

    def resume(job, optimizer, rebuild):
        optimizer = interrupt(job, optimizer, rebuild)
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        return optimizer

    return Pipeline(resume=resume)


@killed_by("resuming-equals-not-stopping")
@seen_in("subtle form of huggingface/transformers#8878")
@effect("one epoch counts twice", fix="the end of an epoch is the beginning of the next")
def resume_repeats_the_epoch():
    """A run that was stopped where an epoch ends does that epoch again."""

    def repeat(steps, job):
        one, at = len(steps) // job.epochs, job.resume_at
        again = at is not None and at < len(steps) and at % one == 0
        return [*steps[:at], *steps[at - one : -one]] if again else steps

    return with_steps(repeat)


@killed_by("steps-hold-the-examples-asked-for")
@seen_in("subtle form of masking/batch-filled-with-repeats")
@effect("some examples count twice", fix="let a rank have fewer")
def ranks_filled_with_repeats():
    """Examples are repeated until every rank has as many as the others."""
    return prepared(lambda examples, job: examples + examples[: -len(examples) % job.world_size])


@killed_by("epochs-differ-in-order")
@seen_in("subtle form of huggingface/trl#2030")
@effect("batches are alike from the second epoch on", fix="shuffle with the epoch's number")
def third_epoch_repeats_the_second():
    """The order changes once, after the first epoch, and never again."""
    return Pipeline(order=lambda count, seed, epoch: epoch_order(count, seed, min(epoch, 1)))


@killed_by("another-seed-gives-another-order")
@seen_in("subtle form of huggingface/trl#2030")
@effect("repetitions share their packs' order", fix="pass the seed on")
def packs_shuffled_without_the_seed():
    """Packed rows come in an order that does not depend on the job's seed."""

    def forget_the_seed(job):
        job.seed = 0 if job.packing else job.seed

    return before_training(forget_the_seed)


@killed_by("the-reported-norm-is-that-before-clipping")
@seen_in("no report known: a log that is read before the last step is done")
@effect("a crash at the end does not show", fix="report every step")
def last_norm_not_reported():
    """The gradient norm of the last step is not reported."""

    @dataclass(frozen=True)
    class Forgets(Pipeline):
        def train(self, job):
            super().train(job)
            job.report(grad_norms=job.reported["grad_norms"][:-1])

    return Forgets()
