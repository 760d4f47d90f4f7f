"""Prepared rows on trial: matched with their conversations, they are a run, and the properties of a run judge them.

Rule of this file: no second judge. The rows become the rows of the ledger (properties/ledger/run.py), so that masking
and packing are read by the very properties that read a trainer. What needs a gradient is `not-measured`, and says so.
What rows show without their conversations is counted beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from sftspec import properties
from sftspec.conformance.audit.rows import PreparedRow, Rows
from sftspec.conformance.audit.shards import InputError
from sftspec.conformance.audit.summary import Found
from sftspec.conformance.show.inputs import Tokens
from sftspec.conformance.trial.judge import Trial, Verdict, reach_verdicts
from sftspec.conformance.witness.provenance import NOWHERE, Provenance
from sftspec.conversation import Conversation
from sftspec.counted import counted
from sftspec.job import Job
from sftspec.masking import Conventions
from sftspec.properties import Property
from sftspec.properties.ledger.run import Forward, Piece, Row, Run
from sftspec.templates import Template

# The properties of a run that ask for nothing but rows.
READ = (
    "masking/nothing-else-is-trained", "masking/everything-chosen-is-trained", "masking/each-target-is-the-next-token",
    "masking/end-of-turn-is-trained", "masking/first-token-of-an-answer-is-trained",
    "masking/a-cut-example-is-a-prefix",
    "masking/every-conversation-with-a-target-is-trained", "masking/every-position-has-an-origin",
    "masking/conversations-stand-as-rendered", "masking/padding-is-never-trained",
    "packing/positions-restart-with-each-example", "packing/no-example-is-trained-to-predict-the-next",
    "packing/packed-examples-are-whole", "packing/no-row-exceeds-the-capacity", "packing/packing-packs",
)  # fmt: skip
POSITIONS = "packing/positions-restart-with-each-example"
CAPACITY = "packing/no-row-exceeds-the-capacity"
NOT_ROWS = "it reads a gradient or hidden states, which rows do not hold (sftspec check reads them)"
NO_POSITIONS = "the rows hold neither position_ids nor segments"
NO_LIMIT = "nothing says how long a row may be (--max-length)"

# What rows show by themselves.
ROW_FINDINGS = {
    "bad rows": "they cannot be read",
    "no target": "nothing of the row is trained",
    "labels of other tokens": "a position is trained on a token that does not follow it",
    "padding trained": "a position that the attention mask hides is trained",
    "boundaries trained": "the end of one segment is trained to foretell the beginning of the next",
    "double BOS": "a BOS follows a BOS",
    "ids outside the vocabulary": "no tokenizer makes such a token",
    "longer than max_length": "the row is longer than was asked for",
    "ends untrained": "the row trains text and no token that ends a turn",
    "positions astray": "position_ids do not count 0, 1, 2 … from the beginning of each segment",
    "duplicates": "the same row stands there again",
}


class PreparedTokenizer:
    """A tokenizer as the ledger's properties and the report ask for it."""

    def __init__(self, tokens: Tokens):
        self.tokens = tokens
        self.backend_tokenizer = tokens.inner
        self.all_special_ids = sorted(tokens.vocabulary.control_ids)
        self.pad_token_id = None  # rows say themselves what is padding: nothing attends to it
        self.is_fast = True

    def decode(self, ids: Any, **options: Any) -> str:
        return self.tokens.decode([ids] if isinstance(ids, int) else ids)

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return self.tokens.convert_ids_to_tokens(ids)


@dataclass(frozen=True)
class Preparation:
    """Who prepared the rows, as the judge asks of a trainer."""

    claims: frozenset[str]
    conventions: Conventions
    name: str = "prepared rows"
    version: str = ""


