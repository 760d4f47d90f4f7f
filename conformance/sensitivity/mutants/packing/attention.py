"""Packs in which examples see each other, or do not see themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from sftspec.collation import Batch, collate
from sftspec.conformance.sensitivity.mutants import mutant
from sftspec.conformance.sensitivity.mutants.breaking import (
    additive,
    causal,
    collated,
    with_inputs,
)
from sftspec.trainer import Pipeline


def windowed(size: int) -> Pipeline:
    """The reference whose attention reaches back `size` tokens within the example."""

    def inputs(batch: Batch) -> dict:
        place = torch.arange(batch.input_ids.shape[1])
        mask = additive(batch.dense_mask() & (place[:, None] - place[None, :] < size))
        return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": mask}

    return with_inputs(inputs, packed_only=False)


@mutant(
    "examples-do-not-see-each-other hidden-states-equal-those-alone a-packed-batch-has-no-row-mask",
    "huggingface/trl#1230",
    "context is contaminated; training loss flatters",
    "block-diagonal attention",
)
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


@mutant("masking/no-position-sees-what-follows-it hidden-states-equal-those-alone", "no report known: prefix-LM masks",
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
    return windowed(16)


@mutant("hidden-states-equal-those-alone", "subtle form of axolotl-ai-cloud/axolotl#732", "forgets the beginning",
        "no window that nobody asked for")  # fmt: skip
def window_of_512():
    """A window of 512 tokens limits attention within the example."""
    return windowed(512)


@mutant("examples-do-not-see-each-other", "no report known: a table of segments of fixed size",
        "contaminated in crowded packs only", "as many segments as there are")  # fmt: skip
def sixth_segment_is_the_last():
    """From the sixth example of a row on, all share one segment."""

    def inputs(batch: Batch) -> dict:
        segments = batch.segment_ids.clamp(max=5)
        same = segments[:, None, :, None] == segments[:, None, None, :]
        mask = additive(same & causal(batch))
        return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": mask}

    return with_inputs(inputs)


@mutant("positions-restart-with-each-example", "no report known: position_ids cast with the inputs",
        "late tokens share a place", "keep indices in integers")  # fmt: skip
def positions_rounded():
    """position_ids go through bfloat16, which has no odd numbers beyond 256."""

    def inputs(batch: Batch) -> dict:
        return {**Batch.model_inputs(batch), "position_ids": batch.position_ids.bfloat16().long()}

    return with_inputs(inputs, packed_only=False)


@mutant("positions-restart-with-each-example hidden-states-equal-those-alone", "hiyouga/LLaMA-Factory#7318",
        "late positions are never trained from the start", "restart position_ids")  # fmt: skip
def positions_run_on():
    """position_ids count on over the pack; the attention isolates all the same."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        return replace(batch, position_ids=torch.arange(batch.input_ids.shape[1]).expand_as(batch.position_ids))

    return Pipeline(collate=broken)


@mutant("padding-is-never-attended positions-restart-with-each-example", "no report known: left padding without a mask",
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


def masked(allowed: Callable[[Batch], Tensor]) -> Pipeline:
    """Packed rows with a dense mask of their own: allowed(batch), (B, 1, T, T) bool."""
    return with_inputs(lambda batch: {
        "input_ids": batch.input_ids, "position_ids": batch.position_ids,
        "attention_mask": additive(allowed(batch)),
    })  # fmt: skip


@mutant("hidden-states-equal-those-alone", "huggingface/trl#5316", "contaminated where a cache is made",
        "use_cache=False in training")  # fmt: skip
def cache_made():
    """Packed rows rely on position_ids alone, and a cache is made: transformers then no longer isolates them."""
    return with_inputs(lambda batch: {
        "input_ids": batch.input_ids, "position_ids": batch.position_ids, "past_key_values": DynamicCache(),
    })  # fmt: skip


@mutant("examples-do-not-see-each-other", "axolotl-ai-cloud/axolotl#2449", "contaminated across every boundary",
        "window AND block")  # fmt: skip
def window_replaces_the_block():
    """A window of 64 tokens takes the place of the block-diagonal mask."""

    def allowed(batch: Batch) -> Tensor:
        place = torch.arange(batch.input_ids.shape[1])
        return causal(batch) & (place[:, None] - place[None, :] < 64)

    return masked(allowed)


@mutant("examples-do-not-see-each-other masking/no-position-sees-what-follows-it", "huggingface/transformers#32195",
        "reads everything but its own context", "True means: may attend")  # fmt: skip
def mask_inverted():
    """The mask allows what it should forbid."""
    return masked(lambda batch: ~batch.dense_mask())


@mutant("hidden-states-equal-those-alone", "pytorch/pytorch#139462", "other rows are cut at the wrong places",
        "one mask for each row")  # fmt: skip
def first_rows_mask_for_all():
    """The mask of a batch's first row is used for all of its rows."""
    return masked(lambda batch: batch.dense_mask()[:1].expand(len(batch.input_ids), -1, -1, -1))


@mutant("examples-do-not-see-each-other", "no report known: cu_seqlens off by one",
        "the last word of one example opens the next", "boundaries are the cumulated lengths")  # fmt: skip
def boundary_one_token_late():
    """Each segment but the first begins one token late: its first token belongs to the segment before."""

    def change(batch: Batch) -> Batch:
        late = batch.segment_ids.roll(1, 1)
        late[:, 0] = batch.segment_ids[:, 0]
        return replace(batch, segment_ids=torch.where(batch.segment_ids < 0, batch.segment_ids, late))

    return collated(change)


@mutant(
    "hidden-states-equal-those-alone a-position-attends-to-its-segment-up-to-itself",
    "pytorch/torchtitan#3130",
    "later turns forget the earlier ones",
    "segments are examples, not stretches between end tokens",
)
def segments_end_with_a_turn():
    """Segments of packed rows are found by end-of-turn tokens: every turn of a conversation stands alone."""

    def change(batch: Batch) -> Batch:
        opening = batch.input_ids[0, 0]  # <|im_start|> stands behind every end-of-turn and its newline
        starts = (batch.input_ids == opening).long()
        return replace(batch, segment_ids=torch.where(batch.segment_ids < 0, -1, starts.cumsum(1)))

    return collated(change)


@mutant(
    "positions-restart-with-each-example positions-restart-at-every-example",
    "facebookresearch/fairseq, positions of OPT begin at two",
    "learned positions move",
    "positions begin at 0",
)
def positions_begin_at_two():
    """position_ids of packed rows begin at 2."""
    return collated(lambda batch: replace(batch, position_ids=batch.position_ids + 2))


@mutant("positions-restart-with-each-example", "hiyouga/LLaMA-Factory#2289, variant", "late turns have early positions",
        "restart with the example only")  # fmt: skip
def positions_restart_in_the_middle():
    """position_ids of packed rows restart every 64 tokens of an example."""
    return collated(lambda batch: replace(batch, position_ids=batch.position_ids % 64))


@mutant("hidden-states-equal-those-alone", "no report known: NEFTune left on", "no two runs read the same",
        "noise only where asked for")  # fmt: skip
def embedding_noise():
    """Noise is added to the embeddings, which nobody asked for."""

    class Noisy(Pipeline):
        def train(self, job) -> None:
            job.model.get_input_embeddings().register_forward_hook(
                lambda module, args, output: output + 0.01 * torch.randn_like(output) * output.requires_grad
            )
            super().train(job)

    return Noisy()
