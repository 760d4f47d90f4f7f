"""The step, in the functions: the loss, the clip and the optimizer step, on arguments that hypothesis draws.

Exact where the law is exact; elsewhere within what rounding explains (BOUND-LOSS, BOUND-GRAD). Expected values are
computed by hand in plain floats with exact sums.
"""

from __future__ import annotations

import itertools
import math

import torch
from hypothesis import strategies as st

from sftspec.properties import must, takes
from sftspec.properties.cases.step import (
    BROAD,
    FIRST_LABELLED,
    LONG,
    REDUCED_IN,
    ROUNDOFF,
    UNEQUAL,
    Problem,
    gradient_bound,
    loss_bound,
    make_problem,
    mild_problems,
    problems,
    stored_bound,
)

DRAWN = {"problem": problems}
CAUGHT = [{"problem": UNEQUAL}, {"problem": FIRST_LABELLED}]


@must(seam="loss", laws=("ST-CE", "ST-NONNEG", "ST-UPCAST"), floor=100, given=DRAWN,
      examples=[*CAUGHT, {"problem": LONG}, {"problem": BROAD}])  # fmt: skip
def the_loss_is_the_mean_over_targets(loss, problem):
    """L = (1/n) sum of [logsumexp(z) - z_y] over the targets, in the logits' type, or in float32 if theirs has 16 bits;
    the same where n is given.

    Mean of row means, division by rows or by positions, a sum in bfloat16 that stalls (transformers#34147). What the
    logits lost when they were rounded to 16 bits is not asked for.
    """
    for dtype, reduced in REDUCED_IN.items():
        rounded = Problem(problem.logits.to(dtype).double(), problem.labels)
        exact, bound = math.fsum(rounded.losses()) / len(rounded.scored), loss_bound(rounded, reduced)
        for options in denominators(loss, problem):
            got = float(loss(problem.logits.to(dtype), problem.labels, **options))
            yield problem, abs(got - exact) <= 2 * bound, f"{dtype}, {options}: expected {exact:.9g}, saw {got:.9g}"
            yield problem, got >= -bound, f"{dtype}, {options}: the loss is {got:.3g} < 0"


def denominators(loss, problem):
    """Two ways to ask for the same loss: with its number of targets left out, and given."""
    return ({}, {"num_targets": len(problem.scored)}) if takes(loss, "num_targets") else ({},)


SCALES = (1.0, 3.0)  # 3 is no power of two: multiplying by it rounds


@must(seam="loss", laws=("ST-GRAD", "ST-ROWSUM", "ST-CONST"), floor=100, given=DRAWN, examples=CAUGHT)
def the_gradient_is_softmax_minus_onehot(loss, problem):
    """dL/dz = (softmax(z) - onehot(y)) / n: each row sums to 0, its one negative entry is the target's; of 3 L it is
    three times that.

    A detached or doubled graph passes every check of the loss value (trap H16), perhaps in one type of logits alone;
    label smoothing shows here. A fused kernel that has its gradient ready and does not multiply it by the one that
    comes from above is right only where nothing scales the loss. In 16 bits the entry itself is rounded, and perhaps
    its multiple, which in float16 may leave nothing of it.
    """
    for dtype in REDUCED_IN:
        rounded = Problem(problem.logits.to(dtype).double(), problem.labels)
        pulls = rounded.pulls()
        for options, scale in itertools.product(denominators(loss, problem), SCALES):
            factor, leaf = scale / len(pulls), problem.leaf(dtype)
            (scale * loss(leaf, problem.labels, **options)).backward()
            bound = stored_bound(rounded, dtype, factor, roundings=1 + (scale != 1))
            for place, pull in pulls.items():
                error = max(abs(got - factor * x) for got, x in zip(leaf.grad[place].tolist(), pull, strict=True))
                note = f"{dtype}, {options}, times {scale}: off by {error:.2e}, {bound:.2e} is rounding"
                yield place, error <= bound, note


