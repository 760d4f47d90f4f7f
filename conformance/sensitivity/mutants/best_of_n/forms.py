"""Selection that is right in lists, and wrong in a form, for a single row, for many prompts or in a second call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.parts import Parts, broken
from sftspec.selection import best_of_n, top_k


def where(condition: Callable[[Any], bool], change: Callable[[Any], Any], **other: Callable) -> Parts:
    """The reference's selection, of rewards that are changed where they meet the condition."""

    def select(rewards, on_unranked="error"):
        return best_of_n(change(rewards) if condition(rewards) else rewards, on_unranked)

    return broken("best_of_n", best_of_n=select, **other)


def is_array(*types: str) -> Callable[[Any], bool]:
    return lambda rewards: isinstance(rewards, np.ndarray) and (not types or rewards.dtype.name in types)


def is_tensor(*types: torch.dtype) -> Callable[[Any], bool]:
    return lambda rewards: isinstance(rewards, torch.Tensor) and (not types or rewards.dtype in types)


@killed_by("the-winner-has-the-largest-reward")
@seen_in("subtle form of trap H22: half precision for speed")
@effect("the best are told by order", fix="compare in the precision that was computed")
def float32_arrays_ranked_in_float16():
    """Arrays of float32 are cast to float16 before they are compared."""
    return where(is_array("float32"), lambda rewards: rewards.astype(np.float16))


@killed_by("the-winner-has-the-largest-reward")
@seen_in("subtle form of trap H22: tensors through .float()")
@effect("the best are told by order", fix="compare in the precision that was computed")
def tensors_ranked_in_float32():
    """Every tensor is made float32 before it is compared, what is float64 or an integer, too."""
    return where(is_tensor(), torch.Tensor.float)


@killed_by("the-winner-has-the-largest-reward")
@seen_in("no report known: a mean that is taken off in half precision")
@effect("the best are told by order", fix="compare raw rewards")
def half_precision_centred():
    """Tensors in float16 or bfloat16 are centred on their row's mean in their own type, which rounds."""
    return where(is_tensor(torch.float16, torch.bfloat16), lambda rewards: rewards - rewards.mean(-1, keepdim=True))


@killed_by("the-winner-has-the-largest-reward")
@seen_in("no report known: argsort(-rewards), on tensors of pixels and counts")
@effect("a failure beats a pass", fix="sort ascending, from the end")
def unsigned_tensors_negated():
    """A tensor of unsigned integers is negated to be sorted: 0 stays 0, and beats all others."""

    def select(rewards, on_unranked="error"):
        if not is_tensor(torch.uint8)(rewards):
            return best_of_n(rewards, on_unranked)
        return (-rewards).argsort(dim=-1, stable=True)[..., 0]

    return broken("best_of_n", best_of_n=select)


@killed_by("the-winner-has-the-largest-reward")
@seen_in("no report known: an index in one byte")
@effect("the winner is another candidate", fix="int64")
def indices_in_one_byte():
    """The index of the winner is kept in a byte: candidate 256 is candidate 0."""
    return broken(
        "best_of_n", best_of_n=lambda rewards, on_unranked="error": np.asarray(best_of_n(rewards, on_unranked)) % 256
    )


@killed_by("the-winner-has-the-largest-reward the-k-best-are-the-k-largest")
@seen_in("no report known: a loop over blocks of eight")
@effect("all prompts but the first are trained on others' choices", fix="write each block in its place")
def blocks_of_eight_prompts():
    """Of more than eight prompts all but the first eight have the first one's choice."""

    def first_block(choose):
        def select(*arguments, **options):
            chosen = np.array(choose(*arguments, **options))
            if np.ndim(arguments[0]) == 2 or isinstance(arguments[0], list):
                chosen[8:] = chosen[:1]
            return chosen

        return select

    return broken("best_of_n", best_of_n=first_block(best_of_n), top_k=first_block(top_k))


