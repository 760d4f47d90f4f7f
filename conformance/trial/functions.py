"""Properties of functions: which function a property reads, and arguments drawn for it until one does not hold.

What is drawn depends on the strategies alone, and not on the function that is judged. So arguments are drawn once in a
process for all properties that are given the same, and every function gets the same ones. Only what fails is drawn
again, to be shrunk.

A law is asked plainly first, of every explicit example and of all that is drawn. Then each variation of the seam is
asked of every example, and what is drawn is dealt out among the variations: each of it is asked once more.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import sftspec
from sftspec.properties import NotMeasuredError, Property
from sftspec.properties.variations import VARIATIONS, NotAsked, Variation

RESERVE = 3  # times as many are drawn where most are refused


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

    A Pipeline has the stages, and the library the other functions. Another trainer names those that it wants judged:
    `parts = {"pack": my_pack}`; an attribute that happens to be called `encode` is not taken for one.
    """
    trainer = getattr(trainer, "in_process", None) or trainer
    module = sys.modules.get("sftspec.trainer")  # where nothing imported it, nothing is one of its Pipelines
    if module is None or not isinstance(trainer, module.Pipeline):
        return getattr(trainer, "parts", {}).get(item.seam)
    return getattr(trainer, item.seam, None) or getattr(sftspec, item.seam, None)


def draw(item: Property, function: Any, max_examples: int) -> Drawn:
    """Explicit examples first, then what hypothesis draws, until one does not hold; a drawn one is shrunk.

    A function that raises UnsatisfiedAssumption is not asked what it was given. Raises NotMeasuredError where the
    property does.
    """
    from hypothesis.errors import Unsatisfiable, UnsatisfiedAssumption

    held = 0
    smallest: dict[str, Any] = {}
    way: Variation | None = None

    def judge(**arguments: Any) -> None:
        nonlocal held
        # What somebody's function does to its arguments must not reach the examples, which others are given as well.
        arguments = copied(arguments)
        for subject, holds, *note in item.check(way.of(function) if way else function, **arguments):
            if not holds:
                said = under(way, note[0] if note else "")
                smallest.update(scenario="drawn", run=None, subject=subject, note=said, arguments=arguments)
                raise Failed(item.sentence)
            held += 1

    def is_asked(arguments: Mapping[str, Any]) -> bool:
        try:
            judge(**arguments)
        except (NotAsked, UnsatisfiedAssumption):
            return False
        return True

    strategies, variations = item.given or {}, VARIATIONS.get(item.seam, ()) if item.varied else ()
    examples = item.examples if strategies else ({},)
    drawn = drawn_arguments(item, max_examples)
    try:
        for arguments in examples:
            is_asked(arguments)
        try:
            asked = sum([is_asked(arguments) for arguments in drawn])
            if 2 * asked < len(drawn) or (asked < len(drawn) and held < item.floor):
                for arguments in drawn_arguments(item, RESERVE * max_examples):
                    if asked >= max_examples:
                        break
                    asked += is_asked(arguments)
        except NotMeasuredError:
            raise
        except Exception:  # shrunk
            _hypothesis(strategies, judge, max_examples)
            raise
        if 2 * asked < len(drawn) and held < item.floor:
            raise Unsatisfiable(f"of {(1 + RESERVE) * max_examples} that were drawn it refuses all but {asked}")
        for each, arguments in itertools.product(variations, examples):
            way = each
            is_asked(arguments)
        turns = itertools.cycle(variations)
        for arguments in drawn:  # each in the next way into which it goes
            for each in itertools.islice(turns, len(variations)):
                way = each
                try:
                    if is_asked(arguments):
                        break
                except Exception:
                    _hypothesis(strategies, lambda **arguments: is_asked(arguments), max_examples)
                    raise
    except NotMeasuredError:
        raise
    except Exception as error:
        if smallest:
            return Drawn(held, smallest)
        raised = under(way, f"{what_failed(item.seam, error)} {type(error).__name__}: {error}")
        return Drawn(held, {"scenario": "drawn", "subject": None, "note": raised}, raised)
    return Drawn(held)


def what_failed(seam: str, error: Exception) -> str:
    """The function itself, or the reading of what it returned: an answer too short, or of another type."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    module = place.tb_frame.f_globals.get("__name__", "") if place is not None else ""
    in_property = module.startswith("sftspec.properties.")
    return f"what {seam} returned cannot be read," if in_property else f"{seam} raised"


def copied(value: Any) -> Any:
    """A deep copy; of what JSON holds, made at a quarter of the price."""
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    if type(value) is list:
        return [copied(item) for item in value]
    return value if type(value) in (str, int, float, bool, type(None)) else deepcopy(value)


def under(way: Variation | None, note: str) -> str:
    """What a piece of evidence says, and in which way it was asked."""
    return f"{way.name}: {note}" if way else note


def drawn_arguments(item: Property, max_examples: int) -> list[dict[str, Any]]:
    """The arguments that hypothesis draws for a property: the same ones each time."""
    return _drawn(tuple(item.given.items()), max_examples) if item.given else []


@functools.lru_cache(maxsize=256)  # a template on trial has properties of its own, which are not needed again
def _drawn(strategies: tuple[tuple[str, Any], ...], max_examples: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    _hypothesis(dict(strategies), lambda **arguments: found.append(arguments), max_examples)
    return found


def _hypothesis(strategies: Mapping[str, Any], body: Callable[..., object], max_examples: int) -> None:
    """Call the body with drawn arguments; if it raises, shrink them and raise what it raises on the smallest."""
    from hypothesis import HealthCheck, Phase, given, settings

    # Neither the phase that explains a failure (what it finds is shown nowhere) nor a search for further ones.
    chosen = settings(
        max_examples=max_examples,
        derandomize=True,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=(HealthCheck.too_slow,),  # of the machine, and no fault of the property
    )

    def drawn(**arguments: Any) -> None:  # its source is what hypothesis derives the seed from
        body(**arguments)

    chosen(given(**strategies)(drawn))()
