"""What is it likely to be? A trainer's failures, held against those of every planted bug in the kill matrix.

Every property that fails in a scenario is a coordinate, and its length the root of the share of the evidence that fails
there: what is seen everywhere weighs most, what is seen rarely still counts. Two trainers are alike as far as their
lengths overlap (Ruzicka's index: the sum of the smaller over the sum of the larger ones), and a coordinate overlaps
as far as it is equally far off on both, on the same kinds of token. Only what both have measured counts, and a row of
the matrix holds the scenarios and functions of its mutant's areas. What a failure says counts where it measures
nothing: one property that fails everywhere would be like any other. Where that property is all that fails, it is a
pattern only as far as it has details (`facts`), and never a certain one. Below LEAST nothing is said: a wrong name
costs more time than none.

Two faults at once fail together as the union of their rows does, coordinate by coordinate the longer one. Two are said
where their union is much more alike than any single row, and each of them is seen nearly whole.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sftspec.conformance.sensitivity.mutants import Mutant, load_mutants
from sftspec.conformance.sensitivity.signatures import Mark, Signature, measured, signature
from sftspec.conformance.trial.judge import Trial
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.properties import REGISTRY

LEAST = 0.7  # tests/test_diagnosis.py says what it lets through and what it keeps out
AGREES = 0.5
WHOLE = 0.8  # of a row's length that is seen, of each of two bugs that are named together
TOGETHER = 0.85  # likeness of two, at least
GAIN = 0.05  # by which two are more alike than one
FEW = 40  # rows that are tried in pairs: those that explain most
WORDS = re.compile(r"[^\W\d]+")
JOINED = {item.name for item in SCENARIOS if item.joins}


@dataclass(frozen=True)
class Diagnosis:
    """A planted bug that a trainer looks like: of `of` failing properties, `agree` fail in the same way on both.

    likeness  in [0, 1]
    beside    the other one, where two together are what it looks like
    """

    mutant: Mutant
    agree: int
    of: int
    likeness: float
    beside: str = ""


def ruzicka(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Sum of the smaller over sum of the larger values (Ruzicka 1958); 1 for equal vectors, 0 for disjoint ones."""
    names = one.keys() | other.keys()
    larger = sum(max(one.get(name, 0.0), other.get(name, 0.0)) for name in names)
    return sum(min(one.get(name, 0.0), other.get(name, 0.0)) for name in names) / larger if larger else 1.0


def nearness(one: float, other: float) -> float:
    """The smaller of two measures over the larger; 0 where their signs differ."""
    if one * other < 0:
        return 0.0
    small, large = sorted((abs(one), abs(other)))
    return small / large if large else 1.0


NOTHING = Mark({}, {})


def overlap(one: Mark, other: Mark) -> tuple[float, float]:
    """(length that two failures of a property have in common, length of both together)."""
    names = one.scenarios.keys() | other.scenarios.keys()
    lengths = [
        (name, math.sqrt(one.scenarios.get(name, 0.0)), math.sqrt(other.scenarios.get(name, 0.0))) for name in names
    ]
    both = one.measures.keys() & other.measures.keys()
    common = sum(
        min(first, second) * (nearness(one.measures[name], other.measures[name]) if name in both else 1.0)
        for name, first, second in lengths
    )
    alike = (1 + ruzicka(one.kinds, other.kinds)) / 2
    # Of a function one counterexample is known, and of what measures nothing and is no token, no more is known than
    # what the smallest says: that is its fingerprint. The figures of a run are those of its data, and do not count.
    if "drawn" in names:
        alike = ruzicka(*(dict.fromkeys(mark.note.split(), 1.0) for mark in (one, other)))
    elif not (one.measures or other.measures or (one.kinds.keys() | other.kinds.keys()) - {""}):
        alike = ruzicka(*(dict.fromkeys(WORDS.findall(mark.note), 1.0) for mark in (one, other)))
    return common * alike, sum(max(first, second) for _, first, second in lengths)


def within(row: Signature, properties: Iterable[str], scenarios: Iterable[str]) -> Signature:
    """The part of a row that these properties show in these scenarios."""
    seen = {*scenarios, "drawn"}
    shown = {name: {item: n for item, n in row[name].scenarios.items() if item in seen} for name in properties}
    return {name: replace(row[name], scenarios=found) for name, found in shown.items() if found}


