"""Which named template made prepared rows, where they are not held against it.

Rule of this file: a template is named only where it makes rows as they stand, token for token, and the one that was
given does not. A wrong --template makes every property of masking speak of headers that the rows never had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sftspec.conversation import Conversation
from sftspec.masking import EncodingError, encode_batch
from sftspec.spans import TemplateError
from sftspec.templates import TEMPLATES, Template

ROWS, CONVERSATIONS = 20, 500  # that are looked at


def likely_template(
    rows: Sequence[Sequence[int]], conversations: Sequence[Conversation], template: Template, tokenizer: Any
) -> str:
    """The name of a template that makes most of the rows, where the given one makes less than half ("": none)."""
    wanted = {tuple(row) for row in rows[:ROWS]}

    def made_by(name: str | Template) -> int:
        found = set()
        for conversation in conversations[:CONVERSATIONS]:
            try:
                found.add(tuple(encode_batch([conversation], name, tokenizer)[0].input_ids))
            except (TemplateError, EncodingError):
                continue
        return len(wanted & found)

    if 2 * made_by(template) >= len(wanted):
        return ""
    best, count = max(((name, made_by(name)) for name in TEMPLATES), key=lambda pair: pair[1])
    return best if 2 * count > len(wanted) else ""
