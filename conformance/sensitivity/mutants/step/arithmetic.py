"""Wrong only in an arithmetic: loss scales, casts that are kept, norms and moments in 16 bits, a count compiled in.

Those of float16 and of autocast compute so by themselves, whatever the job. `in_float16` with nothing changed is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.masters import MasterAdamW
from sftspec.step import StepReport, clip_gradients, computing_in, forward_logits, sft_loss
from sftspec.trainer import Pipeline, make_optimizer


@dataclass(frozen=True)
class Few(Pipeline):
    """The reference, looked at in the few jobs that show an arithmetic: 16 bits take a CPU long."""

    shown_in: ClassVar[frozenset[str]] = frozenset(
        {"accumulation", "two epochs", "clipping", "AdamW", "bfloat16, AdamW at a small rate"}
    )


SCALE = 2.0**10  # so large that small gradients live in float16, and none of the witness's overflows


def unscaled(parameters: Sequence[Tensor], scale: float, optimizer: Any) -> None:
    """Gradients without the scale of the loss."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad /= scale


def in_float16(
    scales: Callable[[int], float] = lambda number: SCALE,
    unscale: Callable[[Sequence[Tensor], float, Any], None] = unscaled,
) -> Pipeline:
    """The reference with a loss scale that is its own: scales(number of a micro-batch in its step)."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        used = [batch for batch in batches if batch.num_targets]
        count, total, scale = sum(batch.num_targets for batch in used), 0.0, SCALE
        optimizer.zero_grad(set_to_none=True)
        if not count:
            return StepReport(float("nan"), 0, 0.0, skipped=True)
        for number, batch in enumerate(used):
            with computing_in(model, "float16"):
                logits = forward_logits(model, batch)
            part, scale = loss(logits, batch.labels, num_targets=count), scales(number)
            (part * scale).backward()
            total += float(part.detach())
        parameters = [item for group in optimizer.param_groups for item in group["params"]]
        unscale(parameters, scale, optimizer)
        norm = clip(parameters, float("inf") if max_grad_norm is None else max_grad_norm)
        optimizer.step()
        return StepReport(total, count, norm)

    return Few(step=step)


@killed_by("every-target-of-a-step-weighs-the-same")
@seen_in("NVIDIA/apex#439")
@effect("micro-batches weigh by their number", fix="change the scale between steps alone")
def scale_doubled_within_a_step():
    """The scale of the loss is doubled after two micro-batches of a step; the sum is divided by the last one."""
    return in_float16(scales=lambda number: SCALE * (1 + (number > 1)))


@killed_by("the-denominator-is-the-number-of-targets")
@seen_in("subtle form of milesial/Pytorch-UNet#470")
@effect("eps means nothing, and the rate is another once the optimizer is SGD", fix="unscale before every step")
def scale_left_on_under_adamw():
    """Under AdamW, which a factor hardly moves, gradients keep the scale of the loss."""

    def unscale(parameters, scale, optimizer) -> None:
        if not isinstance(optimizer, torch.optim.AdamW):
            unscaled(parameters, scale, optimizer)

    return in_float16(unscale=unscale)


@killed_by("masking/a-step-without-targets-changes-nothing")
@seen_in("subtle form of milesial/Pytorch-UNet#470: what overflowed is stepped over in part")
@effect("steps along what is left of a gradient", fix="leave out the whole step")
def overflow_becomes_zero():
    """Entries of a gradient that overflowed under too large a scale are set to zero, and the step is taken."""

    def unscale(parameters, scale, optimizer) -> None:
        unscaled(parameters, scale, optimizer)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)

    return in_float16(scales=lambda number: 2.0**24, unscale=unscale)


@killed_by("every-parameter-gets-its-gradient")
@seen_in("X-GenGroup/Flow-Factory#186")
@effect("the model is trained at weights that it had at the start", fix="enter autocast anew for each forward pass")
def casts_kept_over_steps():
    """One autocast context surrounds all steps, and keeps the 16-bit casts of the first step's weights."""

    @dataclass(frozen=True)
    class Surrounded(Few):
        def train(self, job):
            with torch.autocast("cpu", torch.bfloat16):
                super().train(job)

    return Surrounded()


@killed_by("clipping-is-by-the-norm-of-the-whole-gradient the-clip-reports-the-norm-before-it")
@seen_in("subtle form of pytorch/pytorch#170862: the norm in 16 bits")
@effect("limits are missed by half a percent", fix="take the norm in float32")
def norm_in_bfloat16():
    """The norm by which is clipped is taken in bfloat16."""

    def clip(parameters, limit) -> float:
        gradients = [item.grad for item in parameters if item.grad is not None]
        norm = float(torch.stack([item.bfloat16().norm() for item in gradients]).norm()) if gradients else 0.0
        for gradient in gradients:
            gradient.mul_(min(1.0, limit / norm) if norm else 1.0)
        return norm

    return Few(clip=clip)


@killed_by("small-updates-arrive")
@seen_in("subtle form of step/updated-in-bfloat16: copies that are made anew")
@effect("most of the model stays as it was", fix="let the copies lead, and the weights follow")
def masters_read_back():
    """After each step the float32 copies of the weights are read back from the weights in bfloat16."""

    class ReadBack(MasterAdamW):
        def step(self, closure=None):
            value = super().step(closure)
            for weight, state in self.state.items():
                if "master" in state:
                    state["master"].copy_(weight.detach())
            return value

    def optimizer(job):
        made = make_optimizer(job)
        if not isinstance(made, MasterAdamW):
            return made
        trained = [item for item in job.model.parameters() if item.requires_grad]
        return ReadBack(trained, lr=job.learning_rate, weight_decay=job.weight_decay)

    return Few(optimizer=optimizer)


@killed_by("adamw-decays-and-corrects")
@seen_in("subtle form of step/updated-in-bfloat16: moments in its place")
@effect("the second moment stops growing", fix="keep moments in float32")
def moments_in_bfloat16():
    """AdamW's moments are rounded to bfloat16 after each step."""

    def optimizer(job):
        made = make_optimizer(job)

        def round_moments(*given) -> None:
            for state in made.state.values():
                for name in ("exp_avg", "exp_avg_sq"):
                    if name in state:
                        state[name].copy_(state[name].bfloat16())

        made.register_step_post_hook(round_moments)
        return made

    return Few(optimizer=optimizer)


@killed_by("the-denominator-is-the-number-of-targets")
@seen_in("subtle form of pytorch/torchtitan#2206: a count that a compiled step took for a constant")
@effect("the rate depends on the first step", fix="hand the count over as a tensor")
def count_compiled_in():
    """The number of targets of the first step stays the denominator of all."""

    @dataclass(frozen=True)
    class Compiled(Few):
        def train(self, job):
            counts: list[float] = []

            def loss(logits, labels, num_targets=None, weights=None):
                counts.append(num_targets)
                return sft_loss(logits, labels, counts[0], weights)

            Pipeline(loss=loss).train(job)

    return Compiled()
