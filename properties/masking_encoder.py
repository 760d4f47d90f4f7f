"""Masking, in `encode`: which tokens are labelled, and what a cut keeps.

A run shows what one trainer did with a few hundred conversations. Here hypothesis draws turns, flags, conventions and
every length of truncation for the function itself.
"""

from __future__ import annotations

from itertools import accumulate

from hypothesis import strategies as st

from sftspec.golden.small_tokenizer import load
from sftspec.masking import Conventions
from sftspec.properties import must, takes
from sftspec.step import IGNORE
from sftspec.templates import TEMPLATES

FLAGS = {"train": False, "weight": 0}  # sftspec's own, and OpenAI's
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
    exactly and loses its last token, the end-of-turn.
    """
    options = {"tokenizer": load()} | ({"template": template} if takes(encode, "template") else {})
    whole = encode(_talk(turns, length), **options)
    for limit in (cut, len(whole.input_ids)):
        short = encode(_talk(turns, length), max_length=limit, **options)
        yield limit, short.input_ids == whole.input_ids[:limit]
        yield limit, short.labels == whole.labels[:limit]
        yield limit, all(label in (IGNORE, token) for token, label in zip(short.input_ids, short.labels, strict=True))
        yield limit, short.truncated == max(0, len(whole.input_ids) - limit)


def _parts(message: dict) -> dict[str, str]:
    """The parts of a message's turn in ChatML, in order."""
    return {
        "header": f"<|im_start|>{message['role']}\n",
        "content": message["content"],
        "end_of_turn": "<|im_end|>",
        "separator": "\n",
    }


def _targets(talk: list[dict], policy: str, chosen: dict[str, bool]) -> str:
    """What is trained, as text: of every message under the policy "every-token", else the chosen parts of answers."""
    turns = [message for message in talk if policy == "every-token" or message["role"] == "assistant"]
    kept = [message for message in (turns[-1:] if policy == "last" else turns) if message.keys() == {"role", "content"}]
    trained = [part for part in _parts(talk[0]) if policy == "every-token" or chosen.get(part, True)]
    return "".join(_parts(message)[part] for message in kept for part in trained)


@must(seam="encode", laws=("MK-SPAN", "MK-EOT"), floor=50,
      given={"turns": st.integers(1, 5), "length": st.integers(0, 20),
             "policy": st.sampled_from(["all", "last", "every-token"]),
             "flag": st.sampled_from(sorted(FLAGS)), "untrained": st.sets(st.integers(0, 9), max_size=4),
             "chosen": st.fixed_dictionaries({part: st.booleans() for part in AS_DEFAULT})},
      examples=[{"turns": 3, "length": 0, "policy": policy, "flag": flag, "untrained": {5}, "chosen": AS_DEFAULT}
                for policy in ("all", "last") for flag in FLAGS])  # fmt: skip
def targets_spell_the_assistants_turns(encode, turns, length, policy, flag, untrained, chosen):
    """Decoded, the targets are the trained answers, each with its end-of-turn token, and nothing besides, but for what
    a convention declares; under the policy "every-token" they are the whole of every message.

    Counted by another route than the spans: text in, text out (FastChat#2996 drifts by one token a turn). A message
    with `"train": false`, or OpenAI's `"weight": 0`, is not trained; who does not know the flag may refuse it. Where
    the owner of each token is told, it is the span in which the token starts.
    """
    plain = _talk(turns, length)
    flagged = [message | ({flag: FLAGS[flag]} if place in untrained else {}) for place, message in enumerate(plain)]
    conventions = {"conventions": Conventions(**chosen)} if takes(encode, "conventions") else {}
    declared = chosen if conventions else AS_DEFAULT
    for talk in (plain, flagged):
        try:
            example = encode([dict(message) for message in talk], tokenizer=load(), policy=policy, **conventions)
        except Exception:
            if talk == plain:
                raise
            continue
        targets = [label for label in example.labels if label != IGNORE]
        text, expected = load().decode(targets, skip_special_tokens=False), _targets(talk, policy, declared)
        # The newline of the header may merge with one that opens the answer; nothing here opens with a newline.
        yield talk, text == expected, f"expected {expected!r}, saw {text!r}"
        if hasattr(example, "owners"):
            lengths = [len(load().decode([token], skip_special_tokens=False)) for token in example.input_ids]
            starts = accumulate(lengths[:-1], initial=0)
            spans = [example.rendered.spans[owner] for owner in example.owners]
            right = [span.start <= start < span.end for span, start in zip(spans, starts, strict=True)]
            yield talk, all(right), f"token {right.index(False) if False in right else None} starts in another span"
