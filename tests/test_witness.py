"""The witness reads weights, targets and kinds of loss off the gradient at the last hidden state."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from sftspec.conformance.witness.model import KINDS, make_model, make_tokenizer
from sftspec.conformance.witness.recovery import Head, WitnessError, fit_bound, read_gradients
from sftspec.golden.small_tokenizer import SIZE

IDS = torch.randint(0, SIZE, (2, 12), generator=torch.Generator().manual_seed(3))


def gradients(kind: str, loss, dtype: torch.dtype = torch.float32):
    """Hidden states, their gradient and the head, after loss(logits (N, V)) of a real model."""
    model = make_model(kind, dtype=dtype)
    hidden = model.base_model(input_ids=IDS, use_cache=False).last_hidden_state
    hidden.retain_grad()
    head = model.get_output_embeddings()
    loss(head(hidden).flatten(0, 1)).backward()
    width = hidden.shape[-1]
    return hidden.detach().reshape(-1, width), hidden.grad.reshape(-1, width), head.weight.detach()


def read(hidden, gradient, head, dtype: torch.dtype = torch.float32):
    return read_gradients(hidden, gradient, Head(head), fit_bound(dtype, SIZE))


TARGETS = torch.arange(24).remainder(7)
WEIGHTS = torch.tensor([0.0, 0.5, 1.0, 2.0, 1e-6, -1.0]).repeat(4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_targets_and_weights_of_cross_entropy_are_read_within_the_bound(kind, dtype):
    def loss(logits):
        return (
            cross_entropy(logits.float() if dtype != torch.float64 else logits, TARGETS, reduction="none") * WEIGHTS
        ).sum()

    hidden, gradient, head = gradients(kind, loss, dtype)
    bound = fit_bound(dtype, SIZE)
    reading = read(hidden, gradient, head, dtype)
    for index, weight in enumerate(WEIGHTS.tolist()):
        if weight == 0:
            assert reading.target[index] == -1 and reading.weight[index] == 0
        else:
            assert reading.target[index] == TARGETS[index] and reading.fit[index] == "cross-entropy"
            assert abs(float(reading.weight[index]) / weight - 1) <= bound


def test_label_smoothing_is_recognised_as_what_it_is():
    hidden, gradient, head = gradients("rope", lambda z: cross_entropy(z, TARGETS, label_smoothing=0.1))
    assert set(read(hidden, gradient, head).fit) == {"label-smoothing"}


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: (z - 1).square().mean(),
        lambda z: cross_entropy(z, TARGETS) + 1e-2 * torch.logsumexp(z, -1).square().mean(),
        lambda z: cross_entropy(3 * torch.tanh(z / 3), TARGETS),
        lambda z: cross_entropy(z, TARGETS) + cross_entropy(z, TARGETS + 1),
    ],
    ids=["squares", "z-loss", "capped", "two targets"],
)
def test_other_losses_are_ambiguous(loss):
    hidden, gradient, head = gradients("rope", loss)
    fits = read(hidden, gradient, head).fit
    assert set(fits) == {"ambiguous"}


def test_a_model_that_is_sure_of_a_token_is_not_read():
    hidden, gradient, head = gradients("rope", lambda z: cross_entropy(z, TARGETS))
    with pytest.raises(WitnessError, match="sure of a token"):
        read(hidden * 20, gradient, head)


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_is_undone_by_its_pseudo_inverse(kind):
    head = make_model(kind).get_output_embeddings().weight.detach()
    inverse = Head(head).undo(torch.eye(head.shape[1]))
    assert torch.allclose(inverse, torch.linalg.pinv(head.double()), rtol=0, atol=1e-12)
    assert float((head.double() @ inverse - torch.eye(SIZE)).abs().max()) < 1e-12


def test_a_head_is_read_up_to_a_condition_number_of_ten():
    left = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    Head(left * torch.linspace(1, 9.9, 24) @ right)
    with pytest.raises(WitnessError, match="condition number"):
        Head(left * torch.linspace(1, 10.1, 24) @ right)


def test_a_head_that_lost_its_rank_is_not_read():
    head = make_model().get_output_embeddings().weight.detach().clone()
    head[0] = head[1] * 1.01
    with pytest.raises(WitnessError, match="condition number"):
        Head(head)


def test_the_tokenizer_marks_assistant_turns_as_transformers_does():
    messages = [{"role": "user", "content": "AB"}, {"role": "assistant", "content": "CD"}]
    encoded = make_tokenizer().apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    tokens = make_tokenizer().convert_ids_to_tokens(encoded["input_ids"])
    assert [t for t, kept in zip(tokens, encoded["assistant_masks"], strict=True) if kept] == ["C", "D", "<|im_end|>"]
