"""From text with spans to token ids, each with the spans that it covers.

Two axes on which real implementations differ, both stated and neither hidden:

    special_tokens  parse     control strings in contents become control tokens (Hugging Face's default)
                    literal   only the template's own control tokens do (Meta, Qwen's make_context)
    tokenization    whole     text between control tokens is encoded in one piece: merges may cross a span's edge
                    segmented every span is encoded by itself: no merge crosses an edge
"""

from __future__ import annotations

import json
import re
from weakref import WeakKeyDictionary

from sftspec.templates import Rendered, Span, Template

AXES = {"special_tokens": ("parse", "literal"), "tokenization": ("whole", "segmented")}

_literal_twins: WeakKeyDictionary = WeakKeyDictionary()


def backend(tokenizer):
    """The `tokenizers.Tokenizer` behind a fast Hugging Face tokenizer (or the tokenizer itself)."""
    inner = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(inner, "encode_batch"):
        raise ValueError(f"{type(tokenizer).__name__} has no offsets: use a fast tokenizer (tokenizers.Tokenizer)")
    return inner


def literal_twin(tokenizer):
    """The same vocabulary without added tokens: it cannot produce a control token, whatever the text."""
    from tokenizers import Tokenizer

    owner, inner = tokenizer, backend(tokenizer)
    if owner not in _literal_twins:
        state = json.loads(inner.to_str())
        state["added_tokens"], state["post_processor"] = [], None
        state["truncation"], state["padding"] = None, None
        _literal_twins[owner] = Tokenizer.from_str(json.dumps(state))
    return _literal_twins[owner]


def tokenize(
    rendered: Rendered, template: Template, tokenizer, special_tokens: str = "parse", tokenization: str = "whole"
) -> tuple[list[int], list[int], list[int]]:
    """Encode a rendered conversation.

    Returns three lists of length T: the ids, the index of the span in which each token starts, and the index of the
    span in which it ends.
    """
    for axis, value in (("special_tokens", special_tokens), ("tokenization", tokenization)):
        if value not in AXES[axis]:
            raise ValueError(f"{axis} is {value!r}; choose one of {', '.join(AXES[axis])}")
    ids: list[int] = []
    first: list[int] = []
    last: list[int] = []
    starts = _SpanFinder(rendered.spans)
    for start, end, parse in _segments(rendered, template, special_tokens, tokenization):
        text = rendered.text[start:end]
        encoding = (backend(tokenizer) if parse else literal_twin(tokenizer)).encode(text, add_special_tokens=False)
        ids.extend(encoding.ids)
        for left, right in encoding.offsets:
            first.append(starts.at(start + left))
            last.append(starts.at(start + max(left, right - 1)))
    return ids, first, last


class _SpanFinder:
    """Which span holds a character: spans are asked for from left to right."""

    def __init__(self, spans: tuple[Span, ...]):
        self.spans, self.index = spans, 0

    def at(self, position: int) -> int:
        while self.spans[self.index].end <= position:
            self.index += 1
        while self.spans[self.index].start > position:
            self.index -= 1
        return self.index


def _segments(rendered: Rendered, template: Template, special_tokens: str, tokenization: str):
    """The stretches of text that are encoded in one call: (start, end, control strings are parsed)."""
    spans = [span for span in rendered.spans if span.end > span.start]
    if tokenization == "whole" and special_tokens == "parse":
        return [(0, len(rendered.text), True)] if rendered.text else []
    control = re.compile("|".join(map(re.escape, sorted(template.control, key=len, reverse=True))))
    pieces: list[list] = []
    for span in spans:
        structure = span.kind != "content"
        cuts = [span.start]
        if structure:
            for match in control.finditer(rendered.text, span.start, span.end):
                cuts += [match.start(), match.end()]
        cuts.append(span.end)
        for start, end in zip(cuts, cuts[1:], strict=False):
            if start == end:
                continue
            is_control = structure and control.fullmatch(rendered.text, start, end) is not None
            parse = is_control or special_tokens == "parse"
            joins = (
                pieces and tokenization == "whole" and not is_control and not pieces[-1][3] and pieces[-1][1] == start
            )
            if joins:
                pieces[-1][1] = end
            else:
                pieces.append([start, end, parse, is_control])
    return [(start, end, parse) for start, end, parse, _ in pieces]
