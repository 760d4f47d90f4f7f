"""What a whole distillation trainer does to the student, seen at its last hidden state with a teacher that is known.

The seam is `distil(batch_size, accumulation)`: one optimizer step of the trainer on conversations of unequal lengths.
It returns what was read off the gradients (`seen`: divergence, temperature, weights and positions), what the trainer
says (`divergence`, `temperature`), where the completions stand, and whether the teacher was left alone.
"""

from __future__ import annotations

from sftspec.properties import must

WHOLE = {"batch_size": 4, "accumulation": 1}
IN_TWO = {"batch_size": 2, "accumulation": 2}
WEIGHT = 1e-4  # relative: twenty times the residual that float32 leaves of a fit


@must(seam="distil", claim="distillation", laws=("KD-VAL", "KD-DIR", "KD-MIX"), floor=4)
def what_is_declared_is_distilled(distil):
    """The student's gradient is that of the declared divergence, at the declared temperature of both models, and of as
    much cross-entropy as is declared beside it.

    A path that is fused, chunked or of another library drops the temperature, adds cross-entropy or swaps the models
    (trl#5731, verl#7769, ms-swift#6857): the loss looks plausible, and the gradient is that of another one.
    """
    for settings in (WHOLE, IN_TWO):
        step = distil(**settings)
        seen = f"seen {step.seen.divergence} at T = {step.seen.temperature}"
        right = (step.seen.divergence, step.seen.temperature) == (step.divergence, step.temperature)
        yield settings, right, f"declared {step.divergence} at T = {step.temperature}, {seen}"
        gap = float((step.seen.hard - step.cross_entropy * step.seen.soft).abs().max())
        mixed = gap <= WEIGHT * float(step.seen.soft.abs().max())
        yield settings, mixed, f"cross-entropy {step.cross_entropy} times the divergence is declared, and off by {gap}"


@must(seam="distil", claim="distillation", laws=("KD-RED", "KD-ACC"), floor=20)
def every_distilled_token_weighs_the_same(distil):
    """Each distilled position of a step has the same weight, whatever its micro-batch and length.

    trl#4719, #6006: the divergence was averaged over each micro-batch, so that short answers weighed more.
    """
    for settings in (WHOLE, IN_TWO):
        seen = distil(**settings).seen
        middle = float(seen.soft.mean())
        for position, weight in zip(seen.positions, seen.soft.tolist(), strict=True):
            yield (settings, position), abs(weight - middle) <= WEIGHT * abs(middle), f"weight {weight}, mean {middle}"


@must(seam="distil", claim="distillation", laws=("KD-RED", "KD-ACC", "KD-T2"), floor=3)
def the_weights_of_a_step_add_up_to_one(distil):
    """However a step is cut into micro-batches, the weights of its distilled tokens add up to the same: to 1, or to
    T**2 with Hinton's factor, where no cross-entropy is declared beside the divergence.

    A sum that is divided by the wrong number is a learning rate that nobody chose: times the tokens (ms-swift#6600),
    times the micro-batches, by the vocabulary (trl#4105). Equal weights do not show it, and AdamW hides it (trap H5).
    """
    totals = []
    for settings in (WHOLE, IN_TWO):
        step = distil(**settings)
        totals.append(float(step.seen.soft.sum()))
        if not step.cross_entropy:
            gap = min(abs(totals[-1] / factor - 1) for factor in (1.0, step.temperature**2))
            yield settings, gap <= WEIGHT, f"the weights add up to {totals[-1]}, T is {step.temperature}"
    whole, in_two = totals
    yield (WHOLE, IN_TWO), abs(whole - in_two) <= WEIGHT * abs(whole), f"{whole} in one batch, {in_two} in two"


@must(seam="distil", claim="distillation", laws="KD-MASK", floor=20)
def the_completion_is_distilled_and_nothing_else(distil):
    """Every token after the prompt is distilled, and no token of the prompt or of the padding.

    Distillation passes by the model's own shift and mask: padding was learnt (trl#2058), the mask was off by one
    (ms-swift#8436).
    """
    for settings in (WHOLE, IN_TWO):
        step = distil(**settings)
        trained = set(step.seen.positions)
        for position in sorted(trained | step.completions):
            where = "distilled, not of the completion" if position in trained else "of the completion, not distilled"
            yield (settings, position), position in trained and position in step.completions, where


@must(seam="distil", claim="distillation", laws="KD-NOTEACH", floor=2)
def the_teacher_is_only_asked(distil):
    """The teacher is in eval mode whenever it is asked, gets no gradient, and does not move.

    lightly-train#434 (the teacher drifted), TaCL#11 (its dropout was on).
    """
    for settings in (WHOLE, IN_TWO):
        yield settings, distil(**settings).teacher_is_untouched
