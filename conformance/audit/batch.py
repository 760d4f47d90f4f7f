"""The audit as a function of a batch: a shard goes in, a summary comes out.

Rule of this file: the function knows nothing of the other batches, of processes or of a cluster. One record that cannot
be read or rendered is counted with its place and its reason, and the rest goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np

from sftspec.conformance.audit.findings import Examined, Examiner
from sftspec.conformance.audit.shards import Shard, Source, parsed
from sftspec.conformance.audit.summary import LISTED, PLACES, Found, Summary
from sftspec.conversation import Conversation, ConversationError
from sftspec.formats import read_record
from sftspec.masking import EncodingError
from sftspec.spans import Rendered, TemplateError
from sftspec.templates import render_checked
from sftspec.tokenization import tokenize_batch

NOT_ALIKE = re.compile(r"[\W_]+")
DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Settings:
    """What is asked of every batch; it goes to the workers, which load template and tokenizer by their names.

    lines   ranges of record numbers (None: all); grep: a pattern that a record's text has to hold
    sample  the share of records to look at
    where   a finding whose places are listed
    failing findings whose rows count as bad
    apart   return the texts of the good and of the bad rows
    """

    sources: tuple[Source, ...]
    template: str | None = None
    tokenizer: str = "small"
    policy: str = "all"
    max_length: int | None = None
    drop_nulls: bool = False
    lines: tuple[tuple[int, int], ...] | None = None
    grep: str | None = None
    sample: float = 1.0
    where: str | None = None
    failing: frozenset[str] = frozenset()
    apart: bool = False


@dataclass
class Batch:
    """What came of one shard: its summary, and (number, text) of its rows where they are to be written apart."""

    index: int
    size: int
    summary: Summary
    good: list[tuple[int, bytes]] = field(default_factory=list)
    bad: list[tuple[int, bytes]] = field(default_factory=list)


class Auditor:
    """Audits shards under one setting. Template and tokenizer are loaded once."""

    def __init__(self, settings: Settings):
        self.settings = settings

    @cached_property
    def examiner(self) -> Examiner:
        from sftspec.conformance.show.inputs import choose_template, load_tokenizer

        self.tokenizer = load_tokenizer(self.settings.tokenizer)
        template = choose_template(self.settings.template, self.settings.tokenizer)
        return Examiner(template, self.tokenizer.vocabulary, self.settings.policy, self.settings.max_length)

    def __call__(self, shard: Shard) -> Batch:
        batch = Batch(shard.index, shard.size, Summary())
        read: list[tuple[int, Any, Conversation, Rendered]] = []
        for number, record in self._chosen(shard):
            batch.summary.records += 1
            try:
                conversation, rendered = self._rendered(shard, number, record)
            except (ConversationError, TemplateError, EncodingError) as error:
                self._refuse(batch, shard, number, record, error)
            else:
                read.append((number, record, conversation, rendered))
        if shard.fault:
            batch.summary.records += 1
            number = shard.first + sum(1 for _ in shard.records())
            self._refuse(batch, shard, number, b"", ConversationError(shard.fault))
        examiner = self.examiner
        tokens = tokenize_batch([item[3] for item in read], examiner.template, self.tokenizer.inner)
        for (number, record, conversation, rendered), of_one in zip(read, tokens, strict=True):
            examined = examiner.examine(conversation, rendered, of_one)
            self._add(batch, shard, number, record, conversation, rendered, examined)
        if read:
            prints = [
                (
                    _digest(rendered.text + str(_flags(talk))),
                    _digest(_alike(talk) or rendered.text),
                    self._place(shard, number),
                )
                for number, _, talk, rendered in read
            ]
            batch.summary.prints = [np.array(prints, dtype=np.uint64)]
        return batch

    def _chosen(self, shard: Shard) -> Iterator[tuple[int, Any]]:
        """The records that the filters let through."""
        settings = self.settings
        pattern = re.compile(settings.grep) if settings.grep else None
        for number, record in shard.records():
            if settings.lines is not None and not any(low <= number <= high for low, high in settings.lines):
                continue
            if settings.sample < 1 and _share(self._place(shard, number)) >= settings.sample:
                continue
            if pattern and not pattern.search(as_text(record)):
                continue
            yield number, record

    def _rendered(self, shard: Shard, number: int, record: Any) -> tuple[Conversation, Rendered]:
        source = self.settings.sources[shard.file].place(number, shard.unit)
        conversation = read_record(parsed(record, source), source, self.settings.drop_nulls)
        return conversation, render_checked(conversation, self.examiner.template, False)

    def _refuse(self, batch: Batch, shard: Shard, number: int, record: Any, error: ValueError) -> None:
        place, said = self._place(shard, number), str(error)
        source = self.settings.sources[shard.file].place(number, shard.unit)
        said = said.removeprefix(source).removeprefix(":").removeprefix(",").strip()
        name = "bad lines" if isinstance(error, ConversationError) else "refused"
        batch.summary.found.setdefault(name, Found()).add(place, 1, said)
        if "would quote the arguments" in said:
            batch.summary.found.setdefault("quoted arguments", Found()).add(place, 1, said[:120])
        if len(batch.summary.bad) < LISTED:
            batch.summary.bad.append((place, said))
        if self.settings.where == name:
            batch.summary.where.append((place, said))
        if self.settings.apart and record:
            batch.bad.append((number, as_line(record)))

    def _add(
        self,
        batch: Batch,
        shard: Shard,
        number: int,
        record: Any,
        talk: Conversation,
        rendered: Rendered,
        one: Examined,
    ) -> None:
        summary, place = batch.summary, self._place(shard, number)
        summary.conversations += 1
        summary.tokens += one.length
        summary.kept += one.kept
        summary.targets += one.targets
        summary.weight += one.weight
        summary.lengths[one.length] += 1
        summary.target_counts[one.targets] += 1
        for name, (times, note) in one.found.items():
            summary.found.setdefault(name, Found()).add(place, times, note)
        for role, counts in one.roles.items():
            known = summary.roles.get(role, (0, 0, 0))
            summary.roles[role] = (known[0] + counts[0], known[1] + counts[1], known[2] + counts[2])
        for limit, tokens, targets, left in one.cut:
            times, gone, lost, empty = summary.cut.get(limit, (0, 0, 0, 0))
            summary.cut[limit] = (times + 1, gone + tokens, lost + targets, empty + (not left))
        for said in talk.remarks:
            count, first = summary.remarks.get(said, (0, place))
            summary.remarks[said] = (count + 1, min(first, place))
        if self.settings.where in one.found and len(summary.where) < LISTED:
            summary.where.append((place, one.found[self.settings.where][1]))
        if self.settings.apart:
            failing = not self.settings.failing.isdisjoint(one.found)
            (batch.bad if failing else batch.good).append((number, as_line(record)))

    @staticmethod
    def _place(shard: Shard, number: int) -> int:
        return shard.file * PLACES + number


def as_text(record: Any) -> str:
    return (
        record.decode("utf-8", "replace")
        if isinstance(record, bytes)
        else json.dumps(record, ensure_ascii=False, default=str)
    )


def as_line(record: Any) -> bytes:
    """A record as one line of JSON Lines, as it was."""
    text = record if isinstance(record, bytes) else json.dumps(record, ensure_ascii=False, default=str).encode()
    return b" ".join(text.split(b"\n")).strip() + b"\n"


def _flags(conversation: Conversation) -> list:
    """What of it is not trained, or weighs otherwise: the same text with other flags is no duplicate."""
    untrained = [index for index, message in enumerate(conversation) if not message.get("train", True)]
    weights = [(index, message.get("weight"), message.get("weight_spans")) for index, message in enumerate(conversation)
               if "weight" in message or "weight_spans" in message]  # fmt: skip
    return [*untrained, *weights]


def _alike(conversation: Conversation) -> str:
    """The prompt, the same for prompts that differ in case, numbers, spaces and punctuation."""
    parts = []
    for message in conversation:
        if message["role"] == "assistant":
            break
        parts.append(message["content"] or "")
    return NOT_ALIKE.sub(" ", DIGITS.sub("0", "\n".join(parts))).strip().casefold()


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _share(place: int) -> float:
    """A number in [0, 1) that depends on the place alone, so that a sample is the same whoever takes it."""
    return int.from_bytes(blake2b(place.to_bytes(8, "little"), digest_size=7).digest(), "little") / 2**56
