"""What was found in a batch, as something that adds up.

Rule of this file: a summary is a sum. `one + other` is associative and commutative, and a file cut into batches in any
way gives the same summary; so it can be made by one process, by many, or by a cluster, in any order. Examples are those
that stand first in the data, whoever saw them first.

A place is one integer: the number of the file, times PLACES, plus the number of the line (or row).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import merge as merged
from itertools import islice

import numpy as np

PLACES = 1 << 40
EXAMPLES = 5  # of each finding
LISTED = 10_000  # bad lines and rows of --where that are listed; all are counted

Example = tuple[int, str]  # place, note


def first_of(one: Iterable[Example], other: Iterable[Example], most: int) -> list[Example]:
    return list(islice(merged(one, other), most))


@dataclass
class Found:
    """One finding: conversations that have it, how often it occurs in them, the first examples."""

    conversations: int = 0
    times: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, place: int, times: int, note: str) -> None:
        self.conversations += 1
        self.times += times
        if len(self.examples) < EXAMPLES:
            self.examples.append((place, note))

    def __add__(self, other: Found) -> Found:
        examples = first_of(self.examples, other.examples, EXAMPLES)
        return Found(self.conversations + other.conversations, self.times + other.times, examples)


@dataclass
class Summary:
    """Counts over some records.

    records        lines or rows that hold something
    conversations  those that were encoded; tokens, kept, targets are theirs
    weight         what these targets weigh together in the loss, in millionths
    found          by finding
    bad            bad lines and refused conversations: (place, reason), the first LISTED
    where          (place, note) of what --where asked for, the first LISTED
    roles          messages, tokens, targets by role
    lengths        how many conversations have so many tokens; target_counts: so many targets
    cut            by limit: conversations, tokens lost, targets lost, conversations left without a target
    remarks        what was read under another name or not at all: records, first place
    prints         arrays (n, 3) uint64: digest of the text, of the prompt, place
    """

    records: int = 0
    conversations: int = 0
    tokens: int = 0
    kept: int = 0
    targets: int = 0
    found: dict[str, Found] = field(default_factory=dict)
    bad: list[Example] = field(default_factory=list)
    where: list[Example] = field(default_factory=list)
    roles: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    lengths: Counter[int] = field(default_factory=Counter)
    target_counts: Counter[int] = field(default_factory=Counter)
    cut: dict[int, tuple[int, ...]] = field(default_factory=dict)
    remarks: dict[str, tuple[int, int]] = field(default_factory=dict)
    prints: list[np.ndarray] = field(default_factory=list)
    weight: int = 0

    def __add__(self, other: Summary) -> Summary:
        total = Summary()
        total += self
        total += other
        return total

    def __iadd__(self, other: Summary) -> Summary:
        for name in ("records", "conversations", "tokens", "kept", "targets", "weight"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, found in other.found.items():
            self.found[name] = self.found[name] + found if name in self.found else found + Found()
        self.bad = first_of(self.bad, other.bad, LISTED)
        self.where = first_of(self.where, other.where, LISTED)
        for table, more in ((self.roles, other.roles), (self.cut, other.cut)):
            for key, values in more.items():  # type: ignore[attr-defined]
                table[key] = tuple(map(sum, zip(table[key], values, strict=True))) if key in table else values  # type: ignore
        self.lengths.update(other.lengths)
        self.target_counts.update(other.target_counts)
        for said, (count, place) in other.remarks.items():
            known = self.remarks.get(said, (0, place))
            self.remarks[said] = (known[0] + count, min(known[1], place))
        self.prints += other.prints
        return self

    def duplicates(self) -> dict[str, Found]:
        """What only a look at all conversations shows: texts that stand there twice, and prompts that nearly do."""
        if not self.prints:
            return {}
        prints = np.concatenate(self.prints)
        self.prints = [prints]
        prints = prints[np.lexsort((prints[:, 2], prints[:, 0]))]
        again = np.append(False, prints[1:, 0] == prints[:-1, 0])
        found = {"duplicates": _repeated(prints, 0, again)}
        once = prints[~again]
        once = once[np.lexsort((once[:, 2], once[:, 1]))]
        near = np.append(False, once[1:, 1] == once[:-1, 1])
        found["near-duplicate prompts"] = _repeated(once, 1, near)
        return {name: item for name, item in found.items() if item.conversations}


def _repeated(prints: np.ndarray, column: int, again: np.ndarray) -> Found:
    """What stands there a second time or more, with the place of the first."""
    count = int(again.sum())
    places = prints[again, 2]
    chosen = np.argsort(places, kind="stable")[:EXAMPLES]
    rows = np.flatnonzero(again)[chosen]
    examples = []
    for row in rows.tolist():
        first = int(np.searchsorted(prints[:, column], prints[row, column], "left"))
        examples.append((int(prints[row, 2]), f"as {{{int(prints[first, 2])}}}"))
    return Found(count, count, examples)


def percentiles(counts: Counter[int], wanted: Iterable[float]) -> Iterator[tuple[float, int]]:
    """For each q in [0, 1] the smallest value that at least a share q of the items does not exceed (nearest rank)."""
    values = sorted(counts)
    reached = np.cumsum([counts[value] for value in values]) if values else np.zeros(0)
    for q in wanted:
        rank = max(1, int(np.ceil(q * reached[-1]))) if values else 0
        yield q, values[int(np.searchsorted(reached, rank, "left"))] if values else 0
