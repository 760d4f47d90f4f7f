"""How prepared rows differ from the reference's, named and counted: text that is another's, masks, weights.

Rule of this file: nothing is judged here, and nothing is left out. A row that holds one conversation is aligned with
the reference's token stream of it (difflib). Where the tokens differ, that is a difference of text; where they are
equal, their targets and weights are compared one by one. Differences of one kind are one line with a count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import groupby
from typing import Any, NamedTuple

from sftspec.conformance.audit.rows import PreparedRow, Rows
from sftspec.masking import Encoded
from sftspec.properties.ledger.run import Run, stream_of

EXAMPLES, SHOWN = 3, 90


class Kind(NamedTuple):
    """What differs (the text that is "left out", "added" or "replaced"; "trained", "not trained", or "weighs"), and
    where: the kind of its span (spans.py), and whether in the last turn.
    """

    what: str
    where: str


@dataclass
class Difference:
    """One kind of difference: rows that have it, how often, and the first places with the text there."""

    rows: int = 0
    times: int = 0
    texts: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, str]] = field(default_factory=list)


def differences(run: Run, rows: Rows) -> tuple[dict[Kind, Difference], int]:
    """(differences by kind, number of rows that were compared). Packed rows are not compared."""
    found: dict[Kind, Difference] = {}
    compared = 0
    for number, row in enumerate(rows.rows):
        examples = Counter(position.example for position in run.lines[0, number] if position.example >= 0)
        if not examples or (row.starts and len(row.starts) > 1) or _is_packed(run, number, examples):
            continue
        example = _nearest(run, row, number, examples, len(rows.rows))
        compared += 1
        in_row: set[Kind] = set()
        for kind, text in _of_row(run, rows, row, _with_weights(run, example)):
            item = found.setdefault(kind, Difference())
            item.times += 1
            item.texts[text] += 1
            item.rows += kind not in in_row
            in_row.add(kind)
            if len(item.examples) < EXAMPLES:
                item.examples.append((row.place, text))
    return dict(sorted(found.items(), key=lambda pair: -pair[1].rows)), compared


def _is_packed(run: Run, number: int, examples: Counter[int]) -> bool:
    """Do two conversations begin in a row? So they may, though no segment is told."""
    begun = {at.example for at in run.lines[0, number] if at.example >= 0 and at.offset == 0}
    return len(begun) > 1 and all(2 * examples[example] > len(run.streams[example]) for example in begun)


def _nearest(run: Run, row: PreparedRow, number: int, examples: Counter[int], count: int) -> int:
    """The conversation of a row: the one that most of its tokens are found in; where that is no half of them, and there
    are as many rows as conversations, perhaps the one in its place.
    """
    ((example, tokens),) = examples.most_common(1)
    if 2 * tokens > len(row.ids) or count != len(run.streams):
        return example
    likeness = {at: SequenceMatcher(None, run.streams[at].input_ids, row.ids, autojunk=False).ratio()
                for at in (number, example)}  # fmt: skip
    return max(likeness, key=lambda at: likeness[at])


def _with_weights(run: Run, example: int) -> Encoded:
    """A conversation's stream with the weights of its messages and spans, which a run's own streams leave out."""
    talk = run.job.conversations[example]
    if not any("weight" in message or "weight_spans" in message for message in talk):
        return run.streams[example]
    return stream_of(talk, run.job, run.conventions)


def _of_row(run: Run, rows: Rows, row: PreparedRow, stream: Encoded) -> Iterator[tuple[Kind, str]]:
    """(kind, text) of each difference between a row and its conversation's stream."""
    decode = run.job.tokenizer.decode
    ids = [token for token, seen in zip(row.ids, row.attended, strict=True) if seen]
    matched = [(0, 0, len(ids))] if ids == stream.input_ids else None
    if matched is None:
        blocks = SequenceMatcher(None, stream.input_ids, ids, autojunk=False).get_opcodes()
        matched = [(a, b, end - a) for op, a, end, b, _ in blocks if op == "equal"]
        for op, a, end, b, stop in blocks:
            if op == "equal":
                continue
            theirs, ours = decode(ids[b:stop]) if stop > b else "", decode(stream.input_ids[a:end]) if end > a else ""
            what = "cut otherwise" if theirs == ours else {"delete": "left out", "insert": "added"}.get(op, "replaced")
            owners = range(a, end) if end > a else range(max(a - 1, 0), max(a, 1))
            kinds = dict.fromkeys(stream.rendered.kinds[stream.owners[at]] for at in owners)
            where = " and ".join(kinds) if end > a else f"after {' and '.join(kinds)}"
            text = f"{ours!r} is {theirs!r}" if what == "replaced" else repr(ours or theirs)
            yield Kind(what, where + _last(stream, a, end)), text
    for ours, theirs, length in matched:
        places = [_mask(rows, row, stream, ours + step, theirs + step) for step in range(length)]
        for kind, group in groupby(range(length), key=lambda step: places[step]):
            if kind is not None:
                taken = list(group)
                yield kind, repr(decode(stream.input_ids[ours + taken[0] : ours + taken[-1] + 1]))


def _mask(rows: Rows, row: PreparedRow, stream: Encoded, ours: int, theirs: int) -> Kind | None:
    """How the target on a token differs (None: it does not); the first token of a row is never scored."""
    expected = 0.0 if ours == 0 or stream.labels[ours] < 0 else stream.weights[ours] if stream.weights else 1.0
    target = rows.target(row, theirs - 1) if theirs else None
    seen = target[1] if target is not None else 0.0
    if expected == seen or theirs == 0:
        return None
    what = "trained" if not expected else "not trained" if not seen else f"weighs {seen:g} for {expected:g}"
    return Kind(what, stream.rendered.kinds[stream.owners[ours]] + _last(stream, ours, ours + 1))


def _last(stream: Encoded, start: int, stop: int) -> str:
    """Whether all of it is in the last message."""
    owners = stream.owners[start:stop] or stream.owners[max(start - 1, 0) : max(start, 1)]
    last = max(stream.rendered.messages)
    return " of the last message" if all(stream.rendered.messages[at] == last for at in owners) else ""


def as_records(found: dict[Kind, Difference]) -> list[dict[str, Any]]:
    """The differences as JSON, with the texts that occur most."""
    return [
        {
            "what": kind.what,
            "where": kind.where,
            "rows": item.rows,
            "times": item.times,
            "texts": [[text[:SHOWN], count] for text, count in item.texts.most_common(EXAMPLES)],
            "examples": [{"place": place, "text": text[:SHOWN]} for place, text in item.examples],
        }
        for kind, item in found.items()
    ]
