"""Packs that lose examples, split them, or train from one to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sftspec.collation import Batch, collate
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import collated, prepared
from sftspec.packing import pack
from sftspec.step import IGNORE, StepReport, clip_gradients, sft_loss, sft_step
from sftspec.trainer import Pipeline


@killed_by("no-example-is-trained-to-predict-the-next the-first-label-of-a-segment-is-ignored")
@seen_in("huggingface/transformers#31629")
@effect("the end of an answer foretells an unrelated question", fix="ignore the first label of each segment")
def boundary_trained():
    """The last token of one example is trained to predict the first of the next."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        if bins is None:
            return batch
        first = (batch.position_ids == 0) & (batch.segment_ids > 0)
        return replace(batch, labels=torch.where(first, batch.input_ids, batch.labels))

    return Pipeline(collate=broken)


@killed_by("packed-examples-are-whole")
@seen_in("huggingface/trl#1850")
@effect("answers without their questions", fix="pack whole examples")
def examples_split():
    """Long examples are packed in two pieces."""
    return Splits()


@dataclass(frozen=True)
class Splits(Pipeline):
    def prepare(self, job):
        whole = super().prepare(job)
        if not job.packing:
            return whole
        return [
            replace(
                example, input_ids=example.input_ids[part], labels=example.labels[part], owners=example.owners[part]
            )
            for example in whole
            for part in ((slice(0, 60), slice(60, None)) if len(example) > 60 else (slice(None),))
        ]


