"""Conventions of the loss: denominators, a loss beside the cross-entropy, contents of every role. Each is judged as it
is declared, and what is wrong under the declaration still fails.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from sftspec.conformance.ledger.recording import load_run, save_run
from sftspec.conformance.ledger.store import RecordingError
from sftspec.conformance.trial.performer import perform
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.conventions import Conventions
from sftspec.masking import encode
from sftspec.properties.ledger.run import Run
from sftspec.tests.loops import IGNORE, Loop
from sftspec.tests.on_trial import found, not_passed, trial_of
from sftspec.trainer import Pipeline

DECLARED = "step/targets-weigh-as-declared"
SCENARIO = "two epochs"
SCENARIOS_BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


class Divided(Loop):
    """The loss of a window over a denominator of its own; `wrong` is a way to get that wrong."""

    def __init__(self, denominator, wrong: str = "", declared: bool = True):
        self.denominator, self.wrong = denominator, wrong
        self.conventions = Conventions(denominator=denominator if declared else "targets")

    def count(self, labels):
        rows = [row for one in labels for row in (one[:, 1:] != IGNORE).sum(-1).tolist() if row]
        self.window = len(labels)
        if self.wrong == "targets":
            return max(1, sum(rows))
        return {"conversations": max(1, len(rows)), "sum": 1}.get(self.denominator, self.denominator)

    def loss(self, logits, labels, count):
        each = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
        each, scored = each.view(len(labels), -1), labels[:, 1:] != IGNORE
        if self.wrong == "per micro-batch":
            count = count * self.window
        if self.denominator != "conversations" or self.wrong == "targets":
            return each.sum() / count
        if self.wrong == "mean of means":
            return each.sum() / scored.sum().clamp_min(1) / self.window
        return (each.sum(-1) / scored.sum(-1).clamp_min(1)).sum() / count


@pytest.mark.parametrize("denominator", ["conversations", "sum", 512.0])
def test_a_declared_denominator_passes(denominator):
    trial = trial_of(Divided(denominator), SCENARIO, "masking", "step")
    assert not_passed(trial) == {}
    assert DECLARED in found(trial, "pass")
    assert "step/the-reported-loss-is-the-mean-over-targets" in found(trial, "pass")
    assert "step/the-denominator-is-the-number-of-targets" in found(trial, "not-measured")


def test_clipping_is_judged_under_a_declared_denominator():
    trial = trial_of(Divided("sum"), "clipping out of reach", "step")
    assert not_passed(trial) == {}
    assert "step/clipping-is-by-the-norm-of-the-whole-gradient" in found(trial, "pass") | found(trial, "not-measured")


@pytest.mark.parametrize(
    ("denominator", "wrong"),
    [
        ("conversations", "mean of means"),
        ("conversations", "targets"),
        (512.0, "per micro-batch"),
    ],
)
def test_a_wrong_denominator_under_a_declared_one_fails(denominator, wrong):
    trial = trial_of(
        Divided(denominator, wrong), "accumulation" if wrong == "per micro-batch" else "two epochs", "step"
    )
    assert DECLARED in not_passed(trial)


@pytest.mark.parametrize(
    ("denominator", "property_"),
    [
        ("conversations", "step/every-target-of-a-step-weighs-the-same"),
        (512.0, "step/the-denominator-is-the-number-of-targets"),
    ],
)
def test_a_denominator_that_is_not_declared_fails(denominator, property_):
    trial = trial_of(Divided(denominator, declared=False), "two epochs", "step")
    assert property_ in found(trial, "fail")


@pytest.mark.parametrize("denominator", ["targets", "conversations", "sum", 512.0])
def test_a_step_without_targets_has_no_shares(denominator):
    run = Run(None, Conventions(denominator=denominator))
    run.__dict__["targets"] = {0: []}
    assert run.shares == {0: []} and run.declared_total(0) == 1.0


@pytest.mark.parametrize("denominator", ["tokens", 0, -1.0, True])
def test_a_denominator_that_is_none_is_refused(denominator):
    with pytest.raises(ValueError, match="known: targets, conversations, sum, count, or a number above 0"):
        Conventions(denominator=denominator)


class Weighted(Loop):
    """Targets weigh as `rule(messages)` says of each message, or as the data do; `wrong` is a way to get that wrong."""

    def __init__(self, rule=None, wrong: str = "", declared: bool = True, denominator="targets"):
        self.rule, self.wrong, self.by_count = rule, wrong, (denominator == "count") != (wrong == "count")
        self.claims = Loop.claims | ({"weights"} if rule is None else set())
        self.conventions = Conventions(denominator=denominator, weights=rule if rule and declared else "")

    def of(self, messages):
        given = self.rule(messages) if self.rule else [item.get("weight", 1.0) for item in messages]
        given = given if isinstance(given, list) else [given] * len(messages)
        change = {"left out": lambda weight: float(weight != 0), "squared": lambda weight: weight * weight}
        return list(map(change.get(self.wrong, float), given))

    def tokenize(self, job, conversation):
        ids, labels = super().tokenize(job, conversation)
        begins, weights, message = job.tokenizer.convert_tokens_to_ids("<|im_start|>"), self.of(conversation), -1
        for place, token in enumerate(ids):
            message += token == begins
            self.weights[tuple(ids[: place + 1])] = weights[message]
            labels[place] = labels[place] if weights[message] else IGNORE
        return ids, labels

    def train(self, job):
        self.weights, self.batches = {}, []
        super().train(job)

    def pad(self, job, rows):
        ids, mask, labels = super().pad(job, rows)
        of_labels = [
            [self.weights.get(tuple(row[: place + 1]), 0.0) for place in range(len(row))] for row in ids.tolist()
        ]
        self.batches.append((labels, torch.tensor(of_labels)[:, 1:]))
        return ids, mask, labels

    def weights_at(self, labels):
        return next(weights for one, weights in self.batches if one is labels)

    def count(self, labels):
        if self.by_count:
            return super().count(labels)
        return sum(float(self.weights_at(one)[one[:, 1:] != IGNORE].sum()) for one in labels) or 1.0

    def loss(self, logits, labels, count):
        each = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
        return (each * self.weights_at(labels).flatten()).sum() / count


def by_length(messages):
    """A weight of each conversation; one of them counts against what it says."""
    return -0.5 if len(messages) == 4 else 0.25 if len(messages) < 4 else 1.0


def last_answer_twice(messages):
    return [1.0] * (len(messages) - 1) + [2.0]


WEIGHED = "turns that weigh; turns that weigh, accumulation"


@pytest.mark.parametrize("denominator", ["targets", "count"])
def test_messages_weigh_as_the_data_say(denominator):
    trial = trial_of(Weighted(denominator=denominator), WEIGHED, "masking", "step")
    assert not_passed(trial) == {}
    passed = found(trial, "pass")
    assert {DECLARED, "step/the-reported-loss-is-the-mean-over-targets", "masking/nothing-else-is-trained"} <= passed
    assert "step/every-target-of-a-step-weighs-the-same" in found(trial, "not-measured")


class Weighing(Pipeline):
    """The reference, which reads weights in the data by itself."""

    claims = Pipeline.claims | {"weights"}


def test_the_reference_weighs_as_the_data_say():
    trial = trial_of(Weighing(), "turns that weigh", "masking", "step")
    assert not_passed(trial) == {} and DECLARED in found(trial, "pass")


@pytest.mark.parametrize("rule", [by_length, last_answer_twice])
def test_a_rule_that_is_declared_is_what_targets_are_to_weigh(rule):
    trial = trial_of(Weighted(rule, denominator="count"), "two epochs", "masking", "step")
    assert not_passed(trial) == {} and DECLARED in found(trial, "pass")


@pytest.mark.parametrize("wrong", ["left out", "squared", "count"])
def test_messages_that_weigh_otherwise_than_declared_fail(wrong):
    missed = not_passed(trial_of(Weighted(wrong=wrong), "turns that weigh", "step"))
    assert DECLARED in missed and "what is declared gives it" in missed[DECLARED]


@pytest.mark.parametrize(("rule", "unit"), [(by_length, "conversation"), (last_answer_twice, "message")])
def test_weights_that_are_not_declared_fail_with_what_they_differ_by(rule, unit):
    missed = not_passed(trial_of(Weighted(rule, declared=False), "two epochs", "step"))
    assert f"weights differ by {unit}, which may be declared" in missed["step/every-target-of-a-step-weighs-the-same"]


def test_weights_that_are_none_are_an_error_of_the_trainer():
    def none(messages):
        return [1.0]

    with pytest.raises(ValueError, match="give a number, or a list of one for each message"):
        Conventions(weights=none).weights_for([[{"role": "user"}, {"role": "assistant"}]])
    with pytest.raises(ValueError, match="give a function of a conversation"):
        Conventions(weights=0.5)


def test_a_rule_crosses_from_the_trainers_process_and_into_a_recording(tmp_path):
    """The judge has its numbers, not its code; a recording that holds other numbers is refused."""
    performance = perform(Weighted(last_answer_twice), SCENARIOS_BY_NAME["two epochs"], 0, tmp_path / "work")
    run = performance.read()
    save_run(run, tmp_path / "run")
    again = load_run(tmp_path / "run")
    assert again.conventions.weights == "last_answer_twice" and again.weights == run.weights
    assert {weight for talk in again.weights for weight in talk} == {1.0, 2.0}
    assert again.shares == run.shares
    text = (tmp_path / "run" / "run.json").read_text()
    (tmp_path / "run" / "run.json").write_text(text.replace('"weights": [[', '"weights": [[7.0, ', 1))
    with pytest.raises(RecordingError, match="no list of a number for each message"):
        load_run(tmp_path / "run")


def with_noise(module, args, output):
    """NEFTune, Jain et al. 2023, arXiv:2310.05914, equation 1: uniform noise of size alpha / sqrt(T H), alpha = 5."""
    bound = 5 / (output.shape[-2] * output.shape[-1]) ** 0.5
    return output + torch.empty_like(output).uniform_(-bound, bound) if module.training else output


class Beside(Loop):
    """A loss beside the cross-entropy: a z-loss on targets or everywhere, one on a layer, a second head."""

    def __init__(self, kind: str, declared: bool = True, wrong: str = ""):
        self.kind, self.wrong = kind, wrong
        self.conventions = Conventions(auxiliary=kind if declared else "")

    def prepare(self, job):
        if self.kind == "noise":
            job.model.get_input_embeddings().register_forward_hook(with_noise)
        return job.model

    def tokenize(self, job, conversation):
        ids, labels = super().tokenize(job, conversation)
        return ids, ids if self.wrong == "mask" else labels

    def logits(self, job, model, ids, mask):
        self.model, self.mask, self.ids = model, mask, ids
        states = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        self.second = states @ torch.linspace(-1, 1, states.shape[-1] ** 2).sin().view(states.shape[-1], -1)
        return model.lm_head(states)

    def loss(self, logits, labels, count):
        shift = 2 if self.wrong == "shift" else 1
        scores, targets = logits[:, :-shift].flatten(0, 1), labels[:, shift:].flatten()
        loss = cross_entropy(scores, targets, reduction="sum") / count
        if self.kind == "z-loss":
            return loss + 1e-2 * (scores.logsumexp(-1).square() * (targets != IGNORE)).sum() / count
        if self.kind == "z-loss everywhere":
            return loss + 1e-2 * (logits.logsumexp(-1).square() * self.mask).sum() / count
        if self.kind == "entropy bonus":
            return loss + 1e-2 * (scores.log_softmax(-1) * scores.softmax(-1)).sum(-1)[targets != IGNORE].sum() / count
        if self.kind == "label smoothing":
            return cross_entropy(scores, targets, reduction="sum", label_smoothing=0.1) / count
        if self.kind == "noise":
            return loss
        if self.kind == "router":
            return loss + 1e-2 * self.model.model.layers[0].mlp.gate_proj.weight.square().sum()
        two = cross_entropy(self.second[:, :-2].flatten(0, 1), labels[:, 2:].flatten(), reduction="sum")
        return loss + 0.3 * two / count


@pytest.mark.parametrize(
    "kind",
    ["z-loss", "z-loss everywhere", "router", "multi-token prediction", "entropy bonus", "label smoothing", "noise"],
)
def test_beside_a_declared_loss_masks_are_judged_and_arithmetic_is_not(kind):
    trial = trial_of(Beside(kind), "plain" if kind == "noise" else SCENARIO, "masking", "step", "packing")
    assert not_passed(trial) == {}
    passed, unread = found(trial, "pass"), found(trial, "not-measured")
    assert passed >= {
        "masking/nothing-else-is-trained", "masking/everything-chosen-is-trained", "masking/end-of-turn-is-trained",
        "masking/each-target-is-the-next-token", "packing/examples-do-not-see-each-other",
        "step/sgd-subtracts-rate-times-gradient",
    }  # fmt: skip
    assert unread >= {"step/the-loss-is-cross-entropy", "step/every-parameter-gets-its-gradient"}
    assert "packing/hidden-states-equal-those-alone" in unread  # "two epochs" is not made for it, and noise has none
    (verdict,) = [item for item in trial.verdicts if item.property.id == "step/the-loss-is-cross-entropy"]
    assert verdict.reason == f"beside the cross-entropy {kind!r} is declared, whose gradient is not known"


@pytest.mark.parametrize(
    ("kind", "property_"),
    [
        ("router", "step/every-parameter-gets-its-gradient"),
        ("entropy bonus", "step/the-loss-is-cross-entropy"),
        ("label smoothing", "step/the-loss-is-cross-entropy"),
        ("noise", "step/every-parameter-gets-its-gradient"),
    ],
)
def test_what_is_not_declared_is_not_passed(kind, property_):
    missed = not_passed(trial_of(Beside(kind, declared=False), "two epochs", "step", "packing"))
    assert property_ in missed


@pytest.mark.parametrize(
    ("kind", "wrong", "property_"),
    [
        ("z-loss everywhere", "mask", "masking/nothing-else-is-trained"),
        ("z-loss", "shift", "masking/each-target-is-the-next-token"),
    ],
)
def test_a_wrong_mask_is_seen_beside_a_declared_loss(kind, wrong, property_):
    assert property_ in found(trial_of(Beside(kind, wrong=wrong), "two epochs", "masking"), "fail")


class Contents(Loop):
    """Every role's contents are trained, without headers; `end` with the token that ends a turn."""

    policy = "contents"

    def __init__(self, end: bool, wrong: str = ""):
        self.end, self.wrong, self.conventions = end, wrong, Conventions(end_of_turn=end)

    def tokenize(self, job, conversation):
        text, trained = "", []
        for message in conversation:
            header, content = f"<|im_start|>{message['role']}\n", message["content"] + "<|im_end|>" * self.end
            begin = len(text) + (0 if self.wrong == "header" else len(header))
            if not (self.wrong == "user" and message["role"] == "user"):
                trained.append((begin, len(text) + len(header) + len(content)))
            text += f"{header}{message['content']}<|im_end|>\n"
        out = job.tokenizer(text, return_offsets_mapping=True)
        marks = [any(a <= start < b for a, b in trained) for start, _ in out["offset_mapping"]]
        ids = out["input_ids"][: job.max_length]
        return ids, [token if mark else IGNORE for token, mark in zip(ids, marks, strict=False)]


