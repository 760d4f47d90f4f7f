"""Best-of-N and its order statistics: every property holds for ours and fails for a function with the bug it names."""

from __future__ import annotations

import importlib.util
import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch

import sftspec
from sftspec.conformance.sensitivity.mutants.best_of_n.groups import (
    filled_tables_are_floats,
    float32_tensors_ranked_in_bfloat16,
    more_than_eight_best_unsorted,
    single_prompt_left_to_argmax,
)
from sftspec.order_statistics import (
    best_of_n_law,
    expected_best_of_n,
    expected_gold,
    expected_max_normal,
    pass_at_n,
    subset_weights,
    win_rate,
)
from sftspec.selection import UNRANKED, best_of_n, top_k
from sftspec.tests.seam_verdict import DoesNotHold, evidence, properties_of, reference

PROPERTIES = [item for item in properties_of("best_of_n") if item.seam != "rejection_sample"]
NAN, INF = math.nan, math.inf


def planted(mutant, part):
    return mutant().parts[part]


def arrays_by_argmax(rewards):
    return np.argmax(rewards, axis=1) if isinstance(rewards, np.ndarray) else best_of_n(rewards, "skip")


def tensors_by_argmax(rewards):
    return rewards.argmax(-1) if isinstance(rewards, torch.Tensor) else best_of_n(rewards, "skip")


def when(condition, change, choose=best_of_n):
    """`choose` on rewards that are changed where they meet the condition."""
    return lambda rewards, *k: choose(change(rewards) if condition(rewards) else rewards, *k, on_unranked="skip")


def is_tensor(*dtypes):
    return lambda rewards: isinstance(rewards, torch.Tensor) and rewards.dtype in dtypes


def holds_tensors(rewards):
    return isinstance(rewards, list) and isinstance(rewards[0], list) and isinstance(rewards[0][0], torch.Tensor)


def of_type(dtype):
    return lambda rewards: isinstance(rewards, np.ndarray) and rewards.dtype.name == dtype


def first_of_a_block(rewards, *k, choose=best_of_n):
    """Of more than eight prompts all but the first eight have the first one's choice."""
    chosen = np.array(choose(rewards, *k, on_unranked="skip"))
    chosen[8:] = chosen[:1]
    return chosen


def by_row(choose):
    """A selector that decides each prompt alone with `choose(row)`."""
    return lambda rewards: [choose(row) for row in rewards]


def numpy_argmax(rewards):
    return np.argmax(np.array(rewards), axis=1)


def torch_argmax(rewards):
    return torch.tensor(rewards, dtype=torch.float64).argmax(dim=1)


def rounded_to(dtype):
    return lambda rewards: torch.tensor(rewards, dtype=torch.float64).nan_to_num(-INF).to(dtype).argmax(dim=1)


def sigmoid_argmax(rewards):
    return torch.tensor(rewards).sigmoid().argmax(dim=1)


def transposed(rewards):
    table = np.array(rewards)
    return table.T.reshape(table.shape).argmax(axis=1)


def above_the_mean(row):
    return next((i for i, reward in enumerate(row) if reward > sum(row) / len(row)), 0)


def torch_topk(rewards, k):
    return torch.tensor(rewards, dtype=torch.float64).topk(k, dim=1).indices


def smallest_k(rewards, k):
    return np.argsort(np.array(rewards), axis=1, kind="stable")[:, :k]


def filled_with_zeros(rewards):
    width = max(map(len, rewards))
    return best_of_n([[*row, *[0.0] * (width - len(row))] for row in rewards])


def unranked_left_out(rewards):
    return [winner for winner in best_of_n(rewards, on_unranked="skip") if winner != UNRANKED]


def last_of_equals_first(rewards, k):
    return [len(row) - 1 - top_k(row[::-1], k) for row in rewards]


def last_of_equals_alone(rewards, k):
    """Right for every k but 1."""
    return top_k(rewards, k) if k > 1 else last_of_equals_first(rewards, k)


def sorted_in_place(rewards, n):
    value = expected_best_of_n(rewards, n)
    rewards.sort()
    return value


def gold_of_the_pool(proxy, gold, n):
    value = expected_gold(np.ravel(proxy), np.ravel(gold), n)
    return np.full(len(proxy), value) if np.ndim(proxy) == 2 else value


