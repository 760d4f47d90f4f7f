"""`sftspec show`: what a file trains, token by token, the worst conversation first.

The question that users of every trainer ask (trl#1414, torchtune#2453, open-instruct#1423): what reaches the loss?
The answer is read off the same `encode` that the specification judges trainers by, never computed a second time, and
what is wrong with a conversation is counted even where nothing of it is trained. A conversation that the template
refuses is shown with the reason: left out of the picture is left out of the training, in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sftspec.conformance.audit.findings import FINDINGS, Examiner
from sftspec.conformance.audit.shards import InputError, cut, find_sources, parsed
from sftspec.conformance.commands.show import ShowError
from sftspec.conformance.report.token_strip import Cell
from sftspec.conformance.show.inputs import Tokens
from sftspec.conversation import Conversation, ConversationError
from sftspec.formats import read_record
from sftspec.masking import IGNORE, Encoded, EncodingError, encode, encode_batch
from sftspec.spans import TemplateError
from sftspec.templates import Template
from sftspec.tokenization import tokenize


@dataclass(frozen=True)
class Shown:
    """One conversation of the file.

    conversation  its messages and where they stand
    encoded       all of its tokens, also those that max_length cuts off (None: refused)
    kept          how many of them are kept
    findings      what is wrong with it: how often, by name (FINDINGS)
    error         why it was refused
    """

    conversation: Conversation
    encoded: Encoded | None
    kept: int
    findings: Counter[str]
    error: str = ""

    @cached_property
    def targets(self) -> int:
        """Scored targets that are kept; the first token has no logits before it."""
        return 0 if self.encoded is None else sum(label != IGNORE for label in self.encoded.labels[1 : self.kept])

    @cached_property
    def weight(self) -> float:
        """What these targets weigh together."""
        weights = self.encoded.weights if self.encoded else None
        return self.targets if weights is None else sum(weights[1 : self.kept])

    @property
    def rank(self) -> tuple[int, ...]:
        return tuple(-self.findings[name] for name in FINDINGS)


@dataclass(frozen=True)
class Showing:
    """All of a file, worst first, with what it was encoded by.

    unread  the lines that could not be read, with the reason
    """

    file: str
    template: Template
    tokenizer: Tokens
    policy: str
    max_length: int | None
    rows: list[Shown]
    remarks: list[str]
    unread: list[str] = field(default_factory=list)

    @cached_property
    def totals(self) -> dict[str, int]:
        """Counts over the file: sizes, then each finding's occurrences."""
        tokens = sum(row.kept for row in self.rows)
        sizes = {"conversations": len(self.rows), "tokens": tokens, "targets": sum(row.targets for row in self.rows)}
        found = {name: sum(row.findings[name] for row in self.rows) for name in FINDINGS}
        return sizes | found | {"bad lines": len(self.unread)}

    def concerned(self, finding: str) -> int:
        """Conversations with this finding."""
        return len(self.unread) if finding == "bad lines" else sum(row.findings[finding] > 0 for row in self.rows)


Ranges = Iterable[tuple[int, int]]


def show(
    path: Path,
    template: Template,
    tokenizer: Tokens,
    policy: str,
    max_length: int | None,
    lines: Ranges | None = None,
    drop_nulls: bool = False,
) -> Showing:
    """Encode a file and say of every conversation what is trained and what is wrong; `lines` chooses some of it.

    Lines that cannot be read are left out, and listed. Raises ShowError where nothing can be shown.
    """
    conversations, unread = _read(path, lines, drop_nulls)
    if not conversations:
        raise ShowError(unread[0] if unread else f"{path.name}: the file holds no conversation{' there' * bool(lines)}")
    examiner = Examiner(template, tokenizer.vocabulary, policy, max_length)
    rows = []
    for conversation, encoded in zip(conversations, _encoded(conversations, template, tokenizer, policy), strict=True):
        if isinstance(encoded, ValueError):
            rows.append(Shown(conversation, None, 0, Counter({"refused": 1}), str(encoded)))
            continue
        one = examiner.examine(conversation, encoded.rendered, tokenize(encoded.rendered, template, tokenizer.inner))
        found = Counter({name: times for name, (times, _) in one.found.items()})
        rows.append(Shown(conversation, encoded, one.kept, found))
    _mark_duplicates(rows)
    rows.sort(key=lambda row: row.rank)
    remarks = [*remarks_on(template, tokenizer), *_remarks_of(conversations), *map("cannot be read: {}".format, unread)]
    return Showing(path.name, template, tokenizer, policy, max_length, rows, remarks, unread)


