"""The collator by hand, its errors, and collators that are broken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from sftspec.collation import Batch, CollationError, collate
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
        (THREE, [[0], [3]], {}, "index 3, and there are 3 examples"),
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


# Collators that are broken, each in one way


def counts_positions_across_the_pack(*arguments, **options):
    batch = collate(*arguments, **options)
    return replace(batch, position_ids=torch.arange(batch.input_ids.shape[1]).expand_as(batch.input_ids))


class PlainCausal(Batch):
    def dense_mask(self):
        return torch.ones_like(super().dense_mask()).tril()


class StrictlyBefore(Batch):
    def dense_mask(self):
        return super().dense_mask().tril(-1)


class Inverted(Batch):
    def dense_mask(self):
        return ~super().dense_mask()


class FirstRowForAll(Batch):
    def flex_mask(self):
        return Batch.flex_mask(replace(self, segment_ids=self.segment_ids[:1].expand_as(self.segment_ids)))


class BoundariesTwice(Batch):
    @property
    def num_targets(self):
        return super().num_targets - len(self.cu_seqlens) + 1


def masked_by(kind):
    def collator(*arguments, **options):
        return kind(**vars(collate(*arguments, **options)))

    collator.__name__ = kind.__name__
    return collator


def loses_a_separator(*arguments, **options):
    """The boundary after the first segment of a row is not found: two documents are one."""
    batch = collate(*arguments, **options)
    return replace(batch, segment_ids=torch.where(batch.segment_ids == 1, 0, batch.segment_ids))


def starts_segments_one_late(*arguments, **options):
    batch = collate(*arguments, **options)
    return replace(batch, cu_seqlens=batch.cu_seqlens + torch.tensor([0, *[1] * (len(batch.cu_seqlens) - 1)]))


def masks_rows_with_ones(*arguments, **options):
    batch = collate(*arguments, **options)
    return replace(batch, attention_mask=torch.ones_like(batch.input_ids))


def trains_across_boundaries(examples, bins, **options):
    batch = collate(examples, bins, **options)
    labels = batch.labels.clone()
    for row, indices in enumerate(bins):
        for index, start in zip(indices, (batch.position_ids[row] == 0).nonzero().flatten(), strict=False):
            labels[row, start] = examples[index].labels[0]
    return replace(batch, labels=labels)


def ignores_the_pad_id(*arguments, pad_token_id):
    batch = collate(*arguments, pad_token_id=pad_token_id)
    return replace(batch, labels=batch.labels.masked_fill(batch.input_ids == pad_token_id, -100))


def trains_on_padding(*arguments, pad_token_id):
    batch = collate(*arguments, pad_token_id=pad_token_id)
    return replace(batch, labels=torch.where(batch.segment_ids < 0, pad_token_id, batch.labels))


def drops_the_last_token(examples, bins, **options):
    return collate([Example(one.input_ids[:-1] or [0], one.labels[:-1] or [0]) for one in examples], bins, **options)


def cuts_at_the_capacity(examples, bins, *, pad_token_id, capacity=None):
    batch = collate(examples, bins, pad_token_id=pad_token_id)
    if capacity is None or batch.input_ids.shape[1] <= capacity:
        return collate(examples, bins, pad_token_id=pad_token_id, capacity=capacity)
    names = ("input_ids", "labels", "position_ids", "segment_ids")
    return replace(batch, **{name: getattr(batch, name)[:, :capacity] for name in names})


def takes_any_label(examples, bins, **options):
    aligned = [Example(ids, [token if label >= 0 else -100 for token, label in zip(ids, labels, strict=True)])
               for ids, labels in examples]  # fmt: skip
    return collate(aligned, bins, **options)


def counts_segments_in_8_bits(*arguments, **options):
    batch = collate(*arguments, **options)
    return replace(batch, segment_ids=torch.where(batch.segment_ids < 0, -1, batch.segment_ids % 256))


class BlocksOfTheDiagonal(Batch):
    def flex_mask(self):
        blocks = torch.arange(self.input_ids.shape[1]) // 128
        inside = Batch.flex_mask(replace(self, segment_ids=self.segment_ids * len(blocks) + blocks))
        inside.mask_mod = Batch.flex_mask(self).mask_mod
        return inside


def turns_rows_around(examples, bins, **options):
    return collate(examples, [one[::-1] for one in bins], **options)


DENSE = "a-position-attends-to-its-segment-up-to-itself"
FLEX = "the-flex-mask-allows-what-the-dense-mask-allows"
ROWS = "row-k-holds-the-examples-of-bin-k"
COUNT = "packing-keeps-the-number-of-targets"
BOUNDARIES = "cu-seqlens-mark-the-end-of-each-segment"
BROKEN = {
    counts_positions_across_the_pack: {"positions-restart-at-every-example"},
    masked_by(PlainCausal): {DENSE},
    masked_by(StrictlyBefore): {DENSE},
    masked_by(Inverted): {DENSE, "no-token-attends-to-padding"},
    masked_by(FirstRowForAll): {FLEX},
    masked_by(BoundariesTwice): {COUNT},
    loses_a_separator: {DENSE},
    starts_segments_one_late: {BOUNDARIES},
    masks_rows_with_ones: {"a-packed-batch-has-no-row-mask"},
    trains_across_boundaries: {"the-first-label-of-a-segment-is-ignored", COUNT},
    ignores_the_pad_id: {ROWS, COUNT},
    trains_on_padding: {"padding-has-no-label", COUNT},
    drops_the_last_token: {ROWS},
    turns_rows_around: {ROWS},
    counts_segments_in_8_bits: {DENSE},
    masked_by(BlocksOfTheDiagonal): {"the-flex-mask-computes-every-block-it-needs"},
    cuts_at_the_capacity: {"a-row-over-the-capacity-is-refused"},
    takes_any_label: {"labels-that-are-not-the-ids-are-refused"},
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_the_property_holds_for_the_reference(name):
    verdict = judge(PROPERTIES[name], Pipeline(collate=collate), [], max_examples=200)
    assert verdict.status == "pass", (verdict.counterexample, verdict.reason)


@pytest.mark.parametrize(
    ("collator", "name"), [(collator, name) for collator, names in BROKEN.items() for name in sorted(names)]
)
def test_the_property_fails_for_the_broken_collator(collator, name):
    verdict = judge(PROPERTIES[name], Pipeline(collate=collator), [])
    assert verdict.status == "fail" and not verdict.reason, verdict.reason  # by evidence, not by an exception


def test_a_collator_without_a_capacity_is_not_asked_for_one():
    def plain(examples, bins=None, *, pad_token_id):
        return collate(examples, bins, pad_token_id=pad_token_id)

    verdicts = {name: judge(item, Pipeline(collate=plain), []).status for name, item in PROPERTIES.items()}
    asked = ("every-row-is-padded-to-the-capacity", "padding-to-the-capacity-adds-nothing",
             "a-row-over-the-capacity-is-refused")  # fmt: skip
    assert {verdicts.pop(name) for name in asked} == {"not-measured"}
    assert set(verdicts.values()) == {"pass"}
