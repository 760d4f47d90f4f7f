"""Distillation that is right until it is given other tensors, asked again, or asked at its ends."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.distilling import Distiller, right, scored, with_soft
from sftspec.distillation import distillation_loss, frozen_logits
from sftspec.divergences import forward_kl, generalised_jsd
from sftspec.masking import IGNORE
from sftspec.step import sft_loss

# ------------------------------------------------------------------------------------------------------------ the loss


@killed_by("the-soft-loss-is-the-mean-kl-from-teacher-to-student")
@seen_in("no report known: a kernel that takes the address of its input")
@effect("learns from numbers of other tokens", fix="contiguous(), or strides")
def memory_read_as_rows():
    """A kernel reads the logits row by row as they lie in memory, whatever their strides are."""

    def flat(logits: Tensor) -> Tensor:
        *_, vocabulary = logits.shape
        return logits.as_strided(logits.shape, (logits.shape[1] * vocabulary, vocabulary, 1))

    return with_soft(lambda s, t, y, temperature, n: right(flat(s), flat(t), y, temperature, n))


@killed_by("the-loss-leaves-its-arguments-as-they-are")
@seen_in("no report known: kernels that keep the gradient in the logits' memory")
@effect("whatever else reads the logits reads their gradient", fix="memory of its own")
def logits_overwritten_by_a_kernel():
    """The loss is right, and the student's logits hold their probabilities afterwards."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        value = distillation_loss(student, teacher, labels, temperature, alpha, **options)
        if not student.requires_grad:
            student.copy_(student.softmax(-1))
        return value

    return Distiller(loss=loss)


@killed_by("the-loss-leaves-its-arguments-as-they-are")
@seen_in("no report known: teacher_logits.div_(T)")
@effect("a teacher that is asked once for two losses is softer in the second", fix="divide a copy")
def teacher_divided_in_place():
    """The loss is right, and the teacher's logits are divided by T afterwards."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        value = distillation_loss(student, teacher, labels, temperature, alpha, **options)
        with torch.no_grad():
            teacher.div_(temperature)
        return value

    return Distiller(loss=loss)


@killed_by("the-loss-of-low-precision-logits-is-reduced-in-float32")
@seen_in("D-18: subtle form of modelscope/ms-swift#10156, a sum in the type of the logits")
@effect("the loss of many targets is rounded to a percent", fix="sum in float32")
def summed_in_the_type_of_the_logits():
    """Each target's KL is right, and they are cast to the student's type before they are summed."""

    def soft(s, t, y, temperature, n):
        logs = [
            (scored(z, y).to(torch.promote_types(z.dtype, torch.float32)) / temperature).log_softmax(-1)
            for z in (s, t.detach())
        ]
        return temperature**2 * forward_kl(*logs).to(s.dtype).sum() / n

    return with_soft(soft)


@killed_by("a-constant-on-all-logits-changes-nothing")
@seen_in("no report known: a clamp against overflow")
@effect("sure tokens are all alike", fix="subtract the largest logit")
def logits_clamped_at_a_hundred():
    """Logits are clamped to 100 in magnitude."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        student, teacher = (torch.where(z.isfinite(), z.clamp(-100, 100), z) for z in (student, teacher))
        return distillation_loss(student, teacher, labels, temperature, alpha, **options)

    return Distiller(loss=loss)


@killed_by("the-soft-loss-is-the-mean-kl-from-teacher-to-student the-soft-loss-reads-the-positions-of-the-hard-loss")
@seen_in("D-09: subtle form of huggingface/trl#2058, labels != 0 for a padding token 0")
@effect("token 0 is never taught", fix="labels != -100")
def label_zero_ignored():
    """A label that is token 0 is ignored by the divergence, as if it were padding."""
    return with_soft(
        lambda s, t, y, temperature, n: (
            right(s, t, torch.where(y == 0, IGNORE, y), temperature, n) if (y[:, 1:] > 0).any() else 0.0 * s.sum()
        )
    )


@killed_by("at-alpha-one-the-cross-entropy-is-left-out")
@seen_in("no report known: alpha * soft + (1 - alpha) * hard, always")
@effect("every weight is NaN where a label is excluded", fix="leave out a term of weight 0")
def cross_entropy_times_zero():
    """At alpha = 1 the cross-entropy is still computed, and multiplied by 0."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        value = distillation_loss(student, teacher, labels, temperature, alpha, **options)
        alone = alpha == 1 and not options and (labels[:, 1:] != IGNORE).any()
        return value + 0.0 * sft_loss(student, labels) if alone else value

    return Distiller(loss=loss)


@killed_by("a-label-beyond-the-shared-vocabulary-is-refused")
@seen_in("D-11: subtle form of huggingface/trl#2215, a label for which no column is left")
@effect("tokens that were added later are never trained", fix="refuse the label")
def labels_beyond_the_shared_vocabulary_ignored():
    """With vocab_size a label beyond it is ignored."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        size = options.get("vocab_size")
        within = (
            labels if size is None else torch.where((labels >= size) & (labels < student.shape[-1]), IGNORE, labels)
        )
        return distillation_loss(student, teacher, within, temperature, alpha, **options)

    return Distiller(loss=loss)


