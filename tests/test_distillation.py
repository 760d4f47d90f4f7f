"""Distillation: every option, every refusal, and a real teacher and student."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from sftspec.distillation import distillation_loss, frozen_logits
from sftspec.properties.cases.distillation import UNEVEN, random_case, soft_bound
from sftspec.step import NoTargetsError, sft_loss

KINDS = [{"divergence": "forward_kl"}, {"divergence": "reverse_kl"}, {"divergence": "jsd", "beta": 0.25}]
KINDS += [kind | {"top_k": 2} for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradients_are_those_of_the_values(kind):
    """torch.autograd.gradcheck: central differences in float64, tolerance 1e-5 of its own."""
    student, teacher, labels = random_case(0, 2, 4, 5, "random").tensors()
    assert torch.autograd.gradcheck(lambda z: distillation_loss(z, teacher, labels, 2.0, 0.75, **kind), (student,))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_columns_at_minus_infinity_leave_no_nan(kind):
    student, teacher, labels = random_case(1, 2, 4, 5, "random").tensors()
    expected = distillation_loss(student, teacher, labels, 2.0, **kind)
    (gradient,) = torch.autograd.grad(expected, student)
    wide = F.pad(student.detach(), (0, 3), value=-math.inf).requires_grad_()
    seen = distillation_loss(wide, F.pad(teacher, (0, 3), value=-math.inf), labels, 2.0, **kind)
    (wide_gradient,) = torch.autograd.grad(seen, wide)
    assert abs(seen - expected) <= 1e-12 and (wide_gradient[..., :5] - gradient).abs().max() <= 1e-12
    assert not wide_gradient[..., 5:].any()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_padding_beyond_the_shared_vocabulary_is_cut_before_any_softmax(kind):
    """A student padded by 1 column and a teacher by 3, of junk, equal the unpadded pair bit for bit."""
    student, teacher, labels = random_case(2, 2, 4, 5, "random").tensors()
    padded = distillation_loss(
        F.pad(student, (0, 1), value=9.0), F.pad(teacher, (0, 3), value=50.0), labels, 2.0, vocab_size=5, **kind
    )
    assert torch.equal(padded, distillation_loss(student, teacher, labels, 2.0, **kind))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_micro_batches_share_the_denominator_of_the_step(kind):
    """Two micro-batches of 3 and 1 targets, one without any: the gradients add up to the batch's. 8 roundings."""
    student, teacher, labels = UNEVEN.tensors()
    (expected,) = torch.autograd.grad(distillation_loss(student, teacher, labels, 2.0, **kind), student)
    ignored = torch.full_like(labels[:1], -100)
    for z, q, y in [
        (student[:1], teacher[:1], labels[:1]),
        (student[1:], teacher[1:], labels[1:]),
        (student[:1], teacher[:1], ignored),
    ]:
        distillation_loss(z, q, y, 2.0, num_targets=4, **kind).backward()
    assert (student.grad - expected).abs().max() <= 8 * 2.0**-53 * expected.abs().max()


def test_the_limits_of_the_other_divergences():
    """Equal models: zero, but for the roundings of a mixture. beta = 0, 1 are the two KLs, k = V is the full loss."""
    student, teacher, labels = random_case(3, 2, 4, 5, "random").tensors()
    for kind in KINDS:
        slack = soft_bound(random_case(3, 2, 4, 5, "random"), 2.0) if "beta" in kind else 0.0
        assert abs(distillation_loss(student, student.detach(), labels, 2.0, 1.0, **kind)) <= slack

    def loss(**options):
        return distillation_loss(student, teacher, labels, 2.0, 1.0, **options)

    assert loss(divergence="jsd", beta=0.0) == loss()
    assert loss(divergence="jsd", beta=1.0) == loss(divergence="reverse_kl")
    assert abs(loss(top_k=5) - loss()) <= soft_bound(random_case(3, 2, 4, 5, "random"), 2.0)


