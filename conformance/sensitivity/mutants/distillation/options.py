"""Distillation that is right until an option is used: weights, denominators, names, top-k, vocabularies."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.distilling import Distiller, check_range, targets_of_the_step
from sftspec.distillation import distillation_loss, softened
from sftspec.divergences import forward_kl, generalised_jsd, with_tail_bucket
from sftspec.step import count_targets, sft_loss


def with_options(change: Callable[[dict], dict]) -> Distiller:
    """The reference with other options than it was given: change(options) -> options."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        return distillation_loss(student, teacher, labels, temperature, alpha, **change(options))

    return Distiller(loss=loss)


def with_terms(soft: Callable[..., Tensor], hard: Callable[..., Tensor]) -> Distiller:
    """alpha * soft(student, teacher, labels, T, options) + (1 - alpha) * hard(same); a term of weight 0 is left out."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        check_range(temperature, alpha)
        given = student, teacher, labels, temperature, options
        return (alpha * soft(*given) if alpha > 0 else 0.0) + ((1 - alpha) * hard(*given) if alpha < 1 else 0.0)

    return Distiller(loss=loss)


def with_jsd(inside: Callable[..., Tensor]) -> Distiller:
    """The reference with another JSD for 0 < beta < 1: inside(student, teacher, mixture, beta), all of them logs."""

    def jsd(student, teacher, beta=0.5):
        if beta in (0, 1):
            return generalised_jsd(student, teacher, beta)
        mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
        return inside(student, teacher, mixture, beta)

    return Distiller(jsd=jsd)


def right_soft(student, teacher, labels, temperature, options) -> Tensor:
    return distillation_loss(student, teacher, labels, temperature, 1.0, **options)


def right_hard(student, teacher, labels, temperature, options) -> Tensor:
    return distillation_loss(student, teacher, labels, temperature, 0.0, **options)


# ------------------------------------------------------------------------------------------- weights and denominators


@killed_by("at-alpha-zero-the-divergence-is-left-out")
@seen_in("no report known: alpha * soft + (1 - alpha) * hard, as it is written")
@effect("every weight is NaN", fix="leave a term of weight 0 out")
def both_terms_always():
    """Both terms are computed, whatever their weight: at alpha = 0 an infinite divergence is 0 * inf."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        check_range(temperature, alpha)
        given = student, teacher, labels, temperature, options
        return alpha * right_soft(*given) + (1 - alpha) * right_hard(*given)

    return Distiller(loss=loss)


@killed_by("both-terms-have-the-denominator-that-is-given")
@seen_in("D-07: subtle form of huggingface/trl#4719, the hard term")
@effect("short micro-batches teach their labels more", fix="one denominator for both terms")
def hard_term_by_its_own_targets():
    """The cross-entropy is divided by the targets of its micro-batch, also where those of the step are given."""
    return with_terms(
        right_soft,
        lambda s, t, y, temperature, options: right_hard(s, t, y, temperature, {**options, "num_targets": None}),
    )


@killed_by("the-cut-of-a-step-leaves-its-weights")
@seen_in("D-08: subtle form of modelscope/ms-swift#6600, times the micro-batches")
@effect("the rate grows with the accumulation", fix="divide by the targets of the step, once")
def micro_batches_not_averaged():
    """Micro-batches are divided by the targets of the mean micro-batch, and added up where they were to be averaged."""
    return Distiller(denominator=lambda batch, batches: targets_of_the_step(batch, batches) / len(batches))


# --------------------------------------------------------------------------------------------------- names, JSD, top-k


@killed_by("a-named-divergence-is-trained")
@seen_in("D-03: subtle form of huggingface/trl#3043, lost on the way")
@effect("beta changes nothing", fix="pass beta on")
def beta_lost():
    """The JSD is that of beta = 1/2, whatever beta is given."""
    return with_options(lambda options: {**options, "beta": 0.5})


@killed_by("an-unknown-divergence-is-refused")
@seen_in("D-02: subtle form of paiml/aprender#2153, a name that is looked up with a default")
@effect("a typing error trains the forward KL", fix="refuse a name that is unknown")
def unknown_name_is_the_forward_kl():
    """A divergence whose name is unknown is the forward KL."""

    def known(options):
        name = options.get("divergence")
        return {**options, "divergence": name if name in ("reverse_kl", "jsd") else "forward_kl"}

    return with_options(known)


@killed_by("the-named-jsd-ends-in-the-two-kls")
@seen_in("D-03: subtle form of modelscope/ms-swift#10078, in the loss alone")
@effect("seeks modes where it is to cover, at the ends", fix="one JSD for the function and the loss")
def named_jsd_ends_reversed():
    """In the loss, a JSD with beta = 0 is the reverse and one with beta = 1 the forward KL."""
    return with_options(
        lambda options: {**options, "beta": 1 - options["beta"]} if options.get("beta") in (0, 1) else options
    )


@killed_by("a-named-divergence-is-trained")
@seen_in("D-15: subtle form of lightly-ai/lightly-train#434, the student's own probabilities as constant weights")
@effect("learns nothing, at the right loss", fix="detach the teacher alone")
def weights_of_the_reverse_kl_detached():
    """The reverse KL's value is right, but its weights are constants, and what is left of the gradient is 0."""

    def soft(student, teacher, labels, temperature, options):
        if options.get("divergence") != "reverse_kl" or options.get("top_k") is not None:
            return right_soft(student, teacher, labels, temperature, options)
        vocabulary = options.get("vocab_size")
        log_s = softened(student[..., :vocabulary], labels, temperature)
        log_t = softened(teacher.detach()[..., :vocabulary], labels, temperature)
        weights = log_s.exp().detach()
        kl = weights * torch.where(weights > 0, log_s - log_t, 0.0)
        return temperature**2 * kl.sum() / (options.get("num_targets") or count_targets(labels))

    return with_terms(soft, right_hard)


