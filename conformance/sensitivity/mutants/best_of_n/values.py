"""Values of best-of-N that went wrong: the selection is right, and what is said to be gained by it is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from sftspec.conformance.sensitivity.mutants import mutant
from sftspec.conformance.sensitivity.mutants.parts import broken
from sftspec.order_statistics import (
    best_of_n_kl_bound,
    best_of_n_law,
    expected_best_of_n,
    expected_gold,
    expected_max_normal,
    pass_at_n,
    subset_weights,
)


@mutant("the-expected-maximum-is-exact the-expected-maximum-grows-slowly", "no report known: scaling-law plots",
        "gains are overstated", "integrate, or look it up")  # fmt: skip
def asymptote_for_the_expected_maximum():
    """E[max of n] is taken for its asymptote sqrt(2 ln n), 15 % too much at n = 1024."""
    return broken("best_of_n", expected_max_normal=lambda n: math.sqrt(2 * math.log(n)))


@mutant("the-expected-maximum-is-exact", "no report known: a table of five digits", "differences of gains are noise",
        "more digits than are compared")  # fmt: skip
def expected_maximum_in_five_digits():
    """E[max of n] is rounded to five digits."""
    return broken("best_of_n", expected_max_normal=lambda n: round(float(expected_max_normal(n)), 5))


@mutant("a-fraction-of-a-count-is-not-cut-off", "no report known: int(n)", "the gain of a mean n is understated",
        "refuse what is no count")  # fmt: skip
def counts_cut_off():
    """A count that is no integer is cut off, so that 2.5 samples are 2."""
    return broken("best_of_n", expected_max_normal=lambda n: expected_max_normal(np.asarray(n).astype(int)))


@mutant("estimating-leaves-the-samples-as-they-are", "no report known: list.sort() for sorted()",
        "completions have the rewards of others", "sort a copy")  # fmt: skip
def samples_sorted_in_place():
    """The estimate is right, and leaves the caller's rewards sorted."""

    def estimate(rewards, n):
        value = expected_best_of_n(rewards, n)
        if np.ndim(rewards) == 1:
            rewards.sort()
        return value

    return broken("best_of_n", expected_best_of_n=estimate)


@mutant("the-estimate-is-the-mean-of-all-maxima", "no report known: astype(rewards.dtype), for rewards of 0 and 1",
        "pass@n is 0 as soon as one sample fails", "weigh in float64")  # fmt: skip
def weights_of_whole_rewards_cut_off():
    """Where rewards are integers the weights are cast to their type: all but a weight of 1 are 0."""

    def estimate(rewards, n):
        samples = np.asarray(rewards)
        if samples.ndim != 1 or samples.dtype.kind not in "iub":
            return expected_best_of_n(rewards, n)
        return float(np.sort(samples) @ subset_weights(len(samples), n).astype(np.int64))

    return broken("best_of_n", expected_best_of_n=estimate)