def gold_in_the_order_of_sampling(proxy, gold, n):
    """Of candidates that tie in the proxy, the last has the largest weight."""
    order = np.argsort(proxy, kind="stable")
    return math.fsum(np.asarray(gold)[order] * subset_weights(len(proxy), n))


def pooled(rewards, n):
    each = np.atleast_2d(rewards)
    return np.full(len(each), expected_best_of_n(each.ravel(), n)) if np.ndim(rewards) == 2 else each[0].max()


def with_replacement(rewards, n):
    """The plug-in estimate: n draws with replacement from the samples (biased low)."""
    m = len(rewards)
    return math.fsum(((i + 1) ** n - i**n) / m**n * reward for i, reward in enumerate(sorted(rewards)))


def in_float32(rewards, n):
    return float(np.float32(expected_best_of_n(rewards, n)))


def first_n(rewards, n):
    return max(rewards[:n])


def untied_law(probabilities, rewards, n):
    """All of a level's mass on its first outcome."""
    law = best_of_n_law(probabilities, rewards, n)
    for level in set(rewards):
        here = [y for y, reward in enumerate(rewards) if reward == level]
        law[here[0]], law[here[1:]] = law[here].sum(), 0.0
    return law


BROKEN = {
    "best_of_n/the-winner-has-the-largest-reward": [
        by_row(lambda row: row.index(min(row))),
        sigmoid_argmax,
        lambda rewards: best_of_n(rewards) % 256,
        planted(float32_tensors_ranked_in_bfloat16, "best_of_n"),
        when(of_type("float32"), lambda rewards: rewards.astype(np.float16)),
        when(is_tensor(torch.float16, torch.bfloat16), torch.neg),
        first_of_a_block,
    ],
    "best_of_n/a-prompt-is-decided-by-its-own-candidates": [transposed, lambda rewards: best_of_n(rewards)[:1]],
    "best_of_n/whole-numbers-are-compared-as-whole-numbers": [
        torch_argmax,
        planted(filled_tables_are_floats, "best_of_n"),
    ],
    "best_of_n/permuting-the-candidates-moves-the-winner-along": [
        by_row(lambda row: max(range(len(row)), key=lambda i: row[i] - 9 * i))
    ],
    "best_of_n/ties-are-decided-the-same-way-each-time": [
        by_row(lambda row: random.choice([i for i, reward in enumerate(row) if reward == max(row)]))
    ],
    "best_of_n/the-first-of-equals-wins": [by_row(lambda row: len(row) - 1 - row[::-1].index(max(row)))],
    "best_of_n/a-candidate-without-a-reward-never-wins": [
        numpy_argmax,
        torch_argmax,
        by_row(lambda row: row.index(max(row))),
        lambda rewards: np.argmax(np.nan_to_num(np.array(rewards), nan=-INF, neginf=-INF, posinf=INF), axis=1),
        lambda rewards: np.argmax(np.array(rewards) * ~np.isnan(rewards), axis=1),
        arrays_by_argmax,
        tensors_by_argmax,
        planted(single_prompt_left_to_argmax, "best_of_n"),
        when(of_type("object"), lambda rewards: np.where(np.equal(rewards, None), 0, rewards)),
        when(holds_tensors, lambda rewards: [torch.stack(row).nan_to_num().tolist() for row in rewards]),
    ],
    "best_of_n/a-prompt-with-fewer-rewards-moves-no-other": [filled_with_zeros, unranked_left_out],
    "best_of_n/a-prompt-without-rewards-is-refused-or-skipped": [numpy_argmax, rounded_to(torch.float64)],
    "best_of_n/an-infinite-reward-ranks-above-every-finite-one": [
        lambda rewards: best_of_n([[None if reward == INF else reward for reward in row] for row in rewards], "skip"),
        by_row(lambda row: len(row) - 1 - row[::-1].index(max(row))),
    ],
    "best_of_n/only-the-order-of-rewards-matters": [rounded_to(torch.bfloat16), by_row(above_the_mean)],
    "best_of_n/more-candidates-never-make-the-winner-worse": [by_row(lambda row: len(row) - 1)],
    "best_of_n/selection-does-not-depend-on-sharding": [by_row(above_the_mean)],
    "best_of_n/the-best-of-normal-rewards-is-their-expected-maximum": [by_row(lambda row: 0), by_row(above_the_mean)],
    "best_of_n/the-k-best-are-the-k-largest": [
        torch_topk,
        smallest_k,
        planted(more_than_eight_best_unsorted, "top_k"),
        lambda rewards, k: np.sort(top_k(rewards, k)) if np.ndim(rewards) == 1 else top_k(rewards, k),
        lambda rewards, k: first_of_a_block(rewards, k, choose=top_k),
    ],
    "best_of_n/equal-rewards-rank-in-the-order-of-sampling": [last_of_equals_first, last_of_equals_alone],
    "best_of_n/fewer-rewards-than-k-are-refused-or-marked": [
        torch_topk,
        lambda rewards, k: np.sort(top_k(rewards, k, "skip")),  # the marks first
        lambda rewards, k: top_k([[0.0 if reward is None else reward for reward in row] for row in rewards], k, "skip"),
        lambda rewards, k: top_k([row[: min(map(len, rewards))] for row in rewards], k, "skip"),
    ],
    "best_of_n/the-expected-maximum-is-exact": [
        lambda n: math.sqrt(math.log(n)),
        lambda n: math.sqrt(2 * math.log(n)),
        lambda n: expected_max_normal(n) * (1 + 1e-11),
        lambda n: np.float32(expected_max_normal(n)),
        lambda n: expected_max_normal(np.ravel(n)) if np.ndim(n) else expected_max_normal(n),
    ],
    "best_of_n/what-is-no-count-has-no-expected-maximum": [
        lambda n: expected_max_normal(int(n)),
        lambda n: expected_max_normal(round(n)),
        lambda n: expected_max_normal(n) if n else 0.0,
    ],
    "best_of_n/the-expected-maximum-grows-slowly": [
        lambda n: math.sqrt(2 * math.log(n)),
        lambda n: min(2.0, expected_max_normal(n)),
    ],
    "best_of_n/the-estimate-is-the-mean-over-all-subsets": [with_replacement, first_n, sorted_in_place, in_float32],
    "best_of_n/the-proxy-never-loses-by-more-candidates": [first_n, lambda r, n: -expected_best_of_n(r, n)],
    "best_of_n/known-laws-give-their-known-maxima": [
        with_replacement,
        lambda rewards, n: float(np.dot(subset_weights(len(rewards), n), rewards[::-1])),
        in_float32,
    ],
    "best_of_n/each-prompt-has-an-estimate-of-its-own": [pooled],
    "best_of_n/a-missing-reward-has-no-estimate": [
        lambda rewards, n: expected_best_of_n([r for r in rewards if r == r], min(n, len(rewards) - 1)),
        lambda rewards, n: expected_best_of_n(np.nan_to_num(rewards), n),
        lambda rewards, n: expected_best_of_n(
            [r for r in rewards if abs(r) != INF], min(n, sum(abs(r) != INF for r in rewards))
        ),
    ],
    "best_of_n/the-pass-rate-is-the-share-of-subsets-with-a-correct-one": [
        lambda m, c, n: 1 - (1 - c / m) ** n,
        lambda m, c, n: c / m,
    ],
    "best_of_n/a-pass-rate-of-too-few-samples-is-refused": [
        lambda m, c, n: 1.0 if m - c < n else pass_at_n(m, c, n),
        lambda m, c, n: pass_at_n(m, c, min(m, n)),
        lambda m, c, n: pass_at_n(m, min(c, m), n),
    ],
    "best_of_n/a-gold-value-without-enough-samples-is-refused": [
        lambda proxy, gold, n: expected_gold(proxy, gold, min(n, len(proxy))),
        lambda proxy, gold, n: expected_gold(proxy, np.nan_to_num(gold), n),
        lambda proxy, gold, n: expected_gold(*zip(*zip(proxy, gold, strict=False), strict=True), n),
        lambda proxy, gold, n: expected_gold(proxy, gold, n) if n else 0.0,
    ],
    "best_of_n/fewer-samples-than-n-are-refused": [lambda rewards, n: max(rewards)],
    "best_of_n/the-gold-value-follows-the-choice-of-the-proxy": [
        lambda proxy, gold, n: expected_best_of_n(gold, n),
        lambda proxy, gold, n: sum(gold) / len(gold),
        gold_of_the_pool,
        gold_in_the_order_of_sampling,
    ],
    "best_of_n/the-law-of-the-winner-is-the-enumerated-one": [
        untied_law,
        lambda p, r, n: np.array(p),
        lambda p, r, n: best_of_n_law(p, [-INF if reward == INF else reward for reward in r], n),
    ],
    "best_of_n/what-is-no-distribution-has-no-winner": [
        lambda p, r, n: best_of_n_law(np.array(p) / sum(p), r, n),
        lambda p, r, n: best_of_n_law(p, np.nan_to_num(r, posinf=INF, neginf=-INF), n),
        lambda p, r, n: best_of_n_law(p, r, max(n, 1)),
    ],
    "best_of_n/selection-moves-no-further-than-its-bounds": [
        lambda p, r, n: best_of_n_law(p, r, 4 * n),
        lambda p, r, n: best_of_n_law(p, [-reward for reward in r], n),
    ],
    "best_of_n/the-bound-is-attained-by-rewards-that-never-tie": [
        math.log,
        lambda n: math.log(n) - (n - 1) / n - 0.01,
        lambda n: math.log(n) - (n - 1) / n if n else 0.0,
    ],
    "best_of_n/the-best-loses-to-a-fresh-draw-once-in-n-plus-one": [lambda n: (n - 1) / n, lambda n: 0.5],
}