@must(seam="loss", laws=("ST-SHIFTINV",), floor=50, given={**DRAWN, "shift": st.sampled_from([-64.0, 8.0, 1024.0])},
      examples=[{"problem": make_problem(1, 1, 3, 4, 1000.0, 1.0), "shift": 1024.0}])  # fmt: skip
def a_constant_per_row_changes_nothing(loss, problem, shift):
    """Adding a constant to all logits of a position leaves the loss: softmax without its largest logit overflows."""
    moved = Problem(problem.logits + shift, problem.labels)
    difference = abs(float(loss(moved.logits, moved.labels)) - float(loss(problem.logits, problem.labels)))
    # Adding the constant rounds each logit once more.
    bound = loss_bound(problem) + loss_bound(moved) + 4 * ROUNDOFF[torch.float64] * moved.largest
    yield problem, difference <= bound, f"the loss moved by {difference:.2e}"


@must(seam="loss", laws=("ST-UNIF",), floor=20,
      given={"vocabulary": st.integers(2, 64), "length": st.integers(2, 9), "excluded": st.integers(1, 9)})  # fmt: skip
def equal_logits_cost_ln_v(loss, vocabulary, length, excluded):
    """Equal logits cost ln V nats per target: not log2, and no padded vocabulary counted, which stands behind at -inf.

    Times a one-hot row, the logarithm of what is excluded is 0 * inf = NaN. Where the target itself is excluded the
    loss is infinite, or an error: not 0, or the fault that excluded it is never seen.
    """
    problem = Problem(torch.zeros(1, length, vocabulary, dtype=torch.float64), torch.zeros(1, length, dtype=torch.long))
    padding = torch.full((1, length, excluded), -math.inf, dtype=torch.float64)
    for logits in (problem.logits, torch.cat([problem.logits, padding], -1)):
        leaf = logits.clone().requires_grad_(True)
        value = loss(leaf, problem.labels)
        (gradient,) = torch.autograd.grad(value, leaf)
        got = float(value.detach())
        yield vocabulary, abs(got - math.log(vocabulary)) <= loss_bound(problem), f"expected ln {vocabulary}, saw {got}"
        nothing = bool((gradient[..., vocabulary:] == 0).all() and gradient.isfinite().all())
        yield vocabulary, nothing, f"the gradient is {gradient[..., vocabulary:]} at -inf, or not finite elsewhere"
    try:
        got = float(loss(torch.cat([padding, problem.logits], -1), problem.labels))
    except Exception as error:
        yield vocabulary, True, f"refused: {error}"
    else:
        yield vocabulary, got == math.inf, f"a target at -inf costs {got}"


@must(
    seam="loss", laws=("ST-CONVEX", "ST-NONNEG"), floor=50, given={"problem": mild_problems, "seed": st.integers(0, 99)}
)
def the_loss_is_convex_and_falls_with_the_target(loss, problem, seed):
    """L((a+b)/2) <= (L(a)+L(b))/2, and raising the target's logit lowers L: focal and poly losses are neither
    always.
    """
    other = make_problem(seed, *problem.logits.shape, 5.0, 1.0).logits
    ends = [float(loss(logits, problem.labels)) for logits in (problem.logits, other)]
    middle = float(loss((problem.logits + other) / 2, problem.labels))
    yield problem, middle <= sum(ends) / 2 + 2 * loss_bound(problem)
    raised = problem.logits.clone()
    for place in problem.scored:
        raised[place][problem.target(place)] += 1.0
    yield problem, float(loss(raised, problem.labels)) < ends[0]


@must(seam="loss", laws=("ST-PERM", "ST-VOCPERM"), floor=50, given={**DRAWN, "seed": st.integers(0, 999)}, examples=[
      {"problem": UNEQUAL, "seed": 1}])  # fmt: skip
