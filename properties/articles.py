"""The written part of the specification: laws, traps, bounds, bugs and words, each under a heading of its own.

LAWS.md, BOUNDS.md, BUGS.md and README.md are read by people and by `sftspec explain`. An article is a heading
`### ID`, a paragraph that is its sentence, and a list of fields, `- name: text`. A test holds that every id which the
source names is an article.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
AREAS = {"TP": "template", "MK": "masking", "PK": "packing", "ST": "step", "BN": "best_of_n", "KD": "distillation"}
KINDS = ("word", "law", "bound", "trap", "bug")
FILES = {"LAWS.md": "law", "BOUNDS.md": "bound", "BUGS.md": "bug", "README.md": "word"}

LAW = re.compile(rf"\b(?:{'|'.join(AREAS)})-[A-Z][A-Z0-9_]*\b")
TRAP = re.compile(r"\bH[1-9][0-9]?\b")
BOUND = re.compile(r"\bBOUND-[A-Z]+\b")
ROW = re.compile(r"\b[TMPLBD]-[0-9]{2}\b")
ISSUE = re.compile(r"\b(?:[\w.-]+/)?[\w.-]+#[0-9]+\b")

# Repositories by the name that people use for them.
ALSO = {
    "fla": "flash-linear-attention",
    "instructlab": "training",
    "labml": "annotated_deep_learning_paper_implementations",
    "lightning": "pytorch-lightning",
    "llamafactory": "llama-factory",
    "textgen": "text-generation-webui",
}


@dataclass(frozen=True)
class Article:
    """One entry.

    id        the heading: "ST-DUP", "H7", "BOUND-LOSS", "M-01", "denominator"
    kind      one of KINDS
    sentence  the paragraph below it
    fields    what is said by name: formula, equal, source, reference, …
    place     file and line, such as "properties/LAWS.md:430"
    """

    id: str
    kind: str
    sentence: str
    fields: dict[str, str]
    place: str

    @property
    def area(self) -> str:
        """The area of a law; "" for whatever else."""
        return AREAS.get(self.id.partition("-")[0], "") if self.kind == "law" else ""


@cache
def articles() -> dict[str, Article]:
    """All articles by id, in the order of the files.

    >>> articles()["ST-UNIF"].sentence
    'Equal logits cost ln V for each target.'
    """
    return {item.id: item for name, kind in FILES.items() for item in _read(name, kind)}


def of_kind(kind: str) -> dict[str, Article]:
    """The articles of one kind, by id."""
    return {name: item for name, item in articles().items() if item.kind == kind}


def article(name: str) -> Article | None:
    """The article with this id, whatever its case; or the bug that was seen in this issue.

    >>> article("st-unif").id, article("trl#976").id
    ('ST-UNIF', 'M-01')
    """
    return {key.lower(): item for key, item in articles().items()}.get(name.lower()) or _issues().get(_issue(name))


@cache
def _issues() -> dict[str, Article]:
    found: dict[str, Article] = {}
    for item in of_kind("bug").values():
        for text in (item.id, item.fields.get("seen in", "")):
            for name in ISSUE.findall(text):
                found.setdefault(_issue(name), item)
    return found


def _issue(name: str) -> str:
    """An issue by the last part of its repository: trackers move and names are shortened."""
    repository, _, number = name.lower().rpartition("#")
    repository = repository.rpartition("/")[2]
    return f"{ALSO.get(repository, repository)}#{number}"


def plain(text: str) -> str:
    """Markdown as a terminal shows it: links by their text, code without its marks.

    >>> plain("[BOUND-LOSS](BOUNDS.md#bound-loss), `L = 0`")
    'BOUND-LOSS, L = 0'
    """
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", "")


def _read(name: str, kind: str) -> Iterator[Article]:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("### ")]
    for start in starts:
        identifier = lines[start][4:].strip()
        body = []
        for line in lines[start + 1 :]:
            if line.startswith("#"):
                break
            body.append(line)
        sentence, _, rest = "\n".join(body).strip().partition("\n\n")
        fields = dict(line[2:].split(": ", 1) for line in rest.splitlines() if line.startswith("- "))
        yield Article(
            id=identifier,
            kind="trap" if TRAP.fullmatch(identifier) else kind,
            sentence=" ".join(sentence.split()),
            fields=fields,
            place=f"properties/{name}:{start + 1}",
        )
