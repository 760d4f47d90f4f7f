"""From text with spans to token ids, each with the spans that it covers.

Two axes on which real implementations differ, both stated and neither hidden:

    special_tokens  parse     control strings in contents become control tokens (Hugging Face's default)
                    literal   only the template's own control tokens do (Meta, Qwen's make_context)
    tokenization    whole     text between control tokens is encoded in one piece: merges may cross a span's edge
                    answers   what the assistant writes, with the end of its turn, is encoded by itself, and so is all
                              that stands between two answers: as at inference (LLaMA-Factory, ms-swift, LitGPT)
                    segmented every span is encoded by itself: no merge crosses an edge

Rule of this file: a span's tokens are found from how many characters or bytes each token covers, never by encoding
a prefix and counting (litgpt#1567: the merge that crosses the edge makes that count wrong by one). The text holds the
template's BOS, and the tokenizer is never asked to add one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from sftspec.spans import DATA_KINDS, WRITTEN_KINDS, Rendered
from sftspec.templates import Template
from sftspec.vocabulary import Tokens, vocabulary_of

AXES = {"special_tokens": ("parse", "literal"), "tokenization": ("whole", "answers", "segmented")}


class Stretch(NamedTuple):
    """Text that is encoded in one call.

    text      the text
    ends      where its parts end in the text, in characters
    owners    the span that each part belongs to
    control   it is a control token
    """

    text: str
    ends: tuple[int, ...]
    owners: Sequence[int]
    control: bool


def tokenize(
    rendered: Rendered,
    template: Template,
    tokenizer: Any,
    special_tokens: str | None = None,
    tokenization: str | None = None,
) -> Tokens:
    """Encode a rendered conversation.

    Returns the ids, and of each span the tokens that carry some of it. An axis that is None is the template's own.

    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> words = {word: number for number, word in enumerate(["?", "user", "assistant", "Hi", "Yes"])}
    >>> tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> _ = tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    >>> from sftspec.templates import find_template, render
    >>> template = find_template("chatml/openai")
    >>> tokens = tokenize(render([{"role": "user", "content": "Hi"}]), template, tokenizer)
    >>> tokens.ids, tokens.starts.tolist(), tokens.stops.tolist()  # header, content, end of turn, newline
    ([5, 1, 3, 6], [0, 2, 3, 4], [2, 3, 4, 4])
    """
    return tokenize_batch([rendered], template, tokenizer, special_tokens, tokenization)[0]


def tokenize_batch(
    batch: Sequence[Rendered],
    template: Template,
    tokenizer: Any,
    special_tokens: str | None = None,
    tokenization: str | None = None,
) -> list[Tokens]:
    """The same for many conversations at once; a stretch of text that occurs in several is encoded once.

    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> words = {word: number for number, word in enumerate(["?", "user", "assistant", "Hi", "Yes"])}
    >>> tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> _ = tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    >>> from sftspec.templates import find_template, render
    >>> template, rendered = find_template("chatml/openai"), render([{"role": "user", "content": "Hi"}])
    >>> [tokens.ids for tokens in tokenize_batch([rendered, rendered], template, tokenizer)]
    [[5, 1, 3, 6], [5, 1, 3, 6]]
    """
    literal = _axis("special_tokens", special_tokens, template) == "literal"
    tokenization = _axis("tokenization", tokenization, template)
    vocabulary = vocabulary_of(tokenizer)
    if tokenization == "whole" and not literal:
        # Whole texts at once: the tokenizer itself cuts out control tokens, as with Hugging Face.
        texts = [(rendered.text, rendered.ends) for rendered in batch]
        tokens = vocabulary.encode(dict.fromkeys(texts), literal)
        return [tokens[text] for text in texts]
    # Where a tokenizer parses whole pieces, it cuts out the control tokens itself.
    parses = tokenization == "answers" and not literal
    control = frozenset[str]() if parses else vocabulary.control_tokens(template.control)
    rows = [list(_stretches(rendered, control, _edges(rendered, tokenization))) for rendered in batch]
    stretches = dict.fromkeys((stretch.text, stretch.ends) for row in rows for stretch in row if not stretch.control)
    tokens = vocabulary.encode(stretches, literal)
    return [_join(row, tokens, vocabulary.added, len(rendered.ends)) for row, rendered in zip(rows, batch, strict=True)]


def _axis(name: str, value: str | None, template: Template) -> str:
    value = value or getattr(template, name)
    if value not in AXES[name]:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(AXES[name])}")
    return value


def _edges(rendered: Rendered, tokenization: str) -> Collection[int]:
    """The spans at which the text is cut, whatever stands there."""
    if tokenization == "answers":
        written = [
            message in rendered.answers and (kind in WRITTEN_KINDS or kind == "end_of_turn")
            for kind, message in zip(rendered.kinds, rendered.messages, strict=True)
        ]
        of = [message if is_written else -1 for message, is_written in zip(rendered.messages, written, strict=True)]
        return {index for index in range(1, len(of)) if of[index] != of[index - 1]}
    if tokenization != "segmented":
        return ()
    spans = list(zip(rendered.kinds, rendered.messages, strict=True))
    # Where only the weight changes within a content, it stays one piece.
    return [
        index for index in range(len(spans))
        if not (rendered.weights and index and spans[index][0] == "content" and spans[index] == spans[index - 1])
    ]  # fmt: skip


def _stretches(rendered: Rendered, control: frozenset[str], edges: Collection[int]) -> Iterator[Stretch]:
    """Cut the text at control tokens of the structure, and where the spans of `edges` begin."""
    growing: list[tuple[str, int]] = []  # parts (text, span) of the stretch that the next part may still join
    start = 0
    for index, (kind, end) in enumerate(zip(rendered.kinds, rendered.ends, strict=True)):
        text, is_data, start = rendered.text[start:end], kind in DATA_KINDS, end
        if growing and index in edges:
            yield _stretch(growing)
            growing = []
        for part in (text,) if is_data else _cut(text, control):
            is_control = part in control and not is_data
            if growing and is_control:
                yield _stretch(growing)
                growing = []
            if is_control:
                yield Stretch(part, (len(part),), (index,), True)
            elif part:
                growing.append((part, index))
    if growing:
        yield _stretch(growing)


def _stretch(parts: list[tuple[str, int]]) -> Stretch:
    ends, position = [], 0
    for text, _ in parts:
        position += len(text)
        ends.append(position)
    return Stretch("".join(text for text, _ in parts), tuple(ends), tuple(owner for _, owner in parts), False)


@lru_cache(maxsize=4096)
def _cut(text: str, control: frozenset[str]) -> tuple[str, ...]:
    """The control tokens in a text, and what stands between them."""
    if not control:
        return (text,)
    longest_first = sorted(control, key=len, reverse=True)
    return tuple(part for part in re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if part)


def _join(row: list[Stretch], tokens: dict, control_ids: dict[str, int], spans: int) -> Tokens:
    """The tokens of all stretches, and of each span those that carry its parts."""
    ids: list[int] = []
    starts: list[int] = []
    stops: list[int] = []

    def add(owner: int, start: int, stop: int) -> None:
        if owner < len(starts):
            stops[owner] = stop
            return
        _pad(starts, stops, owner)
        starts.append(start)
        stops.append(stop)

    for text, ends, owners, control in row:
        at = len(ids)
        if control:
            ids.append(control_ids[text])
            add(owners[0], at, at + 1)
        else:
            of_text = tokens[text, ends]
            ids += of_text.ids
            for owner, start, stop in zip(owners, of_text.starts.tolist(), of_text.stops.tolist(), strict=True):
                add(owner, at + start, at + stop)
    _pad(starts, stops, spans)
    return Tokens(ids, np.array(starts, dtype=np.int64), np.array(stops, dtype=np.int64))


def _pad(starts: list[int], stops: list[int], count: int) -> None:
    """Spans without text have no tokens, at the place where they stand."""
    missing = [stops[-1] if stops else 0] * (count - len(starts))
    starts += missing
    stops += missing