@mutant("the-estimate-is-the-mean-of-all-maxima", "no report known: .float() on what a reward model gave",
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


@mutant("the-estimate-is-the-mean-of-all-maxima known-laws-give-their-known-maxima",
        "Chen et al. 2021, section 2.1: 1 - (1 - c/m)**n", "pass@n is understated", "count subsets")  # fmt: skip
def plug_in_estimate():
    """Best-of-n is estimated by n draws with replacement from the samples, which is biased."""

    def estimate(rewards, n):
        m = len(rewards)
        return math.fsum(((i + 1) ** n - i**n) / m**n * reward for i, reward in enumerate(sorted(rewards)))

    return broken("best_of_n", expected_best_of_n=estimate)


@mutant(
        "the-estimate-is-the-mean-of-all-maxima the-proxy-never-loses-by-more-candidates "
        "fewer-samples-than-n-are-refused", "no report known: one run for each n", "curves of best-of-n are noise",
        "the mean over all subsets of all samples")  # fmt: skip
def maximum_of_the_first_n():
    """Best-of-n is estimated by the maximum of the first n samples, however many there are."""
    return broken("best_of_n", expected_best_of_n=lambda rewards, n: max(rewards[:n]))


@mutant("fewer-samples-than-n-are-refused", "no report known: min(n, m)", "pass@64 of 16 samples is pass@16",
        "refuse n > m")  # fmt: skip
def few_samples_pass_for_many():
    """From fewer than n samples, the best of all of them passes for best-of-n."""
    return broken("best_of_n", expected_best_of_n=lambda rewards, n: expected_best_of_n(rewards, min(n, len(rewards))))


@mutant("the-gold-value-is-that-of-the-choice-of-the-proxy", "Gao et al. 2022, misread", "over-optimisation is hidden",
        "sort by the proxy")  # fmt: skip
def gold_chosen_by_gold():
    """The gold value is that of the candidate with the best gold reward."""
    return broken("best_of_n", expected_gold=lambda proxy, gold, n: expected_best_of_n(gold, n))


@mutant("the-law-of-the-winner-is-the-enumerated-one", "no report known: a sort that is stable",
        "probabilities depend on the order", "share a level's mass by the base")  # fmt: skip
def first_outcome_takes_the_tie():
    """Of outcomes whose rewards tie, the first has all the mass."""

    def law_of(probabilities, rewards, n):
        law = np.array(best_of_n_law(probabilities, rewards, n))
        for level in set(rewards):
            here = [y for y, reward in enumerate(rewards) if reward == level]
            law[here[0]], law[here[1:]] = law[here].sum(), 0.0
        return law

    return broken("best_of_n", best_of_n_law=law_of)


@mutant("what-is-no-distribution-has-no-winner", "no report known: weights taken for probabilities",
        "the KL is that of another policy", "refuse what does not sum to 1")  # fmt: skip
def weights_pass_for_probabilities():
    """Probabilities that do not sum to 1 are scaled until they do, in silence."""
    return broken("best_of_n", best_of_n_law=lambda base, rewards, n: best_of_n_law(
        np.divide(base, math.fsum(base)), rewards, n))  # fmt: skip


@mutant(
        "the-law-of-the-winner-is-the-enumerated-one the-kl-of-the-winner-is-within-its-bounds "
        "the-winner-beats-a-fresh-draw-at-most-as-often-as-without-ties", "no report known: range(n + 1)",
        "the budget is another one", "n draws")  # fmt: skip
def one_draw_too_many():
    """The winner is that of n + 1 draws."""
    return broken("best_of_n", best_of_n_law=lambda base, rewards, n: best_of_n_law(base, rewards, n + 1))


@mutant("the-kl-bound-is-ln-n-less-a-share the-kl-bound-is-nearly-attained-without-ties",
        "no report known: ln n as the KL of best-of-n", "the distance from the policy is overstated",
        "ln n - (n-1)/n")  # fmt: skip
def bound_without_its_second_term():
    """The bound of the KL is ln n."""
    return broken("best_of_n", best_of_n_kl_bound=math.log)


@mutant("the-best-loses-to-a-fresh-draw-once-in-n-plus-one", "no report known: a baseline that is among the candidates",
        "the win rate is understated", "compare with a fresh draw")  # fmt: skip
def compared_with_one_of_the_n():
    """The win rate is that against one of the n candidates themselves, (n - 1) / n."""
    return broken("best_of_n", win_rate=lambda n: (n - 1) / n)


@mutant("no-rewards-have-no-maximum", "no report known: a table that begins with 0", "no samples are as good as one",
        "refuse n = 0")  # fmt: skip
def maximum_of_none_is_zero():
    """The expected maximum of no rewards is 0, that of one."""
    return broken(
        "best_of_n", expected_max_normal=lambda n: 0.0 if np.ndim(n) == 0 and n == 0 else expected_max_normal(n)
    )


@mutant("the-expected-maximum-is-exact", "no report known: a cache by the first count", "all points of a curve are one",
        "a value for each count")  # fmt: skip
def first_count_for_all():
    """Of an array of counts each is given the value of the first."""
    return broken("best_of_n", expected_max_normal=lambda n: np.full(np.shape(n), expected_max_normal(np.ravel(n)[0]))
                  if np.ndim(n) else expected_max_normal(n))  # fmt: skip


@mutant("the-expected-maximum-is-exact", "no report known: a list comprehension over ravel()", "a grid is a line",
        "keep the shape")  # fmt: skip
def counts_in_a_line():
    """Of an array of counts the values come in one line."""
    return broken("best_of_n", expected_max_normal=lambda n: expected_max_normal(np.ravel(n) if np.ndim(n) else n))


@mutant("the-expected-maximum-is-exact the-expected-maximum-grows-slowly", "no report known: a table that ends",
        "more samples are said to gain nothing", "integrate")  # fmt: skip
def expected_maximum_limited():
    """E[max of n] grows to 2 and no further, which it passes at n = 26."""
    return broken("best_of_n", expected_max_normal=lambda n: np.minimum(expected_max_normal(n), 2.0))


@mutant("the-estimate-is-the-mean-of-all-maxima known-laws-give-their-known-maxima", "no report known: weights[::-1]",
        "best-of-n is worst-of-n", "the largest sample has the largest weight")  # fmt: skip
def weights_meet_unsorted_samples():
    """The weights of order statistics meet the samples in the order of sampling."""

    def estimate(rewards, n):
        samples = np.asarray(rewards, dtype=np.float64)
        return float(samples @ subset_weights(len(samples), n)) if samples.ndim == 1 else expected_best_of_n(rewards, n)

    return broken("best_of_n", expected_best_of_n=estimate)


@mutant("an-infinite-sample-counts-as-what-it-is", "no report known: isfinite instead of isnan",
        "gains are understated", "refuse it, or count it")  # fmt: skip
def infinite_samples_left_out():
    """Of one prompt infinite samples are left out of the estimate in silence."""

    def estimate(rewards, n):
        values = np.asarray(rewards, dtype=np.float64)
        return expected_best_of_n(values[~np.isinf(values)] if values.ndim == 1 else values, n)

    return broken("best_of_n", expected_best_of_n=estimate)


@mutant("the-estimate-is-the-mean-of-all-maxima", "no report known: a cache by the number of samples",
        "the first prompt's gain is that of all", "no cache, or one by content")  # fmt: skip
def estimates_cached_by_size():
    """The estimate is kept by the number of samples and n, and given again for the next samples."""
    kept: dict[tuple, Any] = {}

    def estimate(rewards, n):
        key = np.shape(rewards), n
        if key not in kept:
            kept.clear()
            kept[key] = expected_best_of_n(rewards, n)
        return kept[key]

    return broken("best_of_n", expected_best_of_n=estimate)


@mutant("the-gold-value-is-that-of-the-choice-of-the-proxy", "no report known: a stable sort by the proxy",
        "the gold value depends on the order of sampling", "ties share their weights")  # fmt: skip
def gold_ties_in_the_order_of_sampling():
    """Of candidates that tie in the proxy, the last has the largest weight."""

    def gold_value(proxy, gold, n):
        expected_gold(proxy, gold, n)  # refuses what is to be refused
        order = np.argsort(proxy, kind="stable", axis=-1)
        return (
            np.take_along_axis(np.asarray(gold, dtype=float), order, -1) * subset_weights(np.shape(proxy)[-1], n)
        ).sum(-1)

    return broken("best_of_n", expected_gold=gold_value)


@mutant("the-gold-value-is-that-of-the-choice-of-the-proxy",
        "B-10: subtle form of modelscope/ms-swift#6683, the samples of all prompts",
        "easy prompts hide that hard ones lose", "one row, one value")  # fmt: skip
def gold_of_the_pool():
    """Of several prompts all samples are pooled, and each prompt is given the gold value of the pool."""

    def gold_value(proxy, gold, n):
        value = expected_gold(np.ravel(proxy), np.ravel(gold), n)
        return np.full(len(proxy), value) if np.ndim(proxy) == 2 else value

    return broken("best_of_n", expected_gold=gold_value)


@mutant("a-gold-value-leaves-both-rewards-as-they-are", "no report known: list.sort() for sorted(), on both lists",
        "completions have the rewards of others", "sort a copy")  # fmt: skip
def gold_rewards_sorted_in_place():
    """The value is right, and leaves the gold rewards of the caller sorted."""

    def gold_value(proxy, gold, n):
        value = expected_gold(proxy, gold, n)
        if isinstance(gold, list | np.ndarray) and np.ndim(gold) == 1:
            gold.sort()
        return value

    return broken("best_of_n", expected_gold=gold_value)


@mutant("a-gold-value-without-enough-samples-is-refused", "no report known: zip without strict=True",
        "the last completions are not counted", "refuse lists of unequal length")  # fmt: skip
def gold_cut_to_the_shorter():
    """Proxy and gold rewards are cut to the shorter of the two."""

    def gold_value(proxy, gold, n):
        least = min(len(proxy), len(gold))
        return expected_gold(proxy[:least], gold[:least], n)

    return broken("best_of_n", expected_gold=gold_value)


@mutant("the-law-of-the-winner-sums-to-one the-law-of-the-winner-is-the-enumerated-one", "no report known: .float()",
        "differences of policies are noise", "float64")  # fmt: skip
def law_in_float32():
    """The law of the winner is made in float32."""
    return broken("best_of_n", best_of_n_law=lambda base, rewards, n: np.float32(best_of_n_law(base, rewards, n)))


@mutant("the-law-of-the-winner-leaves-its-arguments-as-they-are", "no report known: p /= p.sum()",
        "the policy itself is changed", "work on a copy")  # fmt: skip
def base_overwritten_by_the_law():
    """The law is right, and stands in the array of the base's probabilities afterwards."""

    def law_of(base, rewards, n):
        law = best_of_n_law(base, rewards, n)
        if isinstance(base, np.ndarray) and base.dtype == law.dtype:
            base[:] = law
        return law

    return broken("best_of_n", best_of_n_law=law_of)


@mutant("what-is-no-distribution-has-no-winner", "no report known: max(n, 1)", "no sample is as good as one",
        "refuse n = 0")  # fmt: skip
def law_of_no_draw_is_that_of_one():
    """The winner of no draw has the law of one."""
    return broken("best_of_n", best_of_n_law=lambda base, rewards, n: best_of_n_law(base, rewards, max(n, 1)))


@mutant("best-of-none-has-no-kl-bound", "no report known: max(n, 1)", "no sample is as good as one",
        "refuse n = 0")  # fmt: skip
def bound_of_none_is_zero():
    """The bound of the KL of best-of-0 is 0."""
    return broken("best_of_n", best_of_n_kl_bound=lambda n: best_of_n_kl_bound(max(n, 1)))


@mutant("the-pass-rate-is-the-share-of-subsets-with-a-correct-one", "no report known: factorials in int64",
        "pass@n of many samples is noise", "Python's integers, or a product of ratios")  # fmt: skip
def pass_rate_in_int64():
    """Where counts are integers of NumPy, the numbers of subsets are multiplied in int64, which wraps from 21 on."""

    def choose(m, k):
        return np.prod(np.arange(m - k + 1, m + 1)) // np.prod(np.arange(1, k + 1))

    def pass_rate(m, c, n):
        right = pass_at_n(m, c, n)
        return 1 - choose(m - c, n) / choose(m, n) if isinstance(m, np.integer) and choose(m, n) else right

    return broken("best_of_n", pass_at_n=pass_rate)
