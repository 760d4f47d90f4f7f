"""The collator, as a function: in a batch each example is a segment with positions, mask and labels of its own.

Trainers let segments see each other, number positions across a row, or train the last token of one example on the first
of the next, and the loss moves by less than a percent (trap H1). Here the tensors are compared with the definition.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from hypothesis import strategies as st

from sftspec.collation import Batch
from sftspec.counted import counted
from sftspec.properties import must


class Example(NamedTuple):
    """Ids and labels of one example: aligned, a label is the id or -100."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Packed:
    """What a collator is given: examples, bins that index them, and a pad id that may occur in the examples too."""

    examples: list[Example]
    bins: list[list[int]]
    pad_token_id: int | None

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
# Two blocks of a kernel and a bit (128 positions each), with more segments, and more positions, than 8 bits count.
WIDE = Packed(_all_trained(*[[3]] * 300, [1, 2, 4] * 200), [list(range(300)), [300]], 0)
COLLATIONS: dict[str, Any] = {
    "given": {"packed": packings()},
    "examples": [{"packed": packed} for packed in (ONE_TOKEN_EACH, PAD_IS_END_OF_TURN, WIDE)],
}


def collated(collate, packed: Packed, **options):
    return collate(packed.examples, packed.bins, pad_token_id=packed.pad_token_id, **options)


@must(seam="collate", laws="PK-PART", floor=100, **COLLATIONS)
def row_k_holds_the_examples_of_bin_k(collate, packed):
    """Row k holds the ids and labels of the examples of bin k, one after another.

    A separator that is built into the mask and not into the ids makes documents merge (torchtitan#3130); a row rounded
    to a divisible length loses its last tokens (TransformerEngine#1930).
    """
    batch = collated(collate, packed)
    yield (
        packed,
        len(batch.input_ids) == len(packed.bins),
        f"{counted(len(batch.input_ids), 'row')} for {counted(len(packed.bins), 'bin')}",
    )
    for row, start, end, example in packed.segments():
        ids, labels = batch.input_ids[row, start:end].tolist(), batch.labels[row, start:end].tolist()
        yield example, ids == example.input_ids, f"row {row} holds {ids}"
        # The first label of a segment has a property of its own.
        yield example, labels[1:] == example.labels[1:], f"row {row} has the labels {labels}"


@must(seam="collate", laws="PK-PART", floor=50, **COLLATIONS)
def a_batch_is_not_changed_by_the_next(collate, packed):
    """A batch holds what it held after the next one was made.

    A loader is ahead of the step: a buffer that is used again trains the tokens of another batch.
    """
    batch = collated(collate, packed)
    ids, labels = batch.input_ids.clone(), batch.labels.clone()
    others = [Example([0] * len(one), [-100] * len(one)) for one, _ in packed.examples]
    collated(collate, replace(packed, examples=others))
    same = bool((batch.input_ids == ids).all() and (batch.labels == labels).all())
    yield packed, same, "its ids or labels are those of the next batch"


@must(seam="collate", laws="PK-PART", floor=50, **COLLATIONS)
def collating_changes_no_example(collate, packed):
    """Examples and bins are left as they were.

    They are needed again in the next epoch.
    """
    before = deepcopy(packed)
    collated(collate, packed)
    yield before, packed == before, "the examples or the bins were changed"


@must(seam="collate", laws="PK-PART", floor=50, **COLLATIONS)
def ids_and_labels_are_int64(collate, packed):
    """input_ids and labels are int64.

    Torch's embedding and cross-entropy take nothing less; a narrower type wraps a large vocabulary.
    """
    batch = collated(collate, packed)
    for name in ("input_ids", "labels"):
        kind = getattr(batch, name).dtype
        yield packed, str(kind) == "torch.int64", f"{name} are {kind}"


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
def a_position_attends_to_its_segment_up_to_itself(collate, packed):
    """In the dense mask position i attends to j if and only if both are in one segment and j <= i.

    A plain causal mask lets examples see each other (trl#1230, torchtune#875), an inverted one sees only others
    (transformers#38094).
    """
    mask = collated(collate, packed).dense_mask()
    for row, start, end, example in packed.segments():
        for i in range(start, end):
            seen = [j for j, allowed in enumerate(mask[row, 0, i].tolist()) if allowed]
            yield (example, i - start), seen == list(range(start, i + 1)), f"position {i} attends to {seen}"


@must(seam="collate", laws="PK-MASK", floor=50, **COLLATIONS)
def no_row_of_the_mask_is_empty(collate, packed):
    """In the dense mask every position attends to something, padding included.

    An empty row is NaN after the softmax.
    """
    mask = collated(collate, packed).dense_mask()
    yield packed, bool(mask.any(-1).all()), "a position attends to nothing"


FLEX_MASKS: dict[tuple, Any] = {}  # PyTorch takes some 20 ms to make one


def flex_mask_of(batch: Any) -> Any:
    """FlexAttention's mask; the reference's, which follows from the segments, is made once for equal ones."""
    if getattr(type(batch), "flex_mask", None) is not Batch.flex_mask:
        return batch.flex_mask()
    key = tuple(map(tuple, batch.segment_ids.tolist()))
    if key not in FLEX_MASKS:
        FLEX_MASKS[key] = batch.flex_mask()
    return FLEX_MASKS[key]


