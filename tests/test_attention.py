"""Packed attention in real models: equal to one example at a time, isolated to the bit, and no dense mask anywhere."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from sftspec.attention import NAME, PackedAttentionError, segment_starts, segmented_attention
from sftspec.collation import Batch, collate
from sftspec.properties.packing.collator import Example

VOCABULARY = 61
ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24}
BINS = [[0, 1, 2], [3, 4, 5, 6], [7]]
LENGTHS = [5, 9, 2, 6, 6, 1, 3, 4]


def make_llama(dtype: torch.dtype) -> LlamaForCausalLM:
    """Rotary positions, four query heads on two key heads."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        bos_token_id=None,
        eos_token_id=None,
    )
    return _initialised(LlamaForCausalLM(config), dtype)


def make_gpt2(dtype: torch.dtype) -> GPT2LMHeadModel:
    """Learned positions: wrong position ids show (trap H2)."""
    sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
    off = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
    return _initialised(GPT2LMHeadModel(GPT2Config(**sizes, **off)), dtype)


def _initialised(model, dtype: torch.dtype):
    """Weights from N(0, 0.15^2), rounded to float32, so that both dtypes compute one function."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype)


MODELS = {"llama": make_llama, "gpt2": make_gpt2}


def make_examples(seed: int = 0) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]
    return [Example(ids, ids) for ids in drawn]


def logits_of(model, batch: Batch, way: str) -> torch.Tensor:
    """Logits (B, T, V) with the packed attention, or with the batch's dense mask given to scaled dot products."""
    if way == "packed":
        model.set_attn_implementation(NAME)
        return model(**batch.model_inputs(), use_cache=False).logits
    model.set_attn_implementation("sdpa")
    inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
    return model(**inputs, attention_mask=batch.dense_mask(), use_cache=False).logits


def places(bins=BINS):
    """Example, row, and its columns."""
    for row, indices in enumerate(bins):
        start = 0
        for index in indices:
            yield index, row, slice(start, start + LENGTHS[index])
            start += LENGTHS[index]


def logits_alone(model, examples) -> list[torch.Tensor]:
    model.set_attn_implementation("sdpa")
    return [model(input_ids=torch.tensor([one.input_ids]), use_cache=False).logits[0] for one in examples]


