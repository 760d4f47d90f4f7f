"""Distillation that is right until it is given other tensors, asked again, or asked at its ends."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sftspec.conformance.sensitivity.mutants import mutant
from sftspec.conformance.sensitivity.mutants.distilling import Distiller, right, scored, with_soft
from sftspec.distillation import distillation_loss, frozen_logits
from sftspec.divergences import forward_kl, generalised_jsd
from sftspec.masking import IGNORE
from sftspec.step import sft_loss

# ------------------------------------------------------------------------------------------------------------ the loss


@mutant("the-soft-loss-is-the-mean-kl-from-teacher-to-student",
        "no report known: a kernel that takes the address of its input", "learns from numbers of other tokens",
        "contiguous(), or strides")  # fmt: skip
def memory_read_as_rows():
    """A kernel reads the logits row by row as they lie in memory, whatever their strides are."""

    def flat(logits: Tensor) -> Tensor:
        *_, vocabulary = logits.shape
        return logits.as_strided(logits.shape, (logits.shape[1] * vocabulary, vocabulary, 1))

    return with_soft(lambda s, t, y, temperature, n: right(flat(s), flat(t), y, temperature, n))


@mutant("the-loss-leaves-its-arguments-as-they-are",
        "no report known: kernels that keep the gradient in the logits' memory",
        "whatever else reads the logits reads their gradient", "memory of its own")  # fmt: skip
def logits_overwritten_by_a_kernel():
    """The loss is right, and the student's logits hold their probabilities afterwards."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        value = distillation_loss(student, teacher, labels, temperature, alpha, **options)
        if not student.requires_grad:
            student.copy_(student.softmax(-1))
        return value

    return Distiller(loss=loss)


@mutant("the-loss-leaves-its-arguments-as-they-are", "no report known: teacher_logits.div_(T)",
        "a teacher that is asked once for two losses is softer in the second", "divide a copy")  # fmt: skip
def teacher_divided_in_place():
    """The loss is right, and the teacher's logits are divided by T afterwards."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        value = distillation_loss(student, teacher, labels, temperature, alpha, **options)
        with torch.no_grad():
            teacher.div_(temperature)
        return value

    return Distiller(loss=loss)


@mutant("the-loss-of-low-precision-logits-is-reduced-in-float32",
        "D-18: subtle form of modelscope/ms-swift#10156, a sum in the type of the logits",
        "the loss of many targets is rounded to a percent", "sum in float32")  # fmt: skip
def summed_in_the_type_of_the_logits():
    """Each target's KL is right, and they are cast to the student's type before they are summed."""

    def soft(s, t, y, temperature, n):
        logs = [(scored(z, y).to(torch.promote_types(z.dtype, torch.float32)) / temperature).log_softmax(-1)
                for z in (s, t.detach())]  # fmt: skip
        return temperature**2 * forward_kl(*logs).to(s.dtype).sum() / n

    return with_soft(soft)


@mutant("a-constant-on-all-logits-changes-nothing", "no report known: a clamp against overflow",
        "sure tokens are all alike", "subtract the largest logit")  # fmt: skip
def logits_clamped_at_a_hundred():
    """Logits are clamped to 100 in magnitude."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        student, teacher = (torch.where(z.isfinite(), z.clamp(-100, 100), z) for z in (student, teacher))
        return distillation_loss(student, teacher, labels, temperature, alpha, **options)

    return Distiller(loss=loss)


@mutant("the-soft-loss-is-the-mean-kl-from-teacher-to-student the-soft-loss-reads-the-positions-of-the-hard-loss",
        "D-09: subtle form of huggingface/trl#2058, labels != 0 for a padding token 0", "token 0 is never taught",
        "labels != -100")  # fmt: skip
def label_zero_ignored():
    """A label that is token 0 is ignored by the divergence, as if it were padding."""
    return with_soft(
        lambda s, t, y, temperature, n: right(s, t, torch.where(y == 0, IGNORE, y), temperature, n)
        if (y[:, 1:] > 0).any() else 0.0 * s.sum()
    )  # fmt: skip


@mutant("at-alpha-one-the-cross-entropy-is-left-out", "no report known: alpha * soft + (1 - alpha) * hard, always",
        "every weight is NaN where a label is excluded", "leave out a term of weight 0")  # fmt: skip
