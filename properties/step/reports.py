"""Reports: what a trainer says of its step is what happened in it.

People tune by the curve that they see. What is reported is held against the model's own losses and gradients, read off
the witness (verl#102, transformers#35527).
"""

from __future__ import annotations

import math

from sftspec.counted import counted
from sftspec.properties import must
from sftspec.properties.step.gradient import norm_bound, norm_of, roundoff, weight_of


def by_step(run, values: list[float], was_skipped) -> tuple[list, list[float]]:
    """(steps, values) that belong together: a step that was skipped for want of targets may be reported or not."""
    if run.lost:  # of a step that was left out the loss is reported all the same
        return [], []
    if len(values) == len(run.steps):
        return run.steps, values
    stepped = [step for step in run.steps if run.targets_of_step[step.index]]
    return stepped, values if len(values) == len(stepped) else [value for value in values if not was_skipped(value)]


@must(laws=("ST-REPORT",), claim="log", bounded=True, alone=True, floor=3)
def the_reported_loss_is_the_mean_over_targets(run):
    """The loss that is reported for a step is the mean over its targets.

    Logged times or divided by the accumulation steps, per micro-batch, over other positions than the loss
    (transformers#34191, #35527, trl#5620, verl#102).
    """
    stepped, losses = by_step(run, run.job.reported.get("losses", []), math.isnan)
    yield (
        run,
        len(losses) == len(stepped),
        f"{counted(len(stepped), 'optimizer step')}, {counted(len(losses), 'loss')} reported",
    )
    for step, loss in zip(stepped, losses, strict=False):
        rows = run.targets[step.index]
        if rows:
            total = sum(row.nll for row in rows)
            mean, of_labels = total / len(rows), total / run.labels_of_step[step.index]
            grown = max(1.0, run.declared_total(step.index))  # of a sum of losses, so are its roundings
            declared = sum(share * row.nll for share, row in zip(run.shares[step.index], rows, strict=True))
            if roundoff(run) > 1e-4:  # logits in 16 bits, reduced in float32
                bound = 2 * roundoff(run) * run.oracle.largest_logit(step) + 128 * 2**-24 * (1 + mean)
            else:
                bound = 128 * roundoff(run) * (1 + mean)
            off = min(abs(loss - mean), abs(loss - of_labels), abs(loss - declared) / grown)
            close = off <= bound + written(loss)
            yield step, close, f"step {step.index}: mean {mean:.6g}, reported {loss:.6g}", loss / mean


def written(figure: float) -> float:
    """Half a unit of the last decimal that a log wrote, of four or more (transformers wrote four before 5.0)."""
    return 0.5 * 10.0 ** -max(4, len(repr(float(figure)).partition(".")[2]))


@must(laws=("ST-REPORT", "ST-CLIP"), claim="log", needs=("step/the-loss-is-cross-entropy",), bounded=True, alone=True)
def the_reported_norm_is_that_before_clipping(run):
    """A gradient norm that is reported is that of the whole gradient of the step, before it was clipped.

    After clipping it is the limit, whatever happens; of a shard, or of one parameter, it hides what explodes
    (pytorch#72548). Read where norms are reported, which is then asked of every step: what the optimizer got over the
    factor of the clip, which is the sum of the weights over what is declared.
    """
    if "grad_norms" not in run.job.reported:
        return
    steps, norms = by_step(run, run.job.reported["grad_norms"], lambda norm: not norm)
    yield (
        run,
        len(norms) == len(steps),
        f"{counted(len(steps), 'optimizer step')}, {counted(len(norms), 'norm')} reported",
    )
    for step, reported in zip(steps, norms, strict=False):
        if run.targets_of_step[step.index]:
            norm = norm_of(step)
            of_labels = norm
            if run.job.max_grad_norm is not None:  # the factor of the clip is read as if the weights were as declared
                norm /= weight_of(run, step)[0] / run.declared_total(step.index)
                of_labels = norm * run.targets_of_step[step.index] / run.labels_of_step[step.index]
            close = min(abs(reported - norm), abs(reported - of_labels)) <= norm_bound(run, step) * norm
            yield step, close, f"step {step.index}: norm {norm:.6g}, reported {reported:.6g}"
