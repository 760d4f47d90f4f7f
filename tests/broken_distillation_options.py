"""Options, divergences and readers of a teacher with a bug, for each of their properties; the names say which bug."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F

from sftspec.distillation import distillation_loss, frozen_logits
from sftspec.divergences import forward_kl, generalised_jsd, with_tail_bucket
from sftspec.step import sft_loss
from sftspec.tests.broken_distillation import by_hand


def swapped_mixture(s, t, beta):
    return generalised_jsd(s, t, 1 - beta)


def other_mixture(s, t, beta):
    """The weights of the KLs right, those of the mixture swapped."""
    mixture = torch.logaddexp(t + math.log(1 - beta), s + math.log(beta))
    return beta * forward_kl(mixture, t) + (1 - beta) * forward_kl(mixture, s)


def truncated(log_probs, kept):
    return log_probs.gather(-1, kept)


def renormalised(log_probs, kept):
    return log_probs.gather(-1, kept).log_softmax(-1)


def without_eval(teacher, **inputs):
    with torch.no_grad():
        return teacher(**inputs).logits


def left_in_eval(teacher, **inputs):
    teacher.eval()
    return without_eval(teacher, **inputs)


def all_back_to_train(teacher, **inputs):
    mode = teacher.training
    logits = left_in_eval(teacher, **inputs)
    teacher.train(mode)
    return logits


def eval_with_graph(teacher, **inputs):
    mode = copy.deepcopy(teacher)
    return mode.eval()(**inputs).logits


def hard_term_of_its_own_targets(s, t, y, temperature=1.0, alpha=0.5, num_targets=None):
    soft_term = distillation_loss(s, t, y, temperature, 1.0, num_targets=num_targets)
    return alpha * soft_term + (1 - alpha) * sft_loss(s, y)


def forward_under_every_name(s, t, y, temperature=1.0, alpha=0.5, divergence="forward_kl", beta=0.5):
    return distillation_loss(s, t, y, temperature, alpha)


def beta_lost(s, t, y, temperature=1.0, alpha=0.5, divergence="forward_kl", beta=0.5):
    return distillation_loss(s, t, y, temperature, alpha, divergence=divergence)


def top_k_minus_one(s, t, y, temperature=1.0, alpha=0.5, top_k=2):
    return distillation_loss(s, t, y, temperature, alpha, top_k=max(1, top_k - 1))


def cut_in_the_soft_term_only(s, t, y, temperature=1.0, alpha=0.5, vocab_size=None):
    soft_term = distillation_loss(s, t, y, temperature, 1.0, vocab_size=vocab_size)
    return alpha * soft_term + (1 - alpha) * sft_loss(s, y)


def student_detached_in_its_kl(s, t, beta):
    mixture = torch.logaddexp(t + math.log(beta), s + math.log(1 - beta))
    return beta * forward_kl(mixture, t) + (1 - beta) * forward_kl(mixture, s.detach())


def plain_products(s, t, beta):
    mixture = torch.logaddexp(t + math.log(beta), s + math.log(1 - beta))
    return (beta * t.exp() * (t - mixture) + (1 - beta) * s.exp() * (s - mixture)).sum(-1)


def bucket_detached(log_probs, kept):
    bucket = with_tail_bucket(log_probs, kept)
    return torch.cat((bucket[..., :-1], bucket[..., -1:].detach()), -1)


def first_rows_columns(log_probs, kept):
    return with_tail_bucket(log_probs, kept[:1].expand_as(kept))


def named(change):
    """The reference with other options than it was given: change(options, alpha) -> options."""

    def loss(s, t, y, temperature=1.0, alpha=0.5, **options):
        return distillation_loss(s, t, y, **{"temperature": temperature, "alpha": alpha, **change(options, alpha)})

    return loss


def unless_forward(name, value):
    """One option is kept for the forward KL alone."""
    return named(lambda options, alpha: {**options, name: value} if "divergence" in options else options)


def nan_where_both_exclude(s, t, y, temperature=1.0, alpha=0.5, divergence="forward_kl"):
    """torch's kl_div with log_target, for the reverse KL alone."""
    if divergence != "reverse_kl":
        return distillation_loss(s, t, y, temperature, alpha, divergence=divergence)
    log_s, log_t = ((z[:, :-1][y[:, 1:] != -100] / temperature).log_softmax(-1) for z in (s, t.detach()))
    kl = F.kl_div(log_t, log_s, reduction="none", log_target=True).sum(-1).mean()
    return alpha * temperature**2 * kl + ((1 - alpha) * sft_loss(s, y) if alpha < 1 else 0.0)


