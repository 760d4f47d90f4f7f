"""Best-of-N: NaN and None mark a candidate whose scoring broke. It has no reward, and moves nobody who has one."""

from __future__ import annotations

from hypothesis import strategies as st

from sftspec.counted import counted
from sftspec.properties import must, takes
from sftspec.properties.cases.selection import INF, NAN, finite, ranked_rewards, reward_at, rewards_row, ways_to_ask

positions = st.integers(0, 7)
rows = [[1.0, 2.0], [-INF], [-INF, -INF], [0.0], [-2.0, -1.0]]
# Every place of some rows: a NaN that comes first, or last, wins where others do not.
places = [{"row": row, "position": position} for row in rows for position in range(len(row) + 1)]


@must(seam="best_of_n", laws="BN-NAN", floor=60, given={"row": rewards_row, "position": positions}, examples=places)
def a_nan_never_wins(select, row, position):
    """A NaN is not selected at any position while another candidate of its prompt has a reward, be it -inf.

    argmax, topk and sort of PyTorch and NumPy order NaN first, Python's max keeps it where it comes first, NaN * 0 is
    NaN, and NaN replaced by -inf ties with -inf (lassonet#20, trl#4501; trap H21).
    """
    broken = [*row[:position], NAN, *row[position:]]
    winner = int(select([broken])[0])
    yield (broken, winner), reward_at(broken, winner) == max(row), f"selected candidate {winner}, expected {max(row)}"


@must(seam="best_of_n", laws="BN-NAN", floor=60, given={"row": rewards_row, "position": positions}, examples=places)
def a_none_never_wins(select, row, position):
    """A candidate whose reward is None is not selected while another one of its prompt has a reward, or None is
    refused.

    A None that counts as 0 beats every negative reward; one that is left out moves the indices of those behind it.
    """
    missing = [*row[:position], None, *row[position:]]
    try:
        winner = int(select([missing])[0])
    except Exception as error:
        yield missing, True, f"refused: {error}"
    else:
        right = reward_at(missing, winner) == max(row)
        yield (missing, winner), right, f"selected candidate {winner}, expected {max(row)}"


short_tables = {
    "given": {"rewards": st.lists(st.lists(finite | st.just(NAN), min_size=1, max_size=6), min_size=1, max_size=4)},
    "examples": [
        {"rewards": [[-1.0], [-3.0, -2.0, -4.0], [-5.0, NAN]]},
        {"rewards": [[1.0, 2.0], [NAN, NAN], [4.0, 3.0]]},
        {"rewards": [[NAN], [0.0, 1.0]]},
    ],
}


@must(seam="best_of_n", laws=("BN-ALIGN", "BN-NAN"), floor=20, **short_tables)
def missing_rewards_move_no_other_prompt(select, rewards):
    """Beside a prompt that has fewer rewards, or none, every other prompt's winner is its best, in its place, or the
    table is refused.

    A rectangle filled up with zeros lets a missing completion win against negative rewards; cut to the shortest row, it
    hides candidates; a prompt that is left out in silence moves all that follow.
    """
    for options in ways_to_ask(select):
        try:
            winners = [*select(rewards, **options)]
        except Exception as error:
            yield rewards, True, f"{options} refused: {error}"
            continue
        best = [max(ranked_rewards(row), default=None) for row in rewards]
        seen = [reward_at(row, winner) for row, winner in zip(rewards, winners, strict=False)]
        right = len(seen) == len(best) and all(a == b for a, b in zip(seen, best, strict=True) if b is not None)
        yield rewards, right and len(winners) == len(best), f"{options}: expected {best}, selected {winners}"


@must(seam="best_of_n", laws="BN-NAN", floor=20, **short_tables)
def a_skipped_prompt_is_marked_in_its_place(select, rewards):
    """Where prompts without a reward are to be skipped, a negative index or None stands in the place of each, and of no
    other."""
    width = max(map(len, rewards))
    table = [[*row, *[NAN] * (width - len(row))] for row in rewards]
    if takes(select, "on_unranked"):
        winners = list(select(table, on_unranked="skip"))
        marks = [winner is None or int(winner) < 0 for winner in winners]
        yield table, marks == [not ranked_rewards(row) for row in table], f"selected {winners}"


@must(
    seam="best_of_n",
    laws="BN-NAN",
    floor=5,
    given={"count": st.integers(1, 40)},
    examples=[{"count": 1}, {"count": 3}, {"count": 40}],
)
def a_prompt_without_rewards_has_no_winner(select, count):
    """Where no candidate has a reward, selection raises, or marks the prompt with a negative index or None."""
    try:
        (winner,) = select([[NAN] * count])
    except Exception as error:
        yield count, True, f"refused: {error}"
    else:
        yield count, winner is None or int(winner) < 0, f"selected {winner} of {counted(count, 'broken candidate')}"
