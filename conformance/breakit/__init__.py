"""Break it, and see what happens: what each mistake does to a model that is trained with it.

An experiment trains (or computes) the right thing and the broken one, and returns what it measured: a sentence with the
numbers, the claims that they have to support (each with a margin), and a chart. Its direction is asserted, not its
numbers. Experiments on training use the reference Pipeline and the mutants of the suite, so that what is broken is a
real trainer; `caught_by` names a property that fails on it.

Source of the designs: measurements with another model of the same size; the papers are named in each experiment.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

MODULES = ("masks", "inference", "packs", "steps", "temperatures", "rewards")


@dataclass(frozen=True)
class Claim:
    """What has to come out, with its margin: "0.99 > 0.5: …" in words and numbers, and whether it did."""

    text: str
    holds: bool


def above(what: str, seen: float, bound: float) -> Claim:
    return Claim(f"{what}: {seen:.4g} > {bound:.4g}", seen > bound)


def below(what: str, seen: float, bound: float) -> Claim:
    return Claim(f"{what}: {seen:.4g} < {bound:.4g}", seen < bound)


@dataclass(frozen=True)
class Chart:
    """Curves over a common axis, or bars where x is a name: series[label] = [(x, y), …]."""

    x_label: str
    y_label: str
    series: dict[str, list[tuple[float | str, float]]]
    log_x: bool = False

    @property
    def is_bars(self) -> bool:
        return any(isinstance(x, str) for points in self.series.values() for x, _ in points)


@dataclass(frozen=True)
class Outcome:
    """What an experiment saw.

    sentence  what happened, with the measured numbers
    claims    what had to come out
    charts    what to look at
    """

    sentence: str
    claims: tuple[Claim, ...]
    charts: tuple[Chart, ...]

    @property
    def holds(self) -> bool:
        return all(claim.holds for claim in self.claims)


@dataclass(frozen=True)
class Experiment:
    """One mistake and its demonstration.

    name       what is asked for on the command line
    breaks     the mistake, in one sentence
    nuance     when it shows, and when it hides
    caught_by  id of a property that fails on it
    mutant     the planted bug that it trains with ("" where the mistake is none of a trainer's)
    run        makes the outcome from a seed
    """

    name: str
    breaks: str
    nuance: str
    caught_by: str
    mutant: str
    run: Callable[[int], Outcome]


EXPERIMENTS: dict[str, Experiment] = {}


def experiment(caught_by: str, mutant: str = "") -> Callable[[Callable[[int], Outcome]], Callable[[int], Outcome]]:
    """Register a function of the seed; the first line of its docstring is the mistake, the rest the nuance."""

    def register(run: Callable[[int], Outcome]) -> Callable[[int], Outcome]:
        breaks, _, nuance = (run.__doc__ or "").strip().partition("\n")
        name = run.__name__.replace("_", "-")
        nuance = "\n".join(line.strip() for line in nuance.strip().splitlines())
        EXPERIMENTS[name] = Experiment(name, breaks, nuance, caught_by, mutant, run)
        return run

    return register


def load() -> dict[str, Experiment]:
    """All experiments, by name."""
    for name in MODULES:
        importlib.import_module(f"{__name__}.{name}")
    return EXPERIMENTS
