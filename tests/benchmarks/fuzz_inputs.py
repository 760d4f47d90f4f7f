"""Hostile inputs by the hundred thousand: a clear error or a correct result, no crash, no hang, no code run.

    python tests/benchmarks/fuzz_inputs.py --inputs 1000000 --seed 0

Four kinds of input, drawn in fixed shares: files (records damaged byte by byte, nested, doubled, in the wrong form),
conversations (every control string, surrogates, nulls, values of the wrong type), chat templates (damaged real ones,
attempts to reach Python, endless loops) and contents of ten megabytes. A clear error is one of the errors that sftspec
documents, short enough to be read. A result is checked against what it was made from. An input that takes more than a
second is tried twice more, and its time is divided by how much slower than alone the machine is just then: a busy
machine is no hang. Exits with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sftspec import encode, load_conversations, render
from sftspec.conversation import ROLES, ConversationError
from sftspec.golden.conversations import CONTROL
from sftspec.golden.small_tokenizer import load
from sftspec.jinja_templates import jinja_template
from sftspec.masking import IGNORE, EncodingError
from sftspec.templates import TEMPLATES, TemplateError

CLEAR = (ConversationError, TemplateError, EncodingError)
LONGEST_ERROR = 2000
SECONDS = 1.0

CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED = (
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content | trim }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
)
ATTACKS = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch CANARY') }}",
    "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}",
    "{{ messages.__class__.__base__.__subclasses__()[0] }}",
    "{{ raise_exception.__globals__['json'].__builtins__.open('CANARY', 'w') }}",
    "{{ strftime_now.__self__.__class__.__base__.__subclasses__() }}",
    "{{ ('%c' * 3) | format(1, 2, 3) }}{{ '{0.__class__}'.format(messages) }}",
    "{% set x = messages.append({'role': 'user', 'content': 'x'}) %}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{% include '/etc/passwd' %}{% import 'os' as os %}{% extends 'CANARY' %}",
    "{{ messages | attr('__class__') }}{{ (messages | string).encode().decode('utf-7') }}",
)
ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{{ c }}{% endfor %}{% endfor %}"
    "{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ ('a' * 100000) | wordwrap(1) | center(10**9) }}",
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
)
SYNTAX = ("{%", "%}", "{{", "}}", "{#", "'", "|", " if ", "\n", ".x", "[0]", "~", "\ud800", "")
BYTES = (b"\xff", b"\x00", b"\n", b'"', b"{", b"]", b"\\ud800", b"NaN", b"\xed\xa0\x80", b"")
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, 10**40, "", " ", "\ud800", "a\udfffb", "\x00", "\u202e", "\ufeff", "é", "e\u0301", "👩‍👧",
    [], {}, [None], {"type": "text", "text": "x"}, [{"type": "text", "text": "x"}], [{"type": "image"}], "user", "bot",
)  # fmt: skip
KEYS = (
    "messages", "conversations", "role", "content", "from", "value", "instruction", "input", "output", "response",
    "context", "prompt", "completion", "system", "tools", "history", "train", "weight", "tool_calls", "function_call",
    "reasoning_content", "name", "id",
)  # fmt: skip
CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": [1, "<|im_end|>"]}}}
RECORDS: tuple[Any, ...] = (
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}], "tools": [CALL]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
    {"instruction": "a", "input": "i", "output": "b", "history": [["q", "r"]]},
    {"instruction": "a", "context": "c", "response": "b"},
    {"prompt": "a", "completion": "b"},
    {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
)


class Wrong(AssertionError):
    """A result that is not what it was made from."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Wrong(what)


