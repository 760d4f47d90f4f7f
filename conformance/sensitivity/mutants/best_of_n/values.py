"""Values of best-of-N that went wrong: the selection is right, and what is said to be gained by it is not."""

from __future__ import annotations

import math

import numpy as np
import torch

from sftspec.conformance.sensitivity.mutants import mutant
from sftspec.conformance.sensitivity.mutants.parts import broken
from sftspec.order_statistics import best_of_n_law, expected_best_of_n, expected_max_normal, pass_at_n, subset_weights


@mutant("the-expected-maximum-is-exact the-expected-maximum-grows-slowly", "scaling-law plots", "gains are overstated",
        "integrate, or look it up")  # fmt: skip
def asymptote_for_the_expected_maximum():
    """E[max of n] is taken for its asymptote sqrt(2 ln n), 15 % too much at n = 1024."""
    return broken("best_of_n", expected_max_normal=lambda n: math.sqrt(2 * math.log(n)))


@mutant("the-expected-maximum-is-exact", "a table of five digits", "differences of gains are noise",
        "more digits than are compared")  # fmt: skip
def expected_maximum_in_five_digits():
    """E[max of n] is rounded to five digits."""
    return broken("best_of_n", expected_max_normal=lambda n: round(float(expected_max_normal(n)), 5))


@mutant("what-is-no-count-has-no-expected-maximum", "variant of int(n)", "the gain of a mean n is understated",
        "refuse what is no count")  # fmt: skip
def counts_cut_off():
    """A count that is no integer is cut off, so that 2.5 samples are 2."""
    return broken("best_of_n", expected_max_normal=lambda n: expected_max_normal(np.asarray(n).astype(int)))


@mutant("the-estimate-is-the-mean-over-all-subsets", "list.sort() for sorted()",
        "completions have the rewards of others", "sort a copy")  # fmt: skip
def samples_sorted_in_place():
    """The estimate is right, and leaves the caller's rewards sorted."""

    def estimate(rewards, n):
        value = expected_best_of_n(rewards, n)
        if np.ndim(rewards) == 1:
            rewards.sort()
        return value

    return broken("best_of_n", expected_best_of_n=estimate)


@mutant("the-estimate-is-the-mean-over-all-subsets", "variant of astype(rewards.dtype), for rewards of 0 and 1",
        "pass@n is 0 as soon as one sample fails", "weigh in float64")  # fmt: skip
def weights_of_whole_rewards_cut_off():
    """Where rewards are integers the weights are cast to their type: all but a weight of 1 are 0."""

    def estimate(rewards, n):
        samples = np.asarray(rewards)
        if samples.ndim != 1 or samples.dtype.kind not in "iub":
            return expected_best_of_n(rewards, n)
        return float(np.sort(samples) @ subset_weights(len(samples), n).astype(np.int64))

    return broken("best_of_n", expected_best_of_n=estimate)


@mutant("the-estimate-is-the-mean-over-all-subsets", "variant of .float() on what a reward model gave",
        "differences of gains are noise", "estimate in float64")  # fmt: skip
def tensors_estimated_in_float32():
    """Of a tensor, also one in float64, the estimate is made in float32."""

    def estimate(rewards, n):
        if not isinstance(rewards, torch.Tensor):
            return expected_best_of_n(rewards, n)
        weights = torch.tensor(subset_weights(rewards.shape[-1], n), dtype=torch.float32)
        return (rewards.float().sort(-1).values * weights).sum(-1)

    return broken("best_of_n", expected_best_of_n=estimate)


@mutant("the-pass-rate-is-the-share-of-subsets-with-a-correct-one", "Chen et al. 2021, section 2.1: 1 - (1 - c/m)**n",
        "pass@n is understated", "count subsets")  # fmt: skip
def pass_rate_with_replacement():
    """pass@n is 1 - (1 - c/m)**n, n draws with replacement."""
    return broken("best_of_n", pass_at_n=lambda m, c, n: 1 - (1 - c / m) ** n if n <= m else pass_at_n(m, c, n))


@mutant("a-pass-rate-of-too-few-samples-is-refused", "Chen et al. 2021, figure 3: `if n - c < k: return 1.0`",
        "pass@64 of 16 samples is 1", "refuse n > m")  # fmt: skip
