"""What stands around the chapters: the opening, questions, the reference, the witness, disagreements, revisions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import sftspec
from sftspec import SPEC_REVISION, conformance
from sftspec.conformance.book import Page
from sftspec.conformance.book.chapters import doc, name_of
from sftspec.conformance.book.places import AREA_TITLES, anchor, entries
from sftspec.conformance.book.prose import docstring, escaped, formula, link, prose
from sftspec.conformance.book.questions import QUESTIONS
from sftspec.conformance.sensitivity.mutants import load_mutants
from sftspec.counted import counted
from sftspec.golden.disagreements import DISAGREEMENTS
from sftspec.properties.articles import articles, of_kind
from sftspec.properties.revisions import changes, current, earlier

REFERENCE = Path(sftspec.__file__).parent
WITNESS = Path(conformance.__file__).parent / "witness"


def opening() -> Iterator[Page]:
    yield Page("index.md", "sftspec", index("index.md"))
    yield Page("questions.md", "Questions", questions("questions.md"), boost=3)


def pages() -> Iterator[Page]:
    yield Page("disagreements.md", "Where implementations disagree", disagreements("disagreements.md"), ("Evidence",))
    yield Page("witness.md", "How the witness sees", witness("witness.md"), ("Evidence",))
    yield Page("revisions.md", "Revisions", revisions("revisions.md"), ("Evidence",), boost=0.5)
    for path in sorted(REFERENCE.glob("*.py")):
        if path.stem != "__init__":
            page = f"reference/{path.stem}.md"
            source = path.read_text(encoding="utf-8").rstrip()
            text = f"{docstring(doc(path), page)}\n\n## Code {{: data-search-exclude }}\n\n```python\n{source}\n```"
            yield Page(page, f"{path.stem}.py", text, ("Reference",), boost=0.5)


def index(page: str) -> str:
    must = [item for item in entries() if item.level == "must"]
    said = [
        docstring(doc(REFERENCE / "__init__.py").partition("\n\n")[0], page),
        f"Revision {SPEC_REVISION}: {len(entries())} properties, {len(must)} of them must hold, "
        f"[{len(of_kind('law'))} laws](laws.md), [{len(of_kind('bound'))} bounds](bounds.md), "
        f"[{len(of_kind('bug'))} bugs that shipped](bugs.md), {len(load_mutants())} planted bugs.",
        "A **law** is what is true of every correct pipeline. A **property** is a check that enforces laws on a "
        "trainer or a function. A **bug** is what it found. The [questions](questions.md) are a way in, and the "
        "[words](words.md) say what is meant.",
        "## Chapters",
    ]
    for area, title in AREA_TITLES.items():
        said.append(f"- [{title}]({area}/index.md): {counted(len(entries(area)), 'property')}")
    return "\n\n".join(said[:4]) + "\n\n" + "\n".join(said[4:])


def questions(page: str) -> str:
    """What readers ask, answered by the sentences and formulas of the entries that decide it."""
    said = ["Each answer is the sentence of the law, the word or the property that decides it; the link has the rest."]
    properties = {item.id: item for item in entries()}
    for question, names in QUESTIONS:
        said.append(f"## {escaped(question)} {{ #{anchor(question)} }}")
        for name in names:
            item = articles().get(name) or properties[name]
            said.append(f"{link(name, page)}: {prose(item.sentence, page)}")
            if name in articles() and "formula" in articles()[name].fields:
                said.append(f'<p class="formula" markdown>{formula(articles()[name].fields["formula"], page)}</p>')
    return "\n\n".join(said)


def disagreements(page: str) -> str:
    rows = [
        f"| {prose(item.what, page)} | {item.kind} | {', '.join(link(name, page) for name in item.names)} |"
        for item in DISAGREEMENTS
    ]
    opening = (
        "A disagreement is never settled in silence. It is a *variant* (both texts exist, under two names), an *axis* "
        "(an argument), a *convention* (a trainer declares it and is held to it), or a *property* (one side is wrong)."
    )
    return "\n\n".join([opening, "\n".join(["| What | Decided as | Names |", "|---|---|---|", *rows])])


def witness(page: str) -> str:
    said = [docstring(doc(WITNESS / "__init__.py"), page)]
    for path in sorted(WITNESS.glob("*.py")):
        if path.stem != "__init__":
            said += [f"## {name_of(path.stem)} {{ #witness-{path.stem} }}", docstring(doc(path), page)]
    return "\n\n".join(said)


def revisions(page: str) -> str:
    """What each revision added, and what became of the ids of earlier ones."""
    declared, now, before = changes(), current(), earlier()
    said = ["An id never changes its meaning and is never used again. Another meaning is another id."]
    known = {name for words in before.values() for name in words}
    new = [name for name in now if name not in known]
    said.append(f"## {SPEC_REVISION} {{ #revision-{SPEC_REVISION} }}")
    said.append(f"{len(new)} ids are new since {max(before, default='the beginning')}.")
    said.append("\n".join(f"- {link(name, page)}: {prose(now[name]['sentence'], page)}" for name in new))
    said.append("## Reworded {: #reworded }")
    old = {name: words for revision in before.values() for name, words in revision.items()}
    for name, why in declared["reworded"].items():
        was, reads = old[name]["sentence"], now[name]["sentence"] if name in now else "retired since"
        said.append(f"{link(name, page)}: {prose(why, page)}\n\n- was: {prose(was, page)}\n- is: {prose(reads, page)}")
    said.append("## Retired {: #retired }")
    for name, entry in declared["retired"].items():
        carried = "\n".join(f"- {link(successor, page)}" for successor in entry["successors"])
        said.append(
            f"### {escaped(name)} {{ #{anchor(name)} }}\n\nWas: {prose(old[name]['sentence'], page)}\n\n"
            f"Why: {prose(entry['why'], page)}. Carried on by:\n\n{carried}"
        )
    return "\n\n".join(said)
