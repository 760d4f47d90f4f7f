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

from sftspec.properties import NotMeasuredError, must

WHOLE = {"batch_size": 4, "accumulation": 1}
IN_THREE = {"batch_size": 2, "accumulation": 3}
TWICE = {"batch_size": 2, "accumulation": 2, "count": 6, "epochs": 2}  # the last step of an epoch has one micro-batch
WEIGHT = 1e-4  # relative: twenty times the residual that float32 leaves of a fit


def steps_of(distil: Callable) -> Iterator[tuple[tuple, Any]]:
    """Every step of every run, and which one it is."""
    for settings in (WHOLE, IN_THREE, TWICE):
        for number, step in enumerate(distil(**settings)):
            yield (settings, number), step


def steps_read(distil: Callable) -> Iterator[tuple[tuple, Any]]:
    """The same, of a loss whose gradient is known. Raises NotMeasuredError for another."""
    for place, step in steps_of(distil):
        if step.unknown:
            raise NotMeasuredError(step.unknown)
        yield place, step


def steps_alone(distil: Callable) -> Iterator[tuple[tuple, Any]]:
    """The same, of a loss that stands alone. Raises NotMeasuredError where another one is declared beside it."""
    for place, step in steps_of(distil):
        if step.auxiliary:
            raise NotMeasuredError(step.unknown)
        yield place, step


@must(seam="distil", claim="distillation", laws=("KD-VAL", "KD-DIR"), floor=4)
def the_declared_divergence_is_distilled(distil):
    """The student's gradient is that of the declared divergence, at the declared temperature of both models.

    A path that is fused, chunked or of another library drops the temperature or swaps the models (trl#5731, verl#7769):
    the loss looks plausible, and the gradient is that of another one. In a later step T may have been annealed, or the
    teacher's logits be those that were kept of another batch.
    """
    for place, step in steps_read(distil):
        seen = f"seen {step.seen.divergence} at T = {step.seen.temperature}"
        right = (step.seen.divergence, step.seen.temperature) == (step.divergence, step.temperature)
        yield place, right, f"declared {step.divergence} at T = {step.temperature}, {seen}"


@must(seam="distil", claim="distillation", laws="KD-MIX", floor=4)
def the_declared_cross_entropy_stands_beside_it(distil):
    """The student's gradient holds as much cross-entropy beside the divergence as is declared, and no more.

    A step of another library adds it where none was asked for (ms-swift#6857).
    """
    for place, step in steps_read(distil):
        gap = float((step.seen.hard - step.cross_entropy * step.seen.soft).abs().max())
        mixed = gap <= WEIGHT * float(step.seen.soft.abs().max())
        yield place, mixed, f"cross-entropy {step.cross_entropy} times the divergence is declared, and off by {gap}"


@must(seam="distil", claim="distillation", laws=("KD-RED", "KD-ACC"), floor=20)
def every_distilled_token_weighs_the_same(distil):
    """Each distilled position of a step has the same weight, whatever its micro-batch and length.

    trl#4719, #6006: the divergence was averaged over each micro-batch, so that short answers weighed more.
    """
    for place, step in steps_read(distil):
        seen, middle = step.seen, float(step.seen.soft.mean())
        for position, weight in zip(seen.positions, seen.soft.tolist(), strict=True):
            yield (*place, position), abs(weight - middle) <= WEIGHT * abs(middle), f"weight {weight}, mean {middle}"


@must(seam="distil", claim="distillation", laws=("KD-RED", "KD-ACC"), floor=3)
def the_cut_of_a_step_leaves_its_weights(distil):
    """However a step is cut into micro-batches, and however many it has, its distilled tokens weigh the same in all.

    Times the micro-batches, or by those that are not there, a sum is another rate. Equal weights do not show it.
    """
    whole = float(distil(**WHOLE)[0].seen.soft.sum())
    for place, step in steps_read(distil):
        total = float(step.seen.soft.sum())
        yield place, abs(total - whole) <= WEIGHT * abs(whole), f"{total}, and {whole} in one step of one batch"


