"""Wrong only where two or three settings of a job meet, each of which is right alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import before_training, resumed_with, with_job, with_steps
from sftspec.conversation import Conversation
from sftspec.job import Job
from sftspec.step import clip_gradients, sft_loss, sft_step
from sftspec.trainer import Pipeline, interrupt, make_optimizer


def resumed_as(change: Callable[[Job], Job]) -> Pipeline:
    """The reference that after a resume prepares the examples of another job: change(job)."""

    @dataclass(frozen=True)
    class Forgets(Pipeline):
        def batches(self, job, examples):
            steps, at = list(super().batches(job, examples)), job.resume_at
            other = self.prepare(replace(change(job), reported={})) if at is not None else examples
            yield from [*steps[:at], *list(super().batches(job, other))[at or len(steps) :]]

    return Forgets()


def unflagged(talk: Conversation) -> Conversation:
    return Conversation([{key: item[key] for key in item if key != "train"} for item in talk])


@killed_by("epochs-differ-in-order")
@seen_in("no report known: DistributedSampler.set_epoch, never called (torch's documentation warns of it)")
@effect("batches are alike in every epoch", fix="call set_epoch before each epoch")
def ranks_forget_the_epoch():
    """Where ranks share a step, every epoch has the order of the first."""

    @dataclass(frozen=True)
    class Forgets(Pipeline):
        def batches(self, job, examples):
            epochs = job.epochs if job.world_size > 1 else 1
            for _ in range(epochs):
                yield from super().batches(replace(job, epochs=job.epochs // epochs), examples)

    return Forgets()


@killed_by("adamw-decays-and-corrects")
@seen_in("no report known: a rate scaled by the ranks, and the decay with it")
@effect("weights shrink too fast", fix="scale neither")
def decay_times_ranks():
    """The weight decay is multiplied by the number of ranks."""
    return Pipeline(optimizer=lambda job: make_optimizer(replace(job, weight_decay=job.weight_decay * job.world_size)))


@killed_by("adamw-decays-and-corrects")
@seen_in("no report known: a decay that is applied to a float32 copy")
@effect("weights of 16 bits grow", fix="decay the parameters themselves")
def no_decay_in_bfloat16():
    """A model in bfloat16 does not decay."""

    def make(job):
        return make_optimizer(replace(job, weight_decay=0.0) if job.model.dtype == torch.bfloat16 else job)

    return Pipeline(optimizer=make)


@killed_by("what-is-frozen-stays")
@seen_in("no report known: every parameter is given to SGD, and asked for its gradient")
@effect("adapters' bases move", fix="leave requires_grad as it is")
def thawed_under_sgd():
    """Where the optimizer is SGD, frozen parameters are trained."""
    return before_training(lambda job: job.model.requires_grad_() if job.optimizer == "sgd" else None)


@killed_by("clipping-is-by-the-norm-of-the-whole-gradient")
@seen_in("no report known: a norm over model.parameters() with all gradients on")
@effect("steps too short beside a frozen body", fix="count what is trained")
def frozen_count_in_the_norm():
    """Gradients of frozen parameters are computed, and count in the norm by which the others are clipped."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients):
        frozen = [item for item in model.parameters() if not item.requires_grad]
        for item in frozen:
            item.requires_grad_(True)

        def clip_by_all(parameters, limit):
            norm = clip({id(item): item for item in (*parameters, *frozen)}.values(), limit)
            for item in frozen:
                item.grad = None
            return norm

        report = sft_step(model, batches, optimizer, max_grad_norm, loss, clip_by_all)
        for item in frozen:
            item.requires_grad_(False)
        return report

    return Pipeline(step=step)


