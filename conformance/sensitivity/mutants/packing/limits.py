"""Packers and collators that go on with what they cannot hold, or with what they held before."""

from __future__ import annotations

import itertools
from dataclasses import replace

from sftspec.collation import Batch, collate
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import additive, causal, collated, with_inputs
from sftspec.packing import pack
from sftspec.properties.packing.collator import Example
from sftspec.step import IGNORE
from sftspec.trainer import Pipeline


@killed_by("no-pack-exceeds-its-capacity")
@seen_in("no report known: packs cached by the histogram of lengths")
@effect("a shuffled epoch is cut off", fix="key a cache by the lengths in their order")
def packs_kept_for_the_same_lengths():
    """Lengths in another order get the packs of the first order."""
    kept: dict[tuple, list[list[int]]] = {}

    def broken(lengths, capacity):
        return kept.setdefault((*sorted(lengths), capacity), list(pack(lengths, capacity)))

    return Pipeline(pack=broken)


@killed_by("an-overlong-example-is-refused-or-declared")
@seen_in("subtle form of huggingface/trl#4554")
@effect("long answers are never learned", fix="look at every length")
def last_length_alone_checked():
    """An example over the capacity is refused where it is the last one, and cut in silence elsewhere."""

    def broken(lengths, capacity):
        if len(lengths) and lengths[-1] > capacity:
            raise ValueError(f"the last example has {lengths[-1]} tokens, the capacity is {capacity}")
        return pack([min(length, capacity) for length in lengths], capacity)

    return Pipeline(pack=broken)


@killed_by("a-length-that-is-no-positive-integer-is-refused")
@seen_in("no report known: empty examples filtered by the packer")
@effect("nobody knows what was lost", fix="refuse what is no length, or count it")
def empty_examples_left_out():
    """Examples of length 0 are in no pack, and nobody is told."""

    def broken(lengths, capacity):
        kept = [index for index, length in enumerate(lengths) if length]
        return [[kept[index] for index in items] for items in pack([lengths[index] for index in kept], capacity)]

    return Pipeline(pack=broken)


@killed_by("a-capacity-below-one-is-refused")
@seen_in("no report known: a capacity computed from a setting that is missing")
@effect("pays for a row at every example", fix="refuse a capacity that holds nothing")
def capacity_of_nothing_taken():
    """With a capacity below 1 every example has a pack of its own."""

    def broken(lengths, capacity):
        return pack(lengths, capacity) if capacity > 0 else [[index] for index in range(len(lengths))]

    return Pipeline(pack=broken)


@killed_by("packing-changes-no-length")
@seen_in("hiyouga/LLaMA-Factory, its greedy knapsack")
@effect("lengths no longer belong to their examples", fix="sort a copy")
def lengths_sorted_in_place():
    """The packer sorts the lengths that it is given, after it has packed them."""

    def broken(lengths, capacity):
        packs = [list(one) for one in pack(lengths, capacity)]
        lengths.sort()
        return packs

    return Pipeline(pack=broken)


@killed_by("the-same-lengths-give-the-same-packs")
@seen_in("no report known: packs shuffled without a seed")
@effect("cannot be resumed or repeated", fix="shuffle with the seed of the job")
def packs_turned_with_every_call():
    """Each call of the packer begins with another pack."""
    calls = itertools.count()

    def broken(lengths, capacity):
        packs = [list(one) for one in pack(lengths, capacity)]
        turn = next(calls) % max(1, len(packs))
        return packs[turn:] + packs[:turn]

    return Pipeline(pack=broken)


@killed_by("no-two-packs-fit-into-one")
@seen_in("no report known: a limit on the examples of a pack")
@effect("short examples leave packs half empty", fix="the capacity is the only limit")
def sixteen_examples_at_most():
    """At most sixteen examples go into a pack, however short they are."""

    def broken(lengths, capacity):
        return [items[start : start + 16] for items in pack(lengths, capacity) for start in range(0, len(items), 16)]

    return Pipeline(pack=broken)


@killed_by("a-row-over-the-capacity-is-refused")
@seen_in("subtle form of huggingface/trl#4554")
@effect("the end of full rows is never learned", fix="refuse a row that is too long")
def rows_cut_to_the_capacity():
    """A row over the capacity is cut to it, and nobody is told."""

    def broken(examples, bins=None, *, pad_token_id, capacity=None) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        if capacity is None or batch.input_ids.shape[1] <= capacity:
            return collate(examples, bins, pad_token_id=pad_token_id, capacity=capacity)
        names = ("input_ids", "labels", "position_ids", "segment_ids")
        return replace(batch, **{name: getattr(batch, name)[:, :capacity] for name in names})

    return Pipeline(collate=broken)


@killed_by("padding-to-the-capacity-adds-nothing")
@seen_in("no report known: cu_seqlens made from the width of the rows")
@effect("the last example attends to padding", fix="end with the number of tokens")
def capacity_counted_in_cu_seqlens():
    """Where a capacity is given, the padding of the last row is counted with its last segment."""

    def broken(examples, bins=None, *, pad_token_id, capacity=None) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id, capacity=capacity)
        if capacity is not None:
            batch.cu_seqlens[-1] += int((batch.segment_ids[-1] < 0).sum())
        return batch

    return Pipeline(collate=broken)


@killed_by("labels-that-are-not-the-ids-are-refused")
@seen_in("no report known: labels shifted by the data set and by the loss")
@effect("learns to skip a token", fix="refuse a label that is neither its id nor -100")
def shifted_labels_taken():
    """A label that is another token than the id in its place is taken as a sign that the place is trained."""

    def aligned(example) -> Example:
        pairs = zip(example.input_ids, example.labels, strict=True)
        return Example(list(example.input_ids), [IGNORE if label == IGNORE else token for token, label in pairs])

    def broken(examples, bins=None, **options) -> Batch:
        return collate([aligned(example) for example in examples], bins, **options)

    return Pipeline(collate=broken)


@killed_by("the-flex-mask-computes-every-block-it-needs")
@seen_in("no report known: block masks built for one block")
@effect("long examples forget their beginning", fix="compute every block that holds an allowed pair")
def blocks_of_the_diagonal():
    """FlexAttention computes only the blocks of 128 positions on the diagonal."""

    class Diagonal(Batch):
        def flex_mask(self):
            width = self.input_ids.shape[1]
            blocks = self.position_ids.new_ones(width).cumsum(0) - 1
            inside = Batch.flex_mask(replace(self, segment_ids=self.segment_ids * width + blocks // 128))
            inside.mask_mod = Batch.flex_mask(self).mask_mod
            return inside

    return collated(lambda batch: Diagonal(**vars(batch)))


@killed_by("examples-do-not-see-each-other")
@seen_in("no report known: transformers' masks leave out what is all ones; variant")
@effect("examples learn from their neighbours", fix="a row without padding still has segments")
def mask_left_out_without_padding():
    """Several packed rows that need no padding get a plain causal mask."""

    def inputs(batch):
        full = len(batch.input_ids) > 1 and bool((batch.segment_ids >= 0).all())
        allowed = causal(batch) if full else batch.dense_mask()
        return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": additive(allowed)}

    return with_inputs(inputs)