@pytest.mark.parametrize("item", PROPERTIES, ids=lambda item: item.id)
def test_the_property_holds_for_ours(item):
    assert evidence(item, reference(item), max_examples=100) >= item.floor


@pytest.mark.parametrize("item", PROPERTIES, ids=lambda item: item.id)
def test_the_property_fails_for_each_broken_function(item):
    for function in BROKEN[item.id]:
        with pytest.raises(DoesNotHold):
            evidence(item, function, max_examples=100)


# ---------------------------------------------------------------- real selectors


IN_FLOAT64 = {"whole_numbers_are_compared_as_whole_numbers"}


@pytest.mark.parametrize(
    ("selector", "rounds"),
    [(numpy_argmax, IN_FLOAT64), (torch_argmax, IN_FLOAT64), (by_row(lambda row: row.index(max(row))), set())],
)
def test_argmax_of_numpy_torch_and_python_fail_on_nan_only(selector, rounds):
    """What selectors are made of: they rank right (in the type that they convert to) and let a broken candidate win."""
    failed = set()
    for item in PROPERTIES:
        if item.seam == "best_of_n":
            try:
                evidence(item, selector)
            except (DoesNotHold, ValueError):
                failed.add(item.check.__name__)
    assert failed == rounds | {
        "a_candidate_without_a_reward_never_wins",
        "a_prompt_without_rewards_is_refused_or_skipped",
        "a_prompt_with_fewer_rewards_moves_no_other",
    }