def cross_entropy_times_zero():
    """At alpha = 1 the cross-entropy is still computed, and multiplied by 0."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        value = distillation_loss(student, teacher, labels, temperature, alpha, **options)
        alone = alpha == 1 and not options and (labels[:, 1:] != IGNORE).any()
        return value + 0.0 * sft_loss(student, labels) if alone else value

    return Distiller(loss=loss)


@mutant("a-label-beyond-the-shared-vocabulary-is-refused",
        "D-11: subtle form of huggingface/trl#2215, a label for which no column is left",
        "tokens that were added later are never trained", "refuse the label")  # fmt: skip
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


@mutant("the-jsd-is-at-most-the-entropy-of-beta swapping-the-models-swaps-beta",
        "no report known: a table of names with a wrong entry", "covers where it is to lie between",
        "the JSD")  # fmt: skip
def jsd_is_the_forward_kl():
    """The JSD is the forward KL for every beta but 1."""
    return Distiller(
        jsd=lambda student, teacher, beta=0.5: (
            forward_kl(student, teacher) if 0 <= beta < 1 else generalised_jsd(student, teacher, beta)
        )
    )


@mutant("the-mixture-weighs-the-teacher-by-beta", "no report known: sum(-1) twice",
        "a batch has one value for each sequence", "sum over the vocabulary alone")  # fmt: skip
def jsd_summed_over_time():
    """Of rows in a block (B, T, V) the JSD is summed over T, too, and comes once for each."""

    def jsd(student, teacher, beta=0.5):
        value = generalised_jsd(student, teacher, beta)
        return value.sum(-1, keepdim=True).expand_as(value) if value.dim() > 1 else value

    return Distiller(jsd=jsd)


@mutant("at-its-ends-an-excluded-token-is-infinitely-dear", "no report known: nan_to_num at the ends",
        "never learns a token that it excludes", "an infinite loss is infinite")  # fmt: skip
def infinite_ends_are_zero():
    """At beta = 0 and beta = 1 a KL that is infinite counts 0."""

    def jsd(student, teacher, beta=0.5):
        value = generalised_jsd(student, teacher, beta)
        return value.nan_to_num(posinf=0.0) if beta in (0, 1) else value

    return Distiller(jsd=jsd)


@mutant("beyond-its-ends-beta-is-refused", "no report known: min(1, max(0, beta))",
        "a setting in percent is the reverse KL", "refuse what is out of range")  # fmt: skip
def beta_clamped():
    """A beta beyond its ends is the nearest end."""

    def jsd(student, teacher, beta=0.5):
        return generalised_jsd(student, teacher, beta if math.isnan(beta) else min(1.0, max(0.0, beta)))

    return Distiller(jsd=jsd)


@mutant("an-empty-tail-makes-no-nan", "no report known: rest.log(), as it is written", "every weight is NaN",
        "the logarithm of what is left, and of nothing else")  # fmt: skip
def logarithm_of_the_empty_tail():
    """The bucket is the logarithm of its mass, also where there is none: its gradient is 0 / 0."""

    def with_bucket(log_probs, kept):
        rest = log_probs.exp().scatter(-1, kept, 0.0).sum(-1, keepdim=True)
        return torch.cat((log_probs.gather(-1, kept), rest.log()), dim=-1)

    return Distiller(with_bucket=with_bucket)


# --------------------------------------------------------------------------------------------------------- the teacher


@mutant("the-teacher-reads-the-inputs-that-are-given", "D-12: subtle form of arcee-ai/DistillKit#7, a cache by shape",
        "learns other answers' tokens", "no cache, or one by content")  # fmt: skip
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


@mutant("the-teacher-is-left-in-its-modes-by-an-error", "D-14: subtle form of yxuansu/TaCL#11, no try and finally",
        "one bad batch switches the student's dropout off", "put modes back whatever happens")  # fmt: skip
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


@mutant("reading-the-teacher-leaves-the-process-as-it-is", "no report known: torch.set_grad_enabled(False), once",
        "nothing is trained from then on", "no_grad as a block")  # fmt: skip
def gradients_off_for_good():
    """Gradients are switched off before the teacher is asked, and stay off."""

    def read(teacher, **inputs):
        logits = frozen_logits(teacher, **inputs)
        torch.set_grad_enabled("input_ids" in inputs)
        return logits

    return Distiller(read=read)


@mutant("reading-the-teacher-leaves-the-process-as-it-is",
        "no report known: manual_seed, to make the teacher repeatable", "every batch has the same dropout",
        "fork the generator, or leave it")  # fmt: skip
def seed_set_before_the_teacher_is_asked():
    """The seed is set to 0 whenever the teacher is asked."""

    def read(teacher, **inputs):
        torch.manual_seed(0)
        return frozen_logits(teacher, **inputs)

    return Distiller(read=read)
