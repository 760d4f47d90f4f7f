"""What best-of-N is worth: expected maxima, the unbiased estimator, the tilted law, its KL and its win rate.

The rule. Every number here is exact up to rounding: a quadrature that converges to float64, a weight that is an integer
ratio rounded once, a law that is enumerated. Nothing is simulated and no asymptotic formula stands in for a value.

Why reports get it wrong: "the gain is about sqrt(log N)" lacks a factor sqrt(2) and is 19 % low at N = 1024, while
sqrt(2 ln N) is 15 % high; the plug-in pass@n 1 - (1 - c/m)**n is biased, the maximum of the first n samples noisy;
ln N - (N-1)/N is quoted as *the* KL of best-of-N, and is only its upper bound when rewards tie; the gold value of a
proxy's best-of-N is computed by sorting on the gold reward, which hides all over-optimisation.

Sources: David & Nagaraja, Order Statistics; OpenAI, Measuring Goodhart's law (2022); Chen et al. 2021 eq. 1
(arXiv 2107.03374); Beirami et al. 2024 Lemma 1, Theorem 3.1 (arXiv 2401.01879). Laws BN-EMAX, BN-EST, BN-LAW, BN-KL.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from sftspec.compensated import accurate_sum, ratio_products
from sftspec.counted import counted

_STEP = 1 / 64
_UPPER_TAIL = np.array([math.erfc(k * _STEP) / 2 for k in range(10 * 64)])


def expected_max_normal(n: int | np.ndarray) -> float | np.ndarray:
    """E[max of n independent standard normals], to a few units in the last place for 1 <= n <= 10**18.

    n is an int (a float comes back) or an array of integers (an array of the same shape). In units of the reward's
    standard deviation, this is how far best-of-n lifts a normal reward. Raises ValueError for n < 1 or a fraction.

    With Q the upper tail and f(x) = 1 - (1 - Q(x))**n - Q(x)**n, E = integral of f over x >= 0 (David & Nagaraja §3.1).

    >>> abs(expected_max_normal(2) - 1 / math.sqrt(math.pi)) < 3e-16
    True
    """
    counts = np.asarray(n)
    if counts.dtype.kind not in "iu" or (counts < 1).any() or (counts > 10**18).any():
        raise ValueError(f"n = {n}: the number of samples is an integer from 1 to 10**18")
    values = np.array([_expected_max(int(count)) for count in counts.flat]).reshape(counts.shape)
    return float(values) if values.ndim == 0 else values


def _expected_max(n: int) -> float:
    # f is even and entire, so the plain trapezoidal rule converges geometrically. The nodes are x = sqrt(2) * k / 64:
    # they make the argument of erfc exact, and the table of tails serves every n.
    f = -np.expm1(n * np.log1p(-_UPPER_TAIL)) - _UPPER_TAIL**n
    f[0] /= 2
    return math.sqrt(2) * _STEP * math.fsum(f) if n > 1 else 0.0


def expected_best_of_n(rewards: Any, n: int) -> float | np.ndarray:
    """The unbiased estimate of E[reward of the best of n] from m >= n samples: the mean over all n-subsets of the best.

    rewards   (m,), or (P, m) for P prompts: finite numbers (drop a candidate without a reward, and say so, before)

    Returns a float, or (P,). With rewards r_(1) <= ... <= r_(m): sum over i of C(i-1, n-1) / C(m, n) * r_(i) (OpenAI
    2022; for 0/1 rewards this is pass@n, Chen 2021 eq. 1). A weight, its product with the reward and the sum are each
    rounded once: without ties the error is at most 3 u (1 + m**2 u) sum(weight * |reward|), u = 2**-53.
    Raises ValueError when n is not in 1..m, and for a reward that is not finite.

    >>> expected_best_of_n([0.0, 1.0, 5.0], 2)  # subsets {0,1} {0,5} {1,5}
    3.6666666666666665
    """
    return expected_gold(rewards, rewards, n)


def expected_gold(proxy: Any, gold: Any, n: int) -> float | np.ndarray:
    """The unbiased estimate of the *gold* reward of the candidate that the *proxy* selects from n, of m >= n samples.

    Both (m,) or (P, m), finite. Sorted by the proxy, with the weights of `expected_best_of_n` on the gold rewards;
    candidates whose proxy ties share their weights equally, so that the order of the samples does not matter.
    Rises with n only as long as the proxy is right about its own favourites (Gao et al. 2022, arXiv:2210.10760).
    Raises ValueError as `expected_best_of_n`, and when the shapes differ.

    >>> expected_gold([0.0, 1.0], [5.0, 3.0], 2)  # the proxy chooses the second
    3.0
    """
    is_same = proxy is gold
    proxy, worth = _float64(proxy), _float64(gold)
    if proxy.ndim not in (1, 2) or proxy.shape != worth.shape:
        raise ValueError(f"rewards of shape {proxy.shape}, gold {worth.shape}: expected (m,) or (P, m), both the same")
    if not (np.isfinite(proxy).all() and np.isfinite(worth).all()):
        raise ValueError("a reward is NaN or infinite: it has no expectation; drop and count those candidates first")
    # BN-EST, BN-ESTTRUE: the weights are the ranks of the proxy, what is weighed is the gold reward.
    weights = subset_weights(proxy.shape[-1], n)
    estimates = [
        _weighted(row, row if is_same else other, weights)
        for row, other in zip(np.atleast_2d(proxy), np.atleast_2d(worth), strict=True)
    ]
    return estimates[0] if proxy.ndim == 1 else np.array(estimates)


def _float64(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu().double() if hasattr(values, "detach") else values, dtype=np.float64)


def _weighted(proxy: np.ndarray, worth: np.ndarray, weights: np.ndarray) -> float:
    """Sum of weights times worth in ascending order of the proxy, with the weights of tied candidates averaged."""
    if proxy is worth:  # then it is all one which of equals comes first
        ordered = worth = np.sort(proxy)
    else:
        order = np.argsort(proxy)
        ordered, worth = proxy[order], worth[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    if len(starts) < len(ordered):
        weights = _shared(weights, starts)
    return accurate_sum(weights * worth)


def _shared(weights: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The weights, averaged over each level of tied candidates; a level begins at each of `starts`."""
    sizes = np.diff(np.append(starts, len(weights)))
    shares = weights[starts]
    pairs = starts[sizes == 2]
    shares[sizes == 2] = (weights[pairs] + weights[pairs + 1]) / 2
    for level in np.flatnonzero(sizes > 2):
        start, size = starts[level], sizes[level]
        shares[level] = math.fsum(weights[start : start + size].tolist()) / size
    return np.repeat(shares, sizes)


