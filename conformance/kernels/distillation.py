"""Distillation losses, by every kernel: from the hidden states and heads of both models, without logits if it likes.

    L = (1/n) sum over targets of D(p, q),    p = softmax(teacher / T), q = softmax(student / T)

D is KL(p || q), KL(q || p), or beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q (Agarwal et al.
2023, arXiv:2306.13649, equation 1), or 1 - cos of the logits. T**2 is left to the trainer, as these kernels do.

What is asked is what is asked of `losses`: value and gradients of the student's hidden states and head, zero gradients
where there is no target, nothing that is NaN. The teacher's tensors want no gradient, as trainers hand them over.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sftspec.conformance.kernels.losses import IGNORE, SIZES, Loss, both_ways, inputs, judge_on
from sftspec.conformance.kernels.outcome import AbsentError, Found, Outcome, outcomes
from sftspec.distillation import distillation_loss


@dataclass(frozen=True)
class Way:
    """Which divergence: beta = 0 is KL(p || q), 1 is KL(q || p), between them the mixture; None is the cosine."""

    name: str
    beta: float | None
    temperature: float = 1.0
    size: str = "small vocabulary"

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """D of each row, from logits (n, V) of at least float32."""
        if self.beta is None:
            return 1 - F.cosine_similarity(student, teacher, dim=-1)
        q, p = ((item / self.temperature).log_softmax(-1) for item in (student, teacher))
        if self.beta in (0, 1):
            return kl(p, q) if self.beta == 0 else kl(q, p)
        mixture = torch.logaddexp(p + math.log(self.beta), q + math.log1p(-self.beta))
        return self.beta * kl(p, mixture) + (1 - self.beta) * kl(q, mixture)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Of log-probabilities."""
    return (p.exp() * (p - q)).sum(-1)


SMALL = (
    Way("KL(teacher, student)", 0.0),
    Way("KL(student, teacher)", 1.0),
    Way("JSD, beta 0.3", 0.3),
    Way("KL(teacher, student), temperature 2", 0.0, 2.0),
    Way("cosine", None),
)
WAYS = (*SMALL, *(replace(way, name=f"{way.name}, {size}", size=size) for size in list(SIZES)[1:] for way in SMALL[:3]))


@dataclass(frozen=True)
class Teacher:
    """hidden (N, H), head (V, H)"""

    hidden: Tensor
    head: Tensor

    def first(self, count: int) -> Teacher:
        """Of the first positions."""
        return Teacher(self.hidden[:count], self.head)

    def logits(self, rows: Tensor | slice = slice(None)) -> Tensor:
        return self.hidden[rows] @ self.head.T


Kernel = Callable[[Teacher, Way, Tensor, Tensor, Tensor], Tensor]  # …, hidden, head, labels -> scalar


