"""The planted bugs: what each breaks, what it does to a model, how it is mended, and which properties kill it how."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from sftspec.conformance.book import Page
from sftspec.conformance.book.places import AREA_TITLES, of_mutant
from sftspec.conformance.book.prose import escaped, link, prose
from sftspec.conformance.sensitivity import signatures
from sftspec.conformance.sensitivity.mutants import Mutant, load_mutants
from sftspec.conformance.sensitivity.mutants.bug_catalogue import PLANTED
from sftspec.conformance.sensitivity.signatures import Signature


@cache
def matrix() -> dict[str, Signature]:
    """The committed kill matrix."""
    return signatures.load()


@cache
def mutants_of_row(row: str) -> list[str]:
    """The mutants that plant a row of the catalogue of bugs."""
    named = [item.name for item in load_mutants() if item.seen_in.startswith(f"{row}:")]
    return list(dict.fromkeys([*PLANTED.get(row, "").split(), *named]))


@cache
def killed_by(identifier: str) -> tuple[list[Mutant], list[Mutant]]:
    """The planted bugs that name this property as one that kills them, and others on which it fails as well."""
    named = [item for item in load_mutants() if identifier in item.killed_by]
    others = [item for item in load_mutants() if item not in named and identifier in matrix().get(item.name, {})]
    return named, others


def pages() -> Iterator[Page]:
    for area, title in AREA_TITLES.items():
        page = f"{area}/planted.md"
        mine = [item for item in load_mutants() if item.name.startswith(f"{area}/")]
        opening = (
            f"The reference with one bug planted at a time, {len(mine)} times. Each has to be killed by the properties "
            "that it names; the kill matrix says on what they fail."
        )
        text = "\n\n".join([opening, *(_mutant(item, page) for item in mine)])
        yield Page(page, f"Planted bugs: {title}", text, (title,))


def _mutant(item: Mutant, page: str) -> str:
    name = item.name.partition("/")[2]
    said = [f"## {escaped(name)} {{ #{of_mutant(item.name).partition('#')[2]} }}"]
    said += described(item, page)
    row = matrix().get(item.name, {})
    for identifier in item.killed_by:
        note = row[identifier].note if identifier in row else ""
        said.append(f"- killed by {link(identifier, page)}{shown(note)}")
    others = [identifier for identifier in row if identifier not in item.killed_by]
    if others:
        said.append(f"\nAlso fails: {', '.join(link(identifier, page) for identifier in sorted(others))}")
    return "\n\n".join(said[:2]) + "\n\n" + "\n".join(said[2:])


def described(item: Mutant, page: str) -> Iterator[str]:
    """In one paragraph: what is wrong, its effect, its cure, where it was seen."""
    yield (
        f"{prose(' '.join(item.breaks.split()), page)} Effect: {prose(item.effect, page)}. "
        f"Fix: {prose(item.fix, page)}. Seen in: {prose(item.seen_in, page)}."
    )


def shown(note: str) -> str:
    """What the smallest counterexample says, as a code span."""
    return f": <code>{escaped(note)}</code>" if note else ""
