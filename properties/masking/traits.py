"""What lost conversations have in common, and no other has: what a loader that drops them looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any


def traits_of(messages: Sequence[dict[str, Any]], control: Sequence[str]) -> Iterator[str]:
    """What can be said of one conversation, in words. control: the control strings of its tokenizer."""
    answers = [item["content"] or "" for item in messages if item["role"] == "assistant"]
    contents = [item["content"] or "" for item in messages]
    for role in sorted({item["role"] for item in messages}):
        yield f"a turn of role {role!r}"
    yield f"a first turn of role {messages[0]['role']!r}"
    yield f"a last turn of role {messages[-1]['role']!r}"
    said = {
        "two turns of one role in a row": any(one["role"] == two["role"] for one, two in pairwise(messages)),
        "an empty turn": "" in contents,
        "an empty answer": "" in answers,
        "a turn of blanks": any(text.isspace() for text in contents),
        "an answer that begins with white space": any(text[:1].isspace() for text in answers),
        "thoughts": any(item.get("reasoning_content") or "<think>" in (item["content"] or "") for item in messages),
        "a call of a tool": any(item.get("tool_calls") for item in messages),
        "a turn that is not to be trained": any(item.get("train") is False for item in messages),
        "a control string in what is said": any(text in content for content in contents for text in control),
        "characters outside ASCII": not all(content.isascii() for content in contents),
        "no answer": not answers,
        "one answer": len(answers) == 1,
        "several answers": len(answers) > 1,
    }
    yield from (name for name, is_so in said.items() if is_so)


def sizes_of(run: Any, index: int) -> dict[str, int]:
    stream = run.streams[index]
    return {"tokens": len(stream), "messages": len(run.job.conversations[index]), "targets": stream.num_targets}


def in_common(run: Any, lost: list[int], kept: list[int]) -> str:
    """What all of these conversations have and none of those, the first that is found; "" if nothing is.

    With a handful lost a trait may be theirs by chance, so one that fewer than two share is a place and no trait.
    """
    control = [run.job.tokenizer.decode([token]) for token in run.job.tokenizer.all_special_ids]
    sides = [[list(traits_of(run.job.conversations[index], control)) for index in part] for part in (lost, kept)]
    if len(lost) < 2 or not kept:
        return ""
    if said := shared_trait(*sides):
        return said
    for name in ("tokens", "messages", "targets"):
        gone, left = ([sizes_of(run, index)[name] for index in part] for part in (lost, kept))
        if min(gone) > max(left):
            return f"all of them, and no other, have more than {max(left)} {name}"
        if max(gone) < min(left):
            return f"all of them, and no other, have fewer than {min(left)} {name}"
    return ""


def shared_trait(lost: Sequence[Sequence[str]], kept: Sequence[Sequence[str]]) -> str:
    """The first trait that all of at least two conversations have and none of the others; "" if there is none."""
    if len(lost) < 2 or not kept:
        return ""
    elsewhere = {trait for traits in kept for trait in traits}
    shared = (trait for trait in lost[0] if trait not in elsewhere and all(trait in traits for traits in lost[1:]))
    return next((f"all of them, and no other, have {trait}" for trait in shared), "")
