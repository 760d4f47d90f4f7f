"""Kernels of distillation losses, right ones and broken ones, against float64."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from sftspec.conformance.commands.cli import main
from sftspec.conformance.kernels import distillation
from sftspec.conformance.kernels.distillation import IGNORE, Teacher, kl_div, plain
from sftspec.conformance.kernels.memory import Peak
from sftspec.conformance.kernels.outcome import measured

BOTH = (torch.float32, torch.bfloat16)
WAYS = {way.name: way for way in distillation.WAYS}
KL, REVERSE, JSD, WARM, COSINE = (way.name for way in distillation.SMALL)


def outcome(kernel, way, dtype=torch.float32):
    return measured("", way, dtype, partial(distillation.judge, kernel, WAYS[way], dtype, "cpu"))


@pytest.mark.parametrize("dtype", BOTH, ids=str)
@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("logits and the formula", set()),
        ("sftspec.distillation_loss", {COSINE}),
        ("chunks, checkpointed", set()),
        ("F.kl_div", {JSD, COSINE}),
        ("TRL, chunked divergence", {COSINE}),
    ],
)
def test_what_a_cpu_has_passes_in_every_way(name, without, dtype):
    found = {way.name: outcome(distillation.kernels()[name], way.name, dtype) for way in distillation.SMALL}
    assert {way: (item.status, item.reason) for way, item in found.items() if item.status == "fail"} == {}
    assert {way for way, item in found.items() if item.status == "not-measured"} == without


@pytest.mark.parametrize("way", [KL, REVERSE, JSD, WARM])
def test_the_plain_way_is_the_formula(way):
    """Each sum of the docstring over the tokens, in Python's own numbers (float64)."""
    hidden = torch.tensor([[1.0, -2.0], [0.5, 0.25]], dtype=torch.float64)
    head = torch.tensor([[1.0, 0.0], [0.5, -1.0], [2.0, 1.0]], dtype=torch.float64)
    teacher, labels = Teacher(hidden.flip(0), 2 * head), torch.tensor([IGNORE, 1])
    beta, temperature = WAYS[way].beta, WAYS[way].temperature

    def softmax(logits):
        powers = [math.exp(item / temperature) for item in logits.tolist()]
        return [item / sum(powers) for item in powers]

    def divergence(one, other):
        return sum(a * math.log(a / b) for a, b in zip(one, other, strict=True))

    q, p = softmax(head @ hidden[1]), softmax(2 * head @ hidden[0])
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    mixed = beta * divergence(p, m) + (1 - beta) * divergence(q, m)
    expected = {0.0: divergence(p, q), 1.0: divergence(q, p)}.get(beta, mixed)
    assert float(plain(teacher, WAYS[way], hidden, head, labels)) == pytest.approx(expected, rel=1e-13)


def changed(**other):
    return lambda teacher, way, *given: plain(
        teacher, replace(way, **{key: f(way) for key, f in other.items()}), *given
    )


def multiplied_by_the_square(teacher, way, *given):
    return plain(teacher, way, *given) * way.temperature**2


def student_alone_is_softened(teacher, way, *given):
    return plain(Teacher(teacher.hidden * way.temperature, teacher.head), way, *given)


def mean_over_the_vocabulary(teacher, way, hidden, head, labels):
    return kl_div(teacher, way, hidden, head, labels) / len(head)


def prompts_are_taught(teacher, way, hidden, head, labels):
    return plain(teacher, way, hidden, head, labels.clamp(min=0))


def summed_in_16_bits(teacher, way, hidden, head, labels):
    scored = labels != IGNORE
    logits = (hidden @ head.T)[scored].bfloat16(), teacher.logits(scored).bfloat16()
    return way(*logits).float().mean()


def cross_entropy_alone(teacher, way, hidden, head, labels):
    """Right but for the teacher's entropy, which has no gradient."""
    scored = labels != IGNORE
    return F.cross_entropy((hidden @ head.T)[scored], teacher.logits(scored).softmax(-1))


def last_block_left_out(teacher, way, hidden, head, labels):
    return plain(Teacher(teacher.hidden, teacher.head[:500]), way, hidden, head[:500], labels)


@pytest.mark.parametrize(
    ("broken", "way"),
    [
        (changed(beta=lambda way: 1 - way.beta), KL),
        (changed(beta=lambda way: 1 - way.beta), JSD),
        (changed(temperature=lambda way: 1.0), WARM),
        (multiplied_by_the_square, WARM),
        (student_alone_is_softened, WARM),
        (mean_over_the_vocabulary, KL),
        (prompts_are_taught, REVERSE),
        (summed_in_16_bits, JSD),
        (cross_entropy_alone, KL),
        (last_block_left_out, JSD),
    ],
)
def test_a_broken_kernel_fails(broken, way):
    assert outcome(broken, way).status == "fail"


def test_what_is_not_here_is_not_measured_and_says_why(capsys, monkeypatch):
    monkeypatch.setattr(distillation, "WAYS", distillation.SMALL)
    assert main(["kernels", "distillation", "--dtype", "float32"]) == 0
    printed = capsys.readouterr().out
    assert "torchtune, chunked forward KL: not-measured: AbsentError: torchtune: No module named" in printed


def test_the_peak_is_of_what_is_held_at_once():
    with Peak("cpu") as peak:
        for _ in range(3):
            torch.zeros(2**20).sum()
    assert peak.megabytes == pytest.approx(4, abs=0.1)
