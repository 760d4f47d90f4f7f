"""Who sees whom in a packed row, as the replays showed it.

A model call is made again with other tokens in some of its conversations. A conversation whose hidden states stay
bitwise equal does not see those that were changed. For each pair that makes "no" (a replay showed it), "yes" (nothing
else that was changed can have moved it) or "unknown" (no replay tells).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from sftspec.properties.ledger.run import Piece, Replay, Run

LOOKED_AT, WIDEST = 60, 12  # rows of batches; stretches of one that a table has room for


def isolation_record(runs: Iterable[Run]) -> dict[str, Any] | None:
    """A row of several conversations with what each of them sees: one in which most see another; else the fullest.

    pieces  the stretches of conversations, in order
    sees    sees[i][j]: does stretch i see stretch j
    """
    isolation = Isolation()
    for run in runs:
        isolation.add(run)
    return isolation.record()


class Isolation:
    """The same, of runs that are forgotten one after another."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def add(self, run: Run) -> None:
        self.records += [_record(*found) for found in islice(packed_rows([run]), LOOKED_AT - len(self.records))]

    def record(self) -> dict[str, Any] | None:
        return max(self.records, key=_tells, default=None)


def _record(run: Run, pieces: list[Piece], replays: list[Replay]) -> dict[str, Any]:
    return {
        "scenario": run.scenario,
        "forward": pieces[0].rows[0].forward,
        "row": pieces[0].rows[0].row,
        "pieces": [{"conversation": item.example, "start": item.start, "end": item.end} for item in pieces],
        "sees": [line_of(one, pieces, replays) for one in pieces],
    }


def _tells(record: dict[str, Any]) -> tuple[int, int]:
    return leaks(record), len(record["pieces"])


def leaks(record: dict[str, Any]) -> int:
    """How many stretches see another."""
    return sum(said == "yes" for i, line in enumerate(record["sees"]) for j, said in enumerate(line) if i != j)


def packed_rows(runs: Iterable[Run]) -> Iterator[tuple[Run, list[Piece], list[Replay]]]:
    """Rows of a batch in which several conversations stand, with the replays of their model call."""
    for run in runs:
        replays: dict[int, list[Replay]] = {}
        for replay in run.replays:
            replays.setdefault(replay.forward, []).append(replay)
        lines: dict[tuple[int, int], list[Piece]] = {}
        for piece in run.pieces:
            lines.setdefault((piece.rows[0].forward, piece.rows[0].row), []).append(piece)
        for (forward, _), pieces in lines.items():
            if len({piece.example for piece in pieces}) > 1 and len(pieces) <= WIDEST and forward in replays:
                yield run, pieces, replays[forward]


def line_of(one: Piece, pieces: list[Piece], replays: Iterable[Replay]) -> list[str]:
    """What a piece sees of each piece of its row.

    Where it did not move, it sees none of those that were changed. Where it moved, it sees one of them: which one is
    known only if the others are known not to be seen.
    """
    mine, hidden, seen, moves = places(one), set(), set(), []
    for replay in replays:
        changed = {other for other in pieces if replay.changed & places(other)}
        if replay.moved & mine and one not in changed:
            moves.append(changed)
        elif not replay.moved & mine:
            hidden |= changed
    for changed in moves:
        left = changed - hidden
        seen |= left if len(left) == 1 else set()
    return ["yes" if other is one or other in seen else "no" if other in hidden else "unknown" for other in pieces]


def places(piece: Piece) -> frozenset[tuple[int, int]]:
    return frozenset((row.row, row.column) for row in piece.rows)
