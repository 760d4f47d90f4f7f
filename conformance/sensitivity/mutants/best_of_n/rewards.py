"""Selection that is right until it is asked to skip, to rank large rewards, or to leave what it was given alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.parts import Parts, broken
from sftspec.rejection_sampling import derived_seed, rejection_sample
from sftspec.selection import UNRANKED, best_of_n, top_k


@killed_by("missing-rewards-move-no-other-prompt")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, winners[winners >= 0]")
@effect("answers are paired with other questions", fix="mark what is skipped")
def skipped_prompts_leave_no_mark():
    """Prompts that are to be skipped are left out of the winners, so that all behind them move."""

    def select(rewards, on_unranked="error"):
        winners = np.asarray(best_of_n(rewards, on_unranked))
        return winners[winners != UNRANKED] if winners.ndim else winners

    return broken("best_of_n", best_of_n=select)


@killed_by("a-skipped-prompt-is-marked-in-its-place")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, an argmax over -inf")
@effect("trained on what could not be scored", fix="mark it")
def skipped_prompts_train_their_first():
    """Of a prompt that is to be skipped the first candidate wins."""
    return broken(
        "best_of_n",
        best_of_n=lambda rewards, on_unranked="error": np.maximum(best_of_n(rewards, on_unranked), 0),
    )


@killed_by("fewer-rewards-than-k-are-refused-or-marked")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, padding with 0 and not with -1")
@effect("the first candidate is trained twice", fix="mark the places that stay empty")
def empty_places_hold_the_first():
    """Of a prompt that has fewer than k rewards the places that are left hold index 0, where it is to be skipped."""
    return broken(
        "best_of_n",
        top_k=lambda rewards, k, on_unranked="error": np.maximum(top_k(rewards, k, on_unranked), 0),
    )


@killed_by("selecting-leaves-the-rewards-as-they-are")
@seen_in("no report known: rewards[isnan] = -inf, in the caller's array")
@effect("what broke is said to have been judged", fix="work on a copy")
def missing_rewards_overwritten():
    """After the winners were chosen, NaN is -inf in the array or tensor that was given."""

    def select(rewards, on_unranked="error"):
        winners = best_of_n(rewards, on_unranked)
        if isinstance(rewards, np.ndarray | torch.Tensor):
            rewards[rewards != rewards] = -math.inf
        return winners

    return broken("best_of_n", best_of_n=select)


def judged_as(change: Callable[[float], float]) -> Parts:
    """A round that keeps rewards as they were given, and chooses the winner by others: change(reward)."""

    def sample_best(*arguments):
        for each in rejection_sample(*arguments):
            judged = [None if reward is None else change(reward) for reward in each.rewards]
            yield replace(each, winner=int(best_of_n([judged], "skip")[0])) if judged else each

    return broken("best_of_n", rejection_sample=sample_best)


@killed_by("the-first-of-the-best-completions-is-trained")
@seen_in("subtle form of trap H22: the probability of a reward model")
@effect("among the best, the first is trained", fix="compare raw rewards")
def rewards_through_a_sigmoid():
    """The winner is chosen by the sigmoid of rewards, which is 1 from 37 on."""
    return judged_as(lambda reward: reward if math.isinf(reward) else 1 / (1 + math.exp(-reward)))


@killed_by("the-first-of-the-best-completions-is-trained")
@seen_in("no report known: a limit on rewards, as in PPO")
@effect("among the best, the first is trained", fix="compare raw rewards")
def rewards_limited_to_ten():
    """The winner is chosen by rewards that are limited to ten in magnitude, unless they are infinite."""
    return judged_as(lambda reward: reward if math.isinf(reward) else max(-10.0, min(10.0, reward)))


@killed_by("a-prompt-that-stands-twice-is-answered-twice")
@seen_in("no report known: a seed or a cache by the text of a prompt")
@effect("copies of a prompt are copies of one answer", fix="derive the seed from the index")
def equal_prompts_share_their_samples():
    """The seed of a prompt is derived from where its words stood first."""

    def sample_best(prompts, sample, reward, n, seed=0, start=0):
        def again(prompt, number, _):
            return sample(prompt, number, derived_seed(seed, "prompt", [*map(list, prompts)].index(list(prompt))))

        return rejection_sample(prompts, again, reward, n, seed, start)

    return broken("best_of_n", rejection_sample=sample_best)
