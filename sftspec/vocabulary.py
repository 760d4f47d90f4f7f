"""What the spec asks of a tokenizer: ids of stretches of text, and where each token starts and ends.

Rule of this file: encoding never depends on the state that a tokenizer happens to carry. Truncation and padding are
off, no BOS is added, and "literal" means that no text whatever becomes a control token: neither the special ones nor
the added ones that are not special (Qwen's <think>), which Hugging Face's `split_special_tokens` lets through.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple
from unicodedata import is_normalized
from weakref import WeakKeyDictionary

import numpy as np

Marked = tuple[str, tuple[int, ...]]

UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")


class Tokens(NamedTuple):
    """T token ids, and of each the index of what it starts in and of what it ends in: int64, (T,) each."""

    ids: np.ndarray
    first: np.ndarray
    last: np.ndarray


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

    @cached_property
    def literal(self) -> Any:
        """The same vocabulary without added tokens."""
        return _rebuilt(self.state | {"added_tokens": []})

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

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """The bytes that each id stands for, in a byte-level vocabulary."""
        lengths = np.zeros(1 + max(self.state["model"]["vocab"].values(), default=0), dtype=np.int64)
        for token, number in self.state["model"]["vocab"].items():
            lengths[number] = len(token)  # byte-level: one character for each byte
        lengths.resize(max([len(lengths), *(number + 1 for number in self.added.values())]))
        for token, number in self.added.items():
            lengths[number] = len(token.encode())  # spelt as it is
        return lengths

    def encode(self, texts: Collection[Marked], literal: bool) -> dict[Marked, Tokens]:
        """Encode texts with marks.

        Args:
            texts: pairs (text, ends); ends tell where the parts of the text end, in characters.
            literal: control strings are text.
        Returns:
            For each pair the ids, and of each id the part in which it starts and the part in which it ends.
        """
        tokenizer = self.literal if literal else self.parsing
        exact = [item for item in texts if len(item[1]) == 1 or self._is_exact(item[0])]
        tokens = dict(zip(exact, self._by_bytes(exact, tokenizer), strict=True))
        tokens |= {item: _by_offsets(item, tokenizer) for item in texts if item not in tokens}
        if literal:
            for (text, _), (ids, _, _) in tokens.items():
                if not self.control_ids.isdisjoint(ids.tolist()):
                    raise ValueError(
                        f"this vocabulary makes control tokens of plain text ({text!r:.60}); special_tokens='literal' "
                        "needs one that does not (BPE)"
                    )
        return tokens

    def _is_exact(self, text: str) -> bool:
        """Token lengths in bytes add up to this text: the vocabulary is byte-level and does not normalize it."""
        form = self.normal_form
        return form is not None and (not form or text.isascii() or is_normalized(form, text))

    def _by_bytes(self, texts: list[Marked], tokenizer: Any) -> Iterator[Tokens]:
        """Where tokens start and end, from the bytes that they stand for; for all texts in one go."""
        if not texts:
            return
        ids = [of.ids for of in tokenizer.encode_batch_fast([text for text, _ in texts], add_special_tokens=False)]
        marks = [_in_bytes(text, ends) for text, ends in texts]
        cuts = np.cumsum([len(of_text) for of_text in ids])[:-1]
        flat = np.fromiter(chain.from_iterable(ids), dtype=np.int64)
        lengths = self.byte_lengths[flat] if any(len(ends) > 1 for _, ends in texts) else np.zeros_like(flat)
        for of_text, wide, of_marks in zip(np.split(flat, cuts), np.split(lengths, cuts), marks, strict=True):
            stops = wide.cumsum()
            first, last = of_marks.searchsorted(stops - wide, "right"), of_marks.searchsorted(stops - 1, "right")
            yield Tokens(of_text, first, last)


def _by_offsets(item: Marked, tokenizer: Any) -> Tokens:
    text, ends = item
    encoding = tokenizer.encode(text, add_special_tokens=False)
    starts, stops = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
    first, last = (np.searchsorted(ends, places, "right") for places in (starts, np.maximum(starts, stops - 1)))
    return Tokens(np.array(encoding.ids, dtype=np.int64), first, last)


def _in_bytes(text: str, ends: tuple[int, ...]) -> np.ndarray:
    """Character positions as positions in UTF-8."""
    marks = np.array(ends)
    if text.isascii():
        return marks
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    return widths.cumsum()[marks - 1]


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