# ---------------------------------------------------------------- sound arithmetic of another kind


def weights_by_recursion(rewards, n):
    """From the largest sample down, weight by weight, in float64 and a plain sum."""
    total, weight = 0.0, n / len(rewards)
    for i, reward in zip(range(len(rewards), n - 1, -1), sorted(rewards, reverse=True), strict=False):
        total += weight * reward
        weight *= (i - n) / max(1, i - 1)
    return total


def weights_by_log_factorials(rewards, n):
    def log_choose(m, k):
        return math.lgamma(m + 1) - math.lgamma(k + 1) - math.lgamma(m - k + 1)

    ranked, total = sorted(rewards), log_choose(len(rewards), n)
    return sum(math.exp(log_choose(i - 1, n - 1) - total) * ranked[i - 1] for i in range(n, len(ranked) + 1))


def gauss_legendre(panels: int, nodes: int, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights over [-end, end], panel by panel."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    half = end / panels
    return np.concatenate([half * (points + 2 * k + 1) - end for k in range(panels)]), np.tile(half * weights, panels)


X, WEIGHTS = gauss_legendre(96, 16, end=12.0)
LOWER, UPPER = (np.array([math.erfc(sign * x / math.sqrt(2)) / 2 for x in X]) for sign in (-1, 1))
LOG_BELOW = np.where(X < 0, np.log(LOWER), np.log1p(-np.minimum(UPPER, 0.5)))


def quadrature(n):
    """E[max] = integral of x n phi(x) Phi(x)**(n-1), which the reference does not compute."""
    density = n / math.sqrt(2 * math.pi) * np.exp(-(X**2) / 2 + (n - 1) * LOG_BELOW)
    return float(np.sum(WEIGHTS * X * density))


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (estimate, {"the-estimate-is-the-mean-over-all-subsets", "the-proxy-never-loses-by-more-candidates",
                    "known-laws-give-their-known-maxima"})
        for estimate in (weights_by_recursion, weights_by_log_factorials)
    ]
    + [(quadrature, {"the-expected-maximum-is-exact", "the-expected-maximum-grows-slowly"})],
)  # fmt: skip
def test_another_sound_evaluation_holds(function, names):
    for item in PROPERTIES:
        if item.id.removeprefix("best_of_n/") in names:
            assert evidence(item, function, max_examples=100) >= item.floor


