"""A trainer that distils and is right: the reference pipeline with a step that learns from a teacher.

Every part of it can be replaced, and what is replaced is replaced in its runs as well: a loss that is wrong is read off
the function, and again off the student's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import Any

from torch import Tensor

from sftspec.collation import Batch
from sftspec.conformance.trial.distiller import distil
from sftspec.conversation import Conversation
from sftspec.distillation import distillation_loss, frozen_logits
from sftspec.divergences import generalised_jsd, with_tail_bucket
from sftspec.job import Job
from sftspec.masking import IGNORE, Conventions
from sftspec.step import NoTargetsError, StepReport, count_targets, forward_logits, sft_loss
from sftspec.trainer import Pipeline

TEMPERATURE = 2.0


def targets_of_the_step(batch: Batch, batches: Sequence[Batch]) -> int:
    return sum(item.num_targets for item in batches)


@dataclass(frozen=True)
class Distiller:
    """Pure distillation (alpha = 1) at T = 2 with the forward KL.

    loss, read, jsd, with_bucket  the functions that the properties call
    denominator                   of a micro-batch, among those of its step
    pipeline                      what makes the batches
    teacher                       the suite puts its own there
    """

    loss: Callable[..., Tensor] = distillation_loss
    read: Callable[..., Tensor] = frozen_logits
    jsd: Callable[..., Tensor] = generalised_jsd
    with_bucket: Callable[..., Tensor] = with_tail_bucket
    denominator: Callable[[Batch, Sequence[Batch]], float] = targets_of_the_step
    pipeline: Pipeline = field(default_factory=lambda: Pipeline(conventions=Conventions(separator=True)))
    teacher: Any = None
    name: str = "reference that distils"
    claims: frozenset[str] = frozenset({"distillation"})
    divergence: str = "forward KL"
    loss_temperature: float = TEMPERATURE

    @property
    def conventions(self) -> Conventions:
        return self.pipeline.conventions

    @cached_property
    def parts(self) -> dict[str, Callable[..., Any]]:
        return {
            "distillation_loss": self.loss,
            "frozen_logits": self.read,
            "generalised_jsd": self.jsd,
            "with_tail_bucket": self.with_bucket,
            "distil": cache(partial(distil, self)),  # all its properties read the same steps
        }

    def accepts(self, conversation: Conversation) -> bool:
        return len(conversation) > 1 and conversation[-1]["role"] == "assistant"

    def train(self, job: Job) -> None:
        Pipeline(
            encode=self.pipeline.encode,
            collate=self.pipeline.collate,
            step=self.step,
            conventions=self.pipeline.conventions,
        ).train(job)

    def step(self, model, batches, optimizer, *_) -> StepReport:
        optimizer.zero_grad()
        for batch in batches:
            count, teacher = self.denominator(batch, batches), self.read(self.teacher, **batch.model_inputs())
            student = forward_logits(model, batch)
            self.loss(student, teacher, batch.labels, TEMPERATURE, 1.0, num_targets=count).backward()
        optimizer.step()
        return StepReport(0.0, targets_of_the_step(batches[0], batches), 0.0)


def check_range(temperature: float, alpha: float) -> None:
    if not (0 < temperature < float("inf") and 0 <= alpha <= 1):
        raise ValueError(f"temperature {temperature}, alpha {alpha}")


def with_soft(soft: Callable[[Tensor, Tensor, Tensor, float, int], Tensor]) -> Distiller:
    """The reference with another soft loss: soft(student, teacher, labels, T, n), T**2 included; the rest is right."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, num_targets=None) -> Tensor:
        check_range(temperature, alpha)
        n = count_targets(labels) if num_targets is None else num_targets
        if not n:
            raise NoTargetsError("no target")
        hard = sft_loss(student, labels, num_targets=n) if alpha < 1 else 0.0
        return (alpha * soft(student, teacher, labels, temperature, n) if alpha > 0 else 0.0) + (1 - alpha) * hard

    return Distiller(loss=loss)


def right(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, n: int, **options: Any) -> Tensor:
    """The reference's own soft loss, as `with_soft` wants it."""
    return distillation_loss(student, teacher, labels, temperature, 1.0, num_targets=n, **options)


def scored(logits: Tensor, labels: Tensor) -> Tensor:
    """(n, V) logits of the scored positions, in their own dtype."""
    return logits[:, :-1][labels[:, 1:] != IGNORE]
