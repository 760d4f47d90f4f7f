"""How a trainer fails, as numbers: the rows of the kill matrix, and what `diagnosis` compares them with.

A row says of every property that fails in which scenarios, on which share of the evidence, how far off, and on what
kind of token. The committed matrix (`mutants/matrix.json`) has one for each planted bug.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftspec import SPEC_REVISION
from sftspec.conformance.report.json_values import short
from sftspec.conformance.trial.judge import Trial, Verdict

PATH = Path(__file__).with_name("mutants") / "matrix.json"
NOTE = 120  # characters


@dataclass(frozen=True)
class Mark:
    """How a property fails: which share of its evidence in each scenario, how far off, on what.

    scenarios  name -> share of the evidence there that does not hold, in (0, 1]; "drawn" for a function
    kinds      "assistant content" and the like -> share of the failures; "" for what is no token
    measures   name of a scenario -> median of what the failing evidence measured there, where it measures something
    note       what the smallest counterexample says
    units      what weighs the same in place of a target, wherever it fails (judge.Verdict); read off a trainer alone
    """

    scenarios: dict[str, float]
    kinds: dict[str, float]
    measures: dict[str, float] = field(default_factory=dict)
    note: str = ""
    units: frozenset[str] = frozenset()


Signature = dict[str, Mark]


def fails(verdict: Verdict) -> bool:
    """Does the evidence itself speak against the trainer, whether or not a prerequisite failed as well?"""
    return bool(verdict.failed_in)


def mark_of(verdict: Verdict) -> Mark:
    total = sum(verdict.failed_at.values())
    return Mark(
        {
            name: round(failed / (failed + verdict.evidence.get(name, 0)), 4) or 1e-4
            for name, failed in verdict.failed_in.items()
            if name != "drawn"
        }
        or {"drawn": 1.0},
        {kind: round(count / total, 4) or 1e-4 for kind, count in verdict.failed_at.items()},
        {name: float(f"{statistics.median(values):.4g}") for name, values in verdict.measures.items()},
        note_of(verdict),
        frozenset(verdict.units or ()),
    )


def note_of(verdict: Verdict) -> str:
    found = verdict.counterexample or {}
    drawn = short(found.get("subject")) if found.get("scenario") == "drawn" else ""
    return " ".join(f"{found.get('note', '')} {drawn}".split())[:NOTE]


def signature(trial: Trial) -> Signature:
    """How each property that fails does so."""
    return {verdict.property.id: mark_of(verdict) for verdict in trial.verdicts if fails(verdict)}


def measured(trial: Trial) -> set[str]:
    """The properties of which something was seen, failing or not."""
    return {item.property.id for item in trial.verdicts if fails(item) or item.status in ("pass", "blocked")}


def to_json(matrix: dict[str, Signature], seed: int) -> dict[str, Any]:
    """The matrix with the names of scenarios and kinds written once: a row holds their numbers."""
    scenarios = sorted({name for row in matrix.values() for mark in row.values() for name in mark.scenarios})
    kinds = sorted({name for row in matrix.values() for mark in row.values() for name in mark.kinds})
    scenario_at = {name: number for number, name in enumerate(scenarios)}
    kind_at = {name: number for number, name in enumerate(kinds)}
    rows = {
        name: {
            identifier: [
                {scenario_at[item]: share for item, share in mark.scenarios.items()},
                {kind_at[item]: share for item, share in mark.kinds.items()},
                {scenario_at[item]: median for item, median in mark.measures.items()},
                mark.note,
            ]
            for identifier, mark in sorted(row.items())
        }
        for name, row in sorted(matrix.items())
    }
    return {"spec_revision": SPEC_REVISION, "seed": seed, "scenarios": scenarios, "kinds": kinds, "rows": rows}


def from_json(document: dict[str, Any]) -> dict[str, Signature]:
    scenarios, kinds = document["scenarios"], document["kinds"]
    return {
        name: {
            identifier: Mark(
                {scenarios[int(number)]: share for number, share in first.items()},
                {kinds[int(number)]: share for number, share in second.items()},
                {scenarios[int(number)]: median for number, median in third.items()},
                note,
            )
            for identifier, (first, second, third, note) in row.items()
        }
        for name, row in document["rows"].items()
    }


def save(matrix: dict[str, Signature], seed: int, path: Path = PATH, **more: Any) -> None:
    """Write the matrix, and `more` beside it: all of it or nothing, whenever the process is stopped."""
    document = to_json(matrix, seed) | more
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in document.pop("rows").items())
    head = json.dumps(document, indent=1)[:-2]
    written = path.with_name(f".{path.name}.{os.getpid()}")
    written.write_text(f'{head},\n "rows": {{\n{rows}\n }}\n}}\n', encoding="utf-8")
    written.replace(path)


@functools.lru_cache(maxsize=1)
def load(path: Path = PATH) -> dict[str, Signature]:
    """The committed matrix: mutant -> signature."""
    return from_json(json.loads(path.read_text(encoding="utf-8")))
