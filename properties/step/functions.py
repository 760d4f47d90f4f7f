"""The step, in the functions: the loss, the clip and the optimizer step, on arguments that hypothesis draws.

Exact where the law is exact; elsewhere within what rounding explains (BOUND-LOSS, BOUND-GRAD). Expected values are
computed by hand in plain floats with exact sums.
"""

from __future__ import annotations

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
    logits_like,
    loss_bound,
    make_problem,
    mild_problems,
    problems,
    stored_bound,
)

DRAWN = {"problem": problems}
CAUGHT = [{"problem": UNEQUAL}, {"problem": FIRST_LABELLED}]


def denominators(loss, problem):
    """Two ways to ask for the same loss: with its number of targets left out, and given."""
    return ({}, {"num_targets": len(problem.scored)}) if takes(loss, "num_targets") else ({},)


@must(
    seam="loss",
    laws=("ST-CE", "ST-UPCAST"),
    floor=100,
    given=DRAWN,
    examples=[*CAUGHT, {"problem": LONG}, {"problem": BROAD}],
)
def the_loss_is_the_mean_cross_entropy_of_the_targets(loss, problem):
    """L is the mean over the targets of logsumexp(z) - z_y, in the logits' type, or in float32 if theirs has 16 bits.

    Mean of row means, division by rows or by positions, a sum in bfloat16 that stalls (transformers#34147). It is the
    same where the number of targets is given. What the logits lost when they were rounded to 16 bits is not asked for.
    """
    for dtype, reduced in REDUCED_IN.items():
        rounded = Problem(problem.logits.to(dtype).double(), problem.labels)
        exact, bound = math.fsum(rounded.losses()) / len(rounded.scored), loss_bound(rounded, reduced)
        for options in denominators(loss, problem):
            got = float(loss(problem.logits.to(dtype), problem.labels, **options))
            # Two roundings of one real number, each within the bound.
            yield problem, abs(got - exact) <= 2 * bound, f"{dtype}, {options}: expected {exact:.9g}, saw {got:.9g}"


@must(
    seam="loss",
    laws=("ST-NONNEG",),
    floor=100,
    given=DRAWN,
    examples=[*CAUGHT, {"problem": LONG}, {"problem": BROAD}],
)
def no_loss_is_negative(loss, problem):
    """The loss is at least 0, in every type of logits.

    A negative one is no cross-entropy: the logarithm of something that is no probability.
    """
    for dtype, reduced in REDUCED_IN.items():
        bound = loss_bound(Problem(problem.logits.to(dtype).double(), problem.labels), reduced)
        for options in denominators(loss, problem):
            got = float(loss(problem.logits.to(dtype), problem.labels, **options))
            yield problem, got >= -bound, f"{dtype}, {options}: the loss is {got:.3g} < 0"


def gradients_of(loss, problem, scale):
    """Evidence that the gradient of scale times the loss is that by hand, in every type, at every target."""
    for dtype in REDUCED_IN:
        rounded = Problem(problem.logits.to(dtype).double(), problem.labels)
        pulls = rounded.pulls()
        for options in denominators(loss, problem):
            factor, leaf = scale / len(pulls), problem.leaf(dtype)
            (scale * loss(leaf, problem.labels, **options)).backward()
            bound = stored_bound(rounded, dtype, factor, roundings=1 + (scale != 1))
            for place, pull in pulls.items():
                error = max(abs(got - factor * x) for got, x in zip(leaf.grad[place].tolist(), pull, strict=True))
                note = f"{dtype}, {options}, times {scale}: off by {error:.2e}, {bound:.2e} is rounding"
                yield place, error <= bound, note


