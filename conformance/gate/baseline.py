"""A baseline: what is known to fail on a trainer, each with its reason, as TOML in the trainer's own repository.

    spec_revision = "2026-11"

    [known-failing]
    "packing/examples-do-not-see-each-other" = "wrapped packs share one causal mask"
    "step/padding-adds-nothing" = { reason = "fixed in 2.4", until = 2027-01-31 }

    [known-flaky]
    "step/the-update-is-adamw" = "a race on two GPUs, issue 12"

With it only a change is red: a failure that is not listed, and an entry that no longer says what is so. An entry is
unknown (no such property), stale (it says fails, and the property passes) or expired (its day is over): each fails
the check until a person looks at it. What passes in part of a trial (`--quick`, `--scenario`) may fail in the rest, and
makes no entry stale. Properties newer than the baseline's revision are reported and decide nothing, so that an update
of sftspec alone turns nobody red.
"""

from __future__ import annotations

import datetime
import difflib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftspec import SPEC_REVISION
from sftspec.conformance.report.failures import entries as known_properties
from sftspec.conformance.report.outcome import totals
from sftspec.properties import revisions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FAILING, FLAKY = "known-failing", "known-flaky"
FAILS = ("fail", "ambiguous")  # what an entry excuses
CANNOT_SAY = ("blocked", "not-measured", "error")  # and what neither confirms nor refutes it
DEFAULT = "sftspec-baseline.toml"


class BaselineError(ValueError):
    """A baseline that cannot be read, or cannot be written; names the file, the entry and what to do."""


@dataclass(frozen=True)
class Known:
    """One entry. until: the last day on which it excuses; flaky: it may pass as well."""

    id: str
    reason: str
    until: datetime.date | None = None
    flaky: bool = False


@dataclass(frozen=True)
class Baseline:
    """What is known of a trainer. spec_revision: the revision of the specification when it was written."""

    spec_revision: str = SPEC_REVISION
    entries: Mapping[str, Known] = field(default_factory=dict)
    source: str = DEFAULT


