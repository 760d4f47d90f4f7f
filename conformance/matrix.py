"""The kill matrix: which properties fail on which planted bug. It is the suite's proof of its own sensitivity.

A row is a mutant's signature: every property that fails on it, at the default budget. The committed matrix
(`mutants/matrix.json`) is what `diagnosis` compares a failing trainer with.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable
from pathlib import Path

from sftspec import SPEC_REVISION, properties
from sftspec.conformance.judge import Trial, Verdict, put_on_trial
from sftspec.conformance.mutants import AREAS, load_mutants

PATH = Path(__file__).with_name("mutants") / "matrix.json"


def fails(verdict: Verdict) -> bool:
    """Does the evidence itself speak against the trainer, whether or not a prerequisite failed as well?"""
    return verdict.status in ("fail", "ambiguous") or verdict.failures > 0


def signature(trial: Trial) -> dict[str, bool]:
    """For each property that was measured: did it fail?"""
    return {
        verdict.property.id: fails(verdict)
        for verdict in trial.verdicts
        if fails(verdict) or verdict.status in ("pass", "blocked")
    }


def kill_row(name: str, seed: int = 0) -> tuple[str, list[str]]:
    """(the mutant's name, ids of the properties that fail on it), over every scenario."""
    mutant = {item.name: item for item in load_mutants()}[name]
    trial = put_on_trial(mutant.make(), properties.load(*AREAS), seed)
    return name, sorted(identifier for identifier, failed in signature(trial).items() if failed)


def kill_matrix(names: Iterable[str] = (), seed: int = 0, workers: int = 2) -> dict[str, list[str]]:
    """The rows of the mutants named (of all, without a name), computed in parallel."""
    chosen = list(names) or [item.name for item in load_mutants()]
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=8) as pool:
        return dict(pool.starmap(kill_row, [(name, seed) for name in chosen], chunksize=1))


def survivors(matrix: dict[str, list[str]]) -> dict[str, list[str]]:
    """Mutants that a property named by their entry does not kill: name -> those properties."""
    entries = {item.name: item for item in load_mutants()}
    missed = {name: [item for item in entries[name].killed_by if item not in row] for name, row in matrix.items()}
    return {name: ids for name, ids in missed.items() if ids}


def save(matrix: dict[str, list[str]], seed: int) -> None:
    document = {"spec_revision": SPEC_REVISION, "seed": seed, "rows": matrix}
    PATH.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load() -> dict[str, list[str]]:
    """The committed matrix: mutant -> ids of the properties that fail on it."""
    return json.loads(PATH.read_text(encoding="utf-8"))["rows"]