@must(seam="loss", laws=("ST-GRAD", "ST-ROWSUM"), floor=100, given=DRAWN, examples=CAUGHT)
def each_row_of_the_gradient_is_softmax_minus_onehot(loss, problem):
    """dL/dz = (softmax(z) - onehot(y)) / n: each row sums to 0, and its one negative entry is the target's.

    A detached or doubled graph passes every check of the loss value (trap H16), perhaps in one type of logits alone;
    label smoothing shows here. In 16 bits the entry itself is rounded.
    """
    yield from gradients_of(loss, problem, 1.0)


@must(seam="loss", laws=("ST-CONST",), floor=100, given=DRAWN, examples=CAUGHT)
def three_times_the_loss_has_three_times_its_gradient(loss, problem):
    """The gradient of 3 L is three times the gradient of L.

    A fused kernel that has its gradient ready and does not multiply it by the one that comes from above is right only
    where nothing scales the loss. In 16 bits the multiple is rounded too; in float16 it may leave nothing of an entry.
    """
    yield from gradients_of(loss, problem, 3.0)  # 3 is no power of two: multiplying by it rounds


@must(
    seam="loss",
    laws=("ST-SHIFTINV",),
    floor=50,
    given={**DRAWN, "shift": st.sampled_from([-64.0, 8.0, 1024.0])},
    examples=[{"problem": make_problem(1, 1, 3, 4, 1000.0, 1.0), "shift": 1024.0}],
)
def a_constant_per_row_changes_nothing(loss, problem, shift):
    """Adding a constant to all logits of a position leaves the loss: softmax without its largest logit overflows."""
    moved = Problem(problem.logits + shift, problem.labels)
    difference = abs(float(loss(moved.logits, moved.labels)) - float(loss(problem.logits, problem.labels)))
    # Adding the constant rounds each logit once more.
    bound = loss_bound(problem) + loss_bound(moved) + 4 * ROUNDOFF[torch.float64] * moved.largest
    yield problem, difference <= bound, f"the loss moved by {difference:.2e}"


UNIFORM = {
    "given": {"vocabulary": st.integers(2, 64), "length": st.integers(2, 9), "excluded": st.integers(1, 9)},
    "examples": [{"vocabulary": 5, "length": 3, "excluded": 2}],
}


def uniform(vocabulary: int, length: int, excluded: int) -> tuple[Problem, torch.Tensor]:
    """Equal logits, every token but the first a target, and columns at -inf for excluded tokens."""
    problem = Problem(torch.zeros(1, length, vocabulary, dtype=torch.float64), torch.zeros(1, length, dtype=torch.long))
    return problem, torch.full((1, length, excluded), -math.inf, dtype=torch.float64)


@must(seam="loss", laws=("ST-UNIF",), floor=20, **UNIFORM)
def equal_logits_cost_the_logarithm_of_their_number(loss, vocabulary, length, excluded):
    """V equal logits cost ln V nats per target, also with excluded tokens at -inf behind them.

    Not log2, and no padded vocabulary counted. Times a one-hot row, the logarithm of what is excluded is 0 * inf = NaN.
    """
    problem, padding = uniform(vocabulary, length, excluded)
    for logits in (problem.logits, torch.cat([problem.logits, padding], -1)):
        got = float(loss(logits, problem.labels))
        yield vocabulary, abs(got - math.log(vocabulary)) <= loss_bound(problem), f"expected ln {vocabulary}, saw {got}"


@must(seam="loss", laws=("ST-UNIF",), floor=20, **UNIFORM)
def excluded_tokens_have_no_gradient(loss, vocabulary, length, excluded):
    """Where tokens are excluded by -inf, their gradient is exactly 0, and that of the others finite.

    exp(-inf) is 0; what is computed beside it may be NaN.
    """
    problem, padding = uniform(vocabulary, length, excluded)
    for logits in (problem.logits, torch.cat([problem.logits, padding], -1)):
        leaf = logits.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(leaf, problem.labels), leaf)
        nothing = bool((gradient[..., vocabulary:] == 0).all() and gradient.isfinite().all())
        yield vocabulary, nothing, f"the gradient is {gradient[..., vocabulary:]} at -inf, or not finite elsewhere"


