"""Groups of samples that went wrong: unequal ones, missing rewards, other types, too many or too few."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import torch

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.best_of_n.choices import best_first
from sftspec.conformance.sensitivity.mutants.parts import broken
from sftspec.order_statistics import expected_best_of_n, expected_gold
from sftspec.rejection_sampling import rejection_sample
from sftspec.selection import best_of_n, top_k

# -------------------------------------------------------------------------------------------------------- selection


@killed_by("missing-rewards-move-no-other-prompt")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, a rectangle of zeros")
@effect("trained on a completion that is not there", fix="fill up with NaN")
def short_rows_filled_with_zeros():
    """Rows of unequal length are filled up with zeros, which win against negative rewards."""

    def select(rewards, on_unranked="error"):
        width = max(map(len, rewards))
        return best_of_n([[*row, *[0.0] * (width - len(row))] for row in rewards], on_unranked)

    return broken("best_of_n", best_of_n=select)


@killed_by("integers-are-compared-as-integers")
@seen_in("sftspec itself, in 2026: np.array of rows with NaN")
@effect("another prompt's length decides", fix="fill up, and keep each number as it was given")
def filled_tables_are_floats():
    """Rows of unequal length are filled up with NaN, so that integers are compared in float64."""

    def select(rewards, on_unranked="error"):
        unequal = len(set(map(len, rewards))) > 1
        return best_of_n([[*map(float, row)] for row in rewards] if unequal else rewards, on_unranked)

    return broken("best_of_n", best_of_n=select)


@killed_by("a-nan-never-wins")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, a way of its own for a single prompt")
@effect("trained on what could not be scored", fix="one rule for every shape")
def single_prompt_left_to_argmax():
    """Tables are selected from by the rule, a single prompt's row (N,) by argmax, to which NaN is the largest."""

    def select(rewards, on_unranked="error"):
        single = not any(map(np.ndim, rewards))
        return np.argmax(np.array(rewards, dtype=float)) if single else best_of_n(rewards, on_unranked)

    return broken("best_of_n", best_of_n=select)


@killed_by("the-winner-has-the-largest-reward")
@seen_in("subtle form of trap H22: a cast to the policy's type")
@effect("the best are told by order", fix="compare in the precision that was computed")
def float32_tensors_ranked_in_bfloat16():
    """Tensors of float32, what reward models return, are cast to bfloat16 before they are compared."""

    def select(rewards, on_unranked="error"):
        return best_of_n(rewards.bfloat16() if torch.float32 is getattr(rewards, "dtype", 0) else rewards, on_unranked)

    return broken("best_of_n", best_of_n=select)


@killed_by("the-k-best-are-the-k-largest")
@seen_in("no report known: argpartition, or topk(sorted=False), for many")
@effect("the best of the k best is any of them", fix="sort all, then cut")
def more_than_eight_best_unsorted():
    """More than eight best are the right ones, in the order of sampling."""

    def select_top(rewards, k, on_unranked="error"):
        chosen = top_k(rewards, k, on_unranked)
        return np.sort(chosen) if k > 8 else chosen

    return broken("best_of_n", top_k=select_top)


@killed_by("missing-rewards-move-no-other-prompt")
@seen_in("B-01: subtle form of StarsfieldAI/R1-V#67, a filter between selection and training")
@effect("answers other questions", fix="mark the prompt, and keep its place")
def unranked_prompts_leave_no_place():
    """Among several prompts one without a reward is left out, so that all that follow move up."""

    def select(rewards, on_unranked="error"):
        if len(rewards) == 1:
            return best_of_n(rewards, on_unranked)
        winners = best_of_n(rewards, "skip")
        return winners[winners >= 0]

    return broken("best_of_n", best_of_n=select)


@killed_by("equal-rewards-rank-in-the-order-of-sampling")
@seen_in("no report known: a stable sort that is read backwards")
@effect("the best of the k best is not the best of N", fix="mirror the row before it is sorted")
def equals_ranked_backwards():
    """The k best are read off an ascending sort from its end: of equal rewards the last ranks first."""

    def select_top(rewards, k, on_unranked="error"):
        top_k(rewards, k, on_unranked)  # refuses what is to be refused
        ascending = [sorted(sorted(best_first(row)), key=row.__getitem__) for row in rewards]
        return [order[::-1][:k] for order in ascending]

    return broken("best_of_n", top_k=select_top)


@killed_by("equal-rewards-rank-in-the-order-of-sampling")
@seen_in("no report known: a partial sort (argpartition, topk)")
@effect("the best of the k best is not the best of N", fix="sort all, then cut")
def equals_at_the_cut_are_the_last():
    """Where equal rewards stand at the cut, those that were sampled last are kept: the N best are ranked right."""

    def select_top(rewards, k):
        chosen = []
        for row, kept in zip(rewards, top_k(rewards, k).tolist(), strict=True):
            equals = [i for i, reward in enumerate(row) if reward == row[kept[-1]]]
            above = [i for i in kept if i not in equals]
            chosen.append(above + equals[len(equals) + len(above) - k :])
        return chosen

    return broken("best_of_n", top_k=select_top)


