"""A loss over scored rows, computed a few rows at a time: values and gradients are those of all rows taken at once.

The rule. Rows of logits (a position each, V columns) share nothing in a loss, so nothing as large as all of them needs
to exist but the gradient itself. What is done to a few rows stays in the processor's cache, and a long formula
such as a Jensen-Shannon divergence costs little more than a short one: memory is what a large vocabulary waits for.

The gradient of each piece is taken with its value, and scaled when the backward pass arrives; so it is kept in at least
float32, where no loss scaling of 16-bit training can come too late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Places = tuple[Tensor, ...]  # indices of rows: one tensor for each axis before the vocabulary's
RowLoss = Callable[[Tensor, Places], Tensor]  # (k, V) rows, at least float32, and their places -> (k,) losses

_CPU_BYTES, _GPU_BYTES = 1 << 21, 1 << 28  # of a piece: a cache's size; what keeps a GPU busy


def sum_over_rows(loss: RowLoss, logits: Tensor, places: Places) -> Tensor:
    """The sum of loss(rows, places) over the rows logits[places], in at least float32; 0 of no row.

    Nothing but the logits gets a gradient. It may be asked for twice (which costs another forward pass), and be
    differentiated again (over all rows at once).

    >>> sum_over_rows(lambda rows, places: rows.square().sum(-1), torch.ones(2, 3), (torch.tensor([1]),))
    tensor(3.)
    """
    if logits.requires_grad and torch.is_grad_enabled():
        return _Sum.apply(loss, logits, places)
    return _values(loss, logits, places, None)


def _values(loss: RowLoss, logits: Tensor, places: Places, gradient: Tensor | None) -> Tensor:
    """The sum of the losses; the gradient, where there is one, is filled in."""
    # ST-UPCAST: rows are raised before anything is computed with them.
    dtype = torch.promote_types(logits.dtype, torch.float32)
    limit = _CPU_BYTES if logits.device.type == "cpu" else _GPU_BYTES
    size = max(1, limit // (logits.shape[-1] * dtype.itemsize))
    losses = torch.zeros(len(places[0]), dtype=dtype, device=logits.device)
    for start in range(0, len(losses), size):
        piece = tuple(axis[start : start + size] for axis in places)
        rows = logits.detach()[piece].to(dtype)
        if gradient is None:
            losses[start : start + size] = loss(rows, piece).detach()
            continue
        with torch.enable_grad():
            found = loss(rows.requires_grad_(), piece)
            (gradient[piece],) = torch.autograd.grad(found.sum(), rows)
        losses[start : start + size] = found.detach()
    return losses.sum()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: RowLoss, logits: Tensor, places: Places) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.loss, ctx.places = loss, places
        # MK-ZERO: rows that are not scored keep this zero.
        ctx.gradient = _zeros_like(logits)
        return _values(loss, logits, places, ctx.gradient)

    @staticmethod
    def backward(ctx: Any, *scales: Tensor) -> tuple[None, Tensor, None]:
        (logits,), (scale,) = ctx.saved_tensors, scales
        if torch.is_grad_enabled():  # it will be differentiated again
            rows = logits[ctx.places].to(torch.promote_types(logits.dtype, torch.float32))
            total = ctx.loss(rows, ctx.places).sum()
            return None, torch.autograd.grad(total, logits, scale, create_graph=True)[0], None
        gradient, ctx.gradient = ctx.gradient, None  # it is scaled in place, so it serves once
        if gradient is None:
            gradient = _zeros_like(logits)
            _values(ctx.loss, logits, ctx.places, gradient)
        return None, gradient.mul_(scale).to(logits.dtype), None


def _zeros_like(logits: Tensor) -> Tensor:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return torch.zeros(logits.shape, dtype=dtype, device=logits.device)
