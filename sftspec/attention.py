"""Packed attention: a token attends to the tokens up to itself in its own segment, and no dense mask is built.

Segments are isolated by never bringing them together: rows are cut at their boundaries, pieces of equal length are
stacked, and each stack goes through causal attention once. What a position sees depends, to the bit, on nothing else in
its row, and costs what its own segment costs: at T = 2048 with 8 segments a seventh of a dense mask's time.

Trainers rely on the backend for it. One that gets position_ids alone, or an all-ones attention_mask beside them,
attends across examples and reports no error (trl#2834, flash-linear-attention#838; transformers 5.23 isolates packed
rows only while it has neither mask nor cache). This one isolates whatever else is passed, or refuses.

Importing the module makes the name known to transformers: `model.set_attn_implementation("sftspec_packed")`.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

NAME = "sftspec_packed"
REFUSED = ("softcap", "position_bias", "s_aux")


class PackedAttentionError(ValueError):
    """What packed attention cannot do; says what to use instead."""


def segment_starts(rows: int, columns: int, segment_ids: Tensor | None, position_ids: Tensor | None) -> Tensor:
    """(rows, columns) bool, True where a segment begins; the first position of a row always begins one.

    segment_ids  (rows, columns): a segment begins where the id changes. They decide if they are given.
    position_ids (rows, columns) or (1, columns): a segment begins where the position is not the one before plus 1.

    >>> segment_starts(1, 5, torch.tensor([[0, 0, 1, 1, 1]]), None)
    tensor([[ True, False,  True, False, False]])
    """
    ids, step = (segment_ids, 0) if segment_ids is not None else (position_ids, 1)
    if ids is None:
        ids = torch.arange(columns)[None]
    if ids.dim() != 2 or ids.shape[1] != columns or ids.shape[0] not in (1, rows):
        raise PackedAttentionError(f"segment_ids or position_ids {tuple(ids.shape)}: want {(rows, columns)}")
    # Where a position restarts, or a segment id changes, another example begins.
    return pad(ids[:, 1:] != ids[:, :-1] + step, (1, 0), value=True).expand(rows, -1)


def segmented_attention(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(scale * q_i . k_j) v_j over the j <= i of i's own segment (Vaswani et al. 2017, equation 1, masked).

    Args:
        query: (B, H, T, D). key, value: (B, K, T, D), H a multiple of K (grouped-query attention).
        starts: (B, T) bool, see `segment_starts`.
        scale: factor of the scores; None: D ** -0.5.
        dropout: probability of dropping an attention weight.
    Returns:
        (B, T, H, D), the layout that transformers wants.

    >>> query, value = torch.zeros(1, 1, 2, 1), torch.tensor([[[[1.0], [3.0]]]])
    >>> segmented_attention(query, query, value, torch.tensor([[True, False]])).flatten()  # the second sees both
    tensor([1., 2.])
    >>> segmented_attention(query, query, value, torch.tensor([[True, True]])).flatten()  # and here itself alone
    tensor([1., 3.])
    """
    bounds = [*starts.flatten().nonzero().flatten().tolist(), starts.numel()]
    lengths = [end - start for start, end in pairwise(bounds)]
    # (B, T, heads, D): what projections produce before they are transposed, so that cutting rows copies nothing
    streams = [tensor.transpose(1, 2) for tensor in (query, key, value)]
    grouped = query.shape[1] != key.shape[1]
    # MK-CAUSAL: within its segment a token sees itself and what came before.
    options: dict[str, Any] = {"is_causal": True, "scale": scale, "dropout_p": dropout, "enable_gqa": grouped}

    def attend(pieces: list[Tensor]) -> Tensor:
        """Query, key and value (pieces, length, heads, D) -> (pieces, length, H, D)."""
        query, key, value = (piece.transpose(1, 2) for piece in pieces)
        return scaled_dot_product_attention(query, key, value, **options).transpose(1, 2)

    # PK-INDEP: segments are never brought together, so that none can move another by a bit.
    if len(set(lengths)) == 1:
        out = attend([stream.reshape(-1, lengths[0], *stream.shape[2:]) for stream in streams])
        return out.reshape(*starts.shape, *out.shape[2:])
    stacks: dict[int, list[int]] = defaultdict(list)
    for piece, length in enumerate(lengths):
        stacks[length].append(piece)
    cut = [stream.flatten(0, 1).split(lengths) for stream in streams]
    outputs: dict[int, Tensor] = {}
    for stack in stacks.values():
        alone = len(stack) == 1  # then a view will do
        out = attend([p[stack[0]][None] if alone else torch.stack([p[piece] for piece in stack]) for p in cut])
        outputs.update(zip(stack, out, strict=True))
    return torch.cat([outputs[piece] for piece in range(len(lengths))]).unflatten(0, starts.shape)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    segment_ids: Tensor | None = None,
    position_ids: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: `segment_ids` are a keyword of the model's forward and arrive here untouched.

    Without them, segments begin where position_ids restart; where they never do, a row is one segment, and padding on
    its right, which no token before it sees, needs no mask.

    >>> query, value = torch.zeros(1, 1, 2, 1), torch.tensor([[[[1.0], [3.0]]]])
    >>> module = torch.nn.Identity()
    >>> packed_attention(module, query, query, value, None, segment_ids=torch.tensor([[0, 1]]))[0].flatten()
    tensor([1., 3.])
    """
    rows, _, columns, _ = query.shape
    # PK-BACKEND: what would be ignored is refused.
    if attention_mask is not None:
        raise PackedAttentionError(f"{NAME} builds no mask and takes none: pass segment_ids, or use 'sdpa' for a mask")
    if key.shape[2] != columns:
        raise PackedAttentionError(f"{columns} queries and {key.shape[2]} keys: {NAME} has no cache; use 'sdpa' for it")
    if others.get("is_causal") is False or not getattr(module, "is_causal", True):
        raise PackedAttentionError(f"{type(module).__name__} is not causal: {NAME} is; use 'sdpa'")
    asked = [name for name in REFUSED if others.get(name) is not None]
    if (others.get("sliding_window") or columns) < columns:
        asked.append("a sliding window")
    if asked:
        raise PackedAttentionError(f"{type(module).__name__} asks for {asked[0]}: {NAME} has none; use 'eager'")
    starts = segment_starts(rows, columns, segment_ids, position_ids)
    return segmented_attention(query, key, value, starts, scaling, dropout), None


def no_mask(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> None:
    """transformers' mask function, once per forward: right padding needs no mask, other padding is refused.

    >>> no_mask(attention_mask=torch.tensor([[1, 1, 0]]))  # right padding: nothing to do
    >>> no_mask(attention_mask=torch.tensor([[0, 1, 1]]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    sftspec.attention.PackedAttentionError: padding before tokens in attention_mask: ...
    """
    if attention_mask is not None and (attention_mask[:, 1:] & ~attention_mask[:, :-1]).any():
        raise PackedAttentionError(f"padding before tokens in attention_mask: {NAME} wants it on the right")


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, no_mask)
