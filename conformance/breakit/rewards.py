"""What selecting by a flawed reward does, without a model: the laws of best-of-N are exact.

A policy is a finite distribution over answers, or a pair of random variables; what best-of-N makes of it is enumerated
or integrated, never sampled. So the seed changes the policy, and no noise is in the result.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np

from sftspec.conformance.breakit import Chart, Claim, Outcome, above, below, experiment
from sftspec.order_statistics import best_of_n_law, expected_max_normal

QUALITIES, LENGTHS = 5, 64
BIASES = (0.0, 0.02, 0.1, 0.3)
ROUNDS = 5


def policy(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(probability, quality, length) of 5 x 64 answers: a binomial quality and, independently, a bell of lengths."""
    generator = random.Random(seed)
    quality, length = (axis.ravel().astype(float) for axis in np.mgrid[:QUALITIES, 1 : LENGTHS + 1])
    skill, mean, deviation = generator.uniform(0.4, 0.5), generator.uniform(15, 17), generator.uniform(5, 6)
    choices = np.array([math.comb(QUALITIES - 1, k) for k in range(QUALITIES)])[quality.astype(int)]
    of_quality = choices * skill**quality * (1 - skill) ** (QUALITIES - 1 - quality)
    weights = of_quality * np.exp(-(((length - mean) / deviation) ** 2) / 2)
    return weights / weights.sum(), quality, length


@experiment(caught_by="best_of_n/the-gold-value-is-that-of-the-choice-of-the-proxy")
def verbosity_bias(seed: int) -> Outcome:
    """The reward likes long answers a little: round after round of best-of-4 the answers grow.

    Each round's policy is the law of the best of 4 of the round before (fine-tuning that fits perfectly), so that five
    rounds are one best-of-1024. A small bias first breaks ties between equally good answers and costs nothing; a large
    one buys length with quality. If readers dislike more than 20 tokens, the worth under the smallest bias rises first
    and falls later, while the reward goes on rising: the first rounds look fine. Rejection sampling over rounds:
    Llama-2, arXiv:2307.09288 section 3.2.3.
    """
    base, quality, length = policy(seed)
    worth = quality - 0.02 * np.maximum(length - 20, 0)
    lengths, qualities, proxies, laws_of = {}, {}, {}, {}
    for bias in BIASES:
        law, reward = base, quality + bias * length
        laws = [law := best_of_n_law(law / law.sum(), reward, 4) for _ in range(ROUNDS)]
        laws_of[bias] = laws = [base, *laws]
        lengths[bias] = [float(law @ length) for law in laws]
        qualities[bias] = [float(law @ quality) for law in laws]
        proxies[bias] = [float(law @ reward) for law in laws]
    ends = {bias: values[-1] for bias, values in qualities.items()}
    still = max(abs(value - lengths[0.0][0]) for value in lengths[0.0])
    text = "; ".join(
        f"bias {bias}: length {lengths[bias][0]:.1f} to {lengths[bias][-1]:.1f}, quality {ends[bias]:.2f}"
        for bias in BIASES
    )
    rounds = range(ROUNDS + 1)
    small = BIASES[1]
    worths = {b: [float(law @ worth) for law in laws_of[b]] for b in BIASES}
    best = max(rounds, key=worths[small].__getitem__)
    return Outcome(
        f"After {ROUNDS} rounds of best-of-4 by quality + bias * length: {text}."
        f" To readers who dislike more than 20 tokens, the answers under bias {small} are worth most after round {best}"
        f" ({worths[small][best]:.3f}) and {worths[small][-1]:.3f} at the end.",
        (
            below("drift of the mean length without a bias", still, 1e-9),
            *(above(f"least growth of a round, bias {bias}", least_step(lengths[bias]), 0.05) for bias in BIASES[1:]),
            *(above(f"quality, bias {a} minus bias {b}", ends[a] - ends[b], 0.0) for a, b in pairwise(BIASES[1:])),
            above("quality lost by the largest bias", ends[0.0] - ends[BIASES[-1]], 0.1),
            *(above(f"least rise of the reward, bias {b}", least_step(proxies[b]), 0.0) for b in BIASES[1:]),
            above(f"worth lost after its peak, bias {small}", worths[small][best] - worths[small][-1], 0.01),
            above(f"worth gained up to its peak, bias {small}", worths[small][best] - worths[small][0], 0.5),
        ),
        tuple(
            Chart("round", label, {f"bias {b}": list(zip(rounds, values[b], strict=True)) for b in BIASES})
            for label, values in (("mean length, tokens", lengths), ("mean quality", qualities), ("worth", worths))
        ),
    )