def ledger_of(
    rows: Rows,
    conversations: Sequence[Conversation],
    template: Template,
    tokens: Tokens,
    policy: str = "all",
    max_length: int | None = None,
    conventions: Conventions | None = None,
) -> tuple[Run, Rows]:
    """The rows as a run, and the rows with what was found out of a mask. Raises InputError where nothing matches."""
    job = Job(None, PreparedTokenizer(tokens), list(conversations), template=template, policy=policy)  # type: ignore
    job.max_length = max_length
    run = Run(job, conventions or Conventions(), scenario="prepared")
    streams = [stream.input_ids for stream in run.streams]
    every = [row.ids for row in rows.rows]
    pad = _padding(rows.rows)
    provenance = Provenance(streams, [0], pad, max_length)
    if not any(origin != NOWHERE for row in every[:50] for origin in provenance._align(row)) and not any(
        row in streams for row in every[:50]
    ):
        raise InputError(
            f"the first rows ({min(50, len(every))}) hold no text of these conversations as {template.name} renders it "
            f"and {tokens.name} cuts it: give the template and tokenizer that the rows were made with"
        )
    origins = provenance.resolve(every)
    if not rows.labels and not rows.how:
        rows = _found_out(rows, run, origins)
    if max_length is None:
        job.max_length = _limit(origins, streams)
    packed = any(len({example for example, _ in row if example >= 0}) > 1 for row in origins)
    job.packing = packed
    if packed and job.max_length is None:
        job.max_length = max(map(len, every))
    job.batch_size = len(every)
    run.forwards.append(Forward(0, 0, 0, every, ("input_ids", rows.column), trained=True))
    for index, (row, of_row) in enumerate(zip(rows.rows, origins, strict=True)):
        positions = row.positions or [0] * len(row.ids)
        for place, (token, (example, offset)) in enumerate(zip(row.ids, of_row, strict=True)):
            target = rows.target(row, place)
            on, weight = target if target is not None else (None, 0.0)
            run.rows.append(
                Row(0, 0, 0, index, place, token, positions[place], example, offset, on, weight,
                    "cross-entropy" if target else "", 0.0, row.attended[place])
            )  # fmt: skip
    return run, rows


def _padding(rows: Iterable[PreparedRow]) -> int | None:
    hidden = [token for row in rows for token, seen in zip(row.ids, row.attended, strict=True) if not seen]
    if hidden:
        return max(set(hidden), key=hidden.count)
    ends = [row.ids[-1] for row in rows if row.ids[-2:-1] == row.ids[-1:]]
    return max(set(ends), key=ends.count) if ends else None


def _limit(origins: list[list[tuple[int, int]]], streams: list[list[int]]) -> int | None:
    """The max_length that the rows were cut to: the common length of those that end within a conversation."""
    cut = [len(row) for row in origins
           if row and row[-1] != NOWHERE and row[-1][1] + 1 < len(streams[row[-1][0]])]  # fmt: skip
    longest = max(map(len, origins))
    return longest if cut and set(cut) == {longest} else None


def _found_out(rows: Rows, run: Run, origins: list[list[tuple[int, int]]]) -> Rows:
    """Does a mask stand in line with its tokens, or one place before? Whichever agrees more with the conversations."""
    own = after = 0
    for row, of_row in zip(rows.rows, origins, strict=True):
        for place, (example, offset) in enumerate(of_row):
            if example >= 0:
                own += bool(row.marks[place]) == run.is_target(example, offset)
                follows = offset + 1 < len(run.streams[example])
                after += bool(row.marks[place]) == (follows and run.is_target(example, offset + 1))
    how = f"places of the mask that agree with the conversations: {own:,} in line, {after:,} one place before"
    return replace(rows, shifted=after > own, how=how)


