"""Collation: a batch says, for every position, which example it belongs to, where in it, and whether it is a target.

In a packed row each example is a segment. Its position_ids restart at 0, it attends to nothing but itself, and its
first label is ignored: the logits before it belong to another example. Padding is told from tokens by position, never
by token id, because the pad id is often the end-of-turn as well (trl#976).

Trainers let examples see each other (trl#1230, LLaMA-Factory#4224), number positions across a pack
(LLaMA-Factory#7318), train the last token of one example to predict the first of the next (transformers#31629), or
hand over an all-ones attention_mask, with which transformers 5.23 stops isolating packed rows: a packed Batch has none.
Source: Krell et al. 2021, arXiv:2107.02027; Kundu et al. 2024, arXiv:2407.09105.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from sftspec.counted import counted
from sftspec.step import IGNORE, count_targets

PADDING = -1


class CollationError(ValueError):
    """Examples or bins that make no batch; the message names the example and the position."""


@dataclass(frozen=True, eq=False)
class Batch:
    """B rows of T positions, padded on the right.

    input_ids       (B, T) int64
    labels          (B, T) int64, aligned with input_ids; -100 on padding and on the first token of every segment
    position_ids    (B, T) int64: 0, 1, 2, … in every segment; 0 on padding
    segment_ids     (B, T) int64: 0, 1, 2, … within a row; -1 on padding
    cu_seqlens      (segments + 1,) int32: where segments start in the stream of all tokens without padding,
                    `input_ids[segment_ids >= 0]`, and its length, as FlashAttention's varlen functions want it
    max_seqlen      length of the longest segment
    attention_mask  (B, T) int64, 1 on tokens and 0 on padding, for one example a row; None for packed rows, which a
                    mask of this shape cannot describe
    rank            the rank that computes this batch, where ranks are simulated in one process
    weights         (B, T) float32 weight of each label, 0 where that is -100; None: every target weighs 1
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    segment_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    attention_mask: Tensor | None = None
    rank: int = 0
    weights: Tensor | None = None

    @property
    def num_targets(self) -> int:
        """Scored positions: labels after the shift that are not -100."""
        return count_targets(self.labels)

    @property
    def summed_weight(self) -> float:
        """What its targets weigh together: their number, where none has a weight of its own."""
        # MK-WEIGHT: the denominator of a weighted mean.
        return self.num_targets if self.weights is None else float(self.weights[..., 1:].double().sum())

    def to(self, device: str) -> Batch:
        """The same batch with its tensors on a device."""
        moved: dict[str, Any] = {
            item.name: value.to(device)
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **moved)

    def model_inputs(self) -> dict[str, Tensor]:
        """Arguments for a Hugging Face causal LM; `segment_ids` are read by the attention of `sftspec.attention`."""
        if self.attention_mask is not None:
            return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return {"input_ids": self.input_ids, "position_ids": self.position_ids, "segment_ids": self.segment_ids}

    def dense_mask(self) -> Tensor:
        """(B, 1, T, T) bool, True where position i (dim 2) may attend to position j (dim 3).

        allowed(i, j) if and only if segment(i) = segment(j) and j <= i. Padding counts as a segment of its own: no
        token sees it, and no row is empty (a softmax over nothing is NaN, or uniform over everybody's tokens).
        """
        # PK-MASK: the same segment, and not later.
        same = self.segment_ids[:, :, None] == self.segment_ids[:, None, :]
        return same.tril()[:, None]

    def flex_mask(self) -> BlockMask:
        """The same mask for torch.nn.attention.flex_attention, without T x T booleans in the kernel."""
        segment_ids = self.segment_ids
        rows, columns = segment_ids.shape

        def allowed(row: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return (segment_ids[row, i] == segment_ids[row, j]) & (j <= i)

        return create_block_mask(allowed, rows, None, columns, columns, device=segment_ids.device)


def collate(
    examples: Sequence[Any],
    bins: Sequence[Sequence[int]] | None = None,
    *,
    pad_token_id: int,
    capacity: int | None = None,
) -> Batch:
    """Make a batch of examples, each with `input_ids` and `labels` (lists or 1-D tensors of equal length).

    Args:
        examples: what `bins` index; labels are aligned with ids, and are the id or -100; `weights` of the labels, if
            an example has them, are numbers of the same length.
        bins: one row per bin, its examples in the order of the bin. None: one example a row.
        pad_token_id: the id that fills rows; any id, since padding is known by its position.
        capacity: pad rows to this length; None: to the longest row.
    Raises:
        CollationError: no pad id, a bin that is empty or holds an index twice or out of range, an example without
            tokens, labels that do not fit the ids, a row over the capacity.

    >>> from types import SimpleNamespace
    >>> example = SimpleNamespace(input_ids=[5, 6, 7], labels=[-100, 6, 7])
    >>> batch = collate([example, example], [[0, 1]], pad_token_id=0, capacity=8)
    >>> batch.labels.tolist()
    [[-100, 6, 7, -100, 6, 7, -100, -100]]
    >>> batch.position_ids.tolist()
    [[0, 1, 2, 0, 1, 2, 0, 0]]
    >>> batch.segment_ids.tolist()
    [[0, 0, 0, 1, 1, 1, -1, -1]]
    """
    if pad_token_id is None:
        raise CollationError("pad_token_id is None: name an id to fill rows with; the end-of-turn will do")
    rows = [[index] for index in range(len(examples))] if bins is None else [list(row) for row in bins]
    _check_rows(rows, len(examples))
    tokens = {index: _tokens(examples[index], index) for row in rows for index in row}
    lengths = [[len(tokens[index][0]) for index in row] for row in rows]
    longest = max(map(sum, lengths))
    if capacity is not None and longest > capacity:
        row = max(range(len(rows)), key=lambda r: sum(lengths[r]))
        raise CollationError(
            f"row {row} holds {counted(longest, 'token')}, the capacity is {capacity}: pack with that capacity"
        )

    shape = (len(rows), longest if capacity is None else capacity)
    input_ids = torch.full(shape, pad_token_id)
    # PK-PAD: what no example fills has no target, whatever its id.
    labels = torch.full(shape, IGNORE)
    position_ids = torch.zeros(shape, dtype=torch.int64)
    segment_ids = torch.full(shape, PADDING)
    weighed = any(getattr(examples[index], "weights", None) is not None for index in tokens)
    weights = torch.zeros(shape) if weighed else None
    for row, indices in enumerate(rows):
        for segment, (index, end) in enumerate(zip(indices, accumulate(lengths[row]), strict=True)):
            ids, targets = tokens[index]
            start = end - len(ids)
            input_ids[row, start:end] = ids
            # PK-BOUND: the logits before the first token of a segment are another example's, so its label is ignored.
            labels[row, start + 1 : end] = targets[1:]
            if weights is not None:
                weights[row, start + 1 : end] = _weights(examples[index], index, targets)[1:]
            # PK-POS: positions begin at 0 in every segment.
            position_ids[row, start:end] = torch.arange(len(ids))
            segment_ids[row, start:end] = segment

    flat = [length for row in lengths for length in row]
    return Batch(
        input_ids,
        labels,
        position_ids,
        segment_ids,
        cu_seqlens=torch.tensor([0, *accumulate(flat)], dtype=torch.int32),
        max_seqlen=max(flat),
        # PK-PAD: padding is told by its place. For packed rows no mask of this shape can keep examples apart.
        attention_mask=(segment_ids != PADDING).long() if bins is None else None,
        weights=weights,
    )


def _check_rows(rows: list[list[int]], count: int) -> None:
    if not rows:
        raise CollationError("no examples: a batch has at least one row")
    if empty := [row for row, indices in enumerate(rows) if not indices]:
        raise CollationError(f"bin {empty[0]} is empty: a row needs at least one example")
    uses = Counter(index for row in rows for index in row)
    if beyond := [index for index in uses if not 0 <= index < count]:
        raise CollationError(f"a bin holds index {beyond[0]}, of {counted(count, 'example')}")
    if twice := [index for index, times in uses.items() if times > 1]:
        raise CollationError(f"example {twice[0]} stands {uses[twice[0]]} times in the bins: give each one place")


def _weights(example: Any, index: int, labels: Tensor) -> Tensor:
    """(T,) float32 weights of an example's labels: its own, or 1 for each target."""
    scored = (labels != IGNORE).float()
    if getattr(example, "weights", None) is None:
        return scored
    weights = torch.as_tensor(example.weights, dtype=torch.float32)
    if weights.shape != labels.shape or not ((weights >= 0) & weights.isfinite()).all():
        raise CollationError(
            f"example {index}: weights {tuple(weights.shape)} for labels {tuple(labels.shape)}: want finite numbers, "
            "0 or more, one for each label"
        )
    return weights * scored


def _tokens(example: Any, index: int) -> tuple[Tensor, Tensor]:
    """Ids and labels of one example, both (T,) int64, T >= 1."""
    ids, labels = torch.as_tensor(example.input_ids), torch.as_tensor(example.labels)
    if ids.dim() != 1 or ids.shape != labels.shape:
        raise CollationError(
            f"example {index}: input_ids {tuple(ids.shape)} and labels {tuple(labels.shape)}: "
            f"want two lists of one length, labels aligned with ids"
        )
    if not len(ids):
        raise CollationError(f"example {index} has no tokens: leave it out, and count it")
    if ids.is_floating_point() or labels.is_floating_point():
        raise CollationError(f"example {index}: ids and labels are integers, not {ids.dtype} and {labels.dtype}")
    if (wrong := (labels != ids) & (labels != IGNORE)).any():
        at = int(wrong.nonzero()[0])
        raise CollationError(
            f"example {index}, position {at}: label {int(labels[at])} is neither the id {int(ids[at])} nor {IGNORE}; "
            f"labels are aligned with ids, and the loss shifts them"
        )
    return ids.long(), labels.long()
