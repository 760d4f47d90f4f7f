"""Packs in which examples see each other, or do not see themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from sftspec.collation import Batch, collate
from sftspec.conformance.mutants import mutant
from sftspec.conformance.mutants.breaking import (
    additive,
    causal,
    with_inputs,
)
from sftspec.trainer import Pipeline


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
