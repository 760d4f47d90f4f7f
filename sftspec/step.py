"""One optimizer step: every target of the step weighs the same, however the step was cut into batches.

    L = (1/n) * sum over targets of [ logsumexp(z) - z[y] ]

n counts the targets of the *whole* optimizer step: all micro-batches, all ranks. A mean per micro-batch, averaged, is
another loss as soon as the counts differ (transformers#34191, torchtune#1875; relative gradient error 1.3 at counts of
1 to 32). The gradient is accumulated, reduced over ranks, clipped once over all parameters together (Pascanu et al.
2013, arXiv:1211.5063, algorithm 1), and only then given to the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from sftspec.job import RANK
from sftspec.row_losses import Places, sum_over_rows

IGNORE = -100
FLOAT16_SCALE = 2.0**10


class NoTargetsError(ValueError):
    """A loss over no target: 0/0. Drop and count such an example, or skip and count such a step."""


class NonFiniteGradientError(ValueError):
    """The gradient norm is inf or NaN: stepping would write NaN into every parameter."""


def count_targets(labels: Tensor) -> int:
    """Number of scored positions of labels (B, T): the first column has no logits before it, so it never counts.

    >>> count_targets(torch.tensor([[5, -100, 7]]))  # nothing is before the first
    1
    """
    # MK-COUNT, MK-FIRST: what is scored, without the first, which has no logits before it.
    return int((labels[..., 1:] != IGNORE).sum())


def check_vocabulary(targets: Tensor, size: int) -> None:
    """Raise a ValueError if one of the targets (N,) is no token of a vocabulary of this size.

    >>> check_vocabulary(torch.tensor([0, 3]), 3)
    Traceback (most recent call last):
        ...
    ValueError: a label lies outside the vocabulary of 3; -100 marks what is ignored
    """
    if targets.numel() and not (int(targets.min()) >= 0 and int(targets.max()) < size):
        raise ValueError(f"a label lies outside the vocabulary of {size}; -100 marks what is ignored")


def sft_loss(logits: Tensor, labels: Tensor, num_targets: float | None = None, weights: Tensor | None = None) -> Tensor:
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

    >>> labels = torch.tensor([[-100, 1, 2], [-100, 3, -100]])
    >>> sft_loss(torch.zeros(2, 3, 4), labels)  # ln 4
    tensor(1.3863)
    >>> sft_loss(torch.zeros(2, 3, 4), labels, num_targets=6)  # as one of two micro-batches of three targets
    tensor(0.6931)
    """
    if logits.dim() != 3 or logits.shape[:2] != labels.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} do not fit labels {tuple(labels.shape)}; want (B, T, V), (B, T)"
        )
    # MK-SHIFT: the logits at t are scored against the label at t + 1.
    targets = labels[:, 1:]
    scored = targets != IGNORE
    check_vocabulary(targets[scored], logits.shape[-1])
    if num_targets is not None:
        denominator: float = num_targets
    else:
        # MK-WEIGHT: of weighted targets the denominator is the sum of the weights.
        denominator = count_targets(labels) if weights is None else float(weights[:, 1:][scored].sum())
    # MK-NONEMPTY: 0/0 is no loss.
    if not denominator > 0:
        raise NoTargetsError("the batch has no target (every label is -100): drop and count it, or skip the step")

    def loss(rows: Tensor, places: Places) -> Tensor:
        losses = cross_entropies(rows, targets[places])
        return losses if weights is None else losses * weights[:, 1:][places].to(losses.dtype)

    # MK-IGNVAL: selecting the scored rows first keeps 0 * inf = NaN out: what is ignored cannot touch the loss.
    return sum_over_rows(loss, logits, scored.nonzero(as_tuple=True)) / denominator


