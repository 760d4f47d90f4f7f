"""`sftspec show`: what a file trains, token by token, the worst conversation first.

The question that users of every trainer ask (trl#1414, torchtune#2453, open-instruct#1423): what reaches the loss?
The answer is read off the same `encode` that the specification judges trainers by, never computed a second time, and
what is wrong with a conversation is counted even where nothing of it is trained. A conversation that the template
refuses is shown with the reason: left out of the picture is left out of the training, in silence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from sftspec.conformance.commands.show import ShowError
from sftspec.conformance.report.token_strip import Cell
from sftspec.conformance.show.inputs import Tokens
from sftspec.conversation import Conversation, ConversationError, load_conversations
from sftspec.masking import IGNORE, Encoded, EncodingError, encode, encode_batch, trained_messages, truncate
from sftspec.spans import DATA_KINDS, TemplateError
from sftspec.templates import Template

# What can be wrong with a conversation, the worst first, and what it does to a model.
FINDINGS = {
    "refused": "the template cannot render it: it is not trained on at all",
    "no target": "nothing of it is trained: it costs a forward pass and teaches nothing",
    "end of turn untrained": "the model is not taught to stop after this answer",
    "control strings in content": "parsed, they forge turns and cut the mask (transformers#29279)",
    "double BOS": "a BOS follows a BOS: no model has seen that (OpenRLHF#393)",
    "tokens cut off": "max_length ends it early",
    "empty messages": "a turn that says nothing",
}


@dataclass(frozen=True)
class Shown:
    """One conversation of the file.

    conversation  its messages and where they stand
    encoded       all of its tokens, also those that max_length cuts off (None: refused)
    kept          how many of them are kept
    findings      what is wrong with it: how often, by name (FINDINGS)
    error         why it was refused
    """

    conversation: Conversation
    encoded: Encoded | None
    kept: int
    findings: Counter[str]
    error: str = ""

    @cached_property
    def targets(self) -> int:
        """Scored targets that are kept; the first token has no logits before it."""
        return 0 if self.encoded is None else sum(label != IGNORE for label in self.encoded.labels[1 : self.kept])

    @property
    def rank(self) -> tuple[int, ...]:
        return tuple(-self.findings[name] for name in FINDINGS)


@dataclass(frozen=True)
class Showing:
    """All of a file, worst first, with what it was encoded by."""

    file: str
    template: Template
    tokenizer: Tokens
    policy: str
    max_length: int | None
    rows: list[Shown]
    remarks: list[str]

    @cached_property
    def totals(self) -> dict[str, int]:
        """Counts over the file: sizes, then each finding's occurrences."""
        tokens = sum(row.kept for row in self.rows)
        sizes = {"conversations": len(self.rows), "tokens": tokens, "targets": sum(row.targets for row in self.rows)}
        return sizes | {name: sum(row.findings[name] for row in self.rows) for name in FINDINGS}

    def concerned(self, finding: str) -> int:
        """Conversations with this finding."""
        return sum(row.findings[finding] > 0 for row in self.rows)


def show(path: Path, template: Template, tokenizer: Tokens, policy: str, max_length: int | None) -> Showing:
    """Encode a file and say of every conversation what is trained and what is wrong.

    Raises ShowError with file and line.
    """
    try:
        conversations = load_conversations(path)
    except ConversationError as error:
        raise ShowError(str(error)) from error
    except OSError as error:
        raise ShowError(f"{path}: {error.strerror or error}") from error
    control = re.compile("|".join(map(re.escape, sorted(tokenizer.vocabulary.added, key=len, reverse=True))) or r"\Z.")
    rows = []
    for conversation, encoded in zip(conversations, _encoded(conversations, template, tokenizer, policy), strict=True):
        if isinstance(encoded, ValueError):
            rows.append(Shown(conversation, None, 0, Counter({"refused": 1}), str(encoded)))
            continue
        kept = len(truncate(encoded, max_length))
        found = Counter(
            {
                "no target": int(not any(label != IGNORE for label in encoded.labels[1:kept])),
                "end of turn untrained": _untrained_ends(encoded, conversation, policy, kept),
                "control strings in content": _control_strings(encoded, control),
                "double BOS": _double_bos(encoded.input_ids[:kept], template.bos, tokenizer),
                "tokens cut off": len(encoded) - kept,
                "empty messages": sum(_is_empty(message) for message in conversation),
            }
        )
        rows.append(Shown(conversation, encoded, kept, found))
    rows.sort(key=lambda row: row.rank)
    return Showing(path.name, template, tokenizer, policy, max_length, rows, list(_remarks(template, tokenizer)))


