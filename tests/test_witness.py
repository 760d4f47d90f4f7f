"""The witness reads weights, targets and kinds of loss off the gradient at the last hidden state."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from sftspec.conformance.recovery import WitnessError, fit_bound, read_gradients
from sftspec.conformance.witness import KINDS, head_condition, make_model, make_tokenizer
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


TARGETS = torch.arange(24).remainder(7)
WEIGHTS = torch.tensor([0.0, 0.5, 1.0, 2.0, 1e-6, -1.0]).repeat(4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_targets_and_weights_of_cross_entropy_are_read_within_the_bound(kind, dtype):
    def loss(logits):
        return (cross_entropy(logits.float() if dtype != torch.float64 else logits, TARGETS, reduction="none") * WEIGHTS).sum()

    hidden, gradient, head = gradients(kind, loss, dtype)
    bound = fit_bound(dtype, SIZE)
    reading = read_gradients(hidden, gradient, head, bound)
    for index, weight in enumerate(WEIGHTS.tolist()):
        if weight == 0:
            assert reading.target[index] == -1 and reading.weight[index] == 0
        else:
            assert reading.target[index] == TARGETS[index] and reading.fit[index] == "cross-entropy"
            assert abs(float(reading.weight[index]) / weight - 1) <= bound


def test_label_smoothing_is_recognised_as_what_it_is():
    hidden, gradient, head = gradients("rope", lambda z: cross_entropy(z, TARGETS, label_smoothing=0.1))
    assert set(read_gradients(hidden, gradient, head, fit_bound(torch.float32, SIZE)).fit) == {"label-smoothing"}


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
    fits = read_gradients(hidden, gradient, head, fit_bound(torch.float32, SIZE)).fit
    assert set(fits) == {"ambiguous"}


def test_a_model_that_is_sure_of_a_token_is_not_read():
    hidden, gradient, head = gradients("rope", lambda z: cross_entropy(z, TARGETS))
    with pytest.raises(WitnessError, match="sure of a token"):
        read_gradients(hidden * 20, gradient, head, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_has_orthogonal_rows_and_full_rank(kind):
    head = make_model(kind).get_output_embeddings().weight.detach()
    assert head.shape[0] <= head.shape[1]
    assert head_condition(head) < 1 + 1e-5


def test_the_tokenizer_marks_assistant_turns_as_transformers_does():
    messages = [{"role": "user", "content": "AB"}, {"role": "assistant", "content": "CD"}]
    encoded = make_tokenizer().apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    tokens = make_tokenizer().convert_ids_to_tokens(encoded["input_ids"])
    assert [t for t, kept in zip(tokens, encoded["assistant_masks"], strict=True) if kept] == ["C", "D", "<|im_end|>"]
