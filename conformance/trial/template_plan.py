"""What the properties will ask of any template, found by asking it of a reference first.

Rule of this file: a plan saves time and decides nothing. What is drawn does not depend on the template, so a property
asks every template for nearly the same conversations: they are written down once while it reads the reference's own
Qwen3, which takes every field, and are then rendered many at once. What a template makes a property ask beyond that is
rendered when it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import cached_property
from typing import Any

from sftspec import encode, render
from sftspec.conformance.trial.functions import drawn_arguments
from sftspec.conformance.trial.remembered import READS, Asked
from sftspec.conversation import check_conversation
from sftspec.golden.small_tokenizer import load
from sftspec.masking import Encoded
from sftspec.properties import Property
from sftspec.spans import Rendered

REFERENCE = "chatml/qwen3"


class LazyEncoded:
    """An encoded conversation, whose labels are made when they are read."""

    def __init__(self, input_ids: list[int], rendered: Rendered, whole: Callable[[], Encoded]):
        self.input_ids, self.rendered = input_ids, rendered
        self._whole = whole

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def labels(self) -> list[int]:
        return self._whole().labels

    @cached_property
    def owners(self) -> list[int]:
        return self._whole().owners


class Listener:
    """The reference, which writes down what it is asked."""

    def __init__(self) -> None:
        self.heard: dict[tuple, Asked] = {}

    def hear(self, messages: list[dict], prompt: bool, reads: str) -> None:
        messages = check_conversation(messages)
        asked = Asked((repr(messages), prompt), messages, prompt, reads)
        self.heard[asked.key, reads] = asked

    def render(self, messages: list[dict], template: str, add_generation_prompt: bool = False) -> Rendered:
        self.hear(messages, add_generation_prompt, "text")
        return render(messages, REFERENCE, add_generation_prompt)

    def encode(self, messages: list[dict], template: str, tokenizer: Any, **options: Any) -> LazyEncoded:
        prompt = options.get("add_generation_prompt", False)
        example = encode(messages, REFERENCE, load(), add_generation_prompt=prompt)
        # Where text is cut at the edges of spans, ids depend on what is an answer.
        self.hear(messages, prompt, "ids" if options.get("tokenization") in (None, "whole") else "labels")

        def whole() -> Encoded:
            self.hear(messages, prompt, "labels")
            return example

        return LazyEncoded(example.input_ids, example.rendered, whole)


_plans: dict[tuple, list[Asked]] = {}


def plan_of(item: Property, *setting: Any) -> list[Asked]:
    """The conversations that a property will ask for, here: (name of the template, vocabulary, number to draw)."""
    key = item.id, *setting
    if key not in _plans:
        listener = Listener()
        for arguments in (*item.examples, *drawn_arguments(item, setting[-1])):
            try:
                for _ in item.check(getattr(listener, item.seam), **deepcopy(arguments)):
                    pass
            except Exception:  # what a property does on the way is no matter here
                continue
        _plans[key] = list(listener.heard.values())
    return _plans[key]


def merged(plans: Iterable[Iterable[Asked]]) -> list[Asked]:
    """All of them, each conversation once, for the property that reads most of it."""
    found: dict[tuple[str, bool], Asked] = {}
    for asked in sorted((asked for plan in plans for asked in plan), key=lambda asked: READS.index(asked.reads)):
        found[asked.key] = asked
    return list(found.values())