def read_baseline(path: Path) -> Baseline:
    """Read a baseline. Raises BaselineError."""
    try:
        return parse_baseline(path.read_text(encoding="utf-8-sig"), path.name)
    except FileNotFoundError:
        raise BaselineError(
            f"{path}: no such file; `sftspec baseline write TRAINER --baseline {path}` makes one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"{path} cannot be read: {error}") from None


def parse_baseline(text: str, source: str) -> Baseline:
    """The baseline that a text states. Raises BaselineError."""
    try:
        said = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        entry = 'an entry is "area/property" = "reason", its id in quotes and there once'
        raise BaselineError(f"{source}: not valid TOML: {error}; {entry}") from None
    except RecursionError:
        raise BaselineError(f"{source}: not valid TOML: it is nested too deeply") from None
    unknown = sorted(said.keys() - {"spec_revision", FAILING, FLAKY})
    if unknown:
        raise BaselineError(f"{source}: unknown key {unknown[0]!r}; known: spec_revision, [{FAILING}], [{FLAKY}]")
    revision = said.get("spec_revision")
    if not isinstance(revision, str):
        raise BaselineError(
            f'{source}: write spec_revision = "{SPEC_REVISION}" at its top: newer properties do not count'
        )
    ids_of_revision(revision, source)
    entries: dict[str, Known] = {}
    for section in (FAILING, FLAKY):
        for name, value in _table(said.get(section, {}), f"{source}: [{section}]").items():
            if name in entries:
                raise BaselineError(f"{source}: {name} stands in [{FAILING}] and in [{FLAKY}]")
            entries[name] = _entry(name, value, section == FLAKY, f"{source}: [{section}] {name}")
    return Baseline(revision, entries, source)


def _table(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BaselineError(f'{place}: write a table of "area/property" = "reason"')
    return value


def _entry(name: str, value: Any, flaky: bool, place: str) -> Known:
    fields = {"reason": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not isinstance(fields.get("reason"), str) or not fields["reason"].strip():
        raise BaselineError(f'{place}: say why: "reason", or {{ reason = "…", until = 2027-01-31 }}')
    unknown = sorted(fields.keys() - {"reason", "until"})
    if unknown:
        raise BaselineError(f"{place}: unknown key {unknown[0]!r}; known: reason, until")
    until = fields.get("until")
    if until is not None and type(until) is not datetime.date:
        raise BaselineError(f"{place}: until is a day without quotes, such as 2027-01-31")
    return Known(name, fields["reason"].strip(), until, flaky)


def ids_of_revision(revision: str, source: str) -> frozenset[str]:
    """The ids of the properties that a revision of the specification has. Raises BaselineError."""
    known = sorted({*revisions.earlier(), SPEC_REVISION})
    if revision not in known:
        raise BaselineError(
            f"{source}: spec revision {revision!r} is unknown to this sftspec; known: {', '.join(known)}"
        )
    return frozenset(revisions.frozen(revision))


def successors(name: str) -> list[str]:
    """The ids that carry on what an id demanded: itself, unless it was retired (properties/revisions)."""
    retired = revisions.changes()["retired"]
    if name not in retired:
        return [name]
    return [last for successor in retired[name]["successors"] for last in successors(successor)]


def hold_against(document: Mapping[str, Any], baseline: Baseline, today: datetime.date | None = None) -> dict[str, Any]:
    """The document of a trial as its baseline reads it: statuses known-fail and stale, and what is wrong with the
    baseline itself.

    Raises BaselineError for a document that was held against a baseline before.
    """
    if document["baseline"] is not None:
        raise BaselineError(f"this document was held against {document['baseline']['file']} before")
    today = today or datetime.date.today()
    heirs = {last: entry for name, entry in baseline.entries.items() for last in successors(name)}
    known = {**heirs, **baseline.entries}
    found = {verdict["id"]: verdict["status"] for verdict in document["verdicts"]}
    verdicts = []
    for verdict in document["verdicts"]:
        entry = known.get(verdict["id"])
        if entry is None or is_expired(entry, today):
            verdicts.append(dict(verdict))
        else:
            others = [found.get(name) for name in successors(entry.id)]
            verdicts.append(_read(verdict, entry, others, baseline.source, document.get("partial", "")))
    frozen = ids_of_revision(baseline.spec_revision, baseline.source)
    return {
        **document,
        "verdicts": verdicts,
        "totals": totals(verdicts),
        "baseline": {
            "file": baseline.source,
            "spec_revision": baseline.spec_revision,
            "problems": list(problems(baseline, verdicts, today)),
            "newer": [item["id"] for item in verdicts if item["status"] in FAILS and item["id"] not in frozen],
        },
    }


def _read(
    verdict: Mapping[str, Any], entry: Known, found: Sequence[str | None], source: str, partial: str
) -> dict[str, Any]:
    """A verdict under its entry.

    found    the statuses of all that the entry speaks of (of a retired id, several)
    partial  the options by which less was run: what passes there may fail in the rest
    """
    if verdict["status"] in FAILS:
        until = f" (until {entry.until})" if entry.until else ""
        return {**verdict, "status": "known-fail", "reason": entry.reason + until}
    may_pass = entry.flaky and verdict["status"] == "pass"
    if may_pass or any(status in (*FAILS, *CANNOT_SAY) for status in found):
        return dict(verdict)
    if partial and verdict["status"] == "pass":
        said = f"known to fail, passes in what {partial} runs; the whole trial says whether its entry is stale"
        return {**verdict, "reason": "; ".join(filter(None, (verdict["reason"], said)))}
    says = "it passes" if verdict["status"] == "pass" else "the trainer does not claim it"
    return {**verdict, "status": "stale", "reason": f"{says}: take the entry of {entry.id} out of {source}"}


def is_expired(known: Known, today: datetime.date) -> bool:
    return known.until is not None and known.until < today


def problems(
    baseline: Baseline, verdicts: Sequence[Mapping[str, Any]], today: datetime.date
) -> Iterator[dict[str, str]]:
    """What is wrong with the entries: the property, the kind (unknown, expired or stale) and what to do."""
    ids = list(known_properties())
    stale = {item["id"]: item["reason"] for item in verdicts if item["status"] == "stale"}
    for name, known in baseline.entries.items():
        carried_on = successors(name)
        if not set(carried_on) <= set(ids):
            close = difflib.get_close_matches(name, ids, 1, 0.5)
            meant = f"did you mean {close[0]}?" if close else "`sftspec list` shows what there is"
            yield {"id": name, "kind": "unknown", "what": f"there is no such property; {meant}"}
        elif is_expired(known, today):
            what = f"its last day was {known.until}: mend the trainer, or give it another day ({known.reason})"
            yield {"id": name, "kind": "expired", "what": what}
        elif any(each in stale for each in carried_on):
            yield {"id": name, "kind": "stale", "what": next(stale[each] for each in carried_on if each in stale)}


HEAD = """\
# What is known to fail, each with its reason. A failure that is not listed here is red; so is an entry that is stale.
# Check with: {check}
spec_revision = "{revision}"
"""
REVISION, RENEWED = re.compile(r"\s*spec_revision\s*="), f'spec_revision = "{SPEC_REVISION}"'


def written(document: Mapping[str, Any], old: str = "", source: str = DEFAULT, check: str = "") -> str:
    """The text of the baseline under which this document conforms.

    Reasons, days and comments of the old text stay; entries of properties that pass go; what fails and is not listed
    comes in with what was found as its reason, for a person to replace; the revision becomes today's. Raises
    BaselineError.
    """
    text = old or HEAD.format(check=check or f"{document['command']} --baseline {source}", revision=SPEC_REVISION)
    baseline = parse_baseline(text, source)
    held = hold_against(document, baseline)
    lines = [RENEWED if REVISION.match(line) else line for line in text.rstrip("\n").split("\n")]
    for problem in held["baseline"]["problems"]:
        if problem["kind"] == "stale":
            lines = _without(lines, problem["id"], source)
    new = [item for item in held["verdicts"] if item["status"] in FAILS and item["level"] == "must"]
    new = [item for item in new if item["id"] not in baseline.entries]
    said = [f"{quoted(item['id'])} = {quoted(_found(item))}" for item in new]
    if said:
        header = f"[{FAILING}]"
        place = next((number for number, line in enumerate(lines) if line.split("#")[0].strip() == header), None)
        if place is None:
            lines += ["", header, *said]
        else:
            lines[place + 1 : place + 1] = said
    text = "\n".join(lines) + "\n"
    parse_baseline(text, source)
    return text


def _without(lines: list[str], name: str, source: str) -> list[str]:
    """The lines without the one of an entry."""
    kept = [line for line in lines if not line.lstrip().startswith((f'"{name}"', f"'{name}'"))]
    if len(kept) != len(lines) - 1:
        raise BaselineError(f"{source}: {name} is not written in one line; take it out by hand")
    return kept


def _found(verdict: Mapping[str, Any]) -> str:
    counterexample = verdict["counterexample"] or {}
    note = counterexample.get("note") or verdict["reason"] or "does not hold"
    return f"not looked at yet: {' '.join(note.split())[:160]}"


def quoted(text: str) -> str:
    """A TOML basic string: JSON's, and DEL escaped as well (TOML 1.0)."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
