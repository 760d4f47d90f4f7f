"""A conversation is a list of messages, and nothing of it is lost on the way in.

Rule of this file: what cannot be read exactly is refused with its place (file, line, message) and what to do. A reader
that skips what it does not understand trains another data set than the one that was given to it. Empty contents and
roles in any order are legal here; what order a template allows is the template's matter.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sftspec import fields
from sftspec.weights import read_spans

ROLES = ("system", "user", "assistant", "tool")
MAX_DEPTH = 64  # of the JSON in tools and tool_calls; real schemas stay under 20

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


class ConversationError(ValueError):
    """A conversation that cannot be trained on as it stands; says where it is, what is wrong and what to do."""


class Conversation(list):
    """A list of message dicts (`role`, `content`, optional `train`, `tool_calls`), with the place it was read from.

    source              where it came from, such as "data.jsonl:12" ("" when made in memory)
    tools               tool definitions for the template, or None
    template_arguments  what the template is given beside them (chat_template_kwargs), or None
    remarks             what of its record was read under another name, or not read

    >>> Conversation([{"role": "user", "content": "Hi"}], "a.jsonl:3").source
    'a.jsonl:3'
    """

    def __init__(
        self,
        messages: Iterable[Mapping[str, Any]] = (),
        source: str = "",
        tools: list | None = None,
        template_arguments: dict[str, Any] | None = None,
        remarks: Iterable[str] = (),
    ):
        super().__init__(dict(message) for message in messages)
        self.source = source
        self.tools = tools
        self.template_arguments = template_arguments
        self.remarks = tuple(remarks)

    @property
    def messages(self) -> list[dict]:
        return list(self)


def check_conversation(messages: Any, source: str = "conversation", tools: list | None = None) -> Conversation:
    """The messages as a Conversation, or a ConversationError that names the message and the fault.

    Takes a list of messages or an object `{"messages": …, "tools": …}`. Text parts of a content (OpenAI) are joined,
    training flags become `train`, thoughts become `reasoning_content` (fields.py); everything else stays as it is.

    >>> list(check_conversation([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]))
    [{'role': 'user', 'content': 'Hi'}]
    >>> check_conversation([{"role": "user", "content": 7}], "a.jsonl:3")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    sftspec.conversation.ConversationError: a.jsonl:3, message 0: content is 7, not a string; ...
    """
    if isinstance(messages, Mapping) and "messages" in messages:
        messages, tools = messages["messages"], tools or messages.get("tools")
    if not isinstance(messages, (list, tuple)):
        raise ConversationError(
            f"{source}: expected a list of messages, found {type(messages).__name__}{what_to_write(messages)}"
        )
    untouched = messages and not tools and all(map(_is_plain, messages))
    if untouched and isinstance(messages, Conversation) and not messages.tools:
        return messages
    source = getattr(messages, "source", "") or source
    if not messages:
        raise ConversationError(f"{source}: the conversation has no message; remove it from the file")
    tools = tools or getattr(messages, "tools", None)
    remarks: dict[str, None] = dict.fromkeys(getattr(messages, "remarks", ()))
    checked = [
        message if _is_plain(message) else _check_message(message, f"{source}, message {index}", remarks)
        for index, message in enumerate(messages)
    ]
    tools = _check_tools(tools, source) if tools else None
    return Conversation(checked, source, tools, getattr(messages, "template_arguments", None), remarks)


def what_to_write(value: Any) -> str:
    """What to do about a value where a list of messages was expected ("": that cannot be told).

    >>> what_to_write('[{"role": "user", "content": "Hi"}]')
    ' (JSON in a string: parse it first)'
    """
    if isinstance(value, (str, bytes)) and value[:1] in ("[", "{", b"[", b"{"):
        return " (JSON in a string: parse it first)"
    if isinstance(value, Mapping) and any(isinstance(item, list) for item in value.values()):
        return " (a list for each field: write a list of objects with role and content)"
    return ""


def _is_plain(message: Any) -> bool:
    """Nothing to check: a role, an ASCII content, no other field. Most messages of most files are that."""
    return (
        type(message) is dict
        and len(message) == 2
        and message.get("role") in ROLES
        and isinstance(message.get("content"), str)
        and message["content"].isascii()
    )


def _check_message(message: Any, place: str, remarks: dict[str, None]) -> Mapping:
    def refuse(said: str) -> ConversationError:
        return ConversationError(f"{place}: {said}")

    if not isinstance(message, Mapping):
        hint = "; a record holds one conversation" if isinstance(message, list) and _has_roles(message) else ""
        raise refuse(f"expected an object with role and content, found {shown(message)}{hint}")
    role = message.get("role")
    if role is None and "from" in message:
        raise refuse("from and value are ShareGPT's; write role and content, or name the list conversations")
    if role not in ROLES:
        known = f"known roles are {', '.join(ROLES)}"
        named = role.strip().lower() if isinstance(role, str) else ""
        hint = named if named in ROLES else fields.OTHER_ROLES.get(named, "")
        raise refuse(f"unknown role {shown(role)}; {f'write {hint}; ' if hint else ''}{known}")
    content = message.get("content")
    if isinstance(content, list):
        content, thought, spans = fields.read_parts(content, refuse)
        message = {**message, "content": content}
        if spans is not None:
            message["weight_spans"] = spans
        if thought is not None:
            if not fields.is_void(message.get("reasoning_content")):
                raise refuse("a thought stands in the content and in reasoning_content; keep one")
            message["reasoning_content"] = thought
    if isinstance(content, str):
        check_text(content, place)
    elif content is not None or not (message.get("tool_calls") or message.get("function_call")):
        raise refuse(f'content is {shown(content)}, not a string; write "" for an empty message, or remove it')
    if "content" not in message:
        message = {**message, "content": None}
    return _check_optional(message, place, refuse, remarks) if len(message) > 2 else message


def _has_roles(items: list) -> bool:
    return any(isinstance(item, Mapping) and "role" in item for item in items)


def _check_optional(message: Mapping, place: str, refuse: fields.Refuse, remarks: dict[str, None]) -> Mapping:
    if message.get("function_call"):
        raise refuse("function_call is OpenAI's old form; write tool_calls with one function")
    for key in ("refusal", "tools", "functions"):
        if not fields.is_void(message.get(key)):
            where = "as content" if key == "refusal" else "beside the messages, as tools"
            raise refuse(f"{key} in a message is not read; write it {where}")
    fields.refuse_media(message, refuse)
    weight, thought = fields.read_weight(message, refuse), fields.read_thoughts(message, refuse)
    train = None if weight is None or weight not in (0, 1) else bool(weight)
    spans = read_spans(message, refuse)
    flag = "train" if weight in (0, 1) else "weight"
    known = {**dict.fromkeys(fields.FLAGS, flag), **dict.fromkeys(fields.THOUGHTS, "reasoning_content"),
             **dict.fromkeys(fields.SPANS, "weight_spans")}  # fmt: skip
    for key in message:
        if key in known and key not in ("train", known[key]) and not fields.is_void(message[key]):
            remarks[f"{key} is read as {known[key]}"] = None
    if train and message["role"] != "assistant":
        remarks[f"train is true on a message from {message['role']}: only the policy every-token trains that"] = None
    named = {"name"} if message["role"] == "tool" else set()  # of the tool, which its call names as well
    for key in fields.unread(message, fields.OWN | fields.MESSAGE_METADATA | named):
        remarks[f"{key} of a message is not read, unless the template does"] = None
    # Of all names one is left, and that says all: templates and masks need look nowhere else.
    message = {key: value for key, value in message.items() if key not in known or key == "reasoning_content"}
    read = {"train": train, "weight": None if train is not None else weight, "weight_spans": spans}
    message |= {key: value for key, value in read.items() if value is not None}
    if thought is not None:
        message["reasoning_content"] = thought
    if thought:
        check_text(thought, place)
    if message.get("tool_calls"):
        _check_tool_calls(message, place, remarks)
    return message


def shown(value: Any) -> str:
    """A value as an error shows it: short, whatever its size and depth.

    >>> shown([1, 2])
    '[1, 2]'
    >>> len(shown("long " * 1000)) < 200
    True
    """
    try:
        return _short.repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"


def check_text(text: str, place: str) -> None:
    """Refuse what no tokenizer can encode: half of a surrogate pair.

    >>> check_text("naïve", "a.jsonl:3")
    >>> check_text(chr(0xD800), "a.jsonl:3")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    sftspec.conversation.ConversationError: a.jsonl:3: character 0 is a lone surrogate ...
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConversationError(
            f"{place}: character {error.start} is a lone surrogate ({text[error.start]!a}), which is no text; "
            "repair the source, or replace it with U+FFFD"
        ) from None


