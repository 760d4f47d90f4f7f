"""Distillation losses with a bug, for each property of a loss without options; the names say which bug."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sftspec.distillation import distillation_loss
from sftspec.divergences import forward_kl
from sftspec.step import sft_loss


def soft(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s, t, y, temperature, 1.0)


def no_square(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s, t, y, temperature, alpha) / temperature**2


def fourth_power(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s, t, y, temperature, alpha) * temperature**2


def swapped(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s, t, y, temperature, alpha, divergence="reverse_kl")


def mean_over_vocabulary(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s, t, y, temperature, alpha) / s.shape[-1]


def batchmean(s, t, y, temperature=1.0, alpha=0.5):
    """Divided by the first axis of (B, T, V)."""
    return distillation_loss(s, t, y, temperature, alpha, num_targets=len(y))


def over_all_positions(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s, t, y, temperature, alpha, num_targets=y.numel())


def mean_of_means(s, t, y, temperature=1.0, alpha=0.5):
    rows = [b for b in range(len(y)) if (y[b, 1:] != -100).any()]
    parts = [distillation_loss(s[b : b + 1], t[b : b + 1], y[b : b + 1], temperature, alpha) for b in rows]
    return torch.stack(parts).mean()


def student_only_softened(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s, t * temperature, y, temperature, alpha)


def alpha_swapped(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s, t, y, temperature, 1 - alpha)


def square_on_everything(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s, t, y, temperature, alpha) + (1 - alpha) * (temperature**2 - 1) * sft_loss(s, y)


def against_itself(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s, s, y, temperature, alpha)


def squared_logits(s, t, y, temperature=1.0, alpha=0.5):
    return (s - t.detach())[:, :-1][y[:, 1:] != -100].square().mean()


def without_entropy(s, t, y, temperature=1.0, alpha=0.5):
    """A cross-entropy called KL: the same gradient, another value."""
    log_t = (t.detach()[:, :-1][y[:, 1:] != -100].double() / temperature).log_softmax(-1)
    return distillation_loss(s, t, y, temperature, alpha) - temperature**2 * (log_t.exp() * log_t).sum(-1).mean()


def by_hand(s, t, y, temperature=1.0, alpha=0.5, mask=lambda y: y[:, 1:] != -100, teacher=torch.detach):
    """KL by torch on chosen rows, as recipes write it."""
    log_s, log_t = (
        (z / temperature).log_softmax(-1) for z in (s[:, : mask(y).shape[1]], teacher(t)[:, : mask(y).shape[1]])
    )
    kl = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(-1)
    return temperature**2 * kl[mask(y)].mean()


def multiplied_mask(s, t, y, temperature=1.0, alpha=0.5):
    kl = F.kl_div(
        (s / temperature).log_softmax(-1), (t.detach() / temperature).log_softmax(-1), reduction="none", log_target=True
    )
    mask = F.pad(y[:, 1:] != -100, (0, 1))
    return temperature**2 * (kl.sum(-1) * (mask + 1e-8)).sum() / mask.sum()


def unshifted(s, t, y, temperature=1.0, alpha=0.5):
    return by_hand(s, t, y, temperature, mask=lambda y: y != -100)


def everything(s, t, y, temperature=1.0, alpha=0.5):
    return by_hand(s, t, y, temperature, mask=lambda y: torch.ones_like(y, dtype=torch.bool))


def teacher_with_graph(s, t, y, temperature=1.0, alpha=0.5):
    return by_hand(s, t, y, temperature, teacher=lambda t: t)


def zero_padded(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(F.pad(s, (0, t.shape[-1] - s.shape[-1])), t, y, temperature, alpha)


def cut_after_softmax(s, t, y, temperature=1.0, alpha=0.5):
    log_t = (t / temperature).log_softmax(-1)[..., : s.shape[-1]]
    kl = F.kl_div((s / temperature).log_softmax(-1), log_t.detach(), reduction="none", log_target=True).sum(-1)
    return temperature**2 * kl[:, :-1][y[:, 1:] != -100].mean()


def in_its_own_dtype(s, t, y, temperature=1.0, alpha=0.5):
    return by_hand(s, t, y, temperature)


def both_terms_always(s, t, y, temperature=1.0, alpha=0.5):
    return alpha * soft(s, t, y, temperature) + (1 - alpha) * sft_loss(s, y)


def masked_by_multiplication(s, t, y, temperature=1.0, alpha=0.5):
    mask = (y[:, 1:] != -100).to(s.dtype)
    logs = ((z[:, :-1] / temperature).log_softmax(-1) for z in (s, t.detach()))
    return temperature**2 * (forward_kl(*logs) * mask).sum() / mask.sum()


def zero_padded_teacher(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s, F.pad(t, (0, s.shape[-1] - t.shape[-1])), y, temperature, alpha)


def hard_term_always(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s, t, y, temperature, alpha) + (0.0 * sft_loss(s, y) if alpha == 1 else 0.0)


def clamped_log_probabilities(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s.clamp(min=-1e4), t, y, temperature, alpha)


def teacher_in_the_students_dtype(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s, t.to(s.dtype), y, temperature, alpha)


def gradient_halved_in_bfloat16(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss((s + s.detach()) / 2 if s.dtype == torch.bfloat16 else s, t, y, temperature, alpha)


def hard_term_in_its_own_dtype(s, t, y, temperature=1.0, alpha=0.5):
    rows, targets = s[:, :-1][y[:, 1:] != -100], y[:, 1:][y[:, 1:] != -100]
    soft_term = alpha * soft(s, t, y, temperature) if alpha > 0 else 0.0
    return soft_term + ((1 - alpha) * F.cross_entropy(rows, targets) if alpha < 1 else 0.0)


def negative_labels_ignored(s, t, y, temperature=1.0, alpha=0.5):
    return distillation_loss(s, t, y.where(y >= 0, -100), temperature, alpha)


LOSSES = {
    "the_soft_loss_is_the_mean_kl_from_teacher_to_student": [swapped, no_square, mean_over_vocabulary, without_entropy],
    "the_soft_gradient_is_t_times_the_gap_of_probabilities": [
        no_square,
        against_itself,
        mean_over_vocabulary,
        batchmean,
    ],
    "at_high_temperature_logits_are_matched": [no_square, fourth_power, student_only_softened],
    "no_temperature_inflates_the_loss": [fourth_power, student_only_softened],
    "equal_models_have_nothing_to_learn": [student_only_softened, squared_logits, without_entropy],
    "a_constant_on_all_logits_changes_nothing": [squared_logits],
    "a_token_that_the_student_misses_pulls_at_full_strength": [
        swapped,
        no_square,
        against_itself,
        clamped_log_probabilities,
    ],
    "alpha_mixes_the_soft_and_the_hard_loss": [alpha_swapped, square_on_everything, soft],
    "at_temperature_one_it_is_cross_entropy_with_soft_labels": [swapped, without_entropy, against_itself],
    "a_sure_teacher_is_a_label": [in_its_own_dtype, swapped],
    "low_precision_logits_are_reduced_in_float32": [
        in_its_own_dtype,
        teacher_in_the_students_dtype,
        gradient_halved_in_bfloat16,
        hard_term_in_its_own_dtype,
    ],
    "the_soft_loss_reads_the_positions_of_the_hard_loss": [unshifted, everything, multiplied_mask],
    "logits_without_a_target_do_not_matter": [unshifted, everything, masked_by_multiplication],
    "positions_without_a_target_do_not_dilute": [batchmean, over_all_positions],
    "the_cut_into_batches_does_not_matter": [mean_of_means, batchmean],
    "a_batch_without_targets_trains_nothing": [by_hand, everything],
    "the_teacher_receives_no_gradient": [teacher_with_graph],
    "padding_columns_carry_no_mass": [in_its_own_dtype, mean_over_vocabulary],
    "a_wider_teacher_is_refused_or_cut": [zero_padded, cut_after_softmax],
    "a_wider_student_is_refused_or_cut": [zero_padded_teacher],
    "a_term_of_weight_zero_is_left_out": [both_terms_always, hard_term_always],
    "a_label_that_is_no_token_is_refused": [negative_labels_ignored],
}