@must(seam="collate", laws="PK-MASK", floor=50, **COLLATIONS)
def the_flex_mask_allows_what_the_dense_mask_allows(collate, packed):
    """FlexAttention's mask allows, in every row of the batch, the pairs that the dense mask allows.

    Masks that capture one row's layout are right for the first row alone (transformers#37406, pytorch#139462).
    """
    batch = collated(collate, packed)
    block_mask, dense = flex_mask_of(batch), batch.dense_mask()
    index = dense.new_ones(dense.shape[-1]).cumsum(0) - 1
    for row in range(len(packed.bins)):
        allowed = block_mask.mask_mod(index.new_tensor(row), index.new_tensor(0), index[:, None], index)
        yield packed, bool((allowed == dense[row, 0]).all()), f"row {row} differs"


@must(seam="collate", laws="PK-MASK", floor=50, **COLLATIONS)
def the_flex_mask_computes_every_block_it_needs(collate, packed):
    """FlexAttention computes every block that holds a pair of the dense mask.

    A block that is not computed hides its pairs, whatever the mask says of them.
    """
    batch = collated(collate, packed)
    block_mask, dense = flex_mask_of(batch), batch.dense_mask()
    computed = block_mask.to_dense() > 0
    for row in range(len(packed.bins)):
        i, j = (places // size for places, size in zip(dense[row, 0].nonzero().T, block_mask.BLOCK_SIZE, strict=True))
        yield packed, bool(computed[row, 0, i, j].all()), f"a block of row {row} is not computed"


@must(seam="collate", laws="PK-MASK", floor=50, **COLLATIONS)
def cu_seqlens_mark_the_end_of_each_segment(collate, packed):
    """cu_seqlens start at 0, rise by each segment's length and end at the number of tokens.

    Off by one they move a token into the neighbour's context; FlashAttention reads whatever they say.
    """
    lengths = [end - start for _, start, end, _ in packed.segments()]
    seen = collated(collate, packed).cu_seqlens.tolist()
    yield packed, seen == [0, *accumulate(lengths)], f"cu_seqlens {seen} for segments of {lengths}"


@must(seam="collate", laws="PK-MASK", floor=50, **COLLATIONS)
def cu_seqlens_are_int32(collate, packed):
    """cu_seqlens are int32.

    FlashAttention's varlen kernels take no other type.
    """
    kind = collated(collate, packed).cu_seqlens.dtype
    yield packed, str(kind) == "torch.int32", f"cu_seqlens are {kind}"


@must(seam="collate", laws="PK-MASK", floor=50, **COLLATIONS)
def max_seqlen_is_the_longest_segment(collate, packed):
    """max_seqlen is the length of the longest segment.

    A smaller one leaves the end of the longest segment without attention.
    """
    lengths = [end - start for _, start, end, _ in packed.segments()]
    seen = collated(collate, packed).max_seqlen
    yield packed, seen == max(lengths), f"max_seqlen {seen} for segments of {lengths}"


@must(seam="collate", laws="PK-BACKEND", floor=50, **COLLATIONS)
def a_packed_batch_has_no_row_mask(collate, packed):
    """Packed rows go to the model without a two-dimensional attention_mask.

    Given one, also of ones, transformers 5.23 no longer looks for boundaries in position_ids: logits are off by 4.9
    (trap H4; flash-linear-attention#838, #1088).
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
    """A batch scores, and counts in num_targets, as many targets as its examples have alone.

    The denominator of the loss is this number. Boundaries subtracted twice scale it by (T - N) / (T - 2N + 1)
    (unsloth-zoo#1066), which many tiny segments show (trap H24).
    """
    expected = sum(label != -100 for example in packed.examples for label in example.labels[1:])
    batch = collated(collate, packed)
    scored = int((batch.labels[:, 1:] != -100).sum())
    yield packed, scored == expected, f"{counted(scored, 'label')} scored, the examples have {expected}"
    yield packed, batch.num_targets == expected, f"num_targets is {batch.num_targets}, the examples have {expected}"


@must(seam="collate", laws="PK-PAD", floor=50, **COLLATIONS)
def padding_has_no_label(collate, packed):
    """What stands behind the examples of a row has no label, whatever the pad id.

    Padding is known by its position: with pad = end-of-turn, masking by id unlearns to stop (trl#976), and not masking
    trains on padding.
    """
    labels = collated(collate, packed).labels
    for row in range(len(packed.bins)):
        seen = labels[row, packed.tokens(row) :].tolist()
        yield packed, set(seen) <= {-100}, f"labels {seen} on the padding of row {row}"


@must(seam="collate", laws="PK-PAD", floor=50, **COLLATIONS)
def no_token_attends_to_padding(collate, packed):
    """In the dense mask no token of an example attends to padding, whatever the pad id.

    Multiplied with a mask instead of left out, one NaN there is the loss (Megatron-Bridge#3117).
    """
    mask = collated(collate, packed).dense_mask()
    for row in range(len(packed.bins)):
        end = packed.tokens(row)
        yield packed, not mask[row, 0, :end, end:].any(), f"a token of row {row} attends to padding"