# ---------------------------------------------------------------- what selection takes and gives


def test_a_tensor_gives_a_tensor_and_everything_else_numpy():
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64):
        winners = best_of_n(torch.tensor([[1, 3, 2], [5, 4, 4]], dtype=dtype))
        assert winners.dtype == torch.int64 and winners.tolist() == [1, 0]
    rewards = torch.tensor([[1.0, 3.0], [2.0, 0.0]], requires_grad=True)
    assert rewards.gather(1, best_of_n(rewards)[:, None]).flatten().tolist() == [3.0, 2.0]
    assert best_of_n([[1, 3, 2]]).dtype == np.int64
    assert best_of_n(np.array([[1.0, 3.0]], dtype=np.float32)).tolist() == [1]


def test_one_prompt_gives_one_index():
    assert best_of_n([1.0, 3.0, 2.0]) == 1 and hash(best_of_n([1.0, 3.0])) == 1
    assert best_of_n(torch.tensor([1.0, 3.0])).shape == ()
    assert top_k((1.0, 3.0, 2.0), 2).tolist() == [1, 2]
    assert best_of_n([torch.tensor(1.0), torch.tensor(2.0)]) == 1


def test_integers_beyond_float64_keep_their_order():
    assert best_of_n([[2**53, 2**53 + 1]]).tolist() == [1]
    assert best_of_n(torch.tensor([[2**53 + 1, 2**53]])).tolist() == [0]
    assert top_k([-(2**63), 0], 2).tolist() == [1, 0]
    assert best_of_n([[False, True, True]]).tolist() == [1]


def test_no_reward_rounds_another():
    """A shorter prompt, a missing reward, a fraction or a type without a sign leaves integers as they are."""
    least, most = 2**53, 2**53 + 1
    for table in ([[least, most]], [[least, most], [1]], [[least, most, None]], [[least, most], [1, 0.5]]):
        assert best_of_n(table)[0] == 1
    assert best_of_n([[least, most, 0.5], [2**64 - 1, -1, 2**64]]).tolist() == [1, 2]
    for largest in (torch.tensor([[1, 2**64 - 1]], dtype=torch.uint64), np.array([[1, 2**64 - 1]], dtype=np.uint64)):
        assert best_of_n(largest).tolist() == [1]
    assert best_of_n(np.array([[None, least, most]], dtype=object)).tolist() == [2]
    mixed = [[torch.tensor(1.0, requires_grad=True), None, np.float32(2)], [Fraction(1, 3)]]
    assert best_of_n(mixed).tolist() == [2, 0]


def test_rows_of_unequal_length_and_none():
    assert best_of_n([[None, 1.0], [3.0], [0.0, NAN, 2.0]]).tolist() == [1, 0, 2]
    assert top_k([[None, 1.0, 2.0], [3.0]], 2, on_unranked="skip").tolist() == [[2, 1], [0, UNRANKED]]


