"""Packs in which examples see each other, or do not see themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from sftspec.collation import Batch, collate
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import (
    additive,
    causal,
    collated,
    with_inputs,
)
from sftspec.job import Job
from sftspec.trainer import Pipeline


def windowed(size: int) -> Pipeline:
    """The reference whose attention reaches back `size` tokens within the example."""

    def inputs(batch: Batch) -> dict:
        place = torch.arange(batch.input_ids.shape[1])
        mask = additive(batch.dense_mask() & (place[:, None] - place[None, :] < size))
        return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": mask}

    return with_inputs(inputs, packed_only=False)


@killed_by("examples-do-not-see-each-other hidden-states-equal-those-alone a-packed-batch-has-no-row-mask")
@seen_in("huggingface/trl#1230")
@effect("context is contaminated; training loss flatters", fix="block-diagonal attention")
def plain_causal_attention():
    """Packed examples attend to everything before them in the row."""
    return with_inputs(
        lambda batch: {
            "input_ids": batch.input_ids,
            "position_ids": batch.position_ids,
            "attention_mask": torch.ones_like(batch.input_ids),
        }
    )


@killed_by("examples-do-not-see-each-other")
@seen_in("fla-org/flash-linear-attention#1088")
@effect("contaminated in crowded packs only", fix="isolate every segment")
def third_segment_leaks():
    """From the third segment of a pack on, segments see those before them."""

    def inputs(batch: Batch) -> dict:
        late = (batch.segment_ids >= 2)[:, None, :, None]
        allowed = batch.dense_mask() | (late & causal(batch))
        return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": additive(allowed)}

    return with_inputs(inputs)


@killed_by("an-example-sees-itself hidden-states-equal-those-alone")
@seen_in("huggingface/transformers#38094")
@effect("learns without context", fix="check the mask's polarity")
def attends_to_nothing():
    """Every position attends to itself alone."""

    def inputs(batch: Batch) -> dict:
        eye = torch.eye(batch.input_ids.shape[1], dtype=torch.bool).expand_as(causal(batch))
        return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": additive(eye)}

    return with_inputs(inputs, packed_only=False)


@killed_by("masking/no-position-sees-what-follows-it hidden-states-equal-those-alone")
@seen_in("no report known: prefix-LM masks")
@effect("reads the answer that it is to write", fix="a causal mask")
def bidirectional_attention():
    """Every position attends to its whole example, before and after."""

    def inputs(batch: Batch) -> dict:
        same = batch.segment_ids[:, None, :, None] == batch.segment_ids[:, None, None, :]
        return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": additive(same)}

    return with_inputs(inputs, packed_only=False)


@killed_by("hidden-states-equal-those-alone")
@seen_in("axolotl-ai-cloud/axolotl#732")
@effect("forgets all but the last tokens", fix="window AND block, not window alone")
def sliding_window():
    """A window of 16 tokens limits attention within the example."""
    return windowed(16)


@killed_by("hidden-states-equal-those-alone")
@seen_in("subtle form of axolotl-ai-cloud/axolotl#732")
@effect("forgets the beginning", fix="no window that nobody asked for")
def window_of_512():
    """A window of 512 tokens limits attention within the example."""
    return windowed(512)


class Cast(Pipeline):
    """The reference, which casts the whole model once more."""

    def train(self, job: Job) -> None:
        job.model.to(next(job.model.parameters()).dtype)
        super().train(job)


@killed_by("hidden-states-equal-those-alone")
@seen_in("huggingface/transformers#29285")
@effect("positions of long rows go astray", fix="cast weights, and keep buffers in float32")
def rotary_frequencies_rounded():
    """The frequencies of rotary positions are rounded to bfloat16 with the weights."""
    return Cast()


@killed_by("examples-do-not-see-each-other")
@seen_in("no report known: a table of segments of fixed size")
@effect("contaminated in crowded packs only", fix="as many segments as there are")
def sixth_segment_is_the_last():
    """From the sixth example of a row on, all share one segment."""

    def inputs(batch: Batch) -> dict:
        segments = batch.segment_ids.clamp(max=5)
        same = segments[:, None, :, None] == segments[:, None, None, :]
        mask = additive(same & causal(batch))
        return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": mask}

    return with_inputs(inputs)


@killed_by("positions-restart-with-each-example")
@seen_in("no report known: position_ids cast with the inputs")
@effect("late tokens share a place", fix="keep indices in integers")
def positions_rounded():
    """position_ids go through bfloat16, which has no odd numbers beyond 256."""

    def inputs(batch: Batch) -> dict:
        return {**Batch.model_inputs(batch), "position_ids": batch.position_ids.bfloat16().long()}

    return with_inputs(inputs, packed_only=False)


@killed_by("positions-restart-with-each-example hidden-states-equal-those-alone")
@seen_in("hiyouga/LLaMA-Factory#7318")
@effect("late positions are never trained from the start", fix="restart position_ids")
def positions_run_on():
    """position_ids count on over the pack; the attention isolates all the same."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        return replace(batch, position_ids=torch.arange(batch.input_ids.shape[1]).expand_as(batch.position_ids))

    return Pipeline(collate=broken)