def _check_tool_calls(message: Mapping, place: str, remarks: dict[str, None]) -> None:
    if message["role"] != "assistant":
        raise ConversationError(
            f"{place}: tool_calls in a message from {message['role']}; only an assistant calls tools"
        )
    calls = message["tool_calls"]
    if not isinstance(calls, list):
        raise ConversationError(f"{place}: tool_calls is {shown(calls)}, not a list")
    for number, call in enumerate(calls):
        here = f"{place}, tool call {number}"
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ConversationError(
                f'{here}: expected {{"function": {{"name": …, "arguments": …}}}}, found {shown(call)}'
            )
        if not isinstance(function.get("arguments"), (Mapping, str)):
            raise ConversationError(f"{here}: arguments is {shown(function.get('arguments'))}; write an object")
        _check_json(function, here)
        if isinstance(function["arguments"], str) and not _is_object(function["arguments"]):
            remarks["the arguments of a call are a text that is no JSON object, and are written as they are"] = None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _check_tools(tools: Any, source: str) -> list:
    if not isinstance(tools, (list, tuple)):
        raise ConversationError(f"{source}: tools is {shown(tools)}; write a list of JSON schemas")
    for number, tool in enumerate(tools):
        place = f"{source}, tool {number}"
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ConversationError(
                f'{place}: expected {{"type": "function", "function": {{"name": …, …}}}}, found {shown(tool)}'
            )
        _check_json(tool, place)
    return list(tools)


