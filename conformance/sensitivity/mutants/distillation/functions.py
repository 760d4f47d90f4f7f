"""Distillation losses that are right until they are asked something else: a scale, a temperature, a type, NaN."""

from __future__ import annotations

import torch

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.distilling import Distiller
from sftspec.conformance.sensitivity.mutants.step.functions import Fused
from sftspec.distillation import distillation_loss
from sftspec.divergences import forward_kl, generalised_jsd
from sftspec.step import IGNORE


@killed_by("the-soft-gradient-is-t-times-the-gap-of-probabilities")
@seen_in("linkedin/Liger-Kernel, grad_output taken for 1")
@effect("the loss is scaled, its gradient is not", fix="multiply by the gradient from above")
def gradient_from_above_ignored():
    """A fused kernel returns the gradient that it kept, whatever the loss is multiplied by afterwards."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        def value(z):
            return distillation_loss(z, teacher, labels, temperature, alpha, **options)

        return Fused.apply(student, value, value, False)

    return Distiller(loss=loss)


@killed_by(
    "the-loss-of-low-precision-logits-is-reduced-in-float32 the-gradient-of-low-precision-logits-is-reduced-in-float32"
)
@seen_in("subtle form of modelscope/ms-swift#10156, sum and divide")
@effect("a KL that is negative", fix="raise the logits before the branches part")
def logits_not_raised_where_targets_are_counted():
    """Where the number of targets is given, a pure forward KL of logits in 16 bits is computed in 16 bits."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, num_targets=None, **options):
        if options or num_targets is None or alpha < 1 or student.dtype == torch.float64:
            return distillation_loss(student, teacher, labels, temperature, alpha, num_targets=num_targets, **options)
        kept = labels[:, 1:] != IGNORE
        logs = [torch.log_softmax(z[:, :-1][kept] / temperature, -1) for z in (student, teacher.to(student.dtype))]
        return temperature**2 * forward_kl(*logs).sum() / num_targets

    return Distiller(loss=loss)


@killed_by("the-loss-of-low-precision-logits-is-reduced-in-float32")
@seen_in("no report known: a copy that is made where heads are cut")
@effect("another teacher", fix="cut, and leave the type")
def teacher_cast_where_columns_are_cut():
    """With vocab_size the teacher's logits are cast to the student's type."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, vocab_size=None, **options):
        teacher = teacher if vocab_size is None else teacher.to(student.dtype)
        return distillation_loss(student, teacher, labels, temperature, alpha, vocab_size=vocab_size, **options)

    return Distiller(loss=loss)


@killed_by("nan-at-a-target-is-not-hidden")
@seen_in("no report known: torch.nan_to_num against 0 * inf")
@effect("a model that broke has nothing to learn", fix="let NaN be seen, or refuse it")
def nan_is_zero():
    """A loss that is NaN becomes 0."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        value = distillation_loss(student, teacher, labels, temperature, alpha, **options)
        return value.nan_to_num(nan=0.0, posinf=torch.inf)

    return Distiller(loss=loss)


@killed_by("the-soft-loss-is-the-mean-kl-from-teacher-to-student")
@seen_in("no report known: a setting that is parsed as an integer")
@effect("another temperature than the setting says", fix="temperatures are floats")
def temperature_is_a_whole_number():
    """A temperature above 1 loses its fraction."""
    return Distiller(
        loss=lambda student, teacher, labels, temperature=1.0, alpha=0.5, **options: distillation_loss(
            student, teacher, labels, int(temperature) or temperature, alpha, **options
        )
    )


@killed_by("the-mixture-weighs-the-teacher-by-beta")
@seen_in("subtle form of modelscope/ms-swift#10156, a cast within")
@effect("a JSD below 0 near the teacher", fix="compute in float32 at least")
def jsd_of_float32_in_sixteen_bits():
    """The JSD of log-probabilities in float32 is computed in bfloat16; that of float64 is not touched."""

    def jsd(student, teacher, beta=0.5):
        cast = torch.float64 if student.dtype == torch.float64 else torch.bfloat16
        return generalised_jsd(student.to(cast), teacher.to(cast), beta)

    return Distiller(jsd=jsd)