@must(seam="loss", laws=("ST-UNIF",), floor=20, **UNIFORM)
def an_excluded_target_costs_infinity(loss, vocabulary, length, excluded):
    """A target whose own logit is -inf makes the loss infinite, or is refused.

    Not 0: the fault that excluded it would never be seen.
    """
    problem, padding = uniform(vocabulary, length, excluded)
    try:
        got = float(loss(torch.cat([padding, problem.logits], -1), problem.labels))
    except Exception as error:
        yield vocabulary, True, f"refused: {error}"
    else:
        yield vocabulary, got == math.inf, f"a target at -inf costs {got}"


MILD = {
    "given": {"problem": mild_problems, "seed": st.integers(0, 99)},
    "examples": [{"problem": UNEQUAL, "seed": 1}],
}


@must(seam="loss", laws=("ST-CONVEX",), floor=50, **MILD)
def the_loss_is_convex(loss, problem, seed):
    """L((a + b) / 2) is at most (L(a) + L(b)) / 2.

    Focal and poly losses are not convex everywhere.
    """
    other = logits_like(problem, seed, 5.0)
    ends = [float(loss(logits, problem.labels)) for logits in (problem.logits, other)]
    middle = float(loss((problem.logits + other) / 2, problem.labels))
    yield problem, middle <= sum(ends) / 2 + 2 * loss_bound(problem), f"{middle} between {ends}"


@must(seam="loss", laws=("ST-CONVEX",), floor=50, **MILD)
def the_loss_falls_as_the_target_rises(loss, problem, seed):
    """Raising the logit of every target lowers the loss.

    A sign that is wrong somewhere, or a term that punishes what is sure.
    """
    raised = problem.logits.clone()
    for place in problem.scored:
        raised[place][problem.target(place)] += 1.0
    before, after = (float(loss(logits, problem.labels)) for logits in (problem.logits, raised))
    yield problem, after < before, f"{before} became {after}"


@must(
    seam="loss",
    laws=("ST-PERM",),
    floor=50,
    given={**DRAWN, "seed": st.integers(0, 999)},
    examples=[{"problem": UNEQUAL, "seed": 1}],
)
def the_order_of_rows_is_arbitrary(loss, problem, seed):
    """Permuting the rows of a batch leaves the loss.

    A weight by place, or a row that stands for all.
    """
    rows = torch.randperm(len(problem.labels), generator=torch.Generator().manual_seed(seed))
    value, other = float(loss(problem.logits, problem.labels)), float(loss(problem.logits[rows], problem.labels[rows]))
    yield problem, abs(other - value) <= 2 * loss_bound(problem), f"{value} became {other}"


@must(
    seam="loss",
    laws=("ST-VOCPERM",),
    floor=50,
    given={**DRAWN, "seed": st.integers(0, 999)},
    examples=[{"problem": UNEQUAL, "seed": 1}],
)
def the_order_of_tokens_is_arbitrary(loss, problem, seed):
    """Permuting the vocabulary together with the labels leaves the loss.

    A token that weighs more by its id, such as 0 taken for padding.
    """
    words = torch.randperm(problem.logits.shape[-1], generator=torch.Generator().manual_seed(seed))
    renamed = torch.where(problem.labels >= 0, torch.argsort(words)[problem.labels.clamp_min(0)], problem.labels)
    value, other = float(loss(problem.logits, problem.labels)), float(loss(problem.logits[..., words], renamed))
    yield problem, abs(other - value) <= 2 * loss_bound(problem), f"{value} became {other}"