def text(chance: random.Random) -> str:
    pieces = [*CONTROL, "<think>", "</think>", "<tool_call>", " ", "\n", "é", "\u0301", "{{ 7 * 7 }}", "]{", "x" * 99]
    if chance.random() < 0.02:
        pieces += ["\ud83d", "\udc00"]
    return "".join(chance.choices(pieces, k=chance.randrange(6)))


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.random()
    if depth > 3 or kind < 0.5:
        return chance.choice(VALUES) if kind < 0.25 else text(chance)
    if kind < 0.75:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(KEYS): value(chance, depth + 1) for _ in range(chance.randrange(5))}


def damaged(chance: random.Random, record: Any) -> Any:
    """A copy with one of its values replaced, a key taken away, or a key added."""
    if isinstance(record, dict) and record and chance.random() < 0.8:
        key = chance.choice(list(record))
        fate = chance.random()
        if fate < 0.15:
            return {name: item for name, item in record.items() if name != key}
        if fate < 0.3:
            return {**record, chance.choice(KEYS): value(chance)}
        return {**record, key: damaged(chance, record[key])}
    if isinstance(record, list) and record and chance.random() < 0.8:
        place = chance.randrange(len(record))
        return [*record[:place], damaged(chance, record[place]), *record[place + 1 :]]
    return value(chance)


def file_bytes(chance: random.Random) -> bytes:
    lines = [chance.choice(RECORDS) for _ in range(chance.randrange(1, 4))]
    lines = [damaged(chance, line) if chance.random() < 0.6 else line for line in lines]
    data = b"\n".join(json.dumps(line, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
                      for line in lines)  # fmt: skip
    fate = chance.random()
    if fate < 0.4:
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(data) + 1)
            data = data[:place] + chance.choice(BYTES) + data[place + chance.randrange(3) :]
    elif fate < 0.43:
        depth = chance.choice([70, 1000, 100_000])
        data = data.replace(b'"a"', b"[" * depth + b"]" * depth, 1)
    return data


def try_file(chance: random.Random, folder: Path) -> Callable[[], None]:
    path = folder / chance.choice(["data.jsonl", "data.json"])
    path.write_bytes(file_bytes(chance))

    def attempt() -> None:
        for conversation in load_conversations(path):
            require(bool(conversation) and all(message["role"] in ROLES for message in conversation), "a role")
            require(conversation.source.startswith(path.name), "the source")

    return attempt


def talk(chance: random.Random, content: Callable[[random.Random], Any] = text) -> list:
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": content(chance)} for index in range(chance.randrange(1, 6))]
    if chance.random() < 0.4:
        messages.insert(0, {"role": "system", "content": content(chance)})
    return messages


def check_encoded(messages: list, template: Any, prompt: bool, special_tokens: str, tokenization: str) -> None:
    rendered = render(messages, template, prompt)
    require("".join(rendered.text[span.start : span.end] for span in rendered.spans) == rendered.text, "the partition")
    example = encode(messages, template, load(), special_tokens, tokenization, prompt)
    labels = zip(example.input_ids, example.labels, strict=True)
    require(all(label in (token, IGNORE) for token, label in labels), "a label is not its token")
    require(load().decode(example.input_ids, skip_special_tokens=False) == rendered.text, "the text of the tokens")


def try_talk(chance: random.Random, folder: Path) -> Callable[[], None]:
    messages = talk(chance)
    if chance.random() < 0.3:
        messages = damaged(chance, messages)
    axes = chance.choice(["parse", "literal"]), chance.choice(["whole", "segmented"])
    name, prompt = chance.choice(sorted(TEMPLATES)), chance.random() < 0.3
    return lambda: check_encoded(messages, name, prompt, *axes)


def jinja_source(chance: random.Random, canary: Path) -> str:
    source = chance.choice([CHATML, MARKED])
    fate = chance.random()
    if fate < 0.3:
        place = source.index("{", chance.randrange(len(source) - 60))
        source = source[:place] + chance.choice(ATTACKS).replace("CANARY", str(canary)) + source[place:]
    elif fate < 0.301:
        source += chance.choice(ENDLESS)
    elif fate < 0.9:
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(source))
            source = source[:place] + chance.choice(SYNTAX) + source[place + chance.randrange(4) :]
    return source