def _check_json(value: Any, place: str, depth: int = 0) -> None:
    """Refuse what JSON cannot say, and depth that would exhaust the stack of whoever writes it."""
    if depth > MAX_DEPTH:
        raise ConversationError(f"{place}: more than {MAX_DEPTH} levels of nesting; flatten it")
    if isinstance(value, str):
        check_text(value, place)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ConversationError(f"{place}: the key {shown(key)} is not a string")
            check_text(key, place)
            _check_json(item, place, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_json(item, place, depth + 1)
    elif isinstance(value, float) and not -float("inf") < value < float("inf"):
        raise ConversationError(f"{place}: {shown(value)} is no JSON number; write a string or null")
    elif not (value is None or isinstance(value, (bool, int, float))):
        raise ConversationError(f"{place}: {shown(value)} is a {type(value).__name__}, which JSON cannot say")


def load_conversations(path: str | Path, drop_nulls: bool = False) -> list[Conversation]:
    """Read a file of conversations, in any of the forms of `sftspec.formats`.

    JSON Lines (one record a line, blank lines between them ignored), or one JSON document with a list of records;
    UTF-8, with or without a byte order mark. `drop_nulls` leaves out nulls in tool calls and tools, which Arrow puts
    there. Returns one Conversation for each record. Raises ConversationError with file, line and message.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "data.jsonl")
    ...     _ = path.write_text('{"messages": [{"role": "user", "content": "Hi"}]}')
    ...     load_conversations(path)[0].source
    'data.jsonl:1'
    """
    from sftspec.formats import read_record

    path = Path(path)
    conversations = [read_record(record, source, drop_nulls) for source, record in _records(path)]
    if not conversations:
        raise ConversationError(f"{path.name}: the file holds no conversation")
    return conversations


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    opening = data.lstrip()[:1]
    if opening == b"[" or (opening == b"{" and path.suffix == ".json"):
        try:
            document = parse_json(data, path.name)
        except ConversationError:
            # Several JSON values in one file are lines; what is wrong with one of them is said with its number.
            if len(data.split(b"\n", 1)[0].strip()) <= 1 or b"\n" not in data.strip():
                raise
        else:
            yield from _records_of_document(document, path.name)
            return
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            source = f"{path.name}:{number}"
            yield source, parse_json(line, source)


def _records_of_document(document: Any, name: str) -> Iterator[tuple[str, Any]]:
    is_one = not isinstance(document, list) or (document and isinstance(document[0], Mapping) and "role" in document[0])
    if is_one:
        yield name, document
    else:
        for number, record in enumerate(document):
            yield f"{name}, record {number}", record


def parse_json(data: bytes, source: str) -> Any:
    """Strict JSON: no duplicate keys (one of the two values would be lost), no NaN, no other encoding than UTF-8.

    >>> parse_json(b'{"a": 1}', "a.jsonl:3")
    {'a': 1}
    >>> parse_json(b'{"a": 1, "a": 2}', "a.jsonl:3")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    sftspec.conversation.ConversationError: a.jsonl:3: the key 'a' is there twice, ...
    """
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ConversationError(f"{source}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if error.lineno > 1 else ""
        said = f"not valid JSON ({error.msg}){_what_it_may_be(error)}"
        raise ConversationError(f"{source}{line}, column {error.colno}: {said}") from None
    except RecursionError:
        raise ConversationError(f"{source}: nested too deeply to be read; flatten it") from None
    except ValueError as error:
        raise ConversationError(f"{source}: {error}") from None


def _what_it_may_be(error: json.JSONDecodeError) -> str:
    """What stands there in place of JSON, and what to do, where that can be told."""
    text, before, after = error.doc.lstrip(), error.doc[: error.pos].rstrip(" \t\n"), error.doc[error.pos :]
    if error.msg == "Extra data" and text[:1] in ("{", "["):
        if after[:1] == ",":
            return "; remove the comma: nothing stands between the lines of JSON Lines"
        if before.endswith("\r"):
            return "; its lines end in CR alone: save the file with LF"
        return "; one value a line, or all of them in one list" if after[:1] in ("{", "[") else ""
    if text[:2] in ("{'", "['"):
        return "; this is Python's repr: write it with json.dumps"
    return "" if text[:1] in ("{", "[") else "; a line holds one object; CSV, YAML and plain text are not read"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict:
    record = dict(pairs)
    if len(record) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} is there twice, and one value would be lost; remove one")
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number; write a string or null")
