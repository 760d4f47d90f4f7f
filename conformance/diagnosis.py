"""What is it likely to be? The pattern of failing properties, compared with those of the planted bugs.

A trainer's failures are held against each row of the kill matrix, on the properties that both have measured. Agreement is
the share of the failing properties of either that fail in both. Below two thirds nothing is said: a wrong name costs more
time than none.
"""

from __future__ import annotations

from dataclasses import dataclass

from sftspec.conformance.mutants import Mutant, load_mutants

LEAST_AGREEMENT = 2 / 3


@dataclass(frozen=True)
class Diagnosis:
    """A planted bug that a trainer looks like: `agree` of `of` failing properties fail in both."""

    mutant: Mutant
    agree: int
    of: int

    @property
    def agreement(self) -> float:
        return self.agree / self.of

    def __str__(self) -> str:
        return (
            f"{self.mutant.name}: {self.agree} of {self.of} failing properties agree. {self.mutant.breaks} "
            f"Seen in {self.mutant.seen_in}; it {self.mutant.effect}; fix: {self.mutant.fix}."
        )


def diagnose(measured: dict[str, bool], matrix: dict[str, list[str]]) -> list[Diagnosis]:
    """The likeliest planted bugs, best first: all that share the best agreement, if that is two thirds or more.

    measured: property id -> did it fail (see `matrix.signature`).
    """
    failing = {identifier for identifier, failed in measured.items() if failed}
    if not failing:
        return []
    found = []
    for mutant in load_mutants():
        row = measured.keys() & set(matrix.get(mutant.name, ()))
        both = len(failing | row)
        if row:
            found.append(Diagnosis(mutant, len(failing & row), both))
    best = max((item.agreement for item in found), default=0.0)
    return [item for item in found if item.agreement == best] if best >= LEAST_AGREEMENT else []