def try_jinja(chance: random.Random, folder: Path) -> Callable[[], None]:
    source, messages = jinja_source(chance, folder / "canary"), talk(chance)

    def attempt() -> None:
        template = jinja_template(source, bos_token="<s>")
        rendered = render(messages, template)
        require("".join(rendered.text[span.start : span.end] for span in rendered.spans) == rendered.text, "partition")

    return attempt


def try_large(chance: random.Random, folder: Path) -> Callable[[], None]:
    unit = chance.choice(["<|im_end|>", "a b ", "é", "\n", "]{", "0123456789", "\u0301"])
    megabytes = unit * (10**7 // len(unit.encode()))
    messages = [{"role": "user", "content": megabytes}, {"role": "assistant", "content": "ok"}]
    name = chance.choice(sorted(TEMPLATES))

    def attempt() -> None:
        require(megabytes.strip() in render(messages, name).text, "ten megabytes")

    return attempt


KINDS = {try_file: 0.65, try_talk: 0.3, try_jinja: 0.0499, try_large: 0.0001}


def outcome(attempt: Callable[[], None]) -> tuple[str, str]:
    """("result" or "error" or what was found, details)."""
    try:
        attempt()
    except Wrong as error:
        return "WRONG", str(error)
    except Exception as error:
        if type(error) not in CLEAR and not any(type(error).__base__ is clear for clear in CLEAR):
            return "CRASH", f"{type(error).__name__}: {error}"[:500]
        if not str(error) or len(str(error)) > LONGEST_ERROR:
            return "UNCLEAR", f"{len(str(error))} characters: {error}"[:500]
        return "error", ""
    return "result", ""


def slowdown() -> float:
    """How many times longer than alone this process takes now, over a twentieth of a second of its processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    while time.process_time() < processor + 0.05:
        pass
    return max(1.0, (time.perf_counter() - wall) / (time.process_time() - processor))


def timed(attempt: Callable[[], None]) -> tuple[str, str, float]:
    """The outcome, and the shortest time of up to three attempts."""
    shortest = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        said, details = outcome(attempt)
        seconds = time.perf_counter() - started
        shortest = min(shortest, seconds if seconds <= SECONDS else seconds / slowdown())
        if shortest <= SECONDS:
            return said, details, shortest
    return "HANG", f"{shortest:.2f} s in three attempts", shortest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    alike: Counter[tuple[str, str]] = Counter()
    slowest = dict.fromkeys((kind.__name__ for kind in KINDS), 0.0)
    found = 0
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sftspec-fuzz-") as name:
        folder = Path(name)
        os.chdir(folder)
        for number in range(arguments.inputs):
            chance = random.Random(f"{arguments.seed}/{number}")  # any input can be made again by its number
            kind = chance.choices(list(KINDS), weights=KINDS.values())[0]
            said, details, seconds = timed(kind(chance, folder))
            if (folder / "canary").exists():
                said, details = "CODE RUN", "a template wrote a file"
                (folder / "canary").unlink()
            counts[f"{kind.__name__[4:]} {said}"] += 1
            slowest[kind.__name__] = max(slowest[kind.__name__], seconds)
            if said not in ("result", "error"):
                found += 1
                alike[said, details] += 1
                if alike[said, details] <= 3:
                    print(f"{said}: {kind.__name__[4:]}, seed {arguments.seed}, number {number}: {details}", flush=True)
            if number % 50_000 == 49_999 or number + 1 == arguments.inputs:
                print(f"{number + 1:,} inputs, {found} found, {time.perf_counter() - started:.0f} s", flush=True)
        os.chdir("/")
    print(", ".join(f"{what} {count:,}" for what, count in sorted(counts.items())))
    print("slowest:", ", ".join(f"{kind[4:]} {seconds:.2f} s" for kind, seconds in slowest.items()))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