def _read(path: Path, lines: Ranges | None, drop_nulls: bool) -> tuple[list[Conversation], list[str]]:
    conversations, unread = [], []
    try:
        sources = find_sources([str(path)])
        for shard in cut(sources):
            for number, record in shard.records():
                if lines is not None and not any(low <= number <= high for low, high in lines):
                    continue
                place = sources[shard.file].place(number, shard.unit)
                try:
                    conversations.append(read_record(parsed(record, place), place, drop_nulls))
                except ConversationError as error:
                    unread.append(str(error))
            if shard.fault:
                unread.append(f"{sources[shard.file].name}: {shard.fault}")
    except InputError as error:
        raise ShowError(str(error)) from error
    return conversations, unread


def _mark_duplicates(rows: list[Shown]) -> None:
    """The second of two equal conversations is a duplicate, and its note says of which."""
    first: dict[tuple, str] = {}
    for row in rows:
        if row.encoded is not None:
            key = (row.encoded.rendered.text, tuple(row.encoded.labels))
            if first.setdefault(key, row.conversation.source) != row.conversation.source:
                row.findings["duplicates"] += 1


def _remarks_of(conversations: list[Conversation]) -> Iterator[str]:
    counts: dict[str, list[str]] = {}
    for conversation in conversations:
        for said in conversation.remarks:
            counts.setdefault(said, []).append(conversation.source)
    for said, places in counts.items():
        yield f"{len(places):,} ×  {said} ({places[0]})"


def _encoded(
    conversations: list[Conversation], template: Template, tokenizer: Tokens, policy: str
) -> list[Encoded | ValueError]:
    """All at once; one by one where the template refuses some of them."""
    options: dict[str, Any] = {"policy": policy}
    try:
        return list(encode_batch(conversations, template, tokenizer.inner, **options))
    except (TemplateError, ConversationError, EncodingError):
        return [_encoded_or_error(conversation, template, tokenizer, options) for conversation in conversations]


def _encoded_or_error(conversation, template: Template, tokenizer: Tokens, options: dict) -> Encoded | ValueError:
    try:
        return encode(conversation, template, tokenizer.inner, **options)
    except (TemplateError, ConversationError, EncodingError) as error:
        return error


def remarks_on(template: Template, tokenizer: Tokens) -> Iterator[str]:
    """What concerns the whole file."""
    wanted = dict.fromkeys((*template.control, template.end_of_turn, template.bos))
    missing = [token for token in wanted if token and token not in tokenizer.vocabulary.added]
    if missing:
        yield f"{', '.join(missing)}: not one token of this tokenizer, so the structure is spelt out as text"
    if template.bos and tokenizer.inner.encode("").ids[:1] == [tokenizer.vocabulary.added.get(template.bos)]:
        yield (
            f"template and tokenizer both write {template.bos}: who encodes the text with add_special_tokens=True "
            "trains on two in every conversation (trl#3328); the tokens below have the template's"
        )
    if getattr(template.pieces, "has_marks", False):
        yield "{% generation %} in the template marks what is trained, whoever speaks there"
    if not template.end_of_turn:
        yield "the template ends no answer with a token: a model trained with it does not learn to stop"
    if tokenizer.name == "small":
        yield "the small tokenizer makes about one token of a letter: give --tokenizer for your model's counts"


def cells_of(row: Shown, tokenizer: Tokens, first: int) -> list[Cell]:
    """The first tokens of a conversation, at most so many; those that are cut off are not present."""
    if row.encoded is None:
        return []
    labels = [IGNORE, *row.encoded.labels[1:first]]
    weights = (row.encoded.weights or [1.0] * len(row.encoded))[:first]
    return [
        Cell(tokenizer.text(token), label != IGNORE and place < row.kept, place < row.kept, weight=weight)
        for place, (token, label, weight) in enumerate(zip(row.encoded.input_ids[:first], labels, weights, strict=True))
    ]
