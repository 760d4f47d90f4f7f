"""The results of a revision as one page: areas by trainer and setting, and behind each line its evidence.

Settings that are to be right stand first; those that are wrong by choice stand apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from sftspec.conformance.matrix.settings import NOT_HERE
from sftspec.conformance.report.failures import pairs
from sftspec.conformance.report.html import POLICY
from sftspec.conformance.report.markdown import code, escaped
from sftspec.counted import counted

AREAS = ("template", "masking", "packing", "step")
SAYS = {0: "conforms", 1: "does not conform", 2: "broke in part", 3: "too little measured"}
STYLE = {0: "pass", 1: "fail", 2: "warn", 3: "not-measured"}
HEADINGS = (
    (False, "Settings that are to be right"),
    (True, "Settings that are wrong by choice"),
)
MISSING = "Not on trial here, and why"
LEGEND = "Of each area: musts that pass of those that were judged, then musts that fail (✕) and warnings (!)."

Line = tuple[Mapping[str, Any], Mapping[str, Any]]  # results of a trainer's version, and one of its settings


def lines(results: Iterable[Mapping[str, Any]], by_choice: bool) -> list[Line]:
    """The settings that are wrong by choice, or the others."""
    chosen = [(item, entry) for item in results for entry in item["settings"] if bool(entry["choice"]) == by_choice]
    return sorted(chosen, key=lambda line: (line[0]["trainer"], line[0]["version"], len(line[1]["set"])))


def cell(entry: Mapping[str, Any], area: str) -> str:
    """What came of an area, in a few signs; "" where nothing of it was claimed."""
    counts = entry.get("areas", {}).get(area)
    if not counts:
        return ""
    judged = counts.get("pass", 0) + counts.get("fail", 0) + counts.get("ambiguous", 0)
    wrong, warned = counts.get("fail", 0) + counts.get("ambiguous", 0), counts.get("warning", 0)
    if not judged:
        return "–"
    return f"{counts.get('pass', 0)}/{judged}" + (f" ✕{wrong}" if wrong else "") + (f" !{warned}" if warned else "")


def failed(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The verdicts that do not hold, musts first."""
    wrong = [item for item in entry.get("verdicts", ()) if item["status"] in ("fail", "ambiguous", "error")]
    return sorted(wrong, key=lambda item: item["level"])


def name_of(results: Mapping[str, Any]) -> str:
    return f"{results['trainer'].partition('-0')[0].partition('-1')[0]} {results['version']}"


def setting_of(entry: Mapping[str, Any]) -> str:
    return (pairs(entry["set"]) or "the adapter's defaults") + (" (quick)" if entry.get("quick") else "")


def markdown(results: Sequence[Mapping[str, Any]], revision: str) -> str:
    """The page as Markdown."""
    return "\n".join(_markdown(results, revision)) + "\n"


def _markdown(results: Sequence[Mapping[str, Any]], revision: str) -> Iterator[str]:
    yield f"# Trainers on trial, specification {revision}\n"
    yield f"{LEGEND} A result belongs to a version and a setting. `sftspec matrix` makes this page.\n"
    for by_choice, heading in HEADINGS:
        yield f"## {heading}\n"
        yield from table(lines(results, by_choice))
        yield ""
    yield f"## {MISSING}\n\n| trainer | what | why |\n|---|---|---|"
    yield from (f"| {trainer} | {what} | {why} |" for trainer, what, why in NOT_HERE)
    for by_choice, heading in HEADINGS:
        yield f"\n## {heading}: evidence\n"
        for item, entry in lines(results, by_choice):
            yield from evidence(item, entry)


def table(chosen: Iterable[Line]) -> Iterator[str]:
    """One line for each setting."""
    yield f"| trainer | setting | {' | '.join(AREAS)} | fails |"
    yield f"|{'---|' * (len(AREAS) + 3)}"
    for item, entry in chosen:
        if entry["error"]:
            blank, why = " |" * len(AREAS), escaped(entry["error"][:160])
            yield f"| {name_of(item)} | {code(setting_of(entry))} |{blank} {why} |"
            continue
        cells = " | ".join(cell(entry, area) for area in AREAS)
        says = ", ".join(verdict["id"].partition("/")[2] for verdict in failed(entry)) or said(entry)
        yield f"| {name_of(item)} | {code(setting_of(entry))} | {cells} | {says} |"


def said(entry: Mapping[str, Any]) -> str:
    """What came of it, in words. A quick trial is no word on what it did not try."""
    return "nothing fails" if entry["quick"] and entry["exit"] == 0 else SAYS[entry["exit"]]


