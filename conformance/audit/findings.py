"""What can be wrong with a conversation, and where: one look at its spans and tokens, no second encoder.

Rule of this file: counts are those of `encode`. Which spans are trained is asked of `trained_spans`, where tokens stand
is asked of `tokenize_batch`; a finding is what follows from the two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from sftspec.conversation import Conversation
from sftspec.counted import counted
from sftspec.fields import count_nulls
from sftspec.masking import masked, trained_messages, trained_spans
from sftspec.spans import DATA_KINDS, Rendered
from sftspec.templates import Template
from sftspec.vocabulary import Tokens, Vocabulary

# The worst first, and what it does to a model.
FINDINGS = {
    "bad lines": "they cannot be read: a trainer that goes on leaves them out",
    "refused": "the template cannot render it: it is not trained on at all",
    "no target": "nothing of it is trained: it costs a forward pass and teaches nothing",
    "cut targets": "max_length cuts off what was to be trained",
    "end of turn untrained": "the model is not taught to stop after this answer",
    "others trained": "the template marks what others say as written by the model: it is trained like an answer",
    "double BOS": "a BOS follows a BOS: no model has seen that (OpenRLHF#393)",
    "control strings in content": "parsed, they forge turns and cut the mask (transformers#29279)",
    "quoted arguments": "the template quotes a string of JSON again: the model learns to call tools with a string",
    "Python repr": "the template prints Python's None or {'a': 1} for null or an object: the model learns no JSON",
    "thoughts dropped": "the template leaves thoughts out: what was written of them is not trained",
    "text dropped": "the template leaves text of a message out",
    "empty answers": "an answer that says nothing: the model is taught to stop at once",
    "empty messages": "a turn that says nothing",
    "last turn not assistant": "the tokens after the last answer teach nothing",
    "nulls": "nulls in tool calls or tools, which Arrow puts there (trl#5307); --drop-nulls leaves them out",
    "tokens cut off": "max_length ends it early",
    "duplicates": "the same text is trained again: it weighs more than it was to weigh",
    "near-duplicate prompts": "the same prompt but for case, numbers, spaces and punctuation",
}
UNITS = {
    "tokens cut off": "tokens", "cut targets": "tokens", "control strings in content": "strings",
    "thoughts dropped": "characters", "text dropped": "characters",
}  # fmt: skip
# What an assistant writes itself; in anybody else's content they are control strings like others.
OWN_TAGS = frozenset(
    {"<think>", "</think>", "<tool_call>", "</tool_call>", "[THINK]", "[/THINK]", "<|tool_call|>", "[TOOL_CALLS]"}
)
NONE = re.compile(r"\bNone\b")
THINK_TAGS = re.compile(r"</?think>")
MILLION = 1_000_000  # sums of whole numbers do not depend on their order
LIMITS = (1024, 2048, 4096, 8192)


class FindingError(ValueError):
    """A name that is no finding; says which there are."""


def finding_named(name: str) -> str:
    """The finding of that name, written with spaces or hyphens."""
    wanted = name.strip().lower().replace("-", " ")
    for finding in FINDINGS:
        if finding.lower().replace("-", " ") == wanted:
            return finding
    known = ", ".join(finding.replace(" ", "-") for finding in FINDINGS)
    raise FindingError(f"{name!r} is no finding; there are {known}")


@dataclass
class Examined:
    """One conversation.

    length, kept, targets  tokens; tokens that max_length keeps; targets that are scored among these
    found                  how often each finding occurs, and a note on the first of them
    roles                  (role, messages, tokens, targets) of what is kept
    weight                 of these targets together, in millionths
    cut                    for each of LIMITS that it exceeds: (limit, tokens lost, targets lost, targets left)
    """

    length: int
    kept: int
    targets: int
    found: dict[str, tuple[int, str]] = field(default_factory=dict)
    roles: dict[str, list[int]] = field(default_factory=dict)
    cut: list[tuple[int, int, int, int]] = field(default_factory=list)
    weight: int = 0


@dataclass(frozen=True)
class Examiner:
    """What conversations are examined with: what they are encoded by, and where they are cut."""

    template: Template
    vocabulary: Vocabulary
    policy: str = "all"
    max_length: int | None = None

    @cached_property
    def control(self) -> re.Pattern[str]:
        added = sorted(self.vocabulary.added, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, added)) or r"\Z.")

    def examine(self, conversation: Conversation, rendered: Rendered, tokens: Tokens) -> Examined:
        """Everything that one conversation shows by itself."""
        trained = trained_spans(rendered, conversation, self.policy)
        starts, stops = tokens.starts.tolist(), tokens.stops.tolist()
        length = len(tokens.ids)
        kept = length if self.max_length is None else min(length, self.max_length)
        ranges = [(a, b) for on, a, b in zip(trained, starts, stops, strict=True) if on and a < b]
        found = Examined(length, kept, _count(ranges, kept))
        found.roles = _roles(conversation, rendered, trained, starts, stops, kept)
        found.weight = found.targets * MILLION
        if rendered.weights is not None:
            weights = masked(tokens, rendered, trained).weights or []
            found.weight = round(sum(weights[1:kept]) * MILLION)
        if length > LIMITS[0]:
            targets = _count(ranges, length)
            found.cut = [(limit, length - limit, targets - (left := _count(ranges, limit)), left)
                         for limit in LIMITS if length > limit]  # fmt: skip
        for name, count, note in self._findings(conversation, rendered, tokens, trained, starts, stops, found, ranges):
            if count:
                found.found[name] = (count, note)
        return found

    def _findings(
        self, conversation, rendered, tokens, trained, starts, stops, found, ranges
    ) -> Iterator[tuple[str, int, str]]:
        """(finding, how often, a note)."""
        yield "no target", int(not found.targets), ""
        if found.kept < found.length:
            yield "tokens cut off", found.length - found.kept, counted(found.length, "token")
            lost = _count(ranges, found.length) - found.targets
            yield "cut targets", lost, f"{lost:,} of {counted(lost + found.targets, 'target')}"
        open_ends = self._untrained_ends(conversation, rendered, trained, starts, stops, found.kept)
        yield "end of turn untrained", len(open_ends), f"message {open_ends[0]}" if open_ends else ""
        others = self._others_trained(conversation, rendered, trained)
        yield "others trained", len(others), f"message {others[0]}, {conversation[others[0]]['role']}" if others else ""
        if self.template.bos:
            number = self.vocabulary.added.get(self.template.bos)
            if tokens.ids.count(number) > 1:
                ids = tokens.ids[: found.kept]
                yield "double BOS", sum(left == right == number for left, right in pairwise(ids)), ""
        yield from self._control_strings(conversation, rendered)
        yield from _messages(conversation, self.policy)
        yield from _dropped(conversation, rendered)
        if conversation.tools or any("tool_calls" in message for message in conversation):
            yield from _tools(conversation, rendered)

    def _untrained_ends(self, conversation, rendered, trained, starts, stops, kept) -> list[int]:
        """Trained answers whose end-of-turn is no target, or stands nowhere."""
        answers = {
            index for index in trained_messages(conversation, self.policy) if conversation[index]["role"] == "assistant"
        }
        for kind, message, on, start, stop in zip(
            rendered.kinds, rendered.messages, trained, starts, stops, strict=True
        ):
            if kind == "end_of_turn" and on and max(start, 1) < min(stop, kept):
                answers.discard(message)
        return sorted(answers)

    def _others_trained(self, conversation, rendered, trained) -> list[int]:
        """Messages of others that the template marks with {% generation %}, where answers are what is to be trained."""
        if self.policy != "all":
            return []
        return sorted(
            {
                message
                for message, on in zip(rendered.messages, trained, strict=True)
                if on and message >= 0 and conversation[message]["role"] != "assistant"
            }
        )

    def _control_strings(self, conversation: Conversation, rendered: Rendered) -> Iterator[tuple[str, int, str]]:
        count, first = 0, ""
        begin = 0
        for kind, message, end in zip(rendered.kinds, rendered.messages, rendered.ends, strict=True):
            if kind in DATA_KINDS:
                strings = self.control.findall(rendered.text, begin, end)
                if strings and message >= 0 and conversation[message]["role"] == "assistant":
                    strings = [text for text in strings if text not in OWN_TAGS]
                if strings:
                    count += len(strings)
                    first = first or f"{strings[0]} in {f'message {message}' if message >= 0 else 'the tools'}"
            begin = end
        yield "control strings in content", count, first


def _count(ranges: list[tuple[int, int]], limit: int) -> int:
    """Tokens in the union of ranges, from the second token of the row to the limit; the first one is never scored."""
    count, done = 0, 1
    for start, stop in ranges:
        start, stop = max(start, done), min(stop, limit)
        if start < stop:
            count += stop - start
            done = stop
    return count


def _roles(conversation, rendered, trained, starts, stops, kept) -> dict[str, list[int]]:
    """(messages, tokens, targets) by role; a token belongs to the span in which it starts."""
    roles: dict[str, list[int]] = {}
    for message in conversation:
        roles.setdefault(message["role"], [0, 0, 0])[0] += 1
    before, done = 0, 1
    for message, on, start, stop in zip(rendered.messages, trained, starts, stops, strict=True):
        stop = min(stop, kept)
        first = max(start, done)
        if stop > before or (on and stop > first):
            of_role = roles.setdefault(conversation[message]["role"] if message >= 0 else "template", [0, 0, 0])
            of_role[1] += max(stop - before, 0)
            before = max(before, stop)
            if on and stop > first:
                of_role[2] += stop - first
                done = stop
    return roles


def _messages(conversation: Conversation, policy: str) -> Iterator[tuple[str, int, str]]:
    empty: dict[str, list[int]] = {"empty answers": [], "empty messages": []}
    for index, message in enumerate(conversation):
        content = message["content"]
        if content and not content.isspace():
            continue
        if not message.get("tool_calls") and not message.get("reasoning_content"):
            is_answer = message["role"] == "assistant" and message.get("train", True)
            empty["empty answers" if is_answer else "empty messages"].append(index)
    for name, places in empty.items():
        yield name, len(places), f"message {places[0]}" if places else ""
    last = conversation[-1]["role"]
    yield "last turn not assistant", int(last != "assistant"), f"it is from {last}"


def _dropped(conversation: Conversation, rendered: Rendered) -> Iterator[tuple[str, int, str]]:
    """Characters of contents and thoughts for which no token stands; white space may be trimmed."""
    stands: dict[int, int] = {}
    begin = 0
    for kind, message, end in zip(rendered.kinds, rendered.messages, rendered.ends, strict=True):
        if kind in DATA_KINDS:
            stands[message] = stands.get(message, 0) + end - begin
        begin = end
    lost: dict[str, tuple[int, str]] = {}
    for index, message in enumerate(conversation):
        content, thought = message["content"] or "", message.get("reasoning_content") or ""
        if stands.get(index, 0) >= len(content) + len(thought):
            continue
        written = _size(content) + _size(thought)
        missing = written - sum(
            _size(text) for kind in ("content", "reasoning", "given") for text in rendered.of(kind, index)
        )
        if missing <= 0 or (index not in stands and (content + thought).strip() in rendered.text):
            continue
        name = "thoughts dropped" if thought or "</think>" in content else "text dropped"
        count, note = lost.get(name, (0, f"message {index}: {' '.join((thought or content).split())[:60]}"))
        lost[name] = (count + missing, note)
    for name, (count, note) in lost.items():
        yield name, count, note


def _size(text: str) -> int:
    """Characters but for white space and think tags, which templates take out and write again."""
    return len("".join(THINK_TAGS.sub("", text).split()))


def _tools(conversation: Conversation, rendered: Rendered) -> Iterator[tuple[str, int, str]]:
    nulls, first = count_nulls(conversation.tools or []), "in the tools"
    quoted, name, reprs = 0, "", []
    for index, message in enumerate(conversation):
        if message["content"] is None and any(NONE.search(text) for text in _around(rendered, index)):
            reprs.append(f"message {index}, content")
        for call in message.get("tool_calls") or ():
            function = call.get("function") or call
            arguments = function.get("arguments")
            inside = count_nulls(arguments)
            first = first if nulls else f"message {index}, call of {function.get('name')}"
            nulls += inside
            if isinstance(arguments, dict) and arguments and str(arguments) in rendered.text:
                reprs.append(f"message {index}, call of {function.get('name')}")
            if isinstance(arguments, str) and arguments.strip()[:1] in ("{", "["):
                again = {json.dumps(arguments), json.dumps(arguments, ensure_ascii=False)}
                if any(text in rendered.text for text in again):
                    quoted, name = quoted + 1, name or f"message {index}, call of {function.get('name')}"
    yield "nulls", nulls, first
    yield "quoted arguments", quoted, name
    yield "Python repr", len(reprs), reprs[0] if reprs else ""


def _around(rendered: Rendered, index: int) -> Iterator[str]:
    """What the template itself writes in the turn of a message."""
    begin = 0
    for kind, message, end in zip(rendered.kinds, rendered.messages, rendered.ends, strict=True):
        if message == index and kind not in DATA_KINDS:
            yield rendered.text[begin:end]
        begin = end
