"""The executable specification: one folder per area, one function per property.

A property is a generator. It reads either a recorded `run` (what a trainer really did to the witness model) or one
*seam* of the pipeline (a pure function such as `pack` or `loss`, with arguments drawn by hypothesis), and yields
`(subject, holds)`, `(subject, holds, note)` or `(subject, holds, note, measure)` once for every piece of evidence. The
measure says how far off it is (found over expected, or an error), so that one fault can be told from another. Nothing
yielded is nothing measured: below its `floor` a property says `not-measured`, never `pass`.

Ids are places (`masking/end-of-turn-is-trained`), derived from the folder and the function's name. They never change
meaning and are never reused.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

# The modules of each area, in the order in which they are read. A property's area is the folder it stands in.
MODULES = {
    "template": (
        "rendering", "forms", "tools", "calls", "agents", "prompts", "refusals", "tokens", "goldens",
    ),
    "masking": ("positions", "examples", "loss", "encoder", "agents"),
    "packing": ("isolation", "packer", "collator", "limits"),
    "step": ("gradient", "trained", "updates", "adapters", "dropout", "epochs", "ranks", "reports", "functions",
             "clipping"),
    "best_of_n": (
        "variations", "selection", "missing_rewards", "invariances", "top_k", "order_statistics", "normal", "gold",
        "winner", "rejection_sampling", "rejection_sampling_runs",
    ),
    "distillation": (
        "variations", "loss", "mixture", "precision", "positions", "teacher", "reading", "options", "refusals",
        "divergences", "bucket", "runs",
    ),
}  # fmt: skip
AREAS = tuple(MODULES)


@dataclass(frozen=True, eq=False)  # each is itself, and may be a key
class Property:
    """One sentence of the specification, as code.

    check     the generator; its first parameter is the run or the seam
    level     "must" or "should"
    seam      "run", or the name of the Pipeline stage (or public function) that the property calls directly
    floor     the least number of yields that counts as measured
    costly    a long computation stands behind it, so it reads only the scenarios that were made for its area
    bounded   it compares within the rounding of the trainer's arithmetic, which 16 bits make wider
    alone     it takes the cross-entropy to be all of the loss, and is not measured beside an auxiliary one
    final     it reads how runs end, so also one of which the witness could read no step
    claim     the capability a trainer must claim before this property says anything of it ("" = every trainer)
    laws      ids of the laws that it enforces
    needs     ids of properties without which this one cannot be read (their failure makes it `blocked`)
    given     hypothesis strategies by parameter name, for a seam
    examples  explicit arguments tried before any drawn ones: one for each catalogued bug
    varied    it is asked under every variation of its seam (`variations`), too
    """

    id: str
    area: str
    check: Callable[..., Iterator[tuple]]
    level: str
    seam: str = "run"
    floor: int = 1
    costly: bool = False
    bounded: bool = False
    alone: bool = False
    final: bool = False
    claim: str = ""
    laws: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    given: Mapping[str, Any] | None = None
    examples: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    varied: bool = True

    @property
    def sentence(self) -> str:
        """The normative sentence: the first paragraph of the docstring, in one line."""
        return paragraphs(self.check.__doc__)[0]

    @property
    def why(self) -> str:
        """What follows it: the effect on the model, the real bugs, the source."""
        return paragraphs(self.check.__doc__)[1]


def paragraphs(docstring: str | None) -> tuple[str, str]:
    """(first paragraph in one line, the rest) of a docstring."""
    first, _, rest = inspect.cleandoc(docstring or "").partition("\n\n")
    return " ".join(first.split()), rest.strip()


class NotMeasuredError(Exception):
    """Raised by a property where what it reads cannot be read; says why."""


REGISTRY: dict[str, Property] = {}


def _register(level: str, check: Callable, **options: Any) -> Callable:
    area = check.__module__.split(".")[-2]
    identifier = f"{area}/{check.__name__.replace('_', '-')}"
    if identifier in REGISTRY:
        raise ValueError(f"property id {identifier} is declared twice")
    for key in ("laws", "needs"):
        value = options.get(key, ())
        options[key] = (value,) if isinstance(value, str) else tuple(value)
    REGISTRY[identifier] = Property(id=identifier, area=area, check=check, level=level, **options)
    return check


def must(**options: Any) -> Callable[[Callable], Callable]:
    """Declare a property whose failure makes a trainer wrong."""
    return lambda check: _register("must", check, **options)


def should(**options: Any) -> Callable[[Callable], Callable]:
    """Declare a property whose failure makes a trainer worse, not wrong."""
    return lambda check: _register("should", check, **options)


def takes(function: Callable, option: str) -> bool:
    """Whether a function has an option: one that it does not have is not asked of it."""
    look = options_of if isinstance(function, Hashable) else options_of.__wrapped__
    return option in (found := look(function)) or "**" in found


@functools.lru_cache(maxsize=64)  # a variation of a function is another one
def options_of(function: Callable) -> frozenset[str]:
    """Names of its parameters; "**" where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset("**" if item.kind is inspect.Parameter.VAR_KEYWORD else item.name for item in parameters)


def number_or_nan(function: Callable, *arguments: Any, **options: Any) -> float:
    """The number that a function returns; NaN if it refuses to, with whatever error."""
    try:
        return float(function(*arguments, **options))
    except Exception:
        return math.nan


def modules(*areas: str) -> list[ModuleType]:
    """The modules of the areas named (of every area without a name), in the order of the source."""
    return [
        importlib.import_module(f"sftspec.properties.{area}.{name}")
        for area, names in MODULES.items()
        if not areas or area in areas
        for name in names
    ]


def load(*areas: str) -> list[Property]:
    """All properties of the areas named (of every area without a name), in the order of the source."""
    modules(*areas)
    return [item for item in REGISTRY.values() if not areas or item.area in areas]
