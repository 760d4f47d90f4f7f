"""Losses that are fused with the output head, in a plain loop: the last hidden states and the head's weight go in."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sftspec.conformance.adapters.field.plain_loop import IGNORE, Loop, given
from sftspec.job import Job


@dataclass(frozen=True)
class LigerKernel(Loop):
    """`LigerFusedLinearCrossEntropyLoss`, its Triton kernels run by Triton's interpreter.

    Each row of a gradient takes the interpreter milliseconds. AdamW and accumulation are the loop's own: left out.
    """

    package = "liger-kernel"
    claims = Loop.claims - {"adamw", "accumulation"}

    def loss(self, job: Job, batch: dict[str, Tensor], count: int) -> Tensor:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        kept = batch["attention_mask"][:, 1:].bool()  # no padding: of each position the interpreter takes milliseconds
        hidden = job.model.base_model(**given(batch), use_cache=False).last_hidden_state[:, :-1][kept]
        fused = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORE, reduction="sum")
        return fused(job.model.lm_head.weight, hidden, batch["labels"][:, 1:][kept]) / count


@dataclass(frozen=True)
class CutCrossEntropy(Loop):
    """`linear_cross_entropy` of Apple, by the way that needs no GPU.

    impl  "torch_compile"; its Triton kernels ("cce", "cce_exact", …) ask for CUDA
    """

    impl: str = "torch_compile"

    package = "cut-cross-entropy"

    def loss(self, job: Job, batch: dict[str, Tensor], count: int) -> Tensor:
        from cut_cross_entropy import linear_cross_entropy

        hidden = job.model.base_model(**given(batch), use_cache=False).last_hidden_state
        summed = linear_cross_entropy(
            hidden, job.model.lm_head.weight, batch["labels"], ignore_index=IGNORE, shift=1, reduction="sum",
            impl=self.impl,
        )  # fmt: skip
        return summed / count
