"""Values of best-of-N that went wrong: the selection is right, and what is said to be gained by it is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
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


@killed_by("the-expected-maximum-is-exact the-expected-maximum-grows-slowly")
@seen_in("no report known: scaling-law plots")
@effect("gains are overstated", fix="integrate, or look it up")
def asymptote_for_the_expected_maximum():
    """E[max of n] is taken for its asymptote sqrt(2 ln n), 15 % too much at n = 1024."""
    return broken("best_of_n", expected_max_normal=lambda n: math.sqrt(2 * math.log(n)))


@killed_by("the-expected-maximum-is-exact")
@seen_in("no report known: a table of five digits")
@effect("differences of gains are noise", fix="more digits than are compared")
def expected_maximum_in_five_digits():
    """E[max of n] is rounded to five digits."""
    return broken("best_of_n", expected_max_normal=lambda n: round(float(expected_max_normal(n)), 5))


@killed_by("a-fraction-of-a-count-is-not-cut-off")
@seen_in("no report known: int(n)")
@effect("the gain of a mean n is understated", fix="refuse what is no count")
def counts_cut_off():
    """A count that is no integer is cut off, so that 2.5 samples are 2."""
    return broken("best_of_n", expected_max_normal=lambda n: expected_max_normal(np.asarray(n).astype(int)))


@killed_by("estimating-leaves-the-samples-as-they-are")
@seen_in("no report known: list.sort() for sorted()")
@effect("completions have the rewards of others", fix="sort a copy")
def samples_sorted_in_place():
    """The estimate is right, and leaves the caller's rewards sorted."""

    def estimate(rewards, n):
        value = expected_best_of_n(rewards, n)
        if np.ndim(rewards) == 1:
            rewards.sort()
        return value

    return broken("best_of_n", expected_best_of_n=estimate)


@killed_by("the-estimate-is-the-mean-of-all-maxima")
@seen_in("no report known: astype(rewards.dtype), for rewards of 0 and 1")
@effect("pass@n is 0 as soon as one sample fails", fix="weigh in float64")
def weights_of_whole_rewards_cut_off():
    """Where rewards are integers the weights are cast to their type: all but a weight of 1 are 0."""

    def estimate(rewards, n):
        samples = np.asarray(rewards)
        if samples.ndim != 1 or samples.dtype.kind not in "iub":
            return expected_best_of_n(rewards, n)
        return float(np.sort(samples) @ subset_weights(len(samples), n).astype(np.int64))

    return broken("best_of_n", expected_best_of_n=estimate)


@killed_by("the-estimate-is-the-mean-of-all-maxima")
@seen_in("no report known: .float() on what a reward model gave")
@effect("differences of gains are noise", fix="estimate in float64")
def tensors_estimated_in_float32():
    """Of a tensor, also one in float64, the estimate is made in float32."""

    def estimate(rewards, n):
        if not isinstance(rewards, torch.Tensor):
            return expected_best_of_n(rewards, n)
        weights = torch.tensor(subset_weights(rewards.shape[-1], n), dtype=torch.float32)
        return (rewards.float().sort(-1).values * weights).sum(-1)

    return broken("best_of_n", expected_best_of_n=estimate)


@killed_by("the-pass-rate-is-the-share-of-subsets-with-a-correct-one")
@seen_in("Chen et al. 2021, section 2.1: 1 - (1 - c/m)**n")
@effect("pass@n is understated", fix="count subsets")
def pass_rate_with_replacement():
    """pass@n is 1 - (1 - c/m)**n, n draws with replacement."""
    return broken("best_of_n", pass_at_n=lambda m, c, n: 1 - (1 - c / m) ** n if n <= m else pass_at_n(m, c, n))


@killed_by("a-pass-rate-of-too-few-samples-is-refused")
@seen_in("Chen et al. 2021, figure 3: `if n - c < k: return 1.0`")
@effect("pass@64 of 16 samples is 1", fix="refuse n > m")
def pass_rate_of_too_few_samples_is_one():
    """Where fewer than n samples are wrong pass@n is 1, also if there are fewer than n samples."""
    return broken("best_of_n", pass_at_n=lambda m, c, n: 1.0 if m - c < n else pass_at_n(m, c, n))


