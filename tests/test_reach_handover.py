"""Handing over: a folder, a class of the trainer's own, a copy; and what is said where nothing is heard."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import pytest
import torch

from sftspec import properties
from sftspec.adapters import Adapter
from sftspec.conformance.report.document import identify, make_document
from sftspec.conformance.report.outcome import exit_code
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.scenarios import SCENARIOS
from tests.loops import Loop
from tests.on_trial import found, not_passed, trial_of
from tests.own_model import LowRank, OwnModel, load, to_hugging_face


def error_of(trainer, name: str = "two epochs") -> str:
    """What broke in the run of a scenario."""
    scenario = next(item for item in SCENARIOS if item.name == name)
    chosen = [item for item in properties.load("step") if item.id == "step/the-learning-rate-is-the-jobs"]
    return put_on_trial(trainer, chosen, 0, [scenario]).runs[0].error


class ByPath(Loop):
    """Loads what job.save_model wrote."""

    name = "by path"
    tells = True

    def prepare(self, job):
        from transformers import AutoModelForCausalLM, LlamaForCausalLM

        folder = job.save_model()
        if self.tells:
            job.listen_to(LlamaForCausalLM)
        return AutoModelForCausalLM.from_pretrained(folder)


class Own(Loop):
    """A model of its own class."""

    name, hidden, arguments = (
        "own class",
        "last",
        {"input_ids": "idx", "attention_mask": "seen", "position_ids": "where"},
    )

    def build(self, job):
        return load(OwnModel(job.model.config), job.model.state_dict(), job.model.config)

    def prepare(self, job):
        model = self.build(job)
        job.listen_to(OwnModel, hidden=self.hidden, weights=self.weights(job), arguments=self.arguments)
        return model

    def weights(self, job):
        return to_hugging_face(job.model.config)

    def logits(self, job, model, ids, mask):
        return model(ids, seen=mask.bool()[:, None] | torch.eye(ids.shape[1], dtype=torch.bool))


def test_a_model_loaded_by_path_is_heard():
    trial = trial_of(ByPath(), "two epochs; AdamW", "step", "masking")
    assert not_passed(trial) == {}
    assert "step/every-parameter-gets-its-gradient" in found(trial, "pass")


def test_a_matrix_that_was_not_loaded_is_told():
    """What a fresh model begins with is not what job.model has: the random state is not the model's."""

    class Forgets(ByPath):
        def prepare(self, job):
            kind, folder = type(job.model), job.save_model()
            job.listen_to(kind)
            model = kind(job.model.config)
            loaded = kind.from_pretrained(folder).state_dict()
            model.load_state_dict({name: item for name, item in loaded.items() if "0.mlp" not in name}, strict=False)
            return model

    assert "does not begin with job.model's weights: model.layers.0.mlp" in error_of(Forgets())


def test_a_model_that_is_not_named_is_told_how():
    class Silent(ByPath):
        tells = False

    assert "job.listen_to(ModelClass)" in error_of(Silent())


def test_a_model_of_its_own_class_is_judged_on_its_own_attention():
    trial = trial_of(Own(), "plain; two epochs", "step", "masking", "packing")
    assert not_passed(trial) == {}
    passed = found(trial, "pass")
    assert passed >= {"step/every-parameter-gets-its-gradient", "step/every-target-of-a-step-weighs-the-same"}


def test_attention_that_looks_ahead_is_seen_in_a_model_of_its_own_class():
    class Ahead(Own):
        def build(self, job):
            model = super().build(job)
            block = model.blocks[0].forward
            model.blocks[0].forward = lambda x, places, seen: block(x, places, torch.ones_like(seen))
            return model

    trial = trial_of(Ahead(), "plain", "masking", "packing")
    assert "masking/no-position-sees-what-follows-it" in found(trial, "fail", "blocked")
    assert "packing/hidden-states-equal-those-alone" in found(trial, "fail")


