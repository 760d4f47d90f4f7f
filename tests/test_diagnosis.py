"""Diagnosis names the fault that was planted, and says nothing of a fault that it does not know.

The planted ones are tried on another seed than the matrix's, and in a whole trainer (the README's, whose data come in
another order), so that no figure is equal by construction. The unknown ones are trainers that no entry of
conformance/sensitivity describes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch

from sftspec import properties
from sftspec.collation import collate
from sftspec.conformance.adapters import resolve
from sftspec.conformance.sensitivity import signatures
from sftspec.conformance.sensitivity.diagnosis import (
    WORDS,
    compare,
    diagnose,
    diagnose_trial,
    exactly,
    nearness,
    overlap,
    ruzicka,
)
from sftspec.conformance.sensitivity.matrix import replays_of
from sftspec.conformance.sensitivity.mutants import load_mutants
from sftspec.conformance.sensitivity.mutants.breaking import additive as as_floats
from sftspec.conformance.sensitivity.mutants.breaking import (
    around,
    collated,
    masked_where,
    relabelled,
    turn_of,
    with_inputs,
)
from sftspec.conformance.sensitivity.signatures import Mark
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.masking import encode
from sftspec.packing import pack
from sftspec.step import IGNORE, clip_gradients, sft_loss
from sftspec.tests.test_readme import readme_trainer
from sftspec.trainer import Pipeline, make_optimizer

JOBS = {scenario.name: scenario for scenario in SCENARIOS}
SEEN = ["plain", "learned positions", "truncation", "accumulation", "clipping", "AdamW", "packed", "packed, ranks"]
MUTANTS = {item.name: item for item in load_mutants()}


def named(trainer, names: list[str] = SEEN, seed: int = 1) -> list[str]:
    """Names of the mutants that a trainer is said to look like, the likeliest first."""
    chosen = [item for item in properties.load("masking", "packing", "step") if item.seam == "run"]
    jobs = [JOBS[name] for name in names if JOBS[name].claims <= trainer.claims]
    trial = put_on_trial(trainer, chosen, seed, jobs, max_replays=replays_of(trainer))
    assert any(item.failed_in for item in trial.verdicts), "the fault is not seen at all"
    return [item.mutant.name for item in diagnose_trial(trial, signatures.load())]


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "masking/end-of-turn-masked",
        "masking/tool-results-trained",
        "masking/shifted-twice",
        "packing/plain-causal-attention",
        "packing/boundary-one-token-late",
        "step/mean-of-means",
        "step/clipped-per-parameter",
    ],
)
def test_a_planted_fault_is_named_first_on_another_seed(name):
    assert named(MUTANTS[name].make())[:1] == [name]


PAIRS = [  # of different stages, with scenarios that show both
    ("masking/end-of-turn-masked", "step/clipped-per-parameter", "plain; clipping"),
    ("masking/tool-results-trained", "step/mean-of-means", "plain; accumulation"),
    ("masking/shifted-twice", "step/clipped-per-parameter", "plain; clipping"),
    ("packing/plain-causal-attention", "masking/end-of-turn-masked", "plain; packed"),
    ("masking/first-answer-token-lost", "step/labels-smoothed", "plain; accumulation"),
    ("packing/plain-causal-attention", "step/clipped-per-parameter", "packed; clipping"),
]


def both(one: str, other: str):
    """A trainer with two bugs: what the one replaces in the reference, and what the other does."""
    first, second, reference = MUTANTS[one].make(), MUTANTS[other].make(), Pipeline()
    names = [field.name for field in dataclasses.fields(reference)]
    changed = {name: getattr(second, name) for name in names if getattr(second, name) != getattr(reference, name)}
    assert type(second) is Pipeline and all(getattr(first, name) == getattr(reference, name) for name in changed)
    return replace(first, **changed)


@pytest.mark.long
@pytest.mark.parametrize(("one", "other", "scenarios"), PAIRS)
def test_two_planted_faults_at_once_are_told_apart(one, other, scenarios):
    assert set(named(both(one, other), scenarios.split("; "))[:2]) == {one, other}


@pytest.mark.long
def test_a_fault_that_goes_on_where_its_row_ends_is_not_two():
    """Smoothed labels fail in packs as well, of which their row says nothing, and another bug's row does."""
    found = named(MUTANTS["step/labels-smoothed"].make(), ["plain", "accumulation", "packed"])
    assert found[:1] == ["step/labels-smoothed"] and "packing/boundaries-subtracted-from-the-count" not in found[:2]


@pytest.mark.parametrize("name", ["masking/end-of-turn-masked", "step/mean-of-means", "packing/plain-causal-attention"])
def test_one_fault_is_not_taken_for_two(name):
    row, matrix = signatures.load()[name], signatures.load()
    everything = [item.id for item in properties.load()], [*JOBS]
    assert [item.beside for item in diagnose(row, *everything, matrix)][:1] == [""]


