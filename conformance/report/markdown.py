"""The report as Markdown, for the summary of a CI job: what came of it, what fails, what the baseline says.

sftspec check my_trainer.py --baseline sftspec-baseline.toml --markdown "$GITHUB_STEP_SUMMARY"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sftspec.conformance.report.failures import entries, where
from sftspec.conformance.report.outcome import exit_code
from sftspec.conformance.report.terminal import conclusion, not_counted, score, seam_of

SIGNS = {0: "✅", 1: "❌", 2: "💥", 3: "❔"}
SHOWN = 20  # failures in full; the others by name


def markdown(document: Mapping[str, Any]) -> str:
    """The whole report, as text."""
    return "\n".join(blocks(document)) + "\n"


def blocks(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {SIGNS[exit_code(document)]} sftspec: {escaped(conclusion(document))}\n"
    for level, counts in document["totals"].items():
        if sum(counts.values()) > counts["not-claimed"]:
            yield f"- {level}: {score(counts)}"
    if not_counted(document):
        yield f"- {not_counted(document)}"
    yield ""
    for problem in (document["baseline"] or {"problems": []})["problems"]:
        yield f"### `{problem['id']}`: {problem['kind']} in the baseline\n\n{escaped(problem['what'])}\n"
    wrong = [item for item in document["verdicts"] if item["status"] in ("fail", "ambiguous", "error")]
    for verdict in wrong[:SHOWN]:
        yield from failed(document, verdict)
    if wrong[SHOWN:]:
        yield "And " + ", ".join(f"`{item['id']}`" for item in wrong[SHOWN:]) + ".\n"
    for scenario in document["scenarios"]:
        if scenario["error"]:
            yield f"- broke in {escaped(scenario['name'])}: {code(scenario['error'])}"
    yield from known(document)


def failed(document: Mapping[str, Any], verdict: Mapping[str, Any]) -> Iterator[str]:
    item, found = entries().get(verdict["id"]), verdict["counterexample"]
    newer = document["baseline"] is not None and verdict["id"] in document["baseline"]["newer"]
    remark = ", newer than the baseline: it decides nothing" if newer else ""
    yield f"### `{verdict['id']}`: {verdict['status']} ({verdict['level']}{remark})\n"
    if item is not None:
        yield f"{escaped(item.sentence)}\n"
    if found is not None:
        yield f"- where: {escaped(where(found, seam_of(verdict)))}"
        yield f"- found: {code(found['note'] or verdict['reason'] or 'does not hold')}"
    elif verdict["reason"]:
        yield f"- found: {code(verdict['reason'])}"
    yield f"- again: {code(verdict['repro'])}\n"


def known(document: Mapping[str, Any]) -> Iterator[str]:
    found = [item for item in document["verdicts"] if item["status"] == "known-fail"]
    if found:
        yield f"<details><summary>{len(found)} known to fail</summary>\n"
        yield from (f"- `{item['id']}`: {escaped(item['reason'])}" for item in found)
        yield "\n</details>"


def escaped(text: str) -> str:
    """Text that is shown as it is: Markdown and HTML in what a trainer says stay text."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#!@" else letter for letter in plain)


def code(text: str) -> str:
    """A code span, longer fenced than any run of backticks in it."""
    text, fence = " ".join(text.split()), "`"
    while fence in text:
        fence += "`"
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"
