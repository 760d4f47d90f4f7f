"""How a trainer cuts text into tokens, seen in the rows that it made.

The same text can be cut in several ways (sftspec.tokenization). Where rows hold the text of a conversation in other
tokens than its trainer declares, they are read with the way that explains them, and where none does in the tokens that
they hold: one property then says what it is, and the others judge what was trained as if it had been declared.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sftspec.conformance.witness.provenance import Provenance, gaps
from sftspec.properties.ledger.run import Run, streams_of
from sftspec.tokenization import AXES


def as_cut(run: Run, rows: Sequence[Sequence[int]], provenance: Provenance) -> Provenance:
    """The provenance of rows of token ids, by the way of cutting text that leaves none of it unexplained.

    Where that is not the one declared, `run.cut` says which it is, or `run.recut` which tokens there are.
    """
    if not unexplained(run, rows, provenance):
        return provenance
    declared = {axis: getattr(run.conventions, axis) for axis in AXES}
    for values in itertools.product(*AXES.values()):
        way: dict[str, Any] = dict(zip(AXES, values, strict=True))
        streams = streams_of(run.job, replace(run.conventions, **way))
        other = with_streams(provenance, [item.input_ids for item in streams])
        if way != declared and not unexplained(run, rows, other):
            run.cut = {axis: value for axis, value in way.items() if value != declared[axis]}
            run.__dict__["streams"] = streams
            return other
    run.recut = seen_tokens(run, rows)
    run.__dict__.pop("streams", None)
    return with_streams(provenance, [item.input_ids for item in run.streams])


def with_streams(provenance: Provenance, streams: Sequence[Sequence[int]]) -> Provenance:
    return Provenance(streams, provenance.alphabet, provenance.pad, provenance.limit)


def unexplained(run: Run, rows: Sequence[Sequence[int]], provenance: Provenance) -> int:
    """How many stretches of rows are the text of their conversation in other tokens."""
    decode = run.job.tokenizer.decode
    return sum(
        decode(rows[gap.row][gap.start : gap.stop]) == decode(provenance.streams[gap.example][gap.first + 1 : gap.last])
        for gap in gaps(provenance.resolve(rows))
    )


def seen_tokens(run: Run, rows: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """The tokens in which conversations stand in the rows, where they are other ones of the same spelling."""
    spell = run.job.tokenizer.convert_ids_to_tokens
    wanted = {index: "".join(spell(item.input_ids)) for index, item in enumerate(run.streams)}
    found: dict[int, list[int]] = {}
    for row in rows:
        tokens = spell(list(row))
        edges = [0, *itertools.accumulate(map(len, tokens))]
        text, at = "".join(tokens), {edge: place for place, edge in enumerate(edges)}
        for index, spelling in wanted.items():
            start = text.find(spelling)
            if start in at and start + len(spelling) in at and index not in found:
                found[index] = list(row[at[start] : at[start + len(spelling)]])
    return {index: ids for index, ids in found.items() if ids != run.streams[index].input_ids}
