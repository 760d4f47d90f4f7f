"""What became of conversations that a trainer did not take as they are, one sentence for each of the four words.

Refused and counted ones are its choice; what was dropped in silence or rewritten fails, and is named here by what those
conversations have in common (sftspec.properties.masking.untaken).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sftspec.counted import counted


def fates(document: Mapping[str, Any]) -> dict[str, str]:
    """What became of how many, by the word for it.

    >>> item = {"how": "rewritten", "count": 2, "of": 15, "first": "corpus.jsonl:3", "trait": "all have thoughts"}
    >>> fates({"scenarios": [{"name": "plain", "refused": 0, "conversations": 15, "untaken": [item]}]})
    {'rewritten': '2 of 15 conversations (plain), the first at corpus.jsonl:3: all have thoughts'}
    """
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for scenario in document["scenarios"]:
        items = scenario.get("untaken", [])
        if scenario["refused"] and not any(item["how"] == "refused" for item in items):
            total = scenario["refused"] + scenario["conversations"]
            items = [{"how": "refused", "count": scenario["refused"], "of": total, "first": "", "trait": ""}, *items]
        for item in items:
            found.setdefault(item["how"], []).append((scenario["name"], item))
    return {how: _said(items) for how, items in found.items()}


def _said(items: list[tuple[str, Mapping[str, Any]]]) -> str:
    count, total = (sum(item[name] for _, item in items) for name in ("count", "of"))
    where = items[0][0] if len(items) == 1 else f"in {counted(len(items), 'scenario')}"
    said = f"{count:,} of {counted(total, 'conversation')} ({where})"
    _, first = items[0]
    if first["first"]:
        said += f", the first at {first['first']}" + (f" of {items[0][0]}" if len(items) > 1 else "")
    if traits := sorted({item["trait"] for _, item in items} - {""}):
        said += f": {'; '.join(traits[:3])}"
    return said
