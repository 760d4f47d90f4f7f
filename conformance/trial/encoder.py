"""A library's hand-written renderer on trial: the properties that read token ids and labels alone.

It gives no text and no spans, and it has no axis for control strings in contents. What needs these is not measured; the
rest is asked with contents that hold no control string. As with a template, the newline after the end-of-turn may be
trained, and a conversation that it refuses is not judged.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

from sftspec.conformance.adapters.encoders import Encoder, Encoding
from sftspec.conformance.trial.judge import Trial, Verdict, reach_verdicts
from sftspec.conformance.trial.template import DECLARED, PREFIX, read_functions, refusals_apart
from sftspec.conformance.trial.template_traits import PROBE, TRAINS_SEPARATOR
from sftspec.golden.loader import load_cases
from sftspec.golden.small_tokenizer import load
from sftspec.masking import IGNORE
from sftspec.properties import Property
from sftspec.properties.cases.template import conversations, plain_text
from sftspec.spans import TemplateError
from sftspec.templates import TEMPLATES

# They compare an answer with its prompt, so a conversation ends with the answer.
INFERENCE = (
    "template/the-prompt-at-inference-opens-the-trained-tokens",
    "template/the-first-token-after-the-prompt-is-a-target",
    "template/every-token-of-the-answer-is-a-target",
)
READS_IDS_ALONE = (
    PREFIX,
    *INFERENCE,
    "template/different-conversations-have-different-tokens",
    "template/one-bos-opens-the-sequence",
    "template/every-answer-ends-in-one-end-of-turn-token",
)


@dataclass(frozen=True)
class EncoderOnTrial:
    """An encoder, as something that has a part to judge."""

    encoder: Encoder
    reasons: Counter[str] = field(default_factory=Counter)
    claims: frozenset[str] = frozenset({"template"})

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def version(self) -> str:
        return self.encoder.version

    @property
    def parts(self) -> dict[str, Callable[..., Any]]:
        return {"encode": self.encode}

    @cached_property
    def habits(self) -> tuple[str, ...]:
        """What it does that the specification leaves to it, found by trying."""
        end = end_of_turn(self.encoder)
        return (TRAINS_SEPARATOR,) if end and separators(self.encoder(PROBE, False), end) else ()

    def encode(
        self,
        messages: list[dict],
        add_generation_prompt: bool = False,
        template: str = "",
        tokenizer: Any = None,
        special_tokens: str = "",
        tokenization: str = "",
    ) -> Encoding:
        """The axes that every property names are its own whatever is named; it takes no other option."""
        try:
            found = self.encoder(messages, add_generation_prompt)
        except TemplateError as error:
            self.reasons[str(error)] += 1
            raise UnsatisfiedAssumption from None
        return without_separators(found, end_of_turn(self.encoder)) if self.habits else found


def texts_of_goldens(encoder: Encoder) -> tuple[int, int, str]:
    """Golden conversations of its variant whose text its tokens spell, as `template_trial.against_goldens` counts them.

    One that it refuses, or that has tools, is not counted.
    """
    equal, differing = 0, []
    for case in load_cases([encoder.variant]) if encoder.tokenizer == "small" else ():
        ends = case.add_generation_prompt or encoder.ends_with in ("", case.messages[-1]["role"])
        if case.text is None or case.tools or not ends:
            continue
        try:
            ids = encoder(case.messages, case.add_generation_prompt).input_ids
        except Exception:  # a library refuses in words of its own
            continue
        if load().decode(ids, skip_special_tokens=False) == case.text:
            equal += 1
        else:
            differing.append(case.id)
    return equal, equal + len(differing), differing[0] if differing else ""


def end_of_turn(encoder: Encoder) -> int | None:
    """The id of the end-of-turn token that it declares."""
    return load().token_to_id(TEMPLATES[encoder.variant].end_of_turn) if encoder.variant else None


def separators(found: Encoding, end: int | None) -> list[int]:
    """The positions of trained white space right after a trained end of turn."""
    pairs = pairwise(found.labels)
    return [
        position
        for position, (before, label) in enumerate(pairs, 1)
        if before == end and label != IGNORE and load().decode([label]).isspace()
    ]


def without_separators(found: Encoding, end: int | None) -> Encoding:
    after = frozenset(separators(found, end))
    labels = [IGNORE if position in after else label for position, label in enumerate(found.labels)]
    return Encoding(found.input_ids, labels)


def put_encoder_on_trial(
    encoder: Encoder,
    chosen: Iterable[Property],
    progress: Callable[[str], None] = lambda text: None,
    max_examples: int = 100,
) -> Trial:
    """The verdicts of the chosen properties of `encode` on a library's renderer."""
    chosen = read_functions(chosen)
    candidate = EncoderOnTrial(encoder)
    trial = Trial(candidate)
    reasons = {item.id: why_not(item, encoder) for item in chosen}
    judged = [specialised(item, encoder) for item in chosen if not reasons[item.id]]
    reach_verdicts(trial, judged, progress, max_examples)
    verdicts = {verdict.property.id: refusals_apart(verdict, candidate.reasons) for verdict in trial.verdicts}
    trial.verdicts = [verdicts.get(item.id) or Verdict(item, "not-measured", reasons[item.id]) for item in chosen]
    return trial


def why_not(item: Property, encoder: Encoder) -> str:
    """Why a property says nothing of an encoder ("" if it does)."""
    if item.id not in READS_IDS_ALONE:
        return "it gives token ids and flags; this reads the text, or an axis that it does not have"
    if not encoder.variant:
        return f"it is no named variant, which would declare: {DECLARED[item.id]}" if item.id in DECLARED else ""
    if item.id == PREFIX and not TEMPLATES[encoder.variant].prefix_preserving:
        return "it rewrites history (thoughts of earlier turns)"
    return ""


def specialised(item: Property, encoder: Encoder) -> Property:
    """The property, asked for one variant, with contents that hold no control string and its own way of cutting."""
    own: dict[str, Any] = {"template": encoder.variant, "tokenization": "whole"}
    own = {name: value for name, value in own.items() if name in (item.given or {})}
    given = {
        **(item.given or {}),
        "messages": conversations(plain_text, "assistant" if item.id in INFERENCE else encoder.ends_with),
    }
    given |= {name: st.just(value) for name, value in own.items()}
    plain = [example for example in item.examples if _is_plain(example["messages"])]
    examples = tuple({**example, **own} for example in plain if example["template"] == encoder.variant)
    return dataclasses.replace(item, given=given, examples=examples)


def _is_plain(messages: list[dict]) -> bool:
    """No control string, and no field beside the content."""
    return "<|" not in str(messages) and all(message.keys() <= {"role", "content"} for message in messages)
