"""The step: every target of an optimizer step weighs the same, and the optimizer gets exactly that gradient.

What counts is not what the loss function returned but what the optimizer was given: scaling after backward, averaging
over ranks, clipping and stale gradients all happen in between. So these properties read the weight of each target in
the gradient with which the optimizer stepped. Plain SGD without clipping shows constant factors; AdamW and active
clipping hide them (trap H5).

These properties read a run, up to the gradient that the optimizer gets. What it does with it is in
`updates`, order and epochs in `epochs`, what is said of it in `reports`, the loss and the clip as functions in
`functions` and `clipping`.
"""

from __future__ import annotations

import math

from sftspec.counted import counted
from sftspec.properties import must, should
from sftspec.properties.ledger.weights import message_of


def roundoff(run) -> float:
    return run.oracle.roundoff


def weight_of(run, step) -> tuple[float, float]:
    """Sum of the weights of a step's targets, and its relative error by rounding alone (BOUND-SELF)."""
    targets = run.targets[step.index]
    return sum(row.weight for row in targets), run.oracle.total_error(targets)


def norm_of(step) -> float:
    """Norm of the gradient that the optimizer got, over all parameters together."""
    return math.sqrt(math.fsum(float(gradient.double().square().sum()) for gradient in step.gradients.values()))


def norm_bound(run, step) -> float:
    """Relative error of a norm of n elements taken in float32: its sum of squares is within 8 sqrt(n) roundings (Higham
    and Mary 2019, SIAM J. Sci. Comput. 41(5), theorem 2.4 with lambda = 8), the root within half of them.
    """
    size = sum(gradient.numel() for gradient in step.gradients.values())
    return run.oracle.weight_error(run.targets[step.index]) + 4 * math.sqrt(size) * 2.0**-24


@must(laws=("ST-CE", "ST-GRAD", "ST-ROWSUM", "ST-UPCAST"), bounded=True, alone=True, floor=200)
def the_loss_is_cross_entropy(run):
    """At every target the gradient is that of cross-entropy: w (softmax(z) - onehot(y)).

    Label smoothing that was not asked for, logits scaled or capped, a loss reduced in bfloat16 (Modalities#464), a
    fused kernel that is wrong in one branch (Liger-Kernel#968): seen in the gradient, not in the loss.
    """
    for row in run.rows:
        if row.target is not None:
            holds = None if row.fit == "ambiguous" else row.fit == "cross-entropy"
            yield row, holds, f"the gradient is that of {row.fit}", row.weight * run.targets_of_step[row.step]


COUNTED = ("targets", "count")  # one number, where no message weighs more than another

UNITS = {
    "rank": lambda row: row.rank,
    "micro-batch": lambda row: row.forward,
    "row": lambda row: (row.forward, row.row),
}


def apart(rows, unit) -> dict:
    """The targets of a step by their unit."""
    parts: dict = {}
    for row in rows:
        parts.setdefault(unit(row), []).append(row)
    return parts


def is_even(run, part) -> bool:
    """Do these targets weigh the same?"""
    mean = sum(row.weight for row in part) / len(part)
    return all(abs(row.weight - mean) <= 2 * run.oracle.weight_error([row]) * abs(mean) for row in part)


def differ_by(run) -> str:
    """The largest unit of a step within which all targets weigh the same, in every step: "rank", "micro-batch",
    "conversation" or "message"; "" where none is, or too few targets show it.
    """
    rows = [row for of_step in run.targets.values() for row in of_step]
    units = {
        "step": lambda row: row.step,
        "rank": lambda row: (row.step, row.rank),
        "micro-batch": lambda row: row.forward,
        "conversation": lambda row: (row.step, row.example),
        "message": lambda row: (row.step, row.example, message_of(run, row)),
    }
    for name, unit in units.items():
        parts = apart(rows, unit).values()
        if sum(len(part) > 1 for part in parts) > 3 and all(is_even(run, part) for part in parts):
            return name.replace("step", "")
    return ""


def equal_units(run, rows) -> tuple[str, ...]:
    """The units of a step of which each has the same weight in all, spread evenly over its targets, although they hold
    unlike numbers of them: "rank", "micro-batch", "row".
    """
    found = []
    for name, unit in UNITS.items():
        parts = apart(rows, unit).values()
        if len(set(map(len, parts))) < 2:
            continue
        error = 2 * max(run.oracle.weight_error(part) for part in parts)
        totals = [sum(row.weight for row in part) for part in parts]
        even = all(is_even(run, part) for part in parts)
        if even and max(totals) - min(totals) <= error * abs(max(totals)):
            found.append(name)
    return tuple(found)