def test_a_prompt_without_rewards_is_an_error_that_names_it_or_a_counted_skip():
    rewards = [[1.0, 2.0], [NAN, None], []]
    with pytest.raises(ValueError, match=r"2 of 3 prompts have fewer than 1 rewards \(prompts \[1, 2\]\)"):
        best_of_n(rewards)
    winners = best_of_n(rewards, on_unranked="skip")
    assert winners.tolist() == [1, UNRANKED, UNRANKED] and (winners == UNRANKED).sum() == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda: best_of_n([]),
        lambda: best_of_n([[]]),
        lambda: best_of_n(1.0),
        lambda: best_of_n([1.0, [2.0]]),
        lambda: best_of_n([[1j]]),
        lambda: best_of_n(torch.tensor([1j])),
        lambda: best_of_n([["good", "bad"]]),
        lambda: best_of_n(np.zeros((2, 2, 2))),
        lambda: best_of_n([[1.0]], on_unranked="ignore"),
        lambda: top_k([[1.0, 2.0]], 0),
        lambda: top_k([[1.0, 2.0]], 3),
        lambda: expected_max_normal(0),
        lambda: expected_max_normal(2.5),
        lambda: expected_best_of_n([1.0, 2.0], 0),
        lambda: expected_best_of_n([1.0, 2.0], 3),
        lambda: expected_best_of_n([1.0, NAN], 1),
        lambda: expected_best_of_n([1.0, INF], 1),
        lambda: expected_best_of_n(1.0, 1),
        lambda: expected_gold([1.0, 2.0], [1.0], 1),
        lambda: pass_at_n(10, 11, 1),
        lambda: best_of_n_law([0.5, 0.4], [0, 1], 2),
        lambda: best_of_n_law([0.5, 0.5], [0, NAN], 2),
        lambda: best_of_n_law([0.5, 0.5], [0, 1], 0),
        lambda: win_rate(0),
        lambda: sftspec.order_statistics.best_of_n_kl_bound(0),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError, match=r"\w{3}"):
        call()


def test_no_module_takes_the_name_of_the_public_function():
    assert sftspec.expected_max_normal(1) == 0.0
    assert sftspec.best_of_n([1.0, 3.0]) == 1
    assert importlib.util.find_spec("sftspec.best_of_n") is None
    assert sftspec.best_of_n is best_of_n


# ---------------------------------------------------------------- estimators at work


def test_many_prompts_are_estimated_at_once():
    rewards = np.random.default_rng(0).normal(size=(3, 50))
    expected = [expected_best_of_n(list(row), 7) for row in rewards]
    assert expected_best_of_n(rewards, 7).tolist() == expected
    assert expected_best_of_n(torch.tensor(rewards, requires_grad=True), 7).tolist() == expected


def test_the_order_of_the_samples_does_not_matter():
    proxy, gold = [1.0, 1.0, 0.0, 2.0, 1.0], [5.0, -1.0, 2.0, 0.5, 4.0]
    values = {
        expected_gold([proxy[i] for i in order], [gold[i] for i in order], 3)
        for order in itertools.permutations(range(5))
    }
    assert len(values) == 1


def test_the_estimator_is_unbiased_where_the_plug_in_is_not():
    """2,000 repetitions of 6 samples from Bernoulli(0.3), best of 3: 1 - 0.7**3, within five standard errors."""
    draws = np.random.default_rng(1).random((2000, 6)) < 0.3
    estimates = np.array([expected_best_of_n(row, 3) for row in draws])
    plug_in = np.array([with_replacement(list(map(float, row)), 3) for row in draws])
    error = 5 * estimates.std() / math.sqrt(2000)
    assert abs(estimates.mean() - (1 - 0.7**3)) <= error < abs(plug_in.mean() - (1 - 0.7**3))


def test_gold_follows_the_proxy_with_light_tails_and_falls_with_heavy_ones():
    """Error N(0, 1) gives gold E[max]/sqrt(2), Student-t with 3 degrees a peak (0.87 at 16, 0.25 at 4096).

    40 prompts of 8,192 samples; the bounds are five standard errors over the prompts.
    """
    draw = np.random.default_rng(2)
    gold = draw.normal(size=(40, 8192))
    light, heavy = gold + draw.normal(size=gold.shape), gold + draw.standard_t(3, size=gold.shape)
    for n in (1, 4, 16, 64, 256):
        values = expected_gold(light, gold, n)
        assert abs(values.mean() - expected_max_normal(n) / math.sqrt(2)) <= 5 * values.std() / math.sqrt(40)
    peak, end = expected_gold(heavy, gold, 16), expected_gold(heavy, gold, 4096)
    assert (peak - end).mean() > 5 * (peak - end).std() / math.sqrt(40)
    assert (expected_best_of_n(heavy, 4096) > expected_best_of_n(heavy, 16)).all()


def test_weights_sum_to_one_at_any_size():
    for m, n in [(1, 1), (7, 7), (10**4, 3), (10**4, 9000), (3 * 10**4, 15000)]:
        assert abs(math.fsum(subset_weights(m, n)) - 1) <= m * 2.0**-53
