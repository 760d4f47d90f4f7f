"""Mixed precision: an honest loop in 16 bits passes, and a bug in one is told from rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sftspec.conformance.ledger.recording import load_run, save_run
from sftspec.conformance.sensitivity.mutants import load_mutants
from sftspec.conformance.sensitivity.mutants.step.arithmetic import in_float16
from sftspec.conformance.witness.model import make_model
from sftspec.conformance.witness.recovery import examples_of
from sftspec.masters import MasterAdamW
from sftspec.properties.ledger.rotary import with_exact_angles
from sftspec.trainer import Pipeline
from tests.loops import IGNORE, Autocast, Loop, Scaled
from tests.on_trial import found, not_passed, trial_of


class Overflowing(Scaled):
    """So large a scale that the first steps overflow and are left out; their targets are reported all the same."""

    claims = Scaled.claims | {"report"}

    def prepare(self, job):
        self.scaler, self.counted, self.empty = torch.amp.GradScaler("cpu", init_scale=2.0**18), [], 0
        return job.model

    def tokenize(self, job, conversation):
        ids, labels = super().tokenize(job, conversation)
        self.empty += all(label == IGNORE for label in labels[1:])
        return ids, labels

    def count(self, labels):
        self.counted.append(sum(int((one[:, 1:] != IGNORE).sum()) for one in labels))
        return super().count(labels)

    def finish(self, job, model):
        job.report(num_targets=self.counted, examples_dropped=self.empty, tokens_truncated=0)


class Planted:
    """The reference with a bug planted, each forward pass under autocast.

    A context around the whole of it would keep the casts of the first step's weights, which is a bug by itself.
    """

    def __init__(self, name: str):
        self.inner = {item.name: item for item in load_mutants()}[name].make()

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def train(self, job):
        job.model.forward = torch.autocast("cpu", torch.bfloat16)(job.model.forward)
        self.inner.train(job)


@pytest.mark.parametrize("trainer", [Autocast(), Scaled()], ids=lambda item: item.name)
def test_an_honest_loop_in_16_bits_passes(trainer):
    trial = trial_of(trainer, "plain; accumulation", "masking", "step", seed=1)
    assert not_passed(trial) == {}
    dtype = str(trainer.dtype).removeprefix("torch.")
    reasons = {verdict.property.id: verdict.reason for verdict in trial.verdicts if verdict.status == "pass"}
    assert reasons["step/the-denominator-is-the-number-of-targets"] == f"within {dtype}"
    assert reasons["masking/nothing-else-is-trained"] == ""  # exact in any arithmetic


def test_a_step_that_overflowed_is_no_lost_data():
    trial = trial_of(Overflowing(), "plain; accumulation", "masking", "step")
    assert not_passed(trial) == {}
    assert any(run.lost for run in trial.runs)


def test_two_copies_in_a_lost_batch_are_lost_twice():
    """Both are resolved to the first of them, 3; its second copy is cut, and a row of padding has no origin."""
    assert examples_of([[(3, 0), (3, 1), (3, 2)], [(3, 0), (3, 1)], [(5, 0)], [(-1, -1), (-1, -1)]]) == (3, 3, 5)


def test_where_every_step_overflowed_nothing_is_judged():
    class Lost(Overflowing):
        def prepare(self, job):
            model = super().prepare(job)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
            return model

    trial = trial_of(Lost(), "plain", "step")
    assert not any(run.error or run.steps for run in trial.runs) and found(trial, "fail") == set()
    (verdict,) = [item for item in trial.verdicts if item.property.id == "step/the-gradient-is-that-of-the-step"]
    assert verdict.status == "not-measured" and "no step was made" in verdict.reason


def test_windows_erased_in_float16_are_no_overflow():
    class Erased(Scaled):
        def backward(self, loss):
            for item in self.model.parameters():
                item.grad = None
            super().backward(loss)

        def prepare(self, job):
            self.model = super().prepare(job)
            return self.model

    trial = trial_of(Erased(), "accumulation", "step")
    assert "step/the-gradient-is-that-of-the-step" in found(trial, "fail")


def test_the_step_into_which_wrong_loss_scales_are_planted_is_right():
    assert not_passed(trial_of(in_float16(), "accumulation", "step")) == {}


@pytest.mark.parametrize(
    ("mutant", "scenario"),
    [
        ("masking/shifted-twice", "plain"),
        ("masking/first-answer-token-lost", "plain"),
        ("step/mean-of-means", "accumulation"),
        ("step/counted-before-the-shift", "every token"),
        ("packing/third-segment-leaks", "packed"),
    ],
)
def test_a_planted_bug_fails_under_autocast(mutant, scenario):
    trial = trial_of(Planted(mutant), scenario)
    named = {item.name: item for item in load_mutants()}[mutant].killed_by
    assert found(trial, "fail", "ambiguous") & set(named)


def test_the_arithmetic_is_recorded(tmp_path):
    run = trial_of(Autocast(), "two epochs", "step").runs[0]
    save_run(run, tmp_path / "run")
    again = load_run(tmp_path / "run")
    assert again.autocast == run.autocast == "bfloat16"
    compared = [[(name, *sizes) for _, name, *sizes in one.oracle.compare_gradients()] for one in (run, again)]
    assert compared[0] == compared[1]


def test_small_updates_arrive_where_weights_have_float32_copies():
    names = "bfloat16, AdamW at a small rate; bfloat16, AdamW"
    assert not_passed(trial_of(Pipeline(), names, "step")) == {}
    lost = {item.name: item for item in load_mutants()}["step/updated-in-bfloat16"].make()
    assert set(not_passed(trial_of(lost, names, "step"))) == {"step/small-updates-arrive"}


def test_the_copies_are_those_of_torchs_own_adamw_in_float32():
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 32).bfloat16()) for _ in range(2)]
    exact = torch.nn.Parameter(weights[0].detach().float())
    ours = MasterAdamW([weights[0]], lr=1e-3, weight_decay=0.1)
    theirs = torch.optim.AdamW([exact], lr=1e-3, weight_decay=0.1)
    for number in range(6):
        gradient = torch.sin(torch.arange(32.0) * (number + 1)).bfloat16()
        weights[0].grad, exact.grad = gradient, gradient.float()
        if number == 3:  # saved and loaded on the way
            kept = ours.state_dict()
            ours = MasterAdamW([weights[0]], lr=1e-3, weight_decay=0.1)
            ours.load_state_dict(kept)
        ours.step()
        theirs.step()
    assert torch.allclose(ours.state[weights[0]]["master"], exact, rtol=1e-6, atol=1e-7)
    assert torch.equal(weights[0], ours.state[weights[0]]["master"].bfloat16())


def test_masters_take_a_closure_as_every_optimizer_of_torch_does():
    """Of the same square, AdamW of torch (float32, where copies are the weights) gives the same losses and weights."""
    weights = [torch.nn.Parameter(torch.tensor([3.0])) for _ in range(2)]
    ours = MasterAdamW(weights[:1], lr=0.1)
    theirs = torch.optim.AdamW(weights[1:], lr=0.1, weight_decay=0.0)
    for _ in range(3):
        losses = []
        for weight, optimizer in zip(weights, (ours, theirs), strict=True):

            def again(weight=weight, optimizer=optimizer):
                optimizer.zero_grad()
                loss = weight.square().sum()
                loss.backward()
                return loss

            losses.append(float(optimizer.step(again).detach()))
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert torch.allclose(*weights, rtol=1e-6)


class Closes(Loop):
    """The last micro-batch of a step goes back within the step, in a closure, as Lightning does it."""

    rest = None

    def backward(self, loss):
        if self.rest is not None:
            self.rest.backward()
        self.rest = loss

    def step(self, job, model, optimizer):
        def closure():
            self.rest.backward()
            self.rest = None

        optimizer.step(closure)


def test_a_step_that_makes_its_gradients_itself_is_heard():
    assert not_passed(trial_of(Closes(), "accumulation", "step")) == {}


def test_what_a_grad_scaler_left_out_is_not_made_again():
    """With dropout, the gradients of a step's calls are made again: those of calls that overflowed are no number."""
    assert not_passed(trial_of(Overflowing(), "dropout", "step")) == {}


