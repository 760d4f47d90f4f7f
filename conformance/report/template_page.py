"""Many templates on trial, as a page and as a small file: how many fail each property, and which.

    python -m sftspec.conformance.report.template_page KEPT OUT    # KEPT: what `check template … --keep KEPT` wrote

Rule of this file: every template and every status is in it. A property that passes on few was measured on few, so what
was not measured is counted too.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

LETTERS = {"pass": "p", "fail": "F", "blocked": "b", "not-measured": "-", "not-claimed": "-", "error": "E"}
SHOWN = 3  # templates of a failing property that are shown with what was found
LENGTH = 300


def found_of(verdict: Mapping[str, Any]) -> str:
    """What does not hold, in a line."""
    counterexample = verdict["counterexample"] or {}
    text = " ".join(str(counterexample.get("note") or verdict["reason"] or "does not hold").split())
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"


def compact(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All statuses: one letter for each property of each template, in the order of `properties`."""
    documents = sorted(documents, key=lambda document: document["trainer"]["name"])
    properties = [verdict["id"] for verdict in documents[0]["verdicts"]]
    templates = {
        document["trainer"]["name"]: {
            "sha256": document["trainer"]["version"],
            "judged_as": document["trainer"]["setting"]["judged_as"],
            "statuses": "".join(LETTERS.get(verdict["status"], "?") for verdict in document["verdicts"]),
        }
        for document in documents
    }
    return {
        "spec_revision": documents[0]["spec_revision"],
        "letters": {letter: status for status, letter in reversed(LETTERS.items())},
        "properties": properties,
        "templates": templates,
    }


def template_page(documents: Sequence[Mapping[str, Any]]) -> str:
    """The page: a row for each property that says anything, then what fails, with examples."""
    lines = [
        f"# {len(documents)} chat templates on trial, spec revision {documents[0]['spec_revision']}",
        "",
        "| property | pass | fail | error or blocked | not measured |",
        "|---|---|---|---|---|",
    ]
    rows = [[document["verdicts"][number] for document in documents] for number in range(len(documents[0]["verdicts"]))]
    for verdicts in rows:
        count = Counter(verdict["status"] for verdict in verdicts)
        if count["pass"] or count["fail"] or count["error"]:
            other = len(documents) - count["pass"] - count["fail"] - count["error"] - count["blocked"]
            said = count["pass"], count["fail"], count["error"] + count["blocked"], other
            lines.append(f"| `{verdicts[0]['id']}` | " + " | ".join(map(str, said)) + " |")
    names = [document["trainer"]["name"] for document in documents]
    failing = [(verdicts, _failing(verdicts, names)) for verdicts in rows]
    for verdicts, wrong in sorted(failing, key=lambda item: -len(item[1])):
        if wrong:
            lines += ["", f"## `{verdicts[0]['id']}`: {len(wrong)}", ""]
            lines += [f"- {name}: `{found.replace('`', chr(39))}`" for name, found in wrong[:SHOWN]]
            if wrong[SHOWN:]:
                lines.append("- and " + ", ".join(name for name, _ in wrong[SHOWN:]))
    pairs = list(zip(names, documents, strict=True))
    silent = [name for name, document in pairs if not _statuses(document) & {"pass", "fail", "error"}]
    clean = [name for name, document in pairs if name not in silent and not _statuses(document) & {"fail", "error"}]
    for title, some in (("Nothing fails", clean), ("Nothing can be measured", silent)):
        lines += ["", f"## {title}: {len(some)}", "", ", ".join(some) or "none"]
    return "\n".join(lines) + "\n"


def _failing(verdicts: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[tuple[str, str]]:
    pairs = zip(names, verdicts, strict=True)
    return [(name, found_of(verdict)) for name, verdict in pairs if verdict["status"] in ("fail", "error")]


def _statuses(document: Mapping[str, Any]) -> set[str]:
    return {verdict["status"] for verdict in document["verdicts"]}


def kept_documents(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.json")):
        yield from json.loads(path.read_text(encoding="utf-8"))["documents"]


def compact_json(documents: Sequence[Mapping[str, Any]]) -> str:
    """One line a template."""
    found = compact(documents)
    templates = ",\n".join(f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in found.pop("templates").items())
    head = json.dumps(found, ensure_ascii=False, indent=1)[:-2]
    return f'{head},\n "templates": {{\n{templates}\n }}\n}}\n'


def main(kept: str, out: str) -> None:
    documents = list(kept_documents(Path(kept)))
    Path(out).mkdir(parents=True, exist_ok=True)
    (Path(out) / "templates.json").write_text(compact_json(documents), encoding="utf-8")
    (Path(out) / "page.md").write_text(template_page(documents), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
