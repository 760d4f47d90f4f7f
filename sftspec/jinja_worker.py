"""Renders chat templates in a process of its own: somebody else's template is somebody else's program.

Rule of this file: a template can neither run code, nor hang, nor eat the memory, nor ask for the time. Jinja's sandbox
refuses what reaches into Python (llama-cpp-python#1462, CVE-2024-34359); the kernel ends this process when a request
has used its processor time or its memory, also inside one long operation, where no Python check would ever run. Only
the time that the template itself computes counts: while the machine does something else, a template is not slow.

The environment is that of transformers' `apply_chat_template` (trim_blocks, lstrip_blocks, loop controls, tojson
without HTML escapes, raise_exception, {% generation %}): a template renders the same text. Dates are pinned.
Started by jinja_templates.py as `python -m sftspec.jinja_worker`; speaks JSON lines over stdin and stdout.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache, wraps
from itertools import accumulate, count
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment
from markupsafe import Markup

from sftspec.tracked import (
    Origin,
    Safe,
    Tracked,
    TrackedDict,
    TrackedList,
    common_origin,
    joined,
    joined_texts,
    runs_of,
)

MEMORY_BYTES = 2**30
RUNS, RUNS_PER_MESSAGE = 1000, 100  # real templates print under 20 pieces a message
MOST_JUDGED = 1000  # attributes
PINNED_DATE = datetime(2024, 7, 26)  # the default of Llama-3.1's own template

NOWHERE = Origin("", -1)
BLOCKS = count(1)  # of {% generation %}: two that touch are two

# What a message's texts are in the rendered text; the role says whose turn it is.
KIND_OF_FIELD = {
    "role": "header",
    "content": "content",
    "text": "content",
    "reasoning_content": "reasoning",
    "thinking": "reasoning",
    "tool_calls": "tool_call",
}
NAMES_ARE_DATA = ("tool_call", "tools")


class GenerationBlock(Extension):
    """{% generation %} … {% endgeneration %}: what the model writes."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Callable[[], str]) -> Tracked:
        text, number = caller(), next(BLOCKS)
        unnamed = Origin("generated", -1)
        return Tracked(text, [(length, (origin or unnamed)._replace(block=number)) for length, origin in runs_of(text)])


class Dict:
    """The name `dict` of a template, as in transformers: of the class itself, `dict.from_keys` would be a type."""

    def __call__(self, *arguments: Any, **options: Any) -> dict:
        return dict(*arguments, **options)

    def fromkeys(self, *arguments: Any) -> dict:
        return dict.fromkeys(*arguments)


class TrackingCode(CodeGenerator):
    """`a ~ b` keeps provenance."""

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:
        self.write("environment.concat((")
        for item in node.nodes:
            self.visit(item, frame)
            self.write(", ")
        self.write("))")


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox of transformers, whose texts know where they came from."""

    code_generator_class = TrackingCode
    concat = staticmethod(joined)  # what macros and set-blocks put together their output with

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols])
        self.filters["tojson"] = _to_json
        self.filters = {name: _keeping(function) for name, function in self.filters.items()}
        self.filters["join"] = _join
        self.filters["safe"] = _safe
        self.globals["raise_exception"] = _raise
        self.globals["dict"] = Dict()
        self.globals["strftime_now"] = PINNED_DATE.strftime
        self.judged: dict[tuple[type, str], bool] = {}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As Jinja's, which looks at the type of an object and at the name: asked once of both."""
        key = type(obj), attr
        if key not in self.judged:
            if len(self.judged) >= MOST_JUDGED:
                self.judged.clear()
            self.judged[key] = super().is_safe_attribute(obj, attr, value)
        return self.judged[key]

    def call(self, context: Any, function: Any, *arguments: Any, **options: Any) -> Any:
        if getattr(function, "__name__", "") == "join" and isinstance(getattr(function, "__self__", None), str):
            (parts,) = arguments
            return joined_texts(parts, function.__self__)
        return SandboxedEnvironment.call(self, context, function, *arguments, **options)


