"""What became of the conversations that a trainer did not take as they are, in four words.

    refused             accepts() keeps them away from it: it would raise an error
    dropped, counted    none of their targets is in any row, and job.report(examples_dropped=...) says how many
    dropped in silence  the same, and nobody is told
    rewritten           they stand in rows with tokens of their own missing, or with others put in

The first two are a trainer's choice, which the report shows; the others are failures, of which properties say more.
Beside them it shows what went through the model although the cut at max_length had left it without a target: that is
no fault, and teaches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sftspec.masking import IGNORE
from sftspec.properties.masking.traits import in_common, shared_trait, traits_of

REFUSED, COUNTED, SILENT, REWRITTEN = "refused", "dropped, counted", "dropped in silence", "rewritten"
KEPT = "kept without a target"


@dataclass(frozen=True)
class Untaken:
    """Conversations of one job that share a fate.

    how     one of the four words, or KEPT
    count   how many they are, and of how many
    first   where the first of them stands: "corpus.jsonl:3"; "" of those that were not given
    trait   what they have in common, and no other has; "" where there is nothing
    """

    how: str
    count: int
    of: int
    first: str
    trait: str


def gone(run: Any) -> list[int]:
    """The conversations that keep targets of which no row holds one; not those of calls that cannot be read."""
    seen = {row.example for piece in run.pieces for row in piece.rows if is_target(run, piece.example, row.offset)}
    return [index for index in run.copies if not (index in seen or index in run.empty or run.lost[index])]


def is_target(run: Any, index: int, offset: int) -> bool:
    return offset > 0 and run.streams[index].labels[offset] != IGNORE


def counted(run: Any) -> frozenset[int]:
    """Those of them that the trainer says it dropped: all, where its count is that of what no row holds, else none.

    A conversation that keeps no target may be among them, whether it went through the model or not.
    """
    lost = gone(run)
    total = sum(run.copies[index] for index in lost)
    unseen = run.empty - {piece.example for piece in run.pieces}
    said = run.job.reported.get("examples_dropped")
    return frozenset(lost if lost and said in {total + len(unseen), total + len(run.empty)} else ())


def cut_empty(run: Any) -> list[int]:
    """The conversations that keep no target within max_length, and had some."""
    return [index for index in sorted(run.empty) if run.streams[index].num_targets]


def rewritten(run: Any) -> list[int]:
    """The conversations that stand in rows otherwise than they are rendered: a token is lost, or one put in."""
    held: dict[int, set[int]] = {}
    foreign = set()
    for pieces in run.appearances:
        held.setdefault(pieces[0].example, set()).update(row.offset for piece in pieces for row in piece.rows)
        for one, two in pairwise(pieces):
            if run.is_same_text(one, two):
                held[one.example].update(range(one.end, two.start))
            elif run.between(one, two):
                foreign.add(one.example)
    lengths = {index: min(len(run.streams[index]), run.job.max_length or 10**9) for index in held}
    return [index for index in held if index in foreign or len(held[index]) < lengths[index]]


def untaken(run: Any) -> list[Untaken]:
    """What became of those that a trainer did not take; [] where its run broke."""
    found = []
    if run.refused:
        control = [run.job.tokenizer.decode([token]) for token in run.job.tokenizer.all_special_ids]
        sides = [[list(traits_of(talk, control)) for talk in talks] for talks in (run.refused, run.job.conversations)]
        total = len(run.refused) + len(run.job.conversations)
        found.append(Untaken(REFUSED, len(run.refused), total, "", shared_trait(*sides)))
    if run.error or not run.rows:
        return found
    lost, told = gone(run), counted(run)
    parts = {
        COUNTED if told else SILENT: lost,
        REWRITTEN: sorted(set(rewritten(run)) - set(lost)),
        KEPT: [index for index in cut_empty(run) if any(piece.example == index for piece in run.pieces)],
    }
    for how, chosen in parts.items():
        if chosen:
            kept = [index for index in run.copies if index not in chosen and index not in run.empty]
            talk = run.job.conversations[chosen[0]]
            trait = in_common(run, chosen, kept)
            found.append(Untaken(how, len(chosen), len(run.copies), getattr(talk, "source", ""), trait))
    return found