def raised(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def plain(teacher: Teacher, way: Way, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """All logits, in float32 or above."""
    scored = labels != IGNORE
    values = way(raised(hidden[scored] @ head.T), raised(teacher.logits(scored)))
    return values.sum() / scored.sum().clamp(min=1)


def reference(teacher: Teacher, way: Way, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """sftspec.distillation_loss, which scores the label one further on, and multiplies by T**2."""
    beta = given(way)
    kind = {0.0: "forward_kl", 1.0: "reverse_kl"}.get(beta, "jsd")
    student, taught = (F.pad(item, (0, 0, 0, 1))[None] for item in (hidden @ head.T, teacher.logits()))
    shifted = F.pad(labels, (1, 0), value=IGNORE)[None]
    options: dict[str, Any] = {"divergence": kind, "beta": beta, "alpha": 1.0, "temperature": way.temperature}
    return distillation_loss(student, taught, shifted, **options) / way.temperature**2


def given(way: Way) -> float:
    """beta. Raises AbsentError for what is no divergence."""
    if way.beta is None:
        raise AbsentError("it has no cosine")
    return way.beta


def chunked(teacher: Teacher, way: Way, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Logits of 64 positions at a time, computed again on the way back."""

    def part(rows: Tensor) -> Tensor:
        values = way(raised(hidden[rows] @ head.T), raised(teacher.logits(rows)))
        return values.masked_fill(labels[rows] == IGNORE, 0.0).sum()

    parts = torch.arange(len(labels), device=labels.device).split(64)
    total = torch.stack([checkpoint(part, rows, use_reentrant=False) for rows in parts]).sum()
    return total / (labels != IGNORE).sum().clamp(min=1)


def kl_div(teacher: Teacher, way: Way, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """F.kl_div of log-probabilities, with reduction "none": its "mean" divides by V as well."""
    beta, scored = given(way), labels != IGNORE
    if beta not in (0, 1):
        raise AbsentError("it has no mixture")
    logits = hidden[scored] @ head.T, teacher.logits(scored)
    q, p = ((raised(item) / way.temperature).log_softmax(-1) for item in logits)
    values = F.kl_div(*((q, p) if beta == 0 else (p, q)), reduction="none", log_target=True)
    return values.sum() / scored.sum().clamp(min=1)


def gkd(teacher: Teacher, way: Way, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """GKDTrainer.generalized_jsd_loss of TRL."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it may change
            from trl.experimental.gkd import GKDTrainer
    except ImportError as error:
        raise AbsentError(f"trl: {error}") from None
    logits = (hidden @ head.T)[None], teacher.logits()[None]
    return GKDTrainer.generalized_jsd_loss(*logits, labels[None], beta=given(way), temperature=way.temperature)


def trl_chunked(teacher: Teacher, way: Way, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """The chunked divergence of TRL's DistillationTrainer: triton on a GPU, the same tiles in torch elsewhere."""
    try:
        from trl.trainer.distillation_trainer import _chunked_divergence_loss
    except ImportError as error:
        raise AbsentError(f"trl: {error}") from None
    states, mask = (hidden[None], teacher.hidden[None]), (labels != IGNORE)[None]
    options = {"beta": given(way), "temperature": way.temperature}
    return _chunked_divergence_loss(*states, head, teacher.head, mask, **options)[0]


def liger_chunked(teacher: Teacher, way: Way, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Liger's distillation losses in chunks of 64 positions, the soft part alone."""
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearCosineSimilarityLoss, LigerFusedLinearJSDLoss
    except ImportError as error:
        raise AbsentError(f"liger-kernel: {error}") from None
    kind, beta = (
        (LigerFusedLinearCosineSimilarityLoss, 1.0) if way.beta is None else (LigerFusedLinearJSDLoss, way.beta)
    )
    options = {"temperature": way.temperature, "compiled": False, "chunk_size": 64}
    loss = kind(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta, **options)
    return loss(hidden, head, teacher.hidden, teacher.head, labels)


def liger_fused(teacher: Teacher, way: Way, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Liger's fused linear JSD in triton; on a CPU with TRITON_INTERPRET=1."""
    try:
        from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD
    except ImportError as error:
        raise AbsentError(f"liger-kernel: {error}") from None
    loss = LigerFusedLinearJSD(jsd_beta=given(way), temperature=way.temperature)
    return loss(hidden, head, teacher.hidden, teacher.head, labels)


def torchtune_chunked(teacher: Teacher, way: Way, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """torchtune's forward KL in eight chunks, which leaves the teacher's entropy out: it is added to the value."""
    try:
        from torchtune.modules.loss import ForwardKLWithChunkedOutputLoss
    except ImportError as error:
        raise AbsentError(f"torchtune: {error}") from None
    if way.beta != 0 or way.temperature != 1:
        raise AbsentError("it has the forward KL at temperature 1 alone")
    parts = [torch.chunk(item[None], 8, dim=1) for item in (hidden, teacher.hidden)]
    heads = head, teacher.head
    logits = ([part @ one.T for part in chunks] for chunks, one in zip(parts, heads, strict=True))
    p = raised(teacher.logits(labels != IGNORE)).log_softmax(-1)
    entropy = -(p.exp() * p).sum() / max(1, len(p))
    return ForwardKLWithChunkedOutputLoss()(*logits, labels[None]) - entropy


def kernels() -> dict[str, Kernel]:
    """Every kernel by name; whether this machine has it turns out when it is called."""
    return {
        "logits and the formula": plain,
        "sftspec.distillation_loss": reference,
        "chunks, checkpointed": chunked,
        "F.kl_div": kl_div,
        "TRL, generalized_jsd_loss": gkd,
        "TRL, chunked divergence": trl_chunked,
        "Liger, chunked": liger_chunked,
        "Liger, fused linear JSD": liger_fused,
        "torchtune, chunked forward KL": torchtune_chunked,
    }


def teacher_of(way: Way, dtype: torch.dtype, device: str) -> Teacher:
    """Half way between the student and another model: as after a while, divergences are small differences."""
    pairs = zip(*(inputs(SIZES[way.size], torch.float32, device, seed)[:2] for seed in (0, 1)), strict=True)
    return Teacher(*(((one + other) / 2).bfloat16().to(dtype) for one, other in pairs))


def taught_by(teacher: Teacher, kernel: Kernel, way: Way) -> Loss:
    return lambda hidden, head, labels: kernel(teacher.first(len(hidden)), way, hidden, head, labels)


@cache
def truth(way: Way) -> list[Tensor]:
    """Of the plain way in float64, as in `losses`."""
    loss = taught_by(teacher_of(way, torch.float64, "cpu"), plain, way)
    return both_ways(loss, *inputs(SIZES[way.size], torch.float64, "cpu"))


def judge(kernel: Kernel, way: Way, dtype: torch.dtype, device: str) -> Found:
    """What fails of a kernel, and its figures."""
    teacher, given = teacher_of(way, dtype, device), inputs(SIZES[way.size], dtype, device)
    return judge_on(taught_by(teacher, kernel, way), taught_by(teacher, plain, way), given, truth(way))


def distillation_on_trial(
    dtypes: Sequence[torch.dtype], device: str, named: dict[str, Kernel] | None = None
) -> Iterator[Outcome]:
    """The outcome of each kernel in each way and dtype."""
    return outcomes(named or kernels(), {way.name: way for way in WAYS}, dtypes, partial(judge, device=device))
