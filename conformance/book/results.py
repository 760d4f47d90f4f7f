"""What was found: the trainers and the templates on trial, the defects in them, the releases with a known bug.

These pages stand in the repository (conformance/results/). A book made of an installed package has none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sftspec import SPEC_REVISION, conformance
from sftspec.conformance.book import Page

RESULTS = Path(conformance.__file__).parent / "results"
PAGES = (
    (f"{SPEC_REVISION}/README.md", "index", "Trainers on trial"),
    ("FINDINGS.md", "findings", "Findings"),
    (f"{SPEC_REVISION}/templates/README.md", "templates", "Chat templates on trial"),
    ("timemachine.md", "timemachine", "Releases with a known bug"),
)
HEADING = re.compile(r"^(#{2,4}) (.+)$", re.M)
LINK = re.compile(r"\[([^\]]*)\]\((?!https?://)([^)]*)\)")


def pages(folder: Path = RESULTS) -> Iterator[Page]:
    """A page for each of the files that are there."""
    for place, name, title in PAGES:
        path = folder / place
        if path.is_file():
            _, _, text = path.read_text(encoding="utf-8").partition("\n")  # the book says the title itself
            yield Page(f"results/{name}.md", title, anchored(text.strip(), f"{name}.md"), ("Results",), boost=0.5)


def anchored(text: str, page: str) -> str:
    """The text whose headings have ids of their own; a link leads to one of them, or is plain text.

    >>> print(anchored("[a](#a-b) [c](c.json)\\n## A b", "findings.md"))
    [a](findings.md#found-a-b) c
    ## A b { #found-a-b }
    """
    ids = {slug(found[2]) for found in HEADING.finditer(text)}
    text = HEADING.sub(lambda found: f"{found[0]} {{ #found-{slug(found[2])} }}", text)
    return LINK.sub(
        lambda found: f"[{found[1]}]({page}#found-{found[2][1:]})" if found[2][1:] in ids else found[1], text
    )


def slug(heading: str) -> str:
    """The anchor that GitHub gives to a heading: "TRL 1.0: a b" is "trl-10-a-b"."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
