"""One optimizer step: every target of the step weighs the same, however the step was cut into batches.

    L = (1/n) * sum over targets of [ logsumexp(z) - z[y] ]

n counts the targets of the *whole* optimizer step: all micro-batches, all ranks. A mean per micro-batch, averaged, is
another loss as soon as the counts differ (transformers#34191, torchtune#1875; relative gradient error 1.3 at counts of
1 to 32). The gradient is accumulated, reduced over ranks, clipped once over all parameters together (Pascanu et al.
2013, arXiv:1211.5063, algorithm 1), and only then given to the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sftspec.job import RANK
from sftspec.row_losses import Places, sum_over_rows

IGNORE = -100


class NoTargetsError(ValueError):
    """A loss over no target: 0/0. Drop and count such an example, or skip and count such a step."""


class NonFiniteGradientError(ValueError):
    """The gradient norm is inf or NaN: stepping would write NaN into every parameter."""


def count_targets(labels: Tensor) -> int:
    """Number of scored positions of labels (B, T): the first column has no logits before it, so it never counts."""
    return int((labels[..., 1:] != IGNORE).sum())


def check_vocabulary(targets: Tensor, size: int) -> None:
    """Raise a ValueError if one of the targets (N,) is no token of a vocabulary of this size."""
    if targets.numel() and not (int(targets.min()) >= 0 and int(targets.max()) < size):
        raise ValueError(f"a label lies outside the vocabulary of {size}; -100 marks what is ignored")


def sft_loss(logits: Tensor, labels: Tensor, num_targets: int | None = None, weights: Tensor | None = None) -> Tensor:
    """Token-mean cross-entropy of the next token.

    Args:
        logits: (B, T, V), any float dtype; reduced in float32 (float64 stays float64).
        labels: (B, T) int64, aligned with the input ids; -100 is ignored. logits[:, t] are scored against
            labels[:, t + 1].
        num_targets: the denominator. None: the number of targets in these labels (or their summed weight). With
            gradient accumulation or several ranks: the number of targets of the whole optimizer step.
        weights: (B, T) weight of each label, aligned with labels; None weighs every target 1. They get no gradient.
    Returns:
        Scalar loss in nats per target.
    Raises:
        NoTargetsError: no label is scored and no num_targets was given.
        ValueError: shapes that do not fit, or a label outside the vocabulary.
    """
    if logits.dim() != 3 or logits.shape[:2] != labels.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} do not fit labels {tuple(labels.shape)}; want (B, T, V), (B, T)"
        )
    targets = labels[:, 1:]
    scored = targets != IGNORE
    check_vocabulary(targets[scored], logits.shape[-1])
    if num_targets is not None:
        denominator: float = num_targets
    else:
        denominator = count_targets(labels) if weights is None else float(weights[:, 1:][scored].sum())
    if not denominator > 0:
        raise NoTargetsError("the batch has no target (every label is -100): drop and count it, or skip the step")

    def loss(rows: Tensor, places: Places) -> Tensor:
        losses = cross_entropies(rows, targets[places])
        return losses if weights is None else losses * weights[:, 1:][places].to(losses.dtype)

    # Selecting the scored rows first keeps 0 * inf = NaN out: what is ignored cannot touch the loss.
    return sum_over_rows(loss, logits, scored.nonzero(as_tuple=True)) / denominator


def cross_entropies(rows: Tensor, targets: Tensor) -> Tensor:
    """logsumexp(z) - z[y] of each row: (n, V) logits and (n,) targets -> (n,) nats."""
    return torch.logsumexp(rows, dim=-1) - rows.gather(-1, targets[:, None]).squeeze(-1)


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients by min(1, max_norm / norm), norm being taken over all of them together.

    Returns the norm before clipping. Gradients at or below max_norm stay bitwise as they are.

    Raises:
        NonFiniteGradientError: the norm is inf or NaN; no gradient is changed.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    if not torch.isfinite(norm):
        raise NonFiniteGradientError(f"the gradient norm is {float(norm)}: no parameter was changed")
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)
    return float(norm)


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did.

    loss         nats per target over the whole step (nan when skipped)
    num_targets  the denominator
    grad_norm    before clipping (0 when skipped)
    skipped      the step had no target: nothing was changed
    """

    loss: float
    num_targets: int
    grad_norm: float
    skipped: bool = False


def sft_step(
    model: torch.nn.Module,
    batches: Sequence,
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float | None = None,
    loss: Callable[..., Tensor] = sft_loss,
    clip: Callable[..., float] = clip_gradients,
    group=None,
) -> StepReport:
    """Forward, backward and one update over the micro-batches of one optimizer step.

    Args:
        model: called as `forward_logits` calls it; its parameters are those of the optimizer.
        batches: the micro-batches (`sftspec.collation.Batch`) of this rank.
        optimizer: any torch optimizer.
        max_grad_norm: clip the accumulated gradient to this norm; None leaves it.
        loss, clip: the parts above, replaceable.
        group: a torch.distributed process group; every rank of it takes part, also one whose batches have no target.
    Returns:
        StepReport of the whole step (over all ranks).
    Raises:
        NonFiniteGradientError: parameters are unchanged.
    """
    num_targets = sum(batch.num_targets for batch in batches)
    if group is not None:
        num_targets = int(_sum_over_ranks(torch.tensor(num_targets), group))
    optimizer.zero_grad(set_to_none=True)
    if num_targets == 0:
        return StepReport(float("nan"), 0, 0.0, skipped=True)
    total = 0.0
    for batch in batches:
        if batch.num_targets:
            part = loss(forward_logits(model, batch), batch.labels, num_targets=num_targets)
            part.backward()
            total += float(part.detach())
    parameters = [parameter for parameters in optimizer.param_groups for parameter in parameters["params"]]
    if group is not None:
        total = float(_sum_over_ranks(torch.tensor(total, dtype=torch.float64), group))
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            _sum_over_ranks(parameter.grad, group)
    norm = clip(parameters, float("inf") if max_grad_norm is None else max_grad_norm)
    optimizer.step()
    return StepReport(total, num_targets, norm)


def _sum_over_ranks(value: Tensor, group) -> Tensor:
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.SUM, group=group)
    return value


@contextmanager
def in_eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Every module in eval mode; afterwards its own mode is put back, which need not be that of the model."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def forward_logits(model: torch.nn.Module, batch) -> Tensor:
    """Logits (B, T, V) of a causal LM in Hugging Face's calling convention; no cache, no loss of the model's own."""
    RANK.set(batch.rank)
    return model(**batch.model_inputs(), use_cache=False).logits
