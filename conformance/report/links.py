"""Issues and papers that a text names, with where they are on the web."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from sftspec.properties.articles import ALSO, FILES, FOLDER

NAMED = re.compile(r"(?P<issue>\b(?:[\w.-]+/)?[\w.-]+#[0-9]+\b)|arXiv:(?P<paper>[0-9]{4}\.[0-9]{4,5})")


@cache
def repositories() -> dict[str, str]:
    """owner/repository by the repository's name in lower case, as the written specification cites them."""
    found: dict[str, str] = {}
    for name in FILES:
        for owner, repository in re.findall(
            r"\b([\w.-]+)/([\w.-]+)#[0-9]+", (FOLDER / name).read_text(encoding="utf-8")
        ):
            found.setdefault(repository.lower(), f"{owner}/{repository}")
    return found


def links(text: str) -> Iterator[tuple[str, str]]:
    """(piece of the text, its address or "") of all pieces in order."""
    end = 0
    for match in NAMED.finditer(text):
        address = address_of(match)
        if address:
            yield text[end : match.start()], ""
            yield match[0], address
            end = match.end()
    yield text[end:], ""


def address_of(match: re.Match) -> str:
    if match["paper"]:
        return f"https://arxiv.org/abs/{match['paper']}"
    name, _, number = match["issue"].partition("#")
    repository = name if "/" in name else repositories().get(ALSO.get(name.lower(), name.lower()), "")
    return f"https://github.com/{repository}/issues/{number}" if repository else ""
