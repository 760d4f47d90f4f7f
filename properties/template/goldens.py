"""Goldens over the whole path: what the model of a trainer sees and learns, against what others published.

Every other property of a run compares a trainer with our own `encode`. These do not: the expected tokens and targets
are those of the goldens, made by independent implementations on real vocabularies, here cut down to the pieces that
they use (golden/reduced). What is read is the model: its tokens as it was called, its targets off the gradient; so a
template, a tokenizer, a mask and a collator are all in it. A trainer is asked that renders with the chat template of
the tokenizer it is given, and that parses control strings and encodes whole texts, as the goldens do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile

from sftspec.counted import counted
from sftspec.golden.loader import GoldenCase
from sftspec.golden.reduced import goldens
from sftspec.properties import must
from sftspec.properties.ledger.run import Row, Run


@dataclass(frozen=True)
class Line:
    """A row of a batch: its positions, the goldens that stand in it with their places, the places of what does not."""

    rows: list[Row]
    found: list[tuple[int, GoldenCase]]
    rest: list[int]


def lines_of(run: Run) -> Iterator[Line]:
    """The rows that the model was trained on, taken apart into goldens and padding."""
    convention = run.conventions.special_tokens, run.conventions.tokenization
    cases = published(run) if convention == ("parse", "whole") else []
    longest_first = sorted(cases, key=lambda case: -len(case.input_ids or ()))
    for rows in run.lines.values() if _is_asked(run, cases) else ():
        tokens = [row.token for row in rows]
        found, rest, place = [], [], 0
        while place < len(tokens):
            case = next((case for case in longest_first if _stands_at(case, tokens, place)), None)
            if case is not None:
                found.append((place, case))
            elif tokens[place] != run.job.tokenizer.pad_token_id:
                rest.append(place)
            place += 1 if case is None else len(case.input_ids or ())
        yield Line(rows, found, _without_parts(cases, tokens, found, rest) if run.job.packing else rest)


def published(run: Run) -> list[GoldenCase]:
    """The goldens of the job's template, without the newline at their end where the conventions say so."""
    cases = goldens(run.job.template)
    if run.conventions.final_separator:
        return cases
    ids = [case.input_ids or [] for case in cases]
    ends = [run.job.tokenizer.decode(tokens[-1:]).isspace() for tokens in ids]  # Llama-3 has none
    return [
        replace(case, input_ids=tokens[: -is_space or None])
        for case, tokens, is_space in zip(cases, ids, ends, strict=True)
    ]


def _without_parts(
    cases: list[GoldenCase], tokens: list[int], found: list[tuple[int, GoldenCase]], rest: list[int]
) -> list[int]:
    """A packer may split what does not fit: a row may begin with the end of a golden, and end with the beginning."""
    first = found[0][0] if found else len(tokens)
    last = found[-1][0] + len(found[-1][1].input_ids or ()) if found else 0
    head = tokens[: max((place for place in rest if place < first), default=-1) + 1]
    tail = tokens[last : max(rest, default=-1) + 1]
    known = [case.input_ids or [] for case in cases]
    split_head = any(ids[len(ids) - len(head) :] == head for ids in known)
    split_tail = any(ids[: len(tail)] == tail for ids in known)
    return [place for place in rest if not ((place < first and split_head) or (place >= last and split_tail))]


def _is_asked(run: Run, cases: list[GoldenCase]) -> bool:
    asked = [list(conversation) for conversation in run.job.conversations]
    return bool(cases) and all(messages in [case.messages for case in cases] for messages in asked)


def _stands_at(case: GoldenCase, tokens: list[int], place: int) -> bool:
    ids = case.input_ids or []
    return tokens[place] == ids[0] and tokens[place : place + len(ids)] == ids


@must(laws=("TP-PARSE", "TP-BOS", "TP-CAT"), claim="chat-template", floor=20)
def the_model_sees_the_published_tokens(run):
    """Each row of a batch is published conversations, token for token, and padding.

    One newline more in a header, a second BOS, a content that was trimmed or not, a default system prompt, a vocabulary
    that was converted wrong (llama.cpp#7062): training goes on, on another model's language.
    """
    for line in lines_of(run):
        for place, _ in line.found:
            yield line.rows[place], True
        if line.rest:
            yield line.rows[line.rest[0]], False, _difference(run, line)


def _difference(run: Run, line: Line) -> str:
    """Where a row stops to be the golden that it is most like, both from there on."""
    start = line.rest[0]
    found = [row.token for row in line.rows[start:]]
    cases = [case.input_ids or [] for case in published(run)]
    alike = max(cases, key=lambda ids: _common(ids, found))
    place = _common(alike, found)
    said, wanted = (run.job.tokenizer.decode(ids[place : place + 6]) for ids in (found, alike))
    return f"after {counted(place, 'token')} of a conversation: expected {wanted!r}, found {said!r}"


def _common(one: list[int], other: list[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@must(
    laws=("TP-EOT", "TP-TRAININF"),
    claim="chat-template",
    floor=20,
    needs=("template/the-model-sees-the-published-tokens",),
)
def the_published_targets_are_trained(run):
    """The tokens of a published conversation that the policy trains are trained, on themselves, and no others.

    The mask by which others say what an assistant writes: its content and its end of turn, or as the conventions say. A
    header that is trained, an end of turn that is not (trl#976, axolotl#3756), a mask that is a token off.
    """
    if run.job.policy == "contents" or run.conventions.header:  # no published mask says what users wrote, or headers
        return
    for line in lines_of(run):
        for start, case in line.found:
            ids = case.input_ids or []
            wanted = {place: ids[place] for place in _trained(run, case)}
            rows = line.rows[start : start + len(ids)]
            found = {place: row.target for place, row in enumerate(rows, 1) if row.target is not None}
            wrong = sorted(place for place in wanted.keys() | found.keys() if wanted.get(place) != found.get(place))
            if not wrong:
                yield rows[0], True
                continue
            place = wrong[0]
            token = run.job.tokenizer.decode(ids[place : place + 1])
            said = "not trained" if place not in found else "trained" if place not in wanted else "another target"
            yield rows[min(place, len(rows)) - 1], False, f"{case.id}, token {place}, {token!r}: {said}"


def _trained(run: Run, case: GoldenCase) -> set[int]:
    """The places of the tokens that a policy and its conventions make of a golden's ranges; a first token never is."""
    ids, ranges = case.input_ids or [], case.trained or []
    if run.job.policy == "every-token":
        return set(range(1, len(ids)))
    chosen = ranges[-1:] if run.job.policy == "last" else ranges
    kept = {place for start, stop in chosen for place in range(start, stop - (not run.conventions.end_of_turn))}
    if run.conventions.separator:  # ChatML has one, Llama-3 has none
        kept |= {stop for _, stop in chosen if run.job.tokenizer.decode(ids[stop : stop + 1]).isspace()}
    return kept & set(range(1, len(ids)))
