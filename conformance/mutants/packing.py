"""Packs that let examples see each other, or lose them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from sftspec.collation import Batch, collate
from sftspec.conformance.mutants import mutant
from sftspec.packing import pack
from sftspec.trainer import Pipeline


@dataclass(frozen=True, eq=False)
class OtherInputs(Batch):
    """A batch that hands the model other arguments."""

    make_inputs: Callable[[Batch], dict] | None = None

    def model_inputs(self) -> dict[str, Tensor]:
        assert self.make_inputs is not None
        return self.make_inputs(self)


def with_inputs(make_inputs: Callable[[Batch], dict], packed_only: bool = True) -> Pipeline:
    """The reference with other arguments to the model: make_inputs(batch)."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        if packed_only and bins is None:
            return batch
        return OtherInputs(**{item.name: getattr(batch, item.name) for item in fields(Batch)}, make_inputs=make_inputs)

    return AnyAttention(collate=broken)


class AnyAttention(Pipeline):
    """Packed rows run on the model's own attention, as trainers without a packed one do."""

    def train(self, job) -> None:
        chosen = job.model.config._attn_implementation
        job.model.set_attn_implementation = lambda name: None
        job.model.config._attn_implementation = chosen
        super().train(job)


def additive(allowed: Tensor) -> Tensor:
    """A (B, 1, T, T) bool mask as the float mask that every attention of transformers takes."""
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


def causal(batch: Batch) -> Tensor:
    rows, columns = batch.input_ids.shape
    return torch.ones(rows, 1, columns, columns, dtype=torch.bool).tril()


@mutant("examples-do-not-see-each-other hidden-states-equal-those-alone", "huggingface/trl#1230",
        "context is contaminated; training loss flatters", "block-diagonal attention")  # fmt: skip
def plain_causal_attention():
    """Packed examples attend to everything before them in the row."""
    return with_inputs(lambda batch: {
        "input_ids": batch.input_ids, "position_ids": batch.position_ids,
        "attention_mask": torch.ones_like(batch.input_ids),
    })  # fmt: skip


@mutant("examples-do-not-see-each-other", "fla-org/flash-linear-attention#1088", "contaminated in crowded packs only",
        "isolate every segment")  # fmt: skip
def third_segment_leaks():
    """From the third segment of a pack on, segments see those before them."""

    def inputs(batch: Batch) -> dict:
        late = (batch.segment_ids >= 2)[:, None, :, None]
        allowed = batch.dense_mask() | (late & causal(batch))
        return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": additive(allowed)}

    return with_inputs(inputs)


@mutant("an-example-sees-itself hidden-states-equal-those-alone", "huggingface/transformers#38094",
        "learns without context", "check the mask's polarity")  # fmt: skip
def attends_to_nothing():
    """Every position attends to itself alone."""

    def inputs(batch: Batch) -> dict:
        eye = torch.eye(batch.input_ids.shape[1], dtype=torch.bool).expand_as(causal(batch))
        return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": additive(eye)}

    return with_inputs(inputs, packed_only=False)


@mutant("masking/no-position-sees-what-follows-it hidden-states-equal-those-alone", "prefix-LM masks",
        "reads the answer that it is to write", "a causal mask")  # fmt: skip
def bidirectional_attention():
    """Every position attends to its whole example, before and after."""

    def inputs(batch: Batch) -> dict:
        same = batch.segment_ids[:, None, :, None] == batch.segment_ids[:, None, None, :]
        return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": additive(same)}

    return with_inputs(inputs, packed_only=False)


@mutant("hidden-states-equal-those-alone", "axolotl-ai-cloud/axolotl#732", "forgets all but the last tokens",
        "window AND block, not window alone")  # fmt: skip
def sliding_window():
    """A window of 16 tokens limits attention within the example."""

    def inputs(batch: Batch) -> dict:
        place = torch.arange(batch.input_ids.shape[1])
        near = place[:, None] - place[None, :] < 16
        mask = additive(batch.dense_mask() & near)
        return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": mask}

    return with_inputs(inputs, packed_only=False)


@mutant("positions-restart-with-each-example hidden-states-equal-those-alone", "hiyouga/LLaMA-Factory#7318",
        "late positions are never trained from the start", "restart position_ids")  # fmt: skip
def positions_run_on():
    """position_ids count on over the pack; the attention isolates all the same."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        return replace(batch, position_ids=torch.arange(batch.input_ids.shape[1]).expand_as(batch.position_ids))

    return Pipeline(collate=broken)


@mutant("padding-is-never-attended positions-restart-with-each-example", "left padding without a mask",
        "reads padding as context", "pass the attention mask")  # fmt: skip
def left_padding_attended():
    """Rows are padded at the left and attend to the padding."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        if bins is not None:
            return batch
        shifts = (batch.segment_ids < 0).sum(1).tolist()
        rolled: dict[str, Any] = {
            name: torch.stack([row.roll(shift) for row, shift in zip(getattr(batch, name), shifts, strict=True)])
            for name in ("input_ids", "labels")
        }
        return replace(batch, **rolled, attention_mask=torch.ones_like(batch.input_ids))

    return Pipeline(collate=broken)


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