def evidence(item: Mapping[str, Any], entry: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n### {name_of(item)}, {setting_of(entry)}\n"
    if entry["choice"]:
        yield f"Wrong by choice: {escaped(entry['choice'])}.\n"
    yield f"Reproduce: {code(reproduce(item, entry))}\n"
    if entry["error"]:
        yield f"Not tried: {escaped(entry['error'])}\n"
        return
    yield f"{escaped(given(entry))}\n"
    for name, error in entry["broken"].items():
        yield f"- broke in {escaped(name)}: {code(error.splitlines()[0])}"
    for verdict in failed(entry):
        yield f"\n```text\n{verdict.get('shown') or verdict['id'] + ': ' + verdict.get('reason', '')}\n```"


def given(entry: Mapping[str, Any]) -> str:
    """How much was tried."""
    refused = f", {entry['refused']} are not accepted by this setting" if entry["refused"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in entry["environment"].items() if version)
    quick = " (a quick trial: few of its scenarios)" if entry["quick"] else ""
    tried = f"{counted(entry['conversations'], 'conversation')} in {counted(entry['scenarios'], 'scenario')}"
    took = f"{entry['cpu_seconds']} CPU s; " if "cpu_seconds" in entry else ""
    return f"{tried}{quick}{refused}; {took}{versions}."


def reproduce(item: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """The command that makes the result again, on a machine that has sftspec alone."""
    from sftspec.conformance.adapters.field import FIELD

    making = f"sftspec env create {item['trainer']} && " if item["trainer"] in FIELD else ""
    return making + entry["command"].replace(" --seed 0", "") + (" --quick" if entry.get("quick") else "")


def page(results: Sequence[Mapping[str, Any]], revision: str) -> str:
    """The page as one self-contained HTML file: no script, nothing loaded."""
    style = resources.files("sftspec.conformance.report").joinpath("page.css").read_text(encoding="utf-8")
    style += resources.files("sftspec.conformance.matrix").joinpath("page.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Trainers on trial: sftspec {revision}</title><style>{style}</style></head><body>",
            f"<h1>Trainers on trial</h1><p class=quiet>Specification {escape(revision)}. {LEGEND}</p>",
            *_sections(results),
            f"<h2>{MISSING}</h2><ul>",
            *(f"<li><b>{trainer}</b>, {what}: {escape(why)}</li>" for trainer, what, why in NOT_HERE),
            "</ul>",
            "</body></html>\n",
        ]
    )


def _sections(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    heads = "".join(f"<span>{area}</span>" for area in AREAS)
    for by_choice, heading in HEADINGS:
        yield f'<h2>{heading}</h2><div class="line head"><span>trainer and setting</span>{heads}</div>'
        for item, entry in lines(results, by_choice):
            yield from _line(item, entry)


def _line(item: Mapping[str, Any], entry: Mapping[str, Any]) -> Iterator[str]:
    setting = f'<b>{escape(name_of(item))}</b> <span class="quiet">{escape(setting_of(entry))}</span>'
    if entry["error"]:
        cells = '<span class="all warn">not tried</span>'
    else:
        cells = "".join(_cell(entry, area) for area in AREAS)
    yield f'<details><summary class="line"><span>{setting}</span>{cells}</summary>'
    if entry["choice"]:
        yield f"<p>Wrong by choice: {escape(entry['choice'])}.</p>"
    yield f"<p>Reproduce</p><pre>{escape(reproduce(item, entry))}</pre>"
    if entry["error"]:
        yield f"<p>{escape(entry['error'])}</p></details>"
        return
    yield f'<p><span class="{STYLE[entry["exit"]]}">{said(entry)}</span>: {escape(given(entry))}</p>'
    for name, error in entry["broken"].items():
        yield f'<p class="warn">broke in {escape(name)}: {escape(error.splitlines()[0])}</p>'
    for verdict in failed(entry):
        says = "fails" if verdict["level"] == "must" else "warning"
        kind = "fail" if verdict["level"] == "must" else "warn"
        shown = verdict.get("shown") or verdict.get("reason", "")
        yield f'<details class="found"><summary>{escape(verdict["id"])} <span class="{kind}">{says}</span></summary>'
        yield f"<pre>{escape(shown)}</pre></details>"
    yield "</details>"


def _cell(entry: Mapping[str, Any], area: str) -> str:
    text = cell(entry, area)
    kind = "fail" if "✕" in text else "warn" if "!" in text else "pass" if "/" in text else "quiet"
    return f'<span class="{kind}" data-area="{area}">{text}</span>'
