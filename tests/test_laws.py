"""Every law is a property or has a reason why it is none; every id that the source names can be looked up."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import sftspec
from sftspec import properties
from sftspec.conformance.sensitivity.mutants.bug_catalogue import ROWS
from sftspec.properties.articles import (
    BOUND,
    FOLDER,
    ISSUE,
    LAW,
    ROW,
    TRAP,
    Article,
    article,
    articles,
    of_kind,
)
from sftspec.properties.catalogue import catalogue
from sftspec.properties.laws import NO_PROPERTY, coverage, laws
from sftspec.properties.revisions import LONGEST

ROOTS = [Path(sftspec.__file__).parent, FOLDER, FOLDER.parent / "conformance", FOLDER.parent / "tests"]
SOURCES = [
    path
    for root in ROOTS
    for path in sorted(root.rglob("*.py"))
    if path.name not in ("test_laws.py", "test_explain.py")
]


def test_every_law_is_enforced_or_excused():
    found = coverage()
    assert len(found) >= 123  # one may come, none goes
    assert [law for law, enforced in found.items() if not enforced] == []


def test_what_is_excused_has_no_property():
    assert not [
        law for law, item in laws().items() if NO_PROPERTY in item.fields and not isinstance(coverage()[law], str)
    ]


def test_no_property_cites_a_law_that_does_not_exist():
    assert {law for item in properties.load() for law in item.laws} <= set(laws())


def test_every_property_opens_with_a_sentence():
    for item in properties.load():
        assert item.sentence.endswith((".", ")")), item.id


def test_the_catalogue_states_what_the_registry_holds():
    registered = {item.id: item for item in properties.load()}
    entries = {entry.id: entry for entry in catalogue()}
    assert entries.keys() == registered.keys()
    for identifier, entry in entries.items():
        item = registered[identifier]
        for name in ("area", "level", "seam", "floor", "claim", "laws", "needs", "sentence", "why"):
            assert getattr(entry, name) == getattr(item, name), (identifier, name)


def test_every_article_stands_once():
    text = "\n".join(
        (FOLDER / name).read_text(encoding="utf-8") for name in ("LAWS.md", "BOUNDS.md", "BUGS.md", "README.md")
    )
    headings = re.findall(r"^### (.+)$", text, re.M)
    assert headings == list(articles())
    assert len({name.lower() for name in headings}) == len(headings)


REQUIRED = {
    "law": ("formula", "equal", "source", "reference"),
    "bound": ("formula", "derivation", "blind to"),
    "trap": ("suite",),
    "bug": (),
    "word": (),
}


@pytest.mark.parametrize("item", articles().values(), ids=lambda item: item.id)
def test_an_article_has_a_short_sentence_and_its_fields(item: Article):
    assert item.sentence.endswith("."), item.place
    assert item.kind == "word" or len(item.sentence.split()) <= LONGEST, item.place
    assert not [name for name in REQUIRED[item.kind] if not item.fields.get(name)], item.place
    assert item.kind != "law" or ("broken by" in item.fields) or NO_PROPERTY in item.fields


@pytest.mark.parametrize("item", laws().values(), ids=lambda item: item.id)
def test_the_reference_of_a_law_exists(item: Article):
    path, _, name = item.fields["reference"].strip("`").partition(":")
    tree = ast.parse((ROOTS[0].parent / path).read_text(encoding="utf-8") if path.startswith("sftspec/") else "")
    assert name in {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}, item.place


def test_links_lead_somewhere():
    for name in ("LAWS.md", "BOUNDS.md", "BUGS.md", "README.md"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)]+)\)", text):
            file, _, anchor = target.partition("#")
            path = FOLDER / (file or name)
            assert path.exists(), (name, target)
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
            assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, (name, target)


def test_every_row_of_the_catalogue_of_mutants_is_a_bug():
    rows = {f"{letter}-{number}" for letter, numbers in ROWS.items() for number in numbers.split()}
    assert rows == {name for name in of_kind("bug") if ROW.fullmatch(name)}


def names_in(text: str) -> set[str]:
    """The ids of laws, traps, bounds and bugs in a text; "trl#976, #992" names two issues of one repository."""
    for _ in range(8):
        text = re.sub(
            rf"({ISSUE.pattern})((?:, | and |/))#(\d+)", lambda m: f"{m[1]}{m[2]}{m[1].split('#')[0]}#{m[3]}", text
        )
    return {name for kind in (LAW, TRAP, BOUND, ROW, ISSUE) for name in kind.findall(text)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_id_in_the_source_can_be_looked_up(path):
    unknown = {name for name in names_in(path.read_text(encoding="utf-8")) if not article(name)}
    assert not unknown, f"{path}: give {sorted(unknown)} an entry in properties/LAWS.md, BOUNDS.md or BUGS.md"


def test_every_id_in_the_articles_can_be_looked_up():
    for item in articles().values():
        assert not {name for name in names_in(f"{item.sentence} {item.fields}") if not article(name)}, item.place


def test_every_bound_stands_beside_the_code_that_takes_it():
    source = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    assert not [name for name in of_kind("bound") if name not in source and name != "BOUND-EXACT"]


def test_an_id_that_is_nowhere_is_found_missing():
    found = names_in("laws ST-DUP and ST-NIX, trap H99, bug M-99, trl#976, #9999999, BOUND-NIX")
    assert {name for name in found if not article(name)} == {"ST-NIX", "H99", "M-99", "trl#9999999", "BOUND-NIX"}
