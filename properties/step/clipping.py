"""The step, in the functions behind the loss: the clip, and an evaluation."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis import strategies as st

from sftspec.collation import collate
from sftspec.properties import must, number_or_nan
from sftspec.properties.cases.step import (
    REDUCED_IN,
    ROUNDOFF,
    UNEQUAL,
    Example,
    FirstAndLast,
    Problem,
    loss_bound,
    make_problem,
    problems,
)

# More rows, so more batches, than a trainer that looks at the first of them evaluates.
MANY_ROWS = make_problem(8, 13, 4, 5, 3.0, 0.7)

gradients = st.builds(
    lambda seed, shapes, scale: [
        scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed + index), dtype=torch.float64)
        for index, shape in enumerate(shapes)
    ],
    st.integers(0, 2**30),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4),
    st.sampled_from([1e-3, 1.0, 50.0]),
)

LIMITS = st.sampled_from([0.01, 1.0, 30.0])

# A gradient of zero is one: nothing is divided by its norm.
ZERO = torch.zeros(2, 2, dtype=torch.float64)
SKEWED = [torch.tensor([[3.0, 4.0, 12.0]], dtype=torch.float64), torch.tensor([[0.1]], dtype=torch.float64)]


def with_gradients(values):
    """Parameters with these gradients, behind one that has none: it is frozen, or the step did not reach it."""
    parameters = [torch.nn.Parameter(torch.zeros_like(value)) for value in (ZERO, *values)]
    for parameter, value in zip(parameters[1:], values, strict=True):
        parameter.grad = value.clone()
    return parameters


def clipped(clip, values, limit):
    """(norm that the clip reports, gradients after it); parameters come as a model gives them, one after another."""
    parameters = with_gradients(values)
    return clip(iter(parameters), limit), [parameter.grad for parameter in parameters[1:]]


CLIPPED = {
    "given": {"values": gradients, "limit": LIMITS},
    "examples": [{"values": values, "limit": 1.0} for values in (SKEWED, [*SKEWED, ZERO], [ZERO])],
}


def norm_by_hand(values) -> tuple[float, float]:
    """(the norm over all gradients together, its largest relative error, torch's 1e-6 in it: BOUND-CLIP)."""
    norm = math.sqrt(math.fsum(float(x) ** 2 for value in values for x in value.flatten()))
    size = sum(value.numel() for value in values)
    return norm, (size / 2 + 8) * ROUNDOFF[torch.float64] + 1e-6 / max(norm, 1e-6)


@must(seam="clip", laws=("ST-CLIP",), floor=50, **CLIPPED)
def the_clip_reports_the_norm_before_it(clip, values, limit):
    """The norm that the clip reports is that of all gradients together, before clipping.

    A norm per tensor, or of one shard, hides what explodes.
    """
    norm, bound = norm_by_hand(values)
    reported = float(clipped(clip, values, limit)[0])
    yield values, abs(reported - norm) <= bound * norm, f"reported norm {reported:.6g}, is {norm:.6g}"


@must(seam="clip", laws=("ST-CLIP", "ST-CLIPDIR", "ST-CLIPHOM"), floor=50, **CLIPPED)
def every_gradient_is_scaled_by_one_factor(clip, values, limit):
    """g' = min(1, c/|g|) g, with the norm over all parameters together.

    Per tensor the norm may reach sqrt(K) c; by value [3, 4, 12] becomes [1, 1, 1]. torch adds 1e-6 to the norm
    (BOUND-CLIP).
    """
    norm, bound = norm_by_hand(values)
    factor = min(1.0, limit / norm) if norm else 1.0
    for value, got in zip(values, clipped(clip, values, limit)[1], strict=True):
        error = float((got - factor * value).abs().max())
        close = error <= bound * factor * float(value.abs().max())
        yield values, close, f"expected factor {factor:.6g}, off by {error:.1e}"


@must(seam="clip", laws=("ST-CLIPIDEM",), floor=50, **CLIPPED)
def clipping_twice_is_clipping_once(clip, values, limit):
    """A gradient that was clipped is clipped no further.

    The clip of each micro-batch and of the step together shorten a gradient by the same limit twice.
    """
    norm, bound = norm_by_hand(values)
    factor = min(1.0, limit / norm) if norm else 1.0
    _, once = clipped(clip, values, limit)
    _, twice = clipped(clip, once, limit)
    error = max(float((x - y).abs().max()) for x, y in zip(once, twice, strict=True))
    yield values, error <= (1e-6 / limit + bound) * norm * factor, f"clipped once more it moves by {error:.1e}"


BELOW = {"given": {"values": gradients}, "examples": [{"values": SKEWED}]}


@must(seam="clip", laws=("ST-CLIPNOOP",), floor=20, **BELOW)
def a_gradient_below_the_limit_keeps_its_bits(clip, values):
    """Gradients whose norm is below the limit stay bitwise as they were.

    A factor of 1 that is computed, and rounded, moves them all.
    """
    norm, _ = norm_by_hand(values)
    _, after = clipped(clip, values, norm + 1e-3 + norm * 1e-3)
    yield values, all(torch.equal(x, y) for x, y in zip(values, after, strict=True)), "a gradient was changed"


@must(seam="clip", laws=("ST-CLIPNOOP",), floor=20, **BELOW)
def clipping_gives_no_gradient_to_those_without(clip, values):
    """A parameter that has no gradient has none after clipping.

    AdamW moves a parameter whose gradient is zero: by its momentum, and by decay.
    """
    parameters = with_gradients(values)
    clip(iter(parameters), norm_by_hand(values)[0] / 2)
    yield values, parameters[0].grad is None, "a parameter without a gradient has one now"


NOT_FINITE = {
    "given": {
        "values": gradients,
        "bad": st.sampled_from([math.inf, -math.inf, math.nan]),
        "place": st.integers(0, 99),
    },
    "examples": [
        {"values": SKEWED, "bad": bad, "place": place} for bad in (math.inf, -math.inf, math.nan) for place in range(4)
    ],
}


def with_one_bad(values, bad, place):
    """The gradients with one entry that is not finite."""
    values = [value.clone() for value in values]
    chosen = values[place % len(values)].view(-1)
    chosen[place // len(values) % len(chosen)] = bad
    return values


@must(seam="clip", laws=("ST-NONFINITE",), floor=3, **NOT_FINITE)
def inf_or_nan_in_a_gradient_is_refused(clip, values, bad, place):
    """inf or NaN anywhere in a gradient is an error.

    inf * 0 = NaN would reach every parameter.
    """
    try:
        clip(iter(with_gradients(with_one_bad(values, bad, place))), 1.0)
    except Exception as error:
        yield values, True, f"refused: {error}"
    else:
        yield values, False, "no error was raised"


@must(seam="clip", laws=("ST-NONFINITE",), floor=3, **NOT_FINITE)
def a_refused_clip_changes_no_gradient(clip, values, bad, place):
    """Gradients that the clip refuses stay as they were.

    A trainer that goes on steps with what is left of them.
    """
    values = with_one_bad(values, bad, place)
    parameters = with_gradients(values)
    try:
        clip(iter(parameters), 1.0)
    except Exception:
        same = all(
            parameter.grad is not None and torch.equal(parameter.grad.nan_to_num(7.0), value.nan_to_num(7.0))
            for parameter, value in zip(parameters[1:], values, strict=True)
        )
        yield values, same, "the gradients were changed all the same"


EVALUATED = {
    "given": {
        "problem": problems,
        "cut": st.integers(1, 5),
        "dropout": st.sampled_from([0.0, 0.5]),
        "training": st.booleans(),
        "dtype": st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    },
    "examples": [
        {"problem": problem, "cut": 1 + (mode and dtype == torch.float32), "dropout": 0.5, "training": mode,
         "dtype": dtype}
        for problem, dtype in ((UNEQUAL, torch.float64), (UNEQUAL, torch.float32), (MANY_ROWS, torch.bfloat16))
        for mode in (True, False)
    ],
}  # fmt: skip


def to_evaluate(problem, cut, dropout, training, dtype):
    """(a model in that mode, with a part that is frozen and a gradient from before; its data in several forms)."""
    model = FirstAndLast(problem.logits.shape[-1], 1, dropout, dtype).train(training)
    model.dropouts[1].eval()  # a part that is frozen
    model.table.grad = torch.ones_like(model.table)
    ids = problem.labels.clamp_min(0)
    rows = [Example(one.tolist(), labels.tolist()) for one, labels in zip(ids, problem.labels, strict=True)]
    return model, cut_apart(rows, cut)


@must(seam="evaluate", laws=("ST-EVAL",), floor=50, **EVALUATED)
def the_evaluation_loss_does_not_depend_on_batches(evaluate, problem, cut, dropout, training, dtype):
    """The evaluation loss is the mean over all targets, free of dropout, however the data is cut, packed or spread over
    ranks.

    A mean of batch means depends on the batch size (transformers#39241), a limit on the number of batches on their
    order; examples of a pack that see each other are other examples.
    """
    model, forms = to_evaluate(problem, cut, dropout, training, dtype)
    ids, table = problem.labels.clamp_min(0), model.table.detach().clone()
    same = Problem((table[ids] + table[ids[:, :1]]).double(), problem.labels)
    expected, bound = math.fsum(same.losses()) / len(same.scored), 4 * loss_bound(same, REDUCED_IN[dtype])
    for form, batches in forms.items():
        value = evaluate(model, batches)
        yield problem, abs(value - expected) <= bound, f"{dtype}, {form}: expected {expected:.9g}, saw {value:.9g}"


@must(seam="evaluate", laws=("ST-EVAL",), floor=50, **EVALUATED)
def an_evaluation_leaves_the_mode_of_every_module(evaluate, problem, cut, dropout, training, dtype):
    """After an evaluation every module is in the mode that it was in, and every parameter wants what it wanted.

    A model left in evaluation mode trains without its dropout; a frozen part that is woken trains.
    """
    model, forms = to_evaluate(problem, cut, dropout, training, dtype)
    modes = modes_of(model)
    for batches in forms.values():
        evaluate(model, batches)
    yield problem, modes_of(model) == modes and model.table.requires_grad, "the mode of the model was changed"


@must(seam="evaluate", laws=("ST-EVAL",), floor=50, **EVALUATED)
def an_evaluation_changes_no_parameter_or_gradient(evaluate, problem, cut, dropout, training, dtype):
    """An evaluation leaves parameters and gradients bitwise as they were.

    A gradient that is set to zero in the middle of an accumulation window is lost.
    """
    model, forms = to_evaluate(problem, cut, dropout, training, dtype)
    before = model.table.detach().clone()
    for batches in forms.values():
        evaluate(model, batches)
    yield problem, torch.equal(model.table, before), "the model was changed"
    kept = model.table.grad is not None and bool((model.table.grad == 1).all())
    yield problem, kept, "the gradient that had been there was changed"


@must(seam="evaluate", laws=("ST-EVAL",), floor=50, **EVALUATED)
def an_evaluation_draws_no_random_number(evaluate, problem, cut, dropout, training, dtype):
    """An evaluation leaves the random state as it was.

    Otherwise the training after it depends on how often it is evaluated.
    """
    model, forms = to_evaluate(problem, cut, dropout, training, dtype)
    state = torch.get_rng_state()
    for batches in forms.values():
        evaluate(model, batches)
    yield problem, torch.equal(torch.get_rng_state(), state), "random numbers were drawn"


@must(seam="evaluate", laws=("ST-EVAL",), floor=50, **EVALUATED)
def a_model_that_gives_nan_has_no_evaluation(evaluate, problem, cut, dropout, training, dtype):
    """Where the model gives NaN at a target, the evaluation is NaN, or refused.

    A mean that skips it calls a broken model good.
    """
    model, forms = to_evaluate(problem, cut, dropout, training, dtype)
    with torch.no_grad():
        model.table[problem.labels.clamp_min(0)[problem.scored[-1]]] = math.nan
    value = number_or_nan(evaluate, model, forms["cut"])
    yield problem, math.isnan(value), f"the model gives NaN, its evaluation {value}"


def modes_of(model):
    return [module.training for module in model.modules()]


def cut_apart(rows, cut):
    """The same examples in one batch, in several over two ranks, and packed, `cut` of them in a batch or a row."""
    parts = [range(start, min(start + cut, len(rows))) for start in range(0, len(rows), cut)]
    several = [collate([rows[index] for index in part], pad_token_id=0) for part in parts]
    return {
        "in one batch": [collate(rows, pad_token_id=0)],
        "cut": [replace(batch, rank=number % 2) for number, batch in enumerate(several)],
        "packed": [collate(rows, parts, pad_token_id=0)],
    }
