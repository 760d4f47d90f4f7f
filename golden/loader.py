"""Read the golden cases.

Rule of this file: a case is read whole or not at all. A field that the loader does not know is an error, because a
check that ignores it would call itself passed without having looked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

CASES = Path(__file__).with_name("cases")


class GoldenError(ValueError):
    """A golden file that cannot be read; says which case and what is wrong."""


@dataclass(frozen=True)
class GoldenCase:
    """What an independent implementation made of a conversation.

    id                     "family/variant/conversation"
    template               the variant
    vocabulary             name in vocabularies.SOURCES
    special_tokens         axis: "parse" or "literal"
    tokenization           axis: "whole" or "segmented"
    add_generation_prompt  rendered for inference
    messages, tools        the conversation
    text                   the text (None: rejected)
    input_ids              the T ids (None: rejected)
    trained                ranges [start, stop) of the tokens that assistants write, end of turn too (None: unknown)
    rejected               why these messages are refused (None: they are not)
    source                 the oracle that this is from, with its version
    second                 what other oracles say of it
    disagreements          where they differ
    """

    id: str
    template: str
    vocabulary: str
    special_tokens: str
    tokenization: str
    add_generation_prompt: bool
    messages: list[dict]
    tools: list[dict] | None
    text: str | None
    input_ids: list[int] | None
    trained: list[list[int]] | None
    rejected: str | None
    source: dict[str, str]
    second: list[dict[str, str]]
    disagreements: list[dict[str, str]]

    @property
    def labels(self) -> list[int] | None:
        """The T labels: the id where it is a target, else -100; None where the oracles cannot tell."""
        if self.trained is None or self.input_ids is None:
            return None
        targets = {index for start, stop in self.trained for index in range(start, stop)}
        return [token if index in targets else -100 for index, token in enumerate(self.input_ids)]


def read_case(record: Any) -> GoldenCase:
    """One record as a case; raises GoldenError for a field that is missing or unknown."""
    known = {field.name for field in fields(GoldenCase)}
    if not isinstance(record, dict) or set(record) != known:
        found = set(record) if isinstance(record, dict) else set()
        name = record.get("id", "?") if isinstance(record, dict) else "?"
        raise GoldenError(f"{name}: unknown fields {sorted(found - known)}, missing fields {sorted(known - found)}")
    return GoldenCase(**record)


@cache
def _read_file(path: Path) -> tuple[GoldenCase, ...]:
    return tuple(read_case(record) for record in json.loads(path.read_text(encoding="utf-8")))


def load_cases(templates: Iterable[str] | None = None) -> list[GoldenCase]:
    """All cases, or those of some templates, in the order of the files."""
    wanted = None if templates is None else set(templates)
    cases = [case for path in sorted(CASES.glob("*.json")) for case in _read_file(path)]
    return [case for case in cases if wanted is None or case.template in wanted]
