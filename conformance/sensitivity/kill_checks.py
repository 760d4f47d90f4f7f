"""Is a planted bug caught? Run a mutant scenario by scenario until the properties that have to kill it have failed."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from sftspec import properties
from sftspec.conformance.sensitivity import matrix, signatures
from sftspec.conformance.sensitivity.mutants import Mutant, load_mutants
from sftspec.conformance.trial.corpora import Writer
from sftspec.conformance.trial.judge import judge
from sftspec.conformance.trial.performer import perform
from sftspec.conformance.trial.scenarios import SCENARIOS, Scenario
from sftspec.properties import REGISTRY

CAUGHT = ("fail", "ambiguous")


def kills(mutant: Mutant, seed: int = 0, ids: Iterable[str] | None = None) -> dict[str, str]:
    """For each property id (default: those that the mutant names), what killed the mutant.

    Returns the name of the scenario, "drawn" for a seam property, or "" where the mutant survived. The scenarios in
    which the committed matrix saw it killed are tried first, and of those the smallest.
    """
    identifiers = mutant.killed_by if ids is None else tuple(ids)
    properties.load(*{identifier.split("/")[0] for identifier in identifiers})
    wanted = [REGISTRY[identifier] for identifier in identifiers]
    trainer = mutant.make()
    killed = {item.id: "" for item in wanted}
    for item in wanted:
        if item.seam != "run" and judge(item, trainer, []).status in CAUGHT:
            killed[item.id] = "drawn"
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
                if judge(item, trainer, [run]).status in CAUGHT:
                    killed[item.id] = scenario.name
                    left.remove(item)
    return killed


@functools.cache
def work() -> dict[str, int]:
    """About how long each scenario takes: the characters of its messages, as often as they are trained."""
    return {item.name: len(str(item.corpus(Writer(0)))) * times(item) for item in SCENARIOS}


def times(scenario: Scenario) -> int:
    """How often a scenario trains its corpus; 16 bits take a CPU twice as long."""
    return scenario.settings.get("epochs", 1) * (1 + (scenario.twin is not None)) * (1 + ("dtype" in scenario.model))


def all_kills(names: Iterable[str], seed: int, workers: int) -> Iterator[tuple[str, dict[str, str]]]:
    """(mutant, its kills) of the mutants named, computed in parallel, in the order in which they are done."""
    return matrix.in_parallel(_named_kills, names, seed, workers)


def _named_kills(name: str, seed: int) -> dict[str, str]:
    return kills({item.name: item for item in load_mutants()}[name], seed)