class OwnLowRank(Own):
    """Its own class, with low-rank adapters of its own beside the last matrix of each block."""

    name, scale = "own adapters", 2.0

    def build(self, job):
        model = super().build(job).requires_grad_(False)
        for block in model.blocks:
            block.narrow = LowRank(block.narrow, rank=8, scale=self.scale)
        return model

    def prepare(self, job):
        model, base = self.build(job), to_hugging_face(job.model.config)
        factors = [name for name, _ in model.named_parameters() if name.endswith((".down", ".up"))]
        job.listen_to(
            model, hidden=self.hidden, arguments=self.arguments,
            weights=lambda state: base(state) | {name: state[name] for name in factors},
            adapters=[
                Adapter(f"model.layers.{layer}.mlp.down_proj.weight", f"blocks.{layer}.narrow.down",
                        f"blocks.{layer}.narrow.up", rank=8, alpha=16, scaling=2.0)
                for layer in range(len(model.blocks))
            ],
        )  # fmt: skip
        return model


def test_adapters_of_a_model_of_its_own_class_are_judged():
    trial = trial_of(OwnLowRank(), "two epochs; AdamW", "step", "masking")
    assert not_passed(trial) == {}
    passed = found(trial, "pass")
    assert passed >= {f"step/{name}" for name in (
        "adapters-learn", "adapters-are-scaled-as-declared", "new-adapters-change-nothing",
        "only-adapters-and-saved-modules-move", "every-parameter-gets-its-gradient",
        "sgd-subtracts-rate-times-gradient",
    )}  # fmt: skip


def base_trains_too(self, job):
    model = OwnLowRank.build(self, job)
    return model.requires_grad_(True)


def merged_after_each_step(self, job, model, optimizer):
    Loop.step(self, job, model, optimizer)
    with torch.no_grad():
        for block in model.blocks:
            block.narrow.weight += self.scale * block.narrow.up @ block.narrow.down


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"scale": 4.0}, "step/every-parameter-gets-its-gradient"),
        ({"build": base_trains_too}, "step/only-adapters-and-saved-modules-move"),
        ({"step": merged_after_each_step}, "step/parameters-change-in-the-step-alone"),
    ],
    ids=["another scale", "the base trains", "merged while it trains"],
)
def test_adapters_of_a_model_of_its_own_class_that_are_wrong_are_told(changes, names):
    trial = trial_of(type("Wrongly", (OwnLowRank,), changes)(), "two epochs", "step", "masking")
    assert names in found(trial, "fail")


def test_what_follows_a_step_that_wrote_nan_is_not_read_where_the_head_is_frozen():
    """Nothing can be read off a model of NaN, whichever of its parameters hold it."""

    class Divides(OwnLowRank):
        def count(self, labels):
            self.targets = sum(int((one[:, 1:] != -100).sum()) for one in labels)
            return 1

        def step(self, job, model, optimizer):
            for item in self.parameters(job, model):
                item.grad /= self.targets
            super().step(job, model, optimizer)

    trial = trial_of(Divides(), "one by one", "step", "masking", "packing")
    assert found(trial, "fail") == {
        "masking/parameters-stay-finite", "masking/a-step-without-targets-changes-nothing"
    }  # fmt: skip


def wrongly(**changes):
    return type("Wrongly", (Own,), changes)()


class Misnamed(Own):
    """Names a factor that its export does not give."""

    def prepare(self, job):
        adapter = Adapter("model.layers.0.mlp.down_proj.weight", "down", "up", rank=8, alpha=16, scaling=2.0)
        model, export = self.build(job), self.weights(job)
        job.listen_to(
            model, self.hidden, lambda state: export(state) | {"down": state["last.gain"]}, self.arguments, [adapter]
        )
        return model


class Unheard(ByPath):
    def prepare(self, job):
        job.listen_to(type(job.model), adapters=[Adapter("w", "a", "b", rank=1, alpha=1, scaling=1.0)])


