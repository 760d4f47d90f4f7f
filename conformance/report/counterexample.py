"""A counterexample, so that it is understood without the run: where it is, its tokens, its figures.

A verdict that only says "failed" is argued with; the smallest conversation that shows it is not. Everything here is
plain JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sftspec.conformance.report.json_values import plain, short, without_paths
from sftspec.conformance.report.token_strip import Cell, strip_of
from sftspec.conformance.trial.judge import Verdict
from sftspec.job import Job
from sftspec.properties.ledger.run import Piece, Row, Run, Step


def counterexample_record(verdict: Verdict, found: Mapping[str, Any]) -> dict[str, Any]:
    """The smallest thing that does not hold, so that it is understood without the run.

    failures   how many do not hold
    settings   of the scenario's job, where they are not the default
    place      where it is: step, forward (model call), row, column, conversation, token, message; what applies
    messages   the conversation
    tokens     its strip (see strip.Cell)
    row        what stands in the row of the batch: stretches of conversations, in order
    numbers    of the optimizer step: targets and the sums of their weights by micro-batch, scale, residual, rate
    arguments  that were drawn for a function, and the result that does not hold
    """
    run, subject = found.get("run"), found.get("subject")
    record: dict[str, Any] = {
        "scenario": found["scenario"],
        "failures": verdict.failures,
        "note": without_paths(str(found["note"])),
        "settings": settings_of(run.job) if run is not None else {},
        "place": {},
        "messages": None,
        "tokens": [],
        "row": [],
        "numbers": {},
        "arguments": {},
    }
    if run is None:
        record["arguments"] = {name: short(value) for name, value in found.get("arguments", {}).items()}
        if subject is not None and short(subject) not in record["arguments"].values():
            record["arguments"]["result"] = short(subject)
        return record
    cells = strip_of(run, subject, weights=verdict.property.area == "step")
    record["tokens"] = [_without_defaults(cell) for cell in cells]
    record["place"] = place_of(run, subject)
    record["row"] = row_of(run, subject)
    example = record["place"].get("conversation")
    if example is not None:
        record["messages"] = [dict(message) for message in run.job.conversations[example]]
    if isinstance(subject, Step):
        record["numbers"] = numbers_of(run, subject)
    return record


def place_of(run: Run, subject: Any) -> dict[str, int]:
    place = {name: getattr(subject, name) for name in ("step", "forward", "row", "column") if hasattr(subject, name)}
    if isinstance(subject, Step):
        place["step"] = subject.index
    example = getattr(subject, "example", -1)
    if example >= 0:
        offset = getattr(subject, "offset", getattr(subject, "start", 0))
        stream = run.streams[example]
        place |= {"conversation": example, "token": offset, "tokens": len(stream)}
        message = stream.rendered.spans[stream.owners[offset]].message
        if message >= 0:
            place["message"] = message
    return place


def row_of(run: Run, subject: Any) -> list[dict[str, int]]:
    """The stretches of conversations in the row of the batch in which a Row or a Piece stands."""
    first = subject.rows[0] if isinstance(subject, Piece) else subject
    if not isinstance(first, Row):
        return []
    return [
        {"conversation": piece.example, "start": piece.start, "end": piece.end}
        for piece in run.pieces
        if (piece.rows[0].forward, piece.rows[0].row) == (first.forward, first.row)
    ]


def numbers_of(run: Run, step: Any) -> dict[str, Any]:
    """A step in figures: targets and their weights by micro-batch, and what the optimizer got."""
    forwards = [forward for forward in run.forwards if forward.step == step.index]
    rows: dict[int, list[float]] = {forward.index: [] for forward in forwards}
    for row in run.rows:
        if row.step == step.index and row.target is not None:
            rows[row.forward].append(row.weight)
    return {
        "step": step.index,
        "targets": [len(weights) for weights in rows.values()],
        "weights": [plain(float(f"{sum(weights):.6g}")) for weights in rows.values()],
        "scale": plain(float(f"{step.scale:.6g}")),
        "residual": plain(float(f"{step.residual:.3g}")),
        "learning_rate": plain(float(f"{step.learning_rate:.6g}")),
    }


def settings_of(job: Job) -> dict[str, Any]:
    """The settings of a job that differ from the default."""
    return {
        field.name: ",".join(value) if isinstance(value, tuple) else value
        for field in dataclasses.fields(job)
        if isinstance(value := getattr(job, field.name), (bool, int, float, str, tuple))
        and field.name != "seed"
        and value != field.default
    }


def _without_defaults(cell: Cell) -> dict[str, Any]:
    return {
        field.name: _rounded(getattr(cell, field.name))
        for field in dataclasses.fields(cell)
        if getattr(cell, field.name) != field.default
    }


def _rounded(value: Any) -> Any:
    return plain(float(f"{value:.6g}")) if isinstance(value, float) else value