# ------------------------------------------------------------------------------------------------------------- the JSD


@killed_by("the-jsd-is-at-most-the-entropy-of-beta swapping-the-models-swaps-beta")
@seen_in("no report known: a table of names with a wrong entry")
@effect("covers where it is to lie between", fix="the JSD")
def jsd_is_the_forward_kl():
    """The JSD is the forward KL for every beta but 1."""
    return Distiller(
        jsd=lambda student, teacher, beta=0.5: (
            forward_kl(student, teacher) if 0 <= beta < 1 else generalised_jsd(student, teacher, beta)
        )
    )


@killed_by("the-mixture-weighs-the-teacher-by-beta")
@seen_in("no report known: sum(-1) twice")
@effect("a batch has one value for each sequence", fix="sum over the vocabulary alone")
def jsd_summed_over_time():
    """Of rows in a block (B, T, V) the JSD is summed over T, too, and comes once for each."""

    def jsd(student, teacher, beta=0.5):
        value = generalised_jsd(student, teacher, beta)
        return value.sum(-1, keepdim=True).expand_as(value) if value.dim() > 1 else value

    return Distiller(jsd=jsd)


@killed_by("at-its-ends-an-excluded-token-is-infinitely-dear")
@seen_in("no report known: nan_to_num at the ends")
@effect("never learns a token that it excludes", fix="an infinite loss is infinite")
def infinite_ends_are_zero():
    """At beta = 0 and beta = 1 a KL that is infinite counts 0."""

    def jsd(student, teacher, beta=0.5):
        value = generalised_jsd(student, teacher, beta)
        return value.nan_to_num(posinf=0.0) if beta in (0, 1) else value

    return Distiller(jsd=jsd)


@killed_by("beyond-its-ends-beta-is-refused")
@seen_in("no report known: min(1, max(0, beta))")
@effect("a setting in percent is the reverse KL", fix="refuse what is out of range")
def beta_clamped():
    """A beta beyond its ends is the nearest end."""

    def jsd(student, teacher, beta=0.5):
        return generalised_jsd(student, teacher, beta if math.isnan(beta) else min(1.0, max(0.0, beta)))

    return Distiller(jsd=jsd)


@killed_by("an-empty-tail-makes-no-nan")
@seen_in("no report known: rest.log(), as it is written")
@effect("every weight is NaN", fix="the logarithm of what is left, and of nothing else")
def logarithm_of_the_empty_tail():
    """The bucket is the logarithm of its mass, also where there is none: its gradient is 0 / 0."""

    def with_bucket(log_probs, kept):
        rest = log_probs.exp().scatter(-1, kept, 0.0).sum(-1, keepdim=True)
        return torch.cat((log_probs.gather(-1, kept), rest.log()), dim=-1)

    return Distiller(with_bucket=with_bucket)


# --------------------------------------------------------------------------------------------------------- the teacher


@killed_by("the-teacher-reads-the-inputs-that-are-given")
@seen_in("D-12: subtle form of arcee-ai/DistillKit#7, a cache by shape")
@effect("learns other answers' tokens", fix="no cache, or one by content")
def teacher_kept_by_the_shape_of_its_inputs():
    """The teacher's logits are kept by the shape of its inputs, and given again for the next ones of this shape."""
    kept: dict[Any, Tensor] = {}

    def read(teacher, **inputs):
        key = (id(teacher), *(tuple(value.shape) for value in inputs.values()))
        if key not in kept:
            kept.clear()
            kept[key] = frozen_logits(teacher, **inputs)
        return kept[key]

    return Distiller(read=read)


@killed_by("the-teacher-is-left-in-its-modes-by-an-error")
@seen_in("D-14: subtle form of yxuansu/TaCL#11, no try and finally")
@effect("one bad batch switches the student's dropout off", fix="put modes back whatever happens")
def modes_lost_in_an_error():
    """Every module's mode is put back after the pass, and not where the pass raises."""

    @torch.no_grad()
    def read(teacher, **inputs):
        modes = [(part, part.training) for part in teacher.modules()]
        logits = teacher.eval()(**inputs).logits
        for part, mode in modes:
            part.training = mode
        return logits

    return Distiller(read=read)


@killed_by("reading-the-teacher-leaves-the-process-as-it-is")
@seen_in("no report known: torch.set_grad_enabled(False), once")
@effect("nothing is trained from then on", fix="no_grad as a block")
def gradients_off_for_good():
    """Gradients are switched off before the teacher is asked, and stay off."""

    def read(teacher, **inputs):
        logits = frozen_logits(teacher, **inputs)
        torch.set_grad_enabled("input_ids" in inputs)
        return logits

    return Distiller(read=read)


@killed_by("reading-the-teacher-leaves-the-process-as-it-is")
@seen_in("no report known: manual_seed, to make the teacher repeatable")
@effect("every batch has the same dropout", fix="fork the generator, or leave it")
def seed_set_before_the_teacher_is_asked():
    """The seed is set to 0 whenever the teacher is asked."""

    def read(teacher, **inputs):
        torch.manual_seed(0)
        return frozen_logits(teacher, **inputs)

    return Distiller(read=read)
