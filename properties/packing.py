"""Packing: examples share a row and nothing else.

Every example goes whole into one pack; in the batch each is a segment with positions, mask and labels of its own; and
no packing changes what is trained. Trainers lose examples, cut them, let them see each other, or train the last token
of one on the first of the next, and the loss moves by less than a percent (bugs.md H1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import accumulate, combinations, pairwise
from random import Random
from typing import NamedTuple

from hypothesis import strategies as st
from sftspec.properties import must, should

# The packer, as a function


class Problem(NamedTuple):
    """Lengths to pack into packs of this capacity."""

    lengths: list[int]
    capacity: int


@st.composite
def problems(draw: st.DrawFn, most: int = 40) -> Problem:
    """Up to `most` lengths from 1 to a capacity of 1 to 64, often ones at which packers go wrong."""
    capacity = draw(st.integers(1, 64))
    critical = sorted({1, max(1, capacity // 3), max(1, capacity // 2), capacity // 2 + 1, capacity})
    return Problem(
        draw(st.lists(st.one_of(st.integers(1, capacity), st.sampled_from(critical)), max_size=most)), capacity
    )


NONE = Problem([], 8)
ALL_FULL = Problem([8] * 5, 8)
ALL_ONE = Problem([1] * 20, 8)
OVER_HALF = Problem([5] * 7, 8)
# Two and a bit fit, and the capacity is no power of two: TRL packed 3,000 examples into 3,000 packs (trl#3887).
NO_POWER_OF_TWO = Problem([4] * 12, 9)
# 9 packs suffice, and decreasing packers need 11: the ratio 11/9 is reached (Johnson 1973; here with C = 64).
TIGHT = Problem([33] * 6 + [18] * 6 + [17] * 6 + [14] * 12, 64)
CAUGHT = [{"problem": problem} for problem in (NONE, ALL_FULL, ALL_ONE, OVER_HALF, NO_POWER_OF_TWO, TIGHT)]


def totals(packs: Iterable[list[int]], lengths: list[int]) -> list[int]:
    return [sum(lengths[index] for index in pack) for pack in packs]


@must(seam="pack", laws="PK-PART", floor=100, given={"problem": problems()}, examples=CAUGHT)
def every_example_is_packed_once_and_whole(pack, problem):
    """Every example is in exactly one pack, and no pack is empty.

    Lost examples are never learned and doubled ones count twice. Concatenating and cutting drops the incomplete last
    pack and splits examples (trl#1621, #1850: by design, in a setting that is not this law's). Krell et al. 2021.
    """
    packs = [list(one) for one in pack(problem.lengths, problem.capacity)]
    uses = Counter(index for one in packs for index in one)
    for index in range(len(problem.lengths)):
        yield (problem, index), uses[index] == 1, f"example {index} is packed {uses[index]} times"
    yield problem, all(packs) and set(uses) <= set(range(len(problem.lengths))), f"{packs} of {len(problem.lengths)}"


@must(seam="pack", laws="PK-CAP", floor=100, given={"problem": problems()}, examples=CAUGHT)
def no_pack_exceeds_its_capacity(pack, problem):
    """A pack holds at most `capacity` tokens.

    What does not fit into the row is cut off by the next stage, or runs out of memory.
    """
    packs = [list(one) for one in pack(problem.lengths, problem.capacity)]
    for one, tokens in zip(packs, totals(packs, problem.lengths), strict=True):
        yield one, tokens <= problem.capacity, f"{tokens} tokens in a pack of {problem.capacity}"


@must(seam="pack", laws="PK-LONG", floor=50, given={"problem": problems(most=10), "excess": st.integers(1, 64)},
      examples=[{"problem": Problem([3, 5], 8), "excess": 1}, {"problem": NONE, "excess": 8}])  # fmt: skip
def an_overlong_example_is_refused_or_declared(pack, problem, excess):
    """An example over the capacity is refused with a ValueError, or treated as the packer declares.

    Silently cut, 99.8 % of the tokens of a set of long code were lost (trl#4554, #5076); split into fragments, answers
    lose their questions (trl#5075). A packer declares by an attribute `overlong`: "truncate" (it stays, cut to the
    capacity) or "drop" (it is left out).
    """
    lengths = [*problem.lengths, problem.capacity + excess]
    policy = getattr(pack, "overlong", "error")
    try:
        packs = [list(one) for one in pack(lengths, problem.capacity)]
    except ValueError as error:
        yield lengths, policy == "error", f"declared {policy!r}, and refused: {error}"
        return
    expected = {"error": None, "truncate": range(len(lengths)), "drop": range(len(problem.lengths))}[policy]
    packed = sorted(index for one in packs for index in one)
    fits = all(tokens <= problem.capacity for tokens in totals(packs, [min(n, problem.capacity) for n in lengths]))
    yield lengths, fits and expected is not None and packed == list(expected), f"{policy!r} is declared; packed {packs}"


@must(seam="pack", laws="PK-DET", floor=100, given={"problem": problems()}, examples=CAUGHT)
def packing_depends_on_nothing_but_its_arguments(pack, problem):
    """The same lengths and capacity give the same packs, and the lengths are left as they were.

    A run that was interrupted could otherwise not be resumed, nor a result repeated.
    """
    lengths = list(problem.lengths)
    first, second = ([list(one) for one in pack(lengths, problem.capacity)] for _ in range(2))
    yield problem, first == second, f"first {first}, then {second}"
    yield problem, lengths == problem.lengths, f"the lengths became {lengths}"


@should(seam="pack", laws="PK-DET", floor=100, given={"problem": problems(), "seed": st.integers(0, 2**20)},
        examples=[{"problem": TIGHT, "seed": 0}, {"problem": Problem([4, 4, 5, 5], 9), "seed": 0}])  # fmt: skip
def the_number_of_packs_does_not_depend_on_the_order(pack, problem, seed):
    """Examples in another order need as many packs.

    A packer that takes examples as they come pays for an unlucky shuffle in every epoch: first-fit in the order of the
    sampler needs 11,234 packs where 11,198 do (performance.md section 2, axolotl as shipped).
    """
    other = Random(seed).sample(problem.lengths, len(problem.lengths))
    here, there = (len(list(pack(lengths, problem.capacity))) for lengths in (list(problem.lengths), other))
    yield problem, here == there, f"{here} packs, and {there} for the order {other}"


@must(seam="pack", laws="PK-LB", floor=100, given={"problem": problems()}, examples=CAUGHT)
def no_fewer_packs_than_possible(pack, problem):
    """There are at least as many packs as the tokens, and the long examples among them, need.

    Fewer means that something is lost. L1 = ceil(sum / C), and L2 of Martello and Toth (1990, section 8.3).
    """
    lengths, capacity = problem
    bound = -(-sum(lengths) // capacity)
    for threshold in range(capacity // 2 + 1):
        alone = sum(length > capacity - threshold for length in lengths)
        large = [length for length in lengths if capacity - threshold >= length > Fraction(capacity, 2)]
        small = [length for length in lengths if Fraction(capacity, 2) >= length >= threshold]
        beyond = sum(small) - (len(large) * capacity - sum(large))
        bound = max(bound, alone + len(large) + max(0, -(-beyond // capacity)))
    packs = len(list(pack(lengths, capacity)))
    yield problem, packs >= bound, f"{packs} packs; {bound} are needed"


def optimum(lengths: list[int], capacity: int) -> int:
    """The least number of packs, by trying every way to fill the pack of the longest example; for few examples."""

    def fillings(items: tuple[tuple[int, int], ...], space: int) -> Iterator[tuple[tuple[int, int], ...]]:
        """What is left of (length, count) items for every choice of some that fit into the space."""
        if not items:
            yield ()
            return
        (length, count), *others = items
        for taken in range(min(count, space // length), -1, -1):
            for left in fillings(tuple(others), space - taken * length):
                yield ((length, count - taken), *left) if count > taken else left

    @cache
    def packs(items: tuple[tuple[int, int], ...]) -> int:
        if not items:
            return 0
        (longest, count), *others = items
        rest = ((longest, count - 1), *others) if count > 1 else tuple(others)
        least = max(0, -(-(sum(length * n for length, n in rest) - (capacity - longest)) // capacity))
        best = len(lengths)
        for left in fillings(rest, capacity - longest):
            best = min(best, packs(left))
            if best == least:
                break
        return 1 + best

    return packs(tuple(sorted(Counter(lengths).items(), reverse=True)))


@should(seam="pack", laws="PK-FFD", floor=50, given={"problem": problems(most=10)}, examples=CAUGHT)
def packs_stay_within_eleven_ninths_of_the_optimum(pack, problem):
    """At most 11/9 OPT + 6/9 packs, OPT by exhaustive search.

    What first-fit and best-fit decreasing guarantee (Dósa 2007); next-fit, worst-fit and unsorted first-fit do not.
    Rows that could be saved are paid for in every epoch.
    """
    packs, best = len(list(pack(problem.lengths, problem.capacity))), optimum(problem.lengths, problem.capacity)
    yield problem, packs <= (11 * best + 6) // 9, f"{packs} packs; {best} are enough"


@should(seam="pack", laws="PK-ANYFIT", floor=50, given={"problem": problems()}, examples=CAUGHT)
def no_two_packs_fit_into_one(pack, problem):
    """No two packs would fit into one.

    A new pack is opened only when no open one has room. A search tree sized for powers of two found no room in any
    (trl#3887: 3,000 packs for 3,000 examples).
    """
    tokens = totals(pack(problem.lengths, problem.capacity), problem.lengths)
    two = min(combinations(tokens, 2), key=sum, default=(problem.capacity, 1))
    yield problem, sum(two) > problem.capacity, f"{two[0]} and {two[1]} tokens in two packs of {problem.capacity}"


@should(seam="pack", laws="PK-EFF", floor=50, given={"problem": problems()}, examples=CAUGHT)
def packs_are_more_than_half_full(pack, problem):
    """Two packs or more are more than half full together: sum of lengths / (packs * capacity) > 1/2.

    It follows from no two fitting into one, summed over all pairs. What remains is padding, which packing is there to
    avoid (up to 50 % of the tokens, Krell et al. 2021, arXiv:2107.02027).
    """
    packs = len(list(pack(problem.lengths, problem.capacity)))
    full = Fraction(sum(problem.lengths), packs * problem.capacity) if packs else Fraction(1)
    yield problem, packs < 2 or full > Fraction(1, 2), f"{packs} packs are {float(full):.0%} full"


# The collator, as a function


class Example(NamedTuple):
    """Ids and labels of one example: aligned, a label is the id or -100."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Packed:
    """What a collator gets: examples, the bins that index them, and a pad id that may occur in the examples too."""

    examples: list[Example]
    bins: list[list[int]]
    pad_token_id: int

    def segments(self) -> Iterator[tuple[int, int, int, Example]]:
        """Row, first and one-past-last column, and example of every segment: bin k is row k, in the bin's order."""
        for row, indices in enumerate(self.bins):
            ends = accumulate(len(self.examples[index].input_ids) for index in indices)
            for index, end in zip(indices, ends, strict=True):
                yield row, end - len(self.examples[index].input_ids), end, self.examples[index]

    def tokens(self, row: int) -> int:
        return sum(len(self.examples[index].input_ids) for index in self.bins[row])


@st.composite
def packings(draw: st.DrawFn) -> Packed:
    """One to six examples of one to eight tokens from a vocabulary of 6, the pad id among them, in one to six rows."""
    tokens = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=8)
    drawn = draw(st.lists(tokens, min_size=1, max_size=6))
    examples = [Example([token for token, _ in one], [token if on else -100 for token, on in one]) for one in drawn]
    order = draw(st.permutations(range(len(examples))))
    cuts = sorted({0, len(order), *draw(st.sets(st.integers(0, len(order))))})
    return Packed(examples, [list(order[start:end]) for start, end in pairwise(cuts)], draw(st.integers(0, 5)))


def _all_trained(*ids: list[int]) -> list[Example]:
    return [Example(one, list(one)) for one in ids]


ONE_TOKEN_EACH = Packed(_all_trained([3], [3], [3]), [[0, 1, 2]], 0)
# Rows are filled with the end-of-turn (5), so ids say nothing of padding; and every row has another layout.
PAD_IS_END_OF_TURN = Packed(_all_trained([1, 2, 5], [5, 5], [4, 5], [1, 2, 3, 4, 1, 2, 5, 1]), [[2, 0], [3], [1]], 5)
COLLATIONS = {"given": {"packed": packings()}, "examples": [{"packed": ONE_TOKEN_EACH}, {"packed": PAD_IS_END_OF_TURN}]}


def collated(collate, packed: Packed):
    return collate(packed.examples, packed.bins, pad_token_id=packed.pad_token_id)


@must(seam="collate", laws="PK-PART", floor=100, **COLLATIONS)
def every_row_holds_its_examples_in_order(collate, packed):
    """Row k holds the examples of bin k one after another, ids and labels as they were, and then nothing but padding.

    A separator that is built into the mask and not into the ids makes documents merge (torchtitan#3130); a row rounded
    to a divisible length loses its last tokens (TransformerEngine#1930).
    """
    batch = collated(collate, packed)
    yield packed, len(batch.input_ids) == len(packed.bins), f"{len(batch.input_ids)} rows for {len(packed.bins)} bins"
    for row, start, end, example in packed.segments():
        ids, labels = batch.input_ids[row, start:end].tolist(), batch.labels[row, start:end].tolist()
        yield example, ids == example.input_ids, f"row {row} holds {ids}"
        yield example, labels[1:] == example.labels[1:], f"row {row} has the labels {labels}"


@must(seam="collate", laws="PK-POS", floor=100, **COLLATIONS)
def positions_restart_at_every_example(collate, packed):
    """position_ids are 0, 1, 2, … in every segment.

    An example would otherwise be learned at positions where it never stands at inference (LLaMA-Factory#7318, #2289,
    nanoVLM#201). A rotary model with a correct mask hides it, learned positions do not (0.35 to 3.3 on the logits).
    Kundu et al. 2024, arXiv:2407.09105.
    """
    batch = collated(collate, packed)
    for row, start, end, example in packed.segments():
        seen = batch.position_ids[row, start:end].tolist()
        yield example, seen == list(range(end - start)), f"positions {seen}"


@must(seam="collate", laws="PK-MASK", floor=100, **COLLATIONS)
def the_dense_mask_is_causal_inside_each_segment(collate, packed):
    """Position i may attend to j if and only if both are in one segment and j <= i; no row of the mask is empty.

    A plain causal mask lets examples see each other (trl#1230, torchtune#875), an inverted one sees only others
    (transformers#38094), and an empty row is NaN after the softmax.
    """
    mask = collated(collate, packed).dense_mask()
    for row, start, end, example in packed.segments():
        for i in range(start, end):
            seen = [j for j, allowed in enumerate(mask[row, 0, i].tolist()) if allowed]
            yield (example, i - start), seen == list(range(start, i + 1)), f"position {i} attends to {seen}"
    yield packed, bool(mask.any(-1).all()), "a position attends to nothing"


@must(seam="collate", laws="PK-MASK", floor=50, **COLLATIONS)
def the_flex_mask_is_the_dense_mask(collate, packed):
    """FlexAttention's mask allows, in every row of the batch, the pairs that the dense mask allows.

    Masks that capture one row's layout are right for the first row alone (transformers#37406, pytorch#139462).
    """
    batch = collated(collate, packed)
    block_mask, dense = batch.flex_mask(), batch.dense_mask()
    index = dense.new_ones(dense.shape[-1]).cumsum(0) - 1
    for row in range(len(packed.bins)):
        allowed = block_mask.mask_mod(index.new_tensor(row), index.new_tensor(0), index[:, None], index)
        yield packed, bool((allowed == dense[row, 0]).all()), f"row {row} differs"
        yield packed, bool(block_mask.to_dense()[row].any()), f"row {row} has no block that is computed"


@must(seam="collate", laws="PK-MASK", floor=50, **COLLATIONS)
def cu_seqlens_are_the_boundaries_of_the_segments(collate, packed):
    """cu_seqlens are int32, start at 0, rise by each segment's length and end at the number of tokens.

    Off by one they move a token into the neighbour's context; FlashAttention reads whatever they say.
    """
    batch = collated(collate, packed)
    lengths = [end - start for _, start, end, _ in packed.segments()]
    seen = batch.cu_seqlens.tolist()
    yield packed, seen == [0, *accumulate(lengths)], f"cu_seqlens {seen} for segments of {lengths}"
    yield packed, str(batch.cu_seqlens.dtype) == "torch.int32", f"cu_seqlens are {batch.cu_seqlens.dtype}"
    yield packed, batch.max_seqlen == max(lengths), f"max_seqlen {batch.max_seqlen} for segments of {lengths}"


@must(seam="collate", laws="PK-BACKEND", floor=50, **COLLATIONS)
def a_packed_batch_has_no_row_mask(collate, packed):
    """Packed rows go to the model without a two-dimensional attention_mask.

    Given one, also of ones, transformers 5.23 no longer looks for boundaries in position_ids: logits are off by 4.9
    (bugs.md H4; flash-linear-attention#838, #1088).
    """
    mask = collated(collate, packed).model_inputs().get("attention_mask")
    yield packed, mask is None or mask.dim() == 4, "the model gets an attention_mask of rows"


@must(seam="collate", laws="PK-BOUND", floor=100, **COLLATIONS)
def the_first_label_of_a_segment_is_ignored(collate, packed):
    """The first label of every segment is -100: the logits before it belong to another example.

    Otherwise the last token of one example is trained to predict the first of the next (transformers#31629,
    bionemo-recipes#1449). Prompts that are masked anyway hide it, so examples here are trained from their first token.
    """
    labels = collated(collate, packed).labels
    for row, start, _, example in packed.segments():
        yield example, int(labels[row, start]) == -100, f"label {int(labels[row, start])} in row {row}, column {start}"


@must(seam="collate", laws="PK-NTOK", floor=50, **COLLATIONS)
def packing_keeps_the_number_of_targets(collate, packed):
    """A batch has as many scored targets as its examples have alone.

    The denominator of the loss is this number. Boundaries subtracted twice scale it by (T - N) / (T - 2N + 1)
    (unsloth-zoo#1066), which many tiny segments show (bugs.md H24).
    """
    expected = sum(label != -100 for example in packed.examples for label in example.labels[1:])
    batch = collated(collate, packed)
    scored = int((batch.labels[:, 1:] != -100).sum())
    yield packed, scored == expected, f"{scored} labels are scored, the examples have {expected}"
    yield packed, batch.num_targets == expected, f"num_targets is {batch.num_targets}, the examples have {expected}"


@must(seam="collate", laws="PK-PAD", floor=50, **COLLATIONS)
def padding_is_no_target_and_is_never_attended(collate, packed):
    """Padding is known by its position: it has no label, and no token attends to it, whatever the pad id.

    With pad = end-of-turn, masking by id unlearns to stop (trl#976), and not masking trains on padding. Multiplied with
    a mask instead of left out, one NaN there is the loss (Megatron-Bridge#3117).
    """
    batch = collated(collate, packed)
    mask = batch.dense_mask()
    for row in range(len(packed.bins)):
        end = packed.tokens(row)
        labels = batch.labels[row, end:].tolist()
        yield packed, set(labels) <= {-100}, f"labels {labels} on the padding of row {row}"
        yield packed, not mask[row, 0, :end, end:].any(), f"a token of row {row} attends to padding"
