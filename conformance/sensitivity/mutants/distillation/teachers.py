"""Teachers that are asked wrongly, or moved; vocabularies that do not fit; divergences of parts of a distribution."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch.nn.functional import kl_div, pad

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.distilling import Distiller, right, with_soft
from sftspec.distillation import frozen_logits, softened
from sftspec.divergences import forward_kl, generalised_jsd, reverse_kl

# ----------------------------------------------------------------------------------------------- JSD and top-k


@killed_by(
    "the-mixture-weighs-the-teacher-by-beta the-jsd-over-beta-is-nearly-the-forward-kl at-its-ends-the-jsd-is-a-kl"
)
@seen_in("D-03: huggingface/trl#3043, verl-project/verl-recipe#151")
@effect("seeks modes where it is to cover", fix="beta weighs the teacher")
def beta_swapped():
    """beta and 1 - beta are swapped."""
    return Distiller(jsd=lambda student, teacher, beta: generalised_jsd(student, teacher, 1 - beta))


@killed_by("the-mixture-weighs-the-teacher-by-beta")
@seen_in("D-03: subtle form of huggingface/trl#3043, inside the mixture alone")
@effect("no divergence: it may rise as the models meet", fix="one beta for mixture and weights")
def beta_swapped_in_the_mixture():
    """The weights of the two KLs are right, those of the mixture are swapped."""

    def jsd(student, teacher, beta):
        if beta in (0, 1):
            return generalised_jsd(student, teacher, beta)
        mixture = torch.logaddexp(teacher + math.log(1 - beta), student + math.log(beta))
        return beta * forward_kl(mixture, teacher) + (1 - beta) * forward_kl(mixture, student)

    return Distiller(jsd=jsd)


@killed_by("at-its-ends-the-jsd-is-a-kl")
@seen_in("D-03: limits not special-cased, huggingface/trl#3043")
@effect("learns nothing at beta = 0 or 1", fix="the limits at the ends")
def ends_of_beta_vanish():
    """At beta = 0 and beta = 1 the formula is used as it is written: zero."""
    return Distiller(
        jsd=lambda student, teacher, beta: (
            generalised_jsd(student, teacher, beta) if 0 < beta < 1 else reverse_kl(student, student)
        )
    )


@killed_by("at-its-ends-the-jsd-is-a-kl")
@seen_in("D-03: modelscope/ms-swift#10078, a convention that GKD does not share")
@effect("seeks modes where it is to cover, at the ends", fix="declare the convention")
def ends_of_beta_reversed():
    """beta = 0 is the reverse and beta = 1 the forward KL; between them all is right."""

    def jsd(student, teacher, beta):
        if 0 < beta < 1:
            return generalised_jsd(student, teacher, beta)
        return (reverse_kl, forward_kl)[int(beta)](student, teacher)

    return Distiller(jsd=jsd)


@killed_by("k-tokens-and-the-rest-sum-to-one the-kl-over-k-tokens-grows-to-the-full-kl")
@seen_in("D-16: verl-project/verl#7856")
@effect("losses below zero, and most steps without a gradient", fix="one bucket for the rest")
def tail_cut_off():
    """The k kept columns stand for the distribution, and do not sum to one."""
    return Distiller(with_bucket=lambda log_probs, kept: log_probs.gather(-1, kept))


@killed_by("the-kl-over-k-tokens-grows-to-the-full-kl")
@seen_in("D-16: verl-project/verl#7806, the fix that biases")
@effect("is surer than its teacher", fix="one bucket for the rest")
def tail_renormalised():
    """The k kept columns are renormalised: a biased teacher."""
    return Distiller(with_bucket=lambda log_probs, kept: log_probs.gather(-1, kept).log_softmax(-1))


@killed_by("k-tokens-and-the-rest-sum-to-one")
@seen_in("D-16: subtle form of verl-project/verl#7856, only where nothing is left")
@effect("k = V is another loss than no k", fix="an empty bucket has log-probability -inf")
def empty_bucket_has_mass():
    """The bucket has a mass of at least 1e-6, also where nothing is left."""

    def with_bucket(log_probs, kept):
        columns = log_probs.gather(-1, kept)
        rest = 1 - columns.exp().sum(-1, keepdim=True)
        return torch.cat((columns, rest.clamp_min(1e-6).log()), dim=-1)

    return Distiller(with_bucket=with_bucket)


# ----------------------------------------------------------------------------------------------- vocabularies


@killed_by("a-wider-teacher-is-refused-or-cut")
@seen_in("D-11: huggingface/trl#2215, meta-pytorch/torchtune#2119")
@effect("mass on tokens that do not exist", fix="refuse, or cut both before the softmax")
def student_padded_with_zeros():
    """A narrower student is padded with zero logits."""
    return with_soft(
        lambda s, t, y, temperature, n: right(pad(s, (0, max(0, t.shape[-1] - s.shape[-1]))), t, y, temperature, n)
    )


@killed_by("a-wider-teacher-is-refused-or-cut")
@seen_in("D-11: microsoft/LMOps#331")
@effect("the teacher's probabilities do not sum to one", fix="cut before the softmax")
def teacher_cut_after_the_softmax():
    """A wider teacher is cut to the student's columns after its softmax."""

    def soft(s, t, y, temperature, n):
        if t.shape[-1] == s.shape[-1]:
            return right(s, t, y, temperature, n)
        log_t = softened(t.detach(), y, temperature)[..., : s.shape[-1]]
        return temperature**2 * forward_kl(softened(s, y, temperature), log_t).sum() / n

    return with_soft(soft)


