"""Packs that lose examples, split them, or train from one to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sftspec.collation import Batch, collate
from sftspec.conformance.mutants import mutant
from sftspec.packing import pack
from sftspec.trainer import Pipeline


@mutant("no-example-is-trained-to-predict-the-next", "huggingface/transformers#31629",
        "the end of an answer foretells an unrelated question", "ignore the first label of each segment")  # fmt: skip
def boundary_trained():
    """The last token of one example is trained to predict the first of the next."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        if bins is None:
            return batch
        first = (batch.position_ids == 0) & (batch.segment_ids > 0)
        return replace(batch, labels=torch.where(first, batch.input_ids, batch.labels))

    return Pipeline(collate=broken)


@mutant("packed-examples-are-whole", "huggingface/trl#1850", "answers without their questions", "pack whole examples")
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


@mutant("no-row-exceeds-the-capacity", "separators not counted", "tokens over the context are cut off in the kernel",
        "count every token")  # fmt: skip
def capacity_exceeded():
    """Packs are filled to one and a half times the capacity."""
    return Pipeline(pack=lambda lengths, capacity: pack(lengths, capacity + capacity // 2))


@mutant("packing-packs", "unslothai/unsloth#7234", "the run costs what it would unpacked", "say that it is off")
def packing_switched_off():
    """Every example is a pack of its own."""
    return Pipeline(pack=lambda lengths, capacity: [[index] for index in range(len(lengths))])


@mutant("masking/every-conversation-with-a-target-is-trained", "huggingface/trl#1850", "part of the data is never seen",
        "keep the last pack")  # fmt: skip
def last_pack_dropped():
    """The last pack, which is not full, is dropped."""
    return Pipeline(pack=lambda lengths, capacity: list(pack(lengths, capacity))[:-1])
