"""The float64 oracle: its attention computes what the eager one does, and it computes every step of a short run."""

from __future__ import annotations

import pytest
import torch

from sftspec import Pipeline
from sftspec.conformance.trial.judge import judge
from sftspec.conformance.trial.performer import perform
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.properties import REGISTRY, load
from sftspec.properties.ledger.oracle import DRAWN, FEW, Oracle
from sftspec.step import clip_gradients
from sftspec.trainer import make_optimizer

NAMED = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.fixture(scope="module", params=["plain", "learned positions", "one long conversation"])
def oracles(request, tmp_path_factory):
    """The oracle of a run, and one with eager attention."""
    run = perform(Pipeline(), NAMED[request.param], 0, tmp_path_factory.mktemp("run"), 0).read()
    eager = Oracle(run)
    eager.model.set_attn_implementation("eager")
    return run.oracle, eager


def worst(ours, theirs):
    return max(float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("what", ["hidden", "gradients"])
def test_attention_without_scores_in_memory_is_within_the_eager_ones_own_error(oracles, what):
    def found(oracle, dtype):
        step = oracle.steps[0]
        values = oracle.gradients(step, dtype) if what == "gradients" else dict(enumerate(oracle.hidden(step, dtype)))
        return [value[1] if what == "hidden" else value for value in values.values()]

    oracle, eager = oracles
    assert oracle.model.config._attn_implementation == "sdpa"
    exact, own = found(eager, torch.float64), worst(found(eager, torch.float32), found(eager, torch.float64))
    assert 0 < worst(found(oracle, torch.float32), exact) <= 2 * own
    # The eager attention of transformers takes its softmax in float32, also of a model in float64.
    assert worst(found(oracle, torch.float64), exact) <= own


class HeadAlone(Pipeline):
    """The reference, whose optimizer finds no gradient but the head's in the step of this number."""

    def __init__(self, number):
        count = iter(range(100))

        def make(job):
            object.__setattr__(self, "head", job.model.get_output_embeddings().weight)
            return make_optimizer(job)

        def clip(parameters, limit):
            if next(count) == number:
                for parameter in parameters:
                    if parameter is not self.head and parameter.grad is not None:
                        parameter.grad.zero_()
            return clip_gradients(parameters, limit)

        super().__init__(optimizer=make, clip=clip)


@pytest.mark.parametrize("number", [None, *range(8)])
def test_gradients_that_are_lost_in_one_step_are_found_in_whichever_it_is(number, tmp_path):
    load("step")
    trainer = HeadAlone(number)
    run = perform(trainer, NAMED["two epochs"], 0, tmp_path, 0, lambda first: False).read()
    assert len(run.steps) == 8
    verdict = judge(REGISTRY["step/every-parameter-gets-its-gradient"], trainer, [run])
    assert verdict.status == ("pass" if number is None else "fail")


def test_of_a_long_run_steps_are_drawn_from_the_seed(tmp_path):
    runs = [
        perform(Pipeline(), NAMED["frozen parameters"], seed, tmp_path / str(seed), 0).read() for seed in (0, 0, 1, 2)
    ]
    drawn = [tuple(step.index for step in run.oracle.steps) for run in runs]
    assert len(runs[0].steps) > FEW and {len(steps) for steps in drawn} == {DRAWN}
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1