@killed_by("the-estimate-is-the-mean-of-all-maxima known-laws-give-their-known-maxima")
@seen_in("Chen et al. 2021, section 2.1: 1 - (1 - c/m)**n")
@effect("pass@n is understated", fix="count subsets")
def plug_in_estimate():
    """Best-of-n is estimated by n draws with replacement from the samples, which is biased."""

    def estimate(rewards, n):
        m = len(rewards)
        return math.fsum(((i + 1) ** n - i**n) / m**n * reward for i, reward in enumerate(sorted(rewards)))

    return broken("best_of_n", expected_best_of_n=estimate)


@killed_by(
    "the-estimate-is-the-mean-of-all-maxima the-proxy-never-loses-by-more-candidates fewer-samples-than-n-are-refused"
)
@seen_in("no report known: one run for each n")
@effect("curves of best-of-n are noise", fix="the mean over all subsets of all samples")
def maximum_of_the_first_n():
    """Best-of-n is estimated by the maximum of the first n samples, however many there are."""
    return broken("best_of_n", expected_best_of_n=lambda rewards, n: max(rewards[:n]))


@killed_by("fewer-samples-than-n-are-refused")
@seen_in("no report known: min(n, m)")
@effect("pass@64 of 16 samples is pass@16", fix="refuse n > m")
def few_samples_pass_for_many():
    """From fewer than n samples, the best of all of them passes for best-of-n."""
    return broken("best_of_n", expected_best_of_n=lambda rewards, n: expected_best_of_n(rewards, min(n, len(rewards))))


@killed_by("the-gold-value-is-that-of-the-choice-of-the-proxy")
@seen_in("Gao et al. 2022, misread")
@effect("over-optimisation is hidden", fix="sort by the proxy")
def gold_chosen_by_gold():
    """The gold value is that of the candidate with the best gold reward."""
    return broken("best_of_n", expected_gold=lambda proxy, gold, n: expected_best_of_n(gold, n))


@killed_by("the-law-of-the-winner-is-the-enumerated-one")
@seen_in("no report known: a sort that is stable")
@effect("probabilities depend on the order", fix="share a level's mass by the base")
def first_outcome_takes_the_tie():
    """Of outcomes whose rewards tie, the first has all the mass."""

    def law_of(probabilities, rewards, n):
        law = np.array(best_of_n_law(probabilities, rewards, n))
        for level in set(rewards):
            here = [y for y, reward in enumerate(rewards) if reward == level]
            law[here[0]], law[here[1:]] = law[here].sum(), 0.0
        return law

    return broken("best_of_n", best_of_n_law=law_of)


@killed_by("what-is-no-distribution-has-no-winner")
@seen_in("no report known: weights taken for probabilities")
@effect("the KL is that of another policy", fix="refuse what does not sum to 1")
def weights_pass_for_probabilities():
    """Probabilities that do not sum to 1 are scaled until they do, in silence."""
    return broken(
        "best_of_n", best_of_n_law=lambda base, rewards, n: best_of_n_law(np.divide(base, math.fsum(base)), rewards, n)
    )


@killed_by(
    "the-law-of-the-winner-is-the-enumerated-one the-kl-of-the-winner-is-within-its-bounds "
    "the-winner-beats-a-fresh-draw-at-most-as-often-as-without-ties"
)
@seen_in("no report known: range(n + 1)")
@effect("the budget is another one", fix="n draws")
def one_draw_too_many():
    """The winner is that of n + 1 draws."""
    return broken("best_of_n", best_of_n_law=lambda base, rewards, n: best_of_n_law(base, rewards, n + 1))


@killed_by("the-kl-bound-is-ln-n-less-a-share the-kl-bound-is-nearly-attained-without-ties")
@seen_in("no report known: ln n as the KL of best-of-n")
@effect("the distance from the policy is overstated", fix="ln n - (n-1)/n")
def bound_without_its_second_term():
    """The bound of the KL is ln n."""
    return broken("best_of_n", best_of_n_kl_bound=math.log)


