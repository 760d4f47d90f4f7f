"""The audit as a document: what is printed, drawn and written is read off it, and its form is that of schema.json."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import sftspec
from sftspec.conformance.audit.batch import Settings
from sftspec.conformance.audit.findings import FINDINGS, LIMITS, MILLION, FindingError, finding_named
from sftspec.conformance.audit.shards import Source
from sftspec.conformance.audit.summary import PLACES, Found, Summary, percentiles
from sftspec.conformance.report.printable import printable_json
from sftspec.packing import pack

FORM = "sftspec-audit/1"
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class Gate:
    """--fail-on: a finding, and the share of the records that may have it."""

    finding: str
    share: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Gate:
        """ "no-target", "no-target>1%" or "no-target>0.01". Raises FindingError."""
        name, more, limit = text.partition(">")
        percent = limit.strip().endswith("%")
        try:
            share = float(limit.strip().rstrip("%")) / (100 if percent else 1) if more else 0.0
        except ValueError:
            share = math.nan
        if not 0 <= share <= 1:
            raise FindingError(f"{text!r}: write a share after >, such as {name.strip()}>1% or {name.strip()}>0.01")
        return cls(finding_named(name), share)


class Places:
    """From the number of a place to what people call it: "data.jsonl:12", "data.parquet, row 3"."""

    def __init__(self, sources: Sequence[Source], units: dict[int, str]):
        self.sources, self.units = sources, units

    def name(self, place: int) -> str:
        file, number = divmod(place, PLACES)
        return self.sources[file].place(number, self.units.get(file, "line"))

    def note(self, text: str) -> str:
        return re.sub(r"\{(\d+)\}", lambda found: self.name(int(found[1])), text) if text.startswith("as {") else text


def make_document(
    summary: Summary,
    settings: Settings,
    places: Places,
    gates: Iterable[Gate],
    template: str,
    tokenizer: str,
    seconds: float,
    file_remarks: Iterable[str] = (),
    **made: Any,
) -> dict[str, Any]:
    found = summary.found | summary.duplicates()
    records = max(summary.records, 1)
    findings = [_finding(name, found.get(name, Found()), records, places) for name in FINDINGS]
    failed = [
        {"finding": gate.finding, "share": found[gate.finding].conversations / records, "allowed": gate.share}
        for gate in gates
        if gate.finding in found and found[gate.finding].conversations / records > gate.share
    ]
    capacities = sorted({*LIMITS, *([settings.max_length] if settings.max_length else [])})
    return {
        "form": FORM,
        "sftspec": {"version": sftspec.__version__, "spec_revision": sftspec.SPEC_REVISION},
        "files": [source.name for source in settings.sources],
        "template": template,
        "tokenizer": tokenizer,
        "policy": settings.policy,
        "max_length": settings.max_length,
        "seconds": round(seconds, 3),
        **made,
        "records": summary.records,
        "conversations": summary.conversations,
        "tokens": summary.tokens,
        "kept": summary.kept,
        "targets": summary.targets,
        "weight": summary.weight / MILLION,
        "findings": findings,
        "failed": failed,
        "bad_lines": [{"place": places.name(place), "reason": said} for place, said in summary.bad],
        "where": [{"place": places.name(place), "note": note} for place, note in summary.where],
        "roles": {
            role: dict(zip(("messages", "tokens", "targets"), summary.roles[role], strict=True))
            for role in sorted(summary.roles)
        },
        "lengths": _distribution(summary.lengths),
        "target_counts": _distribution(summary.target_counts),
        "limits": [_limit(limit, summary.cut.get(limit, (0, 0, 0, 0))) for limit in LIMITS],
        "packing": [_packing(summary.lengths, capacity) for capacity in capacities],
        "remarks": [
            {"said": said, "records": count, "first": places.name(place)}
            for said, (count, place) in sorted(summary.remarks.items(), key=lambda item: (-item[1][0], item[0]))
        ],
        "file_remarks": list(file_remarks),
    }


def _finding(name: str, found: Found, records: int, places: Places) -> dict[str, Any]:
    return {
        "name": name,
        "effect": FINDINGS[name],
        "conversations": found.conversations,
        "share": found.conversations / records,
        "times": found.times,
        "examples": [{"place": places.name(place), "note": places.note(note)} for place, note in found.examples],
    }


def _distribution(counts: Counter[int]) -> dict[str, Any]:
    """Percentiles by nearest rank, and a histogram whose edges grow by the square root of two."""
    edges = sorted({round(2 ** (step / 2)) for step in range(41)})
    held = np.zeros(len(edges) + 1, dtype=np.int64)
    for value, count in counts.items():
        held[int(np.searchsorted(edges, value, "right"))] += count
    bins = [
        {"from": edges[place - 1] if place else 0, "below": edges[place] if place < len(edges) else None,
         "conversations": int(held[place])}
        for place in range(len(held))
    ]  # fmt: skip
    used = [place for place, item in enumerate(bins) if item["conversations"]]
    return {
        "percentiles": {f"p{q * 100:g}": value for q, value in percentiles(counts, QUANTILES)},
        "histogram": bins[used[0] : used[-1] + 1] if used else [],
    }


def _limit(limit: int, cut: tuple[int, ...]) -> dict[str, int]:
    names = ("conversations_cut", "tokens_lost", "targets_lost", "left_without_target")
    return {"max_length": limit, **dict(zip(names, cut, strict=True))}


def _packing(lengths: Counter[int], capacity: int) -> dict[str, Any]:
    """Rows of best-fit decreasing, longer conversations cut: padding, and how often an example ends within a row."""
    values = [min(length, capacity) for length in lengths if length]
    counts = [lengths[length] for length in lengths if length]
    sizes = np.repeat(np.array(values, dtype=np.int64), counts)
    rows, tokens = len(pack(sizes, capacity)), int(sizes.sum())
    return {
        "capacity": capacity,
        "rows": rows,
        "padding": 1 - tokens / (rows * capacity) if rows else 0.0,
        "boundaries": (len(sizes) - rows) / tokens if tokens else 0.0,
        "unpacked_padding": 1 - tokens / (len(sizes) * int(sizes.max())) if rows else 0.0,
    }


def schema() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "schema.json").read_text(encoding="utf-8"))


def write_document(document: dict[str, Any], path: Path) -> None:
    path.write_text(printable_json(json.dumps(document, ensure_ascii=False, indent=1)) + "\n", encoding="utf-8")
