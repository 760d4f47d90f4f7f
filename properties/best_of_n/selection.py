"""Best-of-N: of a prompt's candidates, the one with the largest reward is selected, and of equals the first.

Selection is compared exactly. Rewards are given as a list of rows, one row per prompt; the forms in which they may be
given besides are `variations`, NaN and None among them are `missing_rewards`, what follows from the rule are
`invariances`.
"""

from __future__ import annotations

from hypothesis import strategies as st

from sftspec.properties import must, should
from sftspec.properties.cases.selection import (
    INF,
    MANY_PROMPTS,
    NEIGHBOURS,
    NEIGHBOURS_OF_FLOATS,
    PAIRED,
    SATURATED,
    reward_at,
    rewards_row,
    tables,
    whole_rows,
)
from sftspec.properties.variations import leaves_alone


@must(
    seam="best_of_n",
    laws="BN-ARGMAX",
    floor=20,
    given={"rewards": tables},
    examples=[
        {"rewards": PAIRED},
        {"rewards": SATURATED},
        {"rewards": NEIGHBOURS},
        *({"rewards": [row]} for row in NEIGHBOURS_OF_FLOATS),
        {"rewards": MANY_PROMPTS},
        {"rewards": [[float(number) for number in range(1000)]]},
        {"rewards": [[-INF, -1e308]]},
        {"rewards": [[0.0, 1.0], [1.0, 0.0]]},
        {"rewards": [[-128.0, 5.0]]},
    ],
)
def the_winner_has_the_largest_reward(select, rewards):
    """The winner's reward is the largest of its prompt's rewards, compared as they were given.

    An ascending sort keeps the worst (LLaMa2lang#52, trl#117 by label order); a squashed or rounded reward, or one
    compared with a tolerance, ties what is distinct (trap H22). Negated to sort, an unsigned integer wraps, and so does
    the smallest signed one. Llama-2 section 3.2.3, arXiv:2307.09288.
    """
    for row, winner in zip(rewards, map(int, select(rewards)), strict=True):
        seen = reward_at(row, winner)
        yield (row, winner), seen == max(row), f"expected {max(row)}, selected {seen}"


@should(
    seam="best_of_n",
    laws="BN-ARGMAX",
    floor=20,
    given={"row": whole_rows},
    examples=[{"row": [2**53, 2**53 + 1]}, {"row": [2**62, 2**62 + 1, 2**62 - 1]}, {"row": [-(2**63), 5, 2**63 - 1]}],
)
def integers_are_compared_as_integers(select, row):
    """Rewards that are integers are compared as integers: 2**53 and 2**53 + 1, which are one float64, do not tie."""
    winner = int(select([row])[0])
    yield (row, winner), reward_at(row, winner) == max(row), f"expected {max(row)}, selected {reward_at(row, winner)}"


BESIDE = {
    "a missing reward": lambda row: [[*row, None]],
    "a shorter prompt": lambda row: [row, [1]],
    "a prompt of fractions": lambda row: [row, [0.5] * len(row)],
}


@should(
    seam="best_of_n",
    laws="BN-ARGMAX",
    floor=20,
    given={"row": whole_rows, "beside": st.sampled_from(sorted(BESIDE))},
    examples=[{"row": [2**53, 2**53 + 1], "beside": beside} for beside in BESIDE],
)
def no_reward_rounds_another(select, row, beside):
    """Beside a missing reward, a shorter prompt or one with fractions, integers are still compared as integers, or the
    table is refused.

    What fills up a table, or stands in another row of it, must not set the type of all.
    """
    try:
        winner = int(select(BESIDE[beside](row))[0])
    except Exception as error:
        yield (row, beside), True, f"refused: {error}"
    else:
        seen = reward_at(row, winner)
        yield (row, beside), seen == max(row), f"beside {beside}: expected {max(row)}, selected {seen}"


@must(
    seam="best_of_n",
    laws="BN-ALIGN",
    floor=20,
    given={"rewards": tables},
    examples=[{"rewards": PAIRED}, {"rewards": [[1.0, 0.0], [9.0, 8.0], [2.0, 3.0]]}],
)
def a_prompt_is_decided_by_its_own_candidates(select, rewards):
    """There is one winner per prompt, in the order of the prompts, the same as if that prompt stood alone.

    One prompt, or equal prompts, hide completions paired with the wrong prompt (R1-V#67, d1#19; trap H20).
    """
    winners, alone = [int(winner) for winner in select(rewards)], [int(select([row])[0]) for row in rewards]
    yield rewards, winners == alone, f"selected {winners} together, {alone} alone"


tied = {"row": st.lists(st.sampled_from([0.0, -0.0, 1.0, -INF]), min_size=2, max_size=8)}
tied_examples = [{"row": [1.0, 1.0, 1.0]}, {"row": [0.0, 1.0, 1.0]}, {"row": [-0.0, 0.0]}, {"row": [1.0] * 40}]


@must(seam="best_of_n", laws="BN-TIE", floor=20, given=tied, examples=tied_examples)
def ties_are_decided_the_same_way_each_time(select, row):
    """Equal rewards have one winner, whenever they are compared."""
    winners = {int(select([row])[0]) for _ in range(4)}
    yield row, len(winners) == 1, f"winners {sorted(winners)} of the same rewards"


@should(seam="best_of_n", laws="BN-TIE", floor=20, given=tied, examples=tied_examples)
def the_first_of_equals_wins(select, row):
    """Of equal rewards the candidate that was sampled first wins; -0.0 and 0.0 are equal."""
    winner = int(select([row])[0])
    yield row, winner == row.index(max(row)), f"expected {row.index(max(row))}, selected {winner}"


@should(
    seam="best_of_n",
    laws="BN-NAN",
    floor=20,
    given={"row": rewards_row, "position": st.integers(0, 7)},
    examples=[{"row": [1e308, 1.0], "position": 2}, {"row": [0.0, INF, 0.0], "position": 3}],
)
def an_infinite_reward_ranks_above_every_finite_one(select, row, position):
    """+inf is a reward, and the largest; of several the one that was sampled first wins."""
    for infinite in ([*row[:position], INF, *row[position:]], [*row[:position], INF, *row[position:], INF]):
        winner = int(select([infinite])[0])
        yield infinite, winner == infinite.index(INF), f"expected {infinite.index(INF)}, selected {winner}"


@must(
    seam="best_of_n",
    laws="BN-NAN",
    floor=20,
    given={"rewards": tables},
    examples=[{"rewards": [[2.0, float("nan"), 1.0], [0.0, 3.0, -INF]]}, {"rewards": [[3.0, 1.0, 2.0]]}],
)
def selecting_leaves_the_rewards_as_they_are(select, rewards):
    """Selection does not change the rewards that it is given.

    A NaN that is overwritten in place is a reward for whoever reads it next; rewards that are sorted in place belong to
    other completions.
    """
    yield leaves_alone(select, rewards)
