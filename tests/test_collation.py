"""The collator by hand, its errors, and collators that are broken."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from sftspec.collation import CollationError, collate
from sftspec.conformance.trial.judge import judge
from sftspec.properties.packing.collator import Example
from sftspec.trainer import Pipeline
from tests.seam_verdict import properties_of

PROPERTIES = {item.id.split("/")[1]: item for item in properties_of("packing", "collate")}
THREE = [Example([5, 6, 7], [5, 6, 7]), Example([1, 2], [-100, 2]), Example([9], [9])]


def test_packed_rows_by_hand():
    batch = collate(THREE, [[0, 2], [1]], pad_token_id=7, capacity=5)
    assert batch.input_ids.tolist() == [[5, 6, 7, 9, 7], [1, 2, 7, 7, 7]]
    assert batch.labels.tolist() == [[-100, 6, 7, -100, -100], [-100, 2, -100, -100, -100]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 0], [0, 1, 0, 0, 0]]
    assert batch.segment_ids.tolist() == [[0, 0, 0, 1, -1], [0, 0, -1, -1, -1]]
    assert batch.cu_seqlens.tolist() == [0, 3, 4, 6] and batch.cu_seqlens.dtype == torch.int32
    assert batch.max_seqlen == 3 and batch.num_targets == 3 and batch.attention_mask is None
    assert batch.dense_mask().shape == (2, 1, 5, 5) and batch.dense_mask().dtype == torch.bool
    assert batch.dense_mask()[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert set(batch.model_inputs()) == {"input_ids", "position_ids", "segment_ids"}


def test_without_bins_every_example_is_a_row_with_an_attention_mask():
    batch = collate(THREE, pad_token_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7], [1, 2, 0], [9, 0, 0]]
    assert batch.labels.tolist() == [[-100, 6, 7], [-100, 2, -100], [-100, -100, -100]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert batch.cu_seqlens.tolist() == [0, 3, 5, 6]
    assert set(batch.model_inputs()) == {"input_ids", "attention_mask"}


def test_cu_seqlens_cut_the_stream_of_tokens_into_examples():
    batch = collate(THREE, [[2, 0], [1]], pad_token_id=0)
    stream = batch.input_ids[batch.segment_ids >= 0]
    pieces = stream.tensor_split(batch.cu_seqlens[1:-1].long())
    assert [piece.tolist() for piece in pieces] == [[9], [5, 6, 7], [1, 2]]


def test_tensors_are_collated_as_lists_are():
    tensors = [Example(torch.tensor(one.input_ids), torch.tensor(one.labels, dtype=torch.int32)) for one in THREE]
    ours, lists = collate(tensors, [[0, 2], [1]], pad_token_id=0), collate(THREE, [[0, 2], [1]], pad_token_id=0)
    for name in ("input_ids", "labels", "position_ids", "segment_ids"):
        assert torch.equal(getattr(ours, name), getattr(lists, name))
        assert getattr(ours, name).dtype == torch.int64


def test_some_of_the_examples_make_a_batch():
    assert collate(THREE, [[1]], pad_token_id=0).input_ids.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("examples", "bins", "options", "message"),
    [
        (THREE, None, {"pad_token_id": None}, "pad_token_id is None"),
        ([], None, {}, "no examples"),
        (THREE, [], {}, "no examples"),
        (THREE, [[0], []], {}, "bin 1 is empty"),
        (THREE, [[0], [3]], {}, "index 3, of 3 examples"),
        (THREE, [[0], [-1]], {}, "index -1"),
        (THREE, [[0, 1], [1]], {}, "example 1 stands 2 times"),
        (THREE, [[1], [0, 2]], {"capacity": 3}, "row 1 holds 4 tokens, the capacity is 3"),
        ([*THREE, Example([], [])], None, {}, "example 3 has no tokens"),
        ([Example([1, 2], [1])], None, {}, r"example 0: input_ids \(2,\) and labels \(1,\)"),
        ([Example([[1, 2]], [[1, 2]])], None, {}, r"input_ids \(1, 2\)"),
        ([Example([1.5], [1.5])], None, {}, "integers, not torch.float32"),
        ([THREE[0], Example([1, 2, 3], [2, 3, -100])], None, {}, "example 1, position 0: label 2 is neither the id 1"),
    ],
)
def test_bad_input_is_named(examples, bins, options, message):
    with pytest.raises(CollationError, match=message):
        collate(examples, bins, **{"pad_token_id": 0} | options)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_computes_what_the_dense_mask_says():
    generator = torch.Generator().manual_seed(0)
    lengths = [150, 60, 40, 130, 127, 1]
    examples = [Example(ids, ids) for ids in (list(range(1, length + 1)) for length in lengths)]
    batch = collate(examples, [[0, 1, 2], [5, 3, 4]], pad_token_id=0, capacity=300)
    query, key, value = (torch.randn(2, 2, 300, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    flex = flex_attention(query, key, value, block_mask=batch.flex_mask())
    dense = scaled_dot_product_attention(query, key, value, attn_mask=batch.dense_mask())
    # A score is a sum of 8 products, off by (8 + 2) u of its largest size; a weight is off by twice that and by the sum
    # over 150 of them (BOUND-SELF); an output is a mean of values with such weights. Two programs, so twice.
    score = 8 * query.abs().max() * key.abs().max() * 8**-0.5
    bound = 2 * value.abs().max() * 2.0**-53 * (2 * 10 * score + 2 * 150)
    assert (flex - dense).abs().max() <= bound


@pytest.mark.parametrize("name", PROPERTIES)
def test_the_property_holds_for_the_reference(name):
    verdict = judge(PROPERTIES[name], Pipeline(collate=collate), [], max_examples=200)
    assert verdict.status == "pass", (verdict.counterexample, verdict.reason)


def test_a_collator_without_a_capacity_is_not_asked_for_one():
    def plain(examples, bins=None, *, pad_token_id):
        return collate(examples, bins, pad_token_id=pad_token_id)

    verdicts = {name: judge(item, Pipeline(collate=plain), []).status for name, item in PROPERTIES.items()}
    asked = ("every-row-is-padded-to-the-capacity", "padding-to-the-capacity-adds-nothing",
             "a-row-over-the-capacity-is-refused")  # fmt: skip
    assert {verdicts.pop(name) for name in asked} == {"not-measured"}
    assert set(verdicts.values()) == {"pass"}
