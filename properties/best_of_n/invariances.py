"""Best-of-N: what follows from the rule, and needs no oracle: what leaves the choice as it is, and what it is worth."""

from __future__ import annotations

import itertools
import math
import random

from hypothesis import strategies as st

from sftspec.order_statistics import expected_max_normal
from sftspec.properties import must
from sftspec.properties.cases.selection import distinct_row, reward_at, rewards_row


@must(
    seam="best_of_n",
    laws="BN-PERM",
    floor=20,
    given={"row": distinct_row, "seed": st.integers(0, 99)},
    examples=[{"row": [1.0, 3.0, 2.0], "seed": 1}],
)
def permuting_the_candidates_moves_the_winner_along(select, row, seed):
    """Where rewards are distinct, the order of the candidates does not matter."""
    shuffled = random.Random(seed).sample(row, len(row))
    yield (row, shuffled), reward_at(shuffled, select([shuffled])[0]) == reward_at(row, select([row])[0])


@must(
    seam="best_of_n",
    laws="BN-MONO",
    floor=60,
    given={"row": st.lists(st.integers(-64, 64).map(lambda k: k / 8), min_size=1, max_size=7)},
    examples=[{"row": [0.125, 0.25, 0.0]}, {"row": [5.0, 7.0, 6.0]}],
)
def only_the_order_of_rewards_matters(select, row):
    """A strictly increasing function of the rewards leaves the winner where it was, also if each prompt has its own.

    All functions here are exact in float32. Whitening over prompts, a global top-k, softmax sampling and rounding
    before ranking fail (ms-swift#6683, LMFlow#293).
    """
    order = sorted(set(row))
    changed = [[2 * r for r in row], [r + 2.0**17 for r in row], [float(order.index(r)) for r in row]]
    expected = int(select([row])[0])
    for new, winner in zip(changed, select(changed), strict=True):
        yield (row, new), int(winner) == expected, f"expected {expected}, selected {int(winner)}"


@must(
    seam="best_of_n",
    laws="BN-SUB",
    floor=40,
    given={"row": rewards_row},
    examples=[{"row": [3.0]}, {"row": [2.0, 1.0, 4.0, 3.0]}],
)
def more_candidates_never_make_the_winner_worse(select, row):
    """Best of one is that one, and the best of N + M is at least the best of N."""
    best = [row[int(select([row[:n]])[0])] for n in range(1, len(row) + 1)]
    yield row, best == [row[0], *map(max, itertools.pairwise(best))], f"winners' rewards with growing N: {best}"


@must(
    seam="best_of_n",
    laws="BN-ARGMAX",
    floor=20,
    given={"row": rewards_row, "cut": st.integers(1, 6)},
    examples=[{"row": [1.0, 9.0, 2.0, 8.0], "cut": 2}],
)
def selection_does_not_depend_on_sharding(select, row, cut):
    """The winner among the winners of shards is the winner of all (ms-swift#10205: statistics per worker)."""
    shards = [shard for shard in (row[:cut], row[cut:]) if shard]
    best = [shard[int(select([shard])[0])] for shard in shards]
    yield row, best[int(select([best])[0])] == row[int(select([row])[0])]


@must(
    seam="best_of_n",
    laws="BN-EMAX",
    floor=5,
    given={"n": st.sampled_from([2, 4, 16]), "seed": st.integers(0, 2)},
    examples=[{"n": 4, "seed": 0}],
    varied=False,
)
def the_best_of_normal_rewards_is_their_expected_maximum(select, n, seed):
    """Over 2,000 prompts with independent N(0, 1) rewards, the winners' mean is E[max of n] within five errors.

    The maximum is a 1-Lipschitz function of n normals, so its variance is at most 1 (Poincaré): five standard errors
    are 5 / sqrt(2000).
    """
    draw = random.Random(seed)
    rewards = [[draw.gauss(0, 1) for _ in range(n)] for _ in range(2000)]
    mean = math.fsum(row[int(winner)] for row, winner in zip(rewards, select(rewards), strict=True)) / 2000
    expected = float(expected_max_normal(n))
    yield n, abs(mean - expected) <= 5 / math.sqrt(2000), f"expected {expected:.4f}, mean {mean:.4f}"
