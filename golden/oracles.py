"""Other people's implementations of the templates, run as they are: they make the goldens, we never do.

Rule of this file: nothing here knows what a template looks like. An oracle turns messages into text and ids by calling
somebody's code; what is trained follows from its answers alone: a turn's targets are what comes after the prompt that
the oracle makes for it, up to where the oracle lets the next turn begin (`targets`).

The code is read from copies given by path (`Copies`) and is not part of this project.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from sftspec.golden.sources import Copies, load_module

PROBE = "x"  # content without any control string, for the turns that only serve to measure


class Rejected(Exception):
    """The oracle refuses these messages."""


class Inexpressible(Exception):
    """The oracle has no way to be asked this; it says nothing of how to render it."""


@dataclass(frozen=True)
class Output:
    """What an oracle made of a conversation.

    text  the text, with BOS and control tokens spelt out, or None where the oracle makes only ids
    ids   token ids, or None where the oracle makes only text
    """

    text: str | None
    ids: list[int] | None


class Oracle:
    """A conversation to text and ids.

    name     whose code, and which function
    version  release or commit
    """

    name: str
    version: str
    special_tokens = "parse"
    tokenization = "whole"

    def run(self, messages: list[dict], generation_prompt: bool = False, tools: list | None = None) -> Output:
        raise NotImplementedError

    def targets(self, messages: list[dict], generation_prompt: bool, tools: list | None) -> list[list[int]] | None:
        """Ranges [start, stop) of the tokens that an assistant writes, or None where the oracle cannot tell."""
        raise NotImplementedError

    def marked(self, messages: list[dict], generation_prompt: bool, tools: list | None) -> list[int] | None:
        """Positions of the tokens that the oracle itself marks for training, or None where it marks none."""
        return None


def two_openings(messages: list[dict]) -> list[list[dict]]:
    """The first message alone, with one content and with another."""
    return [[{**messages[0], "content": content}] for content in ("x", "y")]


Text = TypeVar("Text", str, list[int])


def common_prefix(one: Text, other: Text) -> Text:
    return one[: next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))]


def _probe_next(messages: list[dict], index: int) -> list[dict]:
    """The conversation up to a turn, and then a turn of the same role as the next one really has."""
    role = messages[index + 1]["role"] if index + 1 < len(messages) else "user"
    return [*messages[: index + 1], {"role": "user" if role == "assistant" else role, "content": PROBE}]


class TextOracle(Oracle):
    """An oracle that makes text; ids and targets follow through a tokenizer with offsets."""

    def __init__(self, name: str, version: str, tokenizer: Any, end_of_turn: str, user_ends_with_eot: bool = True):
        self.name, self.version, self.tokenizer = name, version, tokenizer
        self.end_of_turn, self.user_ends_with_it = end_of_turn, user_ends_with_eot

    def text(self, messages: list[dict], generation_prompt: bool, tools: list | None) -> str:
        raise NotImplementedError

    def run(self, messages: list[dict], generation_prompt: bool = False, tools: list | None = None) -> Output:
        text = self.text(messages, generation_prompt, tools)
        return Output(text, self.tokenizer.encode(text, add_special_tokens=False).ids if self.tokenizer else None)

    def targets(self, messages: list[dict], generation_prompt: bool, tools: list | None) -> list[list[int]] | None:
        text = self.text(messages, generation_prompt, tools)
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        ranges = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            start, stop = self._start(text, messages, index, tools), self._stop(text, messages, index, tools)
            if start is None or stop is None:
                return None
            inside = [number for number, (left, right) in enumerate(offsets) if left < stop and right > start]
            ranges.append([inside[0], inside[-1] + 1])
        return ranges

    def _start(self, text: str, messages: list[dict], index: int, tools: list | None) -> int | None:
        if index == 0:
            prompt = common_prefix(*(self.text(first, False, tools) for first in two_openings(messages)))
        else:
            prompt = self.text(messages[:index], True, tools)
        return len(prompt) if text.startswith(prompt) else None

    def _stop(self, text: str, messages: list[dict], index: int, tools: list | None) -> int | None:
        if index == len(messages) - 1:
            return text.rindex(self.end_of_turn) + len(self.end_of_turn)
        probed = self.text(_probe_next(messages, index), False, tools)
        end = len(probed)
        for _ in range(2 if self.user_ends_with_it else 1):
            end = probed.rindex(self.end_of_turn, 0, end)
        end += len(self.end_of_turn)
        return end if text.startswith(probed[:end]) else None


class JinjaOracle(TextOracle):
    """A Hugging Face chat template, rendered by transformers."""

    def __init__(
        self,
        name: str,
        version: str,
        source: str,
        tokenizer: Any,
        bos: str,
        eos: str,
        end_of_turn: str,
        user_ends_with_eot: bool = True,
    ):
        super().__init__(name, version, tokenizer, end_of_turn, user_ends_with_eot)
        self.source, self.special = source, {"bos_token": bos, "eos_token": eos}

    def _rendered(
        self, messages: list[dict], generation_prompt: bool, tools: list | None, **options: Any
    ) -> tuple[list[str], list[list[tuple[int, int]]]]:
        """Texts, and the blocks of each that the template marks; transformers annotates them as one string."""
        from transformers.utils.chat_template_utils import render_jinja_template

        asked: dict[str, Any] = {"add_generation_prompt": generation_prompt, **self.special, **options}
        return cast(Any, render_jinja_template([messages], tools, chat_template=self.source, **asked))

    def text(self, messages: list[dict], generation_prompt: bool, tools: list | None) -> str:
        from jinja2.exceptions import TemplateError

        try:
            (text,), _ = self._rendered(messages, generation_prompt, tools)
        except (TemplateError, TypeError) as error:
            raise Rejected(str(error)) from None
        return text

    def marked(self, messages: list[dict], generation_prompt: bool, tools: list | None) -> list[int] | None:
        if "endgeneration" not in self.source:
            return None
        (text,), (blocks,) = self._rendered(messages, generation_prompt, tools, return_assistant_tokens_mask=True)
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return [
            number
            for number, (left, right) in enumerate(offsets)
            if any(left < stop and right > start for start, stop in blocks)
        ]


class FastChatOracle(TextOracle):
    """lm-sys/FastChat conversation templates: text only."""

    def __init__(self, copies: Copies, template: str, bos: str, end_of_turn: str, version: str):
        super().__init__(f"lm-sys/FastChat conversation.py {template}", version, None, end_of_turn)
        self.module = load_module(copies / "FastChat" / "fastchat" / "conversation.py", "fastchat_conversation")
        self.template, self.bos = template, bos

    def text(self, messages: list[dict], generation_prompt: bool, tools: list | None) -> str:
        talk = self.module.get_conv_template(self.template)
        rest = list(messages)
        if rest[0]["role"] == "system":
            talk.set_system_message(rest.pop(0)["content"])
        for index, message in enumerate(rest):
            if message["role"] != ("user", "assistant")[index % 2]:
                raise Inexpressible("only user and assistant in turn")
            talk.append_message(talk.roles[index % 2], message["content"])
        if generation_prompt:
            talk.append_message(talk.roles[1], None)
        return self.bos + talk.get_prompt()


def first_difference(ours: Sequence, theirs: Sequence, around: int = 12) -> str:
    """Where two texts or id lists part, with what stands there in both."""
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    window = slice(max(0, at - 4), at + around)
    return f"at {at}: {json.dumps(ours[window])} / {json.dumps(theirs[window])}"
