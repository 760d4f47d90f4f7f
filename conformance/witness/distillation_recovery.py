"""What was distilled: read off the gradient at the student's last hidden state, with a teacher that the suite knows.

At a trained position u = dL/dlogits = s * dD(teacher, student; T)/dz + h * (p - onehot(y)): a soft part, whose
direction is fixed by the divergence D and the temperature T, and a hard part, cross-entropy on the next token y. The
teacher is the suite's, so that direction is computed for every hypothesis and u is regressed on it: the right one fits
to rounding, a wrong temperature or divergence misses by percents. s * n is then the weight of D itself (alpha * T**2
with Hinton's factor, alpha without it), h * n that of the cross-entropy, and the positions are those that were trained.

A trainer may say T and beta and train others: what it says is not read here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sftspec.conformance.witness.recovery import MIN_MARGIN, fit_bound
from sftspec.divergences import forward_kl, generalised_jsd, reverse_kl

TEMPERATURES = (0.5, 0.7, 0.9, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0)
BETAS = (0.1, 0.25, 0.5, 0.75, 0.9)
DIVERGENCES = {
    "forward KL": forward_kl,
    "reverse KL": reverse_kl,
    **{f"JSD({beta:g})": partial(generalised_jsd, beta=beta) for beta in BETAS},
}


def divergence_named(name: str) -> Any:
    """The divergence that a trainer says, "JSD(beta)" of any beta in (0, 1) among them; None for one that is not known.

    >>> divergence_named("JSD(0.3)") is not None, divergence_named("Wasserstein") is None
    (True, True)
    """
    beta = re.fullmatch(r"JSD\((0?\.\d+)\)", name)
    return partial(generalised_jsd, beta=float(beta[1])) if beta and float(beta[1]) else DIVERGENCES.get(name)


@dataclass(frozen=True)
class StudentCall:
    """One training call of the student's base model; `gradient` is filled by the backward pass.

    head      (V, H), the student's output head as it was
    training  whether the student was in training mode
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    hidden: Tensor
    head: Tensor
    training: bool = True
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
        mask = None if mask is None else mask.clone()
        call = StudentCall(ids.detach().clone(), mask, hidden.detach().clone(), head, module.training)
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
    calls: Sequence[StudentCall],
    head: Tensor,
    teacher: Any,
    temperatures: Sequence[float] = TEMPERATURES,
    declared: str = "",
) -> Distilled:
    """Read the calls of one optimizer step.

    Args:
        head: (V, H), the student's output head when it was called.
        teacher: any causal LM over the same vocabulary; it is asked anew, on the student's own inputs.
        declared: a divergence that is tried beside those in DIVERGENCES, if it is known.
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
    said = divergence_named(declared)
    tried = DIVERGENCES | ({} if said is None else {declared: said})
    fits = sorted(
        (*_fit(u, direction(divergence, z, t, temperature), hard), name, temperature)
        for name, divergence in tried.items()
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
