"""What whole distillation trainers do to the witness: TRL's two, and ours with a known loss, right and wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch

from sftspec.conformance.breakit.temperatures import distilling
from sftspec.conformance.trial import distiller as distilled_steps
from sftspec.conformance.trial.corpora import Writer, unequal_conversations
from sftspec.conformance.trial.judge import judge
from sftspec.conformance.witness.distillation_recovery import StudentTap, fit_bound, read_distillation
from sftspec.conformance.witness.model import make_model, make_tokenizer
from sftspec.distillation import distillation_loss, frozen_logits
from sftspec.job import Job
from sftspec.masking import Conventions
from sftspec.step import StepReport, forward_logits, sft_loss
from sftspec.tests.seam_verdict import properties_of
from sftspec.trainer import Pipeline

V = 320


def distil(make, tmp_path, kind="rope", declared="", **settings):
    """(what was read, the job, the tap) of the first step of make(teacher) on four conversations of unequal lengths."""
    teacher = make_model(kind, seed=7)
    talks = [talk for talk in unequal_conversations(Writer(0)) if len(talk) > 1][:4]
    options = {"batch_size": 4, "learning_rate": 0.0, "workdir": tmp_path, "policy": "last", **settings}
    job = Job(make_model(kind, seed=0), make_tokenizer(), talks, **options)
    head = job.model.get_output_embeddings().weight.detach().clone()
    with StudentTap(job.model, teacher) as tap:
        make(teacher).train(job)
    calls = tap.calls[: job.accumulation]
    return read_distillation(calls, head, teacher, declared=declared), job, tap


def ours(temperature, alpha, **options):
    def loss(student, teacher, labels, _):
        return distillation_loss(student, teacher, labels, temperature, alpha, **options)

    return lambda teacher: distilling(teacher, loss, temperature)


def near(values, expected, count):
    """Each weight times n is the expected one, to the relative bound of a fit (times the temperature's factor)."""
    return bool(((values * count - expected).abs() <= 1e-4 * max(1.0, expected)).all())


@pytest.mark.parametrize("kind", ["rope", "learned"])
@pytest.mark.parametrize(
    ("temperature", "alpha", "options", "name"),
    [
        (1.0, 1.0, {}, "forward KL"),
        (2.0, 0.7, {}, "forward KL"),
        (1.5, 0.5, {"divergence": "reverse_kl"}, "reverse KL"),
        (4.0, 0.9, {"divergence": "jsd", "beta": 0.25}, "JSD(0.25)"),
    ],
)
def test_divergence_temperature_and_weights_are_read(tmp_path, kind, temperature, alpha, options, name):
    seen, _, tap = distil(ours(temperature, alpha, **options), tmp_path, kind)
    assert (seen.divergence, seen.temperature) == (name, temperature)
    assert seen.residual <= fit_bound(torch.float32, V) * max(1.0, temperature)
    assert seen.runner_up >= 1000 * seen.residual
    count = len(seen.positions)
    assert near(seen.soft, alpha * temperature**2, count) and near(seen.hard, 1 - alpha, count)
    assert tap.teacher_is_untouched


def test_a_temperature_without_its_square_shows_in_the_weight(tmp_path):
    def loss(student, teacher, labels, _):
        return distillation_loss(student, teacher, labels, 2.0, 1.0) / 4

    seen, *_ = distil(lambda teacher: distilling(teacher, loss, 2.0), tmp_path)
    assert (seen.divergence, seen.temperature) == ("forward KL", 2.0) and near(seen.soft, 1.0, len(seen.positions))


def test_the_fused_path_of_gkd_before_its_fix_is_read_as_what_it_was(tmp_path):
    """trl#5731: half of the loss was cross-entropy, and the JSD stood at the temperature of sampling, 0.9."""

    def loss(student, teacher, labels, _):
        soft = distillation_loss(student, teacher, labels, 0.9, 1.0, divergence="jsd") / 0.9**2
        return 0.5 * sft_loss(student, labels) + 0.5 * soft

    seen, *_ = distil(lambda teacher: distilling(teacher, loss, 0.9), tmp_path)
    assert (seen.divergence, seen.temperature) == ("JSD(0.5)", 0.9)
    assert near(seen.soft, 0.5, len(seen.positions)) and near(seen.hard, 0.5, len(seen.positions))


def test_a_mean_of_means_shows_in_the_weights(tmp_path):
    """trl#6006: each micro-batch was divided by its own count n_k; at K of them a target weighs 1 / (K n_k)."""

    def averaging(teacher):
        def step(model, batches, optimizer, *_):
            optimizer.zero_grad()
            for batch in batches:
                logits = frozen_logits(teacher, **batch.model_inputs())
                (
                    distillation_loss(forward_logits(model, batch), logits, batch.labels, 1.0, 1.0) / len(batches)
                ).backward()
            optimizer.step()
            return StepReport(0.0, 1, 0.0)

        return Pipeline(step=step)

    seen, *_ = distil(averaging, tmp_path, batch_size=2, accumulation=2)
    counts = Counter(call for call, _, _ in seen.positions)
    assert seen.divergence == "forward KL" and counts[0] != counts[1]
    expected = torch.tensor([1 / (2 * counts[call]) for call, _, _ in seen.positions])
    assert ((seen.soft - expected).abs() <= 1e-4 * expected).all()


def test_a_teacher_softened_alone_fits_nothing(tmp_path):
    def loss(student, teacher, labels, _):
        return distillation_loss(student, teacher / 2, labels, 1.0, 1.0)

    seen, *_ = distil(lambda teacher: distilling(teacher, loss, 2.0), tmp_path)
    assert seen.divergence == "ambiguous"


def test_a_teacher_in_training_mode_or_with_a_gradient_is_noticed():
    teacher, student = make_model(seed=7), make_model()
    ids = torch.tensor([[5, 6, 7]])
    with StudentTap(student, teacher) as tap:
        teacher.train()
        (student(input_ids=ids).logits.sum() * teacher(input_ids=ids).logits.sum()).backward()
    assert tap.teacher_modes == [True] and not tap.teacher_is_untouched


def last_turns(job, call):
    """(row, column) of the logits before each token of the last turn, the newline after its end included."""
    whole, prompts = {}, {}
    for talk in job.conversations:
        ids = job.tokenizer.apply_chat_template(list(talk), return_dict=True)["input_ids"]
        prompt = job.tokenizer.apply_chat_template(list(talk)[:-1], add_generation_prompt=True, return_dict=True)
        whole[tuple(ids)], prompts[tuple(ids)] = len(ids), len(prompt["input_ids"])
    expected = set()
    for row, (ids, mask) in enumerate(zip(call.input_ids, call.attention_mask, strict=True)):
        key, start = tuple(ids[mask == 1].tolist()), int(mask.argmax())
        expected |= {(row, start + column) for column in range(prompts[key] - 1, whole[key] - 1)}
    return expected


@pytest.fixture
def adapters():
    pytest.importorskip("trl", minversion="1.16")
    from sftspec.conformance.adapters import distillation

    return distillation


@pytest.mark.parametrize(("beta", "name"), [(0.0, "forward KL"), (0.5, "JSD(0.5)"), (1.0, "reverse KL")])
def test_gkd_trains_its_divergence_on_the_last_turns_alone(adapters, tmp_path, beta, name):
    """TRL 1.16: its divergence, weight 1/n, no cross-entropy, a frozen teacher; the newline after the end too."""
    seen, job, tap = distil(lambda teacher: adapters.GKD(teacher, beta), tmp_path)
    assert seen.divergence == name and tap.teacher_is_untouched
    assert near(seen.soft, 1.0, len(seen.positions)) and near(seen.hard, 0.0, len(seen.positions))
    assert {position[1:] for position in seen.positions} == last_turns(job, tap.calls[0])


def test_the_temperature_of_gkd_never_reaches_its_loss(adapters, tmp_path):
    """TRL 1.16: compute_loss hands on no temperature; GKDConfig documents it as one "for sampling" (trl#5731)."""
    seen, *_ = distil(lambda teacher: adapters.GKD(teacher, 0.5, temperature=4.0), tmp_path)
    assert (seen.divergence, seen.temperature) == ("JSD(0.5)", 1.0)


@pytest.mark.parametrize("make", ["GKD", "Distillation"])
def test_micro_batches_share_one_denominator(adapters, tmp_path, make):
    """Two micro-batches (GKD: of unequal counts): every weight is 1/n of the step, so that the cut does not matter."""
    trainer = getattr(adapters, make)
    seen, *_ = distil(lambda teacher: trainer(teacher, 0.5, 1.0), tmp_path, batch_size=2, accumulation=2)
    assert {position[0] for position in seen.positions} == {0, 1}
    assert near(seen.soft, 1.0, len(seen.positions))


@pytest.mark.parametrize(
    ("beta", "temperature", "name"), [(1.0, 1.0, "reverse KL"), (0.5, 2.0, "JSD(0.5)"), (0, 4.0, "forward KL")]
)
def test_distillation_trainer_trains_at_its_temperature_without_its_square(adapters, tmp_path, beta, temperature, name):
    """TRL 1.16: both models softened, weight 1/n whatever T is: the convention of GKD, not Hinton's."""
    seen, _, tap = distil(lambda teacher: adapters.Distillation(teacher, beta, temperature), tmp_path)
    assert (seen.divergence, seen.temperature) == (name, temperature) and tap.teacher_is_untouched
    assert near(seen.soft, 1.0, len(seen.positions)) and near(seen.hard, 0.0, len(seen.positions))
    assert min(column for _, _, column in seen.positions) >= tap.calls[0].input_ids.shape[1] - 8 - 1


# ---------------------------------------------------------------- the same, as properties


once = cache(distilled_steps.distil)  # the properties read the same steps


@dataclass(frozen=True)
class Ours:
    """The reference pipeline with a teacher; what it says of itself, and where it may be broken."""

    teacher: Any = None
    loss_temperature: float = 2.0
    real_temperature: float = 2.0
    divergence: str = "forward KL"
    policy: str = "last"
    distils_all: bool = False
    each_batch_by_itself: bool = False
    teacher_learns: bool = False
    times_micro_batches: bool = False
    keeps_gradients: bool = False
    knows_no_accumulation: bool = False

    claims = frozenset({"distillation"})
    conventions = Conventions(separator=True)

    @property
    def parts(self):
        return {"distil": partial(once, self)}

    def accepts(self, conversation):
        return len(conversation) > 1

    def train(self, job):
        job.policy = "every-token" if self.distils_all else self.policy
        job.accumulation = 1 if self.knows_no_accumulation else job.accumulation
        Pipeline(step=self.step, conventions=Conventions(separator=True)).train(job)

    def step(self, model, batches, optimizer, *_):
        total = sum(batch.num_targets for batch in batches)
        for batch in batches:
            n = len(batches) * batch.num_targets if self.each_batch_by_itself else total
            n = n / len(batches) if self.times_micro_batches else n
            asked = (
                forward_logits if self.teacher_learns else lambda teacher, b: frozen_logits(teacher, **b.model_inputs())
            )
            logits, real = asked(self.teacher, batch), self.real_temperature
            (distillation_loss(forward_logits(model, batch), logits, batch.labels, real, 1.0, num_targets=n)).backward()
            if self.teacher_learns:
                logits.sum().backward()
        optimizer.step()
        if not self.keeps_gradients:
            optimizer.zero_grad()
        return StepReport(0.0, total, 0.0)


BROKEN = {
    "at T = 1": (Ours(real_temperature=1.0), {"the-declared-divergence-is-distilled"}),
    "each batch by itself": (Ours(each_batch_by_itself=True), {"every-distilled-token-weighs-the-same"}),
    "times the micro-batches": (
        Ours(times_micro_batches=True),
        {"the-cut-of-a-step-leaves-its-weights", "the-weights-of-pure-distillation-add-up-to-one"},
    ),
    "every token": (Ours(distils_all=True), {"the-completion-is-distilled-and-nothing-else"}),
    "the teacher learns": (Ours(teacher_learns=True), {"the-teacher-is-asked-in-eval-mode-and-not-trained"}),
    "gradients are kept": (Ours(keeps_gradients=True), {"the-head-moves-by-the-gradient-of-its-step"}),
    "no accumulation": (Ours(knows_no_accumulation=True), {"a-step-takes-the-conversations-of-its-micro-batches"}),
}
PROPERTIES = {item.id.partition("/")[2]: item for item in properties_of("distillation", "distil")}


@pytest.mark.long
@pytest.mark.parametrize("name", PROPERTIES)
def test_a_property_holds_for_the_reference_and_fails_for_what_it_is_about(name):
    assert judge(PROPERTIES[name], Ours(), []).status == "pass"
    for how, (trainer, fails) in BROKEN.items():
        assert judge(PROPERTIES[name], trainer, []).status == ("fail" if name in fails else "pass"), how


@dataclass(frozen=True)
class Skewed(Ours):
    """KL(p, a p + (1 - a) q), a = 0.1 (Ko et al. 2024, arXiv:2402.03898, eq. 4), whose gradient is not known here."""

    divergence: str = "skewed KL(0.1)"

    def step(self, model, batches, optimizer, *_):
        total = sum(batch.num_targets for batch in batches)
        for batch in batches:
            teacher = frozen_logits(self.teacher, **batch.model_inputs())[:, :-1].softmax(-1)
            student = forward_logits(model, batch)[:, :-1].softmax(-1)
            each = (teacher * (teacher / (0.1 * teacher + 0.9 * student)).log()).sum(-1)
            (each * (batch.labels[:, 1:] != -100)).sum().div(total).backward()
        optimizer.step()
        optimizer.zero_grad()
        return StepReport(0.0, total, 0.0)


@dataclass(frozen=True)
class WithEntropy(Ours):
    """A bonus for the student's entropy, at every position, beside the divergence."""

    conventions = Conventions(separator=True, auxiliary="entropy bonus")

    def step(self, model, batches, optimizer, *_):
        total = sum(batch.num_targets for batch in batches)
        for batch in batches:
            logits, teacher = forward_logits(model, batch), frozen_logits(self.teacher, **batch.model_inputs())
            log_p = logits.log_softmax(-1)
            bonus = 1e-3 * (log_p.exp() * log_p).sum(-1) * batch.attention_mask
            (distillation_loss(logits, teacher, batch.labels, 2.0, 1.0, num_targets=total) + bonus.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        return StepReport(0.0, total, 0.0)


ARITHMETIC = {
    "the-declared-divergence-is-distilled", "the-declared-cross-entropy-stands-beside-it",
    "every-distilled-token-weighs-the-same", "the-cut-of-a-step-leaves-its-weights",
    "the-weights-of-pure-distillation-add-up-to-one",
}  # fmt: skip
POSITIONS = {"the-completion-is-distilled-and-nothing-else", "the-head-moves-by-the-gradient-of-its-step"}


@pytest.mark.parametrize(
    ("trainer", "unread", "reason"),
    [
        (Skewed(), ARITHMETIC, "the divergence 'skewed KL(0.1)' is not known"),
        (WithEntropy(), ARITHMETIC | POSITIONS, "'entropy bonus' is declared beside the divergence"),
    ],
)
def test_a_loss_that_is_not_known_is_not_measured(trainer, unread, reason):
    verdicts = {name: judge(item, trainer, []) for name, item in PROPERTIES.items()}
    assert {name: item.status for name, item in verdicts.items()} == {
        name: "not-measured" if name in unread else "pass" for name in PROPERTIES
    }
    assert all(verdicts[name].reason.startswith(reason) for name in unread)


def test_what_is_wrong_beside_a_loss_that_is_not_known_fails():
    trainer = Skewed(distils_all=True)
    assert judge(PROPERTIES["the-completion-is-distilled-and-nothing-else"], trainer, []).status == "fail"
    undeclared = Skewed(divergence="forward KL")
    assert judge(PROPERTIES["the-declared-divergence-is-distilled"], undeclared, []).status == "fail"


def test_a_jsd_of_any_beta_is_known(tmp_path):
    seen, *_ = distil(ours(1.0, 1.0, divergence="jsd", beta=0.3), tmp_path)
    assert seen.divergence == "ambiguous"
    seen, *_ = distil(ours(1.0, 1.0, divergence="jsd", beta=0.3), tmp_path, declared="JSD(0.3)")
    assert seen.divergence == "JSD(0.3)" and seen.runner_up >= 1000 * seen.residual


@pytest.mark.long
@pytest.mark.parametrize("make", ["GKD", "Distillation"])
def test_the_trainers_of_trl_pass(adapters, make, monkeypatch):
    monkeypatch.setattr(adapters, "distil", once)
    for item in PROPERTIES.values():
        verdict = judge(item, getattr(adapters, make)(beta=0.25), [])
        assert verdict.status == "pass", verdict.counterexample


def test_a_trainer_without_a_teacher_claims_nothing():
    assert {judge(item, Pipeline(), []).status for item in PROPERTIES.values()} == {"not-claimed"}
