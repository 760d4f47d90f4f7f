"""The step, in the functions behind the loss: the clip, and an evaluation."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis import strategies as st

from sftspec.collation import collate
from sftspec.properties import must
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
    lambda seed, shapes, scale: [scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed + index),
                                                     dtype=torch.float64) for index, shape in enumerate(shapes)],
    st.integers(0, 2**30),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4),
    st.sampled_from([1e-3, 1.0, 50.0]),
)  # fmt: skip

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


@must(seam="clip", laws=("ST-CLIP", "ST-CLIPDIR", "ST-CLIPHOM", "ST-CLIPIDEM"), floor=50,
      given={"values": gradients, "limit": LIMITS},
      examples=[{"values": values, "limit": 1.0} for values in (SKEWED, [*SKEWED, ZERO], [ZERO])])  # fmt: skip
def one_factor_for_all_parameters(clip, values, limit):
    """g' = min(1, c/|g|) g with the norm over all parameters together: direction kept, clipping twice clips once.

    Per tensor the norm may reach sqrt(K) c; by value [3, 4, 12] becomes [1, 1, 1]. torch adds 1e-6 to the norm
    (BOUND-CLIP).
    """
    norm = math.sqrt(math.fsum(float(x) ** 2 for value in values for x in value.flatten()))
    factor = min(1.0, limit / norm) if norm else 1.0
    size = sum(value.numel() for value in values)
    bound = (size / 2 + 8) * ROUNDOFF[torch.float64] + 1e-6 / max(norm, 1e-6)
    reported, after = clipped(clip, values, limit)
    yield values, abs(float(reported) - norm) <= bound * norm, f"reported norm {float(reported):.6g}, is {norm:.6g}"
    for value, got in zip(values, after, strict=True):
        error = float((got - factor * value).abs().max())
        yield (
            values,
            error <= bound * factor * float(value.abs().max()),
            f"expected factor {factor:.6g}, off by {error:.1e}",
        )
    _, again = clipped(clip, after, limit)
    error = max(float((x - y).abs().max()) for x, y in zip(after, again, strict=True))
    yield values, error <= (1e-6 / limit + bound) * norm * factor, "clipping twice is not clipping once"


@must(seam="clip", laws=("ST-CLIPNOOP",), floor=20, given={"values": gradients}, examples=[{"values": SKEWED}])
def below_the_limit_not_a_bit_changes(clip, values):
    """A gradient whose norm is below the limit stays bitwise as it was, and no parameter gets one that had none.

    AdamW moves a parameter whose gradient is zero: by its momentum, and by decay.
    """
    norm = math.sqrt(math.fsum(float(x) ** 2 for value in values for x in value.flatten()))
    _, after = clipped(clip, values, norm + 1e-3 + norm * 1e-3)
    yield values, all(torch.equal(x, y) for x, y in zip(values, after, strict=True))
    parameters = with_gradients(values)
    clip(iter(parameters), norm / 2)
    yield values, parameters[0].grad is None, "a parameter without a gradient has one now"


@must(seam="clip", laws=("ST-NONFINITE",), floor=3,
      given={"values": gradients, "bad": st.sampled_from([math.inf, -math.inf, math.nan]), "place": st.integers(0, 99)},
      examples=[{"values": SKEWED, "bad": bad, "place": place} for bad in (math.inf, -math.inf, math.nan)
                for place in range(4)])  # fmt: skip
def a_gradient_that_is_not_finite_is_refused(clip, values, bad, place):
    """inf or NaN anywhere in a gradient is an error, and no gradient is changed: inf * 0 = NaN would reach every
    parameter.
    """
    values = [value.clone() for value in values]
    chosen = values[place % len(values)].view(-1)
    chosen[place // len(values) % len(chosen)] = bad
    parameters = with_gradients(values)
    try:
        clip(iter(parameters), 1.0)
    except Exception:
        same = all(
            parameter.grad is not None and torch.equal(parameter.grad.nan_to_num(7.0), value.nan_to_num(7.0))
            for parameter, value in zip(parameters[1:], values, strict=True)
        )
        yield values, same, "the gradients were changed all the same"
    else:
        yield values, False, "no error was raised"


@must(seam="evaluate", laws=("ST-EVAL",), floor=50,
      given={"problem": problems, "cut": st.integers(1, 5), "dropout": st.sampled_from([0.0, 0.5]),
             "training": st.booleans(), "dtype": st.sampled_from([torch.float64, torch.float32, torch.bfloat16])},
      examples=[{"problem": problem, "cut": 1 + (mode and dtype == torch.float32), "dropout": 0.5, "training": mode,
                 "dtype": dtype}
                for problem, dtype in ((UNEQUAL, torch.float64), (UNEQUAL, torch.float32), (MANY_ROWS, torch.bfloat16))
                for mode in (True, False)]
      )  # fmt: skip
def evaluation_neither_depends_on_batches_nor_leaves_a_trace(evaluate, problem, cut, dropout, training, dtype):
    """The evaluation loss is the same however the data is cut or packed, over ranks too, free of dropout, and changes
    nothing in the model: neither the mode of a module nor a parameter nor a gradient. A model that gives NaN is given
    no number.

    A mean of batch means depends on the batch size (transformers#39241), a limit on the number of batches on their
    order; examples of a pack that see each other are other examples. A model left in the wrong mode, its frozen part
    woken, a gradient that was set to zero in mid-window, or random numbers drawn, change the training that follows.
    """
    model = FirstAndLast(problem.logits.shape[-1], 1, dropout, dtype).train(training)
    model.dropouts[1].eval()  # a part that is frozen
    model.table.grad = torch.ones_like(model.table)
    ids = problem.labels.clamp_min(0)
    rows = [Example(one.tolist(), labels.tolist()) for one, labels in zip(ids, problem.labels, strict=True)]
    before, modes, state = model.table.detach().clone(), modes_of(model), torch.get_rng_state()
    same = Problem((before[ids] + before[ids[:, :1]]).double(), problem.labels)
    expected, bound = math.fsum(same.losses()) / len(same.scored), 4 * loss_bound(same, REDUCED_IN[dtype])
    for form, batches in cut_apart(rows, cut).items():
        value = evaluate(model, batches)
        yield problem, abs(value - expected) <= bound, f"{dtype}, {form}: expected {expected:.9g}, saw {value:.9g}"
    same_mode = modes_of(model) == modes and model.table.requires_grad
    yield problem, same_mode and torch.equal(model.table, before), "the model, or its mode, was changed"
    kept = model.table.grad is not None and bool((model.table.grad == 1).all())
    yield problem, kept, "the gradient that had been there was changed"
    yield problem, torch.equal(torch.get_rng_state(), state), "random numbers were drawn"
    with torch.no_grad():
        model.table[ids[problem.scored[-1]]] = math.nan
    try:
        value = evaluate(model, cut_apart(rows, cut)["cut"])
    except Exception as error:
        yield problem, True, f"refused: {error}"
    else:
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