def _encoded(
    conversations: list[Conversation], template: Template, tokenizer: Tokens, policy: str
) -> list[Encoded | ValueError]:
    """All at once; one by one where the template refuses some of them."""
    options: dict[str, Any] = {"policy": policy}
    try:
        return list(encode_batch(conversations, template, tokenizer.inner, **options))
    except (TemplateError, ConversationError, EncodingError):
        return [_encoded_or_error(conversation, template, tokenizer, options) for conversation in conversations]


def _encoded_or_error(conversation, template: Template, tokenizer: Tokens, options: dict) -> Encoded | ValueError:
    try:
        return encode(conversation, template, tokenizer.inner, **options)
    except (TemplateError, ConversationError, EncodingError) as error:
        return error


def _untrained_ends(encoded: Encoded, conversation: Conversation, policy: str, kept: int) -> int:
    """Trained answers whose end-of-turn is no target, or stands nowhere."""
    rendered = encoded.rendered
    ended = {
        rendered.messages[owner]
        for owner, label in zip(encoded.owners[1:kept], encoded.labels[1:kept], strict=True)
        if label != IGNORE and rendered.kinds[owner] == "end_of_turn"
    }
    answers = {index for index, message in enumerate(conversation) if message["role"] == "assistant"}
    return len((trained_messages(conversation, policy) & answers) - ended)


def _control_strings(encoded: Encoded, control: re.Pattern[str]) -> int:
    rendered = encoded.rendered
    return sum(
        len(control.findall(rendered.text[span.start : span.end])) for span in rendered.spans if span.kind in DATA_KINDS
    )


def _double_bos(ids: list[int], bos: str, tokenizer: Tokens) -> int:
    number = tokenizer.vocabulary.added.get(bos)
    return sum(left == right == number for left, right in pairwise(ids)) if bos else 0


def _is_empty(message: dict) -> bool:
    return not (message["content"] or "").strip() and not message.get("tool_calls")


def _remarks(template: Template, tokenizer: Tokens) -> Iterator[str]:
    """What concerns the whole file."""
    wanted = dict.fromkeys((*template.control, template.end_of_turn, template.bos))
    missing = [token for token in wanted if token and token not in tokenizer.vocabulary.added]
    if missing:
        yield f"{', '.join(missing)}: not one token of this tokenizer, so the structure is spelt out as text"
    if template.bos and tokenizer.inner.encode("").ids[:1] == [tokenizer.vocabulary.added.get(template.bos)]:
        yield (
            f"template and tokenizer both write {template.bos}: who encodes the text with add_special_tokens=True "
            "trains on two in every conversation (trl#3328); the tokens below have the template's"
        )
    if not template.end_of_turn:
        yield "the template ends no answer with a token: a model trained with it does not learn to stop"
    if tokenizer.name == "small":
        yield "the small tokenizer makes about one token of a letter: give --tokenizer for your model's counts"


def cells_of(row: Shown, tokenizer: Tokens, first: int) -> list[Cell]:
    """The first tokens of a conversation, at most so many; those that are cut off are not present."""
    if row.encoded is None:
        return []
    labels = [IGNORE, *row.encoded.labels[1:first]]
    return [
        Cell(tokenizer.text(token), trained=label != IGNORE and place < row.kept, present=place < row.kept)
        for place, (token, label) in enumerate(zip(row.encoded.input_ids[:first], labels, strict=True))
    ]