def test_a_teacher_without_mass_on_what_the_student_says_costs_infinitely_much_backwards_only():
    student, teacher = torch.zeros(1, 2, 2, dtype=torch.float64), torch.tensor([[[0.0, -math.inf]] * 2]).double()
    labels = torch.tensor([[0, 0]])
    assert distillation_loss(student, teacher, labels, alpha=1.0, divergence="reverse_kl") == math.inf
    assert abs(distillation_loss(student, teacher, labels, alpha=1.0) - math.log(2)) < 1e-15
    assert distillation_loss(student, teacher, labels, alpha=0.0, divergence="reverse_kl") == sft_loss(student, labels)


def test_types_of_the_result():
    student, teacher, labels = random_case(4, 1, 3, 4, "random").tensors()
    for dtype, result in ((torch.float64,) * 2, (torch.float32,) * 2, (torch.bfloat16, torch.float32)):
        for alpha in (0.0, 0.5, 1.0):
            assert distillation_loss(student.to(dtype), teacher.bfloat16(), labels, alpha=alpha).dtype == result


ok = random_case(5, 2, 3, 4, "random").tensors()


@pytest.mark.parametrize(
    ("message", "arguments", "options"),
    [
        ("the student has 4 columns, the teacher 6: pass vocab_size=", (ok[0], F.pad(ok[1], (0, 2)), ok[2]), {}),
        ("vocab_size 5: the student has 4", (ok[0], F.pad(ok[1], (0, 2)), ok[2]), {"vocab_size": 5}),
        ("a label lies outside the vocabulary of 1", (*ok[:2], ok[2].clamp(min=3)), {"vocab_size": 1}),
        ("do not fit logits", (*ok[:2], ok[2][:, :2]), {}),
        ("same B and T for both", (ok[0], ok[1][:, :2], ok[2]), {}),
        ("want \\(B, T, V\\)", (ok[0][0], ok[1][0], ok[2][0]), {}),
        ("divergence 'kl' is unknown; known are forward_kl", ok, {"divergence": "kl"}),
        ("need 0 < temperature", ok, {"temperature": 0.0}),
        ("0 <= alpha <= 1", ok, {"alpha": 1.5}),
        ("beta 2.0", ok, {"divergence": "jsd", "beta": 2.0}),
        ("top_k 5: need 1 <= top_k <= 4", ok, {"top_k": 5}),
        ("no target", (*ok[:2], torch.full_like(ok[2], -100)), {}),
    ],
)
def test_bad_input_is_refused_with_what_to_do(message, arguments, options):
    with pytest.raises(ValueError, match=message):
        distillation_loss(*arguments, **options)


def test_no_target_is_the_error_of_the_step():
    with pytest.raises(NoTargetsError):
        distillation_loss(*ok[:2], torch.full_like(ok[2], -100), alpha=1.0)


# ---------------------------------------------------------------- a real teacher and student


def llama(seed: int, hidden: int, vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        attention_dropout=0.5,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).train()


@pytest.mark.parametrize("kind", [{}, {"divergence": "reverse_kl"}, {"divergence": "jsd"}, {"top_k": 4}], ids=str)
def test_a_student_learns_a_teacher_whose_head_is_padded(kind):
    """60 steps halve the loss of a Llama; its teacher, with dropout, is read the same each time and not touched."""
    teacher, student = llama(0, 16, 32), llama(1, 24, 29)
    before = copy.deepcopy(teacher.state_dict())
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(29, (4, 12), generator=generator)
    labels = ids.where(torch.arange(12) >= 5, -100)
    target = frozen_logits(teacher, input_ids=ids)
    assert torch.equal(target, frozen_logits(teacher, input_ids=ids)) and teacher.training and not target.requires_grad
    optimizer, losses = torch.optim.Adam(student.parameters(), lr=0.02), []
    for _ in range(60):
        optimizer.zero_grad()
        logits = student(input_ids=ids).logits
        loss = distillation_loss(logits, target, labels, 2.0, 1.0, vocab_size=29, **kind)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < sum(losses[:5]) / 2
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("label", [5, -1])
def test_a_label_that_is_no_token_is_refused_whichever_term_reads_it(alpha, label):
    student, teacher, labels = random_case(4, 2, 4, 5, "random").tensors()
    labels[1, 2] = label
    with pytest.raises(ValueError, match="a label lies outside the vocabulary of 5"):
        distillation_loss(student, teacher, labels, 2.0, alpha)