@killed_by("the-jsd-pulls-at-the-student")
@seen_in("D-15: subtle form of lightly-ai/lightly-train#434, a detach that overshoots")
@effect("learns nothing", fix="detach the teacher alone")
def student_detached_in_its_kl():
    """The JSD's value is right, and its gradient reaches the student through the mixture only, where it cancels."""
    return with_jsd(
        lambda student, teacher, mixture, beta: (
            beta * forward_kl(mixture, teacher) + (1 - beta) * forward_kl(mixture, student.detach())
        )
    )


@killed_by("an-excluded-token-makes-no-nan")
@seen_in("D-11: subtle form of huggingface/trl#2215, padding columns of both heads")
@effect("every weight is NaN", fix="0 log 0 = 0, in the value and in the gradient")
def jsd_of_excluded_tokens_is_nan():
    """The JSD is written as p * (log p - log m), which is 0 * NaN at a token that both models exclude."""
    return with_jsd(
        lambda student, teacher, mixture, beta: (
            beta * (teacher.exp() * (teacher - mixture)).sum(-1)
            + (1 - beta) * (student.exp() * (student - mixture)).sum(-1)
        )
    )


@killed_by("the-top-k-of-the-teacher-and-a-bucket-are-compared")
@seen_in("D-16: subtle form of verl-project/verl#7856, the columns of whom is at hand")
@effect("what the teacher prefers is in the bucket", fix="the teacher's top k")
def top_k_of_the_student():
    """The columns that are compared are the student's k most likely, not the teacher's."""

    def soft(student, teacher, labels, temperature, options):
        top_k, vocabulary = options.get("top_k"), options.get("vocab_size")
        if top_k is None or options.get("divergence", "forward_kl") != "forward_kl":
            return right_soft(student, teacher, labels, temperature, options)
        log_s = softened(student[..., :vocabulary], labels, temperature)
        log_t = softened(teacher.detach()[..., :vocabulary], labels, temperature)
        kept = log_s.topk(top_k).indices
        kl = forward_kl(with_tail_bucket(log_s, kept), with_tail_bucket(log_t, kept))
        return temperature**2 * kl.sum() / (options.get("num_targets") or count_targets(labels))

    return with_terms(soft, right_hard)


@killed_by("the-top-k-of-the-teacher-and-a-bucket-are-compared")
@seen_in("D-16: subtle form of verl-project/verl#7806, a place shared")
@effect("one token fewer is told apart", fix="k tokens, and a bucket beside them")
def bucket_among_the_k():
    """The bucket takes the place of one of the k tokens."""
    return with_options(
        lambda options: options if options.get("top_k") is None else {**options, "top_k": max(1, options["top_k"] - 1)}
    )


@killed_by("each-row-keeps-its-own-columns-and-trains-its-tail")
@seen_in("D-16: subtle form of verl-project/verl#7806, a constant")
@effect("tokens of the tail are never pushed down", fix="the bucket is part of the graph")
def bucket_detached():
    """The bucket's mass is right and has no gradient."""

    def with_bucket(log_probs, kept):
        coarse = with_tail_bucket(log_probs, kept)
        return torch.cat((coarse[..., :-1], coarse[..., -1:].detach()), dim=-1)

    return Distiller(with_bucket=with_bucket)


@killed_by("each-row-keeps-its-own-columns-and-trains-its-tail")
@seen_in("D-16: subtle form of verl-project/verl#7856, indices of one position")
@effect("later tokens are compared by the first one's columns", fix="columns for each row")
def columns_of_the_first_row():
    """Every row is cut to the columns that the first row keeps."""
    return Distiller(with_bucket=lambda log_probs, kept: with_tail_bucket(log_probs, kept[:1].expand_as(kept)))


# --------------------------------------------------------------------------------------------------------- vocabularies


@killed_by("a-wider-student-is-refused-or-cut")
@seen_in("D-11: subtle form of huggingface/trl#2215, the teacher's side")
@effect("is taught tokens that its teacher does not have", fix="refuse, or cut both before the softmax")
def teacher_padded_with_zeros():
    """A narrower teacher is padded with zero logits."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        missing = max(0, student.shape[-1] - teacher.shape[-1])
        return distillation_loss(student, pad(teacher, (0, missing)), labels, temperature, alpha, **options)

    return Distiller(loss=loss)


@killed_by("columns-beyond-the-vocabulary-are-cut-off-in-both-terms")
@seen_in("D-11: subtle form of meta-pytorch/torchtune#2119, one term")
@effect("padding keeps its mass beside the label", fix="cut both terms")
def cut_in_the_soft_term_only():
    """vocab_size= cuts the divergence, and the cross-entropy has all columns."""

    def hard(student, teacher, labels, temperature, options):
        n = options.get("num_targets")
        return sft_loss(student, labels, num_targets=count_targets(labels) if n is None else n)

    return with_terms(right_soft, hard)
