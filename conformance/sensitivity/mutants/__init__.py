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
    "masking": ("masks", "turns", "examples", "shapes", "texts", "options", "roles", "agents", "cuts", "thoughts"),
    "packing": ("packs", "packers", "attention", "batches", "limits", "arithmetic"),
    "step": (
        "steps", "losses", "updates", "adapters", "orders", "corners", "jobs", "settings", "runs", "defaults",
        "functions", "arithmetic", "ranks", "weights",
    ),
    "template": ("rendering", "turns", "tokens", "forms", "tools", "calls", "agents"),
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

    It is written as a function:

        @killed_by("end-of-turn-is-trained")
        @seen_in("trl#976")
        @effect("the model never stops", fix="mask by position, not by id")
        def pads_masked_by_id():
            \"""Labels are masked wherever the id is that of padding, which is also the end-of-turn.\"""
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
Make = Callable[[], Any]


def killed_by(ids: str) -> Callable[[Make], Make]:
    """Register the function below as a mutant, named after itself; its docstring says what it breaks.

    ids: separated by blanks, without the area where it is the mutant's own. Raises TypeError where something is unsaid.
    """

    def register(make: Make) -> Make:
        area = make.__module__.split(".")[-2]
        name = f"{area}/{make.__name__.replace('_', '-')}"
        whole = tuple(item if "/" in item else f"{area}/{item}" for item in ids.split())
        said = vars(make)
        if not {"seen_in", "effect", "fix"} <= said.keys():
            raise TypeError(f"{name}: between @killed_by and the function stand @seen_in and @effect")
        breaks = (make.__doc__ or "").strip()
        MUTANTS[name] = Mutant(name, breaks, said["seen_in"], said["effect"], said["fix"], whole, make)
        return make

    return register


def seen_in(source: str) -> Callable[[Make], Make]:
    """Note where it was seen: an issue, a paper, a project's code, or of which bug it is a subtle form."""
    return _said(seen_in=source)


def effect(does: str, /, fix: str) -> Callable[[Make], Make]:
    """Note what it does to the trained model, and how to mend it."""
    return _said(effect=does, fix=fix)


def _said(**said: str) -> Callable[[Make], Make]:
    def note(make: Make) -> Make:
        vars(make).update(said)
        return make

    return note


def load_mutants() -> list[Mutant]:
    """All planted bugs, in the order of the matrix, whatever was imported before."""
    names = [f"{__name__}.{area}.{module}" for area, modules in MODULES.items() for module in modules]
    for name in names:
        importlib.import_module(name)
    return sorted(MUTANTS.values(), key=lambda item: names.index(item.make.__module__))
