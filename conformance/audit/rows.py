"""Prepared rows: ids with labels or a mask, as trainers and services dump them, read into one form.

Rule of this file: what a column means is found out from the rows and said. Labels stand in line with their tokens
(Hugging Face: the model shifts) or one place before (Megatron, MaxText: they were shifted already); which of the two is
counted, never assumed where it can be counted.

    input_ids          and one of labels | loss_mask | completion_mask | assistant_masks | weights
    labels and a weight beside them: loss_scale (ms-swift), weights
    token_ids, token_weights   Fireworks' render samples (docs/fine-tuning/debug-sft-tokenization)
    attention_mask     0: padding
    position_ids       or what they follow from: seq_idx | segment_ids, cu_seqlens, seq_lengths (TRL)

TRL also writes completion_mask and assistant_masks at once: a token has to be on in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from sftspec.conformance.audit.shards import InputError, cut, find_sources, parsed
from sftspec.conversation import ConversationError
from sftspec.counted import counted
from sftspec.masking import IGNORE

IDS = ("input_ids", "tokens", "token_ids")
LABELS = ("labels", "label_ids", "target_ids", "targets")
WEIGHTS = ("weights", "loss_weights", "loss_scale", "token_weights")
MASKS = ("loss_mask", "completion_mask", "assistant_masks", "assistant_mask", *WEIGHTS)
SEGMENTS = ("seq_idx", "segment_ids", "sequence_ids", "cu_seqlens", "cu_seq_lens_q", "seq_lengths")


@dataclass(frozen=True)
class PreparedRow:
    """One row: T ids; `marks` T labels (token or -100), or T weights of a mask (0: not trained).

    place      where it stands
    attended   T, False for padding
    positions  T position_ids, or None where the row says nothing of them
    starts     where its segments begin, or None
    weights    T weights of its labels, where it has both
    """

    place: str
    ids: list[int]
    marks: list[float]
    attended: list[bool]
    positions: list[int] | None
    starts: list[int] | None
    weights: list[float] | None = None


@dataclass(frozen=True)
class Rows:
    """All rows, what marks their targets, and the rows that cannot be read with the reason.

    column   the name of the column of labels or of the masks
    labels   the marks are labels (else weights)
    shifted  the mark of a token stands one place before it
    how      how that was found out
    """

    rows: list[PreparedRow]
    bad: list[tuple[str, str]]
    column: str
    labels: bool
    shifted: bool = False
    how: str = ""

    def target(self, row: PreparedRow, place: int) -> tuple[int, float] | None:
        """(token, weight) on which the position `place` is trained; None: it is not."""
        at = place if self.shifted else place + 1
        if at >= len(row.ids) or (place + 1 >= len(row.ids) and not self.labels):
            return None
        mark = row.marks[at]
        if self.labels:
            weight = row.weights[at] if row.weights else 1.0
            return None if mark == IGNORE or not weight else (int(mark), weight)
        return (row.ids[place + 1], float(mark)) if mark else None


def read_rows(names: Sequence[str], labels: str = "auto") -> Rows:
    """The rows of files. `labels`: "auto", "aligned" or "shifted". Raises InputError where there is no row."""
    rows: list[PreparedRow] = []
    bad: list[tuple[str, str]] = []
    columns: dict[str, int] = {}
    for place, record in _records(names):
        try:
            column, row = _row(place, record if isinstance(record, Mapping) else parsed(record, place))
        except (ConversationError, ValueError) as error:
            bad.append((place, str(error).removeprefix(f"{place}: ").removeprefix(f"{place}, ")))
            continue
        columns[column] = columns.get(column, 0) + 1
        rows.append(row)
    if not rows:
        raise InputError(f"no prepared row could be read; the first: {bad[0][0]}: {bad[0][1]}" if bad else "no row")
    if len(columns) > 1:
        raise InputError(f"the rows mark their targets by different columns: {', '.join(columns)}")
    (column,) = columns
    is_labels = column in LABELS
    found = Rows(rows, bad, column, is_labels)
    if labels != "auto":
        return Rows(rows, bad, column, is_labels, labels == "shifted", "as --labels says")
    return _found_out(found) if is_labels else found


def _found_out(found: Rows) -> Rows:
    """Do labels equal the token in their place, or the next one?"""
    own = after = 0
    for row in found.rows:
        for place, mark in enumerate(row.marks):
            if mark != IGNORE:
                own += mark == row.ids[place]
                after += place + 1 < len(row.ids) and mark == row.ids[place + 1]
    shifted = after > own
    how = f"labels that equal the token in their place: {own:,}, the next one: {after:,}"
    return Rows(found.rows, found.bad, found.column, True, shifted, how)


def _records(names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for name in names:
        if Path(name).suffix == ".safetensors":
            yield from _tensors(Path(name))
            continue
        sources = find_sources([name])
        for shard in cut(sources):
            for number, record in shard.records():
                yield sources[shard.file].place(number, shard.unit), record
            if shard.fault:
                yield sources[shard.file].name, shard.fault.encode()


def _tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of tensors (N, T); one tensor (T,) is one row."""
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except Exception as error:  # the Rust side raises its own
        raise InputError(f"{path.name}: not a safetensors file that can be read: {error}") from error
    first = next((tensors[name] for name in IDS if name in tensors), None)
    if first is None:
        raise InputError(f"{path.name}: no {IDS[0]}; it holds {', '.join(tensors)}")
    for index in range(len(first) if first.ndim > 1 else 1):
        whole = first.ndim == 1
        yield (
            f"{path.name}, row {index}",
            {
                name: (value if whole else value[index]).tolist()
                for name, value in tensors.items()
                if whole or (value.ndim > 1 and len(value) == len(first))
            },
        )


