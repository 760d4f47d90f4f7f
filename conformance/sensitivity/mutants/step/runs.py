"""What a whole run gets wrong: dropout, seeds, epochs, settings that meet, and what is said of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import around, before_each_step, before_training, with_steps
from sftspec.step import StepReport, clip_gradients, forward_logits, sft_loss, sft_step
from sftspec.trainer import Pipeline, epoch_order


@killed_by("dropout-is-on-and-drawn-anew")
@seen_in("D-14 in a trainer: yxuansu/TaCL#11")
@effect("less regularisation than asked for", fix="call model.train() before each epoch")
def trained_in_eval_mode():
    """The model stays in eval mode after an evaluation: there is no dropout any more."""
    return before_each_step(lambda model: model.eval())


@killed_by("dropout-is-on-and-drawn-anew")
@seen_in("L-30: huggingface/accelerate#114")
@effect("less regularisation than asked for", fix="seed once, before the run")
def dropout_masks_repeat():
    """The random state is seeded before each step, so that all steps drop the same units."""
    return before_each_step(lambda model: torch.manual_seed(1234))


@killed_by("dropout-is-the-same-on-the-way-back")
@seen_in("no report known: preserve_rng_state=False")
@effect("a gradient of no function", fix="bring the random state back before computing again")
def checkpoints_draw_again():
    """Activations are computed again on the way back, with another draw of the dropout."""
    how = {"use_reentrant": False, "preserve_rng_state": False, "determinism_check": "none"}
    return before_training(lambda job: job.model.gradient_checkpointing_enable(how))


@killed_by("another-seed-gives-another-order")
@seen_in("subtle form of huggingface/trl#2030")
@effect("repetitions are one experiment", fix="pass the seed on")
def seed_ignored():
    """The order of the examples does not depend on the job's seed."""
    return Pipeline(order=lambda count, seed, epoch: epoch_order(count, 0, epoch))


@killed_by("the-reported-norm-is-that-before-clipping")
@seen_in("L-14: pytorch/pytorch#72548")
@effect("explosions do not show", fix="report what clip returns")
def norm_reported_after_the_clip():
    """The gradient norm that is reported is the one after clipping."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        report = sft_step(model, batches, optimizer, max_grad_norm, loss, clip)
        return replace(report, grad_norm=min(report.grad_norm, max_grad_norm or float("inf")))

    return Pipeline(step=step)


@killed_by("the-reported-norm-is-that-before-clipping")
@seen_in("subtle form of OpenDiloco#6")
@effect("the curve shows one matrix", fix="sum the squares over all parameters")
def norm_of_the_largest_reported():
    """The gradient norm that is reported is that of the parameter with the largest one."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        norms: list[float] = []

        def watched(parameters, limit):
            parameters = list(parameters)
            norms.extend(float(item.grad.norm()) for item in parameters if item.grad is not None)
            return clip(parameters, limit)

        report = sft_step(model, batches, optimizer, max_grad_norm, loss, watched)
        return report if report.skipped else replace(report, grad_norm=max(norms))

    return Pipeline(step=step)


@killed_by("the-gradient-is-that-of-the-step")
@seen_in("L-14: pytorch/pytorch#88955")
@effect("one rank's factor for all", fix="reduce first, clip then")
def clipped_on_each_rank():
    """Every rank clips its own gradient before they are summed."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        ranks = sorted({batch.rank for batch in batches if batch.num_targets})
        if len(ranks) < 2 or max_grad_norm is None:
            return sft_step(model, batches, optimizer, max_grad_norm, loss, clip)
        count, total, norm = sum(batch.num_targets for batch in batches), 0.0, 0.0
        sums: dict[str, Tensor] = {}
        for rank in ranks:
            optimizer.zero_grad()
            for batch in batches:
                if batch.rank == rank and batch.num_targets:
                    part = loss(forward_logits(model, batch), batch.labels, num_targets=count)
                    part.backward()
                    total += float(part.detach())
            norm = max(norm, clip(model.parameters(), max_grad_norm))
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    sums[name] = parameter.grad.clone() + sums.get(name, 0)
        for name, parameter in model.named_parameters():
            parameter.grad = sums.get(name)
        optimizer.step()
        return StepReport(total, count, norm)

    return Pipeline(step=step)


@killed_by("steps-hold-the-examples-asked-for")
@seen_in("subtle form of modelscope/ms-swift#10084")
@effect("another batch size", fix="build windows within an epoch")
def last_window_joins_the_next_epoch():
    """The last, smaller window of an epoch makes no step: its gradient joins the first window of the next."""

    def join(steps, job):
        left = []
        for number, step in enumerate(steps):
            if len(step) < job.accumulation * job.world_size and number + 1 < len(steps):
                left = step
            else:
                yield left + step
                left = []

    return with_steps(join)


@killed_by("steps-hold-the-examples-asked-for")
@seen_in("P-24: unslothai/unsloth#7234")
@effect("another batch size when packed", fix="count packed rows as rows")
def packed_batch_size_ignored():
    """Packed rows come one to a micro-batch, whatever batch_size says."""

    @dataclass(frozen=True)
    class OneRow(Pipeline):
        def batches(self, job, examples):
            asked = copy.copy(job)
            asked.batch_size = 1 if job.packing else job.batch_size
            yield from super().batches(asked, examples)

    return OneRow()


@killed_by("what-is-frozen-stays")
@seen_in("ultralytics/yolov5#1213")
@effect("the layers that were to be kept are trained", fix="leave requires_grad as it was given")
def frozen_parameters_thawed():
    """Every parameter is set to require a gradient before training."""
    return before_training(lambda job: job.model.requires_grad_(True))


@killed_by("what-is-frozen-stays")
@seen_in("KellerJordan/Muon#54")
@effect("what was to be kept fades", fix="decay what has a gradient")
def frozen_parameters_decayed():
    """The optimizer's decay reaches parameters that have no gradient."""

    def fade(model, optimizer):
        group = optimizer.param_groups[0]
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.mul_(1 - group["lr"] * group.get("weight_decay", 0.0))

    return around(after=fade)


@killed_by("parameters-change-in-the-step-alone")
@seen_in("subtle form of huggingface/transformers#34147")
@effect("starts from another model", fix="load in the dtype that is trained")
def weights_rounded_at_the_start():
    """The model is rounded to bfloat16 before training, and trained in float32."""

    @torch.no_grad()
    def round_weights(job):
        for parameter in job.model.parameters():
            parameter.copy_(parameter.bfloat16().to(parameter.dtype))

    return before_training(round_weights)
