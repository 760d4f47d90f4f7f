"""Losses of the next token, by every kernel: from hidden states and the output head, without logits if it likes.

    L = (1/n) sum over targets of [ logsumexp(W h) - (W h)[y] ]

Value and gradients, of the hidden states and of the head, equal those in float64 (BOUND-SELF); the gradient of a
position that is no target is zero, bit for bit (MK-ZERO). A loss over no target is 0 with a gradient of 0, or refused,
and no NaN (MK-NONEMPTY). What is computed in 16 bits is held against the plain way in 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sftspec.conformance.kernels.memory import Peak
from sftspec.conformance.kernels.outcome import AbsentError, Found, Outcome, beyond, distance, outcomes
from sftspec.counted import counted
from sftspec.step import IGNORE, sft_loss

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # hidden (N, H), head (V, H), labels (N,) -> scalar
SIZES = {"small vocabulary": (256, 64, 512), "vocabulary of 128,256": (256, 64, 128_256)}  # N, H, V


def plain(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """All logits, in float32 or above."""
    logits = hidden @ head.T
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels, ignore_index=IGNORE)


def reference(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """sftspec.sft_loss, which scores the label one further on."""
    shifted = F.pad(labels, (1, 0), value=IGNORE)[None]
    return sft_loss(F.pad(hidden @ head.T, (0, 0, 0, 1))[None], shifted)


def chunked(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Logits of 64 positions at a time, computed again on the way back (torchtune's and TRL's way)."""

    def part(hidden: Tensor, labels: Tensor) -> Tensor:
        logits = hidden @ head.T
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(wide, labels, ignore_index=IGNORE, reduction="sum")

    parts = zip(hidden.split(64), labels.split(64), strict=True)
    return (
        torch.stack([checkpoint(part, *item, use_reentrant=False) for item in parts]).sum() / (labels != IGNORE).sum()
    )


@cache
def compiled_plain() -> Loss:
    return torch.compile(plain)


def compiled(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    return compiled_plain()(hidden, head, labels)


def linear_cross_entropy(size: int | None, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """torch's, in chunks of a batch (None: the reference way)."""
    if not hasattr(F, "linear_cross_entropy"):
        raise AbsentError(f"torch {torch.__version__} has no linear_cross_entropy")
    options = None if size is None else torch.nn.LinearCrossEntropyOptions(batch_chunk_size=size)
    return F.linear_cross_entropy(hidden, head, labels, ignore_index=IGNORE, options=options)


def liger(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Liger's fused linear cross-entropy (Hsu et al. 2024, arXiv:2410.10989); on a CPU with TRITON_INTERPRET=1."""
    try:
        from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss
    except ImportError as error:
        raise AbsentError(f"liger-kernel: {error}") from None
    return LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORE)(head, hidden, labels)


def cut(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Cut cross-entropy (Wijmans et al. 2024, arXiv:2411.09009); on a CPU its compiled way."""
    try:
        from cut_cross_entropy import linear_cross_entropy as cce
    except ImportError as error:
        raise AbsentError(f"cut-cross-entropy: {error}") from None
    return cce(hidden, head, labels, ignore_index=IGNORE, impl="cce" if hidden.is_cuda else "torch_compile")


def losses() -> dict[str, Loss]:
    """Every loss by name; whether this machine has it turns out when it is called."""
    return {
        "logits and F.cross_entropy": plain,
        "sftspec.sft_loss": reference,
        "chunks, checkpointed": chunked,
        "torch.compile": compiled,
        "F.linear_cross_entropy": partial(linear_cross_entropy, None),
        "F.linear_cross_entropy, chunks of 128": partial(linear_cross_entropy, 128),
        "Liger, fused linear": liger,
        "cut cross-entropy": cut,
    }


def inputs(size: tuple[int, int, int], dtype: torch.dtype, device: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head and labels, of which half are ignored, unevenly."""
    rows, width, vocabulary = size
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=draw)
    head = torch.randn(vocabulary, width, generator=draw).mul(0.3)
    labels = torch.randint(vocabulary, (rows,), generator=draw)
    labels[torch.rand(rows, generator=draw) < 0.25] = IGNORE
    labels[: rows // 4] = IGNORE  # whole chunks without a target
    return hidden.bfloat16().to(device, dtype), head.bfloat16().to(device, dtype), labels.to(device)


NAMES = ("loss", "gradient of hidden states", "gradient of the head")


def both_ways(loss: Loss, hidden: Tensor, head: Tensor, labels: Tensor) -> list[Tensor]:
    """The loss, and the gradients of hidden states and head."""
    leaves = [item.detach().clone().requires_grad_() for item in (hidden, head)]
    value = loss(leaves[0], leaves[1], labels)
    value.backward()
    return [value.detach(), *(item.grad if item.grad is not None else torch.zeros_like(item) for item in leaves)]


@cache
def truth(size: tuple[int, int, int]) -> list[Tensor]:
    """Loss and gradients of the plain way in float64. Every dtype is given the same numbers, so it is one for all."""
    return both_ways(plain, *inputs(size, torch.float64, "cpu"))


def judge(loss: Loss, size: tuple[int, int, int], dtype: torch.dtype, device: str) -> Found:
    """What fails of a loss, and its figures."""
    return judge_on(loss, plain, inputs(size, dtype, device), truth(size))


def judge_on(loss: Loss, usual: Loss, given: tuple[Tensor, Tensor, Tensor], exact: Sequence[Tensor]) -> Found:
    """usual: the plain way, of whose rounding four times as much is allowed. exact: what is right, in float64."""
    hidden, head, labels = given
    own = distance(both_ways(usual, hidden, head, labels), exact)
    with Peak(str(hidden.device)) as peak:
        found = both_ways(loss, hidden, head, labels)
    errors = distance(found, exact)
    failures = beyond(NAMES, errors, own, hidden.dtype, len(head))
    ignored = found[1][labels == IGNORE]
    if ignored.any():
        failures.append(f"a gradient at {counted(int(ignored.any(-1).sum()), 'position')} without a target")
    failures += without_targets(loss, hidden[:8], head, torch.full_like(labels[:8], IGNORE))
    return Found(failures, {"error": max(errors), "own": max(own), "MB": peak.megabytes})


def without_targets(loss: Loss, hidden: Tensor, head: Tensor, labels: Tensor) -> list[str]:
    """A mean over nothing is 0/0: a trainer steps over it only where no gradient is NaN."""
    try:
        found = both_ways(loss, hidden, head, labels)
    except (RuntimeError, ValueError):  # it is refused
        return []
    bad = [name for name, item in zip(NAMES[1:], found[1:], strict=True) if not item.isfinite().all()]
    return [f"without a target the {bad[0]} is not finite"] if bad else []


def losses_on_trial(
    dtypes: Sequence[torch.dtype], device: str, named: dict[str, Loss] | None = None
) -> Iterator[Outcome]:
    """The outcome of each loss at each size, in each dtype."""
    return outcomes(named or losses(), SIZES, dtypes, partial(judge, device=device))
