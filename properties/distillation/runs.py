"""What a whole distillation trainer does to the student, seen at its last hidden state with a teacher that is known.

The seam is `distil(batch_size, accumulation, count, epochs)`: the trainer's optimizer steps on conversations of unequal
lengths. Each has what was read off the gradients (`seen`: divergence, temperature, weights and positions), what the
trainer says (`divergence`, `temperature`), where the completions stand, which conversations it took (`rows`), whether
the teacher was left alone, how far the head moved elsewhere than the gradient says (`astray`), and which parameters the
run left as they were (`unmoved`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from sftspec.properties import must

WHOLE = {"batch_size": 4, "accumulation": 1}
IN_THREE = {"batch_size": 2, "accumulation": 3}
TWICE = {"batch_size": 2, "accumulation": 2, "count": 6, "epochs": 2}  # the last step of an epoch has one micro-batch
WEIGHT = 1e-4  # relative: twenty times the residual that float32 leaves of a fit


def steps_of(distil: Callable) -> Iterator[tuple[tuple, Any]]:
    """Every step of every run, and which one it is."""
    for settings in (WHOLE, IN_THREE, TWICE):
        for number, step in enumerate(distil(**settings)):
            yield (settings, number), step


@must(seam="distil", claim="distillation", laws=("KD-VAL", "KD-DIR", "KD-MIX"), floor=4)
def what_is_declared_is_distilled(distil):
    """The student's gradient is that of the declared divergence, at the declared temperature of both models, and of as
    much cross-entropy as is declared beside it.

    A path that is fused, chunked or of another library drops the temperature, adds cross-entropy or swaps the models
    (trl#5731, verl#7769, ms-swift#6857): the loss looks plausible, and the gradient is that of another one. In a later
    step T may have been annealed, or the teacher's logits be those that were kept of another batch.
    """
    for place, step in steps_of(distil):
        seen = f"seen {step.seen.divergence} at T = {step.seen.temperature}"
        right = (step.seen.divergence, step.seen.temperature) == (step.divergence, step.temperature)
        yield place, right, f"declared {step.divergence} at T = {step.temperature}, {seen}"
        gap = float((step.seen.hard - step.cross_entropy * step.seen.soft).abs().max())
        mixed = gap <= WEIGHT * float(step.seen.soft.abs().max())
        yield place, mixed, f"cross-entropy {step.cross_entropy} times the divergence is declared, and off by {gap}"


@must(seam="distil", claim="distillation", laws=("KD-RED", "KD-ACC"), floor=20)
def every_distilled_token_weighs_the_same(distil):
    """Each distilled position of a step has the same weight, whatever its micro-batch and length.

    trl#4719, #6006: the divergence was averaged over each micro-batch, so that short answers weighed more.
    """
    for place, step in steps_of(distil):
        seen, middle = step.seen, float(step.seen.soft.mean())
        for position, weight in zip(seen.positions, seen.soft.tolist(), strict=True):
            yield (*place, position), abs(weight - middle) <= WEIGHT * abs(middle), f"weight {weight}, mean {middle}"


@must(seam="distil", claim="distillation", laws=("KD-RED", "KD-ACC", "KD-T2"), floor=3)
def the_weights_of_a_step_add_up_to_one(distil):
    """However a step is cut into micro-batches, and however many it has, the weights of its distilled tokens add up to
    the same: to 1, or to T**2 with Hinton's factor, where no cross-entropy is declared beside the divergence.

    A sum that is divided by the wrong number is a learning rate that nobody chose: times the tokens (ms-swift#6600),
    times the micro-batches, by the vocabulary (trl#4105). Equal weights do not show it, and AdamW hides it (trap H5).
    """
    whole = float(distil(**WHOLE)[0].seen.soft.sum())
    for place, step in steps_of(distil):
        total = float(step.seen.soft.sum())
        if not step.cross_entropy:
            gap = min(abs(total / factor - 1) for factor in (1.0, step.temperature**2))
            yield place, gap <= WEIGHT, f"the weights add up to {total}, T is {step.temperature}"
        yield place, abs(total - whole) <= WEIGHT * abs(whole), f"{total}, and {whole} in one step of one batch"


@must(seam="distil", claim="distillation", laws="KD-MASK", floor=20)
def the_completion_is_distilled_and_nothing_else(distil):
    """Every token after the prompt is distilled, and no token of the prompt or of the padding.

    Distillation passes by the model's own shift and mask: padding was learnt (trl#2058), the mask was off by one
    (ms-swift#8436).
    """
    for place, step in steps_of(distil):
        trained = set(step.seen.positions)
        for position in sorted(trained | step.completions):
            where = "distilled, not of the completion" if position in trained else "of the completion, not distilled"
            yield (*place, position), position in trained and position in step.completions, where


@must(seam="distil", claim="distillation", laws="KD-NOTEACH", floor=2)
def the_teacher_is_only_asked(distil):
    """The teacher is in eval mode whenever it is asked, gets no gradient, and does not move; the student is in training
    mode whenever it learns.

    lightly-train#434 (the teacher drifted), TaCL#11 (its dropout was on); a student whose dropout is off, because it
    was evaluated before.
    """
    for place, step in steps_of(distil):
        yield place, step.teacher_is_untouched, "the teacher was trained, or asked in training mode"
        yield place, step.student_is_in_training, "the student was trained in eval mode"


@must(seam="distil", claim="distillation", laws="KD-ACC", floor=4)
def each_step_moves_the_student_by_its_own_gradient(distil):
    """From one step to the next the student's head moves by the rate times the gradient of that step, and by no other;
    and every parameter moves.

    A gradient that is not set to zero, or that no optimizer gets, leaves all that the loss says as it was. A head that
    is trained alone learns to read what the student thinks, and the student nothing.
    """
    for place, step in steps_of(distil):
        yield place, step.astray <= 1, f"the head is astray by {step.astray} times what rounding explains"
        yield place, not step.unmoved, f"nothing moved {', '.join(step.unmoved)}"


@must(seam="distil", claim="distillation", laws="KD-ACC", floor=6)
def each_step_takes_the_conversations_asked_for(distil):
    """A step takes batch_size * accumulation conversations, the last of an epoch perhaps fewer, or it is left out; in
    all, none comes more often than there are epochs.

    A step at each micro-batch has another rate; a loader that draws with replacement, or stays at one batch, trains on
    less than it was given, and no loss shows it.
    """
    for settings in (WHOLE, IN_THREE, TWICE):
        size, epochs = settings["batch_size"] * settings["accumulation"], settings.get("epochs", 1)
        taken = [step.rows for step in distil(**settings)]
        sizes, times = [len(rows) for rows in taken], Counter(row for rows in taken for row in rows)
        partial = sum(count < size for count in sizes)
        right = max(sizes) <= size and partial <= epochs
        yield settings, right, f"steps of {sizes} conversations, {size} are asked for"
        least = epochs * (settings.get("count", size) // size) * size
        yield settings, sum(sizes) >= least, f"{sum(sizes)} conversations, at least {least} were to come"
        yield settings, max(times.values()) <= epochs, f"conversations come {sorted(times.values())} times in {epochs}"
