"""What the step divides by: the mean of the means of micro-batches is another loss."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from sftspec.conformance.breakit import Chart, Outcome, above, below, experiment
from sftspec.conformance.breakit.classroom import LETTERS, make_model, planted, teach
from sftspec.conversation import Conversation
from sftspec.trainer import Pipeline

MICRO_BATCHES = 8
COUNTS = {"16 targets each": (16, 16), "10 to 28 targets": (10, 28), "1 to 32 targets": (1, 32)}


def answers_of(counts: list[int], seed: int) -> list[Conversation]:
    """One conversation for each count; with its end-of-turn token the answer has so many targets."""
    generator = random.Random(seed)
    return [
        Conversation(
            [
                {"role": "user", "content": generator.choice(LETTERS)},
                {"role": "assistant", "content": "".join(generator.choices(LETTERS, k=count - 1))},
            ]
        )
        for count in counts
    ]


def gradient(seed: int, talks: list[Conversation], pipeline: Pipeline) -> tuple[Tensor, float]:
    """The gradient of one optimizer step of eight micro-batches, read off what SGD did, and the reported loss."""
    model = make_model(seed).double()
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    job = teach(model, pipeline, talks, batch_size=1, accumulation=MICRO_BATCHES, optimizer="sgd", learning_rate=1.0)
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return before - after, job.reported["losses"][0]


@experiment(caught_by="step/every-target-of-a-step-weighs-the-same", mutant="step/mean-of-means")
def mean_of_means(seed: int) -> Outcome:
    """Gradient accumulation averages the means of its micro-batches: short answers weigh more.

    It is the true loss if and only if all micro-batches have equally many targets, which is how tests with equal
    lengths miss it; AdamW and clipping hide factors, not this. transformers#34191, torchtune#1878, ms-swift#10084.
    """
    generator = random.Random(seed)
    errors, cosines, shown = {}, {}, {}
    for name, (least, most) in COUNTS.items():
        counts = [least, most, *(generator.randint(least, most) for _ in range(MICRO_BATCHES - 2))]
        if most == 32:  # answers of one word among long ones
            counts = [1, 1, 1, 2, 2, 4, generator.randint(16, 31), 32]
        talks = answers_of(counts, seed)
        right, loss = gradient(seed, talks, Pipeline())
        wrong, wrong_loss = gradient(seed, talks, planted("step/mean-of-means"))
        errors[name] = float((wrong - right).norm() / right.norm())
        cosines[name] = float(wrong @ right / wrong.norm() / right.norm())
        shown[name] = (
            f"{name}: relative error {errors[name]:.2g}, cosine {cosines[name]:.2f}, loss {loss:.3f}, {wrong_loss:.3f}"
        )
    equal, mild, wild = COUNTS
    return Outcome(
        f"One step of {MICRO_BATCHES} micro-batches, gradient of the mean of means against that of the mean."
        f" {'; '.join(shown.values())}.",
        (
            below("relative error, equal counts", errors[equal], 1e-9),
            above("relative error, 10 to 28", errors[mild], 0.05),
            above("relative error, 1 to 32", errors[wild], 0.5),
            below("cosine, 1 to 32", cosines[wild], 0.95),
        ),
        (Chart("", "relative error of the gradient", {"mean of means": list(errors.items())}),),
    )