def least_step(values: list[float]) -> float:
    return min(after - before for before, after in pairwise(values))


# ------------------------------------------------------------------------------------------------ N towards infinity

COUNTS = tuple(2**k for k in range(15))
GRID = np.linspace(-9.0, 9.0, 1801)


def student_t_density(freedom: int, x: np.ndarray) -> np.ndarray:
    front = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    return front * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)


def normal_density(x: np.ndarray) -> np.ndarray:
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def gold_of_best(
    error_density: Callable[[np.ndarray], np.ndarray], counts: tuple[int, ...] = COUNTS
) -> tuple[list[float], list[float]]:
    """E[gold] and the median of the proxy of the best of n by proxy = gold + error, gold standard normal.

    With f the density of the proxy s, m(s) = E[gold | s] and F its distribution function, the winner's gold is
    integral of m(s) d(F(s)**n). The grid in s is dense where a normal lives and geometric in the tails, up to 1e7.
    """
    tail = np.geomspace(12.0, 1e7, 2500)[1:]
    s = np.concatenate((-tail[::-1], np.linspace(-12.0, 12.0, 2401), tail))
    normal = normal_density(GRID) * (GRID[1] - GRID[0])
    error = error_density(s[:, None] - GRID)
    density, moment = error @ normal, error @ (normal * GRID)
    steps = np.diff(s)
    mass = (density[1:] + density[:-1]) / 2 * steps
    # far out a normal density is 0.0: no mass, and no mean to divide by
    gold = (moment[1:] + moment[:-1]) / np.maximum(density[1:] + density[:-1], 1e-300)
    below_cell = np.concatenate(([0.0], np.cumsum(mass)))
    below_cell /= below_cell[-1]
    golds, medians = [], []
    for n in counts:
        law = below_cell**n
        golds.append(float(np.diff(law) @ gold))
        medians.append(float(np.interp(0.5, law, s)))
    return golds, medians


@experiment(caught_by="best_of_n/the-gold-value-is-that-of-the-choice-of-the-proxy")
def n_too_large(seed: int) -> Outcome:
    """The reward has heavy-tailed errors and N grows to 16384: the reward rises, the answer's worth falls.

    With normal errors of the same scale the worth never falls: it is E[max of N] / sqrt(2), for ever. With Student's t
    of three degrees of freedom the winner of many is the one whose error is largest. How far N may go is a matter of
    the tail of the reward's errors, which the reward itself does not show. Gao et al. 2022, arXiv:2210.10760; Kwa et
    al. 2024, catastrophic Goodhart. The seed does not enter: nothing is drawn.
    """
    gold, proxy = gold_of_best(partial(student_t_density, 3))
    normal = [float(expected_max_normal(n)) / math.sqrt(2) for n in COUNTS]
    peak = max(range(len(COUNTS)), key=gold.__getitem__)
    at = COUNTS.index(1024)
    return Outcome(
        f"With errors of Student's t (3 degrees of freedom) the best of {COUNTS[peak]} is worth {gold[peak]:.3f}, the"
        f" best of 1024 {gold[at]:.2f}, of 16384 {gold[-1]:.2f}, while the median of its reward rises from"
        f" {abs(proxy[0]):.1f} to {proxy[-1]:.1f}. With normal errors the best of 1024 is worth {normal[at]:.3f}, and"
        " more never hurts.",
        (
            above("fall of the worth from its peak to N = 1024", gold[peak] - gold[at], 0.3),
            above("rise of the worth from N = 1 to its peak", gold[peak] - gold[0], 0.5),
            Claim(f"the peak lies inside: N = {COUNTS[peak]}", 1 < COUNTS[peak] < 1024),
            above("least rise of the reward's median", least_step(proxy), 0.05),
            above("least rise of the worth with normal errors", least_step(normal), 0.05),
        ),
        (
            Chart(
                "N",
                "worth of the winner",
                {
                    "normal errors": list(zip(COUNTS, normal, strict=True)),
                    "heavy-tailed errors": list(zip(COUNTS, gold, strict=True)),
                },
                log_x=True,
            ),
            Chart(
                "N",
                "median of the winner's reward",
                {"heavy-tailed errors": list(zip(COUNTS, proxy, strict=True))},
                log_x=True,
            ),
        ),
    )