def judge_rows(run: Run, rows: Rows, chosen: Iterable[Property], max_length: int | None = None) -> Trial:
    """The verdicts of the properties of a run on prepared rows; `max_length` as it was asked for."""
    chosen = list(chosen)
    asked = {"packing": run.job.packing, "truncation": run.job.max_length is not None}
    trial = Trial(
        Preparation(frozenset({"padding", *(name for name, is_so in asked.items() if is_so)}), run.conventions)
    )
    trial.runs.append(run)
    unread = {item.id: NOT_ROWS for item in chosen if item.id not in READ}
    if all(row.positions is None for row in rows.rows):
        unread[POSITIONS] = NO_POSITIONS
    if max_length is None:
        unread[CAPACITY] = NO_LIMIT
    reach_verdicts(trial, [replace(item, floor=1) for item in chosen if item.id not in unread])
    trial.verdicts += [Verdict(item, "not-measured", unread[item.id]) for item in chosen if item.id in unread]
    order = {item.id: place for place, item in enumerate(chosen)}
    trial.verdicts.sort(key=lambda verdict: order[verdict.property.id])
    return trial


def place_of(rows: Rows, subject: Any) -> str:
    """The row in which a piece of evidence stands."""
    first = subject.rows[0] if isinstance(subject, Piece) else subject
    return rows.rows[first.row].place if isinstance(first, Row) else "the rows"


def chosen_properties() -> list[Property]:
    return [item for item in properties.load("masking", "packing") if item.seam == "run"]


def row_findings(
    rows: Rows, tokens: Tokens | None, template: Template | None, max_length: int | None
) -> dict[str, Found]:
    """What the rows show without their conversations, by finding; examples are (number of the row, note)."""
    found: dict[str, Found] = {}
    seen: dict[tuple, int] = {}
    for index, row in enumerate(rows.rows):
        for name, count, note in _of_row(rows, row, tokens, template, max_length):
            if count:
                found.setdefault(name, Found()).add(index, count, note)
        first = seen.setdefault((*row.ids, *row.marks), index)
        if first != index:
            found.setdefault("duplicates", Found()).add(index, 1, f"as {rows.rows[first].place}")
    if rows.bad:
        found["bad rows"] = Found(
            len(rows.bad), len(rows.bad), [(-1, f"{place}: {why}") for place, why in rows.bad[:5]]
        )
    return found


def _of_row(rows: Rows, row: PreparedRow, tokens, template, max_length) -> Iterator[tuple[str, int, str]]:
    targets = {place: rows.target(row, place) for place in range(len(row.ids))}
    on = {place: found[0] for place, found in targets.items() if found is not None}
    yield "no target", int(not on), ""
    wrong = [place for place, token in on.items() if row.ids[place + 1 : place + 2] != [token]]
    yield "labels of other tokens", len(wrong), f"the position {wrong[0]}" if wrong else ""
    hidden = [place for place in on if place + 1 < len(row.ids) and not row.attended[place + 1]]
    yield "padding trained", len(hidden), f"the position {hidden[0]}" if hidden else ""
    starts = row.starts or [place for place in range(1, len(row.ids)) if row.positions and row.positions[place] == 0]
    bounds = [start for start in starts if start and start - 1 in on and row.attended[start]]
    yield "boundaries trained", len(bounds), f"the position {bounds[0] - 1}" if bounds else ""
    if row.positions:
        edges = sorted({0, *starts, len(row.ids)})
        astray = [
            place for a, b in pairwise(edges) for place in range(a, b)
            if row.attended[place] and row.positions[place] != place - a
        ]  # fmt: skip
        yield (
            "positions astray",
            len(astray),
            f"the position {astray[0]} has {row.positions[astray[0]]}" if astray else "",
        )
    if max_length:
        yield "longer than max_length", int(len(row.ids) > max_length), counted(len(row.ids), "token")
    if tokens is not None:
        size = tokens.inner.get_vocab_size()
        outside = [
            token for token in row.ids if not 0 <= token < max(size, 1 + max(tokens.vocabulary.control_ids, default=0))
        ]
        yield "ids outside the vocabulary", len(outside), f"the id {outside[0]}" if outside else ""
        if template is not None and template.bos:
            bos = tokens.vocabulary.added.get(template.bos)
            yield "double BOS", sum(a == b == bos for a, b in pairwise(row.ids)), ""
        end = tokens.vocabulary.added.get(template.end_of_turn) if template is not None else None
        if end is not None and on:
            yield "ends untrained", int(end not in on.values()), ""