def scenarios_of(mutant: Mutant, row: Signature) -> set[str]:
    """The scenarios of a mutant's row: of those that join settings all or none (`matrix.kill_row`)."""
    alone, joined = _scenarios_of(mutant.areas)
    needed = any(row[name].scenarios.keys() <= JOINED for name in mutant.killed_by if name in row)
    return alone | joined if needed else alone


@functools.cache
def _scenarios_of(areas: frozenset[str]) -> tuple[set[str], set[str]]:
    """The scenarios of some areas: those that do not join settings, and those that do."""
    found = {item.name for item in SCENARIOS if item.areas & areas}
    return found - JOINED, found & JOINED


def compare(found: Signature, row: Signature) -> tuple[int, int, float]:
    """(properties that agree, properties that fail on either, likeness)."""
    pairs = [overlap(found.get(name, NOTHING), row.get(name, NOTHING)) for name in found.keys() | row.keys()]
    agree = sum(common >= AGREES * whole for common, whole in pairs)
    return agree, len(pairs), sum(common for common, _ in pairs) / sum(whole for _, whole in pairs)


def facts(mark: Mark) -> int:
    """How many details a failure has that measures nothing: the words of the smallest counterexample of a function, or
    the kinds of token on which it fails. Of anything else its own sentence is all that is known.
    """
    kinds = mark.kinds.keys() - {""}
    return len(set(mark.note.split())) if "drawn" in mark.scenarios else len(kinds)


def certainty(seen: Signature, row: Signature) -> float:
    """The most that a likeness can be, in [0, 1]: below 1 where one property is all that fails, and measures nothing.

    Of n details that agree, the next one might not: n / (n + 1).
    """
    if len(seen) > 1 or not seen.keys() <= row.keys():
        return 1.0
    ((name, mark),) = seen.items()
    least = min(facts(mark), facts(row[name]))
    return 1.0 if mark.measures and row[name].measures else least / (least + 1)


def diagnose(
    found: Signature, properties: Iterable[str], scenarios: Iterable[str], matrix: Mapping[str, Signature]
) -> list[Diagnosis]:
    """The likeliest planted bugs, best first (of two alike, the one that explains more); none where nothing is like
    enough.

    found       how the trainer's properties fail (`signatures.signature`)
    properties  those of which something was measured
    scenarios   those that were run
    """
    properties, scenarios = set(properties), set(scenarios)
    if not found or len(properties) == 1:  # one property that was asked alone makes no pattern
        return []
    candidates, parts = [], []
    for mutant in load_mutants():
        whole = matrix.get(mutant.name, {})
        if whole.keys().isdisjoint(found) or properties.isdisjoint(mutant.killed_by):
            continue  # nothing in common, or nothing was measured that has to fail on it
        known = scenarios & scenarios_of(mutant, whole)
        row, seen = (
            within(item, [name for name in item if name in properties and mutant.asks(REGISTRY[name])], known)
            for item in (whole, found)
        )
        if not (row and seen):
            continue
        agree, of, value = compare(seen, row)
        value = min(value, certainty(seen, row))
        if value >= LEAST:
            candidates.append(Diagnosis(mutant, agree, of, value))
        parts.append(Part(mutant, row, frozenset(known | {"drawn"})))
    # A row of the matrix itself is one bug, whatever two others are together.
    exact = any(item.likeness == 1 and item.agree == item.of == len(found) for item in candidates)
    if not exact and (two := together(within(found, properties & found.keys(), scenarios), parts)):
        return two
    return sorted(candidates, key=lambda item: (-item.likeness, -item.of)) or exactly(found, matrix)


def union(one: Signature, other: Signature) -> Signature:
    """How two bugs that are planted at once fail, if neither hides the other: each coordinate as the longer has it."""

    def longer(first: Mark, second: Mark) -> Mark:
        names = first.scenarios.keys() | second.scenarios.keys()
        shares = {name: max(first.scenarios.get(name, 0.0), second.scenarios.get(name, 0.0)) for name in names}
        more, less = sorted((first, second), key=lambda mark: -sum(mark.scenarios.values()))
        return replace(more, scenarios=shares, measures=less.measures | more.measures)

    return {
        name: longer(one[name], other[name]) if name in one and name in other else (one | other)[name]
        for name in one.keys() | other.keys()
    }