@killed_by("resuming-equals-not-stopping")
@seen_in("subtle form of huggingface/transformers#8878")
@effect("some examples count twice", fix="skip steps times accumulation times ranks")
def resume_forgets_the_ranks():
    """Where ranks share a step, a resumed run skips too few batches."""
    return resumed_with(lambda steps, job: steps[job.resume_at // job.world_size :])


@killed_by("resuming-equals-not-stopping")
@seen_in("no report known: a setting that is not saved with the run")
@effect("turns are learned that were not", fix="save the arguments, or refuse others")
def resume_forgets_the_policy():
    """After a resume every assistant turn is trained, whatever the policy."""
    return resumed_as(lambda job: replace(job, policy="all"))


@killed_by("resuming-equals-not-stopping")
@seen_in("no report known: a data set that is read again without its flags")
@effect("turns are learned that were excluded", fix="prepare the data once, or save how it was done")
def resume_forgets_the_flags():
    """After a resume turns with `"train": false` are trained."""
    return resumed_as(lambda job: replace(job, conversations=[unflagged(talk) for talk in job.conversations]))


@killed_by("resuming-equals-not-stopping")
@seen_in("no report known: a max_length that is not saved with the run")
@effect("runs out of memory, or learns another data set", fix="save the arguments, or refuse others")
def resume_forgets_the_cut():
    """After a resume examples are no longer cut."""
    return resumed_as(lambda job: replace(job, max_length=None))


@killed_by("resuming-equals-not-stopping")
@seen_in("no report known: a model rebuilt at the resume, and requires_grad with it")
@effect("the base moves", fix="freeze again what was frozen")
def resume_thaws():
    """After a resume frozen parameters are trained."""

    def resume(job, optimizer, rebuild):
        interrupt(job, optimizer, rebuild)
        job.model.requires_grad_(True)
        return rebuild(job)

    return Pipeline(resume=resume)


@killed_by("resuming-equals-not-stopping")
@seen_in("no report known: moments saved in the dtype of the model")
@effect("updates of another size", fix="save the optimizer's state as it is")
def resume_loses_moments_of_bfloat16():
    """A resumed run in bfloat16 begins with moments of zero."""

    def resume(job, optimizer, rebuild):
        optimizer = interrupt(job, optimizer, rebuild)
        return rebuild(job) if job.model.dtype == torch.bfloat16 else optimizer

    return Pipeline(resume=resume)


@killed_by("masking/every-conversation-with-a-target-is-trained")
@seen_in("no report known: `if n > 1` for `if n > 0`")
@effect("short answers are lost", fix="skip what has no target, and nothing else")
def single_targets_skipped():
    """A micro-batch with one target is taken for one without."""

    def step(model, batches, *given, **named):
        return sft_step(model, [batch for batch in batches if batch.num_targets > 1] or batches, *given, **named)

    return Pipeline(step=step)


@killed_by("adamw-decays-and-corrects the-learning-rate-is-the-jobs")
@seen_in("no report known: a StepLR left in from an experiment")
@effect("the end of the run learns a tenth", fix="schedule nothing that was not asked for")
def rate_falls_after_sixteen():
    """After sixteen steps the learning rate is a tenth."""

    def make(job):
        optimizer = make_optimizer(job)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 16, 0.1)
        optimizer.register_step_post_hook(lambda *given: schedule.step())
        return optimizer

    return Pipeline(optimizer=make)


@killed_by("dropout-is-the-same-on-the-way-back")
@seen_in("no report known: a script's default over the model's configuration")
@effect("another regularization than was asked for", fix="leave the model's rates as they are")
def dropout_doubled():
    """The rates of dropout are twice those of the model."""

    def double(job):
        for part in job.model.modules():
            if hasattr(part, "attention_dropout"):
                part.attention_dropout *= 2

    return before_training(double)


@killed_by("clipping-is-by-the-norm-of-the-whole-gradient")
@seen_in("no report known: a limit scaled by 1 / (1 - dropout), as activations are")
@effect("steps too long where the model is regularized", fix="clip to the limit that was given")
def limit_doubled_under_dropout():
    """Where the model has dropout the gradient is clipped to twice the limit."""

    def double(job):
        doubles = job.max_grad_norm and getattr(job.model.config, "attention_dropout", 0.0)
        return replace(job, max_grad_norm=2 * job.max_grad_norm) if doubles else job

    return with_job(double)


@killed_by("every-parameter-gets-its-gradient")
@seen_in("no report known: torch.nn.Embedding(padding_idx=…), with pad = end-of-turn")
@effect("the end of a turn is never read better", fix="hide padding by its position, not by its id")
def end_of_turn_embedded_as_padding():
    """The embedding of the pad token gets no gradient, also where it is the end-of-turn."""

    def declare(job):
        job.model.get_input_embeddings().padding_idx = job.tokenizer.pad_token_id

    return before_training(declare)


@killed_by("clipping-is-by-the-norm-of-the-whole-gradient")
@seen_in("no report known: a model wrapped anew for packed rows")
@effect("the base moves", fix="leave requires_grad as it is")
def thawed_where_packed():
    """Where rows are packed, frozen parameters are asked for their gradients, which count in the norm."""
    return before_training(lambda job: job.model.requires_grad_() if job.packing else None)


@killed_by("steps-hold-the-examples-asked-for")
@seen_in("no report known: a buffer of eight gradients")
@effect("data is lost", fix="accumulate what was asked for")
def eight_micro_batches_at_most():
    """From the ninth on the micro-batches of a step are left out."""
    return with_steps(lambda steps, job: [step[:8] for step in steps])
