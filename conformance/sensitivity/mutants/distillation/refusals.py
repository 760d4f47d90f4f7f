"""Distillation that answers where it has to refuse, and refuses where it has to answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.distilling import Distiller, with_soft
from sftspec.distillation import distillation_loss, softened
from sftspec.masking import IGNORE
from sftspec.step import NoTargetsError, count_targets


@killed_by("a-token-of-the-teacher-that-the-student-excludes-is-infinitely-dear")
@seen_in("the inf_mask of jongwooko/distillm's losses")
@effect(
    "never learns a token that it excludes, at a loss that looks well",
    fix="0 log 0 = 0 where the teacher excludes, and nowhere else",
)
def infinities_are_masked():
    """A token that the student excludes costs nothing, also where the teacher writes it."""

    def soft(s: Tensor, t: Tensor, y: Tensor, temperature: float, n: int) -> Tensor:
        log_s, log_t = softened(s, y, temperature), softened(t.detach(), y, temperature)
        infinite = torch.isinf(log_s) | torch.isinf(log_t)
        kl = log_t.exp() * torch.where(infinite, 0.0, log_t - log_s)
        return temperature**2 * kl.sum() / n

    return with_soft(soft)


@killed_by("a-micro-batch-without-targets-adds-nothing")
@seen_in("no report known: a batch without targets that is refused")
@effect("a run ends at its first micro-batch of prompts", fix="refuse only where no denominator is given")
def micro_batch_without_targets_refused():
    """A micro-batch without targets is refused, also where the targets of the step are given."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        if not count_targets(labels):
            raise NoTargetsError("no target")
        return distillation_loss(student, teacher, labels, temperature, alpha, **options)

    return Distiller(loss=loss)


@killed_by("a-label-that-is-no-token-is-refused")
@seen_in("no report known: a mask that is labels >= 0, and a clamp")
@effect("tokens that were added later are never trained", fix="refuse a label that is no token")
def labels_out_of_the_vocabulary_ignored():
    """A label that is no token is ignored as -100 is."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        known = (labels >= 0) & (labels < (options.get("vocab_size") or student.shape[-1]))
        labels = torch.where(known, labels, IGNORE)
        return distillation_loss(student, teacher, labels, temperature, alpha, **options)

    return Distiller(loss=loss)


@killed_by("an-option-out-of-range-is-refused")
@seen_in("no report known: a slice, which is cut to what there is")
@effect("compares other columns than the setting says", fix="refuse what is out of range")
def options_cut_to_the_vocabulary():
    """top_k and vocab_size beyond the vocabulary are cut to it, and 0 is taken for None."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, top_k=None, vocab_size=None, **options):
        columns = min(student.shape[-1], teacher.shape[-1])
        sizes: dict[str, Any] = {
            "vocab_size": min(vocab_size, columns) if vocab_size else None,
            "top_k": min(top_k, vocab_size or columns) if top_k else None,
        }
        return distillation_loss(student, teacher, labels, temperature, alpha, **sizes, **options)

    return Distiller(loss=loss)
