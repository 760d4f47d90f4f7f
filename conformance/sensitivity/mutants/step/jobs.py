"""Jobs that are not done as they were given: rewritten on the way in, or wrong where two of their settings meet."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sftspec.conformance.sensitivity.mutants import mutant
from sftspec.conformance.sensitivity.mutants.breaking import before_training, prepared, with_steps
from sftspec.trainer import Pipeline, epoch_order, interrupt


@mutant("the-denominator-is-the-number-of-targets", "no report known: defaults filled in place",
        "clipped, and nobody asked for it", "None means: do not clip")  # fmt: skip
def limit_filled_in():
    """Where the job does not ask to clip, a limit of 0.5 is written into it and applied."""

    def fill_in(job):
        job.max_grad_norm = job.max_grad_norm or 0.5

    return before_training(fill_in)


@mutant("sgd-subtracts-rate-times-gradient the-learning-rate-is-the-jobs",
        "no report known: the linear scaling rule, applied unasked", "another rate than the one that was tuned",
        "leave the job as it is")  # fmt: skip
def rate_scaled_in_place():
    """The learning rate is multiplied by the batch size, in the job itself."""

    def scale(job):
        job.learning_rate *= job.batch_size

    return before_training(scale)


@mutant("adamw-decays-and-corrects", "no report known: groups by dim >= 2 and by name", "biases stay as they were",
        "put every parameter into one group")  # fmt: skip
def biases_in_no_group():
    """The optimizer gets matrices and norms; a bias is in neither group."""

    def make(job):
        named = [(name, item) for name, item in job.model.named_parameters() if not name.endswith("bias")]
        kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[job.optimizer]
        return kind([item for _, item in named], lr=job.learning_rate, weight_decay=job.weight_decay)

    return Pipeline(optimizer=make)


@mutant("resuming-equals-not-stopping", "subtle form of Lightning-AI/pytorch-lightning#4655",
        "weights grow after a resume", "load the groups with the state")  # fmt: skip
def resume_forgets_the_decay():
    """After a resume the weights do not decay any more."""

    def resume(job, optimizer, rebuild):
        optimizer = interrupt(job, optimizer, rebuild)
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        return optimizer

    return Pipeline(resume=resume)


@mutant("resuming-equals-not-stopping", "subtle form of huggingface/transformers#8878", "one epoch counts twice",
        "the end of an epoch is the beginning of the next")  # fmt: skip
def resume_repeats_the_epoch():
    """A run that was stopped where an epoch ends does that epoch again."""

    def repeat(steps, job):
        one, at = len(steps) // job.epochs, job.resume_at
        again = at is not None and at < len(steps) and at % one == 0
        return [*steps[:at], *steps[at - one : -one]] if again else steps

    return with_steps(repeat)


@mutant("steps-hold-the-examples-asked-for", "subtle form of masking/batch-filled-with-repeats",
        "some examples count twice", "let a rank have fewer")  # fmt: skip
def ranks_filled_with_repeats():
    """Examples are repeated until every rank has as many as the others."""
    return prepared(lambda examples, job: examples + examples[: -len(examples) % job.world_size])


@mutant("epochs-differ-in-order", "subtle form of huggingface/trl#2030", "batches are alike from the second epoch on",
        "shuffle with the epoch's number")  # fmt: skip
def third_epoch_repeats_the_second():
    """The order changes once, after the first epoch, and never again."""
    return Pipeline(order=lambda count, seed, epoch: epoch_order(count, seed, min(epoch, 1)))


@mutant("another-seed-gives-another-order", "subtle form of huggingface/trl#2030",
        "repetitions share their packs' order", "pass the seed on")  # fmt: skip
def packs_shuffled_without_the_seed():
    """Packed rows come in an order that does not depend on the job's seed."""

    def forget_the_seed(job):
        job.seed = 0 if job.packing else job.seed

    return before_training(forget_the_seed)


@mutant("the-reported-norm-is-that-before-clipping", "no report known: a log that is read before the last step is done",
        "a crash at the end does not show", "report every step")  # fmt: skip
def last_norm_not_reported():
    """The gradient norm of the last step is not reported."""

    @dataclass(frozen=True)
    class Forgets(Pipeline):
        def train(self, job):
            super().train(job)
            job.report(grad_norms=job.reported["grad_norms"][:-1])

    return Forgets()
