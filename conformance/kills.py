"""Is a planted bug caught? Run a mutant scenario by scenario until the properties that have to kill it have failed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from sftspec import properties
from sftspec.conformance.judge import claims_of, judge, record
from sftspec.conformance.mutants import Mutant
from sftspec.conformance.scenarios import scenarios_for
from sftspec.properties import REGISTRY

CAUGHT = ("fail", "ambiguous")


def kills(mutant: Mutant, seed: int = 0, ids: Iterable[str] | None = None) -> dict[str, str]:
    """For each property id (default: those that the mutant names), what killed the mutant.

    Returns the name of the scenario, "drawn" for a seam property, or "" where the mutant survived.
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
    with tempfile.TemporaryDirectory(prefix="sftspec-") as folder:
        packs = mutant.name.startswith("packing/")
        likely_first = sorted(scenarios_for(claims_of(trainer)), key=lambda item: ("packed" in item.name) != packs)
        for number, scenario in enumerate(likely_first):
            if not left:
                break
            run, _ = record(trainer, scenario, seed, Path(folder) / str(number))
            for item in list(left):
                if judge(item, trainer, [run]).status in CAUGHT:
                    killed[item.id] = scenario.name
                    left.remove(item)
    return killed