def contents(change):
    """The reference that reads other contents: change(content, role)."""

    def broken(messages, **options):
        return encode([{**item, "content": change(item["content"], item["role"])} for item in messages], **options)

    return Pipeline(encode=broken)


def weighted(weights):
    """The reference with a weight for each label: weights(labels), and the plain count as denominator."""

    def loss(logits, labels, num_targets=None, given=None):
        return sft_loss(logits, labels, num_targets or int((labels[:, 1:] != IGNORE).sum()), weights(labels))

    return Pipeline(loss=loss)


def gradients(change):
    def every(model, optimizer):
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                change(name, parameter.grad)

    return around(before=every)


def other_targets(logits, labels, num_targets=None, weights=None):
    moved = torch.where(labels == IGNORE, labels, (labels + 1) % logits.shape[-1])
    return sft_loss(logits, moved, num_targets, weights)


def blind_to_the_first_token(batch):
    allowed = batch.dense_mask().clone()
    allowed[..., 1:, 0] = False
    allowed |= torch.eye(allowed.shape[-1], dtype=torch.bool)
    return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": as_floats(allowed)}


def warmed_up(model, optimizer):
    optimizer.param_groups[0]["lr"] *= 1.5 if optimizer.param_groups[0]["lr"] < 0.5 else 1.0


def other_betas(job):
    made = make_optimizer(job)
    if job.optimizer == "adamw":
        made.param_groups[0]["betas"] = (0.5, 0.9)
    return made


def rows_upside_down(examples, bins=None, *, pad_token_id):
    batch = collate(examples, bins, pad_token_id=pad_token_id)
    return replace(batch, labels=batch.labels.flip(0)) if bins is None and len(examples) > 1 else batch


UNKNOWN = {
    "every fifth target masked": masked_where(lambda e, m, position: position % 5 == 0),
    "targets one id too high": Pipeline(loss=other_targets),
    "contents in capitals": contents(lambda text, role: text.swapcase()),
    "user turns shortened": contents(lambda text, role: text[:6] if role == "user" else text),
    "labels of another row": Pipeline(collate=rows_upside_down),
    "every second conversation lost": Pipeline(order=lambda count, seed, epoch: list(range(0, count, 2))),
    "first token invisible": with_inputs(blind_to_the_first_token, packed_only=False),
    "noise in the gradients": gradients(lambda name, gradient: gradient.add_(torch.randn_like(gradient) * 1e-3)),
    "norms learn backwards": gradients(lambda name, gradient: gradient.neg_() if "norm" in name else None),
    "the head learns twice as fast": gradients(lambda name, g: g.mul_(2) if "head" in name else None),
    "rate grows": around(after=warmed_up),
    "other betas": Pipeline(optimizer=other_betas),
    "early tokens weigh more": weighted(lambda labels: 2 / (1 + torch.arange(labels.shape[1]) / 64).expand_as(labels)),
    "odd ids weigh nothing": weighted(lambda labels: (labels % 2 == 0).float()),
    "positions doubled": collated(lambda batch: replace(batch, position_ids=batch.position_ids * 2), packed_only=False),
    "limit of the norm doubled": Pipeline(clip=lambda parameters, limit: clip_gradients(parameters, 2 * limit)),
    "system messages masked in": relabelled(lambda example, messages: [
        token if turn_of(example, messages, place)[1] == "system" else label
        for place, (token, label) in enumerate(zip(example.input_ids, example.labels, strict=True))
    ]),
    "logits at temperature two": Pipeline(
        loss=lambda logits, *rest, **named: sft_loss(logits / 2, *rest, **named)
    ),
    "packs that lose their second example": Pipeline(
        pack=lambda lengths, capacity: [items[:1] + items[2:] for items in map(list, pack(lengths, capacity))]
    ),
    "even positions trained on nothing when packed": collated(
        lambda batch: replace(batch, labels=torch.where(batch.position_ids % 2 == 0, IGNORE, batch.labels))
    ),
}  # fmt: skip


def test_there_are_twenty_unknown_faults():
    assert len(UNKNOWN) == 20


@pytest.mark.long
@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_fault_is_given_no_name(name):
    assert named(UNKNOWN[name]) == []


@pytest.mark.long
def test_of_the_planted_faults_nineteen_in_twenty_are_named_first():
    """Each row against the whole matrix. Those that are not have a twin, another bug with the same failures but for the
    figures of its counterexamples, or fail one property alone that measures nothing: that would be a guess.
    """
    matrix = signatures.load()
    everything = [item.id for item in properties.load()], [*JOBS]
    found = {name: diagnose(row, *everything, matrix) for name, row in matrix.items()}
    silent = {name for name, named in found.items() if not named}
    other = {name for name, named in found.items() if named and named[0].mutant.name != name}
    assert len(silent) + len(other) <= len(matrix) / 10 and len(other) <= len(matrix) / 20
    assert all(in_words(matrix[name]) == in_words(matrix[found[name][0].mutant.name]) for name in other)
    assert all(len(matrix[name]) == 1 and not measures(matrix[name]) for name in silent)
    assert not any(
        named[0].likeness == 1 and len(matrix[name]) == 1 and not measures(matrix[name])
        for name, named in found.items()
        if named
    )


