"""What was seen, as JSON that goes on growing, and as a page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sftspec.conformance.timemachine.case import Case, Release
from sftspec.conformance.timemachine.replay import command_of, pins_of
from sftspec.counted import counted

RESULTS = Path(__file__).parents[1] / "results" / "timemachine.json"


def read(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Records by case and release; nothing if there is no such file."""
    if not path.exists():
        return {}
    return {(item["case"], item["release"]): item for item in json.loads(path.read_text(encoding="utf-8"))}


def write(path: Path, records: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
    """Write the records in the order of the cases that know them, and a page of the same name beside them."""
    from sftspec.conformance.timemachine.cases import CASES

    order = {(case.name, release.name): None for case in CASES for release, _ in case.releases}
    known = [records[key] for key in order if key in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(json.dumps(item, ensure_ascii=False) for item in known)
    path.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page(CASES, known), encoding="utf-8")


def is_current(case: Case, release: Release, expected: str, record: Mapping[str, Any]) -> bool:
    """Was the same asked, of the same packages, and answered?"""
    asked = (record["property"], record["expected"], record["command"], record["pins"])
    asks = (case.property, expected, command_of(case, release), pins_of(case, release))
    return asked == asks and record["status"] in ("pass", "fail")


def page(cases: Sequence[Case], records: Iterable[Mapping[str, Any]]) -> str:
    """Markdown: a table, and below it what each release was found to do."""
    seen = {(item["case"], item["release"]): item for item in records}
    lines = [
        "# Released versions with a known bug, on trial again",
        "",
        "Each pair was installed from PyPI and run on CPU: the release that has the bug has to fail on the property "
        "that names it, and the release that fixed it has to pass. "
        "`sftspec timemachine` runs them all again, `sftspec timemachine NAME` one. "
        "Written by that command; every figure is from the run that it describes.",
        "",
        "| case | bug | property | has the bug | fixed in |",
        "|---|---|---|---|---|",
    ]
    for case in cases:
        told = [verdict_of(seen.get((case.name, release.name)), release.name) for release, _ in case.releases]
        lines.append(f"| [{case.name}](#{case.name}) | {case.issue} | {case.property} | {' | '.join(told)} |")
    for case in cases:
        lines += ["", f"## {case.name}", "", case.bug, "", f"- reported: {case.issue}", f"- run: {case.real}"]
        for release, _ in case.releases:
            if item := seen.get((case.name, release.name)):
                found = f": {item['found']}" if item["found"] else f", {counted(item['evidence'], 'piece of evidence')}"
                pins = " ".join(release.pins)
                lines.append(f"- {pins}, torch {item['torch']}: **{item['status']}**{found}, {item['seconds']} s")
    return "\n".join(lines) + "\n"


def verdict_of(record: Mapping[str, Any] | None, release: str) -> str:
    if record is None:
        return f"{release}: not run"
    sign = "" if record["status"] == record["expected"] else f" (expected {record['expected']})"
    return f"{release}: {record['status']}{sign}"