@killed_by("padding-is-never-attended positions-restart-with-each-example")
@seen_in("no report known: left padding without a mask")
@effect("reads padding as context", fix="pass the attention mask")
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
    return with_inputs(
        lambda batch: {
            "input_ids": batch.input_ids,
            "position_ids": batch.position_ids,
            "attention_mask": additive(allowed(batch)),
        }
    )


@killed_by("hidden-states-equal-those-alone")
@seen_in("huggingface/trl#5316")
@effect("contaminated where a cache is made", fix="use_cache=False in training")
def cache_made():
    """Packed rows rely on position_ids alone, and a cache is made: transformers then no longer isolates them."""
    return with_inputs(
        lambda batch: {
            "input_ids": batch.input_ids,
            "position_ids": batch.position_ids,
            "past_key_values": DynamicCache(),
        }
    )


@killed_by("examples-do-not-see-each-other")
@seen_in("axolotl-ai-cloud/axolotl#2449")
@effect("contaminated across every boundary", fix="window AND block")
def window_replaces_the_block():
    """A window of 64 tokens takes the place of the block-diagonal mask."""

    def allowed(batch: Batch) -> Tensor:
        place = torch.arange(batch.input_ids.shape[1])
        return causal(batch) & (place[:, None] - place[None, :] < 64)

    return masked(allowed)


@killed_by("examples-do-not-see-each-other masking/no-position-sees-what-follows-it")
@seen_in("huggingface/transformers#32195")
@effect("reads everything but its own context", fix="True means: may attend")
def mask_inverted():
    """The mask allows what it should forbid."""
    return masked(lambda batch: ~batch.dense_mask())


@killed_by("hidden-states-equal-those-alone")
@seen_in("pytorch/pytorch#139462")
@effect("other rows are cut at the wrong places", fix="one mask for each row")
def first_rows_mask_for_all():
    """The mask of a batch's first row is used for all of its rows."""
    return masked(lambda batch: batch.dense_mask()[:1].expand(len(batch.input_ids), -1, -1, -1))


@killed_by("examples-do-not-see-each-other")
@seen_in("no report known: cu_seqlens off by one")
@effect("the last word of one example opens the next", fix="boundaries are the cumulated lengths")
def boundary_one_token_late():
    """Each segment but the first begins one token late: its first token belongs to the segment before."""

    def change(batch: Batch) -> Batch:
        late = batch.segment_ids.roll(1, 1)
        late[:, 0] = batch.segment_ids[:, 0]
        return replace(batch, segment_ids=torch.where(batch.segment_ids < 0, batch.segment_ids, late))

    return collated(change)


@killed_by("hidden-states-equal-those-alone a-position-attends-to-its-segment-up-to-itself")
@seen_in("pytorch/torchtitan#3130")
@effect("later turns forget the earlier ones", fix="segments are examples, not stretches between end tokens")
def segments_end_with_a_turn():
    """Segments of packed rows are found by end-of-turn tokens: every turn of a conversation stands alone."""

    def change(batch: Batch) -> Batch:
        opening = batch.input_ids[0, 0]  # <|im_start|> stands behind every end-of-turn and its newline
        starts = (batch.input_ids == opening).long()
        return replace(batch, segment_ids=torch.where(batch.segment_ids < 0, -1, starts.cumsum(1)))

    return collated(change)


@killed_by("positions-restart-with-each-example positions-restart-at-every-example")
@seen_in("facebookresearch/fairseq, positions of OPT begin at two")
@effect("learned positions move", fix="positions begin at 0")
def positions_begin_at_two():
    """position_ids of packed rows begin at 2."""
    return collated(lambda batch: replace(batch, position_ids=batch.position_ids + 2))


@killed_by("positions-restart-with-each-example")
@seen_in("hiyouga/LLaMA-Factory#2289, variant")
@effect("late turns have early positions", fix="restart with the example only")
def positions_restart_in_the_middle():
    """position_ids of packed rows restart every 64 tokens of an example."""
    return collated(lambda batch: replace(batch, position_ids=batch.position_ids % 64))


@killed_by("hidden-states-equal-those-alone")
@seen_in("no report known: NEFTune left on")
@effect("no two runs read the same", fix="noise only where asked for")
def embedding_noise():
    """Noise is added to the embeddings, which nobody asked for."""

    class Noisy(Pipeline):
        def train(self, job) -> None:
            job.model.get_input_embeddings().register_forward_hook(
                lambda module, args, output: output + 0.01 * torch.randn_like(output) * output.requires_grad
            )
            super().train(job)

    return Noisy()