def cross_entropies(rows: Tensor, targets: Tensor) -> Tensor:
    """logsumexp(z) - z[y] of each row: (n, V) logits and (n,) targets -> (n,) nats.

    >>> cross_entropies(torch.zeros(1, 2), torch.tensor([1]))  # ln 2
    tensor([0.6931])
    """
    return torch.logsumexp(rows, dim=-1) - rows.gather(-1, targets[:, None]).squeeze(-1)


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients by min(1, max_norm / norm), norm being taken over all of them together.

    Returns the norm before clipping. Gradients at or below max_norm stay bitwise as they are.

    Raises:
        NonFiniteGradientError: the norm is inf or NaN; no gradient is changed.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_gradients([weight], 1.0), weight.grad
    (5.0, tensor([0.6000, 0.8000]))
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    # The norm of the norms is that of all gradients together.
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    # ST-NONFINITE: found before any gradient is scaled.
    if not torch.isfinite(norm):
        raise NonFiniteGradientError(f"the gradient norm is {float(norm)}: no parameter was changed")
    # ST-CLIP: one factor for all parameters. ST-CLIPNOOP: at the limit nothing is multiplied, not even by 1.
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)
    return float(norm)


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did.

    loss         nats per target over the whole step (nan when skipped)
    num_targets  targets of the step; the loss is divided by their number, or by what they weigh together
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
    autocast: str = "",
) -> StepReport:
    """Forward, backward and one update over the micro-batches of one optimizer step.

    Args:
        model: called as `forward_logits` calls it; its parameters are those of the optimizer.
        batches: the micro-batches (`sftspec.collation.Batch`) of this rank.
        optimizer: any torch optimizer.
        max_grad_norm: clip the accumulated gradient to this norm; None leaves it.
        loss, clip: the parts above, replaceable.
        group: a torch.distributed process group; every rank of it takes part, also one whose batches have no target.
        autocast: "bfloat16" or "float16": the model computes under torch.autocast, the loss in float32. Gradients of
            float16 are scaled by a power of two on their way back (Micikevicius et al. 2018, arXiv:1710.03740, 3.2).
    Returns:
        StepReport of the whole step (over all ranks).
    Raises:
        NonFiniteGradientError: parameters are unchanged.

    >>> from types import SimpleNamespace
    >>> from sftspec.collation import collate
    >>> class Model(torch.nn.Embedding):
    ...     def forward(self, input_ids, attention_mask, use_cache):
    ...         return SimpleNamespace(logits=super().forward(input_ids))
    >>> model = Model(3, 3)
    >>> batch = collate([SimpleNamespace(input_ids=[0, 1], labels=[-100, 1])], pad_token_id=0)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> first, second = (sft_step(model, [batch], optimizer) for _ in range(2))
    >>> first.num_targets, second.loss < first.loss
    (1, True)
    """
    # ST-ACC, ST-DP: the denominator is that of the whole step, known before the first micro-batch is computed.
    num_targets = sum(batch.num_targets for batch in batches)
    denominator = sum(_weight_of(batch) for batch in batches)
    if group is not None:
        place = next(model.parameters()).device
        num_targets = int(_sum_over_ranks(torch.tensor(num_targets, device=place), group))
        denominator = float(_sum_over_ranks(torch.tensor(denominator, dtype=torch.float64, device=place), group))
    # ST-ZERO_GRAD: nothing is left of the step before.
    optimizer.zero_grad(set_to_none=True)
    if not denominator > 0:
        return StepReport(float("nan"), num_targets, 0.0, skipped=True)
    total, scale = 0.0, FLOAT16_SCALE if autocast == "float16" else 1.0
    for batch in batches:
        if _weight_of(batch) > 0:
            with computing_in(model, autocast):
                logits = forward_logits(model, batch)
            # Each part divides by the targets of the step: the parts add up, nothing is averaged.
            weighed = {"weights": batch.weights} if getattr(batch, "weights", None) is not None else {}
            part = loss(logits, batch.labels, num_targets=denominator, **weighed)
            (part * scale).backward()
            total += float(part.detach())
    parameters = [parameter for parameters in optimizer.param_groups for parameter in parameters["params"]]
    if group is not None:
        total = float(_sum_over_ranks(torch.tensor(total, dtype=torch.float64, device=place), group))
        for parameter in parameters:
            # Every rank takes part in every sum, also where its own batches do not reach a parameter.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            _sum_over_ranks(parameter.grad, group)
    if scale != 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= scale
    # ST-CLIPORDER: accumulated and reduced first, then clipped, once.
    norm = clip(parameters, float("inf") if max_grad_norm is None else max_grad_norm)
    optimizer.step()
    return StepReport(total, num_targets, norm)


def _weight_of(batch) -> float:
    """What the targets of a batch weigh together; of a batch that knows no weights, their number."""
    return batch.num_targets if getattr(batch, "weights", None) is None else batch.summed_weight


def computing_in(model: torch.nn.Module, autocast: str) -> AbstractContextManager:
    """torch.autocast in this dtype on the model's device; "": none.

    >>> model = torch.nn.Linear(1, 1)
    >>> with computing_in(model, "bfloat16"):
    ...     model(torch.zeros(1)).dtype
    torch.bfloat16
    """
    if not autocast:
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, getattr(torch, autocast))


def _sum_over_ranks(value: Tensor, group) -> Tensor:
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.SUM, group=group)
    return value


@contextmanager
def in_eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Every module in eval mode; afterwards its own mode is put back, which need not be that of the model.

    >>> model = torch.nn.Dropout()
    >>> with in_eval_mode(model):
    ...     model.training
    False
    >>> model.training
    True
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        # Each its own: a module that was frozen in eval mode stays there (ST-EVAL).
        for module, training in modes:
            module.training = training


def forward_logits(model: torch.nn.Module, batch) -> Tensor:
    """Logits (B, T, V) of a causal LM in Hugging Face's calling convention; no cache, no loss of the model's own.

    >>> from types import SimpleNamespace
    >>> batch = SimpleNamespace(rank=0, model_inputs=lambda: {"input_ids": torch.tensor([[7]])})
    >>> forward_logits(lambda input_ids, use_cache: SimpleNamespace(logits=input_ids), batch)
    tensor([[7]])
    """
    RANK.set(batch.rank)
    return model(**batch.model_inputs(), use_cache=False).logits
