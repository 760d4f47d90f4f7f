"""Any Hugging Face chat template as a Template: its text, and of every character what it is.

Rule of this file: what is trained is what the template says with {% generation %}, whoever speaks there (transformers'
return_assistant_tokens_mask), and where it says nothing, what the model would write: from the end of the prompt that
the template itself makes for a turn, to the token that ends it. Hugging Face gives a mask of zeros there (marin#7237)
and others trained on everything (Megatron-Bridge#3359). Contents are followed through the template by provenance
(tracked.py), so that no text can pass for structure.

A template that rewrites history (strips <think> of earlier turns) is not prefix-preserving; spans are those of the text
as it stands, never of prefixes put together (tinker-cookbook#142).
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from sftspec.spans import DATA_KINDS, WRITTEN_KINDS, Piece, TemplateError
from sftspec.templates import Template

# Of processor time, for one rendering, and for all renderings of one conversation.
SECONDS_ONCE = 0.5
SECONDS, SECONDS_PER_MESSAGE, SECONDS_PER_CHARACTER = 0.5, 0.02, 0.2e-6
# So that nothing hangs. Where the kernel counts no processor time this is the only limit, so it is a short one.
WALL_SECONDS = 60.0 if hasattr(signal, "setitimer") else 5.0
PIPE_BYTES = 2**15  # a pipe takes these at once, whoever reads
BATCH = 40  # conversations of a request
AFTERWARDS = [{"role": "user", "content": "x"}]
CLOCK_RAN_OUT = -getattr(signal, "SIGPROF", 0)  # the exit code of a worker that the kernel ended for its time

GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
# Names by which a source reads a field: gpt-oss reads thoughts as `thinking`, and is given them as that.
PLACES = {
    "tools": re.compile("tools"),
    "tool_calls": re.compile("tool_calls"),
    "reasoning_content": re.compile(r"reasoning_content|\bmessage(\.thinking\b|\[['\"]thinking['\"]\])"),
}
FIRST_TOKEN, LAST_TOKEN = re.compile(r"\s*<[^<>]*>"), re.compile(r"<[^<>]*>(?=\s*\Z)")
HALF_TOKEN = re.compile(r"<[^<>]*\Z")


class RenderBudgetError(TemplateError):
    """A template used up its processor time or its memory."""


class _Worker:
    """The process that renders; started when first needed, anew after a fork and after it was ended."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.owner = 0
        self.lock = threading.Lock()

    def ask(self, request: dict, seconds: float) -> dict:
        """The reply of the worker, which has so many seconds of processor time for it."""
        # \ud800 in JSON is half of a surrogate pair, which has no bytes of its own.
        lines = f"{seconds}\n{json.dumps(request, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace")
        with self.lock:
            if self.process is None or self.owner != os.getpid() or self.process.poll() is not None:
                self._start()
            at_once = os.name == "posix" and len(lines) <= PIPE_BYTES
            line = (self._answer if at_once else self._answer_of_thread)(lines)
            return json.loads(line) if line else self._ended(seconds)

    def _answer(self, lines: bytes) -> bytes:
        """The line that the process answers to what its pipe holds at once, which costs no thread; b"" if none."""
        process: Any = self.process
        deadline, line = time.monotonic() + WALL_SECONDS, b""
        try:
            process.stdin.write(lines)
            process.stdin.flush()
            while not line.endswith(b"\n"):
                left = max(0.0, deadline - time.monotonic())
                part = (
                    os.read(process.stdout.fileno(), 2**16) if select.select([process.stdout], [], [], left)[0] else b""
                )
                if not part:
                    return b""
                line += part
        except (OSError, ValueError):
            return b""
        return line

    def _answer_of_thread(self, lines: bytes) -> bytes:
        """The same for what may fill the pipe, or where pipes cannot be waited for."""
        replies: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._exchange, args=(self.process, lines, replies), daemon=True).start()
        try:
            return replies.get(timeout=WALL_SECONDS)
        except queue.Empty:
            return b""

    def _ended(self, seconds: float) -> dict:
        """Raise what became of a process that did not answer."""
        code = self.stop()
        if code == CLOCK_RAN_OUT:
            raise RenderBudgetError(f"rendering took more than {seconds:.2g} seconds of processor time")
        raise RenderBudgetError(
            f"rendering was ended: no answer within {WALL_SECONDS:.0f} seconds, or too much memory (exit code {code})"
        )

    @staticmethod
    def _exchange(process: Any, lines: bytes, replies: queue.Queue[bytes]) -> None:
        try:
            process.stdin.write(lines)
            process.stdin.flush()
            replies.put(process.stdout.readline())
        except (OSError, ValueError):
            replies.put(b"")

    def _start(self) -> None:
        command = [sys.executable, "-X", "utf8", "-m", "sftspec.jinja_worker"]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process, self.owner = subprocess.Popen(command, **pipes), os.getpid()

    def stop(self) -> int:
        """End the process. Returns its exit code; negative: the signal that ended it."""
        code = 0
        if self.process is not None and self.owner == os.getpid():
            self.process.kill()
            code = self.process.wait()
        self.process = None
        return code