def pattern(run, rows) -> tuple[tuple[str, ...], str]:
    """By which units the targets of a step that weigh unlike do so, and that in words."""
    units = equal_units(run, rows)
    if units:
        each = f"{' (which is a '.join(units)}{')' * (len(units) - 1)}"
        return units, f": each {each} weighs the same, whatever it holds"
    unit = differ_by(run)
    declared = ", which may be declared (sftspec.Conventions(weights=...), or the claim 'weights')"
    return (), f": weights differ by {unit}{declared if unit in ('conversation', 'message') else ''}" if unit else ""


@must(
    laws=("ST-ACC", "ST-CE", "ST-DUP", "MK-WEIGHT"),
    bounded=True,
    alone=True,
    floor=200,
    needs=("step/the-loss-is-cross-entropy",),
)
def every_target_of_a_step_weighs_the_same(run):
    """All targets of one optimizer step have the same weight, over micro-batches, rows and ranks.

    A mean of micro-batch means weighs a token in a short micro-batch more (transformers#34191, torchtune#1875;
    relative gradient error 1.3 at counts of 1 to 32); so does a denominator per rank (transformers#34242).
    """
    if run.conventions.denominator not in COUNTED or run.is_weighted:
        return
    for rows in filter(None, run.targets.values()):
        middle = sorted(rows, key=lambda row: row.weight)[len(rows) // 2]
        if not middle.weight:  # none of it reached the optimizer's gradient, of which other laws say more
            continue
        ratios = [row.weight / middle.weight for row in rows]
        holds = [
            abs(ratio - 1) <= 2 * run.oracle.weight_error([row, middle])
            for row, ratio in zip(rows, ratios, strict=True)
        ]
        units, said = ((), "") if all(holds) else pattern(run, rows)
        for row, ratio, equal in zip(rows, ratios, holds, strict=True):
            yield row, equal, f"weighs {ratio:.4g} times the median target of its step{said}", abs(ratio - 1), units


@must(
    laws=("ST-ACC", "ST-DP", "ST-CE", "MK-COUNT", "PK-LOSSGRAD"),
    bounded=True,
    alone=True,
    floor=5,
    needs=("step/the-loss-is-cross-entropy",),
)
def the_denominator_is_the_number_of_targets(run):
    """The weights of a step sum to 1: the denominator is the number of its targets, counted once over everything.

    Not divided by the accumulation steps at all (nanoGPT#206), twice (transformers#35207, LLaMA-Factory#7443), by all
    positions, by rows, by targets counted before the shift, per rank (transformers#34373), by segments twice
    (unsloth-zoo#1066). AdamW hides it; the learning rate is silently another one.
    """
    if run.job.max_grad_norm is not None or run.conventions.denominator not in COUNTED or run.is_weighted:
        return
    for step in run.steps:
        count = run.targets_of_step[step.index]
        if count:
            (total, error), labels = weight_of(run, step), run.labels_of_step[step.index]
            yield (
                step,
                min(abs(total - 1), abs(total * labels / count - 1)) <= error,
                f"step {step.index}: {counted(count, 'target')}, weights sum to {total:.6g} instead of 1",
                total,
            )


@must(laws=("ST-ACC", "MK-WEIGHT"), bounded=True, alone=True, floor=200, needs=("step/the-loss-is-cross-entropy",))
def targets_weigh_as_declared(run):
    """Under declared weights, or another denominator than its targets, each target of a step weighs as they say.

    Weights that are left out, squared, or counted as targets are not. A mean over conversations of their means, a plain
    sum, a constant: each is a choice, and each has its own wrong forms: a mean over rows or micro-batches in its place
    (transformers#34191), a sum averaged over ranks (transformers#34242), a constant per micro-batch.
    """
    if (run.conventions.denominator in COUNTED and not run.is_weighted) or run.job.max_grad_norm is not None:
        return
    whose = "what is declared" if run.is_weighted else "the declared denominator"
    for index, shares in run.shares.items():
        for row, share in zip(run.targets[index], shares, strict=True):
            ratio = row.weight / share if share else math.inf
            note = f"weighs {row.weight:.6g}; {whose} gives it {share:.6g}"
            yield row, abs(ratio - 1) <= 2 * run.oracle.weight_error([row]), note, abs(ratio - 1)


@should(laws=("MK-COUNT",), bounded=True, alone=True, floor=5, needs=("step/the-loss-is-cross-entropy",))
def first_tokens_are_not_counted(run):
    """The denominator does not count a label on the first token of a row, which no logits precede.

    Counted before the shift it is too large by one for each such row, so it depends on how rows were cut. transformers
    5.23.0 counts after the shift for classes named ...ForCausalLM and before it for others, GPT2LMHeadModel among them.
    """
    if run.job.max_grad_norm is not None or run.conventions.denominator not in COUNTED or run.is_weighted:
        return
    for step in run.steps:
        count, labels = run.targets_of_step[step.index], run.labels_of_step[step.index]
        if count and labels > count:
            total, error = weight_of(run, step)
            if labels / count - 1 <= 2 * error:  # 16 bits do not tell the two denominators apart
                continue
            yield (
                step,
                abs(total * labels / count - 1) > error,
                f"step {step.index}: {counted(count, 'target')} divided by {labels}, the labels before the shift",
            )


@must(laws=("ST-ZERO_GRAD", "ST-ACC", "ST-CLIPORDER"), bounded=True, alone=True, floor=5)
def the_gradient_is_that_of_the_step(run):
    """What the optimizer gets is explained by the positions of its own step, and by nothing else.

    A gradient left from the step before, or a micro-batch erased by zero_grad in the inner loop (llm.c#548,
    torchforge#71), a second path to the loss: what is not explained is the residual.
    """
    for step in run.steps:
        if run.targets_of_step[step.index]:
            note = f"{step.residual:.2e} of the head's gradient is unexplained"
            yield step, step.residual <= run.oracle.slack, note, step.residual


@must(
    laws=("PK-LOSSGRAD", "ST-ACC", "ST-GRADCHECK"),
    floor=5,
    bounded=True,
    alone=True,
    costly=True,
    needs=("step/the-loss-is-cross-entropy", "packing/hidden-states-equal-those-alone"),
)
def every_parameter_gets_its_gradient(run):
    """The gradient of every parameter equals that of the same targets, each example alone, in float64.

    Layers under no_grad, frozen by mistake or cut off by checkpointing (transformers#26221) do not show at the head.
    BOUND-SELF: four times the error of the same computation in the run's dtype, plus 64 roundings of
    the gradient of its module.
    """
    for step, name, error, bound in run.oracle.compare_gradients():
        note = f"step {step.index}, {name}: relative error {error:.2e}, {bound:.2e} is rounding"
        yield step, error <= bound, note, error


@must(
    laws=("ST-CLIP", "ST-CLIPDIR", "ST-CLIPHOM", "ST-CLIPORDER"),
    claim="clipping",
    floor=1,
    bounded=True,
    alone=True,
    needs=("packing/hidden-states-equal-those-alone",),
)
def clipping_is_by_the_norm_of_the_whole_gradient(run):
    """A gradient over max_grad_norm is scaled to that norm, all parameters by one factor, once per optimizer step.

    Clipped per tensor, by value, per micro-batch (accelerate#999), before unscaling (Pytorch-UNet#470), by a local norm
    on a shard (pytorch#72548). Pascanu et al. 2013, arXiv:1211.5063, algorithm 1. Torch adds 1e-6 to the norm.
    """
    limit = run.job.max_grad_norm
    if limit is None:
        return
    for step, factor, norm, rounding, spread, of_one in run.oracle.clip_factors():
        if norm > limit:
            expected = limit / norm
            close = abs(factor / expected - 1) <= 1e-6 / norm + rounding and spread <= of_one
            length = norm_of(step)
            exact = abs(length / limit - 1) <= 1e-6 / norm + norm_bound(run, step)
            yield (
                step,
                close and exact,
                f"step {step.index}: norm {norm:.4g}, expected factor {expected:.6g}, saw {factor:.6g} "
                f"(spread over parameters {spread:.1e}), and the norm {length:.6g} after it",
                factor / expected,
            )
    # Under dropout the norm before cannot be computed again; that after it has its limit all the same.
    for step in run.steps:
        if run.dropout and run.targets_of_step[step.index]:
            length = norm_of(step)
            note = f"step {step.index}: norm {length:.6g}, {limit:g} was the limit"
            yield step, length <= limit * (1 + norm_bound(run, step)), note, length / limit


@must(
    laws=("ST-CLIPNOOP", "ST-CLIPIDEM"),
    claim="clipping",
    bounded=True,
    alone=True,
    floor=1,
    needs=("step/the-loss-is-cross-entropy",),
)
def a_gradient_below_the_limit_is_not_scaled(run):
    """Clipping leaves a gradient at or below max_grad_norm as it is: the weights still sum to 1.

    Normalising always makes every step equally long, whatever the loss.
    """
    limit = run.job.max_grad_norm
    if limit is None:
        return
    for step, factor, norm, *_ in run.oracle.clip_factors():
        if norm and norm <= limit:
            yield (
                step,
                abs(factor - 1) <= run.oracle.total_error(run.targets[step.index]),
                f"step {step.index}: norm {norm:.4g} scaled by {factor:.6g}",
                factor,
            )
