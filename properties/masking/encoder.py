"""Masking, in `encode`: which tokens are labelled, and what a cut keeps.

A run shows what one trainer did with a few hundred conversations. Here hypothesis draws turns, flags, conventions and
every length of truncation for the function itself.
"""

from __future__ import annotations

import re
from itertools import accumulate

from hypothesis import strategies as st

from sftspec.golden.small_tokenizer import load
from sftspec.masking import Conventions
from sftspec.properties import must, takes
from sftspec.properties.cases.template import EMPTY_THOUGHTS, OWN_SYSTEM, TAKE_TOOLS, norm, tool
from sftspec.step import IGNORE
from sftspec.templates import TEMPLATES

FLAGS = {"train": (False, True), "weight": (0, 1)}  # sftspec's own, and OpenAI's
AS_DEFAULT = {"end_of_turn": True, "separator": False, "header": False}


def _talk(turns: int, length: int) -> list[dict]:
    text = "ABC DEF\nGHI "[: length % 12] * (1 + length // 12)
    return [{"role": role, "content": text[: length + turn]} for turn in range(turns) for role in ("user", "assistant")]


@must(seam="encode", laws=("MK-TRUNC", "MK-LABEL", "MK-TRUNCDROP"), floor=50,
      given={"turns": st.integers(1, 4), "length": st.integers(0, 20), "cut": st.integers(1, 90),
             "template": st.sampled_from(sorted(TEMPLATES))},
      examples=[{"turns": 2, "length": 5, "cut": 12, "template": template} for template in sorted(TEMPLATES)],
      )  # fmt: skip
def truncation_cuts_ids_and_labels_together(encode, turns, length, cut, template):
    """max_length keeps the first tokens with their labels and puts nothing in place of the rest; the loss is counted.

    Ids cut without labels, or an end-of-turn token appended to a sentence that was broken off; an example that fits
    exactly and loses its last token, the end-of-turn; tools that come on top of the length.
    """
    options = {"tokenizer": load()} | ({"template": template} if takes(encode, "template") else {})
    offers = "template" in options and template in TAKE_TOOLS and takes(encode, "tools")
    for tools in ({}, {"tools": [tool("find")]}) if offers else ({},):
        options |= tools
        whole = encode(_talk(turns, length), **options)
        for limit in (cut, len(whole.input_ids)):
            short = encode(_talk(turns, length), max_length=limit, **options)
            yield limit, short.input_ids == whole.input_ids[:limit]
            yield limit, short.labels == whole.labels[:limit]
            pairs = zip(short.input_ids, short.labels, strict=True)
            yield limit, all(label in (IGNORE, token) for token, label in pairs)
            yield limit, short.truncated == max(0, len(whole.input_ids) - limit)


# A turn as its family writes it. Llama-2's have no header: what the user's content stands in is the user's.
TURNS = {
    "chatml": {"header": "<|im_start|>{role}\n", "content": "{said}", "end_of_turn": "<|im_end|>", "separator": "\n"},
    "llama3": {"header": "<|start_header_id|>{role}<|end_header_id|>\n\n", "content": "{said}",
               "end_of_turn": "<|eot_id|>"},
    "llama2 user": {"content": "[INST] {said} [/INST]"},
    "llama2 assistant": {"content": " {said} ", "end_of_turn": "</s>"},
}  # fmt: skip
THOUGHTS = {"chatml/qwen3": "content", "chatml/qwen3-nothink": "header"}  # the part to which the empty ones belong
BOS = re.compile(r"<s>|<\|begin_of_text\|>")  # whose it is, and whether the first token has a label, is not asked


def _turn(message: dict, template: str, is_last: bool = False) -> list[tuple[str, str]]:
    """The parts of a turn with their texts, in order."""
    family, role = template.split("/")[0].split(".")[0], message["role"]
    parts = TURNS.get(family) or TURNS[f"{family} {role}"]
    written = [(part, text.format(role=role, said=message["content"])) for part, text in parts.items()]
    thoughts = [(THOUGHTS[template], EMPTY_THOUGHTS)] if is_last and template in THOUGHTS else []
    return [*written[:1], *thoughts, *written[1:]]


def _targets(talk: list[dict], template: str, policy: str, chosen: dict[str, bool]) -> str:
    """What is trained, as text: the chosen parts of answers; under the policy "every-token" all of every message, and
    the system turn that nobody wrote."""
    every = policy == "every-token"
    turns = [message for message in talk if every or message["role"] == "assistant"]
    kept = [message for message in (turns[-1:] if policy == "last" else turns) if all(message.get(f, 1) for f in FLAGS)]
    own = [{"role": "system", "content": OWN_SYSTEM[template]}] if every and template in OWN_SYSTEM else []
    parts = [part for message in own for part in _turn(message, template)]
    for message in kept:
        said = {**message, "content": norm(message["content"], template)}
        parts += _turn(said, template, is_last=message is talk[-1])
    return "".join(text for part, text in parts if every or chosen.get(part, True))


INVERTED = {part: not is_trained for part, is_trained in AS_DEFAULT.items()}
ASKED = [
    {"policy": "all", "flag": "train", "untrained": {5}, "marked": {3}, "chosen": AS_DEFAULT},
    {"policy": "all", "flag": "weight", "untrained": {1}, "marked": {0, 3}, "chosen": INVERTED},
    {"policy": "last", "flag": "weight", "untrained": {5}, "marked": {2}, "chosen": AS_DEFAULT},
    {"policy": "every-token", "flag": "train", "untrained": {2, 5}, "marked": {0}, "chosen": AS_DEFAULT},
]


@must(seam="encode", laws=("MK-SPAN", "MK-EOT"), floor=50,
      given={"template": st.sampled_from(sorted(TEMPLATES)), "turns": st.integers(1, 5), "length": st.integers(0, 20),
             "policy": st.sampled_from(["all", "last", "every-token"]),
             "flag": st.sampled_from(sorted(FLAGS)), "untrained": st.sets(st.integers(0, 9), max_size=4),
             "marked": st.sets(st.integers(0, 9), max_size=4),
             "chosen": st.fixed_dictionaries({part: st.booleans() for part in AS_DEFAULT})},
      examples=[{"template": template, "turns": 3, "length": 0, **asked}
                for template in sorted(TEMPLATES) for asked in ASKED])  # fmt: skip
def targets_spell_the_assistants_turns(encode, template, turns, length, policy, flag, untrained, marked, chosen):
    """Decoded, the targets are the trained answers, each with its end-of-turn token, and nothing besides, but for what
    a convention declares; under the policy "every-token" they are the whole of every message.

    Counted by another route than the spans: text in, text out (FastChat#2996 drifts by one token a turn), in every
    template. A message with `"train": false`, or OpenAI's `"weight": 0`, is not trained, whoever speaks, and true or 1
    change nothing, there and elsewhere; who does not know the flag may refuse it. Where the owner of each token is
    told, it is the span in which the token starts.
    """
    named = {"template": template} if takes(encode, "template") else {}
    spoken = template if named else "chatml/openai"
    plain = _talk(turns, length)
    flagged = [
        message | ({flag: FLAGS[flag][place not in untrained]} if place in untrained | marked else {})
        for place, message in enumerate(plain)
    ]
    conventions = {"conventions": Conventions(**chosen)} if takes(encode, "conventions") else {}
    declared = chosen if conventions else AS_DEFAULT
    for talk in (plain, flagged):
        try:
            given = [dict(message) for message in talk]
            example = encode(given, tokenizer=load(), policy=policy, **named, **conventions)
        except Exception:
            if talk == plain:
                raise
            continue
        targets = [label for label in example.labels if label != IGNORE]
        text = BOS.sub("", load().decode(targets, skip_special_tokens=False))
        expected = _targets(talk, spoken, policy, declared)
        # The newline of the header may merge with one that opens the answer; nothing here opens with a newline.
        yield talk, text == expected, f"expected {expected!r}, saw {text!r}"
        if hasattr(example, "owners"):
            lengths = [len(load().decode([token], skip_special_tokens=False)) for token in example.input_ids]
            starts = accumulate(lengths[:-1], initial=0)
            spans = [example.rendered.spans[owner] for owner in example.owners]
            right = [span.start <= start < span.end for span, start in zip(spans, starts, strict=True)]
            yield talk, all(right), f"token {right.index(False) if False in right else None} starts in another span"
