"""Packing: every example goes whole into exactly one pack, and no pack holds more than `capacity` tokens.

Trainers cut examples to fill rows (`wrapped` packing, trl#1850), or cut the long ones and say nothing (99.8 % of the
tokens of a set of long code, trl#5076). And they loop over examples, so slowly that they pack 1,000 at a time. Here an
example over the capacity is an error until a policy is chosen (`fit`, which counts the loss), and packing is best-fit
decreasing: from the longest example to the shortest, each goes into the pack that it fills best. First-fit decreasing
needs at most 11/9 OPT + 6/9 packs (Dósa 2007); best-fit has the same ratio (Johnson et al. 1974).

Examples of one length are interchangeable, and so are packs with one free space. So the loop runs over the histogram
and moves whole groups of packs, filled exactly as by the loop over examples; numpy expands the groups into indices.
"""

from __future__ import annotations

import gc
from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Literal

import numpy as np

Lengths = Sequence[int] | np.ndarray  # a number of tokens for each example


class PackingError(ValueError):
    """Lengths or a capacity that cannot be packed; the message names the example and says what to do."""


class Bins(Sequence):
    """Packs of example indices: a sequence of `list[int]`, made from two arrays.

    order    (examples,) int64: example indices, pack after pack, the longest of a pack first
    offsets  (packs + 1,) int64: pack k is `order[offsets[k]:offsets[k + 1]]`
    """

    def __init__(self, order: np.ndarray, offsets: np.ndarray):
        self.order, self.offsets = order, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, pack):
        if isinstance(pack, slice):
            return list(self)[pack]
        pack = range(len(self))[pack]
        return self.order[self.offsets[pack] : self.offsets[pack + 1]].tolist()

    def __iter__(self):
        order, collecting = self.order.tolist(), gc.isenabled()
        gc.disable()  # so many new lists would make it search the whole process several times over: 7 times as slow
        try:
            return iter([order[start:end] for start, end in pairwise(self.offsets.tolist())])
        finally:
            if collecting:
                gc.enable()


@dataclass(frozen=True)
class Fitted:
    """Lengths that fit: `kept` (n,) int64 indices of the examples that remain, and `lengths` (n,) int64 of these.

    truncated, dropped, tokens_lost  examples cut to the capacity, examples left out, and the tokens that went with them
    """

    kept: np.ndarray
    lengths: np.ndarray
    truncated: int = 0
    dropped: int = 0
    tokens_lost: int = 0


def fit(lengths: Lengths, capacity: int, overlong: Literal["error", "truncate", "drop"] = "error") -> Fitted:
    """Apply the declared policy to examples longer than the capacity, and count what it costs (trl#4554, #5075, #5076).

    Raises PackingError for a length that is no integer or below 1, and, under "error", for one over the capacity.

    >>> fitted = fit([3, 9], 8, overlong="truncate")
    >>> fitted.lengths.tolist(), fitted.truncated, fitted.tokens_lost
    ([3, 8], 1, 1)
    >>> fit([3, 9], 8, overlong="drop").kept.tolist()
    [0]
    """
    sizes = _integers(lengths)
    if not isinstance(capacity, Integral) or capacity < 1:
        raise PackingError(f"capacity {capacity!r}: a pack holds a whole number of tokens, at least 1")
    if overlong not in ("error", "truncate", "drop"):
        raise PackingError(f"overlong={overlong!r} is no policy: use 'error', 'truncate' or 'drop'")
    over, kept = np.flatnonzero(sizes > capacity), np.arange(sizes.size)
    if not over.size:
        return Fitted(kept, sizes)
    # PK-LONG: what is cut or left out is counted, in examples and in tokens.
    if overlong == "truncate":
        return Fitted(kept, np.minimum(sizes, capacity), over.size, tokens_lost=int((sizes[over] - capacity).sum()))
    if overlong == "drop":
        return Fitted(np.delete(kept, over), np.delete(sizes, over), 0, over.size, int(sizes[over].sum()))
    raise PackingError(
        f"example {over[0]} has {sizes[over[0]]} tokens, the capacity is {capacity} ({over.size} such examples): "
        f"choose a policy, fit(lengths, capacity, overlong='truncate' or 'drop'), and pack the lengths it returns"
    )


def pack(lengths: Lengths, capacity: int) -> Bins:
    """Best-fit decreasing over integer lengths; deterministic, and stable among equal lengths. Raises as `fit` does.

    >>> list(pack([5, 3, 4, 2, 2], capacity=8))
    [[0, 1], [2, 3, 4]]
    """
    sizes = fit(lengths, capacity).lengths
    if not sizes.size:
        return Bins(sizes, np.zeros(1, np.int64))
    room = (capacity - sizes).astype(np.min_scalar_type(capacity))  # up to 16 bits numpy sorts by radix
    # PK-DET: equal lengths keep their order, so that the same lengths give the same packs.
    descending = np.argsort(room, kind="stable")
    room = room[descending]
    ends = np.append(np.flatnonzero(np.diff(room)) + 1, room.size)
    moves, packs = _plan((capacity - room[ends - 1]).tolist(), np.diff(ends, prepend=0).tolist(), capacity)
    return _expand(descending, np.frombuffer(array("q", moves), np.int64).reshape(-1, 4).T, packs)