@pytest.mark.parametrize(
    ("trainer", "says"),
    [
        (wrongly(hidden="final"), "OwnModel has no submodule 'final'; it has table"),
        (wrongly(hidden="blocks.0"), "does not give job.model's last hidden states"),
        (wrongly(hidden="unembed"), "does not give job.model's last hidden states"),
        (wrongly(arguments={"input_ids": "tokens"}), "OwnModel.forward has no argument 'tokens'"),
        (wrongly(build=lambda self, job: OwnModel(job.model.config)), "does not begin with job.model's weights"),
        (wrongly(weights=lambda self, job: lambda state: {}), "has no model.embed_tokens.weight"),
        (Misnamed(), "an adapter names up, which weights() does not give"),
        (Unheard(), "adapters beside a Hugging Face model are PEFT's"),
    ],
    ids=[
        "no submodule",
        "wrong submodule",
        "behind the head",
        "no argument",
        "other weights",
        "no export",
        "no factor",
        "no class",
    ],
)
def test_a_model_that_is_handed_over_wrongly_is_refused(trainer, says):
    assert says in error_of(trainer)


class Detached(Loop):
    def logits(self, job, model, ids, mask):
        hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return model.get_output_embeddings()(hidden.detach())


class Muted(Detached):
    """The body under no_grad by mistake."""

    def logits(self, job, model, ids, mask):
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return model.get_output_embeddings()(hidden)


class Frozen(Loop):
    def parameters(self, job, model):
        return model.parameters()

    def prepare(self, job):
        return job.model.requires_grad_(False)


class Idle(Loop):
    def backward(self, loss):
        """Forgotten."""


@pytest.mark.parametrize(
    ("trainer", "says"),
    [
        (Detached(), "no gradient reaches the hidden states: only the head learns"),
        (Muted(), "wants one (no_grad?)"),
        (Frozen(), "nothing in it wants a gradient"),
        (Idle(), "nothing was trained"),
    ],
    ids=["detached", "no_grad", "frozen", "no backward pass"],
)
def test_a_run_that_trains_nothing_is_a_verdict(trainer, says):
    scenario = next(item for item in SCENARIOS if item.name == "two epochs")
    chosen = [item for item in properties.load("step") if item.seam == "run" and item.area == "step"]
    trial = put_on_trial(trainer, chosen, 0, [scenario])
    assert found(trial, "fail") == {"step/gradients-reach-the-hidden-states"}
    (verdict,) = [item for item in trial.verdicts if item.status == "fail"]
    assert says in verdict.counterexample["note"]
    document = make_document(trial, identify(trainer, {}), "sftspec check", 0)
    assert exit_code(document) == 1 and not document["scenarios"][0]["error"]


def test_a_run_that_trains_nothing_is_a_verdict_whichever_properties_were_chosen():
    chosen = [item for item in properties.load("masking") if item.seam == "run" and item.area == "masking"]
    trial = put_on_trial(Detached(), chosen, 0, SCENARIOS[:1])
    assert found(trial, "fail") == {"step/gradients-reach-the-hidden-states"}
    document = make_document(trial, identify(trial.trainer, {}), "sftspec check", 0)
    assert exit_code(document) == 1 and not document["scenarios"][0]["error"]


class Copying(Loop):
    """Everything that honest code does with a model while it is trained."""

    def prepare(self, job):
        self.average = copy.deepcopy(job.model)
        torch.save(job.model, job.workdir / "model.pt")
        again = torch.load(job.workdir / "model.pt", weights_only=False)
        again(input_ids=torch.tensor([[1, 2, 3]]))
        return job.model

    @torch.no_grad()
    def step(self, job, model, optimizer):
        super().step(job, model, optimizer)
        for kept, now in zip(self.average.parameters(), model.parameters(), strict=True):
            kept.lerp_(now, 0.1)

    def finish(self, job, model):
        pickle.loads(pickle.dumps(model))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(count_of, (model,)) == sum(item.numel() for item in model.parameters())


def count_of(model) -> int:
    return sum(item.numel() for item in model.parameters())


@pytest.mark.long
def test_copies_of_the_model_neither_break_nor_are_heard():
    trial = trial_of(Copying(), "two epochs", "step", "masking")
    assert not_passed(trial) == {}
    assert len(trial.runs[0].forwards) == 8


def test_a_resized_vocabulary_says_so():
    class Resized(Loop):
        def prepare(self, job):
            job.model.resize_token_embeddings(384, mean_resizing=False)
            return job.model

    assert "the vocabulary was resized from 320 to 384 tokens" in error_of(Resized())
