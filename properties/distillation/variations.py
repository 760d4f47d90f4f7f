"""Distillation: in how many ways the same logits and labels may be given, none of which may matter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from sftspec.properties.variations import NotAsked, Variation, form, vary


def not_contiguous(logits: torch.Tensor) -> torch.Tensor:
    """The same numbers, as a slice of a wider head that lies in memory column by column."""
    wide = torch.nn.functional.pad(logits, (0, 2), value=3.0)
    return wide.mT.contiguous().mT[..., : logits.shape[-1]]


def with_tensors(name: str, change: Callable[..., tuple]) -> Variation:
    """The tensors in another form, which may not be refused: change(student, teacher, labels) -> the three of them."""
    return Variation(name, lambda loss, *given, **options: loss(*change(*given), **options))


def after_another_batch(loss, student, teacher, labels, **options):
    """The second call: the first was about other logits of the same shape, and other labels."""
    with suppress(Exception):
        loss(teacher.detach().requires_grad_(), student.detach(), labels.roll(1, -1), **options)
    return loss(student, teacher, labels, **options)


vary(
    "distillation_loss",
    with_tensors("with logits that are not contiguous", lambda s, t, y: (not_contiguous(s), not_contiguous(t), y)),
    with_tensors("with logits that a model made", lambda s, t, y: (s * 1.0, t * 1.0, y)),
    with_tensors("with a teacher that wants no gradient", lambda s, t, y: (s, t.detach(), y)),
    Variation("after another batch", after_another_batch),
)


def of_rows(shape: tuple[int, ...], name: str) -> Variation:
    """Rows (n, V), each of them in a block of this shape; of its values the last one."""

    def ask(function: Callable[..., Any], first: torch.Tensor, second: torch.Tensor, *rest: Any) -> torch.Tensor:
        if first.dim() != 2:
            raise NotAsked("it is a block already")
        ones = (1,) * len(shape)
        blocks = [rows.reshape(len(rows), *ones, -1).expand(-1, *shape, -1) for rows in (first, second)]
        values = function(*blocks, *rest)
        if values.shape != blocks[0].shape[:-1]:
            return torch.full(first.shape[:-1], torch.nan, dtype=values.dtype)
        return values.flatten(1)[:, -1]

    return Variation(name, ask)


def one_row(jsd, first, second, *rest):
    """A single pair of rows (V,), without a batch, which may be refused."""
    if len(first) != 1:
        raise NotAsked("there are several rows")
    try:
        return jsd(first[0], second[0], *rest)[None]
    except Exception as error:
        raise NotAsked(f"a row without a batch refused: {error}") from error


def after_other_rows(function, first, second, *rest):
    """The second call: the first was about the same rows the other way round."""
    with suppress(Exception):
        function(second.detach(), first.detach(), *rest)
    return function(first, second, *rest)


vary(
    "generalised_jsd",
    of_rows((2, 3), "in a block of rows"),
    Variation("as one row", one_row),
    form("with rows that are not contiguous", lambda s, t, *rest: [not_contiguous(s), not_contiguous(t), *rest]),
    Variation("after other rows", after_other_rows),
)


def in_a_block(with_bucket, log_probs, kept):
    """Rows (n, V) in a block (2, n, V)."""
    return with_bucket(log_probs.expand(2, -1, -1), kept.expand(2, -1, -1))[1]


vary(
    "with_tail_bucket",
    Variation("in a block of rows", in_a_block),
    form("with rows that are not contiguous", lambda z, kept: [not_contiguous(z), kept]),
)
