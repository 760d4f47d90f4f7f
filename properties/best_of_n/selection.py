"""Best-of-N: of a prompt's candidates, which one is selected.

Selection is compared exactly; the one statistical property states its bound. Rewards are given as a list of rows, one
row per prompt; NaN marks a candidate whose scoring broke. What selection is worth stands in `order_statistics`, the
pipeline around it in `rejection_sampling`.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import strategies as st

from sftspec.properties import must, should
from sftspec.properties.cases.selection import (
    INF,
    MANY_PROMPTS,
    NAN,
    NEIGHBOURS,
    NEIGHBOURS_OF_FLOATS,
    PAIRED,
    SATURATED,
    distinct_row,
    each_alone,
    finite,
    in_each_form,
    left_as_given,
    rewards_row,
    tables,
    ways_to_ask,
    where_not_refused,
    whole_rows,
)


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
    """The winner's reward is the maximum of its prompt's rewards, compared as they were given, be it in lists, an array
    or a tensor, in a table or, where that is not refused, as the row of one prompt.

    An ascending sort keeps the worst (LLaMa2lang#52, trl#117 by label order); a squashed or rounded reward, or one
    compared with a tolerance, ties what is distinct (trap H22). Negated to sort, an unsigned integer wraps, and so does
    the smallest signed one. Llama-2 section 3.2.3, arXiv:2307.09288.
    """
    for form, winners in (*in_each_form(select, rewards), *each_alone(select, rewards)):
        for row, winner in zip(rewards, map(int, winners), strict=True):
            yield (form, row, winner), row[winner] == max(row), f"expected {max(row)}, selected {row[winner]}"


@should(
    seam="best_of_n",
    laws="BN-ARGMAX",
    floor=20,
    given={"row": whole_rows},
    examples=[{"row": [2**53, 2**53 + 1]}, {"row": [2**62, 2**62 + 1, 2**62 - 1]}, {"row": [-(2**63), 5, 2**63 - 1]}],
)
def whole_numbers_are_compared_as_whole_numbers(select, row):
    """Rewards that are integers are compared as integers, whichever type holds them: 2**53 and 2**53 + 1, which are one
    float64, do not tie. Nor do they where another reward is missing, or another prompt is shorter or has a fraction:
    what fills up a table does not set its type."""
    beside = {"beside None": [[*row, None]], "beside 1": [row, [1]], "beside 1/2": [row, [0.5] * len(row)]}
    filled = where_not_refused(lambda table: list(select(table)), beside)
    for form, (winner, *_) in (*in_each_form(select, [row]), *each_alone(select, [row]), *filled):
        found = [*row, None][int(winner)]
        yield (form, row), found == max(row), f"expected {max(row)}, selected {found}"


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
    winners = [int(winner) for winner in select(rewards)]
    yield rewards, len(winners) == len(rewards), f"{len(winners)} winners for {len(rewards)} prompts"
    for row, winner in zip(rewards, winners, strict=False):
        alone = int(select([row])[0])
        yield (rewards, row), winner == alone, f"selected {winner} among others, {alone} alone"


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
    yield (row, shuffled), shuffled[int(select([shuffled])[0])] == row[int(select([row])[0])]


@must(
    seam="best_of_n",
    laws=("BN-ALIGN", "BN-NAN"),
    floor=20,
    given={"rewards": st.lists(st.lists(finite | st.just(NAN), min_size=1, max_size=6), min_size=1, max_size=4)},
    examples=[
        {"rewards": [[-1.0], [-3.0, -2.0, -4.0], [-5.0, NAN]]},
        {"rewards": [[1.0, 2.0], [NAN, NAN], [4.0, 3.0]]},
        {"rewards": [[NAN], [0.0, 1.0]]},
    ],
)
def a_prompt_with_fewer_rewards_moves_no_other(select, rewards):
    """Where prompts have unequal numbers of completions, or none that has a reward, every other prompt's winner is its
    best, in its place; or the whole is refused, unless rows are equally long and such prompts were to be skipped.

    A rectangle filled up with zeros lets a missing completion win against negative rewards; cut to the shortest row, it
    hides candidates; a prompt that is left out in silence moves all that follow.
    """
    for options in ways_to_ask(select):
        try:
            winners = list(select(rewards, **options))
        except Exception as error:
            unequal = len({*map(len, rewards)}) > 1
            yield rewards, unequal or not options, f"{options} refused: {error}"
            continue
        yield rewards, len(winners) == len(rewards), f"{options}: {len(winners)} winners for {len(rewards)} prompts"
        for row, winner in zip(rewards, winners, strict=False):
            best = max((reward for reward in row if reward == reward), default=None)
            skipped = winner is None or int(winner) < 0
            right = skipped if best is None else not skipped and int(winner) < len(row) and row[int(winner)] == best
            yield (rewards, row), right, f"{options}: expected {best}, selected {winner}"


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


@must(
    seam="best_of_n",
    laws="BN-NAN",
    floor=60,
    given={"row": rewards_row},
    examples=[{"row": [1.0, 2.0]}, {"row": [-INF]}, {"row": [-INF, -INF]}, {"row": [0.0]}, {"row": [-2.0, -1.0]}],
)
def a_candidate_without_a_reward_never_wins(select, row):
    """A NaN reward is not selected at any position while another candidate has a reward, be it -inf, and whether
    rewards come in lists, an array or a tensor, in a table or as a row; nor is None, where it is not refused. What is
    given stays as it is: a NaN that is overwritten in place is a reward for whoever reads it next.

    argmax, topk and sort of PyTorch and NumPy order NaN first, Python's max keeps it where it comes first, NaN * 0 is
    NaN, and NaN replaced by -inf ties with -inf (lassonet#20, trl#4501; trap H21). A None that counts as 0 beats every
    negative reward; one that is left out moves the indices of those behind it.
    """
    for position in range(len(row) + 1):
        broken = [*row[:position], NAN, *row[position:]]
        for form, (winner,) in (*in_each_form(select, [broken]), *each_alone(select, [broken])):
            right = broken[int(winner)] == max(row)
            yield (form, broken), right, f"selected candidate {int(winner)}, expected reward {max(row)}"
        for form, kept in left_as_given(select, [broken]):
            yield (form, broken), kept, "the rewards that were given are other ones after the call"
        missing = [*row[:position], None, *row[position:]]
        for form, winner in where_not_refused(lambda table: int(select(table)[0]), forms_with_none(missing)):
            right = winner >= 0 and missing[winner] == max(row)
            yield (form, missing), right, f"selected candidate {winner}, expected {max(row)}"


def forms_with_none(row) -> dict:
    """The forms that can hold a None."""
    tensors = [None if reward is None else torch.tensor(reward, dtype=torch.float64) for reward in row]
    return {"lists": [row], "an array of objects": np.array([row], dtype=object), "lists of tensors": [tensors]}


@must(
    seam="best_of_n",
    laws="BN-NAN",
    floor=5,
    given={"count": st.integers(1, 40)},
    examples=[{"count": 1}, {"count": 3}, {"count": 40}],
)
def a_prompt_without_rewards_is_refused_or_skipped(select, count):
    """When no candidate has a reward, selection raises, or marks the prompt with a negative index or None, which it has
    to where such prompts are to be skipped."""
    for options in ways_to_ask(select):
        try:
            (winner,) = select([[NAN] * count], **options)
        except Exception as error:
            yield count, not options, f"{options} refused: {error}"
        else:
            marked = winner is None or int(winner) < 0
            yield count, marked, f"{options}: selected {winner} of {count} broken candidates"


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