def test_rotary_angles_are_exact_in_float64():
    """Against the formula by numpy in float64, at the last token of a long row; transformers takes them in float32."""
    model, place = make_model(seed=0).double(), torch.tensor([[2875]])
    exact = np.cos(2875 * 10000.0 ** (-np.arange(8) / 8))
    given = model.model.rotary_emb(torch.zeros(1, 1, 1, dtype=torch.float64), place)[0][0, 0, :8].numpy()
    with_exact_angles(model)
    found = model.model.rotary_emb(torch.zeros(1, 1, 1, dtype=torch.float64), position_ids=place)[0][0, 0, :8].numpy()
    assert abs(found - exact).max() < 1e-12 < 1e-5 < abs(given - exact).max()


def test_a_trainer_whose_rotary_angles_are_not_rounded_is_as_right():
    """In a row of 2,876 tokens its hidden states are 1e-3 from those of rounded angles, as these are from float64."""

    class Exact(Loop):
        def prepare(self, job):
            def unrounded(rotary, args, given, output):
                angles = given["position_ids"][..., None] * 10000.0 ** (-torch.arange(8.0, dtype=torch.float64) / 8)
                return tuple(part(torch.cat((angles, angles), -1)).float() for part in (torch.cos, torch.sin))

            job.model.model.rotary_emb.register_forward_hook(unrounded, with_kwargs=True)
            return job.model

    trial = trial_of(Exact(), "one long conversation", "packing")
    assert not_passed(trial) == {}
    read = {verdict.property.id: sum(verdict.evidence.values()) for verdict in trial.verdicts}
    assert read["packing/hidden-states-equal-those-alone"] == 3
