"""What is it likely to be? A trainer's failures, held against those of every planted bug in the kill matrix.

Two failures of a property are alike as far as they happen in the same scenarios, to the same share of the evidence, on
the same kinds of token: both times the sum of the smaller shares over the sum of the larger ones (Ruzicka's index). A
trainer is like a mutant as far as its properties are, on average over all that fail on either. Only what both have
measured counts. Below LEAST nothing is said: a wrong name costs more time than none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sftspec.conformance.judge import Trial
from sftspec.conformance.mutants import Mutant, load_mutants
from sftspec.conformance.signatures import Mark, Signature, measured, signature

LEAST = 0.8  # tests/test_diagnosis.py says what it lets through and what it keeps out
AGREES = 0.5


@dataclass(frozen=True)
class Diagnosis:
    """A planted bug that a trainer looks like: of `of` failing properties, `agree` fail in the same way on both.

    likeness  mean over these properties, in [0, 1]
    """

    mutant: Mutant
    agree: int
    of: int
    likeness: float


def ruzicka(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Sum of the smaller over sum of the larger values (Ruzicka 1958); 1 for equal vectors, 0 for disjoint ones."""
    names = one.keys() | other.keys()
    larger = sum(max(one.get(name, 0.0), other.get(name, 0.0)) for name in names)
    return sum(min(one.get(name, 0.0), other.get(name, 0.0)) for name in names) / larger if larger else 1.0


def likeness(one: Mark, other: Mark) -> float:
    words = [dict.fromkeys(mark.note.split(), 1.0) for mark in (one, other)]
    said = ruzicka(*words) if all(words) else 1.0
    return (ruzicka(one.scenarios, other.scenarios) + ruzicka(one.kinds, other.kinds)) / 2 * (0.9 + 0.1 * said)


def within(row: Signature, properties: Iterable[str], scenarios: Iterable[str]) -> Signature:
    """The part of a row that these properties show in these scenarios."""
    seen = {*scenarios, "drawn"}
    cut = {
        name: replace(row[name], scenarios={item: n for item, n in row[name].scenarios.items() if item in seen})
        for name in properties
        if name in row
    }
    return {name: mark for name, mark in cut.items() if mark.scenarios}


def compare(found: Signature, row: Signature) -> tuple[int, int, float]:
    """(properties that agree, properties that fail on either, mean likeness over these)."""
    either = found.keys() | row.keys()
    alike = [likeness(found[name], row[name]) for name in found.keys() & row.keys()]
    return sum(value >= AGREES for value in alike), len(either), sum(alike) / len(either)


def diagnose(
    found: Signature, properties: Iterable[str], scenarios: Iterable[str], matrix: Mapping[str, Signature]
) -> list[Diagnosis]:
    """The likeliest planted bugs, best first; none where nothing is like enough.

    found       how the trainer's properties fail (`signatures.signature`)
    properties  those of which something was measured
    scenarios   those that were run
    """
    if not found:
        return []
    properties, scenarios = set(properties), set(scenarios)
    candidates = []
    for mutant in load_mutants():
        row = within(matrix.get(mutant.name, {}), properties, scenarios)
        agree, of, value = compare(found, row) if row else (0, 1, 0.0)
        if value >= LEAST:
            candidates.append(Diagnosis(mutant, agree, of, value))
    return sorted(candidates, key=lambda item: -item.likeness)


def diagnose_trial(trial: Trial, matrix: Mapping[str, Signature]) -> list[Diagnosis]:
    """The likeliest planted bugs of a trial."""
    scenarios = [run.scenario for run in trial.runs if not run.error]
    return diagnose(signature(trial), measured(trial), scenarios, matrix)
