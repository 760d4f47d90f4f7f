"""The written articles as pages: laws by area, traps, bounds, bugs that shipped, words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache

from sftspec.conformance.book import Page
from sftspec.conformance.book.places import AREA_TITLES, anchor, entries
from sftspec.conformance.book.planted import mutants_of_row
from sftspec.conformance.book.prose import docstring, escaped, formula, link, prose
from sftspec.conformance.sensitivity.mutants.bug_catalogue import NOT_PLANTED
from sftspec.properties.articles import BOUND, FOLDER, ISSUE, LAW, ROW, TRAP, Article, article, articles, of_kind
from sftspec.properties.catalogue import Entry

LABELS = {"equal": "Equal", "source": "Source", "reference": "Reference", "broken by": "Broken by"}


def pages() -> Iterator[Page]:
    for area, title in AREA_TITLES.items():
        page = f"{area}/laws.md"
        items = [item for item in of_kind("law").values() if item.area == area]
        text = [preamble("LAWS.md", title, page), *(law(item, page) for item in items)]
        yield Page(page, f"Laws: {title}", "\n\n".join(filter(None, text)), (title,), boost=2)
    yield Page("laws.md", "The laws", all_laws("laws.md"), ("Laws and bounds",))
    yield Page("bounds.md", "The bounds", _all("BOUNDS.md", "bound", "bounds.md"), ("Laws and bounds",), boost=2)
    traps = [preamble("LAWS.md", "Traps", "traps.md"), *(entry(item, "traps.md") for item in of_kind("trap").values())]
    yield Page("traps.md", "Traps", "\n\n".join(traps), ("Laws and bounds",))
    yield Page("bugs.md", "Bugs that shipped", bugs("bugs.md"), ("Evidence",))
    yield Page("words.md", "Words", words("words.md"), ("Laws and bounds",), boost=2)


def law(item: Article, page: str) -> str:
    """A law with its formula, how exact it is, its source, its function, and the properties that enforce it."""
    enforcing = [entry for entry in entries() if item.id in entry.laws]
    enforced = ", ".join(link(other.id, page) for other in enforcing)
    said = [head(item), *statement(item, page)]
    said.append(f"Enforced by: {enforced}" if enforced else f"No property: {prose(item.fields['no property'], page)}")
    return "\n\n".join(said)


def statement(item: Article, page: str) -> Iterator[str]:
    """Sentence, formula and fields of a law, without its heading."""
    yield f'<p class="says" markdown>{prose(item.sentence, page)}</p>'
    if "formula" in item.fields:
        yield f'<p class="formula" markdown>{formula(item.fields["formula"], page)}</p>'
    for name, label in LABELS.items():
        if name in item.fields:
            said = reference(item.fields[name], page) if name == "reference" else prose(item.fields[name], page)
            yield f"{label}: {said}"


def reference(field: str, page: str) -> str:
    """`sftspec/step.py:sft_loss` as a link to the page of the module."""
    path, _, name = field.strip("`").partition(":")
    module = path.partition("/")[2].removesuffix(".py")
    up = "../" * page.count("/")
    return f"[{escaped(name)} in {escaped(path)}]({up}reference/{module}.md)"


def entry(item: Article, page: str) -> str:
    """A trap, a bound or a bug: sentence, fields, and what mentions it."""
    said = [head(item), f'<p class="says" markdown>{prose(item.sentence, page)}</p>']
    for name, text in item.fields.items():
        if name == "formula":
            said.append(f'<p class="formula" markdown>{formula(text, page)}</p>')
        else:
            said.append(f"{name.capitalize()}: {prose(text, page)}")
    if item.kind == "bug":
        said += planted(item.id, page)
    mentioned = [*laws_within(item), *(other.id for other in entries() if item in named_by(other))]
    if mentioned:
        said.append(f"{'Laws held to it' if item.kind == 'bound' else 'See'}: {_links(mentioned, page)}")
    return "\n\n".join(said)


def planted(row: str, page: str) -> Iterator[str]:
    """Which mutants plant a bug, or why none does."""
    names = mutants_of_row(row)
    if names:
        yield f"Planted as: {', '.join(link(f'mutant {name}', page, name) for name in names)}"
    if row in NOT_PLANTED:
        yield f"Not planted: {prose(NOT_PLANTED[row], page)}"


def laws_within(bound: Article) -> list[str]:
    """The laws whose two sides are equal within this bound."""
    if bound.kind != "bound":
        return []
    exact = bound.id == "BOUND-EXACT"
    return [
        name
        for name, law in of_kind("law").items()
        if bound.id in BOUND.findall(law.fields.get("equal", "")) or (exact and law.fields["equal"].startswith("exact"))
    ]


@cache
def named_by(entry: Entry) -> list[Article]:
    """The articles that the reason of a property names."""
    found = [article(name) for kind in (LAW, TRAP, BOUND, ROW, ISSUE) for name in kind.findall(entry.why)]
    return list({item.id: item for item in found if item}.values())


def head(item: Article, level: str = "##") -> str:
    return f"{level} {escaped(item.id)} {{ #{anchor(item.id)} }}"


def bugs(page: str) -> str:
    said = [preamble("BUGS.md", "", page)]
    by_section = sections("BUGS.md")
    for title, ids in by_section.items():
        if ids:
            said += [f'<h2 class="part" id="part-{anchor(title)}">{escaped(title)}</h2>']
            said += [entry(articles()[name], page) for name in ids]
    return "\n\n".join(said)


def words(page: str) -> str:
    items = of_kind("word").values()
    return "\n\n".join(f"{head(item)}\n\n{prose(item.sentence, page)}" for item in items)


def all_laws(page: str) -> str:
    """How an entry reads, the notation, and every law in one line."""
    said = [preamble("LAWS.md", "", page), "## Notation", preamble("LAWS.md", "Notation", page)]
    for area, title in AREA_TITLES.items():
        said.append(f"## {title}")
        items = [item for item in of_kind("law").values() if item.area == area]
        said.append("\n".join(["| | |", "|---|---|", *(_row(item.id, item.sentence, page) for item in items)]))
    return "\n\n".join(said)


def _row(name: str, sentence: str, page: str) -> str:
    return f"| {link(name, page)} | {prose(sentence, page)} |"


def _all(file: str, kind: str, page: str) -> str:
    return "\n\n".join([preamble(file, "", page), *(entry(item, page) for item in of_kind(kind).values())])


def _links(names: Iterable[str], page: str) -> str:
    return ", ".join(link(name, page) for name in names)


def sections(file: str) -> dict[str, list[str]]:
    """The ids below each `## heading` of a file."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in (FOLDER / file).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            title = line[3:].strip()
        elif line.startswith("### "):
            found.setdefault(title, []).append(line[4:].strip())
    return found