@pytest.mark.parametrize("end", [True, False])
def test_contents_of_every_role_are_a_policy(end):
    trial = trial_of(Contents(end), SCENARIO, "masking", "step")
    assert not_passed(trial) == {}
    assert {"masking/nothing-else-is-trained", "masking/everything-chosen-is-trained"} <= found(trial, "pass")


@pytest.mark.parametrize(
    ("wrong", "property_"),
    [("header", "masking/nothing-else-is-trained"), ("user", "masking/everything-chosen-is-trained")],
)
def test_a_wrong_mask_under_contents_fails(wrong, property_):
    assert property_ in found(trial_of(Contents(True, wrong), "two epochs", "masking"), "fail")


def test_what_contents_trains_is_the_text_between_the_headers():
    from sftspec.conformance.witness.model import make_tokenizer

    talk = [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}]
    talk += [{"role": "assistant", "content": "yo"}, {"role": "user", "content": "no", "train": False}]
    tokenizer = make_tokenizer()
    for end, expected in ((True, "S<|im_end|>hi<|im_end|>yo<|im_end|>"), (False, "Shiyo")):
        example = encode(talk, tokenizer=tokenizer, policy="contents", conventions=Conventions(end_of_turn=end))
        assert tokenizer.decode([label for label in example.labels if label != IGNORE]) == expected
