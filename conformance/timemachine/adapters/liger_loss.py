"""Liger's cross-entropies in a plain loop, run by Triton's interpreter: a loss for each token, which is then masked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sftspec.conformance.adapters.field.plain_loop import IGNORE, Loop, given
from sftspec.job import Job


@dataclass(frozen=True)
class PerToken(Loop):
    """LigerCrossEntropyLoss(reduction="none") of the logits."""

    package = "liger-kernel"

    def loss(self, job: Job, batch: dict[str, Tensor], count: int) -> Tensor:
        from liger_kernel.transformers import LigerCrossEntropyLoss

        logits = job.model(**given(batch), use_cache=False).logits[:, :-1].float().flatten(0, 1).contiguous()
        targets = batch["labels"][:, 1:].flatten()
        each = LigerCrossEntropyLoss(ignore_index=IGNORE, reduction="none")(logits, targets)
        return (each * (targets != IGNORE)).sum() / count


@dataclass(frozen=True)
class FusedPerToken(Loop):
    """LigerFusedLinearCrossEntropyLoss(reduction="none") of the last hidden states and the head."""

    package = "liger-kernel"

    def loss(self, job: Job, batch: dict[str, Tensor], count: int) -> Tensor:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        hidden = job.model.model(**given(batch), use_cache=False).last_hidden_state[:, :-1].flatten(0, 1).contiguous()
        targets = batch["labels"][:, 1:].flatten()
        fused = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORE, reduction="none")
        each = fused(job.model.lm_head.weight, hidden, targets)
        return (each * torch.ne(targets, IGNORE)).sum() / count
