"""Small models of other architectures: caps, windows, experts, recurrent state."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig

from sftspec import properties
from sftspec.conformance.commands.cli import main
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.scenarios import SCENARIOS, on_model, scenarios_for
from sftspec.conformance.witness.model import make_model
from sftspec.conformance.witness.shrink import ModelError, read_config, shrunk
from sftspec.squash import Squash, squash_of
from sftspec.trainer import Pipeline
from tests.loops import Loop
from tests.on_trial import found, not_passed


def trial_on(kind: str, trainer, names: str, *areas: str):
    config = AutoConfig.for_model(kind).to_dict()
    chosen = [item for item in properties.load(*areas) if item.seam == "run" and item.area in areas]
    scenarios = on_model([item for item in SCENARIOS if item.name in names.split("; ")], config)
    trial = put_on_trial(trainer, chosen, 0, scenarios)
    assert [run.error for run in trial.runs] == [""] * len(scenarios)
    return trial


@pytest.mark.long
@pytest.mark.parametrize("kind", ["gemma2", "qwen3_next", "mixtral"])
def test_a_right_loop_passes_on_another_architecture(kind):
    trial = trial_on(kind, Loop(), "two epochs", "step", "masking")
    assert not_passed(trial) == {}
    passed = found(trial, "pass")
    assert passed >= {"step/the-loss-is-cross-entropy", "step/every-parameter-gets-its-gradient"}


def test_recurrent_state_that_runs_over_a_packed_boundary_is_seen():
    trial = trial_on("qwen3_next", Pipeline(), "packed", "packing", "masking")
    assert "packing/examples-do-not-see-each-other" in found(trial, "fail")


def test_a_label_shifted_twice_is_seen_through_capped_logits():
    class Twice(Loop):
        def loss(self, logits, labels, count):
            return super().loss(logits[:, :-1], labels[:, 1:], count)

    trial = trial_on("gemma2", Twice(), "two epochs", "masking")
    assert "masking/each-target-is-the-next-token" in found(trial, "fail")


def test_the_slope_of_capped_logits_is_that_of_autograd():
    squash, z = Squash(scale=0.25, cap=3.0), torch.linspace(-40, 40, 81, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(squash(z).sum(), z)
    assert torch.allclose(squash.slope(z.detach()), slope, rtol=1e-12, atol=1e-15)
    assert squash_of(AutoConfig.for_model("gemma2")).cap == 30.0
    assert squash_of(AutoConfig.for_model("llama")) == Squash()


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3_text", "qwen3_moe", "cohere2", "granite", "mistral"])
def test_a_small_model_keeps_its_kinds_of_layers_and_a_head_that_can_be_read(kind):
    whole = AutoConfig.for_model(kind)
    model = make_model(config=whole.to_dict())
    head = model.get_output_embeddings().weight
    assert set(getattr(model.config, "layer_types", None) or ()) == set(getattr(whole, "layer_types", None) or ())
    assert head.shape[0] <= head.shape[1] and head is not model.get_input_embeddings().weight
    assert torch.allclose(head @ head.T, 2.25 * torch.eye(len(head)), atol=1e-4)


@pytest.mark.parametrize("kind", ["t5", "vit", "no_such_type"])
def test_what_cannot_be_a_witness_is_refused(kind):
    with pytest.raises(ModelError, match=kind):
        shrunk({"model_type": kind}, 64)


def test_a_folder_without_a_config_is_refused(tmp_path, capsys):
    with pytest.raises(ModelError, match=r"give a config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(ModelError, match="it has no model_type"):
        read_config(tmp_path)
    assert main(["check", "reference", "--model", str(tmp_path)]) == 2
    assert "it has no model_type" in capsys.readouterr().err


def test_what_a_trainer_cannot_train_it_is_not_given():
    claims = frozenset({"padding", "adamw"})
    less = scenarios_for(claims | {"no-learned-positions", "no-dropout"})
    left_out = {item.name for item in scenarios_for(claims)} - {item.name for item in less}
    assert left_out == {"learned positions", "dropout"}
