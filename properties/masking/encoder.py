"""Masking, in `encode`: which tokens are labelled, and what a cut keeps.

A run shows what one trainer did with a few hundred conversations. Here hypothesis draws turns, flags, conventions and
every length of truncation for the function itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

from hypothesis import strategies as st

from sftspec.counted import counted
from sftspec.golden.small_tokenizer import load
from sftspec.masking import Conventions
from sftspec.properties import must, takes
from sftspec.properties.cases.template import EMPTY_THOUGHTS, OWN_SYSTEM, TAKE_TOOLS, norm, tool, value_or_none
from sftspec.step import IGNORE
from sftspec.templates import TEMPLATES

FLAGS = {"train": (False, True), "weight": (0, 1)}  # sftspec's own, and OpenAI's
AS_DEFAULT = {"end_of_turn": True, "separator": False, "header": False}


def _conversation(turns: int, length: int) -> list[dict]:
    text = "ABC DEF\nGHI "[: length % 12] * (1 + length // 12)
    return [{"role": role, "content": text[: length + turn]} for turn in range(turns) for role in ("user", "assistant")]


CUT = {
    "given": {
        "turns": st.integers(1, 4),
        "length": st.integers(0, 20),
        "cut": st.integers(1, 90),
        "template": st.sampled_from(sorted(TEMPLATES)),
    },
    "examples": [{"turns": 2, "length": 5, "cut": 12, "template": template} for template in sorted(TEMPLATES)],
}


def cut_short(encode: Callable, turns: int, length: int, cut: int, template: str) -> Iterator[tuple[int, Any, Any]]:
    """(limit, the whole example, the example at that limit), with tools too, and at the limit that fits exactly."""
    options = {"tokenizer": load()} | ({"template": template} if takes(encode, "template") else {})
    offers = "template" in options and template in TAKE_TOOLS and takes(encode, "tools")
    for tools in ({}, {"tools": [tool("find")]}) if offers else ({},):
        whole = encode(_conversation(turns, length), **options, **tools)
        for limit in (cut, len(whole.input_ids)):
            yield limit, whole, encode(_conversation(turns, length), max_length=limit, **options, **tools)


@must(seam="encode", laws=("MK-TRUNC", "MK-LABEL"), floor=50, **CUT)
def a_cut_keeps_the_first_tokens_and_their_labels(encode, turns, length, cut, template):
    """max_length keeps the first tokens with their labels, and puts nothing in place of the rest.

    Ids cut without labels, or an end-of-turn token appended to a sentence that was broken off; an example that fits
    exactly and loses its last token, the end-of-turn; tools that come on top of the length.
    """
    for limit, whole, short in cut_short(encode, turns, length, cut, template):
        yield limit, short.input_ids == whole.input_ids[:limit], f"limit {limit}: other ids than the first"
        yield limit, short.labels == whole.labels[:limit], f"limit {limit}: other labels than the first"


@must(seam="encode", laws=("MK-LABEL",), floor=50, **CUT)
def a_label_is_the_id_in_its_place_or_ignored(encode, turns, length, cut, template):
    """There is a label for each id: the id itself, or -100.

    Labels that were shifted already are shifted once more by the loss.
    """
    for limit, _, short in cut_short(encode, turns, length, cut, template):
        fit = len(short.labels) == len(short.input_ids)
        pairs = zip(short.input_ids, short.labels, strict=False)
        yield limit, fit and all(label in (IGNORE, token) for token, label in pairs), "a label is another id"


@must(seam="encode", laws=("MK-TRUNCDROP",), floor=50, **CUT)
def the_tokens_cut_off_are_counted(encode, turns, length, cut, template):
    """`truncated` is the number of tokens that max_length cuts off.

    Lost in silence, 99.8 % of the tokens of long documents were never missed (trl#4554).
    """
    for limit, whole, short in cut_short(encode, turns, length, cut, template):
        lost = max(0, len(whole.input_ids) - limit)
        yield (
            limit,
            short.truncated == lost,
            f"limit {limit}: {counted(lost, 'token')} cut off, truncated={short.truncated}",
        )


# A turn as its family writes it. Llama-2's have no header: what the user's content stands in is the user's.
TURNS = {
    "chatml": {"header": "<|im_start|>{role}\n", "content": "{said}", "end_of_turn": "<|im_end|>", "separator": "\n"},
    "llama3": {"header": "<|start_header_id|>{role}<|end_header_id|>\n\n", "content": "{said}",
               "end_of_turn": "<|eot_id|>"},
    "llama2 user": {"content": "[INST] {said} [/INST]"},
    "llama2 assistant": {"content": " {said} ", "end_of_turn": "</s>"},
}  # fmt: skip
THOUGHTS = {"chatml/qwen3": "content", "chatml/qwen3-nothink": "header"}  # the part to which the empty ones belong
BOS = re.compile(r"<s>|<\|begin_of_text\|>")  # not asked: who writes it, and whether the first token has a label


def _turn(message: dict, template: str, is_last: bool = False) -> list[tuple[str, str]]:
    """The parts of a turn with their texts, in order."""
    family, role = template.split("/")[0].split(".")[0], message["role"]
    parts = TURNS.get(family) or TURNS[f"{family} {role}"]
    written = [(part, text.format(role=role, said=message["content"])) for part, text in parts.items()]
    thoughts = [(THOUGHTS[template], EMPTY_THOUGHTS)] if is_last and template in THOUGHTS else []
    return [*written[:1], *thoughts, *written[1:]]


def _targets(conversation: list[dict], template: str, policy: str, chosen: dict[str, bool]) -> str:
    """What is trained, as text: the chosen parts of answers; under the policy "every-token" all of every message, and
    the variant's own system turn."""
    every = policy == "every-token"
    turns = [message for message in conversation if every or message["role"] == "assistant"]
    kept = [message for message in (turns[-1:] if policy == "last" else turns) if all(message.get(f, 1) for f in FLAGS)]
    own = [{"role": "system", "content": OWN_SYSTEM[template]}] if every and template in OWN_SYSTEM else []
    parts = [part for message in own for part in _turn(message, template)]
    for message in kept:
        said = {**message, "content": norm(message["content"], template)}
        parts += _turn(said, template, is_last=message is conversation[-1])
    return "".join(text for part, text in parts if every or chosen.get(part, True))


INVERTED = {part: not is_trained for part, is_trained in AS_DEFAULT.items()}
ASKED = [
    {"policy": "all", "flag": "train", "untrained": {5}, "marked": {3}, "chosen": AS_DEFAULT},
    {"policy": "all", "flag": "weight", "untrained": {1}, "marked": {0, 3}, "chosen": INVERTED},
    {"policy": "last", "flag": "weight", "untrained": {5}, "marked": {2}, "chosen": AS_DEFAULT},
    {"policy": "every-token", "flag": "train", "untrained": {2, 5}, "marked": {0}, "chosen": AS_DEFAULT},
]


DRAWN = {
    "given": {
        "template": st.sampled_from(sorted(TEMPLATES)),
        "turns": st.integers(1, 5),
        "length": st.integers(0, 20),
        "policy": st.sampled_from(["all", "last", "every-token"]),
        "flag": st.sampled_from(sorted(FLAGS)),
        "untrained": st.sets(st.integers(0, 9), max_size=4),
        "marked": st.sets(st.integers(0, 9), max_size=4),
        "chosen": st.fixed_dictionaries({part: st.booleans() for part in AS_DEFAULT}),
    },
    "examples": [
        {"template": template, "turns": 3, "length": 0, **asked} for template in sorted(TEMPLATES) for asked in ASKED
    ],
}


def _flagged(conversation: list[dict], flag: str, untrained: set[int], marked: set[int]) -> list[dict]:
    """Messages at some places say that they are not to be trained, and at others that they are."""
    return [
        message | ({flag: FLAGS[flag][place not in untrained]} if place in untrained | marked else {})
        for place, message in enumerate(conversation)
    ]


def _encoded(encode: Callable, conversation: list[dict], template: str, policy: str, chosen: dict[str, Any]) -> Any:
    """The example, with as many of the options as the function has."""
    options: dict = {"template": template} if takes(encode, "template") else {}
    if takes(encode, "conventions"):
        options["conventions"] = Conventions(**chosen)
    return encode([dict(message) for message in conversation], tokenizer=load(), policy=policy, **options)


def _spelling(encode: Callable, conversation: list[dict], template: str, policy: str, chosen: dict, example: Any):
    """Evidence that the targets of an example, decoded, are the text that is spelt by hand."""
    template = template if takes(encode, "template") else "chatml/openai"
    declared = chosen if takes(encode, "conventions") else AS_DEFAULT
    targets = [label for label in example.labels if label != IGNORE]
    text = BOS.sub("", load().decode(targets, skip_special_tokens=False))
    expected = _targets(conversation, template, policy, declared)
    # The newline of the header may merge with one that opens the answer; nothing here opens with a newline.
    yield conversation, text == expected, f"expected {expected!r}, saw {text!r}"


@must(seam="encode", laws=("MK-SPAN", "MK-EOT"), floor=50, **DRAWN)
def targets_spell_what_the_policy_trains(encode, template, turns, length, policy, flag, untrained, marked, chosen):
    """Decoded, the targets are the parts of each answer that policy and conventions train, and nothing besides.

    Counted by another route than the spans: text in, text out (FastChat#2996 drifts by one token a turn), in every
    template. Under the policy "every-token" they are the whole of every message.
    """
    conversation = _conversation(turns, length)
    example = _encoded(encode, conversation, template, policy, chosen)
    yield from _spelling(encode, conversation, template, policy, chosen, example)


@must(seam="encode", laws=("MK-SPAN", "MK-EOT"), floor=50, **DRAWN)
def a_flag_untrains_its_own_message_alone(encode, template, turns, length, policy, flag, untrained, marked, chosen):
    """A message with `"train": false` or `"weight": 0` has no target, true or 1 change nothing, or the flag is refused.

    A flag that untrains the rest of a conversation, or only an assistant's message, or is not read at all.
    """
    conversation = _flagged(_conversation(turns, length), flag, untrained, marked)
    example = value_or_none(_encoded, encode, conversation, template, policy, chosen)
    if example is not None:
        yield from _spelling(encode, conversation, template, policy, chosen, example)


@must(seam="encode", laws=("MK-SPAN",), floor=50, **DRAWN)
def a_token_belongs_to_the_span_it_starts_in(encode, template, turns, length, policy, flag, untrained, marked, chosen):
    """The owner of a token, where it is told, is the span in which the token starts.

    What is trained follows the owners: a drift of one token trains headers and loses ends of turns.
    """
    plain = _conversation(turns, length)
    for conversation in (plain, _flagged(plain, flag, untrained, marked)):
        example = value_or_none(_encoded, encode, conversation, template, policy, chosen)
        if example is None or not hasattr(example, "owners"):
            continue
        lengths = [len(load().decode([token], skip_special_tokens=False)) for token in example.input_ids]
        spans = [example.rendered.spans[owner] for owner in example.owners]
        starts = accumulate(lengths[:-1], initial=0)
        right = [span.start <= start < span.end for span, start in zip(spans, starts, strict=True)]
        wrong = right.index(False) if False in right else None
        yield conversation, all(right), f"token {wrong} starts in another span"
