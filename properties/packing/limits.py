"""What makes no pack and no batch: it is refused, or treated as declared, and never mended in silence.

A packer or collator that goes on with what it cannot hold loses tokens, and the run that follows looks like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hypothesis import strategies as st

from sftspec.counted import counted
from sftspec.properties import must, should, takes
from sftspec.properties.packing.collator import COLLATIONS, Example, Packed, collated
from sftspec.properties.packing.packer import NONE, Problem, problems, totals

TWO_FIT = Problem([3, 5], 8)


@must(
    seam="pack",
    laws="PK-LONG",
    floor=50,
    given={
        "problem": problems(most=10),
        "excess": st.integers(1, 64),
        "places": st.lists(st.integers(0, 10), min_size=1, max_size=3),
    },
    examples=[
        *({"problem": TWO_FIT, "excess": 1, "places": places} for places in ([0], [1], [2], [0, 2])),
        {"problem": NONE, "excess": 8, "places": [0]},
    ],
)
def an_overlong_example_is_refused_or_declared(pack, problem, excess, places):
    """Examples over the capacity, wherever they stand, are refused with an error, or treated as the packer declares.

    Silently cut, 99.8 % of the tokens of a set of long code were lost (trl#4554, #5076); split into fragments, answers
    lose their questions (trl#5075). A packer declares by an attribute `overlong`: "truncate" (they stay, cut to the
    capacity) or "drop" (they are left out).
    """
    lengths = list(problem.lengths)
    for place in places:
        lengths.insert(place, problem.capacity + excess)
    policy = getattr(pack, "overlong", "error")
    try:
        packs = [list(one) for one in pack(lengths, problem.capacity)]
    except Exception as error:
        yield lengths, policy == "error", f"declared {policy!r}, and refused: {error}"
        return
    short = [index for index, length in enumerate(lengths) if length <= problem.capacity]
    expected = {"error": None, "truncate": list(range(len(lengths))), "drop": short}[policy]
    packed = sorted(index for one in packs for index in one)
    fits = all(tokens <= problem.capacity for tokens in totals(packs, [min(n, problem.capacity) for n in lengths]))
    yield lengths, fits and packed == expected, f"{policy!r} is declared; packed {packs}"


def refused(pack: Callable, lengths: list, capacity: int) -> Iterator[tuple]:
    """Evidence that the packer refuses what it is given."""
    try:
        packs = [list(one) for one in pack(lengths, capacity)]
    except Exception as error:
        yield lengths, True, f"refused: {error}"
    else:
        yield lengths, False, f"with a capacity of {capacity} packed {packs}"


@should(
    seam="pack",
    laws="PK-PART",
    floor=50,
    given={"problem": problems(most=10), "place": st.integers(0, 10), "length": st.sampled_from([0, -1, 2.5])},
    examples=[{"problem": TWO_FIT, "place": 1, "length": length} for length in (0, -1, 2.5)],
)
def a_length_that_is_no_positive_integer_is_refused(pack, problem, place, length):
    """A length that is no whole number above 0 is refused.

    It comes from a column that was read wrong. Rounded, the packs exceed the capacity; left out in silence, the example
    is lost; a negative length makes room that is not there.
    """
    lengths = [*problem.lengths[:place], length, *problem.lengths[place:]]
    yield from refused(pack, lengths, problem.capacity + 2)


@should(
    seam="pack",
    laws="PK-PART",
    floor=50,
    given={"problem": problems(most=10), "capacity": st.integers(-2, 0)},
    examples=[{"problem": TWO_FIT, "capacity": capacity} for capacity in (0, -1)],
)
def a_capacity_below_one_is_refused(pack, problem, capacity):
    """A capacity below 1 is refused.

    No example fits; a packer that goes on loses them all, or makes a pack for each.
    """
    yield from refused(pack, [1, *problem.lengths], capacity)


CAPACITIES = {
    "given": {**COLLATIONS["given"], "spare": st.integers(0, 9)},
    "examples": [{**example, "spare": spare} for example in COLLATIONS["examples"] for spare in (0, 3)],
}


def longest_row(packed: Packed) -> int:
    return max(packed.tokens(row) for row in range(len(packed.bins)))


@must(seam="collate", laws=("PK-CAP",), floor=100, **CAPACITIES)
def every_row_is_padded_to_the_capacity(collate, packed, spare):
    """With a capacity, every row is padded to it.

    Rows of one width are what a compiled model is asked for.
    """
    if not takes(collate, "capacity"):
        return
    capacity = longest_row(packed) + spare
    batch = collated(collate, packed, capacity=capacity)
    for name in ("input_ids", "labels", "position_ids"):
        seen = tuple(getattr(batch, name).shape)
        yield packed, seen == (len(packed.bins), capacity), f"{name} of shape {seen}, capacity {capacity}"


@must(seam="collate", laws=("PK-CAP",), floor=100, **CAPACITIES)
def padding_to_the_capacity_adds_nothing(collate, packed, spare):
    """Padding up to the capacity adds no target and no segment.

    A label on it trains the pad token, and a segment of padding is attended.
    """
    if not takes(collate, "capacity"):
        return
    longest = longest_row(packed)
    batch, plain = collated(collate, packed, capacity=longest + spare), collated(collate, packed)
    added, before = batch.labels[:, longest:].tolist(), batch.labels[:, :longest]
    yield packed, all(set(row) <= {-100} for row in added), f"labels {added} on the padding up to the capacity"
    yield packed, bool((before == plain.labels).all()), "the capacity changes the labels before it"
    seen = batch.cu_seqlens.tolist()
    yield packed, seen == plain.cu_seqlens.tolist(), f"cu_seqlens {seen}, not those of the rows without a capacity"


@must(seam="collate", laws=("PK-CAP", "PK-LONG"), floor=50, **COLLATIONS)
def a_row_over_the_capacity_is_refused(collate, packed):
    """A row that holds more tokens than the capacity is refused.

    A row that was cut to it has lost its last tokens.
    """
    longest = longest_row(packed)
    if not takes(collate, "capacity") or longest == 1:
        return
    try:
        batch = collated(collate, packed, capacity=longest - 1)
    except Exception as error:
        yield packed, True, f"refused: {error}"
    else:
        yield (
            packed,
            False,
            f"{counted(longest, 'token')} became rows of {batch.input_ids.shape[1]}, capacity {longest - 1}",
        )


PAIR = [Example([1, 2, 3], [1, 2, 3]), Example([4, 5], [-100, 5])]
NO_BINS = {
    "no pad id": Packed(PAIR, [[0], [1]], None),
    "an empty bin": Packed(PAIR, [[0, 1], []], 0),
    "an example twice": Packed(PAIR, [[0, 1], [0]], 0),
    "an index beyond the examples": Packed(PAIR, [[0], [2]], 0),
    "a negative index": Packed(PAIR, [[0], [-1]], 0),
    "an example without tokens": Packed([*PAIR, Example([], [])], [[0, 2], [1]], 0),
}
NO_LABELS = {
    "a label too few": Packed([*PAIR, Example([1, 2, 3], [1, 2])], [[0, 2], [1]], 0),
    "labels that were shifted already": Packed([*PAIR, Example([1, 2, 3], [2, 3, -100])], [[0, 2], [1]], 0),
}


def makes_no_batch(collate: Callable, fault: str, packed: Packed) -> Iterator[tuple]:
    """Evidence that the collator refuses what it is given."""
    try:
        batch = collated(collate, packed)
    except Exception as error:
        yield fault, True, f"refused: {error}"
    else:
        yield fault, False, f"collated {fault} to {batch.input_ids.tolist()} with labels {batch.labels.tolist()}"


@should(
    seam="collate",
    laws=("PK-PART",),
    floor=6,
    given={"fault": st.sampled_from(sorted(NO_BINS))},
    examples=[{"fault": fault} for fault in NO_BINS],
)
def bins_that_do_not_fit_the_examples_are_refused(collate, fault):
    """Bins that are empty, repeat an example, index none or hold one without tokens are refused, and so is no pad id.

    An index of -1 is the last example, a second time.
    """
    yield from makes_no_batch(collate, fault, NO_BINS[fault])


@should(
    seam="collate",
    laws=("MK-LABEL",),
    floor=2,
    given={"fault": st.sampled_from(sorted(NO_LABELS))},
    examples=[{"fault": fault} for fault in NO_LABELS],
)
def labels_that_are_not_the_ids_are_refused(collate, fault):
    """Labels that are neither the id in their place nor -100 are refused.

    Labels that a data set has shifted already are shifted once more by the loss: the model learns to skip a token.
    """
    yield from makes_no_batch(collate, fault, NO_LABELS[fault])
