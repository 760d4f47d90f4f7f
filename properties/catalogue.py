"""The properties without running them: read from the source, so that listing and explaining answer at once.

Importing the properties imports torch and hypothesis, two seconds that nobody waits for who only wants to read. What
the decorators say is written in literals; a test holds this catalogue against the registry.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sftspec.properties import MODULES, paragraphs


@dataclass(frozen=True)
class Entry:
    """A property as its source states it: see `sftspec.properties.Property` for the fields.

    place  file and line, such as "properties/masking/positions.py:66"
    code   the function with its decorator
    """

    id: str
    area: str
    level: str
    seam: str
    floor: int
    claim: str
    laws: tuple[str, ...]
    needs: tuple[str, ...]
    sentence: str
    why: str
    place: str
    code: str


def catalogue(*areas: str) -> list[Entry]:
    """All properties of the areas named (of every area without a name), in the order of the source."""
    return [
        entry
        for area, modules in MODULES.items()
        if not areas or area in areas
        for module in modules
        for entry in _entries(Path(__file__).parent / area / f"{module}.py", area)
    ]


def _entries(path: Path, area: str) -> Iterator[Entry]:
    source = path.read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) in ("must", "should"):
                yield _entry(path, area, source, node, decorator, ast.unparse(decorator.func))


def _entry(path: Path, area: str, source: str, node: ast.FunctionDef, decorator: ast.Call, level: str) -> Entry:
    literal = ("seam", "floor", "claim", "laws", "needs")
    said = {item.arg: ast.literal_eval(item.value) for item in decorator.keywords if item.arg in literal}
    sentence, why = paragraphs(ast.get_docstring(node))
    lines = source.splitlines()[decorator.lineno - 1 : node.end_lineno]
    return Entry(
        id=f"{area}/{node.name.replace('_', '-')}",
        area=area,
        level=level,
        seam=said.get("seam", "run"),
        floor=said.get("floor", 1),
        claim=said.get("claim", ""),
        laws=_tuple(said.get("laws", ())),
        needs=_tuple(said.get("needs", ())),
        sentence=sentence,
        why=why,
        place=f"properties/{area}/{path.name}:{decorator.lineno}",
        code="\n".join(lines),
    )


def _tuple(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