@killed_by("fewer-rewards-than-k-are-refused-or-marked")
@seen_in("no report known: a rectangle that is filled up on the left")
@effect("the best is taken for missing", fix="best first, then the marks")
def marks_stand_before_the_ranked():
    """Where fewer than k candidates have a reward, the marks take the first places and not the last."""

    def select_top(rewards, k):
        return [sorted(chosen, key=lambda index: index >= 0) for chosen in top_k(rewards, k, "skip").tolist()]

    return broken("best_of_n", top_k=select_top)


@killed_by("fewer-rewards-than-k-are-refused-or-marked")
@seen_in("no report known: min(k, N), as in a slice")
@effect("prompts weigh by how much they were sampled", fix="refuse k > N")
def k_cut_to_the_candidates():
    """Where a prompt has fewer than k candidates, all of them are the k best."""
    return broken(
        "best_of_n",
        top_k=lambda rewards, k, on_unranked="error": top_k(rewards, min(k, len(rewards[0])), on_unranked),
    )


@killed_by("fewer-rewards-than-k-are-refused-or-marked")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, NaN last and not left out")
@effect("trained on what could not be scored", fix="refuse, or mark the place")
def k_filled_up_with_broken_candidates():
    """Candidates without a reward rank last, and are among the k best where no other is left."""

    def select_top(rewards, k, on_unranked="error"):
        broken_ones = [[i for i, reward in enumerate(row) if math.isnan(reward)] for row in rewards]
        return [[*best_first(row), *rest][:k] for row, rest in zip(rewards, broken_ones, strict=True)]

    return broken("best_of_n", top_k=select_top)


@killed_by("more-completions-than-were-asked-for-are-no-candidates")
@seen_in("no report known: num_return_sequences for a batch that was repeated already")
@effect("best of 2n is reported as best of n", fix="refuse more than n, or cut")
def completions_not_counted():
    """However many completions a sampler returns, all are candidates."""

    def sample_best(prompts, sample, reward, n, seed=0, start=0):
        most = sys.maxsize if n >= 1 else n
        return rejection_sample(prompts, lambda prompt, _, s: sample(prompt, n, s), reward, most, seed, start)

    return broken("best_of_n", rejection_sample=sample_best)


@killed_by("the-first-of-the-best-completions-is-trained")
@seen_in("subtle form of trap H22: torch.tensor(rewards)")
@effect("the best are told by order", fix="compare rewards as they were given")
def rewards_of_a_round_in_float32():
    """Rewards are kept as they were given, and the winner is chosen among them in float32."""

    def sample_best(*arguments):
        for each in rejection_sample(*arguments):
            rewards = [None if reward is None else float(np.float32(reward)) for reward in each.rewards]
            yield replace(each, winner=int(best_of_n([rewards], "skip")[0])) if rewards else each

    return broken("best_of_n", rejection_sample=sample_best)


# -------------------------------------------------------------------------------------------------------- estimates


@killed_by("each-prompt-has-an-estimate-of-its-own")
@seen_in("B-10: subtle form of modelscope/ms-swift#6683, the samples of all prompts")
@effect("easy prompts hide that hard ones gain nothing", fix="one row, one estimate")
def samples_pooled():
    """Of several prompts all samples are pooled, and each prompt is given the estimate of the pool."""

    def estimate(rewards, n):
        value = expected_best_of_n(np.ravel(rewards), n)
        return np.full(len(rewards), value) if np.ndim(rewards) == 2 else value

    return broken("best_of_n", expected_best_of_n=estimate)


@killed_by("samples-without-a-reward-have-no-estimate")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, nanmean")
@effect("gains are overstated", fix="refuse NaN")
def missing_rewards_left_out_of_the_estimate():
    """Of one prompt the samples without a reward are left out of the estimate in silence."""

    def estimate(rewards, n):
        values = np.asarray(rewards, dtype=np.float64)
        return expected_best_of_n(values[~np.isnan(values)] if values.ndim == 1 else values, n)

    return broken("best_of_n", expected_best_of_n=estimate)


@killed_by("samples-without-a-reward-have-no-estimate")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, nan_to_num")
@effect("what broke beats what was judged badly", fix="refuse NaN")
def missing_rewards_estimated_as_zeros():
    """A sample without a reward is estimated as one whose reward is 0."""
    return broken("best_of_n", expected_best_of_n=lambda rewards, n: expected_best_of_n(np.nan_to_num(rewards), n))


@killed_by("a-gold-value-without-enough-samples-is-refused")
@seen_in("no report known: min(n, m), beside the proxy")
@effect("over-optimisation stops where the samples end", fix="refuse n > m")
def few_gold_samples_pass_for_many():
    """From fewer than n samples, the gold value of the best of all of them passes for that of best-of-n."""
    return broken(
        "best_of_n",
        expected_gold=lambda proxy, gold, n: expected_gold(proxy, gold, min(n, np.shape(proxy)[-1])),
    )


@killed_by("a-gold-value-without-enough-samples-is-refused")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, on the gold side alone")
@effect("a judge that broke is one that judged 0", fix="refuse NaN on either side")
def missing_gold_is_zero():
    """A gold reward that is missing counts as 0; a missing proxy is refused."""
    return broken("best_of_n", expected_gold=lambda proxy, gold, n: expected_gold(proxy, np.nan_to_num(gold), n))
