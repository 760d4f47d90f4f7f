"""Where each id stands in the book: every id has exactly one place, and a test holds that the place is there."""

from __future__ import annotations

import re
from functools import cache

from sftspec.conformance.sensitivity.mutants import load_mutants
from sftspec.properties import MODULES
from sftspec.properties.articles import Article, articles
from sftspec.properties.catalogue import Entry, catalogue
from sftspec.properties.revisions import changes

PAGES = {"trap": "traps.md", "bound": "bounds.md", "bug": "bugs.md", "word": "words.md"}
AREA_TITLES = {
    "template": "Template", "masking": "Masking", "packing": "Packing", "step": "Step", "best_of_n": "Best-of-N",
    "distillation": "Distillation",
}  # fmt: skip
FILES = {"LAWS.md": "laws.md", "BOUNDS.md": "bounds.md", "BUGS.md": "bugs.md", "README.md": "words.md"}


@cache
def entries(*areas: str) -> tuple[Entry, ...]:
    """The properties, read once."""
    return tuple(catalogue(*areas))


def anchor(name: str) -> str:
    """An id as an anchor.

    >>> anchor("ST-DUP"), anchor("huggingface/trl#976")
    ('st-dup', 'huggingface-trl-976')
    """
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")


def of_article(item: Article) -> str:
    page = f"{item.area}/laws.md" if item.kind == "law" else PAGES[item.kind]
    return f"{page}#{anchor(item.id)}"


def of_mutant(name: str) -> str:
    return f"{name.partition('/')[0]}/planted.md#planted-{anchor(name.partition('/')[2])}"


@cache
def places() -> dict[str, str]:
    """Page and anchor by id: properties, retired ids, articles and areas, "mutant NAME" for a planted bug.

    >>> places()["ST-DUP"]
    'step/laws.md#st-dup'
    """
    found = {area: f"{area}/index.md" for area in MODULES}
    found |= {item.id: of_article(item) for item in articles().values()}
    found |= {name: f"revisions.md#{anchor(name)}" for name in changes()["retired"]}
    found |= {item.id: f"{item.id}.md" for item in entries()}
    return found | {f"mutant {item.name}": of_mutant(item.name) for item in load_mutants()}
