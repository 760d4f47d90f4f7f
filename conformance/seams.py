"""Properties of functions: which function a property reads, and arguments drawn for it until one does not hold."""

from __future__ import annotations

import importlib
import importlib.util
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from sftspec.properties import Property


class Failed(AssertionError):
    """A piece of evidence that does not hold."""


@dataclass(frozen=True)
class Drawn:
    """What came of drawing arguments.

    held            pieces of evidence that hold
    counterexample  subject, note and arguments of the smallest that does not; None if all do
    raised          what the function raised instead of an answer
    """

    held: int
    counterexample: dict[str, Any] | None = None
    raised: str = ""


def part_of(trainer: Any, item: Property):
    """The function that a seam property reads, or None if the trainer has no such part.

    A Pipeline has them all; another trainer names those that it wants judged: `parts = {"pack": my_pack}`. An attribute
    that happens to be called `encode` is not taken for one.
    """
    from sftspec.trainer import Pipeline

    if not isinstance(trainer, Pipeline):
        return getattr(trainer, "parts", {}).get(item.seam)
    if hasattr(trainer, item.seam):
        return getattr(trainer, item.seam)
    names = ("sftspec", f"sftspec.{item.check.__module__.rsplit('.', 1)[-1]}", f"sftspec.{item.area}")
    homes = [importlib.import_module(name) for name in names if importlib.util.find_spec(name)]
    return next((getattr(home, item.seam) for home in homes if hasattr(home, item.seam)), None)


def draw(item: Property, function: Any, max_examples: int) -> Drawn:
    """Draw arguments with hypothesis (explicit examples first) until one does not hold, and shrink that one."""
    from hypothesis import Phase, example, given, settings

    # Without the phase that explains a failing example: what it finds is shown nowhere.
    phases = (Phase.explicit, Phase.generate, Phase.shrink)
    held = 0
    smallest: dict[str, Any] = {}

    def drawn(**arguments: Any) -> None:
        nonlocal held
        # What somebody's function does to its arguments must not reach the examples, which other properties share.
        arguments = {name: deepcopy(it) if isinstance(it, list | dict) else it for name, it in arguments.items()}
        for subject, holds, *note in item.check(function, **arguments):
            if not holds:
                smallest.update(
                    scenario="drawn", run=None, subject=subject, note=note[0] if note else "", arguments=arguments
                )
                raise Failed(item.sentence)
            held += 1

    test = given(**item.given)(drawn) if item.given else drawn
    for arguments in item.examples if item.given else ():
        test = example(**arguments)(test)
    try:
        if item.given:
            settings(max_examples=max_examples, derandomize=True, deadline=None, database=None, phases=phases)(test)()
        else:
            test()
    except Exception as error:
        if smallest:
            return Drawn(held, smallest)
        raised = f"{item.seam} raised {type(error).__name__}: {error}"
        return Drawn(held, {"scenario": "drawn", "subject": None, "note": raised}, raised)
    return Drawn(held)
