"""Selection that went wrong: the winner is not the best candidate, or has no reward."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.parts import Parts, broken
from sftspec.rejection_sampling import rejection_sample
from sftspec.selection import UNRANKED, best_of_n

INF = math.inf
Row = Sequence[float]


def best_first(row: Row) -> list[int]:
    """The order that sftspec declares: candidates with a reward, the larger first, of equals the first."""
    return sorted((i for i, reward in enumerate(row) if not math.isnan(reward)), key=row.__getitem__, reverse=True)


def ranked_by(order: Callable[[Row], list[int]]) -> Parts:
    """The reference with another order of a prompt's candidates, best first, wherever it selects."""

    def select(rewards):
        return [(order(row) or [UNRANKED])[0] for row in rewards]

    def select_top(rewards, k):
        return [order(row)[:k] for row in rewards]

    def sample_best(*arguments):
        for each in rejection_sample(*arguments):
            row = [math.nan if reward is None else reward for reward in each.rewards]
            yield replace(each, winner=select([row])[0])

    return broken("best_of_n", best_of_n=select, top_k=select_top, rejection_sample=sample_best)


def scored_by(score: Callable[[float], Any]) -> Parts:
    """The reference, ranking score(reward) instead of the reward, candidates without a reward among the others."""
    return ranked_by(lambda row: sorted(range(len(row)), key=lambda i: score(row[i]), reverse=True))


@killed_by("the-winner-has-the-largest-reward the-k-best-are-the-k-largest more-candidates-never-make-the-winner-worse")
@seen_in("B-12: SensAI-PT/LLaMa2lang#52")
@effect("trained on the worst answers", fix="sort in descending order")
def worst_first():
    """Candidates are sorted in ascending order."""
    return ranked_by(lambda row: best_first(row)[::-1])


@killed_by("the-k-best-are-the-k-largest")
@seen_in("B-12: subtle form of SensAI-PT/LLaMa2lang#52, where the k best are reversed")
@effect("the second best is trained", fix="best first")
def k_best_reversed():
    """The k best are the right ones, in ascending order."""
    return broken("best_of_n", top_k=lambda rewards, k: [best_first(row)[:k][::-1] for row in rewards])


@killed_by("a-nan-never-wins a-prompt-without-rewards-has-no-winner the-k-best-are-the-k-largest")
@seen_in("B-09: lasso-net/lassonet#20")
@effect("trained on what could not be scored", fix="leave out what has no reward, then compare")
def nan_wins():
    """A NaN is larger than every reward, as argmax, topk and sort of NumPy and PyTorch have it."""
    return scored_by(lambda reward: (math.isnan(reward), reward))


@killed_by("a-nan-never-wins a-prompt-without-rewards-has-no-winner")
@seen_in("B-09: OpenRLHF/OpenRLHF 0.8.11, Python's comparisons")
@effect("trained on what could not be scored, at times", fix="leave out what has no reward, then compare")
def nan_wins_where_it_comes_first():
    """Winners are found with `reward > best`: a NaN wins where it comes first, and nowhere else."""
    return broken("best_of_n", best_of_n=lambda rewards: [max(range(len(row)), key=row.__getitem__) for row in rewards])


@killed_by("a-nan-never-wins a-prompt-without-rewards-has-no-winner")
@seen_in("B-09: huggingface/trl#4501, nan_to_num")
@effect("trained on what could not be scored, at times", fix="validity is a key of its own")
def nan_ties_with_minus_infinity():
    """NaN is replaced by -inf, ties with a true -inf, and wins where it comes first."""
    return scored_by(lambda reward: -INF if math.isnan(reward) else reward)


@killed_by("a-nan-never-wins a-prompt-without-rewards-has-no-winner the-candidate-with-the-largest-reward-is-trained")
@seen_in("B-09: huggingface/trl#3079, None as zero")
@effect("no reward beats a bad one", fix="leave out what has no reward, then compare")
def missing_reward_is_zero():
    """A candidate without a reward counts zero, which is more than a negative reward."""
    return scored_by(lambda reward: 0.0 if math.isnan(reward) else reward)


@killed_by("a-nan-never-wins")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, a path of its own for tensors")
@effect("trained on what could not be scored", fix="one rule for every form")
def tensors_left_to_argmax():
    """Lists are selected from by the rule, tensors by their own argmax, to which NaN is the largest."""

    def select(rewards):
        return rewards.argmax(-1) if isinstance(rewards, torch.Tensor) else best_of_n(rewards, on_unranked="skip")

    return broken("best_of_n", best_of_n=select)


@killed_by("integers-are-compared-as-integers")
@seen_in("subtle form of trap H22: counts and identifiers as rewards")
@effect("the best are told by order", fix="compare in the type that was given")
def integers_ranked_as_floats():
    """Rewards that are integers are rounded to float64 before they are compared."""
    return ranked_by(lambda row: best_first([float(reward) for reward in row]))


@killed_by("the-winner-has-the-largest-reward integers-are-compared-as-integers")
@seen_in("subtle form of trap H22: argsort(-rewards)")
@effect("a failure beats a pass", fix="sort ascending, from the end")
def integers_negated_to_sort():
    """An array of integers is negated to be sorted: unsigned ones wrap, and so does the smallest signed one."""

    def select(rewards):
        whole = isinstance(rewards, np.ndarray) and rewards.dtype.kind in "iu"
        return np.argsort(-rewards, axis=-1, kind="stable")[:, 0] if whole else best_of_n(rewards, on_unranked="skip")

    return broken("best_of_n", best_of_n=select)


