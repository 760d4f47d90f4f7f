"""Distillation at a temperature, with and without Hinton's factor T**2."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from torch import Tensor

from sftspec.collation import collate
from sftspec.conformance.breakit import Chart, Outcome, above, below, experiment
from sftspec.conformance.breakit.classroom import LETTERS, dictionary, encoded, make_model, teach, tokenizer
from sftspec.conformance.breakit.masks import taught
from sftspec.conversation import Conversation
from sftspec.distillation import distillation_loss, frozen_logits
from sftspec.divergences import forward_kl
from sftspec.step import StepReport, forward_logits, sft_loss
from sftspec.trainer import Pipeline

STEPS, NOISE, ALPHA = 110, 0.5, 0.9
TEMPERATURES = (1.0, 2.0, 4.0)

Loss = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def with_factor(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    return distillation_loss(student, teacher, labels, temperature, ALPHA)


def without_factor(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    soft = distillation_loss(student, teacher, labels, temperature, 1.0) / temperature**2
    return ALPHA * soft + (1 - ALPHA) * sft_loss(student, labels)


def distilling(teacher: Any, loss: Loss, temperature: float) -> Pipeline:
    """The reference with a step that learns from a teacher."""

    def step(model, batches, optimizer, *_) -> StepReport:
        (batch,) = batches
        optimizer.zero_grad()
        value = loss(
            forward_logits(model, batch), frozen_logits(teacher, **batch.model_inputs()), batch.labels, temperature
        )
        value.backward()
        optimizer.step()
        return StepReport(float(value.detach()), batch.num_targets, 0.0)

    return Pipeline(step=step)


def lessons(seed: int) -> list[Conversation]:
    """The dictionary, of which half of the answers are replaced by letters drawn at random."""
    words, generator = dictionary(seed), random.Random(seed + 3)
    talks = []
    for _ in range(32 * STEPS):
        letter = generator.choice(LETTERS)
        answer = generator.choice(LETTERS) if generator.random() < NOISE else words[letter]
        talks.append(Conversation([{"role": "user", "content": letter}, {"role": "assistant", "content": answer}]))
    return talks


def distance(student: Any, teacher: Any, seed: int) -> float:
    """KL(teacher || student) at T = 1, in nats per target, on every word of the dictionary."""
    words = dictionary(seed)
    examples = [
        encoded([{"role": "user", "content": letter}, {"role": "assistant", "content": words[letter]}])
        for letter in LETTERS
    ]
    batch = collate(examples, pad_token_id=tokenizer().pad_token_id)
    scored = batch.labels[:, 1:] != -100
    rows = [
        frozen_logits(model, **batch.model_inputs())[:, :-1][scored].log_softmax(-1) for model in (student, teacher)
    ]
    return float(forward_kl(*rows).mean())


@experiment(caught_by="distillation/at-high-temperature-the-gradient-is-the-gap-of-logits")
def t_without_t_squared(seed: int) -> Outcome:
    """The softened loss is not multiplied by T**2: as T grows, the teacher falls silent.

    Its gradient falls as 1/T**2 (Hinton et al. 2015, section 2.1), so that a weight of 0.9 no longer means 0.9: half of
    the labels here are wrong, and the student learns them. T**2 does not make the gradient equal at every T: that holds
    only as T grows. At T = 1 nothing can be seen. distiller#122, keras-io#869.
    """
    teacher = taught(seed)
    talks = lessons(seed)
    losses = {"with T\u00b2": with_factor, "without T\u00b2": without_factor}
    kl: dict[str, list[tuple[float | str, float]]] = {name: [] for name in losses}
    for temperature in TEMPERATURES:
        for name, loss in losses.items():
            student = make_model(seed + 100)
            teach(student, distilling(teacher, loss, temperature), talks)
            kl[name].append((temperature, distance(student, teacher, seed)))
    right, wrong = ([value for _, value in points] for points in kl.values())
    listed = ", ".join(
        f"T = {t:g}: {a:.3f} with, {b:.3f} without" for t, a, b in zip(TEMPERATURES, right, wrong, strict=True)
    )
    return Outcome(
        f"The teacher weighs {ALPHA:.0%}, half of the labels are noise. KL from the teacher after {STEPS} steps, in"
        f" nats a target: {listed}.",
        (
            below("difference at T = 1", abs(right[0] - wrong[0]), 0.01),
            *(
                above(f"KL without T\u00b2 against {0.75 * t:g} times that with it, T = {t:g}", b, 0.75 * t * a)
                for t, a, b in list(zip(TEMPERATURES, right, wrong, strict=True))[1:]
            ),
        ),
        (Chart("temperature", "KL(teacher || student), nats per target", kl),),
    )