def _row(place: str, record: Any) -> tuple[str, PreparedRow]:
    if not isinstance(record, Mapping):
        raise ValueError(f"expected an object with {IDS[0]}, found {record!r:.60}")
    record = {key: value for key, value in record.items() if value is not None}
    key = next((key for key in IDS if key in record), "")
    ids = _numbers(record, key, None)
    if not ids:
        has = f"{key} is empty" if key else f"it has no {IDS[0]}; it has {', '.join(map(str, record))[:120]}"
        raise ValueError(has)
    column, marks = _marks(record, len(ids))
    beside = next((key for key in WEIGHTS if key in record), None) if column in LABELS else None
    weights = _numbers(record, beside, len(ids), floats=True) if beside else None
    attended = [bool(value) for value in _numbers(record, "attention_mask", len(ids)) or [1] * len(ids)]
    segments = next((key for key in SEGMENTS if key in record), None)
    starts = None if segments is None else _starts(segments, _numbers(record, segments, None), len(ids))
    positions = _numbers(record, "position_ids", len(ids)) or None
    if positions is None and starts is not None:
        edges = [*starts, len(ids)]
        positions = [place - start for start, stop in pairwise(edges) for place in range(start, stop)]
    return column, PreparedRow(place, ids, marks, attended, positions, starts, weights)


def _marks(record: Mapping[str, Any], length: int) -> tuple[str, list[float]]:
    label = next((key for key in LABELS if key in record), None)
    if label is not None:
        return label, _numbers(record, label, length)
    masks = [key for key in MASKS if key in record]
    if not masks:
        raise ValueError(f"nothing marks its targets: {', '.join((LABELS[0], *MASKS))} are known")
    columns = [_numbers(record, key, length, floats=True) for key in masks]
    marks = columns[0] if len(columns) == 1 else [min(values) for values in zip(*columns, strict=True)]
    return " and ".join(masks), marks


def _numbers(record: Mapping[str, Any], key: str, length: int | None, floats: bool = False) -> list:
    values = record.get(key)
    if values is None:
        return []
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{key} is {values!r:.40}, not a list of numbers")
    if len(values) == 1 and isinstance(values[0], (list, tuple)):
        values = values[0]  # a batch of one row
    if wrong := [value for value in values if not _is_number(value, floats)]:
        raise ValueError(f"{key} holds {wrong[0]!r:.40}, which is no number of a row")
    if length is not None and len(values) != length:
        raise ValueError(f"{key} has {counted(len(values), 'entry')} for {counted(length, 'token')}")
    return list(values)


def _is_number(value: Any, floats: bool) -> bool:
    return isinstance(value, int) or (floats and isinstance(value, float) and math.isfinite(value))


def _starts(key: str, values: list[int], length: int) -> list[int]:
    """Where segments begin."""
    if key.startswith("cu_seq"):
        if values[:1] != [0] or values[-1] != length or any(a >= b for a, b in pairwise(values)):
            raise ValueError(f"{key} is {values!r:.60}; it has to rise from 0 to {length}, the number of tokens")
        return values[:-1]
    if key == "seq_lengths":
        if sum(values) != length or min(values) < 1:
            raise ValueError(f"seq_lengths add up to {sum(values)}, for {counted(length, 'token')}")
        return [0, *accumulate(values[:-1])]
    if len(values) != length:
        raise ValueError(f"{key} has {counted(len(values), 'entry')} for {counted(length, 'token')}")
    return [0, *(place for place in range(1, length) if values[place] != values[place - 1])]
