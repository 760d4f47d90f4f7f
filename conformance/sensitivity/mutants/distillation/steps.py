"""Distillation that goes wrong in a run: in a later step, in a later micro-batch, in how its models are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sftspec.collation import Batch
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.distilling import TEMPERATURE, Distiller, targets_of_the_step
from sftspec.distillation import frozen_logits
from sftspec.job import Job
from sftspec.step import StepReport, forward_logits
from sftspec.trainer import Pipeline


@dataclass(frozen=True)
class Counting(Distiller):
    """The reference with a step that knows how many were before it, and may do one thing otherwise."""

    def train(self, job: Job) -> None:
        done: list[Sequence[Batch]] = []

        def step(model, batches, optimizer, *_) -> StepReport:
            if self.clears(len(done)):
                optimizer.zero_grad()
            for batch in batches:
                teacher = self.ask(batch, sum(map(len, done)) + batches.index(batch), job)
                self.loss(
                    forward_logits(model, batch),
                    teacher,
                    batch.labels,
                    self.temperature(len(done)),
                    1.0,
                    num_targets=self.count(batch, batches, job),
                ).backward()
            optimizer.step()
            done.append(batches)
            return StepReport(0.0, targets_of_the_step(batches[0], batches), 0.0)

        stages = self.pipeline
        Pipeline(encode=stages.encode, collate=stages.collate, step=step, conventions=stages.conventions).train(job)

    def clears(self, number: int) -> bool:
        return True

    def temperature(self, number: int) -> float:
        return TEMPERATURE

    def ask(self, batch: Batch, number: int, job: Job) -> Tensor:
        return self.read(self.teacher, **batch.model_inputs())

    def count(self, batch: Batch, batches: Sequence[Batch], job: Job) -> float:
        return targets_of_the_step(batch, batches)


@killed_by("the-declared-divergence-is-distilled")
@seen_in("D-23: subtle form of THUDM/slime#2085, a schedule that was left in")
@effect("T is 1 for most of the run", fix="one T for the run, or say so")
def temperature_annealed():
    """T is lowered by a tenth after each step, down to 1."""

    class Annealed(Counting):
        def temperature(self, number):
            return max(1.0, TEMPERATURE * 0.9**number)

    return Annealed()


@killed_by("the-declared-divergence-is-distilled")
@seen_in("D-12: subtle form of arcee-ai/DistillKit#7, logits that are written down in the first epoch")
@effect("learns other answers' tokens", fix="keep logits by example")
def teacher_kept_by_the_number_of_the_batch():
    """The teacher is asked in the first epoch, and its logits are kept by the number of the batch, in any epoch."""
    kept: dict[tuple, Tensor] = {}

    class Kept(Counting):
        def ask(self, batch, number, job):
            place = job.workdir, number % -(-len(job.conversations) // job.batch_size)
            if place not in kept:
                kept[place] = super().ask(batch, number, job)
            (rows, columns), first = batch.labels.shape, kept[place]
            logits = first.new_zeros(rows, columns, first.shape[-1])
            logits[: len(first), : first.shape[1]] = first[:rows, :columns]
            return logits

    return Kept()


@killed_by("the-cut-of-a-step-leaves-its-weights")
@seen_in("D-07: subtle form of modelscope/ms-swift#10076, a mean over micro-batches that are not there")
@effect("the end of an epoch weighs less", fix="divide by the targets that there are")
def last_step_of_an_epoch_divided_by_a_whole_one():
    """In a step that has fewer micro-batches than the others, the sum is divided as if it had as many."""

    class Divided(Counting):
        def count(self, batch, batches, job):
            return super().count(batch, batches, job) * job.accumulation / len(batches)

    return Divided()


@killed_by("the-head-moves-by-the-gradient-of-its-step")
@seen_in("no report known: a loop of one's own without zero_grad")
@effect("each step repeats all before it", fix="set gradients to zero")
def gradient_left_over():
    """Gradients are set to zero before the first step alone."""

    class Left(Counting):
        def clears(self, number):
            return number == 0

    return Left()


@killed_by("every-parameter-of-the-student-moves")
@seen_in("no report known: an optimizer that was given the head's parameters")
@effect("the student does not learn to think", fix="give it all parameters that want a gradient")
def head_trained_alone():
    """The gradients of all parameters but the head's are set to zero."""

    class HeadAlone(Distiller):
        def train(self, job):
            head = job.model.get_output_embeddings().weight
            for parameter in job.model.parameters():
                if parameter is not head:
                    parameter.register_hook(torch.zeros_like)
            super().train(job)

    return HeadAlone()


@killed_by("a-step-takes-the-conversations-of-its-micro-batches")
@seen_in("no report known: a loop of one's own that knows no accumulation")
@effect("another batch size, at the same rate", fix="step after as many micro-batches as are asked for")
def accumulation_ignored():
    """Each micro-batch is a step of its own, well divided by its targets."""

    class Ignoring(Distiller):
        def train(self, job):
            super().train(replace(job, accumulation=1))

    return Ignoring()


@killed_by("an-epoch-takes-every-conversation-once")
@seen_in("no report known: next(iter(loader)) within the loop")
@effect("most of the data is never seen", fix="make the iterator once an epoch")
def first_batch_again_and_again():
    """Every batch of an epoch is made of the first conversations."""

    class Again(Distiller):
        def train(self, job):
            count = len(job.conversations)
            super().train(replace(job, conversations=(job.conversations[: job.batch_size] * count)[:count]))

    return Again()


@killed_by("every-distilled-token-weighs-the-same the-cut-of-a-step-leaves-its-weights")
@seen_in("D-07: subtle form of modelscope/ms-swift#10076, a loop that was tried with two micro-batches")
@effect("learns some answers twice", fix="one denominator, whatever the number of the micro-batch")
def third_micro_batch_weighs_double():
    """From the third micro-batch of a step on, targets weigh twice as much."""

    def denominator(batch, batches):
        number = next(number for number, each in enumerate(batches) if each is batch)
        return targets_of_the_step(batch, batches) / (1 if number < 2 else 2)

    return Distiller(denominator=denominator)


@killed_by("the-student-learns-in-training-mode")
@seen_in("no report known: the mode of an evaluation that nobody puts back")
@effect("the student's dropout is off", fix="train() before each step")
def student_in_eval_mode():
    """The student is in eval mode while it learns."""

    class Evaluating(Distiller):
        def step(self, model, batches, optimizer, *rest) -> StepReport:
            return super().step(model.eval(), batches, optimizer, *rest)

    return Evaluating()


@killed_by("the-teacher-is-given-masks-and-positions")
@seen_in("no report known: a call of the teacher with its ids alone")
@effect("learns from a teacher that read the padding", fix="give the teacher whatever the student is given")
def teacher_asked_without_its_mask():
    """The attention mask and the positions of a batch are not given to the teacher."""
    beside = ("attention_mask", "position_ids")
    return Distiller(
        read=lambda teacher, **inputs: frozen_logits(
            teacher, **{name: value for name, value in inputs.items() if name not in beside}
        )
    )