@must(
    seam="loss",
    laws=("ST-PAD", "PK-PAD"),
    floor=50,
    given={**DRAWN, "pads": st.integers(1, 17)},
    examples=[{"problem": UNEQUAL, "pads": 3}],
)
def padding_at_the_right_changes_nothing(loss, problem, pads):
    """Padding at the right, without labels, leaves the loss.

    Positions that are counted in the denominator, or scored.
    """
    batch, _, vocabulary = problem.logits.shape
    logits = torch.cat([problem.logits, torch.full((batch, pads, vocabulary), 3.0, dtype=torch.float64)], 1)
    labels = torch.cat([problem.labels, torch.full((batch, pads), -100)], 1)
    value, other = float(loss(problem.logits, problem.labels)), float(loss(logits, labels))
    yield problem, abs(other - value) <= 2 * loss_bound(problem), f"{value} became {other}"


@must(seam="loss", laws=("ST-DUP",), floor=50, given=DRAWN, examples=CAUGHT)
def a_doubled_batch_costs_the_same(loss, problem):
    """The whole batch twice has the loss of the batch.

    A sum doubles, a mean does not.
    """
    value = float(loss(problem.logits, problem.labels))
    twice = float(loss(problem.logits.repeat(2, 1, 1), problem.labels.repeat(2, 1)))
    yield problem, abs(twice - value) <= 2 * loss_bound(problem), f"{value} became {twice}: a sum, not a mean"


PARTITIONS = {
    "given": {**DRAWN, "cuts": st.integers(1, 5)},
    "examples": [{"problem": UNEQUAL, "cuts": 2}],
}


def in_parts(loss, problem, cuts):
    """(loss and gradient of the whole, sum of the losses and gradient of its parts, each over the whole's targets)."""
    whole, parts, total = problem.leaf(), problem.leaf(), 0.0
    value = loss(whole, problem.labels)
    value.backward()
    for rows in torch.arange(len(problem.labels)).chunk(cuts):
        part = loss(parts[rows], problem.labels[rows], num_targets=len(problem.scored))
        part.backward()
        total += float(part.detach())
    return float(value.detach()), whole.grad, total, parts.grad


@must(seam="loss", laws=("ST-ACC", "ST-DP"), floor=50, **PARTITIONS)
def the_losses_of_micro_batches_add_up(loss, problem, cuts):
    """With num_targets of the whole step, the losses of any partition add up to that of the whole.

    The mean of means differs by sum over k of (1/K - n_k/n) L_k: nothing at equal counts, 2.5 for 3.5 at counts 1 and
    5.
    """
    value, _, total, _ = in_parts(loss, problem, cuts)
    yield problem, abs(total - value) <= 2 * loss_bound(problem), f"{total:.9g} instead of {value:.9g}"


@must(seam="loss", laws=("ST-ACCMUT", "ST-ACC"), floor=50, **PARTITIONS)
def the_gradients_of_micro_batches_add_up(loss, problem, cuts):
    """With num_targets of the whole step, the gradients of any partition add up to that of the whole.

    The optimizer is given their sum, whatever the losses say.
    """
    _, gradient, _, summed = in_parts(loss, problem, cuts)
    error = float((summed - gradient).abs().max())
    yield problem, error <= 2 * gradient_bound(problem), f"a gradient is off by {error:.2e}"


@must(seam="loss", laws=("ST-GRADCHECK",), floor=20, given={"problem": mild_problems})
def the_gradient_is_the_slope(loss, problem):
    """Central differences in float64 agree: (L(z+h) - L(z-h)) / 2h, h = eps^(1/3), in a random direction.

    BOUND-SLOPE, for the direction d: h^2/6 of the third derivative (at most |d|^3) and the rounding of L over h, four
    times.
    """
    leaf = problem.leaf()
    loss(leaf, problem.labels).backward()
    direction = logits_like(problem, 5, 1.0)
    step = torch.finfo(torch.float64).eps ** (1 / 3)
    up, down = (float(loss(problem.logits + sign * step * direction, problem.labels)) for sign in (1, -1))
    slope = float((leaf.grad * direction).sum())
    error = abs((up - down) / (2 * step) - slope)
    yield problem, error <= 4 * (step**2 / 6 * 8 + loss_bound(problem) / step), f"off by {error:.2e}"
