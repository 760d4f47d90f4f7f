"""A vocabulary that templates on trial share: a stretch of text is encoded once, whoever writes it.

Rule of this file: what is remembered is what the vocabulary gave. Templates of a family write the same headers, and a
property asks for conversations that differ in a letter, so most stretches were encoded before.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

from sftspec.vocabulary import Marked, Tokens, Vocabulary, backend

MOST_REMEMBERED = 30_000  # stretches, some 20 MB; then all are forgotten


class RememberedVocabulary(Vocabulary):
    """A Vocabulary that encodes a stretch once."""

    def __init__(self, inner: Any):
        super().__init__(inner)
        self.memory: dict[tuple[bool, Marked], Tokens] = {}

    def encode(self, texts: Collection[Marked], literal: bool) -> dict[Marked, Tokens]:
        if len(self.memory) > MOST_REMEMBERED:
            self.memory.clear()
        if left := [item for item in texts if (literal, item) not in self.memory]:
            self.memory.update({(literal, item): tokens for item, tokens in super().encode(left, literal).items()})
        return {item: Tokens([*known.ids], known.starts, known.stops)
                for item in texts for known in (self.memory[literal, item],)}  # fmt: skip


@lru_cache(maxsize=16)
def remembered_vocabulary(tokenizer: Any) -> RememberedVocabulary:
    """That of a tokenizer; made once for each."""
    return RememberedVocabulary(backend(tokenizer))
