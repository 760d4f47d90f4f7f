"""Attention that is right but for its arithmetic."""

from __future__ import annotations

from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import before_training

NAME = "softmax_in_bfloat16"


def rounding(module, query, key, value, attention_mask, dropout=0.0, scaling=1.0, **others):
    """Eager attention whose softmax is taken in bfloat16."""
    groups = query.shape[1] // key.shape[1]
    key, value = (item.repeat_interleave(groups, 1) for item in (key, value))
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    return (scores.bfloat16().softmax(-1).to(value.dtype) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, rounding)
AttentionMaskInterface.register(NAME, eager_mask)


@killed_by("hidden-states-equal-those-alone")
@seen_in("subtle form of huggingface/transformers#29285: probabilities in place of frequencies")
@effect("long contexts are read unsharply", fix="take the softmax in float32")
def softmax_in_bfloat16():
    """The softmax of attention is taken in bfloat16, where weights are in float32."""
    return before_training(lambda job: job.model.set_attn_implementation(NAME))