def order_of_rows_and_of_tokens_is_arbitrary(loss, problem, seed):
    """Permuting the rows of a batch, or the vocabulary together with the labels, leaves the loss."""
    generator = torch.Generator().manual_seed(seed)
    value, bound = float(loss(problem.logits, problem.labels)), 2 * loss_bound(problem)
    rows = torch.randperm(len(problem.labels), generator=generator)
    yield problem, abs(float(loss(problem.logits[rows], problem.labels[rows])) - value) <= bound
    words = torch.randperm(problem.logits.shape[-1], generator=generator)
    renamed = torch.where(problem.labels >= 0, torch.argsort(words)[problem.labels.clamp_min(0)], problem.labels)
    yield problem, abs(float(loss(problem.logits[..., words], renamed)) - value) <= bound


@must(seam="loss", laws=("ST-PAD", "ST-DUP", "PK-PAD"), floor=50,
      given={**DRAWN, "pads": st.integers(1, 17)}, examples=[{"problem": UNEQUAL, "pads": 3}])  # fmt: skip
def padding_and_copies_change_nothing(loss, problem, pads):
    """Padding at the right, or the whole batch twice, leaves the loss and the gradient of each logit times n."""
    batch, _, vocabulary = problem.logits.shape
    value, bound = float(loss(problem.logits, problem.labels)), 2 * loss_bound(problem)
    logits = torch.cat([problem.logits, torch.full((batch, pads, vocabulary), 3.0, dtype=torch.float64)], 1)
    labels = torch.cat([problem.labels, torch.full((batch, pads), -100)], 1)
    yield problem, abs(float(loss(logits, labels)) - value) <= bound, "padding changed the loss"
    twice = float(loss(problem.logits.repeat(2, 1, 1), problem.labels.repeat(2, 1)))
    yield problem, abs(twice - value) <= bound, "a doubled batch changed the loss: a sum, not a mean"


@must(seam="loss", laws=("ST-ACC", "ST-DP", "ST-ACCMUT"), floor=50,
      given={**DRAWN, "cuts": st.integers(1, 5)}, examples=[{"problem": UNEQUAL, "cuts": 2}])  # fmt: skip
def micro_batches_add_up(loss, problem, cuts):
    """With num_targets of the whole step, losses and gradients of any partition add up to those of the whole.

    The mean of means differs by sum over k of (1/K - n_k/n) L_k: nothing at equal counts, 2.5 for 3.5 at counts 1 and
    5.
    """
    whole = problem.leaf()
    value = loss(whole, problem.labels)
    value.backward()
    parts, total = problem.leaf(), 0.0
    count = len(problem.scored)
    for rows in torch.arange(len(problem.labels)).chunk(cuts):
        part = loss(parts[rows], problem.labels[rows], num_targets=count)
        part.backward()
        total += float(part.detach())
    yield (
        problem,
        abs(total - float(value.detach())) <= 2 * loss_bound(problem),
        f"{total:.9g} instead of {float(value.detach()):.9g}",
    )
    error = float((parts.grad - whole.grad).abs().max())
    yield problem, error <= 2 * gradient_bound(problem), f"a gradient is off by {error:.2e}"


@must(seam="loss", laws=("ST-GRADCHECK",), floor=20, given={"problem": mild_problems})
def the_gradient_is_the_slope(loss, problem):
    """Central differences in float64 agree: (L(z+h) - L(z-h)) / 2h, h = eps^(1/3), in a random direction.

    BOUND-SLOPE, for the direction d: h^2/6 of the third derivative (at most |d|^3) and the rounding of L over h, four
    times.
    """
    leaf = problem.leaf()
    loss(leaf, problem.labels).backward()
    direction = make_problem(5, *problem.logits.shape, 1.0, 1.0).logits
    step = torch.finfo(torch.float64).eps ** (1 / 3)
    up, down = (float(loss(problem.logits + sign * step * direction, problem.labels)) for sign in (1, -1))
    slope = float((leaf.grad * direction).sum())
    error = abs((up - down) / (2 * step) - slope)
    yield problem, error <= 4 * (step**2 / 6 * 8 + loss_bound(problem) / step), f"off by {error:.2e}"
