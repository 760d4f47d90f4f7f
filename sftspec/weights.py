"""What a target weighs: its message's weight, and in an answer that has spans, its span's.

    weight         of a message: a factor of the loss of all its targets; 0 is written train: false, 1 train: true
    weight_spans   of a message: [[begin, end, weight], …], characters begin to end - 1 of its content, in order;
                   characters in none of them weigh 0. Its end of turn weighs what the message does

    train_detail, training_detail   axolotl, docs/dataset-formats/conversation: begin_offset to end_offset, the last
                                    included, are trained or not; what is in none of them is not

Rule of this file: a span that a template does not write as it stands is refused, never put somewhere near. A token
that stands on an edge carries text of both sides and weighs the more of the two; it is a target as in masking.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sftspec import fields
from sftspec.spans import Rendered, TemplateError

OFFSETS = ("begin_offset", "end_offset", "train")


def weighing(messages: Iterable[Mapping[str, Any]], weight: float) -> list[dict]:
    """The messages of a record that weighs so much.

    >>> weighing([{"role": "user"}, {"role": "assistant", "weight": 0.5}], 0.5)
    [{'role': 'user', 'weight': 0.5}, {'role': 'assistant', 'weight': 0.25}]
    """
    return [
        dict(message) if message.get("train") is False else {**message, "weight": weight * message.get("weight", 1.0)}
        for message in messages
    ]


def read_spans(message: Mapping[str, Any], refuse: fields.Refuse) -> list[list] | None:
    """The weights of parts of a content; None where it says nothing of them. Raises what `refuse` makes.

    >>> read_spans({"role": "assistant", "content": "No. Yes.", "train_detail": [
    ...     {"begin_offset": 4, "end_offset": 7, "train": True}]}, ValueError)
    [[4, 8, 1.0]]
    """
    keys = [key for key in fields.SPANS if not fields.is_void(message.get(key))]
    if not keys:
        return None
    key, content = keys[0], message.get("content")
    if len(keys) > 1:
        raise refuse(f"{' and '.join(keys)} both say what of the content is trained; keep one")
    if message.get("role") != "assistant" or not isinstance(content, str):
        raise refuse(f"{key} weighs parts of an assistant's content; this message is from {message.get('role')}")
    if any(not fields.is_void(message.get(other)) for other in (*fields.THOUGHTS, "tool_calls")):
        raise refuse(f"{key} beside a thought or a call does not say whether that is trained; write two messages")
    if not isinstance(message[key], (list, tuple)):
        raise refuse(f"{key} is {message[key]!r:.60}, not a list")
    spans = sorted(_span(key, number, item, refuse) for number, item in enumerate(message[key]))
    for begin, end, weight in spans:
        if not 0 <= begin < end <= len(content) or not 0 <= weight < float("inf"):
            raise refuse(f"{key}: {begin} to {end} (weight {weight}) is no part of the content, 0 to {len(content)}")
    for (_, end, _), (begin, _, _) in pairwise(spans):
        if begin < end:
            raise refuse(f"{key}: the character {begin} is in two spans; part them")
    return spans


def _span(key: str, number: int, item: Any, refuse: fields.Refuse) -> list:
    if key == "weight_spans" and isinstance(item, (list, tuple)) and len(item) == 3:
        begin, end, weight = item
    elif isinstance(item, Mapping) and all(name in item for name in OFFSETS) and isinstance(item["train"], bool):
        begin, end, weight = (item[name] for name in OFFSETS)
        end = end + 1 if isinstance(end, int) else end
    else:
        raise refuse(f"{key} {number}: expected {', '.join(OFFSETS)}, found {item!r:.80}")
    if type(begin) is not int or type(end) is not int or not isinstance(weight, (bool, int, float)):
        raise refuse(f"{key} {number}: {item!r:.80} holds something else than numbers of characters and a weight")
    return [begin, end, float(weight)]


def weighted(rendered: Rendered, messages: Sequence[Mapping[str, Any]], name: str = "the template") -> Rendered:
    """The rendered text with the weight of each span, its contents cut where their weights change.

    Raises TemplateError where a content with spans is not rendered as it stands.

    >>> from sftspec.spans import assemble
    >>> talk = [{"role": "assistant", "content": "No. Yes.", "weight_spans": [[4, 8, 0.5]]}]
    >>> found = weighted(assemble([("header", 0, "a"), ("content", 0, "No. Yes."), ("end_of_turn", 0, "!")]), talk)
    >>> [(found.text[span.start : span.end], weight) for span, weight in zip(found.spans, found.weights)]
    [('a', 1.0), ('No. ', 0.0), ('Yes.', 0.5), ('!', 1.0)]
    """
    if not any("weight" in message or "weight_spans" in message for message in messages):
        return rendered
    kinds: list[str] = []
    of: list[int] = []
    ends: list[int] = []
    weights: list[float] = []
    for start, end, kind, message in rendered.spans:
        said = messages[message] if message >= 0 else {}
        whole = float(said.get("weight", 1.0))
        for length, weight in _parts(rendered.text[start:end], kind, said, message, name):
            kinds.append(kind)
            of.append(message)
            ends.append((ends[-1] if ends else 0) + length)
            weights.append(weight * whole)
    return Rendered(rendered.text, tuple(kinds), tuple(of), tuple(ends), rendered.answers, tuple(weights))


def _parts(text: str, kind: str, said: Mapping, message: int, name: str) -> Iterator[tuple[int, float]]:
    """(length, weight) of the parts of one span."""
    if kind != "content" or "weight_spans" not in said:
        yield len(text), 1.0
        return
    content = said["content"]
    first = len(content) - len(content.lstrip()) if text != content else 0
    if text != content and content.strip() != text.strip():
        raise TemplateError(
            f"message {message}: {name} does not write this content as it stands, so the spans in it have no place; "
            "give a weight to the whole message"
        )
    first -= len(text) - len(text.lstrip()) if text != content else 0
    weights = [0.0] * len(content)
    for begin, end, weight in said["weight_spans"]:
        weights[begin:end] = [weight] * (end - begin)
    placed = [weights[at] if 0 <= at < len(content) else 0.0 for at in range(first, first + len(text))]
    edges = [0, *(at for at in range(1, len(placed)) if placed[at] != placed[at - 1]), len(placed)]
    for begin, end in pairwise(edges):
        yield end - begin, placed[begin] if placed else 0.0
