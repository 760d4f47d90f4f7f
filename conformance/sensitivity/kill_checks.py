"""Is a planted bug caught? Run a mutant scenario by scenario until the properties that have to kill it have failed.

A row is that of the kill matrix (`matrix`), of those properties alone: each with the first scenario in which it fails.
"""

from __future__ import annotations

import functools
import gc
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from sftspec import properties
from sftspec.conformance.sensitivity import matrix, signatures
from sftspec.conformance.sensitivity.mutants import Mutant, load_mutants
from sftspec.conformance.sensitivity.signatures import Signature, fails, mark_of
from sftspec.conformance.trial.corpora import Writer
from sftspec.conformance.trial.judge import judge
from sftspec.conformance.trial.performer import perform
from sftspec.conformance.trial.scenarios import SCENARIOS, Scenario
from sftspec.properties import REGISTRY


def kills(mutant: Mutant, seed: int = 0, ids: Iterable[str] | None = None) -> Signature:
    """Which of the properties (default: those that the mutant names) fail, and how. It survives those that are missing.

    The scenarios in which the committed matrix saw it killed are tried first, and of those the smallest.
    """
    identifiers = mutant.killed_by if ids is None else tuple(ids)
    properties.load(*{identifier.split("/")[0] for identifier in identifiers})
    wanted = [REGISTRY[identifier] for identifier in identifiers]
    trainer = mutant.make()
    killed: Signature = {}
    for item in wanted:
        if item.seam != "run" and fails(verdict := judge(item, trainer, [])):
            killed[item.id] = mark_of(verdict)
    left = [item for item in wanted if item.seam == "run"]
    row = signatures.load().get(mutant.name, {})
    seen = [name for item in left if item.id in row for name in row[item.id].scenarios]
    likely_first = sorted(
        matrix.scenarios_shown(trainer), key=lambda scenario: (-seen.count(scenario.name), work()[scenario.name])
    )
    with tempfile.TemporaryDirectory(prefix="sftspec-") as folder:
        for number, scenario in enumerate(likely_first):
            if not left:
                break
            run = perform(trainer, scenario, seed, Path(folder) / str(number), matrix.replays_of(trainer)).read()
            for item in list(left):
                if fails(verdict := judge(item, trainer, [run])):
                    killed[item.id] = mark_of(verdict)
                    left.remove(item)
            del run
            gc.collect()  # runs, jobs and models refer to one another
    return killed


@functools.cache
def work() -> dict[str, int]:
    """About how long each scenario takes: the characters of its messages, as often as they are trained."""
    return {item.name: len(str(item.corpus(Writer(0)))) * times(item) for item in SCENARIOS}


def times(scenario: Scenario) -> int:
    """How often a scenario trains its corpus; 16 bits take a CPU twice as long."""
    return scenario.settings.get("epochs", 1) * (1 + (scenario.twin is not None)) * (1 + ("dtype" in scenario.model))


def all_kills(names: Iterable[str], seed: int, workers: int) -> Iterator[tuple[str, Signature]]:
    """(mutant, its row) of the mutants named, computed in parallel, in the order in which they are done."""
    return matrix.in_parallel(_named_kills, names, seed, workers)


def _named_kills(name: str, seed: int) -> Signature:
    return kills({item.name: item for item in load_mutants()}[name], seed)