_worker = _Worker()
atexit.register(_worker.stop)


@dataclass
class Call:
    """What all renderings of one conversation share: its tools, and the processor time that is left for them."""

    tools: list | None
    left: float
    started: float | None = None  # by the first rendering: what is remembered takes none

    @classmethod
    def of(cls, messages: list[dict]) -> Call:
        """With the patience that a conversation of this size is given."""
        size = sum(len(message["content"] or "") for message in messages)
        patience = SECONDS + SECONDS_PER_MESSAGE * len(messages) + SECONDS_PER_CHARACTER * size
        return cls(getattr(messages, "tools", None), patience)

    def ask(self, name: str, request: dict) -> dict:
        """The reply of the worker. Its time and that of this thread, which takes the text apart, are one budget."""
        now = time.thread_time()
        self.started = now if self.started is None else self.started
        left = self.left - (now - self.started)
        if left <= 0:
            raise RenderBudgetError(f"{name}: rendering one conversation, turn by turn, took too much processor time")
        reply = _worker.ask(request, max(0.01, min(left, SECONDS_ONCE)))
        self.left -= reply["seconds"]
        return reply


class Run(NamedTuple):
    """A stretch of rendered text of one origin; kind "" was made by the template, block 0 is none that it marks."""

    text: str
    kind: str
    message: int
    block: int


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja source with its variables, as a generator of pieces."""

    source: str
    name: str
    variables: dict[str, Any]

    def with_arguments(self, arguments: Mapping[str, Any]) -> ChatTemplate:
        """The same template, given other variables (a record's chat_template_kwargs)."""
        return replace(self, variables=self.variables | dict(arguments))

    def runs(self, messages: Sequence[dict], generation_prompt: bool, call: Call) -> list[Run]:
        return self._rendered(messages, generation_prompt, call, plain=False)

    def text(self, messages: Sequence[dict], generation_prompt: bool, call: Call) -> str:
        """The text alone: whose each character is, is not followed, which is several times as fast."""
        return self._rendered(messages, generation_prompt, call, plain=True)

    def _rendered(self, messages: Sequence[dict], generation_prompt: bool, call: Call, plain: bool) -> Any:
        asked = self.request(messages, generation_prompt, call.tools, plain)
        return self.read(call.ask(self.name, {"source": self.source, **asked}))

    def request(self, messages: Sequence[dict], generation_prompt: bool, tools: list | None, plain: bool) -> dict:
        """What the worker is asked, beside the source."""
        options = {"tools": tools, "documents": None, "add_generation_prompt": generation_prompt}
        return {"messages": list(messages), "options": options | self.variables, "plain": plain}

    def read(self, reply: dict) -> Any:
        """The text or the runs that a reply holds; raises TemplateError where it holds an error."""
        if "error" in reply:
            raise TemplateError(f"{self.name}: {reply['error']}")
        return reply["text"] if "text" in reply else [Run(*run) for run in reply["runs"]]

    def __call__(self, messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
        return self.pieces(messages, add_generation_prompt, Call.of(messages))

    def pieces(self, messages: list[dict], add_generation_prompt: bool, call: Call) -> Iterator[Piece]:
        runs = self.runs(messages, add_generation_prompt, call)
        marked = _by_blocks(runs, messages) if self.has_marks else self._by_prompts(runs, messages, call)
        yield from self.named(marked, messages, add_generation_prompt, call)

    @cached_property
    def has_marks(self) -> bool:
        """It says itself what is trained."""
        return GENERATION.search(self.source) is not None

    def named(self, runs: list[Run], messages: list[dict], add_generation_prompt: bool, call: Call) -> Iterator[Piece]:
        """The runs as pieces."""
        end = len(self.text(messages, False, call)) if add_generation_prompt else len(_text(runs))
        answers = {index for index, message in enumerate(messages) if message["role"] == "assistant"}
        return _pieces(runs, end, self.variables.get("bos_token") or "", answers)

    def _by_prompts(self, runs: list[Run], messages: list[dict], call: Call) -> list[Run]:
        """Without {% generation %}: a turn is what comes after the prompt for it, up to what ends every turn."""
        whole = _text(runs)
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self._prompt(messages[:index], call)
            start, end = _answer(runs, index, prompt)
            closing = self._closing(messages, index, whole, end, prompt, call) if start >= 0 else ""
            if start < 0 or not whole.startswith(closing, end):
                raise TemplateError(
                    f"message {index}: {self.name} does not show where this answer begins and ends; "
                    "put {% generation %} and {% endgeneration %} around what the model writes"
                )
            end += len(closing)
            runs = [
                run._replace(block=1, message=index) if start <= at and at + len(run.text) <= end else run
                for at, run in _placed(runs, start, end)
            ]
        return runs

    def _closing(self, messages: list[dict], index: int, whole: str, end: int, prompt: str, call: Call) -> str:
        """What the template writes after an answer, whether the conversation ends with it or goes on.

        whole, end: the text of all messages, and where in it the answer ends.
        """
        talk, is_last = messages[: index + 1], index + 1 == len(messages)
        tails = [
            whole[end:] if is_last else self._tail(talk, index, whole[:end], prompt, call),
            self._tail([*talk, *AFTERWARDS], index, whole[:end], prompt, call),
        ]
        shared = HALF_TOKEN.sub("", _common_prefix(*tails)).rstrip()
        first = FIRST_TOKEN.match(tails[1])
        # Where the two have nothing in common (gpt-oss: <|return|> or <|end|>), each ends in its own way.
        return shared or (tails[0].rstrip() if is_last else first.group() if first and tails[0].strip() else "")

    def _tail(self, talk: list[dict], index: int, before: str, prompt: str, call: Call) -> str:
        """What is written after an answer of a shorter conversation.

        Where its text begins as that of the whole one, up to the answer's end, the answer ends there too, and needs no
        provenance to be found.
        """
        text = self.text(talk, False, call)
        if text.startswith(before):
            return text[len(before) :]
        runs = self.runs(talk, False, call)
        return _text(runs)[_answer(runs, index, prompt)[1] :]

    def _prompt(self, messages: Sequence[dict], call: Call) -> str:
        """The prompt for the next turn; "" where the template makes none."""
        try:
            return self.text(messages, True, call) if messages else ""
        except RenderBudgetError:
            raise
        except TemplateError:
            return ""


def _text(runs: list[Run]) -> str:
    return "".join(run.text for run in runs)


def _placed(runs: list[Run], *cuts: int) -> Iterator[tuple[int, Run]]:
    """The runs with their positions, cut where asked."""
    position, left = 0, sorted(cuts, reverse=True)
    for run in runs:
        stop = position + len(run.text)
        while left and left[-1] < stop:
            if (cut := left.pop()) > position:
                yield position, run._replace(text=run.text[: cut - position])
                run, position = run._replace(text=run.text[cut - position :]), cut
        yield position, run
        position = stop


def _answer(runs: list[Run], index: int, prompt: str) -> tuple[int, int]:
    """Where an answer begins, which is the end of its prompt, and where what the message says ends.

    (-1, -1) where neither the prompt nor the message occurs.
    """
    places = [(at, at + len(run.text)) for at, run in _placed(runs) if run.message == index and run.kind in DATA_KINDS]
    start, end = (places[0][0], places[-1][1]) if places else (-1, -1)
    if prompt and _text(runs).startswith(prompt):
        return len(prompt), max(end, len(prompt))
    return start, end


def _common_prefix(one: str, other: str) -> str:
    length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return one[:length]


def _by_blocks(runs: list[Run], messages: list[dict]) -> list[Run]:
    """What stands in a {% generation %} block is trained, whoever says it; each block by itself.

    The template's own text in it belongs to the message that spoke last in the block, before anyone did to the first
    that will, and in a block where no one speaks to the next assistant's.
    """
    assistants = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    found: list[Run] = []
    last = -1
    for number, group in groupby(runs, key=lambda run: run.block):
        block = list(group)
        if number:
            speakers = (run.message for run in block if run.message >= 0)
            last = next(speakers, next((index for index in assistants if index > last), last))
        for run in block:
            if number:
                last = run.message if run.message >= 0 else last
                others = run.kind in DATA_KINDS and last not in assistants
                found.append(run._replace(message=last, kind="marked" if others else run.kind))
            elif run.kind in WRITTEN_KINDS and run.message in assistants:
                # What an assistant says outside of its block is given to it, not written by it.
                found.append(run._replace(kind="given"))
            else:
                found.append(run)
    return found


def _pieces(runs: list[Run], end: int, bos: str, answers: set[int]) -> Iterator[Piece]:
    """Name what each run is; from `end` on it is the generation prompt."""
    opening = len(bos) if _text(runs).startswith(bos) else 0
    placed = list(_placed(runs, opening, end))
    pieces: list[Piece] = []
    following = -1
    for at, run in reversed(placed):
        following = run.message if run.message >= 0 else following
        if at < opening:
            pieces.append(("bos", -1, run.text))
        elif at >= end and run.text:
            pieces.append(("generation_prompt", -1, run.text))
        elif run.kind in DATA_KINDS:
            pieces.append((run.kind, run.message, run.text))
        else:
            pieces.append(("generated" if run.block else "header", following, run.text))
    merged = [
        (kind, message, "".join(text for _, _, text in group))
        for (kind, message), group in groupby(reversed(pieces), key=lambda piece: piece[:2])
    ]
    following_pieces = [*merged, ("", -1, "")][1:]
    for (kind, message, text), after in zip(merged, following_pieces, strict=True):
        if kind == "generated" and message in answers and (after[0] not in WRITTEN_KINDS or after[1] != message):
            yield from _closing(message, text)
        else:
            yield kind, message, text


def _closing(message: int, text: str) -> Iterator[Piece]:
    """What a model writes last: tags and spaces of its own, the token that ends the turn, perhaps a newline."""
    found = LAST_TOKEN.search(text)
    start, stop = found.span() if found else (0, len(text.rstrip()))
    if start:
        yield "generated", message, text[:start]
    yield "end_of_turn", message, text[start:stop]
    if text[stop:]:
        yield "generated", message, text[stop:]


def jinja_template(source: str, name: str = "jinja", **variables: Any) -> Template:
    """A Template from the source of a chat template.

    Args:
        source: Jinja, as in `tokenizer.chat_template`.
        name: for errors.
        variables: what the template is given beside messages, such as bos_token, eos_token, enable_thinking.
    Raises:
        TemplateError, on the first rendering, with Jinja's line and message.

    >>> source = "{% for message in messages %}{{ message.role }}: {{ message.content }}</s>{% endfor %}"
    >>> jinja_template(source, "mine").end_of_turn
    '</s>'
    """
    chat = ChatTemplate(source, name, variables)
    call = Call(None, SECONDS)
    first, both = _tried(chat, QUESTION[:2], call), _tried(chat, QUESTION, call)
    ends = [text for kind, _, text in first if kind == "end_of_turn"]
    texts = ["".join(text for _, _, text in pieces) for pieces in (first, both)]
    return Template(
        name=name,
        pieces=chat,
        control=(),
        end_of_turn=ends[-1] if ends else "",
        bos=variables.get("bos_token") or "",
        places=frozenset(field for field, name in PLACES.items() if name.search(source)),
        prefix_preserving=texts[1].startswith(texts[0]),
    )


# Two questions, the first answered with a thought that some templates take out when the second is asked.
QUESTION = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "<think>\nb\n</think>\n\nc"},
    {"role": "user", "content": "d"},
    {"role": "assistant", "content": "e"},
]


