"""What was distilled: read off the gradient at the student's last hidden state, with a teacher that the suite knows.

At a trained position u = dL/dlogits = s * dD(teacher, student; T)/dz + h * (p - onehot(y)): a soft part, whose
direction is fixed by the divergence D and the temperature T, and a hard part, cross-entropy on the next token y. The
teacher is the suite's, so that direction is computed for every hypothesis and u is regressed on it: the right one fits
to rounding, a wrong temperature or divergence misses by percents. s * n is then the weight of D itself (alpha * T**2
with Hinton's factor, alpha without it), h * n that of the cross-entropy, and the positions are those that were trained.

A trainer may say T and beta and train others: what it says is not read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from sftspec.conformance.corpora import Writer, unequal_conversations
from sftspec.conformance.recovery import MIN_MARGIN, fit_bound
from sftspec.conformance.witness import make_model, make_tokenizer
from sftspec.divergences import forward_kl, generalised_jsd, reverse_kl
from sftspec.job import Job

TEMPERATURES = (0.5, 0.7, 0.9, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0)
BETAS = (0.1, 0.25, 0.5, 0.75, 0.9)
DIVERGENCES = {
    "forward KL": forward_kl,
    "reverse KL": reverse_kl,
    **{f"JSD({beta:g})": partial(generalised_jsd, beta=beta) for beta in BETAS},
}


@dataclass(frozen=True)
class StudentCall:
    """One training call of the student's base model; `gradient` is filled by the backward pass.

    head  (V, H), the student's output head as it was
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    hidden: Tensor
    head: Tensor
    gradient: list[Tensor] = field(default_factory=list)


class StudentTap:
    """Listens to the student's base model: every call with a gradient, and whether the teacher was given one.

    Use as a context manager around `trainer.train(job)`.
    """

    def __init__(self, student: Any, teacher: Any):
        self.student, self.teacher = student, teacher
        self.calls: list[StudentCall] = []
        self.teacher_modes: list[bool] = []

    def __enter__(self) -> StudentTap:
        self._before = {name: item.detach().clone() for name, item in self.teacher.named_parameters()}
        self._handles = [
            self.student.base_model.register_forward_hook(self._on_student, with_kwargs=True),
            self.teacher.base_model.register_forward_hook(
                lambda module, *_: self.teacher_modes.append(module.training)
            ),
        ]
        return self

    def __exit__(self, *exception) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def teacher_is_untouched(self) -> bool:
        """No parameter of the teacher moved or has a gradient, and it was in eval mode whenever it was asked."""
        still = all(item.grad is None and bool((item == self._before[name]).all())
                    for name, item in self.teacher.named_parameters())  # fmt: skip
        return still and not any(self.teacher_modes)

    def _on_student(self, module, args, kwargs, output) -> None:
        hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state
        ids = args[0] if args else kwargs.get("input_ids")
        if not hidden.requires_grad or ids is None:
            return  # generation, or an evaluation
        mask = kwargs.get("attention_mask")
        head = self.student.get_output_embeddings().weight.detach().clone()
        call = StudentCall(ids.detach().clone(), None if mask is None else mask.clone(), hidden.detach().clone(), head)
        hidden.register_hook(lambda gradient: call.gradient.append(gradient.detach().clone()))
        self.calls.append(call)


@dataclass(frozen=True)
class Distilled:
    """What a trainer distilled, over N trained positions.

    divergence, temperature  the hypothesis that fits ("ambiguous", nan: none does, or two do)
    residual, runner_up      relative residual of the best hypothesis, and of the next one
    soft, hard               (N,) weight of D and of the cross-entropy at each position
    positions                (call, row, column) of the logits that were trained
    """

    divergence: str
    temperature: float
    residual: float
    runner_up: float
    soft: Tensor
    hard: Tensor
    positions: list[tuple[int, int, int]]