def preamble(file: str, heading: str, page: str) -> str:
    """What stands below a `## heading` (below the title where it is "") and above the next heading."""
    text = (FOLDER / file).read_text(encoding="utf-8")
    body = text.partition("\n")[2] if not heading else text.partition(f"\n## {heading}\n")[2]
    before = re.split(r"^#", body, maxsplit=1, flags=re.M)[0].strip()
    return "\n\n".join(_block(block, page) for block in before.split("\n\n") if block)


def _block(block: str, page: str) -> str:
    lines = block.splitlines()
    if lines[0].startswith("|"):
        return "\n".join(_table_row(line, page) for line in lines)
    if lines[0].startswith("- "):
        items = re.split(r"^- ", block, flags=re.M)[1:]
        return "\n".join(f"- {_item(' '.join(item.split()), page)}" for item in items)
    return docstring(block, page)


def _item(text: str, page: str) -> str:
    """A line of a list; a word set in bold or italics stays so."""
    marked = re.split(r"(\*\*[^*]+\*\*|\*[^*]+\*)", text)
    return "".join(part if part.startswith("*") else prose(part, page) for part in marked)


def _table_row(line: str, page: str) -> str:
    if set(line) <= set("|- "):
        return line
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    return f"| {' | '.join(prose(cell, page) for cell in cells)} |"
