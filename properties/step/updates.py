"""The update: the optimizer writes what its rule says, at the job's learning rate, and nothing else writes at all.

A rate applied twice, a decay that was not asked for, weights rounded between two steps: the loss falls all the same.
Each update is computed again in float64 from the gradient that the optimizer got, so that these properties judge the
rule and not the gradient.
"""

from __future__ import annotations

import math

from torch import Tensor

from sftspec.properties import must, should


@must(laws=("ST-SGD", "ST-ZEROLR"), floor=5)
def sgd_subtracts_rate_times_gradient(run):
    """SGD writes p - lr g, with the learning rate of the job, and nothing more.

    A rate applied twice, decay that was not asked for, a scheduler stepped per micro-batch (accelerate#963).
    """
    if run.job.optimizer != "sgd":
        return
    for step, name, error, bound, share in run.oracle.sgd_errors():
        if math.isnan(error):  # masking/parameters-stay-finite's
            continue
        yield step, error <= bound, f"step {step.index}, {name}: off by {error:.2e}, {bound:.2e} is rounding", share


@must(laws=("ST-ADAMW",), claim="adamw", floor=2)
def adamw_decays_and_corrects(run):
    """AdamW: p(1 - lr wd), then minus lr m/(sqrt(v) + eps), both moments corrected for their start.

    Decay put into the gradient, eps inside the root, no correction (the first steps ten times too short). Loshchilov
    and Hutter 2019, arXiv:1711.05101, algorithm 2. Norms and biases may be exempt from the decay (transformers#35927).
    """
    if run.job.optimizer != "adamw" or run.job.resume_at is not None:
        return
    for step, name, error, bound, share in run.oracle.adamw_errors():
        if math.isnan(error):  # masking/parameters-stay-finite's
            continue
        yield step, error <= bound, f"step {step.index}, {name}: off by {error:.2e}, {bound:.2e} is rounding", share


@should(laws=("ST-SMALL",), claim="bf16", floor=2)
def small_updates_arrive(run):
    """Updates below half a rounding of a 16-bit weight arrive when their sum is above two roundings.

    Added to the weight itself each of them is lost: at a usual rate most of the model stays as it was while the loss,
    by its largest entries and norms, still falls. Float32 copies, Kahan's sum or stochastic rounding keep them (Zamirai
    et al. 2020, arXiv:2010.06192). Read of AdamW without decay, of what each parameter's entries were to move.
    """
    job = run.job
    if job.optimizer != "adamw" or job.weight_decay or job.resume_at is not None or run.arithmetic != "bfloat16":
        return
    first, last = run.steps[0].before, run.steps[-1].after
    total: dict[str, Tensor] = {}
    largest: dict[str, Tensor] = {}
    for _, name, update in run.oracle.adamw_updates():
        total[name] = -update + total.get(name, 0.0)
        largest[name] = update.abs() if name not in largest else largest[name].maximum(update.abs())
    for name, moved in total.items():
        spacing = 2.0**-7 * 2.0 ** first[name].double().abs().clamp_min(1e-30).log2().floor()
        chosen = (moved.abs() >= 2 * spacing) & (largest[name] < spacing / 2)
        if first[name].element_size() == 2 and int(chosen.sum()) >= 32:
            arrived = (last[name].double() - first[name].double()) * moved.sign()
            share = float(arrived[chosen].sum() / moved[chosen].abs().sum())
            yield run, share >= 0.5, f"{name}: {share:.0%} of small updates arrived", share


@must(laws=("ST-SGD",), floor=5)
def the_learning_rate_is_the_jobs(run):
    """Every optimizer step is made at the learning rate that was asked for (the jobs ask for a constant one)."""
    for step in run.steps:
        rate, found = run.job.learning_rate, step.learning_rate
        holds = math.isclose(found, rate, rel_tol=1e-12)
        yield step, holds, f"step {step.index}: lr {found}", found / rate if rate else math.inf


@must(laws=("ST-ZEROLR",), floor=1)
def rate_zero_changes_nothing(run):
    """With learning rate 0 and no decay every parameter stays bitwise as it was."""
    if run.job.learning_rate == 0 and run.steps:
        for name, before in run.steps[0].before.items():
            after = (run.steps[-1].after if run.is_merged else run.final).get(name)
            yield run, after is not None and bool((before == after).all()), f"{name} changed at learning rate 0"


@must(laws=("ST-SGD", "ST-ADAMW"), claim="frozen", floor=3)
def what_is_frozen_stays(run):
    """A parameter with requires_grad False is, after every step and at the end, bitwise what the trainer was given.

    A loop that sets requires_grad on every parameter (yolov5#1213), decay of what has no gradient (Muon#54), a frozen
    embedding that was resized. Layers that were frozen to keep what they know are trained.
    """

    def frozen(state):
        return {name: value for name, value in state.items() if name in run.job.frozen}

    if run.job.frozen:
        for step in run.steps:
            yield step, *_same(frozen(run.initial), frozen(step.after), f"after step {step.index}")
        yield run, *_same(frozen(run.initial), frozen(run.final), "at the end")


@must(laws=("ST-SGD", "ST-ADAMW"), floor=5)
def parameters_change_in_the_step_alone(run):
    """Before the first optimizer step, and between steps, no parameter changes by a single bit.

    Weights rounded to 16 bits as they are loaded or after each step, a row of the pad token set to zero, embeddings
    resized, an average written back, a head tied again.
    """
    if not run.steps:
        return
    # What the trainer put beside them, and the matrices that it put it on, are new-adapters-change-nothing's.
    beside = {name for adapter in run.adapters for name in (adapter.target, *adapter.parameters)}
    beside |= (run.steps[0].before.keys() - run.initial.keys()) if run.unread else set()
    given, first = (
        {name: value for name, value in state.items() if name not in beside}
        for state in (run.initial, run.steps[0].before)
    )
    yield run, *_same(given, first, "before the first step")
    # Adapters that were written into the matrices at the end are another property's (merged-equals-unmerged).
    states = [*[step.before for step in run.steps[1:]], run.steps[-1].after if run.is_merged else run.final]
    for step, state in zip(run.steps, states, strict=False):
        last = step is run.steps[-1]
        yield (
            step,
            *_same(step.after, state, f"after {'the last step' if last else f'step {step.index}, before the next'}"),
        )


def _same(before, after, when: str) -> tuple[bool, str]:
    """Are these the same parameters, bit for bit? And a note of what is not."""
    changed = [
        name
        for name in sorted(before.keys() | after.keys())
        if name not in before
        or name not in after
        or before[name].shape != after[name].shape
        or not bool(((before[name] == after[name]) | (before[name].isnan() & after[name].isnan())).all())
    ]
    return not changed, f"{when}: {', '.join(changed[:3])} changed"
