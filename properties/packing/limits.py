"""What makes no pack and no batch: it is refused, or treated as declared, and never mended in silence.

A packer or collator that goes on with what it cannot hold loses tokens, and the run that follows looks like any other.
"""

from __future__ import annotations

from hypothesis import strategies as st

from sftspec.properties import must, should, takes
from sftspec.properties.packing.collator import COLLATIONS, Example, Packed, collated
from sftspec.properties.packing.packer import NONE, Problem, problems, totals

TWO_FIT = Problem([3, 5], 8)


@must(seam="pack", laws="PK-LONG", floor=50,
      given={"problem": problems(most=10), "excess": st.integers(1, 64),
             "places": st.lists(st.integers(0, 10), min_size=1, max_size=3)},
      examples=[*({"problem": TWO_FIT, "excess": 1, "places": places} for places in ([0], [1], [2], [0, 2])),
                {"problem": NONE, "excess": 8, "places": [0]}])  # fmt: skip
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


@should(seam="pack", laws="PK-PART", floor=50,
        given={"problem": problems(most=10), "place": st.integers(0, 10), "length": st.sampled_from([0, -1, 2.5])},
        examples=[{"problem": TWO_FIT, "place": 1, "length": length} for length in (0, -1, 2.5)])  # fmt: skip
def what_is_no_length_is_refused(pack, problem, place, length):
    """A length that is no whole number above 0 is refused, and so is a capacity below 1.

    It comes from a column that was read wrong. Rounded, the packs exceed the capacity; left out in silence, the example
    is lost; a negative length makes room that is not there.
    """
    wrong = [*problem.lengths[:place], length, *problem.lengths[place:]]
    for lengths, capacity in ((wrong, problem.capacity + 2), ([1, *problem.lengths], 0), ([1, *problem.lengths], -1)):
        try:
            packs = [list(one) for one in pack(lengths, capacity)]
        except Exception as error:
            yield lengths, True, f"refused: {error}"
        else:
            yield lengths, False, f"with a capacity of {capacity} packed {packs}"


@must(seam="collate", laws=("PK-CAP", "PK-LONG"), floor=100, given={**COLLATIONS["given"], "spare": st.integers(0, 9)},
      examples=[{**example, "spare": spare} for example in COLLATIONS["examples"] for spare in (0, 3)])  # fmt: skip
def rows_are_as_long_as_the_capacity(collate, packed, spare):
    """Where a capacity is given, every row is padded to it, and a row that holds more is refused.

    Rows of one width are what a compiled model is asked for; a row that was cut to it has lost its last tokens. What is
    added is no target and no segment.
    """
    if not takes(collate, "capacity"):
        return
    longest = max(packed.tokens(row) for row in range(len(packed.bins)))
    batch = collated(collate, packed, capacity=longest + spare)
    for name in ("input_ids", "labels", "position_ids"):
        seen = tuple(getattr(batch, name).shape)
        yield packed, seen == (len(packed.bins), longest + spare), f"{name} of shape {seen}, capacity {longest + spare}"
    plain = collated(collate, packed)
    labels, before = batch.labels[:, longest:].tolist(), batch.labels[:, :longest]
    yield packed, all(set(row) <= {-100} for row in labels), f"labels {labels} on the padding up to the capacity"
    yield packed, bool((before == plain.labels).all()), "the capacity changes the labels before it"
    seen = batch.cu_seqlens.tolist()
    yield packed, seen == plain.cu_seqlens.tolist(), f"cu_seqlens {seen}, not those of the rows without a capacity"
    if longest == 1:
        return
    try:
        batch = collated(collate, packed, capacity=longest - 1)
    except Exception as error:
        yield packed, True, f"refused: {error}"
    else:
        yield packed, False, f"{longest} tokens became rows of {batch.input_ids.shape[1]}, capacity {longest - 1}"


PAIR = [Example([1, 2, 3], [1, 2, 3]), Example([4, 5], [-100, 5])]
NO_BATCH = {
    "no pad id": Packed(PAIR, [[0], [1]], None),
    "an empty bin": Packed(PAIR, [[0, 1], []], 0),
    "an example twice": Packed(PAIR, [[0, 1], [0]], 0),
    "an index beyond the examples": Packed(PAIR, [[0], [2]], 0),
    "a negative index": Packed(PAIR, [[0], [-1]], 0),
    "an example without tokens": Packed([*PAIR, Example([], [])], [[0, 2], [1]], 0),
    "a label too few": Packed([*PAIR, Example([1, 2, 3], [1, 2])], [[0, 2], [1]], 0),
    "labels that were shifted already": Packed([*PAIR, Example([1, 2, 3], [2, 3, -100])], [[0, 2], [1]], 0),
}


@should(
    seam="collate",
    laws=("PK-PART", "MK-LABEL"),
    floor=8,
    given={"fault": st.sampled_from(sorted(NO_BATCH))},
    examples=[{"fault": fault} for fault in NO_BATCH],
)
def what_makes_no_batch_is_refused(collate, fault):
    """Bins that do not fit the examples are refused, and so are labels that are neither the id in their place nor -100.

    Labels that a data set has shifted already are shifted once more by the loss: the model learns to skip a token. An
    index of -1 is the last example, a second time.
    """
    try:
        batch = collated(collate, NO_BATCH[fault])
    except Exception as error:
        yield fault, True, f"refused: {error}"
    else:
        yield fault, False, f"collated {fault} to {batch.input_ids.tolist()} with labels {batch.labels.tolist()}"