@functools.lru_cache(maxsize=8)  # of a million samples they take 8 MB
def subset_weights(m: int, n: int) -> np.ndarray:
    """The chance, for i = 1..m, that the i-th smallest of m is the best of a random n-subset: C(i-1, n-1) / C(m, n).

    That of the largest is n/m, and each is (i+1-n)/i times the one above it; within u (1 + 3 m**2 u) of the ratio of
    integers, u = 2**-53.

    >>> subset_weights(4, 1)
    array([0.25, 0.25, 0.25, 0.25])
    >>> subset_weights(4, 4)
    array([0., 0., 0., 1.])
    """
    if not 1 <= n <= m:
        raise ValueError(f"n = {n} with m = {counted(m, 'sample')}: an estimate without bias needs 1 <= n <= m")
    under = np.arange(m, n - 1, -1, dtype=np.float64)
    over = under + (1 - n)
    over[0] = n
    weights = np.zeros(m)
    weights[n - 1 :] = ratio_products(over, under)[::-1]
    weights.setflags(write=False)
    return weights


def pass_at_n(samples: int, correct: int, n: int) -> float:
    """pass@n = 1 - C(m-c, n) / C(m, n) from m samples of which c are correct, rounded once (Chen 2021 eq. 1).

    Raises ValueError when n is not in 1..samples or correct not in 0..samples.

    >>> pass_at_n(4, 2, 2)  # of the six pairs one has no correct sample
    0.8333333333333334
    """
    if not (1 <= n <= samples and 0 <= correct <= samples):
        raise ValueError(
            f"pass@{n} of {counted(samples, 'sample')}, {correct} correct: need 1 <= n <= samples >= correct >= 0"
        )
    total = math.comb(samples, n)
    # Integers up to the one division.
    return (total - math.comb(samples - correct, n)) / total


def best_of_n_law(probabilities: Any, rewards: Any, n: int) -> np.ndarray:
    """The distribution (V,) of the winner of n independent draws from a finite base distribution (V,).

    pi_n(y) = F(y)**n - F^-(y)**n with F the base distribution function of the reward; outcomes whose rewards tie share
    their level's mass in proportion to the base (Beirami 2024, Lemma 1; it holds for first-of-ties, as draws are
    exchangeable). Raises ValueError for n < 1, shapes that differ, a NaN reward, or probabilities that do not sum to 1.

    >>> best_of_n_law([0.5, 0.5], [0.0, 1.0], 2)
    array([0.25, 0.75])
    """
    base, scores = _float64(probabilities), _float64(rewards)
    if n < 1 or base.shape != scores.shape or base.ndim != 1 or np.isnan(scores).any():
        raise ValueError(f"n = {n}, probabilities {base.shape}, rewards {scores.shape}: need n >= 1 and two rows (V,)")
    if (base < 0).any() or abs(math.fsum(base) - 1) > len(base) * np.finfo(np.float64).eps:
        raise ValueError(f"probabilities sum to {math.fsum(base)!r}: expected a distribution")
    law = np.zeros_like(base)
    for level in np.unique(scores[base > 0]):
        here = scores == level
        up_to, mass = math.fsum(base[scores <= level]), math.fsum(base[here])
        # BN-LAW: F**n - F_below**n is the mass of the level.
        law[here] = base[here] / mass * _power_gap(min(up_to, 1.0), mass, n)
    return law


def _power_gap(up_to: float, mass: float, n: int) -> float:
    """up_to**n - (up_to - mass)**n without cancellation."""
    return up_to**n * (1.0 if mass >= up_to else -math.expm1(n * math.log1p(-mass / up_to)))


def best_of_n_kl_bound(n: int) -> float:
    """ln n - (n-1)/n nats: an upper bound of KL(best-of-n || base), attained for rewards that never tie.

    Beirami 2024, Theorem 3.1; on a finite space the KL is smaller, and at most -ln min pi. Raises ValueError for n < 1.

    >>> best_of_n_kl_bound(1), round(best_of_n_kl_bound(4), 4)
    (0.0, 0.6363)
    """
    if n < 1:
        raise ValueError(f"n = {n}: the number of samples is at least 1")
    return math.log(n) - (n - 1) / n


def win_rate(n: int) -> float:
    """n / (n+1): how often the best of n beats one *fresh* draw from the base, for rewards that never tie.

    With ties counted one half it is at most this (Beirami 2024). Comparing with a draw that is itself among the n
    measures something else. Raises ValueError for n < 1.

    >>> win_rate(3)
    0.75
    """
    if n < 1:
        raise ValueError(f"n = {n}: the number of samples is at least 1")
    return n / (n + 1)