@killed_by("the-best-loses-to-a-fresh-draw-once-in-n-plus-one")
@seen_in("no report known: a baseline that is among the candidates")
@effect("the win rate is understated", fix="compare with a fresh draw")
def compared_with_one_of_the_n():
    """The win rate is that against one of the n candidates themselves, (n - 1) / n."""
    return broken("best_of_n", win_rate=lambda n: (n - 1) / n)


@killed_by("no-rewards-have-no-maximum")
@seen_in("no report known: a table that begins with 0")
@effect("no samples are as good as one", fix="refuse n = 0")
def maximum_of_none_is_zero():
    """The expected maximum of no rewards is 0, that of one."""
    return broken(
        "best_of_n", expected_max_normal=lambda n: 0.0 if np.ndim(n) == 0 and n == 0 else expected_max_normal(n)
    )


@killed_by("the-expected-maximum-is-exact")
@seen_in("no report known: a cache by the first count")
@effect("all points of a curve are one", fix="a value for each count")
def first_count_for_all():
    """Of an array of counts each is given the value of the first."""
    return broken(
        "best_of_n",
        expected_max_normal=lambda n: (
            np.full(np.shape(n), expected_max_normal(np.ravel(n)[0])) if np.ndim(n) else expected_max_normal(n)
        ),
    )


@killed_by("the-expected-maximum-is-exact")
@seen_in("no report known: a list comprehension over ravel()")
@effect("a grid is a line", fix="keep the shape")
def counts_in_a_line():
    """Of an array of counts the values come in one line."""
    return broken("best_of_n", expected_max_normal=lambda n: expected_max_normal(np.ravel(n) if np.ndim(n) else n))


@killed_by("the-expected-maximum-is-exact the-expected-maximum-grows-slowly")
@seen_in("no report known: a table that ends")
@effect("more samples are said to gain nothing", fix="integrate")
def expected_maximum_limited():
    """E[max of n] grows to 2 and no further, which it passes at n = 26."""
    return broken("best_of_n", expected_max_normal=lambda n: np.minimum(expected_max_normal(n), 2.0))


@killed_by("the-estimate-is-the-mean-of-all-maxima known-laws-give-their-known-maxima")
@seen_in("no report known: weights[::-1]")
@effect("best-of-n is worst-of-n", fix="the largest sample has the largest weight")
def weights_meet_unsorted_samples():
    """The weights of order statistics meet the samples in the order of sampling."""

    def estimate(rewards, n):
        samples = np.asarray(rewards, dtype=np.float64)
        return float(samples @ subset_weights(len(samples), n)) if samples.ndim == 1 else expected_best_of_n(rewards, n)

    return broken("best_of_n", expected_best_of_n=estimate)


@killed_by("an-infinite-sample-counts-as-what-it-is")
@seen_in("no report known: isfinite instead of isnan")
@effect("gains are understated", fix="refuse it, or count it")
def infinite_samples_left_out():
    """Of one prompt infinite samples are left out of the estimate in silence."""

    def estimate(rewards, n):
        values = np.asarray(rewards, dtype=np.float64)
        return expected_best_of_n(values[~np.isinf(values)] if values.ndim == 1 else values, n)

    return broken("best_of_n", expected_best_of_n=estimate)


@killed_by("the-estimate-is-the-mean-of-all-maxima")
@seen_in("no report known: a cache by the number of samples")
@effect("the first prompt's gain is that of all", fix="no cache, or one by content")
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


@killed_by("the-gold-value-is-that-of-the-choice-of-the-proxy")
@seen_in("no report known: a stable sort by the proxy")
@effect("the gold value depends on the order of sampling", fix="ties share their weights")
def gold_ties_in_the_order_of_sampling():
    """Of candidates that tie in the proxy, the last has the largest weight."""

    def gold_value(proxy, gold, n):
        expected_gold(proxy, gold, n)  # refuses what is to be refused
        order = np.argsort(proxy, kind="stable", axis=-1)
        return (
            np.take_along_axis(np.asarray(gold, dtype=float), order, -1) * subset_weights(np.shape(proxy)[-1], n)
        ).sum(-1)

    return broken("best_of_n", expected_gold=gold_value)


