"""A template turns messages into text and says of every character what it is.

Rule of this file: the spans partition the text. The loss mask is read off the spans and never searched for in the text
or in the tokens: a marker may also stand in what somebody wrote (trl#1184, axolotl#3754), and a span cannot be forged.

A variant is a function that yields pieces `(kind, message index, text)` in order:

    bos                the token that opens the sequence
    header             who speaks: control tokens, role, newline
    content            what the message says, after the variant's declared trimming
    end_of_turn        the token that ends a turn (for an assistant: the one that makes generation stop)
    separator          what stands between turns after the end-of-turn token (ChatML: a newline)
    generation_prompt  the header of the turn that the model is to write
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sftspec.conversation import check_conversation

Piece = tuple[str, int, str]


class TemplateError(ValueError):
    """A template that does not exist, or cannot render these messages; says which and what to do."""


@dataclass(frozen=True)
class Span:
    """text[start:end] is of this kind and belongs to message `message` (-1: to none)."""

    start: int
    end: int
    kind: str
    message: int


@dataclass(frozen=True)
class Rendered:
    """The text of a conversation and the spans that partition it, in order."""

    text: str
    spans: tuple[Span, ...]

    def of(self, kind: str, message: int | None = None) -> list[str]:
        """The texts of all spans of a kind (of one message, if given)."""
        return [
            self.text[span.start : span.end]
            for span in self.spans
            if span.kind == kind and message in (None, span.message)
        ]


def chatml_openai(messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
    """ChatML as OpenAI published it: no BOS, no default system message, nothing trimmed, a newline after every turn.

    Source: openai/openai-python chatml.md (2023) and every Jinja copy of it.
    """
    for index, message in enumerate(messages):
        yield "header", index, f"<|im_start|>{message['role']}\n"
        yield "content", index, message["content"]
        yield "end_of_turn", index, "<|im_end|>"
        yield "separator", index, "\n"
    if add_generation_prompt:
        yield "generation_prompt", -1, "<|im_start|>assistant\n"


@dataclass(frozen=True)
class Template:
    """A named variant.

    name           "family/variant"
    pieces         the generator above
    control        the control tokens of its structure, longest first
    end_of_turn    the token at the end of an assistant turn
    """

    name: str
    pieces: Callable[[list[dict], bool], Iterator[Piece]]
    control: tuple[str, ...]
    end_of_turn: str


TEMPLATES = {
    "chatml/openai": Template("chatml/openai", chatml_openai, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
}


def find_template(name: str | Template) -> Template:
    """The template of that name, or a TemplateError that lists the names."""
    if isinstance(name, Template):
        return name
    if name not in TEMPLATES:
        raise TemplateError(f"unknown template {name!r}; known: {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]


def render(
    messages: list[dict], template: str | Template = "chatml/openai", add_generation_prompt: bool = False
) -> Rendered:
    """Render a conversation.

    Args:
        messages: dicts with `role` and `content`.
        template: name of a variant.
        add_generation_prompt: end with the header of the assistant's turn to be written.
    Returns:
        Rendered, whose spans partition its text.
    Raises:
        ConversationError, TemplateError.
    """
    variant = find_template(template)
    spans, parts, position = [], [], 0
    for kind, message, text in variant.pieces(check_conversation(messages), add_generation_prompt):
        spans.append(Span(position, position + len(text), kind, message))
        parts.append(text)
        position += len(text)
    return Rendered("".join(parts), tuple(spans))
