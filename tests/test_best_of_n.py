"""Best-of-N and its order statistics: every property holds for ours, and for sound arithmetic of another kind."""

from __future__ import annotations

import importlib.util
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import sftspec
from sftspec.conformance.sensitivity.mutants.best_of_n.values import plug_in_estimate
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


def by_row(choose):
    """A selector that decides each prompt alone with `choose(row)`."""
    return lambda rewards: [choose(row) for row in rewards]


def numpy_argmax(rewards):
    return np.argmax(np.array(rewards), axis=1)


def torch_argmax(rewards):
    return torch.tensor(rewards, dtype=torch.float64).argmax(dim=1)


@pytest.mark.parametrize("item", PROPERTIES, ids=lambda item: item.id)
def test_the_property_holds_for_ours(item):
    assert evidence(item, reference(item), max_examples=100) >= item.floor


# ---------------------------------------------------------------- real selectors


BESIDE_FRACTIONS = {"no_reward_rounds_another"}
IN_FLOAT64 = {"integers_are_compared_as_integers", "no_reward_rounds_another"}


@pytest.mark.parametrize(
    ("selector", "rounds"),
    [(numpy_argmax, BESIDE_FRACTIONS), (torch_argmax, IN_FLOAT64), (by_row(lambda row: row.index(max(row))), set())],
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
        "a_nan_never_wins",
        "a_prompt_without_rewards_has_no_winner",
        "missing_rewards_move_no_other_prompt",
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
        (estimate, {"the-estimate-is-the-mean-of-all-maxima", "the-proxy-never-loses-by-more-candidates",
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
    with pytest.raises(ValueError, match=r"fewer than 1 reward for 2 of 3 prompts \(prompts \[1, 2\]\)"):
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
    with_replacement = plug_in_estimate().parts["expected_best_of_n"]
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
