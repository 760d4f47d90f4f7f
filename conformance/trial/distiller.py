"""A distillation trainer is run with the suite's teacher, and each of its optimizer steps is read.

Calls belong to one step as long as the student's head is what it was, so that nothing is asked of the order of the
examples, nor of a last step that is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from sftspec.conformance.trial.corpora import Writer, unequal_conversations
from sftspec.conformance.witness.distillation_recovery import (
    DIVERGENCES,
    TEMPERATURES,
    Distilled,
    StudentCall,
    StudentTap,
    divergence_named,
    read_distillation,
)
from sftspec.conformance.witness.model import make_model, make_tokenizer
from sftspec.conventions import Conventions
from sftspec.job import Job
from sftspec.masking import IGNORE
from sftspec.properties.ledger.run import streams_of


@dataclass(frozen=True)
class DistilledStep:
    """One optimizer step of a distillation trainer.

    seen                   what was read off the gradients
    divergence, temperature  what the trainer says that it trains
    cross_entropy          what it says of the cross-entropy's weight, over that of the divergence
    completions            (call, row, column) of the logits before each token of the last turn that is a target under
                           the trainer's conventions; of one that the student wrote, before each after the prompt
    rows                   the ids of each row that was learnt from, without padding
    teacher_is_untouched   it was in eval mode, got no gradient and did not move, in the whole run
    student_is_in_training it was in training mode in every call of the step
    astray                 by how much the head moved elsewhere than this step's gradient and rate say, in units of what
                           rounding explains
    unmoved                the student's parameters that the whole run left as they were
    unknown                why the arithmetic of its loss is not known ("": it is)
    auxiliary              the loss that the trainer declares beside its own
    """

    seen: Distilled
    divergence: str
    temperature: float
    cross_entropy: float
    completions: set[tuple[int, int, int]]
    rows: list[tuple[int, ...]]
    teacher_is_untouched: bool
    student_is_in_training: bool
    astray: float
    unmoved: list[str]
    unknown: str = ""
    auxiliary: str = ""


def distil(
    trainer: Any, batch_size: int = 4, accumulation: int = 1, count: int | None = None, epochs: int = 1
) -> list[DistilledStep]:
    """Run the trainer on conversations of unequal lengths, with the suite's teacher, and read every step.

    count: of conversations; without it as many as one step has.
    trainer: a dataclass with the fields `teacher`, the properties `divergence` and `loss_temperature`, and the methods
    `accepts` and `train` (see sftspec.conformance.adapters.distillation); `cross_entropy` where it mixes that in.
    """
    student, teacher, tokenizer = make_model(seed=0), make_model(seed=7), make_tokenizer()
    count = count or batch_size * accumulation
    talks = [talk for talk in unequal_conversations(Writer(0)) if trainer.accepts(talk)][-count:]
    started = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    with TemporaryDirectory(prefix="sftspec-") as folder, StudentTap(student, teacher) as tap:
        job = Job(
            student,
            tokenizer,
            talks,
            batch_size=batch_size,
            accumulation=accumulation,
            epochs=epochs,
            policy="last",
            workdir=Path(folder),
        )
        replace(trainer, teacher=teacher).train(replace(job))  # what it writes into its job is not what was asked
    steps = _steps(tap.calls)
    heads = [calls[0].head for calls in steps] + [student.get_output_embeddings().weight.detach()]
    said, conventions = trainer.loss_temperature, getattr(trainer, "conventions", None) or Conventions()
    unmoved = [name for name, parameter in student.named_parameters() if torch.equal(parameter, started[name])]
    hypotheses = [sorted({*TEMPERATURES, said}), *[sorted({1.0, said})] * len(steps)]  # a later step is to confirm
    return [
        DistilledStep(
            read_distillation(calls, before, teacher, temperatures, trainer.divergence), trainer.divergence, said,
            getattr(trainer, "cross_entropy", 0.0), _completions(calls, job, conventions), _rows(calls),
            tap.teacher_is_untouched, all(call.training for call in calls),
            _astray(calls, before, after, job.learning_rate), unmoved, unknown(trainer.divergence, conventions),
            conventions.auxiliary,
        )
        for calls, before, after, temperatures in zip(steps, heads, heads[1:], hypotheses, strict=False)
    ]  # fmt: skip


def unknown(divergence: str, conventions: Conventions) -> str:
    """Why nothing can be said of a loss that is declared to be of this divergence; "" where it can."""
    if conventions.auxiliary:
        return f"{conventions.auxiliary!r} is declared beside the divergence, and its gradient is not known"
    if divergence_named(divergence) is None:
        return f"the divergence {divergence!r:.80} is not known; known: {', '.join(DIVERGENCES)}, JSD of any beta"
    return ""


def _steps(calls: Sequence[StudentCall]) -> list[list[StudentCall]]:
    steps: list[list[StudentCall]] = []
    for call in calls:
        if steps and torch.equal(steps[-1][0].head, call.head):
            steps[-1].append(call)
        else:
            steps.append([call])
    return steps


def _rows(calls: Sequence[StudentCall]) -> list[tuple[int, ...]]:
    return [tuple(ids[real].tolist()) for call in calls for ids, real in zip(call.input_ids, _real(call), strict=True)]


def _real(call: StudentCall) -> Tensor:
    return (torch.ones_like(call.input_ids) if call.attention_mask is None else call.attention_mask).bool()


def _astray(calls: Sequence[StudentCall], before: Tensor, after: Tensor, rate: float) -> float:
    """|W' - (W - rate * sum of u h)| over its bound: W' is rounded once, and the sum to the residual of a fit."""
    inverse = torch.linalg.pinv(before.double())
    moved = rate * sum(
        (torch.stack(call.gradient).sum(0).double() @ inverse).flatten(0, 1).T @ call.hidden.double().flatten(0, 1)
        for call in calls
        if call.gradient
    )
    bound = torch.finfo(after.dtype).eps / 2 * after.double().norm() + 1e-4 * moved.norm()
    return float((before.double() - moved - after.double()).norm() / bound)


def _completions(calls: Sequence[StudentCall], job: Job, conventions: Conventions) -> set[tuple[int, int, int]]:
    tokenizer, talks = job.tokenizer, job.conversations
    labels = {tuple(item.input_ids): item.labels for item in streams_of(job, conventions)}
    prompts = [
        tokenizer.apply_chat_template(list(talk)[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
        for talk in talks
    ]
    found = set()
    for number, call in enumerate(calls):
        for row, (ids, real) in enumerate(zip(call.input_ids.tolist(), _real(call).tolist(), strict=True)):
            start, end = real.index(True), len(real) - real[::-1].index(True)
            if told := labels.get(tuple(ids[start:end])):
                found |= {(number, row, start + at - 1) for at, label in enumerate(told) if at and label != IGNORE}
                continue
            (length,) = {len(prompt) for prompt in prompts if ids[start : start + len(prompt)] == prompt}
            found |= {(number, row, column) for column in range(start + length - 1, end - 1)}
    return found