@killed_by("no-row-exceeds-the-capacity no-fewer-packs-than-possible")
@seen_in("no report known: separators not counted")
@effect("tokens over the context are cut off in the kernel", fix="count every token")
def capacity_exceeded():
    """Packs are filled to one and a half times the capacity."""
    return Pipeline(pack=lambda lengths, capacity: pack(lengths, capacity + capacity // 2))


@killed_by("packing-packs packs-are-more-than-half-full")
@seen_in("unslothai/unsloth#7234")
@effect("the run costs what it would unpacked", fix="say that it is off")
def packing_switched_off():
    """Every example is a pack of its own."""
    return Pipeline(pack=lambda lengths, capacity: [[index] for index in range(len(lengths))])


@killed_by("masking/every-conversation-with-a-target-is-trained every-example-is-packed-once-and-whole")
@seen_in("huggingface/trl#1850")
@effect("part of the data is never seen", fix="keep the last pack")
def last_pack_dropped():
    """The last pack, which is not full, is dropped."""
    return Pipeline(pack=lambda lengths, capacity: list(pack(lengths, capacity))[:-1])


@killed_by("masking/everything-chosen-is-trained packing-keeps-the-number-of-targets row-k-holds-the-examples-of-bin-k")
@seen_in("transformers#31629, the fix done twice")
@effect("answers begin badly", fix="ignore the first label of a segment, and no more")
def two_labels_lost_at_each_boundary():
    """The first two labels of each packed example are ignored."""
    return collated(lambda batch: replace(batch, labels=batch.labels.masked_fill(batch.position_ids <= 1, IGNORE)))


@killed_by("step/the-denominator-is-the-number-of-targets")
@seen_in("unslothai/unsloth-zoo#1066")
@effect("the rate grows with the packs", fix="count what is scored, once")
def boundaries_subtracted_from_the_count():
    """The denominator of a packed step is less by one for every example, whose first label is ignored already."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        count = sum(batch.num_targets for batch in batches)
        segments = sum(len(batch.cu_seqlens) - 1 for batch in batches if batch.attention_mask is None)

        def less(logits, labels, num_targets=None, weights=None):
            return loss(logits, labels, max(1, count - segments), weights)

        return sft_step(model, batches, optimizer, max_grad_norm, less, clip)

    return Pipeline(step=step)


@killed_by("masking/every-conversation-with-a-target-is-trained")
@seen_in("NVIDIA/TransformerEngine#1930")
@effect("the end of rows is never learned", fix="pad up, never cut down")
def remainder_dropped():
    """Packed rows are cut to a multiple of 16 tokens."""

    def change(batch: Batch) -> Batch:
        width = max(16, batch.input_ids.shape[1] // 16 * 16)
        cut = {name: getattr(batch, name)[:, :width] for name in ("input_ids", "labels", "position_ids", "segment_ids")}
        return replace(batch, **cut)

    return collated(change)


@killed_by("masking/every-conversation-with-a-target-is-trained")
@seen_in("huggingface/trl#4554")
@effect("long answers are never learned", fix="count what is cut, or refuse it")
def half_of_long_examples_lost():
    """Packed examples over half the capacity lose what is beyond it, and nobody is told."""

    def halved(examples, job):
        end = job.max_length // 2 if job.packing else None
        return [
            replace(item, input_ids=item.input_ids[:end], labels=item.labels[:end], owners=item.owners[:end])
            for item in examples
        ]

    return prepared(halved)


@killed_by("masking/every-conversation-with-a-target-is-trained")
@seen_in("no report known: a pack filled up from its own examples")
@effect("some examples count twice", fix="fill with padding")
def packs_filled_with_repeats():
    """A pack with room left gets its shortest example once more."""

    def broken(lengths, capacity):
        bins = [list(items) for items in pack(lengths, capacity)]
        for items in bins:
            shortest = min(items, key=lengths.__getitem__)
            if sum(lengths[item] for item in items) + lengths[shortest] <= capacity:
                items.append(shortest)
        return bins

    def twice(examples, bins=None, *, pad_token_id) -> Batch:
        copies, rows = list(examples), None
        if bins is not None:
            rows = []
            for items in bins:
                seen: set[int] = set()
                row = []
                for item in items:
                    if item in seen:
                        copies.append(examples[item])
                        item = len(copies) - 1
                    seen.add(item)
                    row.append(item)
                rows.append(row)
        return collate(copies, rows, pad_token_id=pad_token_id)

    return Pipeline(pack=broken, collate=twice)


@killed_by("masking/padding-is-never-trained padding-has-no-label")
@seen_in("no report known: padding packed like an example")
@effect("learns to write padding", fix="padding has no label")
def padding_is_the_last_example():
    """Padding behind a packed row is taken for part of its last example, labels and all."""

    def change(batch: Batch) -> Batch:
        last = batch.segment_ids.max(1, keepdim=True).values.expand_as(batch.segment_ids)
        return replace(
            batch,
            labels=torch.where(batch.segment_ids < 0, batch.input_ids, batch.labels),
            segment_ids=torch.where(batch.segment_ids < 0, last, batch.segment_ids),
        )

    return collated(change)


@killed_by(
    "no-two-packs-fit-into-one packs-stay-within-eleven-ninths-of-the-optimum "
    "the-number-of-packs-does-not-depend-on-the-order"
)
@seen_in("huggingface/trl#3887")
@effect("rows are half padding", fix="search the space that is left, whatever the capacity")
def packs_half_as_large():
    """Packs are filled to half of the capacity, if all examples fit there: a search tree with too few leaves."""

    def broken(lengths, capacity):
        return pack(lengths, capacity if max(lengths, default=0) > capacity // 2 else capacity // 2)

    return Pipeline(pack=broken)


@killed_by("cu-seqlens-mark-the-end-of-each-segment")
@seen_in("no report known: cu_seqlens without the leading 0")
@effect("the first example is lost to varlen kernels", fix="begin with 0, end with the number of tokens")
def cu_seqlens_without_the_start():
    """cu_seqlens hold the ends of the segments only."""
    return collated(lambda batch: replace(batch, cu_seqlens=batch.cu_seqlens[1:]))


@killed_by("the-flex-mask-computes-every-block-it-needs the-flex-mask-allows-what-the-dense-mask-allows")
@seen_in("pytorch/pytorch#139462")
@effect("rows after the first are cut at the wrong places", fix="the mask function takes the row that it is given")
def flex_mask_of_the_first_row():
    """FlexAttention's mask looks up the segments of the first row for every row."""

    class FirstRow(Batch):
        def flex_mask(self):
            return replace(self, segment_ids=self.segment_ids[:1].expand_as(self.segment_ids)).dense_flex_mask()

        def dense_flex_mask(self):
            return Batch.flex_mask(self)

    return collated(lambda batch: FirstRow(**vars(batch)))
