"""Rendered text, and of every character what it is.

Rule of this file: the spans partition the text. The loss mask is read off the spans and never searched for in the text
or in the tokens: a marker may also stand in what somebody wrote (trl#1184, axolotl#3754), and a span cannot be forged.

A template is a generator of pieces `(kind, message index, text)`, in order. The index is -1 for what belongs to no
message. Kinds:

    bos                the token that opens the sequence (Llama-2: every round)
    preamble           what the template says by itself: default system prompt, date, instructions for tools
    tools              definitions of tools
    header             who speaks: control tokens, role, newline
    content            what the message says, after the variant's declared trimming
    reasoning          what it thought first
    tool_call          a call of a tool, as JSON
    given              what an assistant's message says where its template does not let the model write it
    marked             what others' messages say where their template marks it as written by the model
    generated          what the model writes around these three: think and tool tags, Llama-2's spaces
    end_of_turn        what ends a turn (for an assistant: with the token that makes generation stop)
    separator          what stands between turns after the end-of-turn token (ChatML: a newline)
    generation_prompt  the header of the turn that the model is to write
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

Piece = tuple[str, int, str]

# What people and models wrote: in these a control string may be text (axis special_tokens="literal").
DATA_KINDS = frozenset({"content", "reasoning", "tool_call", "given", "marked", "tools"})

# What an assistant writes at inference before it ends its turn.
WRITTEN_KINDS = frozenset({"content", "reasoning", "tool_call", "generated"})

# What a template makes the model write in a message that is not the assistant's.
MARKED_KINDS = frozenset({"marked", "generated"})


class TemplateError(ValueError):
    """A template that does not exist, or cannot render these messages; says which and what to do."""


class Span(NamedTuple):
    """text[start:end] is of this kind and belongs to message `message` (-1: to none)."""

    start: int
    end: int
    kind: str
    message: int


@dataclass(frozen=True)
class Rendered:
    """The text of a conversation and the spans that partition it, in order.

    text      the text
    kinds     of each of its S spans
    messages  of each, the message that it belongs to (-1: none)
    ends      of each, where it ends; it begins where the one before ends
    answers   the messages that the assistant wrote
    weights   of each span, what its targets weigh (weights.py); None: all weigh 1
    """

    text: str
    kinds: tuple[str, ...]
    messages: tuple[int, ...]
    ends: tuple[int, ...]
    answers: frozenset[int] = frozenset()
    weights: tuple[float, ...] | None = None

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The S spans; made when asked for, because thousands of small objects slow every batch down."""
        return tuple(map(Span, (0, *self.ends), self.ends, self.kinds, self.messages))

    def of(self, kind: str, message: int | None = None) -> list[str]:
        """The texts of all spans of a kind (of one message, if given)."""
        return [
            self.text[span.start : span.end]
            for span in self.spans
            if span.kind == kind and message in (None, span.message)
        ]


def assemble(pieces: Iterable[Piece], answers: Iterable[int] = ()) -> Rendered:
    """Join pieces to a text; their lengths give the spans. answers: the messages that the assistant wrote.

    >>> assemble([("header", 0, "user: "), ("content", 0, "Hi")]).spans[1]
    Span(start=6, end=8, kind='content', message=0)
    """
    kinds, messages, texts = zip(*pieces) if (pieces := list(pieces)) else ((), (), ())
    return Rendered("".join(texts), kinds, messages, tuple(accumulate(map(len, texts))), frozenset(answers))


def without_final_separator(rendered: Rendered) -> Rendered:
    """The text up to its last end-of-turn token, where a separator follows that.

    >>> without_final_separator(assemble([("end_of_turn", 0, "<|im_end|>"), ("separator", 0, "\\n")])).text
    '<|im_end|>'
    """
    if rendered.kinds[-1:] != ("separator",):
        return rendered
    kinds, messages, ends = rendered.kinds[:-1], rendered.messages[:-1], rendered.ends[:-1]
    weights = rendered.weights and rendered.weights[:-1]
    return Rendered(rendered.text[: ends[-1] if ends else 0], kinds, messages, ends, rendered.answers, weights)


def strip_pieces(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces of `text.strip()`: white space goes from both ends, over as many pieces as it covers.

    >>> strip_pieces([("header", 0, " "), ("content", 0, " Hi ")])
    [('header', 0, ''), ('content', 0, 'Hi')]
    """
    kept = list(pieces)
    for order, strip in ((range(len(kept)), str.lstrip), (range(len(kept) - 1, -1, -1), str.rstrip)):
        for position in order:
            kind, message, text = kept[position]
            kept[position] = (kind, message, strip(text))
            if kept[position][2]:
                break
    return kept
