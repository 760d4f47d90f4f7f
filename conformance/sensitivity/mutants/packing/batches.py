"""Batches that the collator makes wrong, in tensors that the reference's own step does not read."""

from __future__ import annotations

from dataclasses import replace

import torch

from sftspec.collation import Batch, collate
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.trainer import Pipeline


def batches_of(kind: type[Batch]) -> Pipeline:
    """The reference with another class of batch."""
    return Pipeline(collate=lambda *arguments, **options: kind(**vars(collate(*arguments, **options))))


@killed_by("a-batch-is-not-changed-by-the-next")
@seen_in("no report known: a pinned buffer that is used again")
@effect("trains other batches' tokens", fix="a tensor of its own for each batch")
def one_buffer_for_all_batches():
    """Batches of one shape share their input_ids: the last one made is in all."""
    kept: dict[tuple[int, ...], torch.Tensor] = {}

    def broken(*arguments, **options) -> Batch:
        batch = collate(*arguments, **options)
        buffer = kept.setdefault(tuple(batch.input_ids.shape), batch.input_ids)
        buffer.copy_(batch.input_ids)
        return replace(batch, input_ids=buffer)

    return Pipeline(collate=broken)


@killed_by("collating-changes-no-example")
@seen_in("no report known: a collator that works in place")
@effect("loses a target in every epoch", fix="copy before changing")
def first_labels_ignored_in_place():
    """The first label of an example is ignored in the example, not in the batch alone."""

    def broken(examples, *arguments, **options) -> Batch:
        batch = collate(examples, *arguments, **options)
        for example in examples:
            example.labels[:1] = [-100]
        return batch

    return Pipeline(collate=broken)


@killed_by("ids-and-labels-are-int64")
@seen_in("no report known: columns kept in 32 bits")
@effect("stops with an error, or wraps a large vocabulary", fix="torch.long, whatever the column holds")
def batches_in_32_bits():
    """input_ids and labels are int32."""

    def broken(*arguments, **options) -> Batch:
        batch = collate(*arguments, **options)
        return replace(batch, input_ids=batch.input_ids.int(), labels=batch.labels.int())

    return Pipeline(collate=broken)


@killed_by("cu-seqlens-are-int32")
@seen_in("no report known: torch.cumsum, which gives int64")
@effect("the kernel reads every second boundary as 0", fix="cumsum(dtype=torch.int32)")
def cu_seqlens_in_64_bits():
    """cu_seqlens are int64."""

    def broken(*arguments, **options) -> Batch:
        batch = collate(*arguments, **options)
        return replace(batch, cu_seqlens=batch.cu_seqlens.long())

    return Pipeline(collate=broken)


@killed_by("max-seqlen-is-the-longest-segment")
@seen_in("no report known: max_seqlen taken for the width of a row")
@effect("pays for a row a segment", fix="the longest segment")
def max_seqlen_is_the_width():
    """max_seqlen is the number of columns."""

    def broken(*arguments, **options) -> Batch:
        batch = collate(*arguments, **options)
        return replace(batch, max_seqlen=batch.input_ids.shape[1])

    return Pipeline(collate=broken)


@killed_by("no-row-of-the-mask-is-empty")
@seen_in("no report known: padding masked as query as well as key")
@effect("NaN in every padded row", fix="let padding attend to itself")
def padding_attends_to_nothing():
    """In the dense mask the rows of padding are empty."""

    class Empty(Batch):
        def dense_mask(self):
            return super().dense_mask() & (self.segment_ids >= 0)[:, None, :, None]

    return batches_of(Empty)


@killed_by("no-token-attends-to-padding")
@seen_in("no report known: a mask of segments that forgets the pads")
@effect("reads pads as context", fix="padding is a segment of its own")
def padding_attended_in_the_dense_mask():
    """In the dense mask every position attends to padding."""

    class Seen(Batch):
        def dense_mask(self):
            return super().dense_mask() | (self.segment_ids < 0)[:, None, None, :]

    return batches_of(Seen)


@killed_by("every-row-is-padded-to-the-capacity")
@seen_in("no report known: a capacity that is checked and not used")
@effect("recompiles for every batch", fix="pad to the capacity")
def rows_padded_to_the_longest():
    """Where a capacity is given, rows are padded to the longest of them."""

    def broken(examples, bins=None, *, pad_token_id, capacity=None) -> Batch:
        collate(examples, bins, pad_token_id=pad_token_id, capacity=capacity)  # it refuses what is too long
        return collate(examples, bins, pad_token_id=pad_token_id)

    return Pipeline(collate=broken)


@killed_by("bins-that-do-not-fit-the-examples-are-refused")
@seen_in("no report known: Python's own index of -1")
@effect("learns the last example twice", fix="refuse an index outside the examples")
def indices_counted_from_the_end():
    """An index outside the examples counts from their other end."""

    def broken(examples, bins=None, **options) -> Batch:
        known = bins and [[index % len(examples) for index in row] for row in bins]
        return collate(examples, known, **options)

    return Pipeline(collate=broken)


@killed_by("row-k-holds-the-examples-of-bin-k")
@seen_in("subtle form of packing/indices-counted-from-the-end: packs that are filled from their end")
@effect("weights and sources that are kept by place go to other examples", fix="keep the order of the bin")
def examples_of_a_row_turned_around():
    """The examples of a bin stand in its row in reverse order."""

    def broken(examples, bins=None, **options) -> Batch:
        return collate(examples, bins if bins is None else [one[::-1] for one in bins], **options)

    return Pipeline(collate=broken)


@killed_by("a-position-attends-to-its-segment-up-to-itself")
@seen_in("subtle form of packing/third-segment-leaks: segment ids kept in a byte to save memory")
@effect("in rows of many short examples two of them see each other", fix="int64, as every id")
def segments_counted_in_8_bits():
    """The 257th segment of a row has the number of the first."""

    def broken(*arguments, **options) -> Batch:
        batch = collate(*arguments, **options)
        return replace(batch, segment_ids=torch.where(batch.segment_ids < 0, -1, batch.segment_ids % 256))

    return Pipeline(collate=broken)


class StrictlyBefore(Batch):
    def dense_mask(self):
        return super().dense_mask().tril(-1)


@killed_by("a-position-attends-to-its-segment-up-to-itself")
@seen_in("subtle form of packing/attends-to-nothing: `tril(-1)` for `tril()`")
@effect("a token is predicted without the one before it", fix="the diagonal is allowed")
def mask_without_its_diagonal():
    """A position attends to those before it, and not to itself."""
    return batches_of(StrictlyBefore)