def read_distillation(
    calls: Sequence[StudentCall], head: Tensor, teacher: Any, temperatures: Sequence[float] = TEMPERATURES
) -> Distilled:
    """Read the calls of one optimizer step.

    Args:
        head: (V, H), the student's output head when it was called.
        teacher: any causal LM over the same vocabulary; it is asked anew, on the student's own inputs.
    Raises:
        ValueError: nothing was trained.
    """
    gradients, logits, targets, teachers, positions = [], [], [], [], []
    inverse = torch.linalg.pinv(head.double())
    for number, call in enumerate(calls):
        if not call.gradient:
            continue
        gradient = torch.stack(call.gradient).sum(0)
        trained = (gradient != 0).any(-1)
        asked = {} if call.attention_mask is None else {"attention_mask": call.attention_mask}
        following = torch.cat((call.input_ids[:, 1:], call.input_ids[:, :1]), dim=1)
        gradients.append(gradient[trained].double() @ inverse)
        logits.append(call.hidden[trained].double() @ head.double().T)
        targets.append(following[trained])
        teachers.append(_logits(teacher, call.input_ids, asked)[trained].double())
        positions += [(number, row, column) for row, column in trained.nonzero().tolist()]
    if not positions:
        raise ValueError("no position has a gradient: train the model itself, not a copy of it")
    u, z, y, t = (torch.cat(parts) for parts in (gradients, logits, targets, teachers))
    hard = z.softmax(-1) - torch.nn.functional.one_hot(y, z.shape[-1])
    fits = sorted(
        (*_fit(u, direction(divergence, z, t, temperature), hard), name, temperature)
        for name, divergence in DIVERGENCES.items()
        for temperature in temperatures
    )
    residual, soft_weight, hard_weight, name, temperature = fits[0]
    # Softened probabilities of a large T differ little: rounding of the logits weighs T times as much.
    bound = fit_bound(calls[0].hidden.dtype, z.shape[-1]) * max(1.0, temperature)
    clear = residual <= bound and fits[1][0] >= MIN_MARGIN * residual
    return Distilled(
        name if clear else "ambiguous", temperature if clear else float("nan"), residual, fits[1][0],
        torch.tensor(soft_weight), torch.tensor(hard_weight), positions,
    )  # fmt: skip


@torch.no_grad()
def _logits(teacher: Any, input_ids: Tensor, asked: dict) -> Tensor:
    mode = teacher.training
    teacher.eval()
    logits = teacher(input_ids=input_ids, **asked, use_cache=False).logits
    teacher.train(mode)
    return logits