@must(seam="distil", claim="distillation", laws=("KD-RED", "KD-T2"), floor=3)
def the_weights_of_pure_distillation_add_up_to_one(distil):
    """Where no cross-entropy is declared, the weights of a step add up to 1, or to T**2 with Hinton's factor.

    A sum that is divided by the wrong number is a learning rate that nobody chose: times the tokens (ms-swift#6600), by
    the vocabulary (trl#4105). AdamW hides it (trap H5).
    """
    for place, step in steps_read(distil):
        if not step.cross_entropy:
            total = float(step.seen.soft.sum())
            gap = min(abs(total / factor - 1) for factor in (1.0, step.temperature**2))
            yield place, gap <= WEIGHT, f"the weights add up to {total}, T is {step.temperature}"


@must(seam="distil", claim="distillation", laws="KD-MASK", floor=20)
def the_completion_is_distilled_and_nothing_else(distil):
    """Every token after the prompt is distilled, and no token of the prompt or of the padding.

    Distillation passes by the model's own shift and mask: padding was learnt (trl#2058), the mask was off by one
    (ms-swift#8436).
    """
    for place, step in steps_alone(distil):
        trained = set(step.seen.positions)
        for position in sorted(trained | step.completions):
            where = "distilled, not of the completion" if position in trained else "of the completion, not distilled"
            yield (*place, position), position in trained and position in step.completions, where


@must(seam="distil", claim="distillation", laws="KD-NOTEACH", floor=2)
def the_teacher_is_asked_in_eval_mode_and_not_trained(distil):
    """The teacher is in eval mode whenever it is asked, gets no gradient, and does not move.

    lightly-train#434 (the teacher drifted), TaCL#11 (its dropout was on).
    """
    for place, step in steps_of(distil):
        yield place, step.teacher_is_untouched, "the teacher was trained, or asked in training mode"


@must(seam="distil", claim="distillation", laws="KD-NOTEACH", floor=2)
def the_student_learns_in_training_mode(distil):
    """The student is in training mode whenever it learns: its dropout is not off because it was evaluated before."""
    for place, step in steps_of(distil):
        yield place, step.student_is_in_training, "the student was trained in eval mode"


@must(seam="distil", claim="distillation", laws="KD-ACC", floor=3)
def the_head_moves_by_the_gradient_of_its_step(distil):
    """From one step to the next the student's head moves by the rate times the gradient of that step, and by no other.

    A gradient that is not set to zero leaves all that the loss says as it was.
    """
    for place, step in steps_alone(distil):
        yield place, step.astray <= 1, f"the head is astray by {step.astray} times what rounding explains"


@must(seam="distil", claim="distillation", laws="KD-ACC", floor=3)
def every_parameter_of_the_student_moves(distil):
    """In a run every parameter of the student moves.

    A head that is trained alone learns to read what the student thinks, and the student nothing.
    """
    for place, step in steps_of(distil):
        yield place, not step.unmoved, f"nothing moved {', '.join(step.unmoved)}"


@must(seam="distil", claim="distillation", laws="KD-ACC", floor=3)
def a_step_takes_the_conversations_of_its_micro_batches(distil):
    """A step takes batch_size * accumulation conversations, and at most the last of an epoch fewer.

    A step at each micro-batch has another rate.
    """
    for settings in (WHOLE, IN_THREE, TWICE):
        size, epochs = settings["batch_size"] * settings["accumulation"], settings.get("epochs", 1)
        sizes = [len(step.rows) for step in distil(**settings)]
        right = max(sizes) <= size and sum(count < size for count in sizes) <= epochs
        yield settings, right, f"steps of {sizes} conversations, {size} are asked for"


@must(seam="distil", claim="distillation", laws="KD-ACC", floor=3)
def an_epoch_takes_every_conversation_once(distil):
    """None comes more often than there are epochs, and all come as often, but for an incomplete step that is left out.

    A loader that draws with replacement, or stays at one batch, trains on less than it was given, and no loss shows it.
    """
    for settings in (WHOLE, IN_THREE, TWICE):
        size, epochs = settings["batch_size"] * settings["accumulation"], settings.get("epochs", 1)
        times = Counter(row for step in distil(**settings) for row in step.rows)
        least = epochs * (settings.get("count", size) // size) * size
        right = times.total() >= least and max(times.values()) <= epochs
        yield settings, right, f"{times.total()} of at least {least}, {sorted(times.values())} times in {epochs}"
