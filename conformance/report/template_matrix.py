"""Templates on trial, printed: one in full, many as a matrix of template × property."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.text import Text

from sftspec.conformance.report.failures import STYLES, failures, heading, labelled, shortened, style_of
from sftspec.conformance.report.outcome import exit_code
from sftspec.conformance.report.terminal import evidence_of, summary
from sftspec.counted import counted

SIGNS = {
    "pass": "✓",
    "fail": "✗",
    "known-fail": "✗",
    "stale": "s",
    "not-measured": "·",
    "not-claimed": "·",
    "error": "!",
    "ambiguous": "?",
    "blocked": "b",
}


def one(document: dict[str, Any], width: int) -> Iterator[Text]:
    """Every verdict with its reason, every failure in full."""
    yield Text(f"{document['trainer']['name']} on trial", "bold cyan")
    for label, said in document["trainer"]["setting"].items():
        yield from labelled(label.replace("_", " "), str(said), width)
    yield Text()
    size = max((len(name_of(verdict)) for verdict in document["verdicts"]), default=0)
    for verdict in document["verdicts"]:
        line = Text(f"{name_of(verdict):{size}}  ").append(f"{verdict['status']:12}", style_of(verdict))
        yield line.append(f"  {evidence_of(verdict):>8}")
        if verdict["status"] != "pass" and verdict["reason"]:
            yield Text(f"    {shortened(verdict['reason'], width - 4, 1)}", "dim")
    yield from failures(document, width)
    yield from summary(document, width)


def matrix(documents: Sequence[dict[str, Any]], width: int) -> Iterator[Text]:
    """A row for each template, a column for each property; then what does not hold, in a line each."""
    properties = [verdict["id"] for verdict in documents[0]["verdicts"]]
    yield Text(f"{counted(len(documents), 'template')} on trial", "bold cyan")
    for number, identifier in enumerate(properties, 1):
        yield Text(f"{number:>4}  {identifier}")
    yield Text("      ✓ pass  ✗ fail  · not measured  ! error", "dim")
    yield Text()
    size = max(len(document["trainer"]["name"]) for document in documents)
    yield Text(
        f"{'':{size}}" + "".join(f"{number:>4}" for number in range(1, len(properties) + 1)) + "  judged as", "dim"
    )
    for document in documents:
        line = Text(f"{document['trainer']['name']:{size}}")
        for verdict in document["verdicts"]:
            line.append(f"{SIGNS[verdict['status']]:>4}", style_of(verdict))
        setting = document["trainer"]["setting"]
        goldens = f", {setting['goldens'].partition(' texts')[0]} goldens" if "goldens" in setting else ""
        yield line.append(f"  {setting['judged_as']}{goldens}", "dim")
    for identifier in properties:
        yield from failing(identifier, documents, width)
    failed = sum(exit_code(document) == 1 for document in documents)
    yield Text()
    yield Text(
        f"{failed} of {counted(len(documents), 'template')} {'does' if failed == 1 else 'do'} not conform",
        STYLES["fail"] if failed else STYLES["pass"],
    )
    if len(documents) > 1 and failed:
        yield Text("one in full: sftspec check template NAME", "dim")


def failing(identifier: str, documents: Sequence[dict[str, Any]], width: int) -> Iterator[Text]:
    """The templates on which a property fails, and what was found."""
    found = {
        document["trainer"]["name"]: verdict
        for document in documents
        for verdict in document["verdicts"]
        if verdict["id"] == identifier and verdict["status"] in ("fail", "error")
    }
    if found:
        yield Text()
        yield heading(Text(f"{identifier}  fails on {len(found)}", STYLES["fail"]), width)
    for name, verdict in found.items():
        counterexample = verdict["counterexample"] or {}
        note = counterexample.get("note") or verdict["reason"] or "does not hold"
        drawn = counterexample.get("arguments", {}).get("messages", "")
        yield from labelled(name[:11], shortened(f"{name}: {note}", width - 12, 2), width)
        if drawn:
            yield from labelled("", shortened(drawn, width - 12, 2), width, "dim")


def name_of(verdict: dict[str, Any]) -> str:
    return verdict["id"].partition("/")[2]
