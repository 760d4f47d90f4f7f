"""Masking, in the loss: what it ignores, what it refuses, and what it divides by.

A run shows what one trainer did with a few hundred conversations. Here hypothesis draws arguments for the function
itself: thousands of masks, extreme logits under the mask, labels that are no tokens, weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from hypothesis import strategies as st
from torch import Tensor

from sftspec.properties import must, number_or_nan, takes
from sftspec.properties.cases.step import (
    FIRST_LABELLED,
    REDUCED_IN,
    UNEQUAL,
    Problem,
    loss_bound,
    problems,
    stored_bound,
)
from sftspec.step import IGNORE

CAUGHT = [{"problem": UNEQUAL}, {"problem": FIRST_LABELLED}]


@must(seam="loss", laws=("MK-IGNVAL", "MK-USERPERM"), floor=50, given={"problem": problems}, examples=CAUGHT)
def unscored_logits_cannot_touch_the_loss(loss, problem):
    """Logits that are not scored may be anything, also inf and NaN: loss and gradient stay bitwise the same.

    Masking by multiplication turns 0 * NaN into NaN (Megatron-Bridge#3117); a mean over all rows moves with them.
    """
    results = []
    for filling in (0.0, 1e30, float("inf"), float("nan")):
        logits = torch.full_like(problem.logits, filling)
        for place in problem.scored:
            logits[place] = problem.logits[place]
        leaf = logits.requires_grad_(True)
        value = loss(leaf, problem.labels)
        (gradient,) = torch.autograd.grad(value, leaf)
        results.append((value.detach(), torch.stack([gradient[place] for place in problem.scored])))
    for value, gradient in results[1:]:
        yield problem, torch.equal(value, results[0][0]) and torch.equal(gradient, results[0][1])


@must(seam="loss", laws=("MK-IGNVAL",), floor=50, given={"problem": problems}, examples=CAUGHT)
def a_scored_nan_is_not_hidden(loss, problem):
    """One scored row that is NaN makes the loss NaN, or is refused.

    A NaN that is replaced at the end hides the model that broke.
    """
    for place in {problem.scored[0], problem.scored[-1]}:
        logits = problem.logits.clone()
        logits[place] = math.nan
        got = number_or_nan(loss, logits, problem.labels)
        yield (problem, place), math.isnan(got), f"a scored row is NaN, the loss is {got}"


@must(seam="loss", laws=("MK-SHIFT", "MK-LABEL"), floor=50, given={"problem": problems}, examples=CAUGHT)
def logits_are_scored_against_the_next_label(loss, problem):
    """Logits that are sure of the next label cost (V - 1) exp(-C) at most; no other alignment does.

    Shifted twice or not at all, random logits give the same loss (4.596, 4.573, 4.581; trap H7): sure ones do not.
    """
    sure, vocabulary = 30.0, problem.logits.shape[-1]
    logits = torch.zeros_like(problem.logits)
    for place in problem.scored:
        logits[place][problem.target(place)] = sure
    bound = (vocabulary - 1) * 2.718281828459045**-sure + loss_bound(Problem(logits, problem.labels))
    yield (
        problem,
        float(loss(logits, problem.labels)) <= bound,
        f"the loss is {float(loss(logits, problem.labels)):.3g}",
    )


@must(
    seam="loss",
    laws=("MK-FIRST", "MK-ZERO"),
    floor=50,
    given={"problem": problems},
    examples=[{"problem": FIRST_LABELLED}],
)
def rows_without_a_target_have_no_gradient(loss, problem):
    """Where nothing is scored dL/dlogits is exactly zero: under the mask, and at the last position always.

    A soft mask of 1e-8, or a roll instead of a slice that wraps the first label around to the last row.
    """
    leaf = problem.leaf()
    loss(leaf, problem.labels).backward()
    scored = set(problem.scored)
    for b in range(leaf.shape[0]):
        for t in range(leaf.shape[1]):
            if (b, t) not in scored:
                yield (b, t), bool((leaf.grad[b, t] == 0).all())


@must(
    seam="loss",
    laws=("MK-NONEMPTY",),
    floor=3,
    given={"shape": st.tuples(st.integers(1, 3), st.integers(1, 5))},
    examples=[{"shape": (1, 2)}],
)
def a_batch_without_targets_is_refused(loss, shape):
    """Without targets, or with weights of zero alone, and no denominator, the loss is refused, or 0 and moves nothing.

    0/0 otherwise: torch's mean is NaN here (trl#6668, nanochat#590). A loss of zero is a batch that is skipped.
    """
    none, first = torch.full(shape, IGNORE), torch.full(shape, IGNORE).index_fill(1, torch.tensor([0]), 2)
    cases: list[tuple[torch.Tensor, dict]] = [(none, {}), (first, {})]
    if takes(loss, "weights"):
        cases.append((torch.full(shape, 2), {"weights": torch.zeros(shape)}))
    for labels, options in cases:
        logits = torch.arange(5.0).expand(*shape, 5).clone().requires_grad_(True)
        try:
            value = loss(logits, labels, **options)
        except Exception as error:
            yield shape, True, f"refused: {error}"
            continue
        moves = torch.autograd.grad(value, logits)[0] if value.requires_grad else torch.zeros(1)
        yield shape, float(value.detach()) == 0 and not moves.any(), f"the loss is {value}, its gradient {moves}"


@must(
    seam="loss",
    laws=("MK-LABEL",),
    floor=50,
    given={"problem": problems, "place": st.integers(0, 99), "label": st.sampled_from(["the size", -1, -99, -101])},
    examples=[{"problem": UNEQUAL, "place": 1, "label": label} for label in ("the size", -1)],
)
def a_label_outside_the_vocabulary_is_refused(loss, problem, place, label):
    """A label that is neither a token of the vocabulary nor -100 is an error, also beside labels that are right.

    It is the id of a token that was added to the tokenizer and not to the model, or another library's mark of what is
    ignored. Clamped or wrapped, another token is trained in its place; ignored, it is never learned.
    """
    batch, length = problem.labels.shape
    row, column = place % batch, 1 + place % (length - 1)
    labels = problem.labels.clone()
    labels[row, column] = problem.logits.shape[-1] if label == "the size" else label
    try:
        value = float(loss(problem.logits, labels))
    except Exception as error:
        yield problem, True, f"refused: {error}"
    else:
        yield problem, False, f"the label {int(labels[row, column])} was taken: the loss is {value}"


WEIGHTED = {
    "given": {"problem": problems, "seed": st.integers(0, 2**20), "more": st.integers(0, 9)},
    "examples": [{"problem": UNEQUAL, "seed": 1, "more": 3}],
}


def drawn_weights(problem: Problem, seed: int) -> Tensor:
    """Weights from 0 to 2 in quarters: taken for integers they train something else."""
    return torch.randint(0, 9, problem.labels.shape, generator=torch.Generator().manual_seed(seed)).double() / 4


def weighted(loss: Callable, problem: Problem, weights: Tensor, more: int) -> Iterator[tuple]:
    """(weights by place, denominator, options) of each way to ask for the weighted loss; nothing if all are zero."""
    used = {(b, t): float(weights[b, t + 1]) for b, t in problem.scored}
    total, count = math.fsum(used.values()), len(used) + more
    if total and takes(loss, "weights"):
        yield used, total, {"weights": weights}
        if takes(loss, "num_targets"):
            yield used, count, {"weights": weights, "num_targets": count}


@must(seam="loss", laws=("MK-COUNT", "MK-WEIGHT"), floor=50, **WEIGHTED)
def the_weighted_loss_is_divided_by_the_weights(loss, problem, seed, more):
    """With weights w the loss is sum(w l) / sum(w), or sum(w l) over num_targets if it is given.

    Divided by the number of targets instead, the scale of the weights becomes a learning rate; divided by its own
    weights, a micro-batch counts as much as the whole step.
    """
    for used, denominator, options in weighted(loss, problem, drawn_weights(problem, seed), more):
        for dtype, reduced in REDUCED_IN.items():
            rounded = Problem(problem.logits.to(dtype).double(), problem.labels)
            total = math.fsum(w * value for w, value in zip(used.values(), rounded.losses(), strict=True))
            got, expected = float(loss(problem.leaf(dtype), problem.labels, **options).detach()), total / denominator
            bound = 2 * loss_bound(rounded, reduced) * max(1.0, math.fsum(used.values()) / denominator)
            note = f"{dtype}, over {denominator}: expected {expected:.12g}, saw {got:.12g}"
            yield problem, abs(got - expected) <= bound, note


@must(seam="loss", laws=("MK-COUNT", "MK-WEIGHT"), floor=50, **WEIGHTED)
def a_weight_scales_the_gradient_of_its_target(loss, problem, seed, more):
    """With weights w the gradient of a target is w (softmax(z) - onehot(y)) over the denominator of the loss.

    A gradient that is computed apart from the loss leaves the weights out.
    """
    for used, denominator, options in weighted(loss, problem, drawn_weights(problem, seed), more):
        for dtype in REDUCED_IN:
            rounded, leaf = Problem(problem.logits.to(dtype).double(), problem.labels), problem.leaf(dtype)
            (gradient,) = torch.autograd.grad(loss(leaf, problem.labels, **options), leaf)
            for place, pull in rounded.pulls().items():
                factor = used[place] / denominator
                error = float((gradient[place].double() - factor * torch.tensor(pull, dtype=torch.float64)).abs().max())
                close = error <= stored_bound(rounded, dtype, factor)
                yield (problem, place), close, f"{dtype}, weight {used[place]}: the gradient is off by {error:.2e}"


@must(seam="loss", laws=("MK-WEIGHT",), floor=50, **WEIGHTED)
def weights_of_zero_and_one_are_a_mask(loss, problem, seed, more):
    """Weights of 0 and 1 give the loss of the labels that have weight 1.

    A message is then trained or not by its flag or by its weight alike.
    """
    weights = drawn_weights(problem, seed)
    if not any(weighted(loss, problem, weights, more)):
        return
    masked = torch.where(weights > 0, problem.labels, IGNORE)
    by_weight = float(loss(problem.logits, problem.labels, weights=(weights > 0).double()))
    same = abs(by_weight - float(loss(problem.logits, masked))) <= 2 * loss_bound(problem)
    yield problem, same, "weights of 0 and 1 are not the mask"