@dataclass(frozen=True)
class Part:
    """A planted bug that may be one of two.

    row    how it fails, as far as it may be compared
    known  the scenarios in which that is known
    """

    mutant: Mutant
    row: Signature
    known: frozenset[str]

    def fails(self, name: str, scenario: str) -> bool:
        return name in self.row and scenario in self.row[name].scenarios


def seen_by(found: Signature, one: Part, other: Part) -> Signature:
    """What fails, as far as two rows tell: where both know, or one of them fails as well."""

    def tells(name: str, scenario: str) -> bool:
        both = scenario in one.known and scenario in other.known
        return both or one.fails(name, scenario) or other.fails(name, scenario)

    cut = {
        name: replace(mark, scenarios={key: share for key, share in mark.scenarios.items() if tells(name, key)})
        for name, mark in found.items()
    }
    return {name: mark for name, mark in cut.items() if mark.scenarios}


def together(found: Signature, parts: Iterable[Part]) -> list[Diagnosis]:
    """The two planted bugs whose union a trainer looks like; none, unless that is clearly more alike than one is."""
    explained = []
    for part in parts if len(found) > 1 else ():
        common = sum(overlap(found[name], mark)[0] for name, mark in part.row.items() if name in found)
        if common >= WHOLE * sum(overlap(mark, mark)[1] for mark in part.row.values()):
            explained.append((common, part))
    explained.sort(key=lambda item: -item[0])
    most, best = 0.0, list[Diagnosis]()
    for (_, one), (_, other) in itertools.combinations(explained[:FEW], 2):
        shared = one.row.keys() & other.row.keys()
        if not (found.keys() & one.row.keys() - shared and found.keys() & other.row.keys() - shared):
            continue  # each has to explain a property that the other does not
        seen, row = seen_by(found, one, other), union(one.row, other.row)
        agree, of, value = compare(seen, row)
        common = sum(overlap(mark, row[name])[0] for name, mark in seen.items() if name in row)
        alone = max(compare(seen, part.row)[2] for part in (one, other))
        if value >= max(TOGETHER, alone + GAIN) and common > most:  # of two pairs, the one that explains more
            most = common
            best = [
                Diagnosis(one.mutant, agree, of, value, other.mutant.name),
                Diagnosis(other.mutant, agree, of, value, one.mutant.name),
            ]
    return best


WEIGHTS = "step/every-target-of-a-step-weighs-the-same"
OF_UNIT = {  # what weighs the same: the planted bugs of which that is so
    "rank": ("step/denominator-per-rank",),
    "micro-batch": ("step/mean-of-means", "step/not-divided-by-accumulation"),
    "row": ("step/each-row-weighs-the-same",),
}


def exactly(found: Signature, matrix: Mapping[str, Signature]) -> list[Diagnosis]:
    """The planted bug whose rule the weights follow to the last of them, whatever the order of the data.

    A rule is no likeness: a mean of means is one although the shares and medians of other data are unlike. What else
    fails is not explained by it.
    """
    units = found[WEIGHTS].units if WEIGHTS in found else frozenset()

    def agreeing(name: str) -> int:
        rows = {
            key: within(matrix.get(name, {}), [key], mark.scenarios)
            for key, mark in found.items()
            if key in matrix.get(name, {})
        }
        pairs = [overlap(found[key], row[key]) for key, row in rows.items() if row]
        return sum(common >= AGREES * whole for common, whole in pairs)

    for unit, names in OF_UNIT.items():  # where a micro-batch is a row, the larger unit is said
        if unit in units:
            name = max(names, key=agreeing)  # of as many the first: sums that are short are not undivided ones
            (mutant,) = (item for item in load_mutants() if item.name == name)
            explained = len(found.keys() & {WEIGHTS, *matrix.get(name, {})})
            return [Diagnosis(mutant, explained, len(found), explained / len(found))]
    return []


def diagnose_trial(trial: Trial, matrix: Mapping[str, Signature]) -> list[Diagnosis]:
    """The likeliest planted bugs of a trial."""
    scenarios = [run.scenario for run in trial.runs if not run.error]
    return diagnose(signature(trial), measured(trial), scenarios, matrix)