@killed_by("a-prompt-without-rewards-has-no-winner")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, the last line of a loop")
@effect("trained on what could not be scored", fix="skip the prompt, and count it")
def first_wins_where_none_has_a_reward():
    """Where no candidate has a reward, the first one wins."""
    return broken("best_of_n", best_of_n=lambda rewards: [(best_first(row) or [0])[0] for row in rewards])


@killed_by("a-nan-never-wins")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, the fix that overshoots")
@effect("hard prompts are never trained", fix="leave out the candidate, not the prompt")
def prompt_skipped_for_one_nan():
    """A prompt is skipped as soon as one candidate has no reward."""
    return ranked_by(lambda row: [] if any(map(math.isnan, row)) else best_first(row))


@killed_by("an-infinite-reward-ranks-above-every-finite-one")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, isfinite instead of isnan, overshoots")
@effect("the surest answers are lost", fix="only NaN is no reward")
def infinite_rewards_discarded():
    """+inf is discarded together with NaN."""
    return ranked_by(lambda row: best_first([math.nan if reward == INF else reward for reward in row]))


@killed_by("a-prompt-is-decided-by-its-own-candidates")
@seen_in("B-01: StarsfieldAI/R1-V#67")
@effect("selection is random", fix="repeat_interleave, or keep the prompt's number beside the reward")
def rewards_of_other_prompts():
    """Rewards lie in memory candidate by candidate, and are read prompt by prompt (repeat for repeat_interleave)."""

    def select(rewards):
        table = np.array(rewards)
        return best_of_n(table.T.reshape(table.shape), on_unranked="skip")

    return broken("best_of_n", best_of_n=select)


@killed_by("a-prompt-is-decided-by-its-own-candidates only-the-order-of-rewards-matters")
@seen_in("B-10: modelscope/ms-swift#6683, OptimalScale/LMFlow#293")
@effect("small differences are lost to the scale of others", fix="compare raw rewards, prompt by prompt")
def standardised_over_all_prompts():
    """Rewards are standardised over all prompts of the batch, in bfloat16, before they are compared."""

    def select(rewards):
        finite = [reward for row in rewards for reward in row if math.isfinite(reward)] or [0.0]
        mean, spread = math.fsum(finite) / len(finite), max(map(abs, finite)) or 1.0
        table = [
            torch.tensor([reward / spread - mean / spread for reward in row]).bfloat16().tolist() for row in rewards
        ]
        return [(best_first(row) or [UNRANKED])[0] for row in table]

    return broken("best_of_n", best_of_n=select)


@killed_by("selection-does-not-depend-on-sharding the-winner-has-the-largest-reward only-the-order-of-rewards-matters")
@seen_in("B-10: modelscope/ms-swift#10205, advantages")
@effect("good answers of easy prompts are passed over", fix="the best one, not one above the mean")
def first_above_the_mean():
    """The first candidate above its group's mean is kept."""
    return broken("best_of_n", best_of_n=lambda rewards: [_above_the_mean(row) for row in rewards])


def _above_the_mean(row: Row) -> int:
    order = best_first(row)
    mean = sum(row[i] for i in order) / len(order) if order else 0.0
    return next((i for i in sorted(order) if row[i] > mean), order[0] if order else UNRANKED)


@killed_by("the-winner-has-the-largest-reward selection-does-not-depend-on-sharding")
@seen_in("B-10: subtle form of modelscope/ms-swift#6683, indices of a worker")
@effect("the winner is another candidate", fix="add the shard's offset")
def index_within_the_shard():
    """Candidates are scored by workers of two, and the winner's index is that in its worker."""
    return broken("best_of_n", best_of_n=lambda rewards: [(best_first(row) or [UNRANKED])[0] % 2 for row in rewards])


@killed_by("the-winner-has-the-largest-reward")
@seen_in("subtle form of trap H22: probabilities of a reward head")
@effect("the best are told by order", fix="rank the logit")
def ranked_after_a_sigmoid():
    """Rewards go through a float32 sigmoid first: all above 17 tie."""
    return ranked_by(lambda row: best_first(torch.tensor(row, dtype=torch.float32).sigmoid().tolist()))


@killed_by("the-winner-has-the-largest-reward only-the-order-of-rewards-matters")
@seen_in("subtle form of trap H22: rewards in bfloat16")
@effect("the best are told by order", fix="compare in the precision that was computed")
def ranked_in_bfloat16():
    """Rewards are rounded to bfloat16 before they are compared: 256 and 257 tie."""
    return ranked_by(lambda row: best_first(torch.tensor(row, dtype=torch.float64).bfloat16().tolist()))


@killed_by("ties-are-decided-the-same-way-each-time")
@seen_in("no report known: argmax on GPUs")
@effect("no run can be repeated", fix="a rule for ties")
def ties_at_random():
    """Of equal rewards any candidate may win."""
    return ranked_by(lambda row: sorted(best_first(row), key=lambda i: (row[i], random.random()), reverse=True))


@killed_by("the-first-of-equals-wins")
@seen_in("no report known: sort, then take the last")
@effect("late samples are preferred", fix="a rule for ties")
def last_of_equals_wins():
    """Of equal rewards the candidate that was sampled last wins."""
    return ranked_by(lambda row: sorted(best_first(row), key=lambda i: (row[i], i), reverse=True))


@killed_by("permuting-the-candidates-moves-the-winner-along the-best-of-normal-rewards-is-their-expected-maximum")
@seen_in("no report known: early stopping of the search")
@effect("best-of-N is best-of-three", fix="score all candidates")
def late_candidates_penalised():
    """Each place later costs a candidate one unit of reward."""
    return ranked_by(lambda row: sorted(best_first(row), key=lambda i: i - float(row[i])))
