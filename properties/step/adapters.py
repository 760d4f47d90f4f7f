"""Adapters: what stands beside the model's matrices trains, the matrices stay, and both together are one model.

W = W0 + s B A (sftspec.adapters). A loss that falls tells none of this: a base that is trained beside
frozen adapters learns as well, and an adapter at another scale is another learning rate, until it is merged.
"""

from __future__ import annotations

from sftspec.adapters import computing
from sftspec.counted import counted
from sftspec.properties import must


def doubled(tensors) -> dict:
    return {name: value.double() for name, value in tensors.items()}


def terms(adapter, values):
    """|s| |B| |A|: how large the terms of each entry of s B A are."""
    product = abs(adapter.scaling) * values[adapter.b].abs() @ values[adapter.a].abs()
    return product.T if adapter.transposed else product


def unit(weight) -> float:
    return 2.0**-8 if weight.element_size() == 2 else 2.0**-24


@must(laws=("ST-ADAPTER",), floor=2)
def only_adapters_and_saved_modules_move(run):
    """Beside adapters, a step changes no bit of a parameter that is neither an adapter's nor of a module that is saved.

    Parameters woken after the adapters were put in, the base handed to the optimizer : the adapter that is
    saved is then not the model that was trained.
    """
    moving = {name for adapter in run.adapters for name in adapter.parameters} | set(run.saved)
    for step in run.steps if run.adapters else ():
        moved = [name for name, value in step.before.items() if name not in moving and _differ(value, step.after[name])]
        yield step, not moved, f"step {step.index} moved {', '.join(moved[:3])}, which no adapter saves"


@must(laws=("ST-ADAPTER",), floor=2)
def adapters_learn(run):
    """Every adapter is moved by the run, where a rate above zero and a target were given.

    Adapters frozen by mistake, made on a copy, left out of the optimizer or disabled (trl#3926): the base is trained,
    or nothing, and what is saved is an adapter of zero.
    """
    if not run.adapters or not run.job.learning_rate or not any(run.targets_of_step.values()):
        return
    first, last = run.steps[0].before, run.steps[-1].after
    for adapter in run.adapters:
        moved = any(_differ(first[name], last[name]) for name in adapter.parameters)
        yield run, moved, f"the adapter of {adapter.target} is as it was after {counted(len(run.steps), 'step')}"


@must(laws=("ST-ADAPTER",), floor=2)
def new_adapters_change_nothing(run):
    """Before the first step, base and adapters together are the weights that were given: B is zero, or the base pays
    for it.

    Hu et al. 2021, arXiv:2106.09685, section 4.1. Both factors drawn at random begin from another model.
    """
    for adapter in run.adapters if run.steps else ():
        values, given = doubled(run.steps[0].before), run.initial[adapter.target]
        error = float((computing([adapter], values)[adapter.target] - given.double()).abs().max())
        # 64 roundings of the largest terms: a base that pays is what a singular value decomposition left of it.
        bound = 64 * unit(given) * float((values[adapter.target].abs() + terms(adapter, values)).max())
        yield run, error <= bound, f"{adapter.target} begins off by {error:.2e}, {bound:.2e} is rounding", error


@must(laws=("ST-ADAPTER",), floor=2)
def adapters_are_scaled_as_declared(run):
    """The scale of an adapter is alpha / r; alpha / sqrt(r), where rank stabilisation was declared.

    Hu et al. 2021, section 4.1; Kalajdzievski 2023, arXiv:2312.03732. A scale set anew after loading, or applied twice.
    """
    for adapter in run.adapters:
        expected = adapter.declared_scaling
        note = f"{adapter.target}: rank {adapter.rank}, alpha {adapter.alpha:g}, scaled by {adapter.scaling:.6g}"
        yield run, abs(adapter.scaling - expected) <= 1e-6 * abs(expected), note, adapter.scaling / (expected or 1)


@must(laws=("ST-ADAPTER",), final=True)
def merged_equals_unmerged(run):
    """Adapters that are merged at the end give the matrix that computed: W0 + s B A, within rounding.

    Merged twice, at another scale, or into a base of another precision, the model that is handed over is not the one
    that was trained.
    """
    for adapter in run.adapters if run.is_merged and run.steps else ():
        values, merged = doubled(run.steps[-1].after), run.final[adapter.target]
        expected = computing([adapter], values)[adapter.target]
        # r + 4 roundings of the product's terms, two of the sum; twice.
        size = 2 * (values[adapter.target].abs() + expected.abs()) + (adapter.rank + 4) * terms(adapter, values)
        excess = float(((merged.double() - expected).abs() / (2 * unit(merged) * size + 1e-300)).max())
        yield run, excess <= 1, f"{adapter.target} is off by {excess:.3g} times what rounding explains", excess


def _differ(one, two) -> bool:
    return not bool((one == two).all())