def _keeping(function: Callable) -> Callable:
    """A filter whose text has the one origin of what it was made of."""

    @wraps(function)
    def keeping(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        if type(result) not in (str, Markup):
            return result
        origin = common_origin(arguments)
        kind = Safe if type(result) is Markup else Tracked
        return kind(result, [(len(result), origin)]) if origin else result

    return keeping


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@jinja2.pass_environment
def _join(environment: Any, value: Any, d: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(jinja2.filters.make_attrgetter(environment, attribute), value)
    return joined(value, d)


def _safe(value: Any) -> Any:
    return Safe.of(value, value.runs) if isinstance(value, Tracked) else Markup(value)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def tracked(value: Any, kind: str, message: int) -> Any:
    """A copy of a message's value whose texts know that they are from it.

    >>> tracked("Hi", "content", 0).runs
    ((2, Origin(kind='content', message=0, block=0)),)
    """
    if isinstance(value, str):
        return Tracked(value, [(len(value), Origin(kind, message))])
    if isinstance(value, dict):
        # The names of arguments are chosen by who calls, and those of parameters by who defines the tool.
        names = {key: tracked(key, kind, message) if kind in NAMES_ARE_DATA else key for key in value}
        return TrackedDict(
            {names[key]: tracked(item, KIND_OF_FIELD.get(key, kind), message) for key, item in value.items()}
        )
    if isinstance(value, list):
        return TrackedList([tracked(item, kind, message) for item in value])
    return value


@lru_cache(maxsize=64)
def compiled(source: str) -> jinja2.Template:
    """A template's source, compiled once for all that it renders.

    >>> compiled("{{ 1 + 1 }}").render()
    '2'
    """
    return Environment().from_string(source)


def with_thoughts(message: dict) -> dict:
    """As transformers does, for gpt-oss.

    >>> with_thoughts({"role": "assistant", "content": "Hi", "reasoning_content": "Hm."})["thinking"]
    'Hm.'
    """
    thoughts = message.get("reasoning_content")
    return message if thoughts is None else message | {"thinking": message.get("thinking", thoughts)}


def text_of(source: str, messages: list[dict], options: dict) -> str:
    """The text of a conversation.

    >>> text_of("{{ messages[0].content }}!", [{"role": "user", "content": "Hi"}], {"tools": None})
    'Hi!'
    """
    text = "".join(compiled(source).generate(messages=list(map(with_thoughts, messages)), **options))
    text.encode()  # half of a surrogate pair is no text
    return text


def rendered(source: str, messages: list[dict], options: dict) -> list[tuple[str, Origin | None]]:
    """The text of a conversation in runs of one origin.

    >>> rendered("{{ messages[0].content }}!", [{"role": "user", "content": "Hi"}], {"tools": None})
    [('Hi', Origin(kind='content', message=0, block=0)), ('!', None)]
    """
    talk = [
        {key: tracked(value, KIND_OF_FIELD.get(key, "header"), index) for key, value in with_thoughts(message).items()}
        for index, message in enumerate(messages)
    ]
    options = options | {"tools": tracked(options["tools"], "tools", -1)}
    text = joined(compiled(source).generate(messages=talk, **options))
    if len(text.runs) > RUNS + RUNS_PER_MESSAGE * len(messages):
        raise ValueError(f"the text mixes messages and template in {len(text.runs)} pieces")
    stops = accumulate(length for length, _ in text.runs)
    whole = str.__getitem__(text, slice(None))
    whole.encode()
    return [(whole[stop - length : stop], origin) for stop, (length, origin) in zip(stops, text.runs, strict=True)]


def answer(request: dict) -> dict:
    """{"source", "messages", "options", "plain"} to {"runs": [[text, kind, message, block], …]}, to {"text": …} if
    it is asked plainly, or to {"error": …}.

    Many at once: {"source", "many": [{"messages", "options", "plain"}, …]} to {"many": [such an answer, …]}.

    >>> talk, options = [{"role": "user", "content": "Hi"}], {"tools": None}
    >>> answer({"source": "{{ messages[0].content }}!", "messages": talk, "options": options})
    {'runs': [['Hi', 'content', 0, 0], ['!', '', -1, 0]]}
    >>> answer({"source": "{{ messages[0].content }}!", "messages": talk, "options": options, "plain": True})
    {'text': 'Hi!'}
    >>> answer({"source": "{% if %}", "messages": talk, "options": options})
    {'error': "line 1: Expected an expression, got 'end of statement block'"}
    """
    if "many" in request:
        return {"many": [answer({"source": request["source"], **one}) for one in request["many"]]}
    asked = request["source"], request["messages"], request["options"]
    try:
        if request.get("plain"):
            return {"text": text_of(*asked)}
        return {"runs": [[text, *(origin or NOWHERE)] for text, origin in rendered(*asked)]}
    except jinja2.TemplateSyntaxError as error:
        return _error(f"line {error.lineno}: {error.message}")
    except Exception as error:  # whatever a template does wrong, it did it and not we
        return _error(f"{type(error).__name__}: {error}")


def _error(said: str) -> dict:
    return {"error": said[:500].encode("utf-8", "backslashreplace").decode()}


def main() -> None:
    """Requests come in two lines: how many seconds of processor time there are, then what to render.

    >>> import subprocess
    >>> request = json.dumps({"source": "Hello", "messages": [], "options": {"tools": None}})
    >>> lines = "5" + chr(10) + request + chr(10)
    >>> worker = [sys.executable, "-m", "sftspec.jinja_worker"]
    >>> json.loads(subprocess.run(worker, input=lines, capture_output=True, text=True).stdout)["runs"]
    [['Hello', '', -1, 0]]
    """
    limit = _limits()
    for seconds in sys.stdin:
        request = sys.stdin.readline()
        limit(float(seconds))
        started = time.process_time()
        reply = answer(json.loads(request))
        line = json.dumps(reply | {"seconds": time.process_time() - started}, ensure_ascii=False)
        limit(0)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _limits() -> Callable[[float], object]:
    """Set the limits that the system has; gives the function that starts and stops the processor clock."""
    try:
        import resource
        import signal
    except ImportError:  # Windows: the parent's patience is the only limit
        return lambda seconds: None
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the default action ends the process, whatever it is doing
    return lambda seconds: signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
