"""`sftspec diff OLD.json NEW.json`: the properties whose status changed, and whether a must got worse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from sftspec.conformance.report.failures import STYLES, labelled
from sftspec.counted import counted

GOOD, BAD = ("pass", "stale"), ("fail", "ambiguous", "error")  # what is stale passes, against its baseline
ABSENT = "not judged"


def status_by_id(document: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {item["id"]: (item["status"], item["level"]) for item in document["verdicts"]}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(id, level, old status, new status) of what differs, in the order of the new document, what is gone last."""
    before, after = status_by_id(old), status_by_id(new)
    return [
        (name, (after.get(name) or before[name])[1], before.get(name, (ABSENT,))[0], after.get(name, (ABSENT,))[0])
        for name in (*after, *(item for item in before if item not in after))
        if before.get(name, (ABSENT,))[0] != after.get(name, (ABSENT,))[0]
    ]


def is_worse(level: str, before: str, after: str) -> bool:
    """Does a must fail now, or is a must that passed no longer shown to pass?"""
    lost = before in GOOD and after not in (*GOOD, "known-fail")
    return level == "must" and before not in BAD and (after in BAD or lost)


def difference_lines(old: Mapping[str, Any], new: Mapping[str, Any], width: int) -> Iterator[Text]:
    """What is on trial on each side, then each change, then the count."""
    for label, document in (("old", old), ("new", new)):
        trainer = document["trainer"]
        said = f"{trainer['name']} {trainer['version']}, spec {document['spec_revision']}, seed {document['seed']}"
        yield from labelled(label, f"{said}, {document['command']}", width)
    found = changes(old, new)
    yield Text()
    size = max((len(name) for name, *_ in found), default=0)
    for name, level, before, after in found:
        line = Text(f"{name:{size}}  {level:6}  ")
        line.append(before, STYLES.get(before, "dim")).append(" → ").append(after, STYLES.get(after, "dim"))
        yield line.append("  worse", "bold red") if is_worse(level, before, after) else line
    worse = sum(is_worse(*change) for _, *change in found)
    yield Text(
        f"{counted(len(found), 'property')} changed, {counted(worse, 'must')} got worse",
        "bold red" if worse else "bold",
    )