def pass_rate_of_too_few_samples_is_one():
    """Where fewer than n samples are wrong pass@n is 1, also if there are fewer than n samples."""
    return broken("best_of_n", pass_at_n=lambda m, c, n: 1.0 if m - c < n else pass_at_n(m, c, n))


@mutant("the-estimate-is-the-mean-over-all-subsets known-laws-give-their-known-maxima",
        "Chen et al. 2021, section 2.1: 1 - (1 - c/m)**n", "pass@n is understated", "count subsets")  # fmt: skip
def plug_in_estimate():
    """Best-of-n is estimated by n draws with replacement from the samples, which is biased."""

    def estimate(rewards, n):
        m = len(rewards)
        return math.fsum(((i + 1) ** n - i**n) / m**n * reward for i, reward in enumerate(sorted(rewards)))

    return broken("best_of_n", expected_best_of_n=estimate)


@mutant("the-estimate-is-the-mean-over-all-subsets the-proxy-never-loses-by-more-candidates "
        "fewer-samples-than-n-are-refused", "one run for each n", "curves of best-of-n are noise",
        "the mean over all subsets of all samples")  # fmt: skip
def maximum_of_the_first_n():
    """Best-of-n is estimated by the maximum of the first n samples, however many there are."""
    return broken("best_of_n", expected_best_of_n=lambda rewards, n: max(rewards[:n]))


@mutant("fewer-samples-than-n-are-refused", "min(n, m)", "pass@64 of 16 samples is pass@16", "refuse n > m")
def few_samples_pass_for_many():
    """From fewer than n samples, the best of all of them passes for best-of-n."""
    return broken("best_of_n", expected_best_of_n=lambda rewards, n: expected_best_of_n(rewards, min(n, len(rewards))))


@mutant("the-gold-value-follows-the-choice-of-the-proxy", "Gao et al. 2022, misread", "over-optimisation is hidden",
        "sort by the proxy")  # fmt: skip
def gold_chosen_by_gold():
    """The gold value is that of the candidate with the best gold reward."""
    return broken("best_of_n", expected_gold=lambda proxy, gold, n: expected_best_of_n(gold, n))


@mutant("the-law-of-the-winner-is-the-enumerated-one", "a sort that is stable", "probabilities depend on the order",
        "share a level's mass by the base")  # fmt: skip
def first_outcome_takes_the_tie():
    """Of outcomes whose rewards tie, the first has all the mass."""

    def law_of(probabilities, rewards, n):
        law = np.array(best_of_n_law(probabilities, rewards, n))
        for level in set(rewards):
            here = [y for y, reward in enumerate(rewards) if reward == level]
            law[here[0]], law[here[1:]] = law[here].sum(), 0.0
        return law

    return broken("best_of_n", best_of_n_law=law_of)


@mutant("what-is-no-distribution-has-no-winner", "weights taken for probabilities",
        "the KL is that of another policy", "refuse what does not sum to 1")  # fmt: skip
def weights_pass_for_probabilities():
    """Probabilities that do not sum to 1 are scaled until they do, in silence."""
    return broken("best_of_n", best_of_n_law=lambda base, rewards, n: best_of_n_law(
        np.divide(base, math.fsum(base)), rewards, n))  # fmt: skip


@mutant("the-law-of-the-winner-is-the-enumerated-one selection-moves-no-further-than-its-bounds", "range(n + 1)",
        "the budget is another one", "n draws")  # fmt: skip
def one_draw_too_many():
    """The winner is that of n + 1 draws."""
    return broken("best_of_n", best_of_n_law=lambda base, rewards, n: best_of_n_law(base, rewards, n + 1))


@mutant("the-bound-is-attained-by-rewards-that-never-tie", "ln n as the KL of best-of-n",
        "the distance from the policy is overstated", "ln n - (n-1)/n")  # fmt: skip
def bound_without_its_second_term():
    """The bound of the KL is ln n."""
    return broken("best_of_n", best_of_n_kl_bound=math.log)


@mutant("the-best-loses-to-a-fresh-draw-once-in-n-plus-one", "a baseline that is among the candidates",
        "the win rate is understated", "compare with a fresh draw")  # fmt: skip
def compared_with_one_of_the_n():
    """The win rate is that against one of the n candidates themselves, (n - 1) / n."""
    return broken("best_of_n", win_rate=lambda n: (n - 1) / n)