def _plan(lengths: list[int], counts: list[int], capacity: int) -> tuple[list[int], int]:
    """Best-fit decreasing over a histogram, lengths descending; packs filled alike stand side by side and move as one.

    Returns quadruples (first pack, packs, items for each, items there before), end to end, and the number of packs.
    """
    groups: dict[int, tuple | None] = {}  # free space -> its last group: (first pack, packs, items there, group below)
    spaces: list[int] = []  # those with a group, ascending
    moves: list[int] = []
    packs, shortest = 0, lengths[-1]
    for length, left in zip(lengths, counts, strict=True):
        while left:
            # Best fit: the smallest free space that takes the length. PK-CAP: a space below the length is never chosen.
            best = bisect_left(spaces, length)
            if best < len(spaces):
                space = spaces[best]
                first, size, there, below = groups[space]  # type: ignore[misc]
                groups[space] = below
                if below is None:
                    del spaces[best]
            else:
                # PK-ANYFIT: a new pack is opened only where the length fits into none.
                space, first, size, there = capacity, packs, -(-left // (capacity // length)), 0
                packs += size
            # A pack that is best for one item stays best for its equals: placing one only makes its space smaller. So
            # each gets as many as fit, and one what is left. No calls: here goes the time of a packing of few examples.
            most = space // length
            while True:
                if most <= left:
                    each, count = most, left // most
                    if count > size:
                        count = size
                else:
                    each, count = left, 1
                moves += first, count, each, there
                left -= count * each
                rest = space - each * length
                if rest >= shortest:  # else nothing will ever fit
                    below = groups.get(rest)
                    if below is None:
                        insort(spaces, rest)
                    groups[rest] = first, count, there + each, below
                if count == size:
                    break
                first += count
                size -= count
                if not left:
                    below = groups.get(space)
                    if below is None:
                        insort(spaces, space)
                    groups[space] = first, size, there, below
                    break
    return moves, packs


def _expand(descending: np.ndarray, moves: np.ndarray, packs: int) -> Bins:
    """Moves of groups become indices: example `descending[k]` goes to slot `k + shift` of the order."""
    first, count, items, there = moves
    pack_of = np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)
    items, there = np.repeat(items, count), np.repeat(there, count)
    sizes = np.bincount(pack_of, weights=items, minlength=packs)
    offsets = np.append(0, np.cumsum(sizes)).astype(np.int64)
    shift = np.repeat(offsets[pack_of] + there - np.cumsum(items) + items, items)
    shift += np.arange(shift.size)
    # PK-PART: every example goes to one slot, and every slot is filled.
    order = np.empty_like(descending)
    order[shift] = descending
    return Bins(order, offsets)


def lower_bound(lengths: Lengths, capacity: int) -> int:
    """Packs that no packer can do without: Martello and Toth's L2 (Knapsack Problems, 1990, section 8.3), exact.

    L2 = max over 0 <= a <= C/2 of  #{l > C/2} + max(0, ceil((sum of l in [a, C/2] - room) / C)),  where `room` is what
    packs with an l in (C/2, C - a] have left: no pack has two lengths over C/2, and one over C - a leaves none for a.

    >>> lower_bound([5, 5, 3], capacity=8), lower_bound([5, 5, 5], capacity=8)
    (2, 3)
    """
    sizes = np.sort(fit(lengths, capacity).lengths)
    total = np.append(0, np.cumsum(sizes))
    half = np.searchsorted(sizes, capacity // 2, side="right")
    thresholds = np.unique(sizes[:half])  # one between two lengths gives no more than the upper of them
    start = np.searchsorted(sizes, thresholds, side="left")
    large = np.searchsorted(sizes, capacity - thresholds, side="right")
    room = (large - half) * capacity - (total[large] - total[half])
    beyond = -((room - (total[half] - total[start])) // capacity)
    # PK-LB: one pack for each length over C/2, and what the others need beyond the room that these leave.
    return int(sizes.size - half + beyond.max(initial=0))


def efficiency(lengths: Lengths, bins: Sequence[Sequence[int]], capacity: int) -> float:
    """Tokens in the packs over tokens that the packs could hold, in (0, 1]; 1.0 without packs.

    >>> efficiency([5, 3, 4], [[0, 1], [2]], capacity=8)
    0.75
    """
    # PK-EFF: padding takes room too.
    order = bins.order if isinstance(bins, Bins) else [index for one in bins for index in one]
    return float(np.asarray(lengths)[order].sum() / (len(bins) * capacity)) if len(bins) else 1.0


def _integers(lengths: Lengths) -> np.ndarray:
    """(n,) int64 lengths, every one at least 1."""
    array = np.asarray(lengths)
    if array.ndim != 1:
        raise PackingError(f"lengths of shape {array.shape}: give one length per example, in one dimension")
    if array.size and array.dtype.kind not in "iu":
        bad = next((i for i, length in enumerate(lengths) if not isinstance(length, Integral)), 0)
        raise PackingError(f"length {lengths[bad]!r} of example {bad} is no integer: give a number of tokens")
    if array.size and array.min() < 1:
        raise PackingError(f"example {array.argmin()} has length {array.min()}: leave out, and count, empty examples")
    return array.astype(np.int64)
