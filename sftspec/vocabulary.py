"""What the spec asks of a tokenizer: ids of stretches of text, and where each token starts and ends.

Rule of this file: encoding never depends on the state that a tokenizer happens to carry. Truncation and padding are
off, no BOS is added, and "literal" means that no text whatever becomes a control token: neither the special ones nor
the added ones that are not special (Qwen's <think>), which Hugging Face's `split_special_tokens` lets through.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast, get_args
from unicodedata import is_normalized

import numpy as np

Marked = tuple[str, tuple[int, ...]]

UnicodeForm = Literal["NFC", "NFD", "NFKC", "NFKD"]
UNICODE_FORMS = get_args(UnicodeForm)


class Tokens(NamedTuple):
    """T token ids, and of each of S parts of their text the tokens [start, stop) that carry some of it.

    A token that crosses an edge is in both ranges; an empty part has an empty one. stops[s] is also the number of
    tokens that start before the end of part s.
    """

    ids: list[int]
    starts: np.ndarray
    stops: np.ndarray


MOST_REMEMBERED = 16
_vocabularies: dict[int, tuple[Any, Vocabulary]] = {}  # by id; the tokenizer is kept, so that its id stays its own


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """The Vocabulary of a `tokenizers.Tokenizer` or of a fast Hugging Face tokenizer; made once for each. One that is
    a Vocabulary already is itself.

    >>> from tokenizers import Tokenizer, models
    >>> tokenizer = Tokenizer(models.WordLevel({"Hi": 0}, unk_token="Hi"))
    >>> _ = tokenizer.add_special_tokens(["</s>"])
    >>> vocabulary_of(tokenizer).added
    {'</s>': 1}
    """
    if isinstance(tokenizer, Vocabulary):
        return tokenizer
    inner = backend(tokenizer)
    _, known = _vocabularies.get(id(tokenizer), (None, None))
    if known is None or known.size != inner.get_vocab_size() or known.limits != (inner.truncation, inner.padding):
        while len(_vocabularies) >= MOST_REMEMBERED:
            del _vocabularies[next(iter(_vocabularies))]
        known = Vocabulary(inner)
        _vocabularies[id(tokenizer)] = (tokenizer, known)
    return known


def backend(tokenizer: Any) -> Any:
    """The `tokenizers.Tokenizer` behind a fast Hugging Face tokenizer (or the tokenizer itself).

    >>> from tokenizers import Tokenizer, models
    >>> tokenizer = Tokenizer(models.WordLevel({"Hi": 0}, unk_token="Hi"))
    >>> backend(tokenizer) is tokenizer
    True
    """
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
        size = 1 + max([*self.state["model"]["vocab"].values(), *self.added.values()], default=-1)
        lengths = np.zeros(size, dtype=np.int64)
        for token, number in self.state["model"]["vocab"].items():
            lengths[number] = len(token)  # byte-level: one character for each byte
        for token, number in self.added.items():
            lengths[number] = len(token.encode())  # spelt as it is
        return lengths

    def encode(self, texts: Collection[Marked], literal: bool) -> dict[Marked, Tokens]:
        """Encode texts with marks.

        Args:
            texts: pairs (text, ends); ends tell where the parts of the text end, in characters.
            literal: control strings are text.
        Returns:
            For each pair its tokens.
        """
        tokenizer = self.literal if literal else self.parsing
        exact = [item for item in texts if len(item[1]) == 1 or self._is_exact(item[0])]
        tokens = dict(zip(exact, self._by_bytes(exact, tokenizer), strict=True))
        tokens |= {item: _by_offsets(item, tokenizer) for item in texts if item not in tokens}
        if literal:
            for (text, _), (ids, _, _) in tokens.items():
                if not self.control_ids.isdisjoint(ids):
                    raise ValueError(
                        f"this vocabulary makes control tokens of plain text ({text!r:.60}); special_tokens='literal' "
                        "needs one that does not (BPE)"
                    )
        return tokens

    def _is_exact(self, text: str) -> bool:
        """Token lengths in bytes add up to this text: the vocabulary is byte-level and does not normalize it."""
        form = self.normal_form
        return form is not None and (not form or text.isascii() or is_normalized(cast(UnicodeForm, form), text))

    def _by_bytes(self, texts: list[Marked], tokenizer: Any) -> Iterator[Tokens]:
        """Where tokens start and end, from the bytes that they stand for."""
        encodings = tokenizer.encode_batch_fast([text for text, _ in texts], add_special_tokens=False)
        for (text, ends), encoding in zip(texts, encodings, strict=True):
            ids = encoding.ids
            if len(ends) == 1:
                yield Tokens(ids, np.array([0]), np.array([len(ids)]))
            else:
                lengths = self.byte_lengths[np.fromiter(ids, dtype=np.int64, count=len(ids))]
                token_stops = lengths.cumsum()
                yield Tokens(ids, *carriers(token_stops - lengths, token_stops, _in_bytes(text, ends)))


def _by_offsets(item: Marked, tokenizer: Any) -> Tokens:
    text, ends = item
    encoding = tokenizer.encode(text, add_special_tokens=False)
    token_starts, token_stops = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
    # A token without characters (SentencePiece's leading space) is where the next one is.
    return Tokens(encoding.ids, *carriers(token_starts, np.maximum(token_starts + 1, token_stops), np.array(ends)))


def carriers(token_starts: np.ndarray, token_stops: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each part the tokens [start, stop) that carry some of it; all positions in one unit, sorted.

    >>> tokens = np.array([0, 2, 4]), np.array([2, 4, 6])  # the second crosses the edge at 3
    >>> [positions.tolist() for positions in carriers(*tokens, np.array([3, 6]))]
    [[0, 1], [2, 3]]
    """
    begins = np.concatenate(([0], ends[:-1]))
    stops = token_starts.searchsorted(ends, "left")
    starts = np.where(begins < ends, token_stops.searchsorted(begins, "right"), stops)
    return starts, stops


def _in_bytes(text: str, ends: tuple[int, ...]) -> np.ndarray:
    """Character positions as positions in UTF-8."""
    marks = np.array(ends)
    if text.isascii():
        return marks
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    return np.concatenate(([0], widths.cumsum()))[marks]  # a part that is empty may end at 0


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