def direction(divergence: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """dD/dz of each row, D being the divergence at T of (N, V) logits."""
    z = student.clone().requires_grad_()
    rows = divergence((z / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1))
    (gradient,) = torch.autograd.grad(rows.sum(), z)
    return gradient


def _fit(u: Tensor, soft: Tensor, hard: Tensor) -> tuple[float, list[float], list[float]]:
    """Least squares of each row of u on its two directions: (relative residual of all rows together, s, h)."""
    basis = torch.stack((soft, hard), dim=-1)
    weights = torch.linalg.lstsq(basis, u[..., None]).solution
    rest = u - (basis @ weights).squeeze(-1)
    return float(rest.norm() / u.norm()), weights[:, 0, 0].tolist(), weights[:, 1, 0].tolist()


# ------------------------------------------------------------------------------------------ the steps, for properties


@dataclass(frozen=True)
class DistilledStep:
    """One optimizer step of a distillation trainer.

    seen                   what was read off the gradients
    divergence, temperature  what the trainer says that it trains
    cross_entropy          what it says of the cross-entropy's weight, over that of the divergence
    completions            (call, row, column) of the logits before each token after the prompt
    teacher_is_untouched   it was in eval mode, got no gradient and did not move, in the whole run
    astray                 by how much the head moved elsewhere than this step's gradient and rate say, in units of what
                           rounding explains
    """

    seen: Distilled
    divergence: str
    temperature: float
    cross_entropy: float
    completions: set[tuple[int, int, int]]
    teacher_is_untouched: bool
    astray: float


def distil(
    trainer: Any, batch_size: int = 4, accumulation: int = 1, count: int | None = None, epochs: int = 1
) -> list[DistilledStep]:
    """Run the trainer on conversations of unequal lengths, with the suite's teacher, and read every step.

    count: of conversations; without it as many as one step has. Calls belong to one step as long as the student's head
    is what it was, so that nothing is asked of the order, nor of a last step that is left out.

    trainer: a dataclass with the fields `teacher`, the properties `divergence` and `loss_temperature`, and the methods
    `accepts` and `train` (see sftspec.conformance.adapters.distillation); `cross_entropy` where it mixes that in.
    """
    student, teacher, tokenizer = make_model(seed=0), make_model(seed=7), make_tokenizer()
    count = count or batch_size * accumulation
    talks = [talk for talk in unequal_conversations(Writer(0)) if trainer.accepts(talk)][-count:]
    with TemporaryDirectory(prefix="sftspec-") as folder, StudentTap(student, teacher) as tap:
        job = Job(student, tokenizer, talks, batch_size=batch_size, accumulation=accumulation, epochs=epochs,
                  policy="last", workdir=Path(folder))  # fmt: skip
        replace(trainer, teacher=teacher).train(job)
    steps = _steps(tap.calls)
    heads = [calls[0].head for calls in steps] + [student.get_output_embeddings().weight.detach()]
    said = trainer.loss_temperature
    hypotheses = [sorted({*TEMPERATURES, said}), *[sorted({1.0, said})] * len(steps)]  # a later step is to confirm
    return [
        DistilledStep(
            read_distillation(calls, before, teacher, temperatures), trainer.divergence, said,
            getattr(trainer, "cross_entropy", 0.0), _completions(calls, tokenizer, talks), tap.teacher_is_untouched,
            _astray(calls, before, after, job.learning_rate),
        )
        for calls, before, after, temperatures in zip(steps, heads, heads[1:], hypotheses, strict=False)
    ]  # fmt: skip


def _steps(calls: Sequence[StudentCall]) -> list[list[StudentCall]]:
    steps: list[list[StudentCall]] = []
    for call in calls:
        if steps and torch.equal(steps[-1][0].head, call.head):
            steps[-1].append(call)
        else:
            steps.append([call])
    return steps


def _astray(calls: Sequence[StudentCall], before: Tensor, after: Tensor, rate: float) -> float:
    """|W' - (W - rate * sum of u h)| over its bound: W' is rounded once, and the sum to the residual of a fit."""
    inverse = torch.linalg.pinv(before.double())
    moved = rate * sum(
        (torch.stack(call.gradient).sum(0).double() @ inverse).flatten(0, 1).T @ call.hidden.double().flatten(0, 1)
        for call in calls if call.gradient
    )  # fmt: skip
    bound = torch.finfo(after.dtype).eps / 2 * after.double().norm() + 1e-4 * moved.norm()
    return float((before.double() - moved - after.double()).norm() / bound)


def _completions(calls: Sequence[StudentCall], tokenizer: Any, talks: Sequence[list]) -> set[tuple[int, int, int]]:
    prompts = [
        tokenizer.apply_chat_template(list(talk)[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
        for talk in talks
    ]
    found = set()
    for number, call in enumerate(calls):
        mask = torch.ones_like(call.input_ids) if call.attention_mask is None else call.attention_mask
        for row, (ids, real) in enumerate(zip(call.input_ids.tolist(), mask.bool().tolist(), strict=True)):
            start, end = real.index(True), len(real) - real[::-1].index(True)
            (length,) = {len(prompt) for prompt in prompts if ids[start : start + len(prompt)] == prompt}
            found |= {(number, row, column) for column in range(start + length - 1, end - 1)}
    return found