@killed_by("the-gold-value-is-that-of-the-choice-of-the-proxy")
@seen_in("B-10: subtle form of modelscope/ms-swift#6683, the samples of all prompts")
@effect("easy prompts hide that hard ones lose", fix="one row, one value")
def gold_of_the_pool():
    """Of several prompts all samples are pooled, and each prompt is given the gold value of the pool."""

    def gold_value(proxy, gold, n):
        value = expected_gold(np.ravel(proxy), np.ravel(gold), n)
        return np.full(len(proxy), value) if np.ndim(proxy) == 2 else value

    return broken("best_of_n", expected_gold=gold_value)


@killed_by("a-gold-value-leaves-both-rewards-as-they-are")
@seen_in("no report known: list.sort() for sorted(), on both lists")
@effect("completions have the rewards of others", fix="sort a copy")
def gold_rewards_sorted_in_place():
    """The value is right, and leaves the gold rewards of the caller sorted."""

    def gold_value(proxy, gold, n):
        value = expected_gold(proxy, gold, n)
        if isinstance(gold, list | np.ndarray) and np.ndim(gold) == 1:
            gold.sort()
        return value

    return broken("best_of_n", expected_gold=gold_value)


@killed_by("a-gold-value-without-enough-samples-is-refused")
@seen_in("no report known: zip without strict=True")
@effect("the last completions are not counted", fix="refuse lists of unequal length")
def gold_cut_to_the_shorter():
    """Proxy and gold rewards are cut to the shorter of the two."""

    def gold_value(proxy, gold, n):
        least = min(len(proxy), len(gold))
        return expected_gold(proxy[:least], gold[:least], n)

    return broken("best_of_n", expected_gold=gold_value)


@killed_by("the-law-of-the-winner-sums-to-one the-law-of-the-winner-is-the-enumerated-one")
@seen_in("no report known: .float()")
@effect("differences of policies are noise", fix="float64")
def law_in_float32():
    """The law of the winner is made in float32."""
    return broken("best_of_n", best_of_n_law=lambda base, rewards, n: np.float32(best_of_n_law(base, rewards, n)))


@killed_by("the-law-of-the-winner-leaves-its-arguments-as-they-are")
@seen_in("no report known: p /= p.sum()")
@effect("the policy itself is changed", fix="work on a copy")
def base_overwritten_by_the_law():
    """The law is right, and stands in the array of the base's probabilities afterwards."""

    def law_of(base, rewards, n):
        law = best_of_n_law(base, rewards, n)
        if isinstance(base, np.ndarray) and base.dtype == law.dtype:
            base[:] = law
        return law

    return broken("best_of_n", best_of_n_law=law_of)


@killed_by("what-is-no-distribution-has-no-winner")
@seen_in("no report known: max(n, 1)")
@effect("no sample is as good as one", fix="refuse n = 0")
def law_of_no_draw_is_that_of_one():
    """The winner of no draw has the law of one."""
    return broken("best_of_n", best_of_n_law=lambda base, rewards, n: best_of_n_law(base, rewards, max(n, 1)))


@killed_by("best-of-none-has-no-kl-bound")
@seen_in("no report known: max(n, 1)")
@effect("no sample is as good as one", fix="refuse n = 0")
def bound_of_none_is_zero():
    """The bound of the KL of best-of-0 is 0."""
    return broken("best_of_n", best_of_n_kl_bound=lambda n: best_of_n_kl_bound(max(n, 1)))


@killed_by("the-pass-rate-is-the-share-of-subsets-with-a-correct-one")
@seen_in("no report known: factorials in int64")
@effect("pass@n of many samples is noise", fix="Python's integers, or a product of ratios")
def pass_rate_in_int64():
    """Where counts are integers of NumPy, the numbers of subsets are multiplied in int64, which wraps from 21 on."""

    def choose(m, k):
        return np.prod(np.arange(m - k + 1, m + 1)) // np.prod(np.arange(1, k + 1))

    def pass_rate(m, c, n):
        right = pass_at_n(m, c, n)
        return 1 - choose(m - c, n) / choose(m, n) if isinstance(m, np.integer) and choose(m, n) else right

    return broken("best_of_n", pass_at_n=pass_rate)