def in_words(row):
    return {key: replace(mark, note=" ".join(WORDS.findall(mark.note))) for key, mark in row.items()}


def measures(row) -> bool:
    return all(mark.measures for mark in row.values())


def test_one_failing_property_without_a_measure_is_never_wholly_alike():
    """Nine planted bugs fail in the words "differs from the uninterrupted run": none of them is named."""
    matrix, name = signatures.load(), "step/resuming-equals-not-stopping"
    asked = [item.id for item in properties.load("step")], [*JOBS]
    found = {name: Mark({"resume after one step": 0.9545}, {"": 1.0}, {}, matrix["step/resume-thaws"][name].note)}
    assert diagnose(found, *asked, matrix) == []
    drawn = matrix["step/evaluation-multiplied"]
    assert 0.9 < diagnose(drawn, *asked, matrix)[0].likeness < 1.0


@pytest.mark.parametrize(("sums", "name"), [(0.889, "step/mean-of-means"), (7.0, "step/not-divided-by-accumulation")])
def test_micro_batches_that_weigh_the_same_are_a_mean_of_means_unless_their_sum_is_not_divided(sums, name):
    """A short last window, or a micro-batch without targets, makes the weights of a mean sum to less than 1."""
    matrix = signatures.load()
    row = matrix["step/not-divided-by-accumulation"]
    weights, denominator = (row[f"step/{item}"] for item in ("every-target-of-a-step-weighs-the-same", DENOMINATOR))
    found = {
        "step/every-target-of-a-step-weighs-the-same": dataclasses.replace(weights, units=frozenset({"micro-batch"})),
        f"step/{DENOMINATOR}": dataclasses.replace(denominator, measures=dict.fromkeys(denominator.measures, sums)),
    }
    assert [item.mutant.name for item in exactly(found, matrix)] == [name]


MASKS = 'labels = [token if on else -100 for token, on in zip(out["input_ids"], out["assistant_masks"])]'
DIVISION = "(loss / count).backward()"
CLIPPING = "torch.nn.utils.clip_grad_norm_(job.model.parameters(), job.max_grad_norm)"
DENOMINATOR = "the-denominator-is-the-number-of-targets"
IN_A_LOOP = {  # planted bug: (code of the README's trainer, the same with the bug)
    "masking/mask-dropped": (MASKS, 'labels = list(out["input_ids"])'),
    "masking/end-of-turn-masked": (MASKS, MASKS.replace("if on", "if on and token != job.tokenizer.eos_token_id")),
    "masking/shifted-twice": (
        "labels[:, 1:].flatten()", "torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 2:].flatten()",
    ),
    "step/not-divided-by-accumulation": (DIVISION, "(loss / max(1, int((labels[:, 1:] != -100).sum()))).backward()"),
    "step/clipped-per-parameter": (
        CLIPPING, "[torch.nn.utils.clip_grad_norm_([p], job.max_grad_norm) for p in job.model.parameters()]",
    ),
    "step/labels-smoothed": ('reduction="sum"', 'reduction="sum", label_smoothing=0.1'),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", IN_A_LOOP)
def test_a_planted_fault_is_named_first_in_a_trainer_of_another_kind(name, tmp_path):
    code, path = readme_trainer(), tmp_path / "my_trainer.py"
    assert code.count(IN_A_LOOP[name][0]) == 1
    path.write_text(code.replace(*IN_A_LOOP[name]), encoding="utf-8")
    assert named(resolve(str(path)).trainer, seed=0)[:1] == [name]


def test_a_trainer_without_failures_looks_like_nothing():
    assert diagnose({}, {"masking/nothing-else-is-trained"}, SEEN, signatures.load()) == []


def test_likeness_is_the_overlap_of_what_fails():
    one = Mark({"plain": 0.25, "packed": 1.0}, {"user content": 1.0}, {"plain": 2.0})
    assert ruzicka({"plain": 1.0, "packed": 0.5}, {"plain": 0.25}) == 0.25 / 1.5
    assert (nearness(2.0, 0.5), nearness(1.0, -1.0), nearness(0.0, 0.0)) == (0.25, 0.0, 1.0)
    assert overlap(one, one) == (1.5, 1.5)  # the roots of the shares
    assert overlap(one, dataclasses.replace(one, kinds={"": 1.0})) == (0.75, 1.5)
    assert overlap(one, dataclasses.replace(one, measures={"plain": 1.0})) == (1.25, 1.5)
    assert compare({"a": one}, {"a": one, "b": one}) == (1, 2, 0.5)


def test_two_faults_of_a_function_are_told_apart_by_what_the_smallest_counterexample_says():
    one = Mark({"drawn": 1.0}, {"": 1.0}, note="expected 2, seen 4")
    assert overlap(one, one) == (1.0, 1.0)
    assert overlap(one, dataclasses.replace(one, note="expected 2, seen 1")) == (3 / 5, 1.0)
