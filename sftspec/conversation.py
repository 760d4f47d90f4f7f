"""A conversation is a list of messages, and nothing of it is lost on the way in.

Rule of this file: what cannot be read exactly is refused with its place (file, line, message) and what to do. A reader
that skips what it does not understand trains another data set than the one that was given to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


class ConversationError(ValueError):
    """A conversation that cannot be trained on as it stands; says where it is, what is wrong and what to do."""


class Conversation(list):
    """A list of message dicts (`role`, `content`, optional `train`), with the place it was read from.

    source  where it came from, such as "data.jsonl:12" ("" when made in memory)
    tools   tool definitions for the template, or None
    """

    def __init__(self, messages: Iterable[Mapping[str, Any]] = (), source: str = "", tools: list | None = None):
        super().__init__(dict(message) for message in messages)
        self.source = source
        self.tools = tools

    @property
    def messages(self) -> list[dict]:
        return list(self)


def check_conversation(messages: Any, source: str = "conversation") -> Conversation:
    """The messages as a Conversation, or a ConversationError that names the message and the fault."""
    if isinstance(messages, Mapping) and "messages" in messages:
        return check_conversation(messages["messages"], source)
    if not isinstance(messages, (list, tuple)):
        raise ConversationError(f"{source}: expected a list of messages, found {type(messages).__name__}")
    if not messages:
        raise ConversationError(f"{source}: the conversation has no message; remove it from the file")
    for index, message in enumerate(messages):
        place = f"{source}, message {index}"
        if not isinstance(message, Mapping):
            raise ConversationError(f"{place}: expected an object with role and content, found {message!r:.60}")
        role = message.get("role")
        if role not in ROLES:
            raise ConversationError(f"{place}: unknown role {role!r}; known roles are {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str):
            raise ConversationError(
                f"{place}: content is {message.get('content')!r:.60}, not a string; "
                'write "" for an empty message, or remove it'
            )
        if not isinstance(message.get("train", True), bool):
            raise ConversationError(f"{place}: train is {message['train']!r:.60}; write true or false")
    source = getattr(messages, "source", "") or source
    return Conversation(messages, source, getattr(messages, "tools", None))


def load_conversations(path: str | Path) -> list[Conversation]:
    """Read a JSONL file of `{"messages": [...]}` objects.

    Returns one Conversation for each non-blank line; raises ConversationError with file, line and message.
    """
    path = Path(path)
    conversations = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            source = f"{path.name}:{number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConversationError(f"{source}, column {error.colno}: not valid JSON ({error.msg})") from None
            if not isinstance(record, Mapping) or "messages" not in record:
                raise ConversationError(f"{source}: expected an object with the key messages")
            conversations.append(check_conversation(record["messages"], source))
    if not conversations:
        raise ConversationError(f"{path.name}: the file holds no conversation")
    return conversations
