"""What the spec asks of a tokenizer: ids of stretches of text, and where each token starts and ends.

Rule of this file: encoding never depends on the state that a tokenizer happens to carry. Truncation and padding are
off, no BOS is added, and "literal" means that no text whatever becomes a control token: neither the special ones nor
the added ones that are not special (Qwen's <think>), which Hugging Face's `split_special_tokens` lets through.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Any
from unicodedata import is_normalized
from weakref import WeakKeyDictionary

Marked = tuple[str, tuple[int, ...]]
Covered = tuple[list[int], list[int], list[int]]

UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")

_vocabularies: WeakKeyDictionary = WeakKeyDictionary()


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """The Vocabulary of a `tokenizers.Tokenizer` or of a fast Hugging Face tokenizer; made once for each."""
    inner = backend(tokenizer)
    known = _vocabularies.get(tokenizer)
    if known is None or known.size != inner.get_vocab_size() or known.limits != (inner.truncation, inner.padding):
        known = _vocabularies[tokenizer] = Vocabulary(inner)
    return known


def backend(tokenizer: Any) -> Any:
    """The `tokenizers.Tokenizer` behind a fast Hugging Face tokenizer (or the tokenizer itself)."""
    inner = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(inner, "encode_batch"):
        raise ValueError(f"{type(tokenizer).__name__} has no offsets: use a fast tokenizer (tokenizers.Tokenizer)")
    return inner


class Vocabulary:
    """A tokenizer as the spec reads it."""

    def __init__(self, inner: Any):
        self.size = inner.get_vocab_size()
        self.limits = (inner.truncation, inner.padding)
        self.state = _state(inner)
        self.parsing = inner if self.limits == (None, None) else _rebuilt(self.state)
        self.added = {token["content"]: token["id"] for token in self.state["added_tokens"]}
        self.control_ids = frozenset(self.added.values())
        self._byte_lengths: dict[int, int] = {}

    @cached_property
    def literal(self) -> Any:
        """The same vocabulary without added tokens."""
        return _rebuilt(self.state | {"added_tokens": []})

    @cached_property
    def cuts_at_control(self) -> bool:
        """Text may be cut at control tokens and encoded piece by piece, with the same ids.

        Not so where a control token swallows the white space beside it (lstrip, rstrip), or where only the first piece
        gets SentencePiece's leading space (Metaspace, prepend_scheme "first").
        """
        shy = any(
            token["lstrip"] or token["rstrip"] or token["single_word"] or token["normalized"]
            for token in self.state["added_tokens"]
        )
        schemes = {part.get("prepend_scheme") for part in _parts(self.state["pre_tokenizer"])}
        return not shy and "first" not in schemes

    @cached_property
    def normal_form(self) -> str | None:
        """The Unicode form that a byte-level vocabulary brings text to, or "" for none; None for other vocabularies."""
        from tokenizers.pre_tokenizers import ByteLevel

        form = "" if self.state["normalizer"] is None else self.state["normalizer"]["type"]
        levels = [part for part in _parts(self.state["pre_tokenizer"]) if part["type"] == "ByteLevel"]
        lossless = set(self.state["model"].get("vocab", ())).issuperset(ByteLevel.alphabet())
        exact = lossless and levels and not any(level["add_prefix_space"] for level in levels)
        return form if exact and form in ("", *UNICODE_FORMS) else None

    def control_tokens(self, wanted: Iterable[str]) -> frozenset[str]:
        """Those tokens that this vocabulary has as control tokens (all that it has, if none are named)."""
        return frozenset(token for token in wanted or self.added if token in self.added)

    def encode(self, texts: Collection[Marked], literal: bool) -> dict[Marked, Covered]:
        """Encode texts with marks, each of them once.

        Args:
            texts: pairs (text, ends); ends tell where the parts of the text end, in characters.
            literal: control strings are text.
        Returns:
            For each pair the ids, and of each id the part in which it starts and the part in which it ends.
        """
        tokenizer = self.literal if literal else self.parsing
        by_bytes = [item for item in texts if len(item[1]) == 1 or self._is_exact(item[0])]
        by_offsets = [item for item in texts if len(item[1]) > 1 and not self._is_exact(item[0])]
        covered = {}
        fast = tokenizer.encode_batch_fast([text for text, _ in by_bytes], add_special_tokens=False)
        for (text, ends), encoding in zip(by_bytes, fast, strict=True):
            covered[text, ends] = self._cover(text, ends, encoding.ids)
        slow = tokenizer.encode_batch([text for text, _ in by_offsets], add_special_tokens=False)
        for (text, ends), encoding in zip(by_offsets, slow, strict=True):
            first = [bisect_right(ends, start) for start, _ in encoding.offsets]
            last = [bisect_right(ends, max(start, end - 1)) for start, end in encoding.offsets]
            covered[text, ends] = encoding.ids, first, last
        if literal:
            for (text, _), (ids, _, _) in covered.items():
                if not self.control_ids.isdisjoint(ids):
                    raise ValueError(
                        f"this vocabulary makes control tokens of plain text ({text!r:.60}); special_tokens='literal' "
                        "needs one that does not (BPE)"
                    )
        return covered

    def _is_exact(self, text: str) -> bool:
        """Token lengths in bytes add up to this text: the vocabulary is byte-level and does not normalize it."""
        form = self.normal_form
        return form is not None and (not form or text.isascii() or is_normalized(form, text))

    def _cover(self, text: str, ends: tuple[int, ...], ids: list[int]) -> Covered:
        if len(ends) == 1:
            nothing = [0] * len(ids)
            return ids, nothing, nothing
        if not text.isascii():
            ends = tuple(len(text[:end].encode()) for end in ends)
        first, last, part, position = [], [], 0, 0
        for token in ids:
            if part == len(ends) - 1:
                break
            first.append(part)
            position += self._byte_length(token)
            while ends[part] < position:
                part += 1
            last.append(part)
            part += ends[part] == position
        rest = [len(ends) - 1] * (len(ids) - len(first))
        return ids, first + rest, last + rest

    def _byte_length(self, token: int) -> int:
        if token not in self._byte_lengths:
            text = self.parsing.id_to_token(token)
            # A byte-level vocabulary spells each byte as one character; added tokens are spelt as they are.
            self._byte_lengths[token] = len(text.encode()) if text in self.added else len(text)
        return self._byte_lengths[token]


def _state(inner: Any) -> dict:
    state = json.loads(inner.to_str())
    return state | {"post_processor": None, "truncation": None, "padding": None}


def _rebuilt(state: dict) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(state))


def _parts(component: dict | None) -> list[dict]:
    """A component of tokenizer.json and all that is nested in it."""
    if component is None:
        return []
    inner = component.get("pretokenizers") or component.get("normalizers") or ()
    return [component, *(part for item in inner for part in _parts(item))]
