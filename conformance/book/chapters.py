"""The areas as chapters: what an area demands, and a page for each property."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from sftspec import properties
from sftspec.conformance.book import Page
from sftspec.conformance.book.places import AREA_TITLES, entries
from sftspec.conformance.book.planted import described, killed_by, matrix, shown
from sftspec.conformance.book.prose import code, docstring, escaped, link, prose, table
from sftspec.conformance.book.written import named_by, statement
from sftspec.properties import MODULES
from sftspec.properties.articles import BOUND, articles, of_kind
from sftspec.properties.catalogue import Entry

SOURCE = Path(properties.__file__).parent
OTHERS = 12  # further planted bugs that are named on the page of a property


def pages() -> Iterator[Page]:
    for area, modules in MODULES.items():
        yield Page(f"{area}/index.md", AREA_TITLES[area], chapter(area), (AREA_TITLES[area],), boost=1.5)
        for module in modules:
            section = (AREA_TITLES[area], name_of(module))
            for entry in entries(area):
                if module_of(entry) == module:
                    yield Page(f"{entry.id}.md", title(entry), of_property(entry, f"{entry.id}.md"), section)


def chapter(area: str) -> str:
    """What the area is, where its laws and its reference stand, and the sentences of its properties by module."""
    page = f"{area}/index.md"
    said = [docstring(doc(SOURCE / area / "__init__.py"), page)]
    laws = [item for item in of_kind("law").values() if item.area == area]
    modules = dict.fromkeys(item.fields["reference"].strip("`").partition(":")[0] for item in laws)
    reference = ", ".join(f"[{escaped(path)}](../reference/{Path(path).stem}.md)" for path in modules)
    said.append(
        f"{len(entries(area))} properties, [{len(laws)} laws](laws.md), [planted bugs](planted.md). "
        f"The reference that obeys them: {reference}."
    )
    for module in MODULES[area]:
        mine = [entry for entry in entries(area) if module_of(entry) == module]
        said.append(f"## {name_of(module)} {{ #{area}-{module} }}")
        said.append(docstring(doc(SOURCE / area / f"{module}.py"), page))
        said.append("\n".join(f"- {link(item.id, page, title(item))}: {prose(item.sentence, page)}" for item in mine))
    return "\n\n".join(said)


def of_property(entry: Entry, page: str) -> str:
    """Sentence, why, what it reads, its laws with formulas and bounds, the bugs that it kills, its code."""
    reads = "a recorded run of a trainer" if entry.seam == "run" else f"the function {code(entry.seam)}"
    needs = ", ".join(link(name, page) for name in entry.needs)
    said = [
        f'<p class="says" markdown>{prose(entry.sentence, page)}</p>',
        docstring(entry.why, page),
        table(
            [
                ("Id", code(entry.id)),
                ("Level", entry.level),
                ("Reads", reads),
                ("Asked of", f"trainers that claim {code(entry.claim)}" if entry.claim else "every trainer"),
                ("Needs", needs),
                ("Evidence", f"at least {entry.floor}, or it is not measured"),
                ("Source", code(entry.place)),
            ]
        ),
    ]
    said += [*_laws(entry, page), *_bugs(entry, page), *_planted(entry, page)]
    return "\n\n".join([*filter(None, said), "## Code {: data-search-exclude }", f"```python\n{entry.code}\n```"])


def _laws(entry: Entry, page: str) -> Iterator[str]:
    laws = [articles()[name] for name in entry.laws if name in articles()]
    if laws:
        yield "## Laws"
    for item in laws:
        yield f"### {link(item.id, page)}"
        yield from statement(item, page)
    said = " ".join(item.fields.get("equal", "") for item in laws)
    bounds = ["BOUND-EXACT"] * ("exact" in said) + list(dict.fromkeys(BOUND.findall(said)))
    if bounds:
        yield "## How exact"
        for name in bounds:
            blind = articles()[name].fields.get("blind to", "")
            yield f"{link(name, page)}: {prose(articles()[name].sentence, page)} Blind to: {prose(blind, page)}."


def _bugs(entry: Entry, page: str) -> Iterator[str]:
    found = [item for item in named_by(entry) if item.kind in ("bug", "trap")]
    if found:
        yield "## Bugs that shipped, and traps"
        yield "\n".join(f"- {link(item.id, page)}: {prose(item.sentence, page)}" for item in found)


def _planted(entry: Entry, page: str) -> Iterator[str]:
    named, others = killed_by(entry.id)
    if named:
        yield "## Planted bugs that it kills"
    for item in named:
        yield f"### {link(f'mutant {item.name}', page, item.name)}"
        yield from described(item, page)
        mark = matrix().get(item.name, {}).get(entry.id)
        if mark and mark.note:
            yield f"It fails so{shown(mark.note)}"
    if others:
        more = f", and {len(others) - OTHERS} more" if len(others) > OTHERS else ""
        names = ", ".join(link(f"mutant {item.name}", page, item.name) for item in others[:OTHERS])
        yield f"{'It also fails' if named else 'It fails'} on {names}{more}."


def title(entry: Entry) -> str:
    """The id's name as words: "End of turn is trained"."""
    words = entry.id.partition("/")[2].replace("-", " ")
    return words[:1].upper() + words[1:]


def name_of(module: str) -> str:
    return module.replace("_", " ").capitalize()


def module_of(entry: Entry) -> str:
    return Path(entry.place.partition(":")[0]).stem


def doc(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
