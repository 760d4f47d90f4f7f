"""Mutants: bugs that shipped, planted one at a time in the reference, so that every property is seen to fail.

A suite is worth what it catches. Each mutant is the reference Pipeline with one stage replaced, and says what it
breaks, where that happened, and by which properties it has to be killed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sftspec.conformance.trial.scenarios import Scenario
from sftspec.properties import Property

# The modules of each area, in the order of the matrix. A mutant's area is the folder it stands in.
MODULES = {
    "masking": ("masks", "turns", "examples", "shapes", "texts", "options", "roles", "agents", "cuts"),
    "packing": ("packs", "attention", "batches", "limits"),
    "step": (
        "steps", "losses", "updates", "adapters", "orders", "corners", "jobs", "settings", "runs", "defaults",
        "functions", "ranks",
    ),
    "template": ("rendering", "tokens", "forms", "tools", "calls", "agents"),
    "best_of_n": ("choices", "samples", "values", "groups", "rewards", "forms"),
    "distillation": (
        "losses", "positions", "teachers", "options", "shapes", "steps", "refusals", "functions", "forms",
    ),
}  # fmt: skip
AREAS = tuple(MODULES)


@dataclass(frozen=True)
class Mutant:
    """One planted bug.

    name       a place: "masking/pads-masked-by-id"
    breaks     what is wrong, in one sentence
    seen_in    a real issue, a paper or a project's code; of which bug it is a subtle form; or that no report is known
    effect     what it does to the trained model
    fix        one line
    killed_by  ids of the properties that must fail on it
    make       makes the broken trainer
    """

    name: str
    breaks: str
    seen_in: str
    effect: str
    fix: str
    killed_by: tuple[str, ...]
    make: Callable[[], Any]

    @cached_property
    def areas(self) -> frozenset[str]:
        """Its own, and those of the properties that it names."""
        return frozenset(name.partition("/")[0] for name in (self.name, *self.killed_by))

    def runs(self, scenario: Scenario) -> bool:
        """May this scenario be in its row of the matrix? Those made for other areas show nothing more."""
        return bool(scenario.areas & self.areas)

    def asks(self, item: Property) -> bool:
        """Is this property in its row? Of those that read a function, the ones of its areas."""
        return item.seam == "run" or item.area in self.areas


MUTANTS: dict[str, Mutant] = {}


def mutant(killed_by: str, seen_in: str, effect: str, fix: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register the function that makes the broken trainer; its docstring says what it breaks.

    killed_by: ids separated by blanks, without the area where it is the mutant's own.
    """

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        area = make.__module__.split(".")[-2]
        name = f"{area}/{make.__name__.replace('_', '-')}"
        ids = tuple(item if "/" in item else f"{area}/{item}" for item in killed_by.split())
        MUTANTS[name] = Mutant(name, (make.__doc__ or "").strip(), seen_in, effect, fix, ids, make)
        return make

    return register


def load_mutants() -> list[Mutant]:
    """All planted bugs, in the order of the matrix, whatever was imported before."""
    names = [f"{__name__}.{area}.{module}" for area, modules in MODULES.items() for module in modules]
    for name in names:
        importlib.import_module(name)
    return sorted(MUTANTS.values(), key=lambda item: names.index(item.make.__module__))
