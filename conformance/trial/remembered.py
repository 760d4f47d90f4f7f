"""A template that many properties ask the same of: what it rendered, or why it did not, is kept.

Rule of this file: nothing is rendered that nobody reads. A property that reads text needs one rendering of it; one that
reads ids needs to know, beside that, what of the text is data; one that reads labels of a template without
{% generation %} needs the prompt and the end of every turn, which are several renderings more. What is certainly asked
is rendered before, many conversations in a request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, NoReturn

from sftspec.conversation import Conversation
from sftspec.jinja_templates import (
    AFTERWARDS,
    BATCH,
    SECONDS_ONCE,
    Call,
    ChatTemplate,
    RenderBudgetError,
    Run,
    _text,
    _worker,
)
from sftspec.spans import Piece, TemplateError

READS = ("text", "ids", "labels")


class Asked(NamedTuple):
    """A conversation that is asked of a template, with or without the prompt for an answer, and what is read of it."""

    key: tuple[str, bool]
    messages: list[dict]
    prompt: bool
    reads: str


class SpeltConversation(Conversation):
    """A conversation that is asked of many templates, with its repr, which is its key."""

    spelt = ""

    @classmethod
    def of(cls, found: Conversation) -> SpeltConversation:
        self = cls(found, found.source, found.tools, found.template_arguments, found.remarks)
        self.spelt = repr(found)
        return self


@dataclass(frozen=True)
class RememberedTemplate(ChatTemplate):
    """A template that renders what it is given again only once."""

    memory: dict[Key, Any] = field(default_factory=dict, compare=False)

    def with_arguments(self, arguments: Mapping[str, Any]) -> ChatTemplate:
        return replace(self, variables=self.variables | dict(arguments), memory={})

    def learn(self, asked: Iterable[Asked]) -> None:
        """Render these in a few requests; what takes too long is rendered when it is asked for."""
        needed = (each for one in asked for each in renderings(one, self.has_marks))
        keys = {_key(*one, getattr(one[0], "tools", None)): one for one in needed}
        left = [(key, one) for key, one in keys.items() if key not in self.memory and not _is_told_by(key, keys)]
        for start in range(0, len(left), BATCH):
            batch = left[start : start + BATCH]
            many = [
                self.request(messages, prompt, getattr(messages, "tools", None), plain)
                for _, (messages, prompt, plain) in batch
            ]
            try:
                replies = _worker.ask({"source": self.source, "many": many}, SECONDS_ONCE)["many"]
            except RenderBudgetError:
                return
            for (key, _), reply in zip(batch, replies, strict=True):
                self.memory[key] = _value_or_error(self.read, reply)

    def _rendered(self, messages: Sequence[dict], generation_prompt: bool, call: Call, plain: bool) -> Any:
        key = _key(messages, generation_prompt, plain, call.tools)
        if plain and (tracked := self.memory.get(key._replace(plain=False))) is not None:
            return _text(tracked) if isinstance(tracked, list) else _raise(tracked)
        if key not in self.memory:
            self.memory[key] = _value_or_error(super()._rendered, messages, generation_prompt, call, plain)
        found = self.memory[key]
        return _raise(found) if isinstance(found, TemplateError) else found

    def as_text(self, messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
        """The text in one piece."""
        yield "header", -1, self.text(messages, add_generation_prompt, Call.of(messages))

    def without_answers(self, messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
        """The pieces, of which none is said to be written by the model."""
        call = Call.of(messages)
        runs: list[Run] = self.runs(messages, add_generation_prompt, call)
        return self.named(runs, messages, add_generation_prompt, call)


def _value_or_error(work: Any, *arguments: Any) -> Any:
    try:
        return work(*arguments)
    except TemplateError as error:
        return error


def _raise(error: TemplateError) -> NoReturn:
    raise error.with_traceback(None)


class Key(NamedTuple):
    """What a rendering depends on."""

    messages: str
    prompt: bool
    plain: bool
    tools: str | None


def _key(messages: Sequence[dict], prompt: bool, plain: bool, tools: list | None) -> Key:
    spelt = messages.spelt if isinstance(messages, SpeltConversation) else repr(messages)
    return Key(spelt, prompt, plain, repr(tools) if tools else None)


def _is_told_by(key: Key, asked: Collection[Key]) -> bool:
    """The text is asked with provenance too, and need not be rendered without."""
    return key.plain and key._replace(plain=False) in asked


def renderings(asked: Asked, has_marks: bool) -> Iterator[tuple[Sequence[dict], bool, bool]]:
    """(messages, prompt, plainly) of all that is rendered for a conversation."""
    _, messages, prompt, reads = asked
    yield messages, prompt, reads == "text"
    if reads == "text":
        return
    if prompt:
        yield messages, False, True
    if reads == "labels" and not has_marks:
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                if index + 1 < len(messages):
                    yield messages[: index + 1], False, True
                yield [*messages[: index + 1], *AFTERWARDS], False, True
                if index:
                    yield messages[:index], True, True
