"""Packers with an algorithm of their own, which is wrong or does not keep what it promises."""

from __future__ import annotations

import numpy as np

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.packing import PackingError, fit, pack
from sftspec.trainer import Pipeline


def placed(lengths, capacity, order, choose) -> list[list[int]]:
    """Packs of examples that are placed one after the other.

    choose: (free spaces, length) -> the number of the pack; None for a new one
    """
    packs: list[list[int]] = []
    room: list[int] = []
    fit(lengths, capacity)  # refuses what does not fit
    for index in order:
        chosen = choose(room, lengths[index])
        if chosen is None:
            chosen = len(packs)
            packs.append([])
            room.append(capacity)
        packs[chosen].append(index)
        room[chosen] -= lengths[index]
    return packs


@killed_by("the-number-of-packs-does-not-depend-on-the-order")
@seen_in("subtle form of packing/packs-half-as-large: first fit over a stream of examples")
@effect("more rows, and more of them padding, by chance", fix="sort the lengths")
def examples_packed_as_they_come():
    """First fit without sorting: how many packs there are depends on the order of the examples."""

    def first_fit(room, length):
        return next((k for k, space in enumerate(room) if space >= length), None)

    return Pipeline(pack=lambda lengths, capacity: placed(lengths, capacity, range(len(lengths)), first_fit))


@killed_by("packs-stay-within-eleven-ninths-of-the-optimum no-two-packs-fit-into-one")
@seen_in("subtle form of packing/packs-half-as-large: next fit, which closes a pack for good")
@effect("more rows, and more of them padding", fix="try every pack that is open")
def last_pack_alone_tried():
    """Examples are sorted, and each is tried in the last pack only."""

    def next_fit(room, length):
        return len(room) - 1 if room and room[-1] >= length else None

    def broken(lengths, capacity):
        return placed(lengths, capacity, sorted(range(len(lengths)), key=lambda i: -lengths[i]), next_fit)

    return Pipeline(pack=broken)


@killed_by("no-two-packs-fit-into-one packs-are-more-than-half-full")
@seen_in("huggingface/trl#3887")
@effect("at other capacities most rows are padding", fix="round the tree's size up to a power of two")
def search_tree_of_the_capacitys_size():
    """Best fit searches free spaces in a tree that is right where the capacity is a power of two."""

    def broken(lengths, capacity):
        fit(lengths, capacity)
        tree, packs, with_space = [0] * (2 * capacity), list[list[int]](), dict[int, list[int]]()

        def note(space, value):
            at = capacity + space - 1
            tree[at] = value
            while at > 1:
                at //= 2
                tree[at] = max(tree[2 * at], tree[2 * at + 1])

        note(capacity, capacity)
        for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            at = 1
            while at < capacity:
                at = 2 * at if tree[2 * at] >= lengths[index] else 2 * at + 1
            space = tree[at]
            if space < lengths[index] or space == capacity:
                space, chosen = capacity, len(packs)
                packs.append([])
            else:
                chosen = with_space[space].pop()
                if not with_space[space]:
                    note(space, 0)
            packs[chosen].append(index)
            if space > lengths[index]:
                with_space.setdefault(space - lengths[index], []).append(chosen)
                note(space - lengths[index], space - lengths[index])
        return packs

    return Pipeline(pack=broken)


@killed_by("no-pack-exceeds-its-capacity")
@seen_in("subtle form of packing/capacity-exceeded: a sum in the type of the lengths")
@effect("rows over the context are cut off in the kernel", fix="add up in int64")
def lengths_added_up_in_their_own_type():
    """The tokens of a pack are summed in the type of the array of lengths, where they wrap around."""

    def broken(lengths, capacity):
        if not isinstance(lengths, np.ndarray):
            return pack(lengths, capacity)
        wraps, packs, tokens = 256**lengths.itemsize, list[list[int]]([[]]), 0
        for index, length in enumerate(fit(lengths, capacity).lengths.tolist()):
            if packs[-1] and (tokens + length) % wraps > capacity:
                packs, tokens = [*packs, []], 0
            packs[-1].append(index)
            tokens = (tokens + length) % wraps
        return packs

    return Pipeline(pack=broken)


@killed_by("a-length-that-is-no-positive-integer-is-refused")
@seen_in("subtle form of packing/empty-examples-left-out: lengths computed as bytes over four")
@effect("rows over the capacity", fix="refuse what is no integer")
def lengths_rounded_down():
    """A length that is no integer is rounded down, and packed."""
    return Pipeline(pack=lambda lengths, capacity: pack([int(length) for length in lengths], capacity))


@killed_by("an-overlong-example-is-refused-or-declared")
@seen_in("subtle form of huggingface/trl#5076")
@effect(
    "examples that are thought to be left out are trained without their ends", fix="drop what is said to be dropped"
)
def overlong_said_to_be_dropped_and_cut():
    """An example over the capacity is cut by a packer that declares that it drops such examples."""

    def broken(lengths, capacity):
        try:
            return pack(lengths, capacity)
        except PackingError:
            return pack(fit(lengths, capacity, overlong="truncate").lengths, capacity)

    broken.overlong = "drop"  # type: ignore[attr-defined]
    return Pipeline(pack=broken)