def reverse_kl_of_a_teacher_with_a_graph(s, t, y, temperature=1.0, alpha=0.5, divergence="forward_kl"):
    if divergence != "reverse_kl" or alpha == 0:
        return distillation_loss(s, t, y, temperature, alpha, divergence=divergence)
    kl = by_hand(t, s, y, temperature, teacher=lambda s: s)
    return alpha * kl + (1 - alpha) * sft_loss(s, y)


def nan_without_targets(s, t, y, temperature=1.0, alpha=0.5, num_targets=None):
    value = distillation_loss(s, t, y, temperature, alpha, num_targets=num_targets)
    return value * (y[:, 1:] != -100).sum() / (y[:, 1:] != -100).sum()


def ends_detached(s, t, beta):
    return generalised_jsd(s.detach() + 0.0 * s if beta in (0, 1) else s, t, beta)


def ends_without_infinity(s, t, beta):
    return generalised_jsd(s, t, beta).nan_to_num(posinf=0.0) if beta in (0, 1) else generalised_jsd(s, t, beta)


def ends_that_clamp(s, t, beta):
    return generalised_jsd(s, t, min(1.0, max(0.0, beta)))


def summed_over_time(s, t, beta):
    value = generalised_jsd(s, t, beta)
    return value.sum(-1) if value.dim() == 2 else value


def only_dropout_modules_in_eval(teacher, **inputs):
    modes = [(part, part.training) for part in teacher.modules() if isinstance(part, torch.nn.Dropout)]
    for part, _ in modes:
        part.eval()
    try:
        return without_eval(teacher, **inputs)
    finally:
        for part, mode in modes:
            part.train(mode)


def frozen_for_good(teacher, **inputs):
    teacher.requires_grad_(False)
    return frozen_logits(teacher, **inputs)


def left_in_eval_by_an_error(teacher, **inputs):
    modes = [(part, part.training) for part in teacher.modules()]
    logits = left_in_eval(teacher, **inputs)
    for part, mode in modes:
        part.training = mode
    return logits


OPTIONS = {
    "both_terms_divide_by_the_denominator_that_is_given": [hard_term_of_its_own_targets, nan_without_targets],
    "the_divergence_that_is_named_is_trained": [
        forward_under_every_name,
        beta_lost,
        unless_forward("alpha", 1.0),
        unless_forward("top_k", None),
        unless_forward("num_targets", None),
        nan_where_both_exclude,
        reverse_kl_of_a_teacher_with_a_graph,
    ],
    "the_named_jsd_ends_in_the_two_kls": [
        named(lambda options, alpha: {**options, "beta": 1 - options["beta"]}),
        named(lambda options, alpha: {**options, "beta": min(0.999, max(0.001, options["beta"]))}),
    ],
    "the_top_k_of_the_teacher_and_a_bucket_are_compared": [
        top_k_minus_one,
        named(lambda options, alpha: {**options, "alpha": 1.0}),
    ],
    "an_option_out_of_range_is_refused": [
        named(lambda options, alpha: {**options, "alpha": min(1, max(0, alpha))}),
        named(lambda options, alpha: {**options, "top_k": options.get("top_k") or None}),
    ],
    "columns_beyond_the_shared_vocabulary_are_cut_off": [cut_in_the_soft_term_only],
    "the_jsd_pulls_at_the_student": [student_detached_in_its_kl, swapped_mixture],
    "an_excluded_token_makes_no_nan": [plain_products],
    "every_row_is_cut_to_its_own_and_the_tail_is_trained": [bucket_detached, first_rows_columns, truncated],
    "the_mixture_weighs_the_teacher_by_beta": [swapped_mixture, other_mixture],
    "the_jsd_lies_between_its_limits": [swapped_mixture, other_mixture, lambda s, t, beta: forward_kl(s, t)],
    "the_ends_of_beta_are_the_two_kls": [
        swapped_mixture,
        lambda s, t, beta: beta * (1 - beta) * forward_kl(s, t),
        ends_detached,
        ends_without_infinity,
        ends_that_clamp,
        summed_over_time,
    ],
    "a_bucket_for_the_tail_keeps_the_loss_honest": [truncated, renormalised],
    "the_teacher_is_read_in_eval_mode_and_left_as_it_was": [
        without_eval,
        left_in_eval,
        all_back_to_train,
        eval_with_graph,
        frozen_for_good,
        only_dropout_modules_in_eval,
        left_in_eval_by_an_error,
    ],
}
