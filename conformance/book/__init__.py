"""The book: the specification as pages to read, made from the code and the written articles and from nothing else.

Nothing is written twice: a page says what the docstrings, LAWS.md, BOUNDS.md, BUGS.md, the mutants and their kill
matrix say. This package writes Markdown and a configuration; MkDocs with the Material theme makes the site of it.
"""

from __future__ import annotations

from dataclasses import dataclass


class BookError(ValueError):
    """A folder that is no book, or a generator that is missing; says what to do."""


@dataclass(frozen=True)
class Page:
    """One page, as Markdown.

    path     where it is written: "step/laws.md"
    title    its heading, and its line in the navigation
    text     what stands below the heading
    section  the path of headings above it in the navigation: ("Step", "Clipping")
    boost    how much a hit here counts in the search, 1 as a rule
    """

    path: str
    title: str
    text: str
    section: tuple[str, ...] = ()
    boost: float = 1.0

    @property
    def anchor(self) -> str:
        """Its place in the book of one file: "step/laws"."""
        return self.path.removesuffix(".md")