@killed_by("padding-columns-carry-no-mass")
@seen_in("D-11: subtle form of huggingface/trl#2215, padding columns of both heads")
@effect("every weight is NaN", fix="0 log 0 = 0, in the value and in the gradient")
def minus_infinity_from_minus_infinity():
    """Columns that both models exclude with -inf give NaN, as they do in torch's kl_div with log_target."""

    def soft(s, t, y, temperature, n):
        kl = kl_div(
            softened(s, y, temperature), softened(t.detach(), y, temperature), reduction="none", log_target=True
        )
        return temperature**2 * kl.sum() / n

    return with_soft(soft)


@killed_by("a-sure-teacher-is-a-label")
@seen_in("no report known: teachers as labels, smoothed for the logarithm")
@effect("is never sure", fix="0 log 0 = 0")
def teacher_never_sure():
    """The teacher's logits are clamped within 8 of its largest, so that no logarithm is of 0."""

    def soft(s, t, y, temperature, n):
        return right(s, torch.maximum(t, t.amax(-1, keepdim=True) - 8.0 * temperature), y, temperature, n)

    return with_soft(soft)


# ------------------------------------------------------------------------------------------------- the teacher


@killed_by("the-declared-divergence-is-distilled")
@seen_in("D-12: arcee-ai/DistillKit#7")
@effect("a teacher of noise", fix="give the teacher its own ids")
def teacher_reads_other_ids():
    """The teacher is given ids of another tokenizer than its own."""

    def read(teacher, **inputs):
        if "input_ids" in inputs:
            inputs = {**inputs, "input_ids": (inputs["input_ids"] + 1) % teacher.config.vocab_size}
        return frozen_logits(teacher, **inputs)

    return Distiller(read=read)


@killed_by("the-teacher-is-read-with-dropout-off the-teacher-is-asked-in-eval-mode-and-not-trained")
@seen_in("D-14: yxuansu/TaCL#11")
@effect("another target at each call", fix="eval() before the teacher is asked")
def teacher_dropout_on():
    """The teacher is asked in training mode."""

    @torch.no_grad()
    def read(teacher, **inputs):
        return teacher.train()(**inputs).logits

    return Distiller(read=read)


@killed_by("the-teacher-is-read-with-dropout-off")
@seen_in("D-14: subtle form of yxuansu/TaCL#11, a loop over named_children")
@effect("another target at each call", fix="eval() reaches every module")
def dropout_on_in_the_depth():
    """The teacher, its parts and their parts are put in eval mode, and what is inside of those is not."""

    def read(teacher, **inputs):
        outer = [teacher, *teacher.children(), *(inner for part in teacher.children() for inner in part.children())]
        modes = [part.training for part in outer]
        for part in outer:
            part.training = False
        try:
            with torch.no_grad():
                return teacher(**inputs).logits
        finally:
            for part, mode in zip(outer, modes, strict=True):
                part.training = mode

    return Distiller(read=read)


@killed_by("the-teacher-is-left-in-its-modes")
@seen_in("D-14: huggingface/trl#5862, the fix that overshoots")
@effect("the student's dropout is off", fix="put every module's mode back")
def teacher_left_in_eval_mode():
    """After the teacher was asked it stays in eval mode, and with it what it shares with the student."""

    @torch.no_grad()
    def read(teacher, **inputs):
        return teacher.eval()(**inputs).logits

    return Distiller(read=read)


@killed_by("the-teacher-is-left-in-its-modes")
@seen_in("D-14: subtle form of yxuansu/TaCL#11, train() for the whole model")
@effect("parts that were frozen wake up", fix="put every module's mode back")
def every_module_back_in_the_mode_of_the_first():
    """After the teacher was asked, all its modules get the mode that the outermost had."""

    @torch.no_grad()
    def read(teacher, **inputs):
        mode = teacher.training
        logits = teacher.eval()(**inputs).logits
        teacher.train(mode)
        return logits

    return Distiller(read=read)


@killed_by(
    "no-gradient-reaches-the-teacher the-logits-of-the-teacher-carry-no-graph "
    "the-teacher-is-asked-in-eval-mode-and-not-trained"
)
@seen_in("D-15: lightly-ai/lightly-train#434")
@effect("the teacher drifts towards its student", fix="no_grad, and detach")
def teacher_receives_gradients():
    """The teacher is asked with a graph, and its logits are not detached."""

    def soft(s, t, y, temperature, n):
        return temperature**2 * forward_kl(softened(s, y, temperature), softened(t, y, temperature)).sum() / n

    return replace(with_soft(soft), read=lambda teacher, **inputs: teacher.eval()(**inputs).logits)