def _tried(chat: ChatTemplate, messages: list[dict], call: Call) -> list[Piece]:
    try:
        return list(chat.pieces(messages, False, call))
    except RenderBudgetError:
        raise
    except TemplateError:
        return []


def load_jinja_template(path: Path, **variables: Any) -> Template:
    """The chat template of a tokenizer directory, of its tokenizer_config.json, or of a file with the Jinja source.

    >>> import tempfile
    >>> source = "{% for message in messages %}{{ message.role }}: {{ message.content }}</s>{% endfor %}"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "mine.jinja")
    ...     _ = path.write_text(source)
    ...     load_jinja_template(path).name
    'mine'
    """
    config: dict[str, Any] = {}
    directory = path if path.is_dir() else path.parent
    if path.is_dir() or path.name == "tokenizer_config.json":
        config_path = directory / "tokenizer_config.json"
        config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.exists() else {}
    if path.is_dir():
        path = directory / "chat_template.jinja"
    if path.suffix == ".json" or not path.exists():
        source = config.get("chat_template")
        if isinstance(source, list):  # several templates under names
            source = {entry["name"]: entry["template"] for entry in source}.get("default")
        if not isinstance(source, str):
            raise TemplateError(
                f"{directory}: no chat template, neither chat_template.jinja nor in tokenizer_config.json"
            )
    else:
        source = path.read_text(encoding="utf-8")
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = config.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            variables.setdefault(key, token)
    return jinja_template(source, path.stem if path.suffix == ".jinja" and not config else directory.name, **variables)