def tolerance(reference: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> float:
    """Self-calibrated (BOUND-SELF): the reference's own error against float64, times 4, and rounding; or 64
    u.
    """
    if dtype == torch.float64:
        return 64 * ROUNDOFF[dtype] * float(exact.abs().max())
    own = float((reference.double() - exact).abs().max())
    return 4 * own + 8 * ROUNDOFF[dtype] * float(exact.abs().max())


@pytest.mark.parametrize("way", ["packed", "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_packed_logits_are_those_of_each_example_alone(make, dtype, way):
    examples = make_examples()
    model, exact_model = make(dtype), make(torch.float64)
    with torch.no_grad():
        alone, exact = logits_alone(model, examples), logits_alone(exact_model, examples)
        together = logits_of(model, collate(examples, BINS, pad_token_id=0), way)
    bound = tolerance(torch.cat(alone), torch.cat(exact), dtype)
    for index, row, columns in places():
        assert (together[row, columns] - alone[index]).abs().max() <= bound


@pytest.mark.parametrize("way", ["packed", "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_other_segments_and_padding_change_no_bit(make, dtype, way):
    examples, others = make_examples(0), make_examples(1)
    model = make(dtype)
    with torch.no_grad():
        before = logits_of(model, collate(examples, BINS, pad_token_id=0), way)
        for index, row, columns in places():
            changed = [one if other == index else others[other] for other, one in enumerate(examples)]
            after = logits_of(model, collate(changed, BINS, pad_token_id=1), way)
            assert torch.equal(after[row, columns], before[row, columns])
            assert len(BINS[row]) == 1 or not torch.equal(after[row], before[row])  # something was changed


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_without_isolation_the_bounds_are_exceeded_a_thousandfold(make):
    """What the tests above would see of an all-ones mask, with which transformers does not isolate rows."""
    examples = make_examples()
    model, batch = make(torch.float32), collate(examples, BINS, pad_token_id=0)
    with torch.no_grad():
        alone, exact = logits_alone(model, examples), logits_alone(make(torch.float64), examples)
        inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
        leaking = model(**inputs, attention_mask=torch.ones_like(batch.input_ids), use_cache=False).logits
    seen = max((leaking[row, columns] - alone[index]).abs().max() for index, row, columns in places())
    assert seen > 1000 * tolerance(torch.cat(alone), torch.cat(exact), torch.float32)


def gradients(model, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of sum(cross-entropy) / n over (logits, labels) parts, n counted over all of them."""
    n = sum(int((labels[:, 1:] != -100).sum()) for _, labels in parts)
    total = sum(
        cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
        for logits, labels in parts
    )
    model.zero_grad()
    (total / n).backward()
    return float(total.detach() / n), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("way", ["packed", "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_packed_gradients_are_those_of_the_examples_apart(make, dtype, way):
    examples = make_examples()
    batch = collate(examples, BINS, pad_token_id=0)
    results = {}
    for kind in {dtype, torch.float64}:
        model = make(kind)
        labels = [torch.tensor([one.labels]) for one in examples]
        alone = [logits[None] for logits in logits_alone(model, examples)]
        results[kind] = gradients(model, list(zip(alone, labels, strict=True)))
    model = make(dtype)
    loss, ours = gradients(model, [(logits_of(model, batch, way), batch.labels)])
    (loss_alone, reference), (_, exact) = results[dtype], results[torch.float64]
    assert abs(loss - loss_alone) <= 16 * ROUNDOFF[dtype] * loss_alone  # 2 u was measured (BOUND-SELF)
    for name, gradient in ours.items():
        bound = tolerance(reference[name], exact[name], dtype)
        assert (gradient - reference[name]).abs().max() <= bound, name


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_no_gradient_crosses_a_boundary(make):
    examples = make_examples()
    model, batch = make(torch.float64), collate(examples, BINS, pad_token_id=0)
    model.set_attn_implementation(NAME)
    embeddings = model.get_input_embeddings()(batch.input_ids).detach().requires_grad_(True)
    inputs = {"position_ids": batch.position_ids, "segment_ids": batch.segment_ids, "use_cache": False}
    logits = model(inputs_embeds=embeddings, **inputs).logits
    for _, row, columns in places():
        (gradient,) = torch.autograd.grad(logits[row, columns].square().sum(), embeddings, retain_graph=True)
        assert (gradient[row, columns] != 0).any()
        gradient[row, columns] = 0
        assert (gradient == 0).all()


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("extra", [{}, {"attention_mask": torch.ones(3, 17)}], ids=["alone", "with-all-ones"])
def test_positions_alone_isolate_too(make, extra):
    model, batch = make(torch.float64), collate(make_examples(), BINS, pad_token_id=0, capacity=17)
    with torch.no_grad():
        told = logits_of(model, batch, "packed")
        inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
        found = model(**inputs, **extra, use_cache=False).logits
    for _, row, columns in places():
        difference = (found[row, columns] - told[row, columns]).abs().max()
        assert difference <= tolerance(told, told, torch.float64)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_padded_rows_need_no_mask(make):
    examples = make_examples()
    model, batch = make(torch.float64), collate(examples, pad_token_id=0)
    with torch.no_grad():
        alone = logits_alone(model, examples)
        together = logits_of(model, batch, "packed")
    bound = tolerance(torch.cat(alone), torch.cat(alone), torch.float64)
    for index, logits in enumerate(alone):
        assert (together[index, : LENGTHS[index]] - logits).abs().max() <= bound


def attention_by_hand(query, key, value, segments, scale):
    """softmax over the allowed positions, one query at a time."""
    rows, heads, columns, _ = query.shape
    shared = heads // key.shape[1]
    out = torch.zeros(rows, columns, heads, value.shape[-1], dtype=query.dtype)
    for b in range(rows):
        for h in range(heads):
            for i in range(columns):
                allowed = [j for j in range(i + 1) if segments[b][j] == segments[b][i]]
                scores = torch.stack([scale * (query[b, h, i] * key[b, h // shared, j]).sum() for j in allowed])
                weights = torch.softmax(scores, 0)
                out[b, i, h] = sum(w * value[b, h // shared, j] for w, j in zip(weights, allowed, strict=True))
    return out


LAYOUTS = {
    "equal": [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]],
    "ragged": [[0, 0, 1, 2, 2, 2], [0, 1, 1, 1, 1, -1]],
    "whole rows": [[0] * 6, [0] * 6],
    "single tokens": [[0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0]],
}


@pytest.mark.parametrize("segments", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (4, 1)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_is_the_formula(segments, heads, scale):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, h, 6, 8, generator=generator, dtype=torch.float64) for h in (heads[0], *heads[1:] * 2)
    )
    starts = segment_starts(2, 6, torch.tensor(segments), None)
    ours = segmented_attention(query, key, value, starts, scale)
    expected = attention_by_hand(query, key, value, segments, 8**-0.5 if scale is None else scale)
    score = 8 * query.abs().max() * key.abs().max() * (8**-0.5 if scale is None else scale)
    # As for the FlexAttention mask in test_collation.py: 8 products a score, at most 6 weights a mean, two programs
    assert (ours - expected).abs().max() <= 2 * value.abs().max() * 2.0**-53 * (2 * 10 * score + 2 * 6)


def test_the_derivative_is_that_of_the_formula():
    starts = segment_starts(2, 6, torch.tensor(LAYOUTS["ragged"]), None)
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(2, 2, 6, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *leaf: segmented_attention(*leaf, starts), leaves)


def test_dropout_reaches_the_weights_and_crosses_no_boundary():
    starts = segment_starts(1, 8, torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]]), None)
    query, key, value = (torch.randn(1, 2, 8, 4) for _ in range(3))
    changed = value.clone()
    changed[:, :, 5:] += 1
    outputs = []
    for inputs, dropout in ((value, 0.0), (value, 0.5), (changed, 0.5)):
        torch.manual_seed(3)
        outputs.append(segmented_attention(query, key, inputs, starts, dropout=dropout))
    assert not torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[1][:, :5], outputs[2][:, :5])


class Largest(TorchDispatchMode):
    """The largest number of elements of any tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for item in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(item, torch.Tensor):
                self.elements = max(self.elements, item.numel())
        return result


def test_nothing_of_size_t_by_t_is_made():
    columns, lengths = 512, [100, 60, 100, 200, 52]
    ids = torch.repeat_interleave(torch.arange(5), torch.tensor(lengths))[None]
    tensors = [torch.randn(1, 2, columns, 8, requires_grad=True) for _ in range(3)]
    with Largest() as largest:
        segmented_attention(*tensors, segment_starts(1, columns, ids, None)).sum().backward()
    assert largest.elements == 2 * columns * 8 < columns**2


REFUSED = {
    "a dense mask": ({"attention_mask": torch.ones(1, 1, 4, 4, dtype=torch.bool)}, "builds no mask and takes none"),
    "left padding": ({"attention_mask": torch.tensor([[0, 1, 1, 1]])}, "padding before tokens"),
    "segments of another shape": ({"segment_ids": torch.zeros(1, 3)}, r"\(1, 3\): want \(1, 4\)"),
    "segments without rows": ({"segment_ids": torch.zeros(4)}, r"\(4,\): want \(1, 4\)"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused(arguments, message):
    model = make_llama(torch.float32)
    model.set_attn_implementation(NAME)
    with pytest.raises(PackedAttentionError, match=message):
        model(input_ids=torch.tensor([[1, 2, 3, 4]]), **arguments)


def test_a_cache_is_refused():
    model = make_llama(torch.float32)
    model.set_attn_implementation(NAME)
    cache = model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    with pytest.raises(PackedAttentionError, match="1 queries and 4 keys"):
        model(input_ids=torch.tensor([[4]]), past_key_values=cache)


def test_a_model_that_is_not_causal_is_refused():
    model = make_llama(torch.float32)
    model.set_attn_implementation(NAME)
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(PackedAttentionError, match="not causal"):
        model(input_ids=torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize(("window", "refused"), [(3, True), (4, False), (None, False)])
def test_a_sliding_window_inside_the_row_is_refused(window, refused):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MistralConfig(vocab_size=VOCABULARY, num_key_value_heads=1, sliding_window=window, **sizes)
    model = MistralForCausalLM(config)
    model.set_attn_implementation(NAME)
    if not refused:
        model(input_ids=torch.tensor([[1, 2, 3, 4]]))
        return
    with pytest.raises(PackedAttentionError, match="sliding window"):
        model(input_ids=torch.tensor([[1, 2, 3, 4]]))
