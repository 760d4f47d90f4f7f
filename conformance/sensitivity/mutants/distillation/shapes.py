"""Distillation that is right until two options meet, or until there is more than fits a chunk, a block or an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.distillation.options import (
    right_hard,
    right_soft,
    with_options,
    with_terms,
)
from sftspec.conformance.sensitivity.mutants.distilling import Distiller
from sftspec.distillation import distillation_loss, softened
from sftspec.divergences import forward_kl, with_tail_bucket
from sftspec.masking import IGNORE
from sftspec.step import count_targets


def with_divergence(changed: Callable[..., Tensor], where: Callable[[dict], Any]) -> Distiller:
    """The reference with another soft term where(options): changed(student, teacher, labels, T, options)."""

    def soft(student, teacher, labels, temperature, options):
        chosen = changed if where(options) else right_soft
        return chosen(student, teacher, labels, temperature, options)

    return with_terms(soft, right_hard)


# ---------------------------------------------------------------------------------------------- beside vocab_size


@killed_by("a-named-divergence-is-trained")
@seen_in("D-01: subtle form of IntelLabs/distiller#122, a branch for heads of two sizes")
@effect("the teacher falls silent as T grows", fix="one path, cut before it")
def t_squared_lost_beside_vocab_size():
    """Where vocab_size is given beside top_k or another divergence, T**2 is left out."""
    return with_divergence(
        lambda s, t, y, temperature, options: right_soft(s, t, y, temperature, options) / temperature**2,
        lambda options: options.get("vocab_size") and {"top_k", "divergence"} & options.keys(),
    )


@killed_by("a-named-divergence-is-trained")
@seen_in("D-02: subtle form of paiml/aprender#2153, a branch for heads of two sizes")
@effect("never learns what it never says, where heads differ", fix="one path, cut before it")
def divergence_lost_beside_vocab_size():
    """Where vocab_size is given, the divergence is the forward KL, whatever is named."""

    def lost(options):
        known = options.get("divergence") in ("reverse_kl", "jsd")
        return {**options, "divergence": "forward_kl"} if known and options.get("vocab_size") else options

    return with_options(lost)


@killed_by("a-named-divergence-is-trained")
@seen_in("D-16: subtle form of verl-project/verl#7856, columns that are chosen from the whole head")
@effect("padding takes the places of the likeliest tokens", fix="cut, then choose")
def top_k_chosen_among_padding():
    """The teacher's top k are chosen from all its columns, and those beyond vocab_size then cut off."""

    def soft(student, teacher, labels, temperature, options):
        size, top_k = options["vocab_size"], options["top_k"]
        chosen = softened(teacher.detach(), labels, temperature).topk(top_k).indices
        rows = [softened(z[..., :size], labels, temperature) for z in (student, teacher.detach())]
        terms = [
            forward_kl(*(with_tail_bucket(z[i], chosen[i][chosen[i] < size]) for z in rows)) for i in range(len(chosen))
        ]
        return temperature**2 * torch.stack(terms).sum() / (options.get("num_targets") or count_targets(labels))

    return with_divergence(
        soft,
        lambda options: (
            options.get("vocab_size")
            and options.get("top_k")
            and options.get("divergence", "forward_kl") == "forward_kl"
        ),
    )


# ---------------------------------------------------------------------------------------- chunks, blocks and answers


@killed_by("a-named-divergence-is-trained")
@seen_in("D-23: subtle form of huggingface/trl#5731, a chunked path for some")
@effect("the last answers of a batch are not distilled", fix="the last chunk may be smaller")
def last_chunk_of_other_divergences_lost():
    """All but the plain forward KL are computed in chunks of 1,024 targets, and a last one that is smaller is lost."""

    def soft(student, teacher, labels, temperature, options):
        scored = labels[:, 1:] != IGNORE
        count = int(scored.sum())
        if count <= 1024:
            return right_soft(student, teacher, labels, temperature, options)
        reached = (scored.flatten().cumsum(0) <= count // 1024 * 1024).view_as(scored)
        kept = torch.cat((labels[:, :1], torch.where(reached, labels[:, 1:], IGNORE)), dim=1)
        options = {**options, "num_targets": options.get("num_targets") or count}
        return right_soft(student, teacher, kept, temperature, options)

    return with_divergence(soft, lambda options: {"top_k", "divergence"} & options.keys())


@killed_by("the-soft-loss-is-the-mean-kl-from-teacher-to-student")
@seen_in("no report known: a path in blocks of the vocabulary")
@effect("rare tokens are never taught", fix="the last block may be smaller")
def last_block_of_the_vocabulary_lost():
    """Columns are read in blocks of 1,024, and a last one that is smaller is lost."""

    def soft(student, teacher, labels, temperature, options):
        size = student.shape[-1] // 1024 * 1024 or student.shape[-1]
        inside = torch.where(labels < size, labels, 0)  # which token it is does not matter to the divergence
        return right_soft(student[..., :size], teacher[..., :size], inside, temperature, options)

    return with_divergence(soft, lambda options: not options)


@killed_by("the-top-k-of-the-teacher-and-a-bucket-are-compared")
@seen_in("D-16: subtle form of verl-project/verl#7856, a server that tells twenty of them")
@effect("k = 100 is k = 20", fix="refuse what is not given")
def top_k_cut_to_twenty():
    """A top k beyond twenty is cut to twenty."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, **options):
        top_k = options.get("top_k")
        if top_k is not None and top_k <= student.shape[-1]:
            options["top_k"] = min(top_k, 20)
        return distillation_loss(student, teacher, labels, temperature, alpha, **options)

    return Distiller(loss=loss)
