"""What came of a document: how many properties have which status, and the exit code.

Every status is counted by itself and by level: a sum of "not failed" would count as a pass what was never measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sftspec.counted import counted

LEVELS = ("must", "should")
STATUSES = (
    "pass",
    "fail",
    "known-fail",  # it fails, and the baseline says so
    "stale",  # the baseline says that it fails, and it does not
    "blocked",
    "ambiguous",
    "not-claimed",
    "not-measured",
    "error",
)
EXIT_CONFORMS, EXIT_FAILS, EXIT_BROKEN, EXIT_INCONCLUSIVE = 0, 1, 2, 3
SEVERITY = (EXIT_CONFORMS, EXIT_INCONCLUSIVE, EXIT_FAILS, EXIT_BROKEN)  # of several, the last is said


def totals(verdicts: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Number of properties by level and status; every status is there, also with 0."""
    counts = {level: dict.fromkeys(STATUSES, 0) for level in LEVELS}
    for verdict in verdicts:
        counts[verdict["level"]][verdict["status"]] += 1
    return counts


def exit_code(document: Mapping[str, Any]) -> int:
    """0: no must property fails. 1: one fails, or is ambiguous, or an entry of the baseline does not say what is so.
    2: the run itself broke, which says nothing. 3: nothing fails, but too little was measured to say that it conforms.

    document: what `sftspec.check` returns, or `sftspec check --json` writes.

    >>> none = dict.fromkeys(STATUSES, 0)
    >>> totals = {"must": {**none, "pass": 3, "fail": 1}, "should": none}
    >>> failed = {"id": "masking/end-of-turn-is-trained", "level": "must", "status": "fail"}
    >>> exit_code({"totals": totals, "scenarios": [], "verdicts": [failed], "baseline": None})
    1
    """
    must, should = document["totals"]["must"], document["totals"]["should"]
    if must["error"] or should["error"] or any(scenario["error"] for scenario in document["scenarios"]):
        return EXIT_BROKEN
    baseline = document["baseline"] or {"problems": [], "newer": []}
    failing = [
        item for item in document["verdicts"] if item["level"] == "must" and item["status"] in ("fail", "ambiguous")
    ]
    if baseline["problems"] or any(item["id"] not in baseline["newer"] for item in failing):
        return EXIT_FAILS
    return EXIT_INCONCLUSIVE if too_little(document) else EXIT_CONFORMS


def too_little(document: Mapping[str, Any]) -> str:
    """Why the run cannot end in "conforms", although nothing fails; "" if it can.

    An adapter that refuses most of what it is given, or of whose claims most were not measured, passes by silence.
    """
    given = sum(scenario["conversations"] for scenario in document["scenarios"])
    refused = sum(scenario["refused"] for scenario in document["scenarios"])
    if refused > given:
        return f"the trainer refuses {refused} of {counted(given + refused, 'conversation')}"
    counts = [sum(level[status] for level in document["totals"].values()) for status in STATUSES]
    number = dict(zip(STATUSES, counts, strict=True))
    unmeasured = number["not-measured"] + number["blocked"]
    claimed = sum(counts) - number["not-claimed"]
    if not claimed:
        return "nothing of what was asked is claimed"
    were = "was" if unmeasured == 1 else "were"
    return f"{unmeasured} of {counted(claimed, 'property')} {were} not measured" if 2 * unmeasured > claimed else ""
