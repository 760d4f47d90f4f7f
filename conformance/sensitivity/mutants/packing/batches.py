"""Batches that the collator makes wrong, in tensors that the reference's own step does not read."""

from __future__ import annotations

from dataclasses import replace

import torch

from sftspec.collation import Batch, collate
from sftspec.conformance.sensitivity.mutants import mutant
from sftspec.trainer import Pipeline


def batches_of(kind: type[Batch]) -> Pipeline:
    """The reference with another class of batch."""
    return Pipeline(collate=lambda *arguments, **options: kind(**vars(collate(*arguments, **options))))


@mutant("a-batch-is-not-changed-by-the-next", "no report known: a pinned buffer that is used again",
        "trains other batches' tokens", "a tensor of its own for each batch")  # fmt: skip
def one_buffer_for_all_batches():
    """Batches of one shape share their input_ids: the last one made is in all."""
    kept: dict[tuple[int, ...], torch.Tensor] = {}

    def broken(*arguments, **options) -> Batch:
        batch = collate(*arguments, **options)
        buffer = kept.setdefault(tuple(batch.input_ids.shape), batch.input_ids)
        buffer.copy_(batch.input_ids)
        return replace(batch, input_ids=buffer)

    return Pipeline(collate=broken)


@mutant("collating-changes-no-example", "no report known: a collator that works in place",
        "loses a target in every epoch", "copy before changing")  # fmt: skip
def first_labels_ignored_in_place():
    """The first label of an example is ignored in the example, not in the batch alone."""

    def broken(examples, *arguments, **options) -> Batch:
        batch = collate(examples, *arguments, **options)
        for example in examples:
            example.labels[:1] = [-100]
        return batch

    return Pipeline(collate=broken)


@mutant("ids-and-labels-are-int64", "no report known: columns kept in 32 bits",
        "stops with an error, or wraps a large vocabulary", "torch.long, whatever the column holds")  # fmt: skip
def batches_in_32_bits():
    """input_ids and labels are int32."""

    def broken(*arguments, **options) -> Batch:
        batch = collate(*arguments, **options)
        return replace(batch, input_ids=batch.input_ids.int(), labels=batch.labels.int())

    return Pipeline(collate=broken)


@mutant("cu-seqlens-are-int32", "no report known: torch.cumsum, which gives int64",
        "the kernel reads every second boundary as 0", "cumsum(dtype=torch.int32)")  # fmt: skip
def cu_seqlens_in_64_bits():
    """cu_seqlens are int64."""

    def broken(*arguments, **options) -> Batch:
        batch = collate(*arguments, **options)
        return replace(batch, cu_seqlens=batch.cu_seqlens.long())

    return Pipeline(collate=broken)


@mutant("max-seqlen-is-the-longest-segment", "no report known: max_seqlen taken for the width of a row",
        "pays for a row a segment", "the longest segment")  # fmt: skip
def max_seqlen_is_the_width():
    """max_seqlen is the number of columns."""

    class Wide(Batch):
        @property
        def max_seqlen(self) -> int:
            return self.input_ids.shape[1]

    return batches_of(Wide)


@mutant("no-row-of-the-mask-is-empty", "no report known: padding masked as query as well as key",
        "NaN in every padded row", "let padding attend to itself")  # fmt: skip
def padding_attends_to_nothing():
    """In the dense mask the rows of padding are empty."""

    class Empty(Batch):
        def dense_mask(self):
            return super().dense_mask() & (self.segment_ids >= 0)[:, None, :, None]

    return batches_of(Empty)


@mutant("no-token-attends-to-padding", "no report known: a mask of segments that forgets the pads",
        "reads pads as context", "padding is a segment of its own")  # fmt: skip
def padding_attended_in_the_dense_mask():
    """In the dense mask every position attends to padding."""

    class Seen(Batch):
        def dense_mask(self):
            return super().dense_mask() | (self.segment_ids < 0)[:, None, None, :]

    return batches_of(Seen)


@mutant("every-row-is-padded-to-the-capacity", "no report known: a capacity that is checked and not used",
        "recompiles for every batch", "pad to the capacity")  # fmt: skip
def rows_padded_to_the_longest():
    """Where a capacity is given, rows are padded to the longest of them."""

    def broken(examples, bins=None, *, pad_token_id, capacity=None) -> Batch:
        collate(examples, bins, pad_token_id=pad_token_id, capacity=capacity)  # it refuses what is too long
        return collate(examples, bins, pad_token_id=pad_token_id)

    return Pipeline(collate=broken)


@mutant("bins-that-do-not-fit-the-examples-are-refused", "no report known: Python's own index of -1",
        "learns the last example twice", "refuse an index outside the examples")  # fmt: skip
def indices_counted_from_the_end():
    """An index outside the examples counts from their other end."""

    def broken(examples, bins=None, **options) -> Batch:
        known = bins and [[index % len(examples) for index in row] for row in bins]
        return collate(examples, known, **options)

    return Pipeline(collate=broken)