@killed_by("the-winner-has-the-largest-reward")
@seen_in("no report known: drop_last, on tensors")
@effect("the last prompts are not trained", fix="a shorter last block")
def last_tensor_block_left_out():
    """Tensors are selected from in blocks of 64 prompts, and the last block, which is shorter, is left out."""

    def select(rewards, on_unranked="error"):
        winners = best_of_n(rewards, on_unranked)
        return winners[: len(winners) // 64 * 64] if is_tensor()(rewards) and len(rewards) > 64 else winners

    return broken("best_of_n", best_of_n=select)


@killed_by("a-prompt-is-decided-by-its-own-candidates")
@seen_in('no report known: ravel(order="K")')
@effect("selection is random", fix="flatten in the order of rows")
def memory_read_as_rows():
    """The numbers of an array are read in the order in which they lie in memory."""
    return where(is_array(), lambda rewards: np.ravel(rewards, order="K").reshape(rewards.shape))


@killed_by("a-none-never-wins")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, None in an array of objects")
@effect("no reward beats a bad one", fix="None is no reward in any form")
def none_in_an_array_is_zero():
    """In an array of objects a None counts 0."""
    return where(is_array("object"), lambda rewards: np.where(np.equal(rewards, np.array(None)), 0, rewards))


@killed_by("a-nan-never-wins")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, nan_to_num on what was stacked")
@effect("no reward beats a bad one", fix="one rule for every form")
def stacked_scalars_lose_their_nan():
    """Rows that hold scalar tensors are stacked, and a NaN among them becomes 0."""
    return where(
        lambda rewards: isinstance(rewards, list) and isinstance(rewards[0], list) and is_tensor()(rewards[0][0]),
        lambda rewards: [torch.stack(row).nan_to_num().tolist() for row in rewards],
    )


@killed_by("the-first-of-equals-wins")
@seen_in("no report known: a loop for rows of unequal length")
@effect("late samples are preferred", fix="one rule for every shape")
def last_of_equals_in_unequal_rows():
    """Rows of unequal length are gone through with `reward >= best`: of equals the last wins there."""

    def select(rewards, on_unranked="error"):
        if isinstance(rewards, list) and len({np.size(row) for row in rewards}) > 1:
            return [len(row) - 1 - int(best_of_n(row[::-1], on_unranked)) for row in rewards]
        return best_of_n(rewards, on_unranked)

    return broken("best_of_n", best_of_n=select)


@killed_by("the-winner-has-the-largest-reward")
@seen_in("no report known: a cache by the sum of a batch")
@effect("a shuffled batch has the winners of the one before", fix="no cache, or one by content")
def winners_cached_by_what_is_in_the_table():
    """The last winners are given again for a table that has the same rewards in another order."""
    kept: dict[tuple, Any] = {}

    def select(rewards, on_unranked="error"):
        key = tuple(tuple(sorted(map(str, row))) for row in rewards) if np.ndim(rewards[0]) else ()
        if key not in kept or not key:
            kept.clear()
            kept[key] = best_of_n(rewards, on_unranked)
        return kept[key]

    return broken("best_of_n", best_of_n=select)


@killed_by("the-k-best-are-the-k-largest")
@seen_in("no report known: a way of its own for a single prompt")
@effect("the best of the k best is any of them", fix="one rule for every shape")
def k_best_of_one_row_unsorted():
    """The k best of a single row (N,) are the right ones, in the order of sampling."""

    def select_top(rewards, k, on_unranked="error"):
        chosen = top_k(rewards, k, on_unranked)
        return np.sort(chosen) if np.ndim(chosen) == 1 else chosen

    return broken("best_of_n", top_k=select_top)


@killed_by("the-k-best-are-the-k-largest")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, torch.topk for tensors")
@effect("trained on what could not be scored", fix="one rule for every form")
def tensors_left_to_topk():
    """Lists are ranked by the rule, tensors by topk, to which NaN is the largest."""

    def select_top(rewards, k, on_unranked="error"):
        return rewards.topk(k, dim=-1).indices if is_tensor()(rewards) else top_k(rewards, k, on_unranked)

    return broken("best_of_n", top_k=select_top)


@killed_by("ranking-leaves-the-rewards-as-they-are")
@seen_in("no report known: masked_fill_ on the caller's tensor")
@effect("what broke is said to have been judged", fix="work on a copy")
def missing_rewards_overwritten_in_ranking():
    """After the k best were chosen, NaN is -inf in the array or tensor that was given."""

    def select_top(rewards, k, on_unranked="error"):
        chosen = top_k(rewards, k, on_unranked)
        if isinstance(rewards, np.ndarray | torch.Tensor):
            rewards[rewards != rewards] = -np.inf
        return chosen

    return broken("best_of_n", top_k=select_top)


@killed_by("fewer-rewards-than-k-are-refused-or-marked")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, a None that counts 0")
@effect("no reward beats a bad one", fix="None is no reward")
def none_ranks_as_zero():
    """Among the k best a None counts 0."""
    return broken(
        "best_of_n",
        top_k=lambda rewards, k, on_unranked="error": top_k(
            [[0.0 if reward is None else reward for reward in row] for row in rewards], k, on_unranked
        ),
    )


@killed_by("fewer-rewards-than-k-are-refused-or-marked")
@seen_in("no report known: a rectangle that is cut to the shortest row")
@effect("good answers are passed over", fix="fill up with NaN")
def rows_cut_to_the_shortest():
    """Rows of unequal length are cut to the shortest, where prompts are to be skipped."""

    def select_top(rewards, k, on_unranked="error"):
        if on_unranked == "skip" and isinstance(rewards, list):
            rewards = [row[: min(map(len, rewards))] for row in rewards]
            k = min(k, len(rewards[0]))
        return top_k(rewards, k, on_unranked)

    return broken("best_of_n", top_k=select_top)
