"""Packers and collators that go on with what they cannot hold, or with what they held before."""

from __future__ import annotations

import itertools
from dataclasses import replace

from sftspec.collation import Batch, collate
from sftspec.conformance.sensitivity.mutants import mutant
from sftspec.conformance.sensitivity.mutants.breaking import additive, causal, collated, with_inputs
from sftspec.packing import pack
from sftspec.properties.packing.collator import Example
from sftspec.step import IGNORE
from sftspec.trainer import Pipeline


@mutant("no-pack-exceeds-its-capacity", "no report known: packs cached by the histogram of lengths",
        "a shuffled epoch is cut off", "key a cache by the lengths in their order")  # fmt: skip
def packs_kept_for_the_same_lengths():
    """Lengths in another order get the packs of the first order."""
    kept: dict[tuple, list[list[int]]] = {}

    def broken(lengths, capacity):
        return kept.setdefault((*sorted(lengths), capacity), list(pack(lengths, capacity)))

    return Pipeline(pack=broken)


@mutant("an-overlong-example-is-refused-or-declared", "subtle form of huggingface/trl#4554",
        "long answers are never learned", "look at every length")  # fmt: skip
def last_length_alone_checked():
    """An example over the capacity is refused where it is the last one, and cut in silence elsewhere."""

    def broken(lengths, capacity):
        if len(lengths) and lengths[-1] > capacity:
            raise ValueError(f"the last example has {lengths[-1]} tokens, the capacity is {capacity}")
        return pack([min(length, capacity) for length in lengths], capacity)

    return Pipeline(pack=broken)


@mutant("a-length-that-is-no-positive-integer-is-refused", "no report known: empty examples filtered by the packer",
        "nobody knows what was lost", "refuse what is no length, or count it")  # fmt: skip
def empty_examples_left_out():
    """Examples of length 0 are in no pack, and nobody is told."""

    def broken(lengths, capacity):
        kept = [index for index, length in enumerate(lengths) if length]
        return [[kept[index] for index in items] for items in pack([lengths[index] for index in kept], capacity)]

    return Pipeline(pack=broken)


@mutant("a-capacity-below-one-is-refused", "no report known: a capacity computed from a setting that is missing",
        "pays for a row at every example", "refuse a capacity that holds nothing")  # fmt: skip
def capacity_of_nothing_taken():
    """With a capacity below 1 every example has a pack of its own."""

    def broken(lengths, capacity):
        return pack(lengths, capacity) if capacity > 0 else [[index] for index in range(len(lengths))]

    return Pipeline(pack=broken)


@mutant("packing-changes-no-length", "hiyouga/LLaMA-Factory, its greedy knapsack",
        "lengths no longer belong to their examples", "sort a copy")  # fmt: skip
def lengths_sorted_in_place():
    """The packer sorts the lengths that it is given, after it has packed them."""

    def broken(lengths, capacity):
        packs = [list(one) for one in pack(lengths, capacity)]
        lengths.sort()
        return packs

    return Pipeline(pack=broken)


@mutant("the-same-lengths-give-the-same-packs", "no report known: packs shuffled without a seed",
        "cannot be resumed or repeated", "shuffle with the seed of the job")  # fmt: skip
def packs_turned_with_every_call():
    """Each call of the packer begins with another pack."""
    calls = itertools.count()

    def broken(lengths, capacity):
        packs = [list(one) for one in pack(lengths, capacity)]
        turn = next(calls) % max(1, len(packs))
        return packs[turn:] + packs[:turn]

    return Pipeline(pack=broken)


@mutant("no-two-packs-fit-into-one", "no report known: a limit on the examples of a pack",
        "short examples leave packs half empty", "the capacity is the only limit")  # fmt: skip
def sixteen_examples_at_most():
    """At most sixteen examples go into a pack, however short they are."""

    def broken(lengths, capacity):
        return [items[start : start + 16] for items in pack(lengths, capacity) for start in range(0, len(items), 16)]

    return Pipeline(pack=broken)


@mutant("a-row-over-the-capacity-is-refused", "subtle form of huggingface/trl#4554",
        "the end of full rows is never learned", "refuse a row that is too long")  # fmt: skip
def rows_cut_to_the_capacity():
    """A row over the capacity is cut to it, and nobody is told."""

    def broken(examples, bins=None, *, pad_token_id, capacity=None) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        if capacity is None or batch.input_ids.shape[1] <= capacity:
            return collate(examples, bins, pad_token_id=pad_token_id, capacity=capacity)
        names = ("input_ids", "labels", "position_ids", "segment_ids")
        return replace(batch, **{name: getattr(batch, name)[:, :capacity] for name in names})

    return Pipeline(collate=broken)


@mutant("padding-to-the-capacity-adds-nothing", "no report known: cu_seqlens made from the width of the rows",
        "the last example attends to padding", "end with the number of tokens")  # fmt: skip
def capacity_counted_in_cu_seqlens():
    """Where a capacity is given, the padding of the last row is counted with its last segment."""

    def broken(examples, bins=None, *, pad_token_id, capacity=None) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id, capacity=capacity)
        if capacity is not None:
            batch.cu_seqlens[-1] += int((batch.segment_ids[-1] < 0).sum())
        return batch

    return Pipeline(collate=broken)


@mutant("labels-that-are-not-the-ids-are-refused", "no report known: labels shifted by the data set and by the loss",
        "learns to skip a token", "refuse a label that is neither its id nor -100")  # fmt: skip
def shifted_labels_taken():
    """A label that is another token than the id in its place is taken as a sign that the place is trained."""

    def aligned(example) -> Example:
        pairs = zip(example.input_ids, example.labels, strict=True)
        return Example(list(example.input_ids), [IGNORE if label == IGNORE else token for token, label in pairs])

    def broken(examples, bins=None, **options) -> Batch:
        return collate([aligned(example) for example in examples], bins, **options)

    return Pipeline(collate=broken)


@mutant("the-flex-mask-computes-every-block-it-needs", "no report known: block masks built for one block",
        "long examples forget their beginning", "compute every block that holds an allowed pair")  # fmt: skip
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


@mutant("examples-do-not-see-each-other", "no report known: transformers' masks leave out what is all ones; variant",
        "examples learn from their neighbours", "a row without padding still has segments")  # fmt: skip
def mask_left_out_without_padding():
    """Several packed rows that need no padding get a plain causal mask."""

    def inputs(batch):
        full = len(batch.input_ids) > 1 and bool((batch.segment_ids >= 0).all())
        allowed = causal(batch) if full else batch.dense_mask()
        return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": additive(allowed)}

    return with_inputs(inputs)
